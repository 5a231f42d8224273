"""One persistent manager (AMI) connection: panoramisk underneath, without its surprises.

panoramisk gives the engine: the connection, the login, the manager's life cycle, patterns of event
names and `Message`. What is overridden here closes its defects; each place names the one it closes:

A1   a refused login is silent and tried again for ever every two seconds
A2   sending before the connection exists fails on ``None``
A3   actions in flight or sent while the link was down are sent a second time later
A4   readiness and that replay hang on ``FullyBooted``, which only readers of class system get
A5   nothing times out, and an abandoned wait leaks its entry
A6   QueueAdd never resolves: its "Added … to queue" is taken for the start of a list
A7   an Error reply to an action declared as a list never resolves
A8   a UTF-8 character split across two reads is lost
A9   CR and LF in a value inject an action, None becomes "None", the caller's dict is changed
A10  an exception in an event callback closes the link; tasks are not kept
A11  a dead peer goes unnoticed and pings pile up
A12  closing leaves the reconnect timer armed
A13  only OSError leads to another attempt, and connecting has no limit in time
A14  unknown attributes read as ``''``; copying recurses

The path of an action is short on purpose, because every call takes it several times: the text is
built once, one write carries a whole batch, one future answers it, and one timer watches the oldest
batch. Asterisk answers one action after the other, so only the oldest can be late, and its time
begins when all before it were answered. Bytes that flow are life: on a slow link the answer may
stand behind many of them, and a link is given up for silence, not for slowness.
"""

import asyncio
import random
import re
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, cast

import structlog
from panoramisk.ami_protocol import AMIProtocol
from panoramisk.manager import Manager
from panoramisk.message import Message

from fastagi.agents.fence import Fence

log = structlog.get_logger()

# Asterisk reads lines of at most 1,024 bytes with CRLF and messages of at most 128 headers.
MAX_LINE = 1_000
MAX_HEADERS = 120
# More than this without a blank line is no manager message: something else is talking.
MAX_MESSAGE = 1 << 20
# A longer batch goes out in parts, so that a call never waits behind thousands of repairs.
MAX_BATCH = 500
# Of the action's limit: so long may Asterisk be silent before the first item of a list, and so long
# may an action take in all while other bytes flow.
LIST_SILENCE = 3
LONGEST = 10
# A list may take its time, but has an end.
LIST_SECONDS = 600.0
MAX_ITEMS = 200_000
MAX_LIST = 64 << 20  # bytes of its items
# Of a list that is asked for in parts so much is on its way at once, as far as can be guessed:
# whoever sends an action meanwhile waits for no more. Half a second at 1 Mbit/s.
WINDOW = 64_000
LIST_FRAME = 700  # bytes of the answer about one queue beside its members
COMPANY = 4  # actions gathered in a turn of the loop, after which the next turn gathers all

# Seconds before the second attempt, and at most. A refused login is tried less often: each is a
# line in Asterisk's security log, and some machines ban an address for a few of them.
RETRY = (0.2, 5.0)
RETRY_REFUSED = (1.0, 30.0)
# A link that did not live this long counts as one more failed attempt.
STABLE = 5.0

MAX_EVENT_NAME = 100  # bytes
GREETING = b"Asterisk Call Manager/"
END = b"\r\n\r\n"


Value = str | int | Sequence[str | int]
Action = Mapping[str, Value]
EventCallback = Callable[[str, dict[str, str]], Awaitable[None] | None]
RawCallback = Callable[[bytes, bytes], None]
Callback = Callable[[], Awaitable[None] | None]
LostCallback = Callable[[str], Awaitable[None] | None]

_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,79}")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class ManagerError(Exception):
    """Anything that goes wrong on the manager link.

    ManagerError
     ├─ NotConnected     nothing was sent
     ├─ OutcomeUnknown   it was sent; whether it happened is not known
     ├─ BadAction        nothing was sent: a header Asterisk would misread (also a ValueError)
     └─ Refused          Asterisk answered Error to a list action
    """


class NotConnected(ManagerError):
    """There is no authenticated connection; nothing was sent."""


class OutcomeUnknown(ManagerError):
    """The action was sent, then the link was lost or stayed silent: it may have happened."""


class BadAction(ManagerError, ValueError):
    """A header cannot be sent as it is; the text names the header, never its value."""


class Refused(ManagerError):
    """Asterisk answered a list action with an Error; the text is Asterisk's."""


class State(StrEnum):
    STOPPED = "stopped"
    CONNECTING = "connecting"  # opening the connection, or waiting for the answer to the login
    CONNECTED = "connected"  # logged in
    WAITING = "waiting"  # until the next attempt


@dataclass(frozen=True, slots=True)
class Response:
    """Asterisk's answer to one action. ``headers`` are those beside Response, ActionID, Message."""

    success: bool
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)  # A14: a missing key is missing


def parse_headers(raw: bytes) -> dict[str, str]:
    """``b"A: x\\r\\nB: y"`` as a dict; a repeated header's values are joined by newlines.

    Bytes that are no UTF-8 (a caller's name in another encoding) become U+FFFD.
    """
    lines = raw.decode("utf-8", "replace").split("\r\n")
    try:
        headers = dict([line.split(": ", 1) for line in lines])
    except ValueError:  # a line of another shape
        pass
    else:
        if len(headers) == len(lines):
            return headers
    found: dict[str, list[str]] = {}
    for line in lines:
        key, colon, value = line.partition(":")
        if colon:
            found.setdefault(key, []).append(value.removeprefix(" "))
    return {key: "\n".join(values) for key, values in found.items()}


_known_keys: set[str] = set()


_PLAIN = {str, int}


def _check_key(key: object) -> None:
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise BadAction(f"header name {str(key)[:40]!r}: only letters, digits, '-' and '_'")
    if key.lower() == "actionid":
        raise BadAction("header ActionID: is given by the client")
    if len(_known_keys) < 1_000:
        _known_keys.add(key)


def _check_line(key: str, value: object) -> None:
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        raise BadAction(f"header {key}: expected text or a number, not {type(value).__name__}")
    text = str(value)
    if _CONTROL.search(text):
        raise BadAction(f"header {key}: contains a control character")
    try:
        size = len(f"{key}: {text}".encode())
    except UnicodeEncodeError:
        raise BadAction(f"header {key}: is not valid Unicode text") from None
    if size >= MAX_LINE:
        raise BadAction(f"header {key}: {size} bytes, fewer than {MAX_LINE} are allowed")


def serialise(action: Action, action_id: str) -> str:
    """The action as it goes on the wire. Raises BadAction; the mapping is only read (A9)."""
    # Short printable text and numbers under known names, nearly all there is, are checked at once:
    # no line of it can be too long, whatever its characters take in UTF-8.
    values = action.values()
    if action.keys() <= _known_keys and {*map(type, values)} <= _PLAIN and len(action) < 50:
        joined = "".join(map(str, values))
        if joined.isprintable() and len(joined) < (900 if joined.isascii() else 220):
            text = "\r\n".join([f"{key}: {value}" for key, value in action.items()])
            return f"ActionID: {action_id}\r\n{text}\r\n\r\n"
    lines = [f"ActionID: {action_id}"]
    if len(action) > MAX_HEADERS:
        raise BadAction(f"{len(action)} headers, at most {MAX_HEADERS} are allowed")
    for key, value in action.items():
        if key not in _known_keys:
            _check_key(key)
        if isinstance(value, (list, tuple)):
            for item in value:
                _check_line(key, item)
                lines.append(f"{key}: {item}")
            if len(lines) > MAX_HEADERS:
                raise BadAction(f"header {key}: repeated too often")
        else:
            _check_line(key, value)
            lines.append(f"{key}: {value}")
    lines.append("\r\n")
    return "\r\n".join(lines)


def can_be_sent(action: Action) -> bool:
    try:
        serialise(action, "")
    except BadAction:
        return False
    return True


Answer = Response | ManagerError


class _Batch:
    """Actions sent together, and the one future their answers resolve."""

    __slots__ = ("answers", "future", "left", "limit", "sent_at", "single")

    def __init__(
        self, future: "asyncio.Future[Any]", answers: list[Answer | None], single: bool
    ) -> None:
        self.future = future
        self.answers = answers
        self.single = single
        self.left = 0
        self.sent_at = 0.0
        self.limit = 0.0  # seconds

    def settle(self) -> None:
        """Everything is answered: wake whoever still waits."""
        if self.future.done():  # its waiter was cancelled
            return
        if not self.single:
            self.future.set_result(self.answers)
            return
        answer = self.answers[0]
        if isinstance(answer, Exception):
            self.future.set_exception(answer)
        else:
            self.future.set_result(answer)

    def give_up(self, reason: str) -> None:
        error = OutcomeUnknown(reason)
        self.answers = [error if answer is None else answer for answer in self.answers]
        self.left = 0
        self.settle()


class _List(_Batch):
    """One action whose answer is a row of events that carry its ActionID.

    ``raw``: the items stay bytes, for whoever asks for very many and reads them at leisure.
    """

    __slots__ = ("complete", "item_events", "items", "raw", "size")

    def __init__(
        self,
        future: "asyncio.Future[Any]",
        item_events: Collection[bytes],
        complete: bytes,
        raw: bool,
    ) -> None:
        super().__init__(future, [None], True)
        self.item_events = item_events
        self.complete = complete
        self.raw = raw
        self.items: list[Any] = []
        self.size = 0  # bytes of them

    def give_up(self, reason: str) -> None:
        self.answers = [None]  # half a list is no list, whatever its start said
        super().give_up(reason)

    def settle(self) -> None:
        answer = self.answers[0]
        if self.future.done():
            return
        if isinstance(answer, Response):
            if answer.success:
                self.future.set_result(self.items)
            else:
                self.future.set_exception(Refused(answer.message))
        else:
            super().settle()


class Protocol(AMIProtocol, asyncio.BufferedProtocol):  # type: ignore[misc]
    """The bytes of one connection.

    A BufferedProtocol, because asyncio otherwise allocates 256 KiB for every read.
    """

    def __init__(self, client: "Client") -> None:
        self.client = client
        self.closed = False
        self.misbehaved = False  # the next attempt is made as after a failure
        self.version: str | None = None
        self.loop = asyncio.get_running_loop()
        self._memory = memoryview(bytearray(1 << 16))
        self._tail = b""
        self._out: list[str] = []
        self._gathering = False
        self._crowded = False  # in the turn before
        self._pending: dict[bytes, tuple[_Batch, int]] = {}
        self._lists: dict[bytes, _List] = {}
        self._order: deque[_Batch] = deque()
        self._heard = 0.0  # loop time, of the last bytes
        self._first_since = 0.0  # since then the oldest batch has been the oldest
        self._timer: asyncio.TimerHandle | None = None
        self._known: dict[tuple[bytes, bytes], Response] = {}
        self._gone = self.loop.create_future()

    # what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.factory = self.client
        self.transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._memory

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(self._memory[:nbytes]))

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Any) -> None:
        if not self._gone.done():
            self._gone.set_result(None)
        self.drop(f"connection lost: {exc}" if exc else "connection closed by Asterisk")

    # sending

    def send(
        self, data: Action, as_list: object = None, timeout: float | None = None
    ) -> "asyncio.Future[Response]":
        """One action; the future is its Response.

        A6, A7: ``as_list`` is ignored. An answer is complete when it is there; rows of events are
        asked for with `send_list`, and an Error ends those too.
        """
        future: asyncio.Future[Response] = self.loop.create_future()
        batch = _Batch(future, [None], True)
        self._write(batch, [data], timeout)
        return future

    def send_batch(self, actions: Sequence[Action]) -> "asyncio.Future[list[Answer]]":
        future: asyncio.Future[list[Answer]] = self.loop.create_future()
        batch = _Batch(future, [None] * len(actions), False)
        self._write(batch, actions, None)
        return future

    def send_list(
        self, action: Action, item_events: Collection[bytes], complete: bytes, raw: bool
    ) -> "asyncio.Future[list[Any]]":
        future: asyncio.Future[list[Any]] = self.loop.create_future()
        self._write(_List(future, item_events, complete, raw), [action], None)
        return future

    def _write(self, batch: _Batch, actions: Sequence[Action], timeout: float | None) -> None:
        if self.closed:
            raise NotConnected(self.client.last_error or "not connected")
        client = self.client
        texts: list[str] = []
        for index, action in enumerate(actions):
            action_id = client.next_id()
            try:
                texts.append(serialise(action, action_id))
            except BadAction as error:
                batch.answers[index] = error
                continue
            key = action_id.encode()
            self._pending[key] = (batch, index)
            batch.left += 1
            if isinstance(batch, _List):
                self._lists[key] = batch
        if not texts:
            batch.settle()
            return
        batch.sent_at = now = self.loop.time()
        batch.limit = client.action_timeout if timeout is None else timeout
        self._order.append(batch)
        if self._timer is None:
            self._timer = self.loop.call_at(now + batch.limit, self._look)
        # The first of a turn of the loop goes out at once; what others add in the same turn goes
        # together: a write costs more than all else about an action. Where many came in the turn
        # before, the first one waits for the others, too.
        first = not self._gathering
        if first:
            self._gathering = True
            self.loop.call_soon(self._send_out)
        if first and not self._crowded:
            self.transport.write("".join(texts).encode())
        else:
            self._out += texts

    def _send_out(self) -> None:
        self._gathering = False
        out, self._out = self._out, []
        self._crowded = len(out) >= COMPANY
        if out and not self.closed:
            self.transport.write("".join(out).encode())

    def forget_timer(self) -> None:
        """After the login, whose limit may be longer than that of the actions that follow."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        """A5: is the oldest batch late? Then nothing on this link can be trusted any more."""
        self._timer = None
        self._forget_answered()
        if not self._order:
            return
        now = self.loop.time()
        oldest = self._order[0]
        begun = max(oldest.sent_at, self._first_since)
        silence, longest = oldest.limit, begun + oldest.limit * LONGEST
        if isinstance(oldest, _List):
            silence *= LIST_SILENCE
            longest = begun + LIST_SECONDS
        due = min(max(begun, self._heard) + silence, longest)
        if due > now:
            self._timer = self.loop.call_at(due, self._look)
        else:
            # A11: a ping without a pong ends here as well.
            self.drop(f"no answer within {now - oldest.sent_at:.1f} s")

    def _forget_answered(self) -> None:
        order = self._order
        if order and order[0].left == 0:
            while order and order[0].left == 0:
                order.popleft()
            self._first_since = self.loop.time()

    # receiving

    def data_received(self, data: bytes) -> None:
        if self.closed:
            return
        self._heard = self.loop.time()
        # A8: bytes stay bytes until a message is whole, so no character is ever cut.
        if self._tail:
            data = self._tail + data
        end = data.rfind(END)
        if end < 0:
            self._tail = data
            if len(data) > MAX_MESSAGE:
                self.drop("a message without an end")
            elif self.version is None and not data.startswith(GREETING[: len(data)]):
                self.drop("the peer is no Asterisk manager interface")
            return
        self._tail = data[end + 4 :]
        messages = data[:end].split(END)
        if self.version is None and not self._greet(messages):
            return
        for raw in messages:
            if raw.startswith(b"Response: "):
                self._response(raw)
            elif raw.startswith(b"Event: "):
                self._event(raw)
            if self.closed:
                return

    def _greet(self, messages: list[bytes]) -> bool:
        greeting, _, rest = messages[0].partition(b"\r\n")
        if not greeting.startswith(GREETING):
            self.drop("the peer is no Asterisk manager interface")
            return False
        self.version = greeting[len(GREETING) :].decode("ascii", "replace").strip()
        messages[0] = rest.lstrip(b"\r\n")
        return True

    def _response(self, raw: bytes) -> None:
        # Asterisk writes ActionID as the second line, always.
        head, _, rest = raw.partition(b"\r\nActionID: ")
        action_id, _, rest = rest.partition(b"\r\n")
        entry = self._pending.pop(action_id, None)
        if entry is None:
            # Asterisk may find out in the middle of a list that it cannot go on.
            begun = self._lists.get(action_id)
            if begun is None:
                return
            entry = begun, 0
        # The few short answers there are come thousands of times a second: each is built once.
        response = self._known.get((head, rest))
        if response is None:
            headers = parse_headers(head + b"\r\n" + rest)
            success = headers.pop("Response", "") in Message.success_responses
            message = headers.pop("Message", "")
            response = Response(success, message, headers)
            if not headers and len(rest) < 100 and len(head) < 100:
                if len(self._known) > 100:
                    self._known.clear()
                self._known[head, rest] = response
        batch, index = entry
        batch.answers[index] = response
        if isinstance(batch, _List):
            if response.success:
                return  # its items and their end follow
            del self._lists[action_id]
        batch.left -= 1
        if batch.left == 0:
            self._settle(batch)

    def _settle(self, batch: _Batch) -> None:
        self._forget_answered()
        now = self.loop.time()
        self.client.latency = now - batch.sent_at
        self.client.on_answered(self.client.latency)
        self.client.last_heard = now
        batch.settle()

    def _event(self, raw: bytes) -> None:
        end = raw.find(b"\r\n")
        name = raw[7:end] if end > 0 else raw[7:]
        if self._lists:
            _, found, rest = raw.partition(b"\r\nActionID: ")
            if found:
                action_id = rest.partition(b"\r\n")[0]
                batch = self._lists.get(action_id)
                if batch is not None:
                    self._list_item(batch, action_id, name, raw)
                    return
        self.client.incoming_event(name, raw)

    def _list_item(self, batch: _List, action_id: bytes, name: bytes, raw: bytes) -> None:
        if name == batch.complete:
            del self._lists[action_id]
            if self._pending.pop(action_id, None) is not None:
                batch.answers[0] = OutcomeUnknown("a list has ended that was never answered")
            batch.left = 0
            self._settle(batch)
        elif name in batch.item_events:
            batch.size += len(raw)
            if len(batch.items) >= MAX_ITEMS or batch.size > MAX_LIST:
                self.misbehaved = True
                self.drop(f"a list without an end: {len(batch.items)} items")
                return
            if batch.raw:
                batch.items.append(raw)
                return
            headers = parse_headers(raw)
            headers.pop("ActionID", None)
            batch.items.append(headers)

    # the end

    def drop(self, reason: str) -> None:
        """Give the connection up. A3: what was in flight has an unknown outcome; none is kept."""
        if self.closed:
            return
        self.closed = True
        self.forget_timer()
        self.transport.abort()
        waiting = [batch for batch in self._order if batch.left]
        self._pending.clear()
        self._lists.clear()
        self._order.clear()
        self.client.link_lost(self, reason)
        for batch in waiting:
            batch.give_up(reason)

    def close(self) -> None:
        self.drop("closed")

    @property
    def in_flight(self) -> int:
        """How many actions wait for their answer."""
        return len(self._pending)


class Client(Manager):  # type: ignore[misc]
    """A manager connection that stays: it connects, logs in, and comes back after a loss.

    ``events`` is the event mask asked for at login (``agent``, ``agent,user``, ``off``).
    ``event_names`` limits what reaches ``on_event``; all other events are dropped before they are
    parsed. Those of ``raw_names`` reach ``on_raw`` as bytes, the name and the whole event without
    its last CRLF; it is called for each at once and must be quick. Times are seconds. Callbacks are
    plain functions or coroutine functions (``on_raw``: plain); what they raise is logged and harms
    nothing. ``on_ready`` runs after each login, ``on_lost`` gets the reason.
    """

    def __init__(
        self,
        host: str,
        port: int,
        username: str,
        secret: str,
        *,
        events: str = "agent",
        event_names: Iterable[str] | None = None,
        action_timeout: float = 5.0,
        connect_timeout: float = 3.0,
        ping_interval: float = 10.0,
        on_ready: Callback | None = None,
        on_lost: LostCallback | None = None,
        on_event: EventCallback | None = None,
        raw_names: Iterable[str] = (),
        on_raw: RawCallback | None = None,
        on_answered: Callable[[float], None] = lambda seconds: None,
        fence: Fence | None = None,
    ) -> None:
        super().__init__(
            host=host,
            port=port,
            username=username,
            secret=secret,
            events=events,
            on_connect=lambda manager: None,
            on_login=lambda manager: None,
            on_disconnect=lambda manager, exc: None,
        )
        self.host = host
        self.port = port
        self.action_timeout = action_timeout
        self.connect_timeout = connect_timeout
        self.ping_interval = ping_interval
        self.ping_delay = ping_interval
        self.state = State.STOPPED
        self.last_error = ""
        self.latency: float | None = None  # seconds, of the last batch answered
        self.last_heard = 0.0
        self.protocol: Protocol | None = None
        self.pinger: asyncio.TimerHandle | None = None
        self._on_ready = on_ready
        self._on_lost = on_lost
        self._on_event = on_event
        self._event_names = None if event_names is None else frozenset(event_names)
        self._on_raw = on_raw
        self.on_answered = on_answered
        self._raw_names = frozenset(name.encode() for name in raw_names)
        self._wanted: dict[bytes, tuple[str, bool, bool, bool]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stopped = True
        self._retry: asyncio.TimerHandle | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._failures = 0
        self._refused = False
        self._logged_in_at = 0.0
        self._ready = asyncio.Event()
        self._fence = fence or Fence(log)
        # A prefix of its own for every client keeps late answers of another life apart.
        self._id_prefix = f"{random.getrandbits(32):08x}-"
        self._id = 0

    # life cycle

    async def start(self) -> None:
        """Begin to connect, and keep at it until `close`. Returns at once."""
        if not self._stopped:
            return
        self.loop = asyncio.get_running_loop()
        self._stopped = False
        self._failures = 0
        self.connect()

    async def ready(self, timeout: float) -> None:
        """Wait until logged in; NotConnected, with the last error, when that takes too long."""
        try:
            async with asyncio.timeout(timeout):
                await self._ready.wait()
        except TimeoutError:
            raise NotConnected(self.last_error or "no answer yet") from None

    @property
    def connected(self) -> bool:
        """Logged in. A4: this is what a successful login means; no event is waited for."""
        return bool(self.authenticated)

    def connect(self, *_: object, **__: object) -> "asyncio.Task[None]":
        """One attempt."""
        self._retry = None
        self.state = State.CONNECTING
        self._connecting = self.loop.create_task(self._connect())
        return self._connecting

    async def _connect(self) -> None:
        # A13: connecting has a limit, and whatever goes wrong leads to another attempt.
        try:
            async with asyncio.timeout(self.connect_timeout):
                pair = await self.loop.create_connection(
                    lambda: Protocol(self), self.host, self.port
                )
        except TimeoutError:
            self._failed(f"no connection within {self.connect_timeout:g} s")
        except OSError as error:
            refused = isinstance(error, ConnectionRefusedError)
            self._failed("connection refused" if refused else f"cannot connect: {error}")
        except Exception as error:
            self._failed(f"cannot connect: {type(error).__name__}")
        else:
            if pair[1].closed:  # already gone, and counted as a failed attempt
                return
            if self._stopped:
                pair[1].drop("closed")
                return
            done = self.loop.create_future()
            done.set_result(pair)
            # The engine takes it from here: it sends the login and calls `login` with the answer.
            self.connection_made(done)

    def send_action(
        self, action: Action, as_list: object = None, **kwargs: Value
    ) -> "asyncio.Future[Response]":
        """A2: NotConnected unless logged in; the login itself passes."""
        action = {**action, **kwargs}
        is_login = action.get("Action") == "Login"
        if self.protocol is None or not (self.authenticated or is_login):
            raise NotConnected(self.last_error or "not connected")
        if is_login:
            # Asterisk answers a wrong secret after a second.
            limit = max(self.action_timeout, self.connect_timeout)
            return self.protocol.send(action, timeout=limit)
        return self.protocol.send(action)

    def login(self, future: "asyncio.Future[Response]") -> bool:
        """The answer to the login. A1: a refusal is told, and tried again ever more slowly. So is a
        fault of ours: a link that is half logged in would stay so."""
        try:
            return self._logged_in(future)
        except Exception as error:
            self._complain(error)
            if self.protocol is not None:
                self.protocol.drop("a fault at the login")
            return False

    def _logged_in(self, future: "asyncio.Future[Response]") -> bool:
        self.authenticated_future = None
        if future.cancelled() or (error := future.exception()) is not None:
            if not future.cancelled() and isinstance(error, BadAction) and self.protocol:
                self._refused = True
                self.protocol.drop(f"login impossible: {error}")
            return False  # otherwise the link was lost meanwhile, and that was told
        response = future.result()
        if not response.success:
            self._refused = True
            reason = f"login refused: {response.message or 'no reason given'}"
            if self.protocol is None:  # Asterisk closes after a refusal, and was quicker than we
                self.last_error = reason
            else:
                self.protocol.drop(reason)
            return False
        if self.protocol is None:
            return False
        self.protocol.forget_timer()
        self.authenticated = True
        self._refused = False
        self.last_error = ""
        self.state = State.CONNECTED
        self._logged_in_at = self.last_heard = self.loop.time()
        self._arm_pinger()
        self._ready.set()
        log.info("manager link is up", host=self.host, port=self.port, user=self.config["username"])
        if self._on_ready is not None:
            self._run(self._on_ready)
        return True

    def link_lost(self, protocol: Protocol, reason: str) -> None:
        """Called once by each protocol when it ends, however it ends."""
        if protocol is not self.protocol:
            if self.protocol is None:  # lost between the connection and the engine's taking it
                self._failed(reason)
            return
        was_up = self.authenticated
        self.authenticated = False
        self._ready.clear()
        if self.pinger is not None:
            self.pinger.cancel()
            self.pinger = None
        self.protocol = None
        if self._stopped:
            return
        lived = self.loop.time() - self._logged_in_at
        if was_up and lived > STABLE and not protocol.misbehaved:
            self._failures = 0
        if was_up:
            log.warning("manager link lost", host=self.host, port=self.port, reason=reason)
            if self._on_lost is not None:
                self._run(self._on_lost, reason)
        self._failed(reason)

    def connection_lost(self, exc: object) -> None:
        """The engine's own way back is not used: `link_lost` sees every end."""

    def _failed(self, reason: str) -> None:
        if self._stopped or self._retry is not None:
            return
        if reason != self.last_error:
            log.warning("manager link is down", host=self.host, port=self.port, reason=reason)
        self.last_error = reason
        first, longest = RETRY_REFUSED if self._refused else RETRY
        delay = min(longest, first * 2 ** min(self._failures, 20))
        self._failures += 1
        self.state = State.WAITING
        self._retry = self.loop.call_later(delay * random.uniform(0.5, 1.0), self.connect)

    def _arm_pinger(self) -> None:
        if self.pinger is not None:
            self.pinger.cancel()
        self.pinger = self.loop.call_later(self.ping_interval, self.ping)

    def ping(self) -> None:
        """A11: a ping is an action like any other; without its pong the link is given up."""
        self.pinger = None
        if not self.authenticated or self.protocol is None:
            return
        self._arm_pinger()
        if not self.protocol.in_flight:
            self.protocol.send({"Action": "Ping"}).add_done_callback(_looked_at)

    async def send_awaiting_actions(self, *_: object) -> None:
        """A3, A4: nothing is ever sent a second time."""
        self.awaiting_actions.clear()

    async def close(self) -> None:
        """Leave for good. A12: nothing stays armed; what is in flight ends as OutcomeUnknown."""
        self._stopped = True
        self.state = State.STOPPED
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        protocol = self.protocol
        gone: list[asyncio.Future[Any]] = []
        if protocol is not None:
            gone.append(protocol._gone)
            protocol.drop("closed")
        tasks = {t for t in self._tasks if t is not asyncio.current_task()}
        if self._connecting is not None and not self._connecting.done():
            tasks.add(self._connecting)
        for task in tasks:
            task.cancel()
        if tasks or gone:
            await asyncio.wait([*tasks, *gone], timeout=1.0)
        if self.protocol is not None:  # the connection came about in that very moment
            self.protocol.drop("closed")

    # actions

    def next_id(self) -> str:
        self._id += 1
        return f"{self._id_prefix}{self._id}"

    def _link(self) -> Protocol:
        if not self.authenticated or self.protocol is None:
            raise NotConnected(self.last_error or "not connected")
        return self.protocol

    async def action(self, action: Action) -> Response:
        """Send one action. Raises NotConnected, OutcomeUnknown, BadAction."""
        return await self._link().send(action)

    async def actions(self, actions: Sequence[Action]) -> list[Answer]:
        """Send all in one write; an answer or an error for each, in the same order.

        Raises NotConnected when nothing at all was sent. In the list, OutcomeUnknown stands for an
        action sent but not answered, NotConnected and BadAction for one that was not sent.
        """
        protocol = self._link()
        if not actions:
            return []
        if len(actions) <= MAX_BATCH:
            return await protocol.send_batch(actions)
        answers: list[Answer] = []
        for start in range(0, len(actions), MAX_BATCH):
            part = actions[start : start + MAX_BATCH]
            try:
                # Only ever the link the first part went over: a new one may be another Asterisk.
                answers += await protocol.send_batch(part)
            except NotConnected as error:
                answers += [error] * len(part)
        return answers

    async def list_action(
        self, action: Action, item_event: str | Collection[str], complete: str
    ) -> list[dict[str, str]]:
        """Send an action that is answered by a row of events, and collect those of these names.

        Raises NotConnected, OutcomeUnknown, BadAction, Refused.
        """
        names = (item_event,) if isinstance(item_event, str) else item_event
        wanted = frozenset(name.encode() for name in names)
        items: list[dict[str, str]] = await self._link().send_list(
            action, wanted, complete.encode(), raw=False
        )
        return items

    async def raw_list_actions(
        self,
        actions: Sequence[Action],
        item_event: str,
        complete: str,
        sizes: Sequence[int] = (),
    ) -> list[list[bytes]]:
        """Like `list_action` for each of them, in this order, but the items as they came, without
        their last CRLF.

        ``sizes``: how many bytes each answer will probably have; 0: like those before it. As many
        are sent at once as fill the window, so that actions of others are answered in between. A
        list that Asterisk refuses, or that cannot be sent, raises like all else, and the rest is
        given up.
        """
        protocol = self._link()
        wanted = (item_event.encode(),)
        lists: list[list[bytes]] = []
        waiting: deque[tuple[int, asyncio.Future[list[bytes]]]] = deque()
        on_its_way = arrived = 0

        async def arrives() -> None:
            nonlocal on_its_way, arrived
            lists.append(await waiting[0][1])
            arrived += LIST_FRAME + sum(map(len, lists[-1]))
            on_its_way -= waiting.popleft()[0]

        try:
            for index, action in enumerate(actions):
                size = sizes[index] if index < len(sizes) else 0
                while True:
                    guess = size or (arrived // len(lists) if lists else WINDOW // 4)
                    if not waiting or on_its_way + guess <= WINDOW:
                        break
                    await arrives()
                size = guess
                # Only ever the link the first part went over: a new one may be another Asterisk.
                future = protocol.send_list(action, wanted, complete.encode(), raw=True)
                waiting.append((size, future))
                on_its_way += size
            while waiting:
                await arrives()
        finally:
            for _, future in waiting:
                future.add_done_callback(_looked_at)
        return lists

    # events

    def register_event(self, pattern: str, callback: Any = None) -> Any:
        if hasattr(self, "_wanted"):
            self._wanted.clear()
        return super().register_event(pattern, callback)

    def incoming_event(self, name: bytes, raw: bytes) -> None:
        """An event that belongs to no list; parsed only when somebody wants its name."""
        wanted = self._wanted.get(name)
        if wanted is None:
            wanted = self._look_up(name)
        text, by_raw, by_callback, by_pattern = wanted
        if by_raw:
            assert self._on_raw is not None
            try:
                self._on_raw(name, raw)
            except Exception as error:
                self._complain(error)
        if by_callback:
            assert self._on_event is not None
            self._run(self._on_event, text, parse_headers(raw))
        if by_pattern:
            message = Message.from_line(raw.decode("utf-8", "replace"))
            if message is not None:
                self.dispatch(message)

    def _look_up(self, name: bytes) -> tuple[str, bool, bool, bool]:
        if len(name) > MAX_EVENT_NAME:
            return "", False, False, False
        text = name.decode("utf-8", "replace").strip()
        names = self._event_names
        wanted = (
            text,
            self._on_raw is not None and name in self._raw_names,
            self._on_event is not None and (names is None or text in names),
            # `FullyBooted` is the engine's own, for the replay that does not take place (A4).
            any(
                regexp.match(text) for pattern, regexp in self.patterns if pattern != "FullyBooted"
            ),
        )
        if len(self._wanted) > 1_000:
            self._wanted.clear()
        self._wanted[name] = wanted
        return wanted

    def dispatch(self, event: Message) -> list[str]:
        """A10: for callbacks registered by pattern; one that fails stops nothing else."""
        matches = []
        event.manager = self
        for pattern, regexp in self.patterns:
            if regexp.match(event.event) is not None:
                matches.append(pattern)
                for callback in self.callbacks[pattern]:
                    self._run(callback, self, event)
        return matches

    def _run(self, callback: Callable[..., Any], *args: object) -> None:
        try:
            outcome = callback(*args)
        except Exception as error:
            self._complain(error)
            return
        if outcome is not None and asyncio.iscoroutine(outcome):
            task = self.loop.create_task(outcome)
            self._tasks.add(task)
            task.add_done_callback(self._task_done)

    def _task_done(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._complain(error)

    def _complain(self, error: BaseException) -> None:
        self._fence.skipped("manager link", error, host=self.host, port=self.port)


def _looked_at(future: "asyncio.Future[Any]") -> None:
    if not future.cancelled():
        future.exception()
