"""What is rendered, as text. How Asterisk takes it stands in test_asterisk.py."""

import json
from pathlib import Path
from typing import Any

import pytest

from fastagi.agi.prompts import ANSWERS
from fastagi.config import (
    FallbackSettings,
    FastAgiSettings,
    HostPort,
    QueueSettings,
    Settings,
    load,
)
from fastagi.contract import Outcome
from fastagi.dialplan import (
    TRY_AGAIN,
    render_dialplan,
    render_fallback_facts,
    render_manager,
    render_queues,
)

ROOT = Path(__file__).parents[2]


def settings(**sections: Any) -> Settings:
    return Settings.model_validate({"asterisk": {"secret": "s3cret"}, **sections})


@pytest.mark.parametrize(
    ("file", "render"),
    [
        ("agent-features.conf", render_dialplan),
        ("manager.conf.sample", render_manager),
        ("queues.conf.sample", render_queues),
        ("agent-features-fallback.json", render_fallback_facts),
    ],
)
def test_the_files_equal_what_the_sample_configuration_renders(file: str, render: Any) -> None:
    rendered = render(load(ROOT / "config", environ={}))
    assert (ROOT / "dialplan" / file).read_text(encoding="utf-8") == rendered


def test_no_secret_is_rendered() -> None:
    for render in (render_dialplan, render_manager, render_queues, render_fallback_facts):
        assert "s3cret" not in render(settings())


@pytest.mark.parametrize(
    ("listen", "advertise", "called"),
    [
        ("127.0.0.1:4573", None, "agi://127.0.0.1:4573/"),
        ("0.0.0.0:4574", None, "agi://127.0.0.1:4574/"),
        ("[::]:4573", None, "agi://[::1]:4573/"),
        ("[2001:db8::5]:4573", None, "agi://[2001:db8::5]:4573/"),
        ("0.0.0.0:4573", "agents.example.org:14573", "agi://agents.example.org:14573/"),
    ],
)
def test_the_address_that_is_called(listen: str, advertise: str | None, called: str) -> None:
    section = {"listen": listen} | ({"advertise": advertise} if advertise else {})
    assert called in render_dialplan(settings(fastagi=section))


def test_servers_are_tried_in_turn_and_each_once() -> None:
    text = render_dialplan(
        settings(fastagi={"standby": ["10.0.0.6:4573", "127.0.0.1:4573", "10.0.0.7:4573"]})
    )
    calls = [
        line.split("agi://")[1].split("/")[0] for line in text.splitlines() if "agi://" in line
    ]
    assert calls == ["127.0.0.1:4573", "10.0.0.6:4573", "10.0.0.7:4573"]


def test_the_service_and_the_dialplan_say_the_same_when_away() -> None:
    assert ANSWERS[Outcome.UNAVAILABLE] == TRY_AGAIN


def test_codes_of_any_length_are_cut_off_right() -> None:
    text = render_dialplan(settings(feature_codes={"login": "**1", "pause": "#", "status": None}))
    assert (
        "exten => _**1X.,1,Gosub(agent-features-call,s,1(agent/login,${FILTER(0-9*,${EXTEN:3"
        in (text)
    )
    assert (
        "exten => _#X,1,Gosub(agent-features-call,s,1(agent/pause,${FILTER(0-9*,${EXTEN:1" in text
    )
    assert "agent/status" not in text


def test_a_switched_off_login_leaves_no_lamp_of_its_own() -> None:
    text = render_dialplan(settings(feature_codes={"login": None, "toggle_login": None}))
    assert [line for line in text.splitlines() if ",hint," in line] == [
        "exten => _age[n]t-X!,hint,Custom:agent-${FILTER(0-9,${EXTEN})}",
        "exten => _pause-X!,hint,Custom:pause-${FILTER(0-9,${EXTEN})}",
    ]


@pytest.mark.parametrize(
    "hostile",
    [
        "127.0.0.1:1/x,y)\nexten => s,1,System(id)",
        "a,b",
        "a)b",
        "${SHELL(id)}",
        "a b",
        "",
        "a/b",
        "a;b",
    ],
)
def test_a_host_that_could_end_an_argument_is_refused(hostile: str) -> None:
    # The settings refuse it as well; these were made without them.
    fastagi = FastAgiSettings.model_construct(listen=HostPort(hostile, 4573))
    with pytest.raises(ValueError, match="cannot be written"):
        render_dialplan(settings().model_copy(update={"fastagi": fastagi}))


@pytest.mark.parametrize("hostile", ["x]\n[admin", "general", "a;b", "a](b", "a#b", " a", "a\\b"])
def test_a_queue_that_could_end_a_section_is_refused(hostile: str) -> None:
    queue = QueueSettings.model_construct(number="701", name=hostile)
    with pytest.raises(ValueError, match="cannot be written"):
        render_queues(settings().model_copy(update={"queues": (queue,)}))


def test_hostile_codes_sounds_and_users_are_refused() -> None:
    good = settings()
    for update in (
        {"feature_codes": good.feature_codes.model_copy(update={"login": "*31,1,System(id)"})},
        {"prompts": {"UNAVAILABLE": ("a&b)",)}},
        {"fastagi": good.fastagi.model_copy(update={"listen": HostPort("127.0.0.1", 0)})},
    ):
        with pytest.raises(ValueError, match=r"cannot be written|no port"):
            render_dialplan(good.model_copy(update=update))
    user = good.asterisk.model_copy(update={"username": "a]\nsecret=b"})
    with pytest.raises(ValueError, match="cannot be written"):
        render_manager(good.model_copy(update={"asterisks": (user,)}))


@pytest.mark.parametrize(
    ("sections", "permit"),
    [
        ({}, "127.0.0.1/255.255.255.255"),
        ({"asterisk": {"secret": "x", "host": "::1"}}, "::1/128"),
        (
            {
                "asterisk": {"secret": "x", "host": "10.0.0.9"},
                "fastagi": {"listen": "10.0.0.5:4573"},
            },
            "10.0.0.5/255.255.255.255",
        ),
    ],
)
def test_only_the_services_address_is_let_in(sections: dict[str, Any], permit: str) -> None:
    text = render_manager(settings(**sections))
    assert f"permit = {permit} " in text
    assert "deny = 0.0.0.0/0.0.0.0" in text
    assert "deny = ::/0" in text


FALLBACK = {"command": "/opt/f/bin/fastagi-fallback", "facts": "/etc/asterisk/f.json"}


def test_the_fallback_is_run_after_all_servers_and_before_try_again() -> None:
    text = render_dialplan(settings(fastagi={"standby": ["b:1"], "fallback": FALLBACK}))
    steps = [line for line in text.splitlines() if "AGI(" in line or "(away)" in line]
    assert [step.split("AGI(")[-1] for step in steps] == [
        "agi://127.0.0.1:4573/${ARG1},${ARG2},${BLINDTRANSFER}${FORWARDERNAME})",
        "agi://b:1/${ARG1},${ARG2},${BLINDTRANSFER}${FORWARDERNAME})",
        "/opt/f/bin/fastagi-fallback,/etc/asterisk/f.json,${ARG1},${ARG2})",
        " same => n(away),Answer()",
    ]
    assert "Set(AGIEXITONHANGUP=no)" in text.partition("agi://b:1")[2]


@pytest.mark.parametrize("hostile", ["/a,b", "/a)b", "a", "/${SHELL(id)}", "/a b", "/a\n", "/a;b"])
def test_a_path_that_could_end_an_argument_is_refused(hostile: str) -> None:
    for name in ("command", "facts"):
        section = FallbackSettings.model_construct(**{**FALLBACK, name: hostile})
        fastagi = settings().fastagi.model_copy(update={"fallback": section})
        with pytest.raises(ValueError, match="cannot be written as a path"):
            render_dialplan(settings().model_copy(update={"fastagi": fastagi}))


def several(*names: str) -> Settings:
    listed = [
        {"name": name, "secret": "s3cret", "host": f"10.0.0.{n}", "username": f"for-{name}"}
        for n, name in enumerate(names, 1)
    ]
    return Settings.model_validate({"asterisks": listed, "fastagi": {"listen": "10.0.0.9:4573"}})


def test_each_of_several_asterisks_says_which_it_is() -> None:
    text = render_dialplan(several("paris", "lyon"), "lyon")
    assert (
        "AGI(agi://10.0.0.9:4573/${ARG1}?asterisk=lyon,${ARG2},${BLINDTRANSFER}${FORWARDERNAME})"
        in text
    )
    assert "paris" not in text
    assert "[for-paris]" in render_manager(several("paris", "lyon"), "paris")
    facts = {render_fallback_facts(several("paris", "lyon"), name) for name in ("", "lyon")}
    assert len(facts) == 1, "the fallback need not know where it runs"


@pytest.mark.parametrize("render", [render_dialplan, render_manager])
def test_which_asterisk_must_be_said_where_there_are_several(render: Any) -> None:
    with pytest.raises(ValueError, match=r"several Asterisks: name one of paris, lyon"):
        render(several("paris", "lyon"))
    with pytest.raises(ValueError, match=r"no Asterisk is called 'nice': name one of paris"):
        render(several("paris"), "nice")
    for each in (render, render_fallback_facts):
        with pytest.raises(ValueError, match="has no name"):
            each(settings(), "paris")


def test_the_only_one_of_a_list_need_not_be_named() -> None:
    assert "?asterisk=paris" in render_dialplan(several("paris"))


def test_the_one_without_a_name_is_not_named() -> None:
    assert "?asterisk" not in render_dialplan(settings())


def test_a_hostile_name_of_an_asterisk_is_refused() -> None:
    asterisk = settings().asterisk.model_copy(update={"name": "a,b)"})
    with pytest.raises(ValueError, match="cannot be written as a name"):
        render_dialplan(settings().model_copy(update={"asterisks": (asterisk,)}))


def test_the_facts_hold_what_the_fallback_needs_and_no_agent() -> None:
    sample = load(ROOT / "config", environ={"AMI_SECRET": "s3cret"})
    text = render_fallback_facts(sample)
    assert set(json.loads(text)) == {
        "extension_from",
        "codes_from",
        "devices",
        "queues",
        "pause_reasons",
        "prompts",
    }
    for agent in sample.agents or ():
        assert agent.name not in text
    assert text == render_fallback_facts(load(ROOT / "config", agents=False, environ={}))
