"""The manager client against a scripted peer; A1 to A14 are the defects named in client.py."""

import asyncio
import copy
import socket
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from ami.peer import GREETING, SECRET, Link, Peer
from fastagi.ami import client as module
from fastagi.ami.client import (
    BadAction,
    Client,
    NotConnected,
    OutcomeUnknown,
    Protocol,
    Refused,
    Response,
    State,
    parse_headers,
    serialise,
)

ADD = {"Action": "QueueAdd", "Queue": "sales", "Interface": "PJSIP/1001"}
LINK_LOST, LOGIN_REFUSED = module.RETRY, module.RETRY_REFUSED  # as they are outside tests
SILENT = lambda link, action: None  # noqa: E731


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY", (0.01, 0.05))
    monkeypatch.setattr(module, "RETRY_REFUSED", (0.01, 0.05))


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - the condition is anything at all
            await asyncio.sleep(0.005)


# -- the defects ------------------------------------------------------------------------------


async def test_a1_a_refused_login_is_told_and_mends_itself(client_of: Any) -> None:
    async with Peer() as peer:
        peer.secret = "another"
        client = await client_of(peer, wait=False)
        with pytest.raises(NotConnected, match="login refused: Authentication failed"):
            await client.ready(0.5)
        assert client.last_error == "login refused: Authentication failed"
        assert not client.connected
        with pytest.raises(NotConnected, match="login refused"):
            await client.action(ADD)
        peer.secret = SECRET
        await client.ready(10)
        assert client.connected
        assert client.last_error == ""
        assert peer.actions == []


def test_a1_a_refused_login_is_tried_less_often_than_a_lost_link() -> None:
    assert LINK_LOST == (0.2, 5.0)
    assert LOGIN_REFUSED == (1.0, 30.0)


async def test_a2_nothing_is_sent_before_there_is_a_link() -> None:
    client = Client("127.0.0.1", 1, "fastagi", SECRET)
    for attempt in (
        lambda: client.action(ADD),
        lambda: client.actions([ADD]),
        lambda: client.list_action(ADD, "X", "XComplete"),
    ):
        with pytest.raises(NotConnected):
            await attempt()
    with pytest.raises(NotConnected):
        client.send_action(ADD)


async def test_a2_nothing_is_sent_before_the_login_is_answered(client_of: Any) -> None:
    async with Peer() as peer:
        peer.answers_login = False
        client = await client_of(peer, wait=False)
        await peer.until(lambda: peer.logins == 1)
        assert client.state == State.CONNECTING
        with pytest.raises(NotConnected):
            await client.action(ADD)
        assert peer.actions == []


async def test_a3_nothing_is_ever_sent_twice(client_of: Any) -> None:
    def script(link: Link, action: dict[str, str]) -> None:
        if action["Action"] == "QueueAdd":
            link.cut()
        else:
            link.reply(action)

    async with Peer(script) as peer:
        client = await client_of(peer)
        with pytest.raises(OutcomeUnknown):
            await client.action(ADD)
        with pytest.raises(NotConnected):  # while down
            await client.action(ADD)
        await client.ready(10)
        peer.links[-1].event("FullyBooted", Status="Fully Booted")
        assert (await client.action({"Action": "Ping"})).success
        assert [a["Action"] for a in peer.actions] == ["QueueAdd", "Ping"]
        assert not client.awaiting_actions


async def test_a4_ready_without_fully_booted(client_of: Any) -> None:
    async with Peer() as peer:  # sends no event at all
        client = await client_of(peer)
        assert client.connected
        assert client.state == State.CONNECTED


async def test_a5_a_silent_asterisk_ends_the_wait_and_the_link(client_of: Any) -> None:
    lost: list[str] = []
    async with Peer(SILENT) as peer:
        client = await client_of(peer, action_timeout=0.1, on_lost=lost.append)
        first, second = await asyncio.gather(
            client.action(ADD), client.actions([ADD, ADD]), return_exceptions=True
        )
        assert isinstance(first, OutcomeUnknown)
        assert [type(answer) for answer in second] == [OutcomeUnknown, OutcomeUnknown]
        assert lost
        assert lost[0].startswith("no answer within")
        peer.script = None
        await client.ready(10)
        assert (await client.action(ADD)).success
        assert len(peer.links) == 2


async def test_a5_an_abandoned_wait_leaks_nothing(client_of: Any) -> None:
    held: list[tuple[Link, dict[str, str]]] = []
    async with Peer(lambda link, action: held.append((link, action))) as peer:
        client = await client_of(peer)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.actions([ADD, ADD]), 0.05)
        await peer.until(lambda: len(held) == 2)
        assert client.protocol.in_flight == 2
        for link, action in held:
            link.reply(action)
        await until(lambda: client.protocol.in_flight == 0)
        assert not client.protocol._order
        assert client.connected


async def test_a6_queue_add_resolves(client_of: Any) -> None:
    async with Peer() as peer:
        client = await client_of(peer)
        assert await client.action(ADD) == Response(True, "Added interface to queue")


async def test_a6_the_engines_own_way_of_sending_resolves_too(client_of: Any) -> None:
    async with Peer() as peer:
        client = await client_of(peer)
        assert (await client.send_action(ADD, as_list=True)).message == "Added interface to queue"


async def test_a7_an_error_ends_a_list(client_of: Any) -> None:
    async with Peer(lambda link, a: link.reply(a, "Permission denied", response="Error")) as peer:
        client = await client_of(peer)
        with pytest.raises(Refused, match="Permission denied"):
            await client.list_action({"Action": "QueueStatus"}, "QueueMember", "Done")
        assert client.protocol.in_flight == 0
        assert client.connected


STREAM = (
    GREETING + b"Response: Success\r\nActionID: 1\r\nMessage: Authentication accepted\r\n\r\n"
    b"Event: QueueMemberAdded\r\nQueue: sales\r\nMemberName: Ren\xc3\xa9e \xe2\x98\x8e\r\n"
    b"PausedReason: \r\n\r\n"
    b"Event: Odd\r\nName: caf\xe9\r\n\r\n"
)


class Recorder:
    """Takes the place of a client behind a protocol."""

    last_error = ""
    action_timeout = 5.0
    latency = None
    last_heard = 0.0
    on_answered = staticmethod(lambda seconds: None)

    def __init__(self) -> None:
        self.events: list[tuple[bytes, dict[str, str]]] = []
        self.lost: list[str] = []
        self.ids = 0

    def next_id(self) -> str:
        self.ids += 1
        return str(self.ids)

    def incoming_event(self, name: bytes, raw: bytes) -> None:
        self.events.append((name, parse_headers(raw)))

    def link_lost(self, protocol: Protocol, reason: str) -> None:
        self.lost.append(reason)


class Sink(asyncio.Transport):
    def write(self, data: Any) -> None:
        pass

    def abort(self) -> None:
        pass


async def test_a8_the_same_bytes_cut_at_every_point() -> None:
    for cut in range(len(STREAM) + 1):
        recorder = Recorder()
        protocol = Protocol(recorder)  # type: ignore[arg-type]
        protocol.connection_made(Sink())
        answer = protocol.send({"Action": "Login"})
        protocol.data_received(STREAM[:cut])
        protocol.data_received(STREAM[cut:])
        assert answer.result() == Response(True, "Authentication accepted")
        assert recorder.events == [
            (
                b"QueueMemberAdded",
                {
                    "Event": "QueueMemberAdded",
                    "Queue": "sales",
                    "MemberName": "Renée ☎",
                    "PausedReason": "",
                },
            ),
            (b"Odd", {"Event": "Odd", "Name": "caf\ufffd"}),
        ]
        assert recorder.lost == []
        assert protocol.version == "11.0.0"
        protocol.close()


async def test_a8_byte_by_byte_over_a_socket(client_of: Any) -> None:
    events: list[dict[str, str]] = []

    async def script(link: Link, action: dict[str, str]) -> None:
        text = (
            f"Event: E\r\nName: Renée ☎\r\n\r\n"
            f"Response: Success\r\nActionID: {action['ActionID']}\r\nMessage: déjà\r\n\r\n"
        )
        link.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in text.encode():
            link.write(bytes([byte]))
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    async with Peer(script) as peer:
        client = await client_of(peer, on_event=lambda name, headers: events.append(headers))
        assert (await client.action(ADD)).message == "déjà"
        assert events == [{"Event": "E", "Name": "Renée ☎"}]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("a\r\nAction: Originate", "control"),
        ("a\nb", "control"),
        ("a\rb", "control"),
        ("a\0b", "control"),
        ("a\x1b[0m", "control"),
        ("a\x7f", "control"),
        ("a\x85b", "control"),
        (None, "NoneType"),
        (True, "bool"),
        (b"x", "bytes"),
        (1.5, "float"),
        ("\ud800", "Unicode"),
        ("x" * 1000, "bytes"),
        ("é" * 500, "bytes"),
        (["fine", "a\nb"], "control"),
    ],
)
async def test_a9_what_cannot_be_sent(client_of: Any, value: Any, why: str) -> None:
    async with Peer() as peer:
        client = await client_of(peer)
        action = {"Action": "QueueAdd", "Queue": value}
        before = dict(action)
        with pytest.raises(BadAction, match=f"header Queue: .*{why}") as caught:
            await client.action(action)
        if isinstance(value, str):
            assert value not in str(caught.value)
        assert action == before
        assert (await client.action({"Action": "Ping"})).success
        assert [a["Action"] for a in peer.actions] == ["Ping"]


@pytest.mark.parametrize("key", ["", "A B", "A:", "A\r\nB", "Ä", "ActionID", "actionid", 7, None])
def test_a9_header_names(key: Any) -> None:
    with pytest.raises(BadAction, match="header"):
        serialise({"Action": "Ping", key: "x"}, "1")


def test_a9_too_many_headers() -> None:
    with pytest.raises(BadAction, match="200 headers"):
        serialise({f"K{n}": "x" for n in range(200)}, "1")
    with pytest.raises(BadAction, match="too often"):
        serialise({"Variable": ["x"] * 200}, "1")


@given(st.text())
def test_a9_one_value_is_one_line(value: str) -> None:
    try:
        text = serialise({"Action": "X", "Value": value}, "7")
    except BadAction:
        return
    assert text.encode().split(b"\r\n") == [
        b"ActionID: 7",
        b"Action: X",
        b"Value: " + value.encode(),
        b"",
        b"",
    ]
    assert not any(ord(c) < 32 or ord(c) == 127 for c in value)


async def test_a9_the_callers_dict_is_untouched(client_of: Any) -> None:
    async with Peer() as peer:
        client = await client_of(peer)
        action = {**ADD, "Penalty": 3}
        before = dict(action)
        await client.action(action)
        await client.actions([action, action])
        assert action == before
        ids = {a["ActionID"] for a in peer.actions}
        assert len(ids) == 3


async def test_a10_failing_callbacks_harm_nothing(client_of: Any) -> None:
    seen: list[str] = []

    def on_event(name: str, headers: dict[str, str]) -> None:
        seen.append(name)
        raise RuntimeError("boom")

    async def pattern(manager: Any, event: Any) -> None:
        seen.append(f"pattern {event['Queue']}")
        raise RuntimeError("boom")

    async def on_ready() -> None:
        raise RuntimeError("boom")

    async with Peer() as peer:
        client = await client_of(peer, on_event=on_event, on_ready=on_ready)
        client.register_event("Queue*", pattern)
        link = peer.links[0]
        with structlog.testing.capture_logs() as logs:
            for _ in range(3):
                link.event("QueueMemberAdded", Queue="sales")
            assert (await client.action(ADD)).success
            await until(lambda: len(seen) == 6)
        assert client.connected
        assert seen.count("pattern sales") == 3
        assert len(peer.links) == 1
        assert len(logs) <= 3  # one of each that fails
        await until(lambda: not client._tasks)


async def test_a11_a_dead_peer_is_noticed(client_of: Any) -> None:
    lost: list[str] = []
    async with Peer(SILENT) as peer:
        client = await client_of(peer, ping_interval=0.02, action_timeout=0.1, on_lost=lost.append)
        await until(lambda: lost)
        assert lost[0].startswith("no answer within")
        pings = peer.links[0].actions[1:]
        assert [a["Action"] for a in pings] == ["Ping"]  # they do not pile up
        peer.script = None
        await client.ready(10)


async def test_a11_a_living_peer_is_kept(client_of: Any) -> None:
    async with Peer() as peer:
        client = await client_of(peer, ping_interval=0.02)
        await peer.until(lambda: len(peer.actions) >= 3)
        assert len(peer.links) == 1
        assert client.latency is not None


async def test_a12_closing_disarms_everything(client_of: Any) -> None:
    before = asyncio.all_tasks()
    async with Peer() as peer:
        client = await client_of(peer, wait=False, secret="wrong")
        await until(lambda: client.state == State.WAITING)
        await client.close()
        assert client.state == State.STOPPED
        assert client._retry is None
        logins = peer.logins
        await asyncio.sleep(0.2)
        assert peer.logins == logins
    await until(lambda: asyncio.all_tasks() == before)


async def test_a12_closing_while_connecting_or_connected(client_of: Any) -> None:
    async with Peer() as peer:
        for wait in (False, True):
            client = await client_of(peer, wait=wait)
            await client.close()
            assert client.protocol is None
            assert client.pinger is None
            with pytest.raises(NotConnected):
                await client.action(ADD)
        logins = peer.logins
        await asyncio.sleep(0.1)
        assert peer.logins == logins


async def test_a12_what_is_in_flight_ends_with_the_client(client_of: Any) -> None:
    async with Peer(SILENT) as peer:
        client = await client_of(peer)
        waiting = asyncio.ensure_future(client.action(ADD))
        await peer.until(lambda: len(peer.actions) == 1)
        await client.close()
        with pytest.raises(OutcomeUnknown):
            await waiting


async def test_a13_any_failure_to_connect_is_tried_again() -> None:
    # a host name that cannot be one is a UnicodeError, no OSError
    client = Client("x" * 64 + ".invalid", 5038, "fastagi", SECRET)
    await client.start()
    await until(lambda: client._failures >= 2)
    # (UnicodeEncodeError from Python 3.13 on)
    assert client.last_error.startswith("cannot connect: Unicode")
    await client.close()


async def test_a13_refused_then_there() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
    client = Client("127.0.0.1", port, "fastagi", SECRET)
    await client.start()
    with pytest.raises(NotConnected, match="connection refused"):
        await client.ready(0.3)
    peer = Peer()
    peer.server = await asyncio.start_server(peer._serve, "127.0.0.1", port)
    await client.ready(10)
    await client.close()
    await peer.__aexit__()


async def test_a13_connecting_has_a_limit() -> None:
    # Linux drops the first packet of a connection when the queue of a listener is full.
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
            fillers.append(filler)
        client = Client(
            "127.0.0.1", port, "fastagi", SECRET, connect_timeout=0.1, action_timeout=0.1
        )
        await client.start()
        await until(lambda: client.last_error)
        assert client.last_error.startswith(("no connection within 0.1 s", "no answer within"))
        await client.close()
        for filler in fillers:
            filler.close()


async def test_a13_a_peer_that_never_answers_the_login(client_of: Any) -> None:
    async with Peer() as peer:
        peer.answers_login = False
        client = await client_of(peer, wait=False, action_timeout=0.05, connect_timeout=0.1)
        await peer.until(lambda: peer.logins >= 2)
        assert client.last_error.startswith("no answer within")


async def test_a14_responses_are_plain(client_of: Any) -> None:
    async def script(link: Link, action: dict[str, str]) -> None:
        link.write(
            f"Response: Success\r\nActionID: {action['ActionID']}\r\nPing: Pong\r\n"
            "Timestamp: 17.5\r\n\r\n".encode()
        )

    async with Peer(script) as peer:
        client = await client_of(peer)
        response = await client.action({"Action": "Ping"})
        assert response == Response(True, "", {"Ping": "Pong", "Timestamp": "17.5"})
        assert copy.deepcopy(response) == response
        with pytest.raises(AttributeError):
            response.nosuch  # noqa: B018
        with pytest.raises(KeyError):
            response.headers["nosuch"]


class Counting:
    def __init__(self, write: Any, writes: list[bytes]) -> None:
        self._write = write
        self._writes = writes

    def write(self, data: bytes) -> None:
        self._writes.append(data)
        self._write(data)


# -- what it is for ---------------------------------------------------------------------------


async def test_a_batch_is_one_write_and_keeps_its_order(client_of: Any) -> None:
    held: list[tuple[Link, dict[str, str]]] = []

    def script(link: Link, action: dict[str, str]) -> None:
        held.append((link, action))
        if len(held) == 3:
            for link, action in reversed(held):  # answered the wrong way round
                link.reply(action, action["Queue"])

    async with Peer(script) as peer:
        client = await client_of(peer)
        reads = len(peer.links[0].reads)
        writes: list[bytes] = []
        transport = client.protocol.transport
        client.protocol.transport = Counting(transport.write, writes)
        queues = ["one", "two", "three"]
        answers = await client.actions([{**ADD, "Queue": queue} for queue in queues])
        assert [answer.message for answer in answers] == queues
        client.protocol.transport = transport
        assert len(writes) == 1
        assert len(peer.links[0].reads) == reads + 1


async def test_a_bad_action_in_a_batch_stops_no_other(client_of: Any) -> None:
    async with Peer() as peer:
        client = await client_of(peer)
        answers = await client.actions([ADD, {**ADD, "Queue": "a\nb"}, ADD])
        assert [type(answer) for answer in answers] == [Response, BadAction, Response]
        answers = await client.actions([{**ADD, "Queue": "a\nb"}])
        assert [type(answer) for answer in answers] == [BadAction]
        assert await client.actions([]) == []
        assert len(peer.actions) == 2


async def test_a_link_lost_in_the_middle_of_a_batch(client_of: Any) -> None:
    def script(link: Link, action: dict[str, str]) -> None:
        if action["Queue"] == "2":
            link.writer.close()  # what was written before still arrives
        else:
            link.reply(action)

    async with Peer(script) as peer:
        client = await client_of(peer)
        answers = await client.actions([{**ADD, "Queue": str(n)} for n in range(5)])
        kinds = [type(answer) for answer in answers]
        assert kinds == [Response, Response] + [OutcomeUnknown] * 3


async def test_long_batches_go_out_in_parts(
    client_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_BATCH", 10)

    def script(link: Link, action: dict[str, str]) -> None:
        if action["Queue"] == "15":
            link.cut()
        else:
            link.reply(action, action["Queue"])

    async with Peer(script) as peer:
        client = await client_of(peer)
        answers = await client.actions([{**ADD, "Queue": str(n)} for n in range(100, 135)])
        assert [answer.message for answer in answers] == [str(n) for n in range(100, 135)]
        answers = await client.actions([{**ADD, "Queue": str(n)} for n in range(35)])
        assert {type(a) for a in answers[:10]} == {Response}
        assert {type(a) for a in answers[10:20]} <= {Response, OutcomeUnknown}
        assert isinstance(answers[15], OutcomeUnknown)
        assert {type(a) for a in answers[20:]} == {NotConnected}  # never sent
        assert not any(a["Queue"] == "20" for a in peer.links[0].actions[1:])


async def test_lists_events_and_answers_mixed(client_of: Any) -> None:
    events: list[str] = []

    def script(link: Link, action: dict[str, str]) -> None:
        if action["Action"] != "QueueStatus":
            link.reply(action)
            return
        queue = action["Queue"]
        link.write(
            f"Response: Success\r\nActionID: {action['ActionID']}\r\nEventList: start\r\n"
            "Message: Queue status will follow\r\n\r\n".encode()
        )
        link.event("QueueParams", Queue=queue, ActionID=action["ActionID"])
        for number in range(3):
            link.event("QueueMemberAdded", Queue="other")
            link.event("QueueMember", Queue=queue, Name=str(number), ActionID=action["ActionID"])
            link.event("QueueMember", Queue="foreign", ActionID="somebody-else")
        link.event("QueueStatusComplete", ActionID=action["ActionID"], ListItems="4")

    async with Peer(script) as peer:
        client = await client_of(peer, on_event=lambda name, headers: events.append(name))

        def ask(queue: str, item: Any) -> Any:
            action = {"Action": "QueueStatus", "Queue": queue}
            return client.list_action(action, item, "QueueStatusComplete")

        one, added, two = await asyncio.gather(
            ask("a", "QueueMember"), client.action(ADD), ask("b", ("QueueParams", "QueueMember"))
        )
        assert one == [{"Event": "QueueMember", "Queue": "a", "Name": str(n)} for n in range(3)]
        assert [item["Event"] for item in two] == ["QueueParams"] + ["QueueMember"] * 3
        assert added.success
        assert events.count("QueueMemberAdded") == 6
        assert client.protocol.in_flight == 0
        assert not client.protocol._lists


async def test_half_a_list_is_no_list(client_of: Any) -> None:
    def script(link: Link, action: dict[str, str]) -> None:
        link.reply(action)
        link.event("QueueMember", Queue="a", ActionID=action["ActionID"])
        link.writer.close()

    async with Peer(script) as peer:
        client = await client_of(peer)
        with pytest.raises(OutcomeUnknown):
            await client.list_action({"Action": "QueueStatus"}, "QueueMember", "Complete")


async def test_a_long_list_may_take_its_time_a_stuck_one_may_not(client_of: Any) -> None:
    stuck = False

    async def script(link: Link, action: dict[str, str]) -> None:
        link.reply(action)
        for _ in range(8):
            link.event("QueueMember", Queue="a", ActionID=action["ActionID"])
            await asyncio.sleep(0.1)
        if not stuck:
            link.event("Complete", ActionID=action["ActionID"])

    async with Peer(script) as peer:
        client = await client_of(peer, action_timeout=0.4)
        action = {"Action": "QueueStatus"}
        assert len(await client.list_action(action, "QueueMember", "Complete")) == 8
        stuck = True
        with pytest.raises(OutcomeUnknown, match="no answer"):
            await client.list_action(action, "QueueMember", "Complete")


async def test_ten_thousand_events_in_order(client_of: Any) -> None:
    numbers: list[int] = []

    def script(link: Link, action: dict[str, str]) -> None:
        for number in range(10_000):
            link.event("QueueMemberPause", Number=str(number))
            link.event("QueueMemberStatus", Number="unwanted")
        link.reply(action)

    async with Peer(script) as peer:
        client = await client_of(
            peer,
            event_names=["QueueMemberPause"],
            on_event=lambda name, headers: numbers.append(int(headers["Number"])),
        )
        assert (await client.action(ADD)).success
        assert numbers == list(range(10_000))


async def test_a_coroutine_may_take_events(client_of: Any) -> None:
    seen: list[str] = []

    async def on_event(name: str, headers: dict[str, str]) -> None:
        await asyncio.sleep(0)
        seen.append(headers["Queue"])

    async with Peer() as peer:
        await client_of(peer, on_event=on_event)
        peer.links[0].event("QueueMemberAdded", Queue="sales")
        await until(lambda: seen == ["sales"])


async def test_ready_is_called_after_each_login_and_may_act(client_of: Any) -> None:
    answers: list[Response] = []
    lost: list[str] = []

    async def on_ready() -> None:
        answers.append(await client.action({"Action": "CoreStatus"}))

    async with Peer() as peer:
        client = Client("127.0.0.1", peer.port, "fastagi", SECRET, on_ready=on_ready)
        client._on_lost = lost.append
        await client.start()
        await until(lambda: len(answers) == 1)
        peer.links[0].cut()
        await until(lambda: len(answers) == 2)
        assert len(lost) == 1
        await client.close()


@pytest.mark.parametrize(
    "greeting",
    [
        b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"Event: X\r\n\r\n",
        b"\0" * 100,
    ],
)
async def test_something_else_at_that_port(client_of: Any, greeting: bytes) -> None:
    async with Peer() as peer:
        peer.greeting = greeting
        client = await client_of(peer, wait=False)
        await until(lambda: client.last_error)
        assert client.last_error == "the peer is no Asterisk manager interface"


async def test_a_message_without_an_end(client_of: Any) -> None:
    async with Peer() as peer:
        client = await client_of(peer)
        lost: list[str] = []
        client._on_lost = lost.append
        peer.links[0].write(b"Event: " + b"x" * (2 << 20))
        await until(lambda: lost)
        assert lost == ["a message without an end"]


async def test_answers_nobody_waits_for(client_of: Any) -> None:
    def script(link: Link, action: dict[str, str]) -> None:
        link.write(b"Response: Success\r\nActionID: nobody\r\nMessage: x\r\n\r\n")
        link.write(b"Response: Success\r\n\r\n\r\n\r\nnonsense\r\n\r\n")
        link.reply(action)
        link.reply(action)

    async with Peer(script) as peer:
        client = await client_of(peer)
        for _ in range(3):
            assert (await client.action(ADD)).message == "Added interface to queue"


async def test_no_secret_is_ever_logged(client_of: Any) -> None:
    with structlog.testing.capture_logs() as logs:
        async with Peer() as peer:
            client = await client_of(peer)
            peer.links[0].cut()
            await until(lambda: peer.logins == 2)
            peer.secret = "another"
            peer.links[-1].cut()
            await until(lambda: client.last_error.startswith("login refused"))
            assert SECRET not in repr(client)
    assert logs
    assert SECRET not in repr(logs)


async def test_an_impossible_secret_is_told(client_of: Any) -> None:
    async with Peer() as peer:
        client = await client_of(peer, wait=False, secret="a\r\nb")
        await until(lambda: client.last_error)
        assert client.last_error == (
            "login impossible: header Secret: contains a control character"
        )
        assert peer.logins == 0
