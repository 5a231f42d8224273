"""The door: listens, looks who comes, and gives each call a session. Knows no agents.

Sockets are read and written here directly, with the loop telling when: a call costs no transport,
no second task and no buffer of its own. All connections share one receive buffer, which is free
again before the loop does anything else. It runs on asyncio's loop and on uvloop.

A connection is *waiting* until its headers are complete, then its call is *in progress*. Both have
bounds of their own, so that no number of silent connections takes a place from a call.
"""

import asyncio
import resource
import socket
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final

import structlog

from fastagi.agents.fence import Fence
from fastagi.agi.protocol import Hangup, ProtocolError, Reply, Request, Wire, printable
from fastagi.agi.session import ConnectionLost, Session, SessionError, SessionTimeout

log = structlog.get_logger()

Handler = Callable[[Session], Awaitable[None]]
Network = IPv4Network | IPv6Network

TASK: Final = "calls"  # for the log and the metrics
BACKLOG: Final = 4_096  # 100, asyncio's own, loses calls that come in the same instant
ACCEPT_AT_ONCE: Final = 512  # then the calls in progress have their turn
RECEIVE_BYTES: Final = 65_536
MAX_WAITING: Final = 8_192  # connections without complete headers; the oldest makes room
MAX_BUSY: Final = 256  # calls being told that all places are taken; more are closed
MAX_UNSENT: Final = 65_536  # one command is under 8,000 bytes, and one is in flight
BUSY_DEADLINE: Final = 15.0  # seconds for the polite answer
HANDLER_GRACE: Final = 10.0  # seconds a handler may go on after its session's deadline
FLUSH_SECONDS: Final = 2.0  # for what could not be sent at once when a session is over
DRAIN_HEADERS: Final = 1.0  # seconds for connections whose headers are under way when draining
CANCEL_SECONDS: Final = 2.0  # for handlers to clean up when they are cut off
RETRY_ACCEPT: Final = 0.1  # seconds without accepting when file descriptors run out
LOG_EVERY: Final = 60.0  # seconds between two lines about the same thing from the same address


class Server:
    """FastAGI on one port: script paths to handlers.

    handlers         script path ("agent/login") -> coroutine; any other path goes to ``unknown``
    host, port       where to listen; port 0 takes a free one, see `port` after `start`
    allow            addresses and networks that may connect; others are closed at once
    max_sessions     calls in progress at once; the next ones go to ``busy``
    header_timeout   seconds until the headers must be complete
    session_deadline seconds a call may take in all; then its commands raise SessionTimeout
    busy, unknown    handlers for one call too many and for a script nobody knows
    reserved         descriptors that are somebody else's, such as HTTP's connections

    `served` counts handlers that ended, `refused` connections closed without one (a foreign
    address, too many calls), `dropped` those that never sent complete headers.
    """

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        *,
        host: str,
        port: int,
        allow: Iterable[str | Network],
        busy: Handler,
        unknown: Handler,
        max_sessions: int = 5_000,
        header_timeout: float = 5.0,
        session_deadline: float = 300.0,
        fence: Fence | None = None,
        reserved: int = 0,
    ) -> None:
        self.fence = fence or Fence(log)
        self._handlers = dict(handlers)
        self._host = host
        self._port = port
        self._allow = tuple(
            network if isinstance(network, IPv4Network | IPv6Network) else ip_network(network)
            for network in allow
        )
        self._busy_handler = busy
        self._unknown = unknown
        self._max_sessions = max_sessions
        self._reserved = reserved
        self._max_waiting = MAX_WAITING
        self._max_busy = MAX_BUSY
        self.served = 0
        self.refused = 0
        self.dropped = 0
        self._known: dict[str, bool] = {}  # addresses looked up in the allow-list
        self._logged: dict[tuple[str, str], float] = {}
        self._listeners: list[socket.socket] = []
        self._resume: asyncio.TimerHandle | None = None
        self._emptied: asyncio.Future[None] | None = None  # while draining
        self._sessions = _Deadlines(session_deadline, self._session_expired)
        self._busy = _Deadlines(min(BUSY_DEADLINE, session_deadline), self._session_expired)
        self._waiting = _Deadlines(header_timeout, self._headers_expired)
        self._late = _Deadlines(HANDLER_GRACE, self._handler_expired)
        self.buffer = memoryview(bytearray(RECEIVE_BYTES))

    @property
    def port(self) -> int:
        return self._port

    @property
    def active(self) -> int:
        """Calls in progress, those being told that it is busy among them."""
        return len(self._sessions) + len(self._busy) + len(self._late)

    @property
    def waiting(self) -> int:
        """Connections whose headers are not complete."""
        return len(self._waiting)

    async def start(self) -> None:
        """Listen. Raises OSError when that is not possible."""
        self.loop = asyncio.get_running_loop()
        self._share_out(raise_file_limit())
        infos = await self.loop.getaddrinfo(
            self._host or None, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        try:
            for family, kind, protocol, _, address in dict.fromkeys(infos):
                listener = socket.socket(family, kind, protocol)
                self._listeners.append(listener)
                listener.setblocking(False)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                # Inherited by every accepted socket.
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if family == socket.AF_INET6:
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                listener.bind((address[0], self._port, *address[2:]))
                listener.listen(BACKLOG)
                self._port = listener.getsockname()[1]
        except OSError:
            self._close_listeners()
            raise
        self._start_accepting()
        log.info("fastagi listening", host=self._host, port=self._port)

    async def drain(self, timeout: float) -> None:
        """Stop accepting, let the calls in progress end, and cut off what is left after that.

        timeout: seconds. Connections that Asterisk has already made are served, too.
        """
        for listener in self._listeners:
            for _ in range(BACKLOG // ACCEPT_AT_ONCE):
                self._accept(listener)
        self._close_listeners()
        if self._resume is not None:
            self._resume.cancel()
        if self._connections():
            emptied = self._emptied = self.loop.create_future()
            headers = self.loop.call_later(min(DRAIN_HEADERS, timeout), self._drop_waiting)
            await asyncio.wait([emptied], timeout=timeout)
            headers.cancel()
            self._drop_waiting()
        left = [*self._sessions, *self._busy, *self._late]
        tasks = [call.task for call in left if call.task is not None]
        if tasks:
            log.warning("calls cut off", calls=len(tasks))
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=CANCEL_SECONDS)
            for call in left:
                call.abort()
        for deadlines in (self._sessions, self._busy, self._waiting, self._late):
            deadlines.stop()

    # --- listening ------------------------------------------------------------------------------

    def _share_out(self, files: int) -> None:
        """Bounds that together stay below the limit on open files, so accepting never fails."""
        usable = files - min(512, files // 4) - self._reserved
        sessions = min(self._max_sessions, usable * 2 // 3)
        if sessions < self._max_sessions:
            log.warning("fewer calls at once: the limit on open files is low", calls=sessions)
        self._max_sessions = sessions
        self._max_busy = min(MAX_BUSY, max(1, (usable - sessions) // 4))
        self._max_waiting = max(1, min(MAX_WAITING, usable - sessions - self._max_busy))

    def _start_accepting(self) -> None:
        self._resume = None
        for listener in self._listeners:
            self.loop.add_reader(listener.fileno(), self._accept, listener)

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            if listener.fileno() >= 0:
                self.loop.remove_reader(listener.fileno())
            listener.close()
        self._listeners.clear()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPT_AT_ONCE):
            try:
                sock, address = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:
                continue  # gone before its turn came
            except OSError as error:  # out of file descriptors or memory
                self._pause_accepting(error)
                return
            host = address[0]
            if not self._allowed(host):
                sock.close()
                self.refused += 1
                if self._may_log("not allowed", host):
                    log.warning("connection from an address that is not allowed", address=host)
                continue
            if len(self._waiting) >= self._max_waiting:
                oldest = self._waiting.oldest()
                if self._may_log("too many waiting", oldest.address):
                    log.warning("silent connections dropped", address=oldest.address)
                self._drop(oldest)
            sock.setblocking(False)
            connection = Connection(self, sock, host)
            self._waiting.add(connection)
            self.loop.add_reader(sock.fileno(), connection.readable)

    def _pause_accepting(self, error: OSError) -> None:
        """Without this the loop would spin: the listener stays readable while nobody is taken."""
        for listener in self._listeners:
            self.loop.remove_reader(listener.fileno())
        if self._resume is None:
            self._resume = self.loop.call_later(RETRY_ACCEPT, self._start_accepting)
        if self._may_log("cannot accept", ""):
            log.error("no connection can be accepted", error=str(error), calls=self.active)
        for _ in range(len(self._waiting) // 8):
            self._drop(self._waiting.oldest())

    def _allowed(self, host: str) -> bool:
        allowed = self._known.get(host)
        if allowed is None:
            address = ip_address(host.partition("%")[0])
            allowed = any(
                address.version == network.version and address in network for network in self._allow
            )
            if len(self._known) >= 1_024:
                self._known.clear()
            self._known[host] = allowed
        return allowed

    def _may_log(self, what: str, address: str) -> bool:
        """Once per address and minute: whoever knocks must not fill the disk."""
        now = self.loop.time()
        last = self._logged.get((what, address))
        if last is not None and now - last < LOG_EVERY:
            return False
        if len(self._logged) >= 1_024:
            self._logged.clear()
        self._logged[what, address] = now
        return True

    # --- calls ----------------------------------------------------------------------------------

    def requested(self, connection: "Connection", request: Request) -> Session | None:
        """The headers are complete: a session for it, or None when there is no place at all."""
        self._waiting.discard(connection)
        if len(self._sessions) < self._max_sessions:
            handler = self._handlers.get(request.script, self._unknown)
            deadlines = self._sessions
        elif len(self._busy) < self._max_busy:
            handler = self._busy_handler
            deadlines = self._busy
            if self._may_log("busy", ""):
                log.warning("too many calls at once", calls=self._max_sessions)
        else:
            self.refused += 1
            connection.abort()
            return None
        deadlines.add(connection)
        session = Session(request, connection.write, self.loop)
        connection.task = self.loop.create_task(
            self._serve(connection, session, handler, deadlines)
        )
        return session

    async def _serve(
        self, connection: "Connection", session: Session, handler: Handler, place: "_Deadlines"
    ) -> None:
        try:
            await handler(session)
        except SessionError as error:
            log.debug(
                "call ended early", channel=printable(session.request.channel), why=str(error)
            )
        except Exception as error:
            self.fence.skipped(
                TASK,
                error,
                script=printable(session.request.script),
                channel=printable(session.request.channel),
            )
        finally:
            self.served += 1
            place.discard(connection)
            self._late.discard(connection)
            connection.close()
            self._check_emptied()

    def lost(self, connection: "Connection") -> None:
        """The socket is closed before there was a session."""
        if self._waiting.discard(connection):
            self.dropped += 1
        self._check_emptied()

    def malformed(self, connection: "Connection", error: ProtocolError) -> None:
        if self._may_log("malformed", connection.address):
            log.warning(
                "not AGI", address=connection.address, error=type(error).__name__, why=str(error)
            )

    def _drop(self, connection: "Connection") -> None:
        connection.abort()

    def _drop_waiting(self) -> None:
        for connection in list(self._waiting):
            self._drop(connection)

    def _connections(self) -> bool:
        return bool(self.active or len(self._waiting))

    def _check_emptied(self) -> None:
        emptied = self._emptied
        if emptied is not None and not emptied.done() and not self._connections():
            emptied.set_result(None)

    def _headers_expired(self, connection: "Connection") -> None:
        if self._may_log("headers expired", connection.address):
            log.info("no complete headers in time", address=connection.address)
        self._drop(connection)

    def _session_expired(self, connection: "Connection") -> None:
        session = connection.session
        assert session is not None
        log.warning("call took too long", channel=printable(session.request.channel))
        self._sessions.discard(connection)
        self._busy.discard(connection)
        self._late.add(connection)
        session.end(SessionTimeout("the call took too long"))

    def _handler_expired(self, connection: "Connection") -> None:
        self._late.discard(connection)
        if connection.task is not None:
            log.error("handler cut off", channel=connection.channel)
            connection.task.cancel()
            self._late.add(connection)  # until it has ended


class Connection:
    """One accepted socket: reads into the server's buffer, writes at once."""

    __slots__ = ("_closing", "_server", "_sock", "_unsent", "_wire", "address", "session", "task")

    def __init__(self, server: Server, sock: socket.socket, address: str) -> None:
        self._server = server
        self._sock: socket.socket | None = sock
        self._wire = Wire()
        self._unsent: bytearray | None = None
        self._closing = False
        self.address = address
        self.session: Session | None = None
        self.task: asyncio.Task[None] | None = None

    @property
    def channel(self) -> str:
        return "" if self.session is None else printable(self.session.request.channel)

    def readable(self) -> None:
        sock = self._sock
        if sock is None:
            return
        buffer = self._server.buffer
        try:
            size = sock.recv_into(buffer)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:  # a reset: normal when Asterisk still had HANGUP to say
            self._lost(ConnectionLost(str(error)))
            return
        if not size:
            self._lost(ConnectionLost("closed by Asterisk"))
            return
        try:
            for event in self._wire.receive(bytes(buffer[:size])):
                session = self.session
                if session is None:
                    if type(event) is Request:
                        self.session = self._server.requested(self, event)
                elif type(event) is Reply:
                    session.reply_received(event)
                elif type(event) is Hangup:
                    session.caller_hung_up()
                    # Asterisk may have closed already, and reset the connection if a command was
                    # on its way. libuv calls once for "data and error", then never again: look
                    # whether there is more, or the command in flight would wait for its deadline.
                    self._server.loop.call_soon(self.readable)
        except ProtocolError as error:
            self._server.malformed(self, error)
            lost = ConnectionLost(f"not AGI: {type(error).__name__}")
            # A traceback would hold this connection, with all it has received, in a cycle.
            lost.__cause__ = error.with_traceback(None)
            self._lost(lost)
        except Exception as error:  # ours: this call alone is lost
            self._server.fence.skipped(TASK, error, address=self.address)
            self._lost(ConnectionLost("a fault of the service"))

    def write(self, data: bytes) -> None:
        """Send, or keep what the socket does not take yet. A lost connection ends the session."""
        sock = self._sock
        if sock is None:
            return
        if self._unsent:
            self._unsent += data
            if len(self._unsent) > MAX_UNSENT:
                self._lost(ConnectionLost("Asterisk does not read"))
            return
        try:
            sent = sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self._lost(ConnectionLost(str(error)))
            return
        if sent < len(data):
            self._unsent = bytearray(data[sent:])
            self._server.loop.add_writer(sock.fileno(), self._writable)

    def _writable(self) -> None:
        sock = self._sock
        if sock is None or not self._unsent:
            return
        try:
            sent = sock.send(self._unsent)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lost(ConnectionLost(str(error)))
            return
        del self._unsent[:sent]
        if not self._unsent:
            self._server.loop.remove_writer(sock.fileno())
            self._unsent = None
            if self._closing:
                self.abort()

    def close(self) -> None:
        """The handler is done: close when all is sent."""
        self._closing = True
        # A session writes through its connection: without this, each call would wait for the
        # garbage collector.
        self.session = self.task = None
        if self._unsent and self._sock is not None:
            self._server.loop.remove_reader(self._sock.fileno())
            self._server.loop.call_later(FLUSH_SECONDS, self.abort)
        else:
            self.abort()

    def abort(self) -> None:
        """Close now."""
        self._lost(ConnectionLost("closed"))

    def _lost(self, error: ConnectionLost) -> None:
        sock, self._sock = self._sock, None
        if sock is None:
            return
        loop = self._server.loop
        loop.remove_reader(sock.fileno())
        if self._unsent:
            loop.remove_writer(sock.fileno())
            self._unsent = None
        sock.close()
        if self.session is not None:
            self.session.end(error)
        else:
            self._server.lost(self)


class _Deadlines:
    """Connections that all have the same time from when they were added: one timer for all.

    They expire in the order in which they came, so only the first needs watching.
    """

    __slots__ = ("_due", "_expire", "_seconds", "_timer")

    def __init__(self, seconds: float, expire: Callable[[Connection], None]) -> None:
        self._seconds = seconds
        self._expire = expire
        self._due: OrderedDict[Connection, float] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._due)

    def __iter__(self) -> Iterator[Connection]:
        return iter(self._due)

    def add(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        due = self._due[connection] = loop.time() + self._seconds
        if self._timer is None:
            self._timer = loop.call_at(due, self._run, loop)

    def discard(self, connection: Connection) -> bool:
        """Take it out; False when it was not in."""
        return self._due.pop(connection, None) is not None

    def oldest(self) -> Connection:
        return next(iter(self._due))

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        expired = []
        for connection, due in self._due.items():
            if due > now:
                self._timer = loop.call_at(due, self._run, loop)
                break
            expired.append(connection)
        for connection in expired:
            self._expire(connection)


def raise_file_limit() -> int:
    """Raise the soft limit on open files to the hard one and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 1_048_576 if hard == resource.RLIM_INFINITY else hard
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        return soft
    return wanted
