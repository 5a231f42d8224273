"""Hooks with everything real: phones, Asterisk, the service as a process and receivers over HTTP,
good ones and bad ones."""

import asyncio
import json
import statistics
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from standardwebhooks import Webhook

from fastagi.agents.hooks import client_secret
from tests.journey.http import TOKEN, Curl
from tests.journey.parts import Desk, Line, Service, until
from tests.outbox.receivers import OK, HttpReceiver, Seen, hang, receiver, status
from tests.outbox.test_webhook import SECRET

pytestmark = pytest.mark.asterisk

MakeService = Callable[..., Service]

ALICE = 136  # agent 4001's id, as in the document
OTHERS = 4  # agents 4011, 4012 …, ids 11, 12 …


def configured(
    make_service: MakeService, alice: dict[str, Any] | None = None, **webhooks: Any
) -> Service:
    """``alice``: what else stands of agent 4001."""
    return make_service(
        http={
            "tokens": {"crm": {"token": TOKEN, "rights": ["read", "control", "configure"]}},
        },
        webhooks={"allow": ["127.0.0.1/32"], "secret": SECRET, "timeout": "1s", **webhooks},
        agents=[
            {"id": ALICE, "number": "4001", "name": "Alice Martin", "queues": ["sales"]}
            | (alice or {}),
            *(
                {"id": 10 + n, "number": str(4010 + n), "name": f"Agent {n}", "queues": ["sales"]}
                for n in range(1, OTHERS + 1)
            ),
        ],
        unplugged=None,
    )


async def ask(service: Service, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """Not from the loop that the receivers are in."""
    curl = Curl(service.http_port)
    answer = await asyncio.to_thread(curl, method, path, None if body is None else json.dumps(body))
    assert answer.status in (200, 204), answer
    return answer.json if answer.body else None


async def hook(
    service: Service,
    url: str,
    event_type: str = "agent-login",
    agent: int = ALICE,
    kind: str = "local",
    **more: Any,
) -> str:
    """Its path."""
    all_of_them = f"/client/12/agent/{kind}/{agent}/event/"
    wanted = {"url": url, "method": "GET", "event_type": event_type} | more
    made = await ask(service, "POST", all_of_them, wanted)
    assert wanted.items() <= made.items()
    return f"{all_of_them}{made['id']}"


async def program(service: Service, action: str, agent: str = "4001", **body: Any) -> None:
    await ask(service, "POST", f"/0.1/agents/by-number/{agent}/{action}", body or None)


def told(seen: Seen) -> dict[str, str]:
    """What the receiver reads, however it came; its signature is right."""
    query = urlsplit(seen.path).query
    signed = query if seen.method == "GET" else seen.body.decode()
    headers = {name: value for name, value in seen.headers.items() if name.startswith("webhook")}
    # For GET and for forms the library is given what was signed; it wants JSON to hand back.
    signer = Webhook(client_secret(SECRET, "12"))  # all hooks here are of this client
    expected = signer.sign(
        headers["webhook-id"],
        datetime.fromtimestamp(int(headers["webhook-timestamp"])).astimezone(),
        signed,
    )
    assert headers["webhook-signature"] == expected
    if seen.method == "GET":
        return dict(parse_qsl(query, keep_blank_values=True))
    if seen.headers["content-type"] == "application/json":
        found: dict[str, str] = signer.verify(seen.body, headers)
        assert found == json.loads(seen.body)
        return found
    return dict(parse_qsl(signed, keep_blank_values=True))


def show(what: str, seen: Seen) -> None:
    print(f"\n{what}: {seen.method} {urlsplit(seen.path).path}")
    print(*(f"  {name} => {value}" for name, value in told(seen).items()), sep="\n")


async def test_the_documents_lines(make_service: MakeService, desk: Any) -> None:
    service = configured(make_service, timeout="30s")
    alice: Desk = await desk("1001")
    async with receiver() as web:
        login = await hook(service, web.url("/fordel/show.php"))
        await hook(service, web.url("/fordel/show.php?shop=7"), "agent-logout")
        json_pause, form_back = web.url("/pause"), web.url("/back")
        await hook(service, json_pause, "agent-pause", method="POST", content_type="json")
        await hook(service, form_back, "agent-unpause", method="POST", content_type="form")
        # Another client's, and for the same agent at an outside number: not told.
        await hook(service, web.url("/remote"), kind="remote")

        async def next_one(what: str) -> dict[str, str]:
            before = len(seen)
            await until(lambda: len(web.seen) > before, what=what)
            seen.append(web.seen[before])
            show(what, web.seen[before])
            return told(web.seen[before])

        seen: list[Seen] = []
        line = {"agent_type": "local", "agent_id": "136", "extension_name": "1001@phones"}
        await alice.dial("*314001")
        came = await next_one("logged in by phone")
        assert came == {"agent_status": "available", "event_source": "phone"} | line
        await alice.dial("*331")
        came = await next_one("paused by phone, JSON")
        paused = {"agent_status": "paused", "pause_reason": "lunch"}
        assert came == paused | {"event_source": "phone"} | line
        await program(service, "unpause")
        came = await next_one("back by the API, a form")
        back = {"agent_status": "available", "pause_reason": "lunch"}
        assert came == back | {"event_source": "api"} | line
        await alice.dial("*32")
        came = await next_one("logged off by phone")
        off = {"agent_status": "logged_out", "event_source": "phone", "shop": "7"}
        assert came == off | line
        await program(service, "login", extension="1001", context="phones")
        came = await next_one("logged in by the API")
        assert came == {"agent_status": "available", "event_source": "api"} | line
        # As in the document: all of it, and no more.
        document = ("agent_status", "agent_type", "event_source", "agent_id", "extension_name")
        assert tuple(came) == document

        events = service.events()
        assert [s.headers["webhook-id"] for s in web.seen] == [event["id"] for event in events]
        result = await ask(service, "POST", f"{login}/test")
        print(f"\nPOST {login}/test: {result}")
        assert (result["delivered"], result["status"]) == (True, 200)
        assert told(web.seen[-1]) == came
        log = await ask(service, "GET", f"{login}/deliveries")
        print(f"GET {login}/deliveries: {log}")
        assert log["parked"] == 0
        assert [d["event_id"] for d in log["deliveries"]] == [events[4]["id"], events[0]["id"]]
        assert {(d["outcome"], d["status"], d["attempt"]) for d in log["deliveries"]} == {
            ("delivered", 200, 1)
        }


async def test_a_remote_agent(make_service: MakeService, desk: Any, asterisk: Any) -> None:
    """An agent at an outside number, where another phone of the house stands for the world."""
    before = asterisk.more_dialplan
    asterisk.more_dialplan += "\n[outbound](+)\nexten => 0555123,1,Dial(PJSIP/1006,30)\n"
    try:
        # which also has Asterisk read its dialplan
        service = configured(make_service, {"pin": "4321", "outside": ["0555123"]}, timeout="30s")
        phone: Desk = await desk("1001")
        outside: Desk = await desk("1006")
        caller: Desk = await desk("1005")
        async with receiver() as web:
            await hook(service, web.url("/in"), kind="remote")
            await hook(service, web.url("/out"), "agent-logout", kind="remote", method="POST")
            await hook(service, web.url("/never"))  # at phones in the house alone
            heard = await phone.dial("*314001*0555123", ("agent-pass", "4321#"))
            assert (heard.outcome, heard.extension) == ("LOGGED_IN", "0555123")
            assert service.members()["sales"] == {"Local/0555123@outbound/n"}
            await until(lambda: web.seen)
            show("a remote agent by phone", web.seen[0])
            line = {"agent_type": "remote", "agent_id": "136", "agent_number": "0555123"}
            assert told(web.seen[0]) == line | {
                "agent_status": "available",
                "event_source": "phone",
            }
            call = await caller.phone.dial("701")
            await outside.phone.wait_answered()
            assert call.active
            assert not phone.phone.ringing
            assert "!outbound!0555123!" in asterisk.cli("core show channels concise")
            await caller.phone.hangup()
            await program(service, "logoff")
            await until(lambda: len(web.seen) == 2)
            show("logged off by the API", web.seen[1])
            assert told(web.seen[1]) == line | {"agent_status": "logged_out", "event_source": "api"}
            assert [urlsplit(seen.path).path for seen in web.seen] == ["/in", "/out"]
    finally:
        asterisk.more_dialplan = before
        asterisk.reload("dialplan")


async def code(service: Service, script: str, digits: str, extension: str) -> float:
    """A call to a feature code; seconds."""
    began = time.monotonic()
    outcome = await (await Line.to(service.port)).call(script, digits, extension)
    assert outcome in ("LOGGED_IN", "LOGGED_OFF", "PAUSED", "UNPAUSED"), outcome
    return time.monotonic() - began


async def codes(service: Service) -> list[float]:
    """A round of all: ten calls of each of the others' agents."""
    took = []
    for n in range(1, OTHERS + 1):
        number, extension = str(4010 + n), f"100{n + 1}"
        for script, digits in (
            ("login", number),
            ("pause", "1"),
            ("unpause", ""),
            ("pause", "2"),
            ("unpause", ""),
            ("logoff", ""),
        ):
            took.append(await code(service, script, digits, extension))
    return took


def times(took: list[float]) -> str:
    worst = max(took)
    return f"median {statistics.median(took) * 1000:.1f} ms, worst {worst * 1000:.1f} ms"


async def test_bad_receivers(make_service: MakeService) -> None:
    """One answers 500 for a while, one for ever, one hangs, one redirects to loopback: others are
    told as if these were not there, and phones, too."""
    service = configured(make_service, attempts=2)
    calm = await codes(service)
    events = len(service.events())
    per_round = len(calm)

    async with (
        receiver(status(500), OK) as sick,
        receiver(status(500)) as dead,
        receiver(hang) as hung,
        receiver() as inside,
        receiver(status(302, f"Location: {inside.url('/secret')}")) as away,
        receiver() as good,
    ):
        agent = 11
        everywhere: dict[str, HttpReceiver] = {
            "500, then well": sick,
            "500": dead,
            "hangs": hung,
            "redirects": away,
            "good": good,
        }
        paths = {
            name: await hook(service, web.url(), "agent-pause", agent)
            for name, web in everywhere.items()
        }
        took = await codes(service)
        print(f"\ncodes without hooks: {times(calm)}\ncodes with bad ones: {times(took)}")
        # Two pauses of agent 4011: told at once to who is there.
        owed = [e["id"] for e in service.events("agent-pause") if e["agent"] == "4011"][-2:]
        await until(lambda: len(good.seen) == 2, what="the good one is told")
        assert [seen.headers["webhook-id"] for seen in good.seen] == owed
        assert len(service.events()) == events + per_round

        async def log(name: str) -> dict[str, Any]:
            found: dict[str, Any] = await ask(service, "GET", f"{paths[name]}/deliveries")
            return found

        for name in ("500", "hangs", "redirects"):
            while (await log(name))["parked"] < 2:
                took += [await code(service, "login", "4012", "1003")]
                took += [await code(service, "logoff", "", "1003")]
                await asyncio.sleep(0.2)
        print(f"codes until all was parked: {len(took)}, {times(took)}")
        why = {
            "500": (500, "the receiver answered 500"),
            "hangs": (None, "no answer within 1 s"),
            "redirects": (302, "redirects are not followed (302)"),
        }
        for name in paths:
            attempts = (await log(name))["deliveries"]
            print(f"{name}:")
            for one in reversed(attempts):
                print(
                    f"  {one['at'][14:23]} event …{one['event_id'][-8:]} attempt {one['attempt']}"
                    f" {one['status']} {one['error']!r} after {one['seconds']} s: {one['outcome']}"
                )
            if name in why:
                assert [a["outcome"] for a in attempts] == ["parked", "failed"] * 2
                assert {(a["status"], a["error"]) for a in attempts} == {why[name]}
                assert [a["event_id"] for a in reversed(attempts)] == [
                    id for id in owed for _ in range(2)
                ]
        assert [a["outcome"] for a in (await log("500, then well"))["deliveries"]] == [
            "delivered",
            "delivered",
            "failed",
        ]
        ids = [seen.headers["webhook-id"] for seen in sick.seen]
        assert ids == [owed[0], owed[0], owed[1]]  # the same again, and the next one waits for it
        assert inside.seen == []

        parked = [json.loads(row) for row in service.fastagi(*SHOW_PARKED).splitlines()]
        print(service.fastagi("events", "--parked"))
        assert len(parked) == 6
        assert {row["event"] for row in parked} == set(owed)
        assert all(row["sink"].startswith("hook ") for row in parked)
        figures = (await asyncio.to_thread(Curl(service.http_port), "GET", "/metrics")).body
        hooks = [line for line in figures.splitlines() if "hook" in line and line[0] != "#"]
        print(*(line for line in hooks if "created" not in line), sep="\n")
        assert 'fastagi_outbox_parked{sink="hook"} 6.0' in hooks
        assert 'fastagi_hook_deliveries_total{outcome="parked"} 6.0' in hooks
        assert 'fastagi_hook_deliveries_total{outcome="delivered"} 4.0' in hooks
        dead.answers = (OK,)
        before = len(dead.seen)
        assert await ask(service, "POST", f"{paths['500']}/retry") == {"retried": 2}
        await until(lambda: len(dead.seen) == before + 2, what="what was parked is sent")
        assert [s.headers["webhook-id"] for s in dead.seen[before:]] == owed
        # Marked after the answer.
        left = 4
        await until(lambda: len(service.fastagi(*SHOW_PARKED).splitlines()) == left)
        assert (await log("500"))["parked"] == 0


SHOW_PARKED = ("events", "--parked", "--json")


async def test_killed_in_the_middle(make_service: MakeService) -> None:
    """Told at least once, in order, the same event under the same id."""
    # However long the codes take meanwhile, the third request does not run out of time.
    service = configured(make_service, attempts=50, timeout="50s")
    release = asyncio.Event()

    async def slow(seen: Seen, writer: asyncio.StreamWriter) -> bytes | None:
        """It has the request when the service is killed; then it answers."""
        if len(web.seen) == 3:
            release.set()
            await seen.reader.read()
            return None
        return OK

    async with receiver(slow) as web, receiver() as other:
        await hook(service, web.url(), "agent-pause", 11)
        await hook(service, other.url(), "agent-unpause", 11, method="POST")
        await code(service, "login", "4011", "1002")

        async def pauses(count: int) -> None:
            for _ in range(count):
                await code(service, "pause", "1", "1002")
                await code(service, "unpause", "", "1002")

        await pauses(6)
        await asyncio.wait_for(release.wait(), 60)
        service.kill()
        assert len(web.seen) == 3
        await asyncio.to_thread(service.start)
        await pauses(3)
        expected = {
            type: [event["id"] for event in service.events(type)]
            for type in ("agent-pause", "agent-unpause")
        }
        assert [len(ids) for ids in expected.values()] == [9, 9]

        def came(of: HttpReceiver) -> list[str]:
            return [seen.headers["webhook-id"] for seen in of.seen]

        await until(lambda: came(web)[-1] == expected["agent-pause"][-1], within=30)
        await until(lambda: set(came(other)) == set(expected["agent-unpause"]), within=30)
        for of, ids in ((web, expected["agent-pause"]), (other, expected["agent-unpause"])):
            assert list(dict.fromkeys(came(of))) == ids  # in order
            assert came(of) == sorted(came(of), key=ids.index)  # a repeated one at once
            print(f"\n{len(ids)} events, told {len(of.seen)} times")
        again = came(web).index(expected["agent-pause"][2])
        first, second = web.seen[again], web.seen[again + 1]
        assert first.headers["webhook-id"] == second.headers["webhook-id"]
        assert (told(first), first.path) == (told(second), second.path)
