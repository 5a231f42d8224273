"""The composition root: settings in, one TaskGroup; start and stop read as a list."""

import asyncio
import errno
import gc
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from fastagi import config
from fastagi.agents.errors import Refused
from fastagi.agents.fence import Fence, Supervisor
from fastagi.agents.limits import TimePolicy
from fastagi.agents.model import AgentState
from fastagi.agents.operations import QueuesUnavailable
from fastagi.agents.protection import NotConfirmed, Removal, losses, only_hopes
from fastagi.agents.reconciler import Reconciler
from fastagi.agents.service import AgentService, Policy, StoreUnavailable
from fastagi.agents.text import printable
from fastagi.agents.timers import Timers
from fastagi.agi.features import BUSY, PhoneSettings, handlers, unknown
from fastagi.agi.server import Server, raise_file_limit
from fastagi.agi.session import CommandFailed, ConnectionLost, Session, SessionTimeout
from fastagi.ami.asterisks import Asterisks
from fastagi.ami.client import Client, ManagerError, State
from fastagi.ami.news import EVENTS, News
from fastagi.ami.queues import Queues
from fastagi.bring_along import BringAlong
from fastagi.config import ConfigError, HostPort, Settings
from fastagi.config.settings import (
    AlreadyElsewhere,
    AsteriskSettings,
    ExtensionFrom,
    HttpSettings,
    InUseByAnother,
    MissingQueue,
)
from fastagi.contract import LINKED, LINKS, RECONCILE, RELOAD, RELOADED, REPAIRS, Sink
from fastagi.dialplan import out_of_date
from fastagi.outbox import lamp, queue_log, user_event
from fastagi.outbox.dispatcher import Dispatcher
from fastagi.outbox.hooks import HookDispatcher
from fastagi.outbox.metrics import Metrics
from fastagi.reload import Outcome as ReloadOutcome
from fastagi.reload import Reloader, Report, refused
from fastagi.store import (
    Difference,
    DirectoryConflict,
    PeeweeStore,
    Reading,
    Records,
    SchemaTooNew,
    StoreUnusable,
    parse,
)

if TYPE_CHECKING:  # a service without HTTP does not load what it takes
    from fastagi.api.guard import Guard
    from fastagi.api.server import HttpServer
    from fastagi.api.stream import Feed

log = structlog.get_logger()

T = TypeVar("T")

PATIENCE = 2.0  # seconds at start that a manager login may take before calls are answered
HTTP_PATIENCE = 10.0  # seconds at the end for requests; who sends half of one gets no more
LINE = 1000  # characters of one line for `fastagi reload`
OPEN_AGAIN = 1.0  # seconds between two attempts to open a database that is away
LAMPS_AT_ONCE = 100  # manager actions that a phone code may have to wait for

# Sections that are read once: sockets, links and the store live as long as the service.
FIXED = ("fastagi", "asterisks", "database", "http", "metrics")


def own_version() -> str:
    try:
        return version("fastagi-agentd")
    except PackageNotFoundError:  # run from a checkout, without an installation
        return "unknown"


def phone_settings(settings: Settings) -> PhoneSettings:
    login = settings.login
    return PhoneSettings(
        rules=settings.device_rules(),
        extension_from_endpoint=login.extension_from is ExtensionFrom.ENDPOINT,
        codes_from=login.from_,
        pin_tries=login.pin_tries,
        ask_to_move=login.already_elsewhere is AlreadyElsewhere.ASK,
        move=login.already_elsewhere is AlreadyElsewhere.MOVE,
        take_over=login.in_use_by_another is InUseByAnother.TAKE_OVER,
        when_in_call=login.logoff_in_call,
        pause_when_in_call=settings.pause.when_in_call,
        prompts=settings.prompts,
    )


def own_places(settings: Settings) -> tuple[tuple[str, int], ...]:
    """Where the service listens, and what it talks to with rights: no hook is delivered there."""
    fastagi = settings.fastagi
    listening = [fastagi.listen, fastagi.advertised, *fastagi.standby, settings.metrics.listen]
    if settings.http is not None:
        listening.append(settings.http.listen)
    managers = [(asterisk.host, asterisk.port) for asterisk in settings.asterisks]
    return (*((place.host, place.port) for place in listening if place is not None), *managers)


def policy(settings: Settings) -> Policy:
    return Policy(
        settings.login.lockout.rule(),
        settings.zone,
        settings.login.missing_queue is MissingQueue.REFUSE,
    )


def time_policy(settings: Settings) -> TimePolicy:
    return TimePolicy(
        zone=settings.zone,
        pause_after=settings.unplugged.pause_after,
        logoff_after=settings.unplugged.logoff_after,
        shift_end=settings.shift.logoff_at,
    )


class App:
    """The service. ``run`` starts everything, serves until ``stop`` is called, then drains.

    ``ready`` is called once the first call can be served.
    """

    def __init__(
        self,
        path: Path,
        ready: Callable[[], None] = lambda: None,
        *,
        new_database: bool = False,
    ) -> None:
        """``new_database``: start with another database than the last one, or an empty one."""
        self.path = path
        self._new_database = new_database
        self._opened = asyncio.Event()  # the store is
        self._ready = ready
        self._stop = asyncio.Event()
        self.reloader = Reloader(path, self._use)
        self._along: set[asyncio.Task[None]] = set()
        self._news: list[News] = []
        self._guard: Guard | None = None
        self.fence = Fence(log, self._faulty)
        self.supervisor = Supervisor(self.fence, self._stop.is_set)

    def _faulty(self, task: str) -> None:
        if hasattr(self, "metrics"):  # not yet, while it starts
            self.metrics.fault(task)

    def stop(self) -> None:
        self._stop.set()

    def reload(self) -> None:
        """SIGHUP."""
        self.reloader.signal()

    async def run(self) -> None:
        """Raises ConfigError, StoreUnusable or OSError when it cannot start. A database that is
        away is waited for: codes say "try again" until it is there."""
        with self._caught():
            await self._run()

    @contextmanager
    def _caught(self) -> Iterator[None]:
        """What callbacks of the loop and threads raise, nobody else hears of."""
        loop = asyncio.get_running_loop()

        def in_loop(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            error = context.get("exception")
            if error is None:
                loop.default_exception_handler(context)
            elif not isinstance(error, SystemExit | KeyboardInterrupt | asyncio.CancelledError):
                self.fence.skipped("event loop", error, said=str(context.get("message", "")))

        def in_thread(caught: threading.ExceptHookArgs) -> None:
            if caught.exc_value is not None:
                name = caught.thread.name if caught.thread else ""
                self.fence.skipped("threads", caught.exc_value, thread=name)

        before = threading.excepthook
        loop.set_exception_handler(in_loop)
        threading.excepthook = in_thread
        try:
            yield
        finally:
            loop.set_exception_handler(None)
            threading.excepthook = before

    async def _run(self) -> None:
        self.reloader.began_with(await asyncio.to_thread(config.content_digest, self.path))
        self.settings = await asyncio.to_thread(config.load, self.path, agents=False)
        settings = self._begun_with = self.settings
        store = self.store = PeeweeStore(parse(settings.database), serve=True, fence=self.fence)
        try:
            difference: Difference | None = None
            try:
                difference = await asyncio.to_thread(self._open, settings)
            except StoreUnusable:
                raise
            except StoreUnavailable as error:
                await asyncio.to_thread(config.load, self.path)  # its mistakes are said at once
                store.not_opened(error)
            else:
                self._store_opened()
            self.views = Reading(settings.database, store.file)
            self.metrics = Metrics(
                agents_by_state=self.views.agents_by_state,
                backlog=self.views.backlog,
                connected=lambda: {n: self.queues.connected(n) for n in self.queues.names},
                known=lambda asterisk: self.service.known(asterisk),
            )
            self.clients = {a.name: self._client(a) for a in settings.asterisks}
            self.queues = Asterisks(
                {
                    name: Queues(client, name, fence=self.fence, configured=self._queue_names)
                    for name, client in self.clients.items()
                }
            )
            self.service = AgentService(
                store, self.queues, store.pins, policy(settings), log, fence=self.fence
            )
            self.reconciler = Reconciler(
                self.service,
                log,
                rules=lambda: self.phone.rules,
                every=lambda: self.settings.reconcile.every,
                restored=self._set_lamps,
                counted=self.metrics.repaired,
                supervisor=self.supervisor,
            )
            self.timers = Timers(
                self.service,
                lambda: time_policy(self.settings),
                log,
                self.service.now,
            )
            self.phone = phone_settings(settings)
            self.along = BringAlong(self.service, store, lambda: self.phone.rules)
            self.dispatcher = Dispatcher(
                store.deliveries,
                {
                    Sink.USER_EVENT: user_event.sink(self.clients),
                    Sink.QUEUE_LOG: queue_log.sink(self.clients),
                    Sink.LAMP: lamp.sink(self.clients),
                },
                self.service.now,
                supervisor=self.supervisor,
                due_clock=store.clock.now,
                exclusive=store.exclusive,
            )
            self.hooks = HookDispatcher(
                store.hook_deliveries,
                self.service.now,
                lambda: self.settings.webhooks,
                self.metrics.hooked,
                fence=self.fence,
                own=own_places(settings),
                due_clock=store.clock.now,
                exclusive=store.exclusive,
            )
            store.on_dropped(self.metrics.dropped)
            store.health.on_figures.append(self.metrics.stored)
            self.service.store_usable = lambda: store.health.now.fault is None
            store.on_commit(self.dispatcher.wake)
            store.on_commit(self.hooks.wake)
            features = handlers(self.service, lambda: self.phone, self.metrics.called)
            files = raise_file_limit()
            web = None if settings.http is None else self._http(settings.http, files)
            server = Server(
                {
                    **features,
                    RECONCILE: self._reconcile_now,
                    RELOAD: self._reload_now,
                    LINKS: self._tell_links,
                },
                host=settings.fastagi.listen.host,
                port=settings.fastagi.listen.port,
                allow=settings.fastagi.allow,
                busy=features[BUSY],
                unknown=unknown,
                max_sessions=settings.fastagi.max_sessions,
                header_timeout=settings.fastagi.header_timeout.total_seconds(),
                session_deadline=settings.fastagi.session_deadline.total_seconds(),
                fence=self.fence,
                reserved=0 if web is None else web[0].most,
            )
            await self._serve(server, web, difference)
        finally:
            if hasattr(self, "views"):
                self.views.close()
            await store.close()

    def _http(self, settings: HttpSettings, files: int) -> "tuple[HttpServer, Feed]":
        from fastagi.api.asgi import application
        from fastagi.api.context import Context
        from fastagi.api.server import HttpServer, share_of_files
        from fastagi.api.stream import Feed

        feed = Feed(self.views, log, self.metrics, self.fence)
        self.store.on_commit(feed.wake)
        context = Context(
            service=self.service,
            directory=self.store,
            reading=self.views,
            hooks=self.store.hooks,
            records=Records(
                self.store,
                self.views,
                lambda: settings.created_agents,
                lambda: self.settings.language,
            ),
            tester=self.hooks,
            figures=self.metrics,
            feed=feed,
            http=settings,
            rules=lambda: self.phone.rules,
            login=lambda: self.settings.login,
            pause=lambda: self.settings.pause,
            version=own_version(),
            log=log,
            storage=self.store.health,
            tasks_down=lambda: self.supervisor.down,
        )
        self._guard = application(context)
        most = share_of_files(settings, files)
        if most < settings.max_listeners:
            log.warning("fewer HTTP connections: the limit on open files is low", connections=most)
        return HttpServer(self._guard, settings, feed.end, most), feed

    async def _figures(self, listen: HostPort | None) -> "HttpServer | None":
        """Prometheus's own port. Raises OSError."""
        if listen is None:
            return None
        from fastagi.api.figures import CONNECTIONS, FiguresAlone
        from fastagi.api.server import HttpServer

        http = HttpSettings(listen=listen)
        server = HttpServer(FiguresAlone(self.metrics), http, most=CONNECTIONS)
        with listening_at("metrics.listen", listen):
            await server.start()
        return server

    def _client(self, asterisk: AsteriskSettings) -> Client:
        """The manager link to one Asterisk, and whoever wants to know what it tells."""
        name = asterisk.name
        news = News(
            name,
            lambda members: self.reconciler.noticed(members),
            lambda members: self.timers.reachable(members),
            lambda interface, asterisk: self.reconciler.call_ended(interface, asterisk),
            on_missed=lambda: self._look_again(name),
            fence=self.fence,
        )
        self._news.append(news)

        def connected() -> None:
            log.info("connected to Asterisk's manager interface", **named(name))
            news.forget()
            self._look_again(name)
            self.dispatcher.wake()

        return Client(
            asterisk.host,
            asterisk.port,
            asterisk.username,
            asterisk.secret.get_secret_value(),
            action_timeout=asterisk.timeout.total_seconds(),
            event_names=(),
            raw_names=EVENTS,
            on_raw=news.take,
            on_ready=connected,
            on_answered=partial(self.metrics.acted, name),
            fence=self.fence,
        )

    async def _queue_names(self) -> list[str]:
        """As Asterisk has them: those that are configured, and were. Raises StoreUnavailable."""
        return [name for name, _ in (await self.store.queue_names()).values()]

    def _look_again(self, asterisk: str) -> None:
        self.reconciler.reconnected(asterisk)
        self.timers.reconnected(asterisk)

    async def _serve(
        self,
        server: Server,
        web: "tuple[HttpServer, Feed] | None",
        difference: Difference | None,
    ) -> None:
        """``difference`` is None while the store is not open."""
        async with asyncio.TaskGroup() as group:

            def kept(name: str, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
                """Begun again when it fails, for as long as the service runs."""
                return group.create_task(self.supervisor.keep(name, work), name=name)

            def once(name: str, work: Awaitable[None]) -> asyncio.Task[None]:
                """Not missed when it fails."""
                return group.create_task(self._fenced(name, work), name=name)

            tasks = [
                kept("look after the database", self.store.health.run),
                kept("tidy up the database", self.store.tidy_up),
                kept("reconcile", self.reconciler.run),
                kept("timers", self.timers.run),
                kept("deliver", self.dispatcher.run),
                kept("deliver to hooks", self.hooks.run),
                kept("watch the configuration", self.reloader.watch),
                kept("reload", self.reloader.run),
            ]
            if difference is None:
                # Not fenced: what only the admin can mend ends the service.
                tasks.append(group.create_task(self._open_later(once), name="open the store"))
            else:
                self._begin_with(difference, once)
            figures = await self._figures(self.settings.metrics.listen)
            for client in self.clients.values():
                await client.start()
            await self._first_attempts()
            with listening_at("fastagi.listen", self.settings.fastagi.listen):
                await server.start()
            listening = {"port": server.port}
            if web is not None:
                http, feed = web
                tasks.append(kept("tell listeners", feed.run))
                try:
                    assert self._begun_with.http is not None
                    with listening_at("http.listen", self._begun_with.http.listen):
                        await http.start()
                except OSError as error:
                    # Its certificate is gone, its port is taken: the phones work all the same.
                    log.error("HTTP is not served", error=error.strerror or str(error))
                else:
                    listening["http"] = http.port
                    if self.settings.http is not None and not self.settings.http.tokens:
                        log.info("HTTP without tokens: all programs on this machine may control")
            log.info("listening", **listening)
            # What is there now stays: the collector need not look through it again.
            gc.collect()
            gc.freeze()
            gc.set_threshold(50_000, 20, 50)
            self._ready()
            await self._stop.wait()
            log.info("stopping: calls in progress finish", calls=server.active)
            patience = self.settings.fastagi.drain.total_seconds()
            draining = [server.drain(patience)]
            if web is not None:
                draining.append(web[0].drain(min(patience, HTTP_PATIENCE)))
            if figures is not None:
                draining.append(figures.drain(1))
            await asyncio.gather(*draining)
            # What the last calls made known still goes out, if it goes at once.
            await asyncio.sleep(0.05)
            ending = [*reversed(tasks), *self._along]
            for task in ending:
                task.cancel()
            await asyncio.gather(*ending, return_exceptions=True)
            for news in self._news:
                await news.close()
            for client in self.clients.values():
                await client.close()
        log.info("stopped")

    async def _fenced(self, name: str, work: Awaitable[None]) -> None:
        with self.fence.item(name):
            await work

    # -- the store

    def _open(self, settings: Settings) -> Difference:
        """The store in line with the settings; blocks. The agents are read only when the
        configuration is not the one brought in last: ten thousand of them take a second."""
        store = self.store
        store.open(new=self._new_database)
        if store.knows(settings.fingerprint_material):
            self.reloader.warn(settings)
            return Difference()
        settings = config.load(self.path)
        self.reloader.warn(settings)

        def allow(removal: Removal) -> None:
            # Which device rules there were nobody knows any more.
            if found := losses(removal):
                raise NotConfirmed(found)

        try:
            difference = store.bring_in(settings, allow)
        except NotConfirmed as error:
            # The phones are served, by the agents, queues and pause reasons there were.
            self.reloader.was_refused(settings.fingerprint_material)
            refused(error.losses, meanwhile="agents, queues and pause reasons are those of before")
            return Difference()
        report(difference)
        return difference

    def _store_opened(self) -> None:
        self.store.opened()
        self._opened.set()

    async def _open_later(self, once: Callable[[str, Awaitable[None]], object]) -> None:
        """Until the store is there. Raises StoreUnusable, SchemaTooNew, DirectoryConflict."""
        while True:
            await asyncio.sleep(OPEN_AGAIN)
            try:
                settings = await asyncio.to_thread(config.load, self.path, agents=False)
                difference = await asyncio.to_thread(self._open, settings)
            except StoreUnusable:
                raise
            except StoreUnavailable as error:
                self.store.not_opened(error)
            except ConfigError as error:
                problem = str(error.problems[0]) if error.problems else str(error)
                self.store.not_opened(StoreUnavailable(f"the configuration has errors: {problem}"))
            except (SchemaTooNew, DirectoryConflict):
                raise
            except Exception as error:  # no admin can mend it; it may pass
                self.fence.skipped("open the store", error)
            else:
                break
        self._store_opened()
        await self.store.health.ask()
        self.store.wake()
        for name in self.clients:
            self._look_again(name)
        self._begin_with(difference, once)

    def _begin_with(
        self, difference: Difference, once: Callable[[str, Awaitable[None]], object]
    ) -> None:
        once("bring along", self.along.run(difference))
        once("warm up", self._warm_up())

    async def _first_attempts(self) -> None:
        """The first call finds the links there, unless an Asterisk is away or slow."""
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while asyncio.get_running_loop().time() < deadline and any(  # noqa: ASYNC110 - once
            client.state is State.CONNECTING for client in self.clients.values()
        ):
            await asyncio.sleep(0.005)

    async def _warm_up(self) -> None:
        try:
            await self.store.warm_up()
        except StoreUnavailable as error:
            log.warning("the agents could not be read ahead", error=str(error))

    # -- what an admin asks for

    async def _reconcile_now(self, session: Session) -> None:
        """``fastagi reconcile``, over the way that calls take."""
        try:
            done = await self.reconciler.all_now()
        except (StoreUnavailable, QueuesUnavailable, Refused) as error:
            answer = f"UNAVAILABLE: {error}"
        else:
            answer = ", ".join(f"{n} {kind}" for kind, n in sorted(done.items())) or "nothing"
        with suppress(CommandFailed, ConnectionLost, SessionTimeout):
            await session.set_variable(REPAIRS, answer[:200])

    async def _reload_now(self, session: Session) -> None:
        """``fastagi reload``, over the same way."""
        confirm = "confirm" in session.request.args
        try:
            done = await self.reloader.command(confirm)
        except StoreUnavailable as error:
            done = Report(ReloadOutcome.STORE_AWAY, (str(error),))
        with suppress(CommandFailed, ConnectionLost, SessionTimeout):
            for number, line in enumerate(done.lines, 1):
                await session.set_variable(f"{RELOADED}_{number}", printable(line)[:LINE])
            await session.set_variable(RELOADED, done.outcome)

    async def _tell_links(self, session: Session) -> None:
        """What `fastagi agents` rests on: the store, and each Asterisk that is connected."""
        words = ["store=usable"] if self.service.store_usable() else []
        words += [f"asterisk={n}" for n in self.queues.names if self.queues.connected(n)]
        with suppress(CommandFailed, ConnectionLost, SessionTimeout):
            await session.set_variable(LINKED, " ".join(words) or "nothing")

    # -- after a restart of Asterisk

    async def _set_lamps(self, asterisk: str, agents: list[AgentState]) -> None:
        """Asterisk writes custom device states to its database now and then: after a crash some
        are of before."""
        pauses = [agent.pause.id for agent in agents if agent.pause is not None]
        actions = lamp.refresh(agents, await self.store.exceeded(pauses))
        for i in range(0, len(actions), LAMPS_AT_ONCE):
            try:
                answers = await self.clients[asterisk].actions(actions[i : i + LAMPS_AT_ONCE])
            except ManagerError as error:
                raise QueuesUnavailable(str(error)) from None
            if failed := sum(isinstance(answer, Exception) for answer in answers):
                log.warning("lamps were not set", count=failed, **named(asterisk))

    # -- the configuration while serving

    async def _lacking(self, settings: Settings) -> dict[str, set[str]]:
        """By Asterisk: queues that it lacks and that agents would get for all they have now; as far
        as it can be asked. Raises StoreUnavailable."""
        removal = await asyncio.to_thread(self.views.removal, settings)
        lacking: dict[str, set[str]] = {}
        for asterisk, queues in only_hopes(removal).items():
            with suppress(QueuesUnavailable, KeyError):
                lacking[asterisk] = await self.queues.lacking(asterisk, sorted(queues))
        return lacking

    async def _use(self, settings: Settings, confirmed: bool) -> list[str]:
        """Brings changed settings in. Returns what there is to be known of it; raises NotConfirmed,
        DirectoryConflict and StoreUnavailable, and then nothing was changed."""
        before, rules = self.settings, self.phone.rules
        lacking = await self._lacking(settings)

        def allow(removal: Removal) -> None:
            found = losses(removal, rules, settings.device_rules(), lacking)
            if found and not confirmed:
                raise NotConfirmed(found)
            for loss in found:
                log.warning("done as it was confirmed", what=str(loss))

        difference = await asyncio.to_thread(self.store.bring_in, settings, allow)
        self.settings = without_agents(settings)
        self.phone = phone_settings(settings)
        self.service.policy = policy(settings)
        if self._guard is not None and settings.http is not None:
            self._guard.use(settings.http.tokens)
        report(difference)
        lines = difference.lines()
        for section in FIXED:
            if _fixed(settings, section) != _fixed(self._begun_with, section):
                log.warning("needs a restart to take effect", section=section)
                lines.append(f"{section}: needs a restart to take effect")
        for stale in out_of_date(before, self.settings):
            what = ", ".join(stale.settings)
            log.warning("the dialplan is out of date", what=what, run_again=stale.mend)
            lines.append(f"{what}: run again: {stale.mend}")
        log.info("the configuration was reloaded")
        # Not awaited: it may have to wait for Asterisk, and the next reload must not.
        task = asyncio.create_task(self.along.run(difference), name="bring along")
        self._along.add(task)
        task.add_done_callback(self._brought_along)
        return lines

    def _brought_along(self, task: asyncio.Task[None]) -> None:
        self._along.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("not everybody was brought along", error=str(error))


@contextmanager
def listening_at(setting: str, place: HostPort) -> Iterator[None]:
    """An OSError says in its text which setting it is about, which address, and what to do."""
    cures = {
        errno.EADDRINUSE: "`ss -ltnp 'sport = :{port}'` shows by whom: stop it, or take another",
        errno.EADDRNOTAVAIL: "no interface of this machine has this address",
        errno.EACCES: "ports below 1024 are not for every user: give another port",
    }
    try:
        yield
    except OSError as error:
        cure = cures.get(error.errno or 0)
        if cure is None:
            raise
        why = os.strerror(error.errno or 0)
        text = f"{setting}: {place}: {why}: {cure.format(port=place.port)}"
        raise OSError(error.errno, text) from error


def _fixed(settings: Settings, section: str) -> object:
    """What is read once; the tokens are not."""
    its = getattr(settings, section)
    return its.model_copy(update={"tokens": None}) if isinstance(its, HttpSettings) else its


def named(asterisk: str) -> dict[str, str]:
    """For the log: the Asterisk's name, where there are several."""
    return {"asterisk": asterisk} if asterisk else {}


def without_agents(settings: Settings) -> Settings:
    """The store has them now: thousands kept here would be looked through for garbage for ever."""
    return settings.model_copy(update={"agents": None})


def report(difference: Difference) -> None:
    for line in difference.lines():
        log.info("brought in", what=line)


async def serve(
    path: Path, ready: Callable[[], None] = lambda: None, *, new_database: bool = False
) -> None:
    """Serves until SIGTERM or SIGINT; SIGHUP reloads."""
    app = App(path, ready, new_database=new_database)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, app.stop)
    loop.add_signal_handler(signal.SIGINT, app.stop)
    loop.add_signal_handler(signal.SIGHUP, app.reload)
    await app.run()


def run(main: Callable[[], Awaitable[None]]) -> None:
    """On uvloop where it is installed and not switched off (``FASTAGI_LOOP=asyncio``)."""
    if os.environ.get("FASTAGI_LOOP", "uvloop") == "uvloop":
        try:
            import uvloop
        except ImportError:
            pass
        else:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_coroutine(main))
            return
    with asyncio.Runner() as runner:
        runner.run(_coroutine(main))


async def _coroutine(main: Callable[[], Awaitable[None]]) -> None:
    await main()
