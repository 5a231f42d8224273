"""When the configuration is read again, and what confirms it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from fastagi import reload
from fastagi.agents.fence import Fence, Supervisor
from fastagi.agents.protection import Loss, NotConfirmed
from fastagi.agents.service import StoreUnavailable
from fastagi.config import Settings, content_digest, load
from fastagi.reload import Outcome, Reloader

TEXT = "asterisk: {secret: x}\ndevices: []\npause_reasons: []\nqueues: []\nagents: []\n"
LOST = NotConfirmed([Loss("4001", "is logged in, and would be archived")])


class Service:
    """What the reloader brings settings into: it notes them, and answers as it is told."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.used: list[tuple[str, bool]] = []
        self.answers: list[Any] = []
        self.tried = asyncio.Event()
        self.reloader = Reloader(place, self.use)
        self.reloader.began_with(content_digest(place))

    async def use(self, settings: Settings, confirmed: bool) -> list[str]:
        self.used.append((settings.language, confirmed))
        self.tried.set()
        answer = self.answers.pop(0) if self.answers else []
        if isinstance(answer, Exception) and not (confirmed and answer is LOST):
            raise answer
        return [] if isinstance(answer, Exception) else answer

    async def tries(self, count: int) -> None:
        """Waits for so many in all."""
        while len(self.used) < count:
            self.tried.clear()
            await asyncio.wait_for(self.tried.wait(), 20)


@asynccontextmanager
async def running(place: Path) -> AsyncIterator[Service]:
    service = Service(place)
    tasks = [asyncio.create_task(work()) for work in (service.reloader.watch, service.reloader.run)]
    try:
        yield service
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(reload, "LOOK_EVERY", 0.01)
    monkeypatch.setattr(reload, "STILL_FOR", 0.05)
    monkeypatch.setattr(reload, "STORE_AGAIN", 0.01)
    (tmp_path / "a.yml").write_text(TEXT)
    return tmp_path


async def looked(monkeypatch: pytest.MonkeyPatch, times: int = 20) -> None:
    """Waits until the watch has looked so often."""
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    seen = 0
    real = reload.config.signature

    def signature(path: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen >= times:
            loop.call_soon_threadsafe(done.set)
        return real(path)

    with monkeypatch.context() as patched:
        patched.setattr(reload.config, "signature", signature)
        await asyncio.wait_for(done.wait(), 30)


def write(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)


async def test_a_changed_file_is_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(folder) as service:
        write(folder, "b.yml", "language: fr\n")
        await service.tries(1)
        await looked(monkeypatch)
        assert service.used == [("fr", False)]
        write(folder, "b.yml", "language: de\n")
        await service.tries(2)
    assert service.used == [("fr", False), ("de", False)]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("language: fr_FR\n", "language: fr", True),
        ("language: fr_FR\n", "language: fr\n", False),  # shorter, and whole
        ("language: fr\n", "language: fr_FR", False),  # some editors write no last line break
        ("language: fr_FR", "language: fr", False),
    ],
)
async def test_a_file_that_may_be_cut_is_said(
    folder: Path, before: str, after: str, said: bool
) -> None:
    """A PIN or a name that was cut in its middle is one still."""
    write(folder, "b.yml", before)
    async with running(folder) as service:
        with capture_logs() as logs:
            write(folder, "b.yml", after)
            report = await service.reloader.command(confirm=False)
    assert report.outcome is Outcome.RELOADED
    told = [entry["file"] for entry in logs if entry["event"] == reload.MAY_BE_CUT]
    assert told == ([str(folder / "b.yml")] if said else [])
    assert len(report.lines) == len(told)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: write(folder, "fastagi.db", "x"),
        lambda folder: write(folder, "fastagi.db-wal", "x"),
        lambda folder: write(folder, "service.log", "x"),
        lambda folder: write(folder, "notes.txt", "x"),
        lambda folder: write(folder, "agents.yml.bak", TEXT),
        lambda folder: write(folder, ".agents.yml.swp", "x"),
        lambda folder: write(folder, ".hidden.yml", "x"),
        lambda folder: (folder / "old").mkdir(),
        lambda folder: (folder / "a.yml").touch(),
        lambda folder: write(folder, "a.yml", TEXT),
        lambda folder: (folder / "a.yml").chmod(0o600),
    ],
)
async def test_what_is_no_change(
    folder: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    async with running(folder) as service:
        await looked(monkeypatch)
        change(folder)
        await looked(monkeypatch)
        assert service.used == []
        write(folder, "b.yml", "language: fr\n")
        await service.tries(1)
    assert service.used == [("fr", False)]


async def test_a_file_that_is_moved_away_and_back_is_no_change(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload, "STILL_FOR", 3600)
    async with running(folder) as service:
        (folder / "a.yml").rename(folder / "a.away")
        await looked(monkeypatch)
        (folder / "a.away").rename(folder / "a.yml")
        await looked(monkeypatch)
        monkeypatch.setattr(reload, "STILL_FOR", 0)
        await looked(monkeypatch)
    assert service.used == []


async def test_what_goes_on_changing_is_not_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An editor, a copy over a slow line: half of a file may be a configuration, too."""
    monkeypatch.setattr(reload, "STILL_FOR", 3600)
    async with running(folder) as service:
        for language in ("fr", "de", "es"):
            write(folder, "b.yml", f"language: {language}\n")
            await looked(monkeypatch, 3)
        assert service.used == []
        monkeypatch.setattr(reload, "STILL_FOR", 0)
        await service.tries(1)
    assert service.used == [("es", False)]


async def test_links_are_followed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """As configuration management and containers lay files down."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "1").write_text("language: fr\n")
    (elsewhere / "2").write_text("language: de\n")
    (elsewhere / "now").symlink_to("1")
    (folder / "b.yml").symlink_to(elsewhere / "now")
    async with running(folder) as service:
        (elsewhere / "new").symlink_to("2")
        (elsewhere / "new").rename(elsewhere / "now")
        await service.tries(1)
    assert service.used == [("de", False)]


async def test_a_single_file_is_watched_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(folder / "a.yml") as service:
        write(folder, "b.yml", "language: fr\n")
        await looked(monkeypatch)
        assert service.used == []
        write(folder, "new", TEXT + "language: de\n")
        (folder / "new").rename(folder / "a.yml")
        await service.tries(1)
    assert service.used == [("de", False)]


async def test_the_second_sighup_confirms(folder: Path) -> None:
    async with running(folder) as service:
        service.answers = [LOST, LOST]
        service.reloader.signal()
        await service.tries(1)
        await asyncio.sleep(0)
        service.reloader.signal()
        await service.tries(2)
        service.reloader.signal()
        await service.tries(3)
    assert [confirmed for _, confirmed in service.used] == [False, True, False]


async def test_two_sighups_of_which_nobody_has_read_the_answer_to_the_first(folder: Path) -> None:
    async with running(folder) as service:
        service.answers = [LOST, LOST]
        service.reloader.signal()
        service.reloader.signal()
        await service.tries(2)
    assert [confirmed for _, confirmed in service.used] == [False, False]


async def test_a_sighup_confirms_only_what_a_sighup_was_refused(folder: Path) -> None:
    async with running(folder) as service:
        service.answers = [LOST, LOST, LOST]
        write(folder, "b.yml", "language: fr\n")
        await service.tries(1)
        service.reloader.signal()  # a change, then "reload", as ever
        await service.tries(2)
        write(folder, "b.yml", "language: de\n")
        service.reloader.signal()  # another change
        await service.tries(3)
        assert not any(confirmed for _, confirmed in service.used)


async def test_a_sighup_after_a_minute_confirms_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload, "CONFIRM_WITHIN", -1.0)
    async with running(folder) as service:
        service.answers = [LOST, LOST]
        service.reloader.signal()
        await service.tries(1)
        service.reloader.signal()
        await service.tries(2)
    assert [confirmed for _, confirmed in service.used] == [False, False]


async def test_the_command_is_answered(folder: Path) -> None:
    async with running(folder) as service:
        service.answers = [LOST, ["archived agent 4001"]]
        report = await service.reloader.command(confirm=False)
        assert report.outcome is Outcome.NOT_CONFIRMED
        assert report.lines == ("agent 4001 is logged in, and would be archived",)
        report = await service.reloader.command(confirm=True)
        assert (report.outcome, report.lines) == (Outcome.RELOADED, ("archived agent 4001",))
        write(folder, "b.yml", "languag: fr\n")
        report = await service.reloader.command(confirm=True)
        assert report.outcome is Outcome.ERRORS
        assert report.lines == (
            f"{folder}/b.yml:1:1: languag: unknown key, did you mean 'language'?",
        )
    assert [confirmed for _, confirmed in service.used] == [False, True]


async def test_a_store_that_is_away_is_asked_again_and_is_still_confirmed(folder: Path) -> None:
    async with running(folder) as service:
        service.answers = [StoreUnavailable("locked"), StoreUnavailable("locked"), []]
        report = await service.reloader.command(confirm=True)
        assert (report.outcome, report.lines) == (Outcome.STORE_AWAY, ("locked",))
        await service.tries(3)
    assert [confirmed for _, confirmed in service.used] == [True, True, True]


async def test_many_that_wait_for_the_store_are_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload, "STORE_AGAIN", 3600)
    async with running(folder) as service:
        service.answers = [StoreUnavailable("locked")] * 4
        await service.reloader.command(confirm=True)
        for _ in range(2):
            await service.reloader.command(confirm=False)
        monkeypatch.setattr(reload, "STORE_AGAIN", 0.01)
        await service.reloader.command(confirm=False)
        await service.tries(5)
        await service.reloader.command(confirm=False)
    assert [confirmed for _, confirmed in service.used] == [True, *[False] * 3, True, False]


async def test_what_was_confirmed_is_not_something_else_later(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload, "STILL_FOR", 3600)
    async with running(folder) as service:
        service.answers = [StoreUnavailable("locked")]
        await service.reloader.command(confirm=True)
        write(folder, "b.yml", "language: fr\n")
        await service.tries(2)
    assert service.used == [("en", True), ("fr", False)]


async def test_a_warning_is_said_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[dict[str, str]] = []
    log = SimpleNamespace(warning=lambda event, **fields: said.append({"event": event, **fields}))
    monkeypatch.setattr(reload, "log", log)
    write(folder, "b.yml", "prompts: {LOGGED_IN: custom/hello.wav}\n")
    async with running(folder) as service:
        for _ in range(3):
            await service.reloader.command(confirm=False)
    (one,) = said
    assert one["event"] == "configuration warning"
    assert one["warning"].startswith(f"{folder}/b.yml:1:22: prompts.LOGGED_IN: ")


async def test_confirm_does_not_confirm_what_was_written_since(folder: Path) -> None:
    async with running(folder) as service:
        service.answers = [LOST] * 4
        await service.reloader.command(confirm=False)
        write(folder, "b.yml", "language: fr\n")
        report = await service.reloader.command(confirm=True)
        assert report.outcome is Outcome.NOT_CONFIRMED
        assert report.lines == (
            "this is not the configuration that was refused before: look again",
            "agent 4001 is logged in, and would be archived",
        )
        report = await service.reloader.command(confirm=True)
        assert report.outcome is Outcome.RELOADED
    assert service.used == [("en", False), ("fr", False), ("fr", True)]


async def test_confirm_confirms_where_nothing_was_refused(folder: Path) -> None:
    async with running(folder) as service:
        service.answers = [LOST, [], LOST]
        for _ in range(3):
            write(folder, "b.yml", f"language: {'fr' if service.used else 'de'}\n")
            report = await service.reloader.command(confirm=True)
            assert report.outcome is Outcome.RELOADED
    assert all(confirmed for _, confirmed in service.used)


async def test_what_was_confirmed_while_the_store_was_away_is_not_confirmed_for_ever(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was broken when the store was back; days later the same text is nobody's decision."""
    monkeypatch.setattr(reload, "STORE_AGAIN", 3600)
    async with running(folder) as service:
        service.answers = [StoreUnavailable("locked")]
        await service.reloader.command(confirm=True)
        assert service.reloader._again is not None
        handle, again = service.reloader._again
        handle.cancel()
        write(folder, "b.yml", "languag: fr\n")
        service.reloader._requests.put_nowait(again)  # as the timer does
        assert (await service.reloader.command(confirm=False)).outcome is Outcome.ERRORS
        (folder / "b.yml").unlink()
        service.answers = [StoreUnavailable("locked")]
        await service.reloader.command(confirm=False)
        assert service.reloader._again is not None
        assert not service.reloader._again[1].confirmed


async def test_thousands_of_mistakes_are_a_few_lines_of_the_log(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def note(event: str, **fields: str) -> None:
        said.extend(fields.values())

    monkeypatch.setattr(reload, "log", SimpleNamespace(warning=note, error=note))
    agents = "".join(f"  - number: {n}\n    name: A #{n}\n" for n in range(500))
    write(folder, "b.yml", f"agents:\n{agents}")
    async with running(folder) as service:
        await service.reloader.command(confirm=False)
        assert (len(said), said[-1]) == (21, "and 480 more")
        del said[:]
        write(folder, "b.yml", f"agents:\n{agents.replace('#', '')}" + agents.replace("A #", "A "))
        await service.reloader.command(confirm=False)
        assert (len(said), said[-1]) == (21, "and 480 more")


async def test_a_fault_of_the_service_is_not_told_to_be_the_store(folder: Path) -> None:
    service = Service(folder)
    service.answers = [RuntimeError("a fault")]
    task = asyncio.create_task(service.reloader.run())
    report = await service.reloader.command(confirm=False)
    assert (report.outcome, report.lines) == (Outcome.FAILED, ("RuntimeError",))
    with pytest.raises(RuntimeError):  # for the supervisor, which logs it and begins anew
        await task


async def test_what_met_a_fault_of_the_service_is_tried_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload, "FAULT_AGAIN", (0.01, 0.01, 0.01))
    monkeypatch.setattr(Supervisor, "FIRST", 0.01)
    service = Service(folder)
    supervisor = Supervisor(Fence(structlog.get_logger()))
    task = asyncio.create_task(supervisor.keep("reload", service.reloader.run))
    fault = RuntimeError("a fault")
    try:
        service.answers = [fault, fault]
        assert (await service.reloader.command(confirm=True)).outcome is Outcome.FAILED
        await service.tries(3)
        # What was confirmed stays so.
        assert service.used == [("en", True)] * 3
        # Not for ever; whoever asks again is answered.
        service.answers = [fault] * 4
        assert (await service.reloader.command(confirm=False)).outcome is Outcome.FAILED
        await service.tries(7)
        assert (await service.reloader.command(confirm=False)).outcome is Outcome.RELOADED
        assert len(service.used) == 8
        assert service.reloader._again is None
    finally:
        task.cancel()


async def test_what_was_refused_at_the_start_is_what_confirm_is_about(folder: Path) -> None:
    async with running(folder) as service:
        service.reloader.was_refused(load(folder).fingerprint_material)
        write(folder, "b.yml", "language: fr\n")
        service.answers = [LOST] * 2
        assert (await service.reloader.command(True)).outcome is Outcome.NOT_CONFIRMED
        assert (await service.reloader.command(True)).outcome is Outcome.RELOADED
