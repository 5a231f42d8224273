"""Every code in both forms, dialled whole and as a dialogue, in English and in French."""

from typing import Any

import pytest

from fastagi.agi import prompts
from fastagi.contract import Outcome
from tests.journey.parts import Desk, Service

O = Outcome  # noqa: E741 - the table below is read, not typed

Steps = tuple[tuple[str, str], ...]

# what is dialled, the keys pressed at each prompt, the outcome, (agent, extension, reason) as the
# dialplan sees them, and the sales queue afterwards. A row goes on where the one before ended.
DAYS: dict[str, list[tuple[str, Steps, Outcome, tuple[str, str, str], set[str]]]] = {
    "with the digits": [
        ("*314001", (), O.LOGGED_IN, ("4001", "1001", ""), {"PJSIP/1001"}),
        ("*331", (), O.PAUSED, ("4001", "1001", "lunch"), {"PJSIP/1001 paused:lunch"}),
        ("*35", (), O.STATUS_TOLD, ("4001", "1001", "lunch"), {"PJSIP/1001 paused:lunch"}),
        ("*34", (), O.UNPAUSED, ("4001", "1001", ""), {"PJSIP/1001"}),
        ("*36702", (("agent-loggedoff", "1"),), O.QUEUE_LEFT, ("4001", "1001", ""), {"PJSIP/1001"}),
        ("*36702", (), O.QUEUE_JOINED, ("4001", "1001", ""), {"PJSIP/1001"}),
        ("*324001", (), O.LOGGED_OFF, ("4001", "1001", ""), set()),
        ("*314001*1002", (), O.LOGGED_IN, ("4001", "1002", ""), {"PJSIP/1002"}),
        ("*324001", (), O.LOGGED_OFF, ("4001", "1002", ""), set()),
    ],
    "asked for everything": [
        ("*31", (("agent-user", "4001#"),), O.LOGGED_IN, ("4001", "1001", ""), {"PJSIP/1001"}),
        (
            "*33",
            (("dictate/pause", "9"), ("conf-errormenu", "2")),
            O.PAUSED,
            ("4001", "1001", "break"),
            {"PJSIP/1001 paused:break"},
        ),
        ("*34", (), O.UNPAUSED, ("4001", "1001", ""), {"PJSIP/1001"}),
        (
            "*36",
            (("vm-press", "701"), ("vm-last", ""), ("agent-loggedoff", "1")),
            O.QUEUE_LEFT,
            ("4001", "1001", ""),
            set(),
        ),
        ("*36", (("vm-press", "701"),), O.QUEUE_JOINED, ("4001", "1001", ""), {"PJSIP/1001"}),
        ("*32", (), O.LOGGED_OFF, ("4001", "1001", ""), set()),
        (
            "*31",
            (("agent-user", "9999#"), ("agent-incorrect", "4001*1002#")),
            O.LOGGED_IN,
            ("4001", "1002", ""),
            {"PJSIP/1002"},
        ),
    ],
    "toggles": [
        ("*304001", (), O.LOGGED_IN, ("4001", "1001", ""), {"PJSIP/1001"}),
        ("*391", (), O.PAUSED, ("4001", "1001", "lunch"), {"PJSIP/1001 paused:lunch"}),
        ("*39", (), O.UNPAUSED, ("4001", "1001", ""), {"PJSIP/1001"}),
        (
            "*39",
            (("dictate/pause", "3"),),
            O.PAUSED,
            ("4001", "1001", "meeting"),
            {"PJSIP/1001 paused:meeting"},
        ),
        ("*391", (), O.UNPAUSED, ("4001", "1001", ""), {"PJSIP/1001"}),
        ("*30", (), O.LOGGED_OFF, ("4001", "1001", ""), set()),
        ("*30", (("agent-user", "4001#"),), O.LOGGED_IN, ("4001", "1001", ""), {"PJSIP/1001"}),
        ("*304001", (), O.LOGGED_OFF, ("4001", "1001", ""), set()),
    ],
    # whoever has a PIN is asked for it where it is not the agent's own phone
    "with a PIN": [
        ("*314006", (("agent-pass", "4321#"),), O.LOGGED_IN, ("4006", "1001", ""), {"PJSIP/1001"}),
        ("*32", (), O.LOGGED_OFF, ("4006", "1001", ""), set()),
        (
            "*31",
            (("agent-user", "4006*1002#"), ("agent-pass", "4321#")),
            O.LOGGED_IN,
            ("4006", "1002", ""),
            {"PJSIP/1002"},
        ),
        ("*324006", (("agent-pass", "4321#"),), O.LOGGED_OFF, ("4006", "1002", ""), set()),
    ],
}


@pytest.mark.parametrize("day", DAYS)
async def test_a_day_of_codes(day: str, service: Service, desk: Any) -> None:
    phone = await desk("1001")
    for code, steps, outcome, variables, sales in DAYS[day]:
        answer = next(iter(prompts.ANSWERS[outcome]), "")
        heard = await phone.dial_patiently(code, *steps, answer=answer)
        assert (code, heard.outcome) == (code, outcome)
        assert (code, (heard.agent, heard.extension, heard.reason)) == (code, variables)
        assert (code, service.members()["sales"]) == (code, sales)
        service.agrees()
    assert {event["source"] for event in service.events()} == {"phone"}
    actors = [event["actor"] for event in service.events()]
    assert all(a["channel"].startswith("PJSIP/1001-") and a["unique_id"] for a in actors)
    assert {actor["caller_id"] for actor in actors} == {"1001"}


async def test_penalty_and_member_name_arrive(service: Service, desk: Any, asterisk: Any) -> None:
    await (await desk("1001")).dial("*314001")
    assert "Agent/4001 (PJSIP/1001) with penalty 2 " in asterisk.cli("queue show support")
    assert "penalty" not in asterisk.cli("queue show sales")


# -- languages --------------------------------------------------------------------------------


def languages(heard: Any) -> list[tuple[str, str]]:
    return [(played.sound, played.language) for played in heard.played]


async def test_a_french_agent_hears_french_at_an_english_phone(service: Service, desk: Any) -> None:
    phone: Desk = await desk("1001")
    assert languages(await phone.dial("*314004")) == [("agent-loginok", "fr")]
    for code, steps in (
        ("*33", (("dictate/pause", "1"),)),
        ("*35", ()),
        ("*36703", (("agent-loggedoff", "#"),)),
        ("*34", ()),
        ("*34", ()),
        ("*338", (("dictate/pause", "#"),) * 3),
        ("*314004", ()),
        ("*32", ()),
    ):
        heard = await phone.dial(code, *steps)
        assert heard.sounds
        assert (code, heard.languages) == (code, {"fr"})
    # nobody is logged in here any more: the phone's own language
    sounds = prompts.ANSWERS[Outcome.NOT_LOGGED_IN]
    assert languages(await phone.dial("*34")) == [(sound, "en") for sound in sounds]


async def test_pin_prompts_are_in_the_agents_language(service: Service, desk: Any) -> None:
    phone = await desk("1001")
    heard = await phone.dial(
        "*31", ("agent-user", "4006#"), ("agent-pass", "1#"), ("auth-incorrect", "4321#")
    )
    assert languages(heard) == [
        ("agent-user", "en"),  # who it will be is not known yet
        ("agent-pass", "fr"),
        ("auth-incorrect", "fr"),
        ("agent-loginok", "fr"),
    ]
    english = await (await desk("1002")).dial(
        "*31", ("agent-user", "4003#"), ("agent-pass", "4321#")
    )
    assert languages(english) == [  # 1002 is a French phone
        ("agent-user", "fr"),
        ("agent-pass", "en"),
        ("agent-loginok", "en"),
    ]


async def test_the_admins_own_sounds(make_service: Any, desk: Any) -> None:
    make_service(prompts={"LOGGED_IN": ["vm-saved", "auth-thankyou"], "NOT_PAUSED": "vm-no"})
    phone = await desk("1001")
    assert (await phone.dial("*314001")).sounds == ["vm-saved", "auth-thankyou"]
    assert (await phone.dial("*34")).sounds == ["vm-no"]


async def test_a_sound_that_is_missing_is_not_silence(make_service: Any, desk: Any) -> None:
    service = make_service(prompts={"LOGGED_IN": "no-such-sound"})
    heard = await (await desk("1001")).dial("*314001")
    assert (heard.sounds, heard.outcome) == (["beeperr"], "LOGGED_IN")
    assert service.logged("a sound file is missing")


# -- the settings ---------------------------------------------------------------------------


async def test_codes_of_ones_own(make_service: Any, desk: Any) -> None:
    make_service(feature_codes={"login": "*77", "logoff": None})
    phone = await desk("1001")
    assert (await phone.dial("*774001")).outcome == "LOGGED_IN"


async def test_move_without_asking_and_take_over(make_service: Any, desk: Any) -> None:
    service = make_service(login={"already_elsewhere": "move", "in_use_by_another": "take_over"})
    first, second = await desk("1001"), await desk("1003")
    await first.dial("*314001")
    assert (await second.dial("*314001")).outcome == "MOVED"
    assert (await second.dial("*314002")).outcome == "LOGGED_IN"
    assert service.members()["sales"] == {"PJSIP/1003"}
    service.agrees()
    assert [(e["type"], e["agent"], e["extension"], e["reason"]) for e in service.events()] == [
        ("agent-login", "4001", "1001", ""),
        ("agent-logout", "4001", "1001", "moved"),
        ("agent-login", "4001", "1003", "moved"),
        ("agent-logout", "4001", "1003", "taken over"),
        ("agent-login", "4002", "1003", ""),
    ]


async def test_refuse_to_move(make_service: Any, desk: Any) -> None:
    service = make_service(login={"already_elsewhere": "refuse"})
    await (await desk("1001")).dial("*314001")
    heard = await (await desk("1003")).dial("*314001")
    assert heard.outcome == "LOGGED_IN_ELSEWHERE"
    assert "pbx-transfer" not in heard.sounds, "nothing is offered"
    assert [e["reason"] for e in service.events("login-refused")] == ["LOGGED_IN_ELSEWHERE"]


async def test_no_answer_to_the_question_is_no_move(service: Service, desk: Any) -> None:
    await (await desk("1001")).dial("*314001")
    heard = await (await desk("1003")).dial("*314001", ("pbx-transfer", "#"))
    assert heard.outcome == "LOGGED_IN_ELSEWHERE"
    assert service.members()["sales"] == {"PJSIP/1001"}


async def test_extension_from_the_caller_id(make_service: Any, asterisk: Any, desk: Any) -> None:
    service = make_service(login={"extension_from": "caller_id"})
    asterisk.features += "\n[phones](+)\nexten => 610,1,Set(CALLERID(num)=1005)\n"
    asterisk.features += " same => n,Goto(*314001,1)\n"
    asterisk.reload("dialplan")
    phone = await desk("1001")
    await phone.phone.dial("610")
    await phone.phone.wait_closed()
    assert service.members()["sales"] == {"PJSIP/1005"}
