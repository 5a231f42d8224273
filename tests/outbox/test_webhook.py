"""Hooks against real receivers on loopback."""

import asyncio
import base64
import json
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

import hypothesis
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from standardwebhooks import Webhook, WebhookVerificationError
from structlog.testing import capture_logs

from fastagi.agents.events import Event
from fastagi.agents.hooks import HookDelivery, client_secret
from fastagi.contract import EventType, Source
from fastagi.outbox.hooks import HookDispatcher, Pace

from .parts import event, now, until
from .receivers import (
    DEAF,
    EMPTY,
    OK,
    QUICK,
    HookMemory,
    Seen,
    drip,
    hang,
    hook,
    receiver,
    reset,
    settings,
    status,
    telling,
)

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789").decode()


@pytest.fixture
def memory() -> HookMemory:
    return HookMemory()


def login(type: EventType = EventType.LOGIN, **more: Any) -> Event:
    """The document's example."""
    values: dict[str, Any] = {
        "extension": "000*094",
        "context": "ringme.ru",
        "source": Source.API,
    }
    return event(type=type, **(values | more))


def _ids(seen: list[Seen]) -> list[str]:
    return [one.headers["webhook-id"] for one in seen]


async def test_get_gives_the_documents_lines_in_the_query(memory: HookMemory) -> None:
    async with receiver() as there, telling(memory, pace=DEAF):
        happened = login()
        memory.owe(hook(there.url("/fordel/show.php")), happened)
        await until(lambda: memory.log)
    (seen,) = there.seen
    path, _, query = seen.path.partition("?")
    assert (seen.method, path) == ("GET", "/fordel/show.php")
    assert parse_qsl(query) == [
        ("agent_status", "available"),
        ("agent_type", "local"),
        ("event_source", "api"),
        ("agent_id", "136"),
        ("extension_name", "000*094@ringme.ru"),
    ]
    assert list(seen.headers) == ["host", "user-agent", "accept", "webhook-id", "webhook-timestamp"]
    assert seen.headers["host"] == f"127.0.0.1:{there.port}"
    assert seen.headers["user-agent"].startswith("fastagi-agentd/")
    assert seen.headers["accept"] == "*/*"
    assert seen.headers["webhook-id"] == happened.id
    assert not memory.owed
    attempt = memory.log[0][1]
    assert (attempt.status, attempt.error, attempt.number) == (200, "", 1)
    assert (attempt.event_id, attempt.event_type) == (happened.id, EventType.LOGIN)


async def test_get_keeps_the_urls_own_query(memory: HookMemory) -> None:
    async with receiver() as there, telling(memory):
        memory.owe(hook(there.url("/hook?key=a%20b&agent_id=x")), login())
        await until(lambda: memory.log)
    assert there.seen[0].path.startswith("/hook?key=a%20b&agent_id=x&agent_status=available&")


async def test_post_json_exactly(memory: HookMemory) -> None:
    async with receiver() as there, telling(memory):
        memory.owe(
            hook(there.url("/hook?k=1"), method="POST", event_type=EventType.PAUSE),
            login(EventType.PAUSE, reason='Déjeuner, "long" & 1/2'),
        )
        await until(lambda: memory.log)
    (seen,) = there.seen
    assert (seen.method, seen.path) == ("POST", "/hook?k=1")
    assert seen.headers["content-type"] == "application/json"
    assert (
        seen.body
        == (
            '{"agent_status":"paused","agent_type":"local","event_source":"api","agent_id":"136",'
            '"extension_name":"000*094@ringme.ru","pause_reason":"Déjeuner, \\"long\\" & 1/2"}'
        ).encode()
    )


async def test_post_form_exactly_for_a_remote_agent(memory: HookMemory) -> None:
    async with receiver() as there, telling(memory):
        told = hook(
            there.url(),
            method="POST",
            content_type="form",
            agent_type="remote",
            event_type=EventType.LOGOUT,
        )
        happened = event(
            type=EventType.LOGOUT, extension="+79161234567", context="", device_type="remote"
        )
        memory.owe(told, happened)
        await until(lambda: memory.log)
    (seen,) = there.seen
    assert seen.headers["content-type"] == "application/x-www-form-urlencoded"
    assert seen.body == (
        b"agent_status=logged_out&agent_type=remote&event_source=phone&agent_id=136"
        b"&agent_number=%2B79161234567"
    )


@pytest.mark.parametrize(
    ("method", "content_type"), [("GET", "json"), ("POST", "json"), ("POST", "form")]
)
async def test_what_is_sent_is_signed(memory: HookMemory, method: str, content_type: str) -> None:
    async with receiver() as there, telling(memory, settings(secret=SecretStr(SECRET))):
        memory.owe(
            hook(there.url("/hook?k=%C3%A9"), method=method, content_type=content_type),
            login(extension="Zoë"),
        )
        await until(lambda: memory.log)
    (seen,) = there.seen
    said = seen.body if method == "POST" else seen.path.partition("?")[2].encode()
    own = client_secret(SECRET, "12")
    Webhook(own).verify(said, seen.headers, json_parse=False)
    with pytest.raises(WebhookVerificationError):
        Webhook(own).verify(said + b" ", seen.headers, json_parse=False)


async def test_what_one_client_got_verifies_at_no_other(memory: HookMemory) -> None:
    """The same event to receivers of two clients: one of them plays it to the other."""
    signing = settings(secret=SecretStr(SECRET))
    async with receiver() as one, receiver() as other, telling(memory, signing):
        happened = login()
        memory.owe(hook(one.url(), method="POST", client="one"), happened)
        memory.owe(hook(other.url(), method="POST", client="other"), happened)
        await until(lambda: len(memory.log) == 2)
    (got,), (other_got,) = one.seen, other.seen
    assert (got.body, got.headers["webhook-id"]) == (
        other_got.body,
        other_got.headers["webhook-id"],
    )
    Webhook(client_secret(SECRET, "one")).verify(got.body, got.headers, json_parse=False)
    for secret in (client_secret(SECRET, "other"), SECRET):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(got.body, got.headers, json_parse=False)


async def test_while_receivers_change_to_their_own_secret(memory: HookMemory) -> None:
    """With ``shared_secret`` those who know the one in the settings go on as before."""
    both = settings(secret=SecretStr(SECRET), shared_secret=True)
    async with receiver() as there, telling(memory, both):
        memory.owe(hook(there.url(), method="POST"), login())
        await until(lambda: memory.log)
    (seen,) = there.seen
    for secret in (SECRET, client_secret(SECRET, "12")):
        Webhook(secret).verify(seen.body, seen.headers, json_parse=False)


async def test_no_secret_no_signature(memory: HookMemory) -> None:
    async with receiver() as there, telling(memory):
        memory.owe(hook(there.url(), method="POST"), login())
        await until(lambda: memory.log)
    assert "webhook-signature" not in there.seen[0].headers


async def test_what_fails_is_tried_again_with_the_same_id(memory: HookMemory) -> None:
    counted: list[str] = []
    async with (
        receiver(status(500), status(503), OK) as there,
        telling(memory, pace=DEAF, counted=counted.append),
    ):
        happened = login()
        memory.owe(hook(there.url()), happened)
        await until(lambda: len(memory.log) == 3)
    assert _ids(there.seen) == [happened.id] * 3
    assert [
        (attempt.number, attempt.status, attempt.error, attempt.outcome)
        for _, attempt in memory.log
    ] == [
        (1, 500, "the receiver answered 500", "failed"),
        (2, 503, "the receiver answered 503", "failed"),
        (3, 200, "", "delivered"),
    ]
    assert counted == ["failed", "failed", "delivered"]


async def test_the_order_of_a_hook_is_kept_over_a_failure(memory: HookMemory) -> None:
    async with receiver(OK, status(500), status(500), EMPTY) as there, telling(memory, pace=DEAF):
        events = [login() for _ in range(12)]
        memory.owe(hook(there.url()), *events)
        await until(lambda: not memory.owed)
    wanted = [one.id for one in events]
    assert _ids(there.seen) == [wanted[0], wanted[1], wanted[1], *wanted[1:]]


async def test_one_connection_carries_many(memory: HookMemory) -> None:
    long = b"HTTP/1.1 200 OK\r\nContent-Length: 4000\r\n\r\n" + b"x" * 4000
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    async with receiver(OK, EMPTY, long, chunked, status(400)) as there, telling(memory, pace=DEAF):
        memory.owe(hook(there.url()), *[login() for _ in range(5)])
        await until(lambda: len(there.seen) >= 6)
    assert there.connections == 1


async def test_hosts_and_ports_are_never_mixed(memory: HookMemory) -> None:
    async with receiver() as one, receiver() as other, telling(memory):
        for _ in range(3):
            memory.owe(hook(one.url("/one")), login())
            memory.owe(hook(other.url("/other")), login())
            await until(lambda: not memory.owed)
    assert {seen.path.partition("?")[0] for seen in one.seen} == {"/one"}
    assert {seen.path.partition("?")[0] for seen in other.seen} == {"/other"}
    assert [seen.headers["host"] for seen in other.seen] == [f"127.0.0.1:{other.port}"] * 3


async def test_a_kept_connection_that_was_closed_fails_nothing(memory: HookMemory) -> None:
    async def close(seen: Seen, writer: asyncio.StreamWriter) -> bytes | None:
        """As a server whose keep-alive ends in the moment in which the next request comes."""
        return None if seen.connection == 1 and len(there.seen) > 1 else OK

    async with receiver(close) as there, telling(memory, pace=DEAF):
        told = hook(there.url())
        for _ in range(2):
            memory.owe(told, login())
            await until(lambda: not memory.owed)
    assert memory.outcomes() == ["delivered", "delivered"]
    assert len(there.seen) == 3
    assert there.connections == 2


async def test_who_hangs_holds_up_nobody_else(memory: HookMemory) -> None:
    async with (
        receiver(hang) as dead,
        receiver() as good,
        telling(memory, settings(timeout=timedelta(seconds=50)), replace(DEAF, grace=0)),
    ):
        stuck, goes = hook(dead.url()), hook(good.url())
        memory.owe(stuck, login(), login())
        await until(lambda: dead.seen)
        events = [login() for _ in range(20)]
        for happened in events:
            memory.owe(goes, happened)
        await until(lambda: len(memory.log) == 20)
        assert memory.outcomes(stuck.id) == []
    assert len(dead.seen) == 1
    assert _ids(good.seen) == [one.id for one in events]
    assert [row.delivery.hook for row in memory.owed] == [stuck, stuck]


async def test_a_host_with_no_place_left_takes_none_of_others(memory: HookMemory) -> None:
    pace = replace(DEAF, places=6, places_per_host=2, grace=0)
    async with (
        receiver(hang) as dead,
        receiver() as good,
        telling(memory, settings(timeout=timedelta(seconds=50)), pace),
    ):
        for _ in range(40):
            memory.owe(hook(dead.url()), login())
        await until(lambda: len(dead.seen) == 2)
        for _ in range(10):
            memory.owe(hook(good.url()), login())
        await until(lambda: len(memory.log) == 10)
        assert len(dead.seen) == 2
    assert len(good.seen) == 10
    assert len(memory.owed) == 40


async def test_all_hooks_of_a_busy_host_get_their_turn(memory: HookMemory) -> None:
    most, present = 0, 0

    async def counting(seen: Seen, writer: asyncio.StreamWriter) -> bytes:
        nonlocal most, present
        present += 1
        most = max(most, present)
        await asyncio.sleep(0.005)
        present -= 1
        return OK

    async with receiver(counting) as there, telling(memory, pace=replace(DEAF, places_per_host=3)):
        hooks = [hook(there.url()) for _ in range(30)]
        for one in hooks:
            memory.owe(one, login(), login())
        await until(lambda: not memory.owed)
    assert most == 3
    assert len(there.seen) == 60
    assert there.connections <= 3


async def test_what_has_waited_for_long_is_asked_for_again(memory: HookMemory) -> None:
    """Hooks are deleted and changed while their deliveries wait for a place."""
    go_on = asyncio.Event()

    async def slowly(seen: Seen, writer: asyncio.StreamWriter) -> bytes:
        await go_on.wait()
        return OK

    pace = replace(DEAF, places_per_host=1, fresh=0.05)
    async with receiver(slowly) as there, telling(memory, pace=pace):
        first, deleted, kept = (hook(there.url(path)) for path in ("/1", "/2", "/3"))
        for one in (first, deleted, kept):
            memory.owe(one, login())
        await until(lambda: there.seen)
        await asyncio.sleep(0.2)
        del memory.owed[1]
        go_on.set()
        await until(lambda: not memory.owed)
    assert [seen.path.partition("?")[0] for seen in there.seen] == ["/1", "/3"]


async def test_the_slow_leave_places_for_the_others(memory: HookMemory) -> None:
    """Six receivers that hang could fill all six places; known as slow, they get two."""
    pace = replace(DEAF, places=6, places_for_slow=2, grace=0, first_delay=0.001)
    limit = timedelta(seconds=0.15)
    async with AsyncExitStack() as stack:
        dead = [await stack.enter_async_context(receiver(hang)) for _ in range(6)]
        good = await stack.enter_async_context(receiver())
        current = settings(timeout=limit, attempts=100)
        async with telling(memory, lambda: current, pace):
            for there in dead:
                memory.owe(hook(there.url()), login())
            await until(lambda: len(memory.log) >= 6)
            current = settings(timeout=timedelta(seconds=50))
            count = sum(len(there.seen) for there in dead)
            await until(lambda: sum(len(there.seen) for there in dead) >= count + 2)
            await asyncio.sleep(0.2)
            memory.owe(hook(good.url()), login())
            await until(lambda: good.seen)


async def test_a_byte_at_a_time_is_over_when_the_time_is(memory: HookMemory) -> None:
    async with (
        receiver(drip) as there,
        telling(memory, settings(timeout=timedelta(seconds=0.3), attempts=1)),
    ):
        memory.owe(hook(there.url()), login())
        await until(lambda: memory.parked)
        await until(lambda: not there.open)
    assert memory.log[0][1].error == "no answer within 0.3 s"
    assert memory.log[0][1].status is None


async def test_a_body_that_never_ends_is_an_answer_all_the_same(memory: HookMemory) -> None:
    async def endless(seen: Seen, writer: asyncio.StreamWriter) -> bytes | None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with receiver(endless) as there, telling(memory):
        memory.owe(hook(there.url()), login())
        await until(lambda: memory.log)
        await until(lambda: not there.open)
    assert memory.outcomes() == ["delivered"]


async def test_a_huge_body_is_not_read(memory: HookMemory) -> None:
    written = 0

    async def huge(seen: Seen, writer: asyncio.StreamWriter) -> bytes | None:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while written < 200_000_000:
            writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            await writer.drain()
            written += 65536
        return None

    async with receiver(huge, OK) as there, telling(memory):
        memory.owe(hook(there.url()), login(), login())
        await until(lambda: len(memory.log) == 2)
    assert memory.outcomes() == ["delivered", "delivered"]
    assert written < 50_000_000
    assert there.connections == 2


async def test_headers_without_end_are_no_answer(memory: HookMemory) -> None:
    async def endless(seen: Seen, writer: asyncio.StreamWriter) -> bytes | None:
        while True:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)
            await writer.drain()

    async with receiver(endless) as there, telling(memory, settings(attempts=1)):
        memory.owe(hook(there.url()), login())
        await until(lambda: memory.parked)
    assert memory.log[0][1].error == "the answer is too long"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (reset, "the connection broke"),
        (status(302, "Location: http://127.0.0.1/"), "redirects are not followed (302)"),
        (status(308, "Location: /other"), "redirects are not followed (308)"),
        (status(404), "the receiver answered 404"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "the answer is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nbroken header\r\n\r\n", "the answer is not HTTP"),
        (status(101, "Upgrade: x", "Connection: upgrade"), "the answer is not HTTP"),
    ],
)
async def test_other_answers_are_failures(memory: HookMemory, answer: Any, error: str) -> None:
    async with receiver(answer) as there, telling(memory, settings(attempts=2)):
        memory.owe(hook(there.url()), login())
        await until(lambda: memory.parked)
    assert [attempt.error for _, attempt in memory.log] == [error, error]
    assert memory.outcomes() == ["failed", "parked"]
    assert len(there.seen) == 2


ODD_ANSWERS = [
    b"",
    b"\r\n\r\n\r\n",
    b"\x00" * 500,
    b"\xff\xfe\x00H\x00T",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"HTTP/1.1\r\n\r\n",
    b"HTTP/1.1 abc OK\r\n\r\n",
    b"HTTP/1.1 99999 X\r\n\r\n",
    b"HTTP/1.1 000 X\r\n\r\n",
    b"HTTP/1.1 999 X\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/9.9 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.0 200 \xe9\xff\x80\r\nX: \xff\xfe\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nX\xe9: 1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nx",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nx",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\nx",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\n\x1f\x8b\x00",
    b"HTTP/1.1 204 No Content\r\nContent-Length: 50\r\n\r\nsurprise",
    b"HTTP/1.1 503 X\r\nRetry-After: " + b"9" * 500 + b"\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 503 X\r\nRetry-After: \xd9\xa3\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 30_000 + b"\r\n",
    b"HTTP/1.1 200 OK\r\nX: " + b"y" * 300_000,
    b"HTTP/1.1 200 OK\r\n folded: 1\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" * 20 + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: \xff\r\n\r\n",
    b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    *(bytes((n * 37 + i * i) % 256 for i in range(400)) for n in range(8)),
]


@pytest.mark.parametrize("answer", ODD_ANSWERS, ids=range(len(ODD_ANSWERS)))
async def test_whatever_is_answered_ends_nothing(memory: HookMemory, answer: bytes) -> None:
    """It is delivered or it has failed, in words; the next hook's turn comes."""

    async def odd(seen: Seen, writer: asyncio.StreamWriter) -> bytes | None:
        writer.write(answer)
        await writer.drain()
        return None

    quick = settings(attempts=1, timeout=timedelta(seconds=2))
    with structlog.testing.capture_logs() as logs:
        async with receiver(odd) as there, receiver() as good, telling(memory, quick):
            memory.owe(hook(there.url()), login(), login())
            await until(lambda: len(memory.log) == 2)
            memory.owe(hook(good.url()), login())
            await until(lambda: len(memory.log) == 3)
    assert memory.outcomes()[-1] == "delivered"
    for _, attempt in memory.log:
        assert attempt.error.isprintable()
        assert len(attempt.error) < 200
        assert "internal" not in attempt.error
    assert [line["event"] for line in logs if line["log_level"] == "error"] in (
        [],
        ["hook delivery given up, parked"] * 2,
    )


async def test_a_flood_of_informational_answers_is_over_when_the_time_is(
    memory: HookMemory,
) -> None:
    async def slowly(seen: Seen, writer: asyncio.StreamWriter) -> bytes | None:
        while True:
            writer.write(b"HTTP/1.1 102 Processing\r\n\r\n")
            await writer.drain()
            await asyncio.sleep(0.005)

    limit = settings(attempts=1, timeout=timedelta(seconds=0.3))
    async with receiver(slowly) as there, telling(memory, limit):
        memory.owe(hook(there.url()), login())
        await until(lambda: memory.parked)
    assert memory.log[0][1].error == "no answer within 0.3 s"


async def test_who_closes_without_an_answer_failed(memory: HookMemory) -> None:
    async def close(seen: Seen, writer: asyncio.StreamWriter) -> None:
        return None

    async with receiver(close) as there, telling(memory, settings(attempts=1)):
        memory.owe(hook(there.url()), login())
        await until(lambda: memory.parked)
    assert memory.log[0][1].error == "the connection was closed without an answer"


async def test_a_redirect_to_loopback_reaches_nobody(memory: HookMemory) -> None:
    async with receiver() as inside:
        answer = status(302, f"Location: {inside.url()}")
        async with receiver(answer) as there, telling(memory, settings(attempts=3)):
            memory.owe(hook(there.url()), login())
            await until(lambda: memory.parked)
    assert inside.connections == 0


async def test_gone_parks_at_once_and_the_next_is_told(memory: HookMemory) -> None:
    async with receiver(status(410), OK) as there, telling(memory, pace=DEAF):
        gone, then = login(), login()
        memory.owe(hook(there.url()), gone, then)
        await until(lambda: not memory.owed)
    assert [delivery.event.id for delivery in memory.parked] == [gone.id]
    assert memory.outcomes() == ["parked", "delivered"]
    assert _ids(there.seen) == [gone.id, then.id]


async def test_given_up_after_so_many_attempts(memory: HookMemory) -> None:
    async with receiver(status(500)) as there:
        with capture_logs() as logs:
            async with telling(memory, settings(attempts=3)):
                told = hook(there.url("/hook?token=hidden"))
                memory.owe(told, login())
                await until(lambda: memory.parked)
    assert memory.outcomes() == ["failed", "failed", "parked"]
    assert [attempt.number for _, attempt in memory.log] == [1, 2, 3]
    assert [entry["log_level"] for entry in logs] == ["warning", "warning", "error"]
    assert all((entry["hook"], entry["host"]) == (told.id, "127.0.0.1") for entry in logs)
    assert "hidden" not in str(logs)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("Retry-After: 120", 120),
        ("Retry-After: 999999", 600),
        ("Retry-After: Wed, 21 Oct 2065 07:28:00 GMT", 0),
        ("Retry-After: -5", 0),
    ],
)
async def test_retry_after_counts_up_to_ten_minutes(
    memory: HookMemory, header: str, seconds: int
) -> None:
    began = now()
    async with receiver(status(503, header)) as there, telling(memory):
        memory.owe(hook(there.url()), login())
        await until(lambda: memory.untils)
    assert memory.untils[0] >= began + timedelta(seconds=seconds)
    assert memory.untils[0] <= now() + timedelta(seconds=seconds + 1)


def test_delays_grow_and_end_at_the_longest() -> None:
    pace = Pace()
    for attempts, longest in [(1, 1), (2, 2), (4, 8), (7, 64), (11, 600), (1000, 600)]:
        delays = [pace.delay(attempts) for _ in range(200)]
        assert longest / 2 <= min(delays) <= max(delays) <= longest
        assert max(delays) > min(delays)


async def test_nobody_listens(memory: HookMemory) -> None:
    async with receiver() as there:
        pass
    async with telling(memory, settings(attempts=1)):
        memory.owe(hook(there.url()), login())
        await until(lambda: memory.parked)
    assert memory.log[0][1].error == "connection refused"


async def test_a_new_dispatcher_tells_what_was_left(memory: HookMemory) -> None:
    async with receiver(status(500), OK) as there:
        told, first, second = hook(there.url()), login(), login()
        memory.owe(told, first, second)
        async with telling(memory):
            await until(lambda: memory.untils)
        left = [row.delivery.event.id for row in memory.owed]
        async with telling(memory, pace=DEAF):  # when the postponed one is due, without a look
            await until(lambda: not memory.owed)
    assert left[-1] == second.id
    ids = _ids(there.seen)
    assert ids[0] == first.id
    assert sorted(set(ids)) == sorted({first.id, second.id})


async def test_what_another_service_postponed_is_told_when_it_is_due(memory: HookMemory) -> None:
    async with receiver() as there:
        memory.owe(hook(there.url()), login())
        memory.owed[0].due = now() + timedelta(seconds=0.2)
        async with telling(memory, pace=DEAF):
            await until(lambda: there.seen)


async def test_what_another_service_wrote_is_found_by_looking(memory: HookMemory) -> None:
    async with receiver() as there, telling(memory):
        memory.on_change = lambda: None
        await asyncio.sleep(0.01)
        memory.owe(hook(there.url()), login())
        await until(lambda: memory.log)


async def test_a_wake_from_another_thread_is_enough(memory: HookMemory) -> None:
    async with receiver() as there, telling(memory, pace=DEAF) as dispatcher:
        memory.on_change = lambda: None
        for count in range(1, 20):
            memory.owe(hook(there.url()), login())
            thread = threading.Thread(target=dispatcher.wake)
            thread.start()
            await until(lambda: len(memory.log) == count)  # noqa: B023
            thread.join()


def test_a_wake_without_a_loop_is_harmless(memory: HookMemory) -> None:
    HookDispatcher(memory, now, settings).wake()


async def test_what_is_postponed_to_a_new_address_goes_there(memory: HookMemory) -> None:
    async with receiver(status(500)) as old, receiver() as new, telling(memory):
        told = hook(old.url())
        memory.owe(told, login())
        await until(lambda: memory.untils)
        row = memory.owed[0]
        row.delivery = replace(row.delivery, hook=replace(told, url=new.url("/new")))
        await until(lambda: new.seen)
    assert new.seen[0].path.startswith("/new?agent_status")


async def test_the_store_away_when_it_is_to_be_marked(memory: HookMemory) -> None:
    async def answer(seen: Seen, writer: asyncio.StreamWriter) -> bytes:
        memory.broken = True
        return OK

    with capture_logs() as logs:
        async with receiver(answer, OK) as there, telling(memory, pace=DEAF):
            events = [login(), login()]
            memory.owe(hook(there.url()), *events)
            await until(lambda: logs)
            await asyncio.sleep(0.1)
            memory.broken = False
            await until(lambda: not memory.owed)
            await until(lambda: len(logs) >= 2)
    assert _ids(there.seen) == [one.id for one in events], "told twice"
    assert [entry["event"] for entry in logs] == [
        "deliveries wait",
        "deliveries go on",
    ]


async def test_the_store_away_when_it_is_asked(memory: HookMemory) -> None:
    memory.broken = True
    async with receiver() as there, telling(memory, pace=DEAF):
        memory.owe(hook(there.url()), login())
        await asyncio.sleep(0.05)
        assert not there.seen
        memory.broken = False
        await until(lambda: memory.log)


async def test_a_fault_when_the_store_is_asked_ends_nothing(memory: HookMemory) -> None:
    real = memory.next_due

    async def broken() -> datetime | None:
        memory.next_due = real  # type: ignore[method-assign]
        raise KeyError("a fault of ours")

    memory.next_due = broken  # type: ignore[method-assign]
    with capture_logs() as logs:
        async with receiver() as there, telling(memory, pace=DEAF):
            await until(lambda: logs)
            memory.owe(hook(there.url()), login())
            await until(lambda: memory.log)
    assert (logs[0]["task"], logs[0]["error"]) == ("deliver to hooks", "KeyError")


async def test_stopped_what_was_answered_is_marked(memory: HookMemory) -> None:
    """The answer is there, the store takes its time, a body is still to come."""
    marking, go_on = asyncio.Event(), asyncio.Event()
    first = memory.delivered

    async def slowly(delivery: HookDelivery, attempt: Any, /) -> None:
        marking.set()
        await go_on.wait()
        await first(delivery, attempt)

    memory.delivered = slowly  # type: ignore[method-assign]
    async with receiver() as there, receiver(hang) as dead:
        dispatcher = HookDispatcher(memory, now, settings, pace=replace(DEAF, grace=0.3))
        memory.owe(hook(there.url()), login())
        stuck = hook(dead.url())
        memory.owe(stuck, login())
        task = asyncio.create_task(dispatcher.run())
        await marking.wait()
        await until(lambda: dead.seen)
        task.cancel()
        await asyncio.sleep(0.01)
        assert not task.done()
        go_on.set()
        with suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()
        await until(lambda: not dead.open)
    assert memory.outcomes() == ["delivered"]
    assert [row.delivery.hook for row in memory.owed] == [stuck]
    assert [
        name.get_name() for name in asyncio.all_tasks() if "deliver to hook " in name.get_name()
    ] == []


async def test_stopped_with_the_store_away_it_ends_all_the_same(memory: HookMemory) -> None:
    async def answer(seen: Seen, writer: asyncio.StreamWriter) -> bytes:
        memory.broken = True
        return OK

    with capture_logs() as logs:
        async with receiver(answer) as there, telling(memory, pace=replace(DEAF, longest_delay=60)):
            memory.owe(hook(there.url()), login())
            await until(lambda: logs)
    assert logs[-1]["event"] == "delivered, but not marked"


async def test_it_runs_again_after_a_stop(memory: HookMemory) -> None:
    async with receiver() as there:
        dispatcher = HookDispatcher(memory, now, settings, pace=QUICK)
        for count in (1, 2):
            task = asyncio.create_task(dispatcher.run())
            memory.owe(hook(there.url()), login())
            await until(lambda: len(memory.log) == count)  # noqa: B023
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def test_a_fault_of_ours_stops_nobody(
    memory: HookMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fastagi.outbox.hooks as module

    real = module.build

    def build(hook: Any, event_id: str, *rest: Any) -> Any:
        if event_id == broken.id:
            raise RuntimeError("secret text")
        return real(hook, event_id, *rest)

    broken, sound = login(), login()
    monkeypatch.setattr(module, "build", build)
    with capture_logs() as logs:
        async with receiver() as there, telling(memory, settings(attempts=2)):
            memory.owe(hook(there.url()), broken, sound)
            await until(lambda: not memory.owed)
    assert memory.outcomes() == ["failed", "parked", "delivered"]
    assert memory.log[0][1].error == "internal error: RuntimeError"
    assert "secret text" not in str(logs)


async def test_a_mark_that_fails_for_good_does_not_flood_the_receiver(memory: HookMemory) -> None:
    async def broken(delivery: HookDelivery, attempt: Any, /) -> None:
        if delivery.hook == told:
            raise KeyError("a fault of ours")
        await real(delivery, attempt)

    real = memory.delivered
    memory.delivered = broken  # type: ignore[method-assign]
    with capture_logs() as logs:
        async with (
            receiver() as there,
            receiver() as good,
            telling(memory, pace=replace(QUICK, longest_delay=3600)),
        ):
            told, other = hook(there.url()), hook(good.url())
            memory.owe(told, login())
            await until(lambda: logs)
            for count in range(1, 10):
                memory.owe(other, login())
                await until(lambda: len(memory.log) == count)  # noqa: B023
    assert len(there.seen) == 1
    assert [entry["event"] for entry in logs] == ["skipped: a fault of the service"]
    assert (logs[0]["hook"], logs[0]["error"]) == (told.id, "KeyError")
    assert "exc_info" not in logs[0]


async def test_the_test_button(memory: HookMemory) -> None:
    fields = {"agent_status": "available", "agent_id": "136"}
    async with receiver(OK, status(500)) as there, receiver(hang) as dead:
        counted: list[str] = []
        current = settings(secret=SecretStr(SECRET))
        async with telling(memory, lambda: current, counted=counted.append) as dispatcher:
            told = hook(there.url(), method="POST")
            good = await dispatcher.test(told, fields)
            bad = await dispatcher.test(told, fields)
            current = settings(timeout=timedelta(seconds=0.3))
            late = await dispatcher.test(hook(dead.url()), fields)
            current = settings()
            refused = await dispatcher.test(hook("http://10.0.0.1/"), fields)
            unfit = await dispatcher.test(hook("ftp://10.0.0.1/"), fields)
    assert json.loads(there.seen[0].body) == fields
    Webhook(client_secret(SECRET, "12")).verify(there.seen[0].body, there.seen[0].headers)
    assert there.seen[0].headers["webhook-id"] == good.event_id
    assert good.event_id.startswith("test-")
    assert bad.event_id != good.event_id
    assert (good.outcome, good.status, good.number, good.error) == ("delivered", 200, 1, "")
    assert (bad.outcome, bad.status) == ("failed", 500)
    assert (late.outcome, late.status, late.error) == ("failed", None, "no answer within 0.3 s")
    assert refused.error == "address 10.0.0.1 is not allowed (webhooks.allow)"
    assert unfit.error == "a URL begins with http:// or https://"
    assert not memory.log
    assert not counted


async def test_the_test_button_needs_no_running_dispatcher(memory: HookMemory) -> None:
    async with receiver() as there:
        dispatcher = HookDispatcher(memory, now, settings)
        assert (await dispatcher.test(hook(there.url()), {"a": "b"})).status == 200
        assert there.seen[0].path == "/hook?a=b"


async def test_times_are_those_of_the_clock(memory: HookMemory) -> None:
    at = datetime(2017, 5, 30, 15, 7, 50, 999999, tzinfo=UTC)
    async with receiver() as there:
        dispatcher = HookDispatcher(memory, lambda: at, settings)
        attempt = await dispatcher.test(hook(there.url()), {"a": "b"})
    assert attempt.at == at
    assert there.seen[0].headers["webhook-timestamp"] == "1496156870"


@pytest.fixture(autouse=True)
async def _nothing_is_left_open() -> AsyncIterator[None]:
    yield
    await asyncio.sleep(0)
    left = [
        task
        for task in asyncio.all_tasks()
        if (task.get_name() or "").startswith("deliver to hook ")
    ]
    assert not left


ODD = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        b"HTTP/1.1 503 X\r\nRetry-After: " + b"9" * 5000 + b"\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 503 X\r\nRetry-After: -1\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 999999 X\r\n\r\n",
        b"HTTP/1.1 099 X\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/9.9 200 \xff\xfe\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000,
        b"\0" * 100,
        b"",
    ]
) | st.binary(max_size=60).map(lambda raw: b"HTTP/1.1 200 OK\r\n" + raw + b"\r\n\r\n")


@given(st.lists(ODD, min_size=1, max_size=3))
@hypothesis.settings(max_examples=20, deadline=None)
async def test_any_answer_of_a_receiver_is_an_attempt(answers: list[bytes]) -> None:
    async def odd(seen: Seen, writer: asyncio.StreamWriter) -> bytes | None:
        writer.write(answers[len(there.seen) % len(answers)])
        return None

    memory = HookMemory()
    with capture_logs() as logs:
        async with (
            receiver(odd) as there,
            telling(memory, settings(timeout=timedelta(seconds=1))) as dispatcher,
        ):
            attempts = [
                await dispatcher.test(hook(there.url()), {"a": "b"}) for _ in range(len(answers))
            ]
    assert {attempt.outcome for attempt in attempts} <= {"delivered", "failed"}
    assert all("internal error" not in attempt.error for attempt in attempts)
    assert [log for log in logs if log["log_level"] == "error"] == []


@pytest.mark.parametrize("days", [-1, 1])
async def test_a_machine_whose_clock_is_set_tells_when_it_would_have(
    memory: HookMemory, days: int
) -> None:
    """And what the receiver reads is the machine's time."""
    wrong = timedelta()

    def clock() -> datetime:
        return now() + wrong

    async with receiver(status(500), status(500), OK) as there:
        dispatcher = HookDispatcher(memory, clock, settings, pace=DEAF, due_clock=now)
        memory.on_change = dispatcher.wake
        task = asyncio.create_task(dispatcher.run())
        memory.owe(hook(there.url("/hook")), login())
        await until(lambda: memory.log)
        wrong = timedelta(days=days)
        await until(lambda: len(memory.log) == 3)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert [attempt.outcome for _, attempt in memory.log] == ["failed", "failed", "delivered"]
    assert abs(memory.log[-1][1].at - now() - wrong) < timedelta(hours=1)
    said = datetime.fromtimestamp(int(there.seen[-1].headers["webhook-timestamp"]), UTC)
    assert abs(said - now() - wrong) < timedelta(hours=1)
