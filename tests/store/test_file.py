"""The SQLite file under a running service: nothing is taken for written that is lost."""

import asyncio
import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from peewee import PeeweeException

from fastagi.agents.service import StoreUnavailable
from fastagi.agents.storage import StoreFault
from fastagi.store import PeeweeStore, Reading, StoreUnusable, file, open_store, parse
from fastagi.store.database import explained

from .conftest import NOW, done, log_in, log_off, settings

Opened = Callable[..., PeeweeStore]


@pytest.fixture
def path(tmp_path: Path, sqlite_made: dict[bool, Path]) -> Path:
    """Of a database with the small call centre in it."""
    made = tmp_path / "agents.db"
    shutil.copy(sqlite_made[True], made)
    return made


@pytest.fixture
def store(path: Path, opened: Opened) -> PeeweeStore:
    return opened(f"sqlite:///{path}", serve=True)


def beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def delete(path: Path) -> None:
    path.unlink()


def delete_all(path: Path) -> None:
    for ending in ("", "-wal", "-shm"):
        beside(path, ending).unlink()


def delete_log(path: Path) -> None:
    beside(path, "-wal").unlink()


def replace_by_another(path: Path) -> None:
    other = path.with_name("other.db")
    sqlite3.connect(other).execute("CREATE TABLE t (x)").connection.close()
    other.replace(path)


def replace_by_a_copy(path: Path) -> None:
    """As a backup that is put back under a running service."""
    shutil.copy(path, beside(path, ".copy"))
    beside(path, ".copy").replace(path)


def replace_log(path: Path) -> None:
    shutil.copy(beside(path, "-wal"), beside(path, ".copy"))
    beside(path, ".copy").replace(beside(path, "-wal"))


def overwrite(path: Path) -> None:
    with path.open("r+b") as opened:
        opened.write(os.urandom(128))


def truncate(path: Path) -> None:
    os.truncate(path, 0)


def truncate_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def truncate_log(path: Path) -> None:
    os.truncate(beside(path, "-wal"), 0)


def truncate_log_half(path: Path) -> None:
    log = beside(path, "-wal")
    os.truncate(log, log.stat().st_size // 2)


def overwrite_log(path: Path) -> None:
    with beside(path, "-wal").open("r+b") as opened:
        opened.write(os.urandom(32))


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def spoil(path: Path) -> None:
    """All pages but the first one."""
    pages = path.stat().st_size // 4096
    with path.open("r+b") as opened:
        opened.seek(4096)
        opened.write(b"\xff" * 4096 * (pages - 1))


def size(path: Path) -> int:
    return path.stat().st_size


def exists(path: Path) -> bool:
    return path.exists()


LOST: list[tuple[Callable[[Path], None], StoreFault]] = [
    (delete, StoreFault.MISSING),
    (delete_all, StoreFault.MISSING),
    (delete_log, StoreFault.MISSING),
    (replace_by_another, StoreFault.REPLACED),
    (replace_by_a_copy, StoreFault.REPLACED),
    (replace_log, StoreFault.REPLACED),
    (become_a_folder, StoreFault.REPLACED),
    (overwrite, StoreFault.DAMAGED),
    (truncate, StoreFault.DAMAGED),
    (truncate_half, StoreFault.DAMAGED),
    (truncate_log, StoreFault.DAMAGED),
    (truncate_log_half, StoreFault.DAMAGED),
    (overwrite_log, StoreFault.DAMAGED),
]


@pytest.mark.parametrize(("what", "fault"), LOST, ids=[what.__name__ for what, _ in LOST])
async def test_what_happens_to_the_file_is_noticed(
    store: PeeweeStore, path: Path, what: Callable[[Path], None], fault: StoreFault
) -> None:
    await done(store, log_in())
    views = Reading(f"sqlite:///{path}", store.file)
    what(path)
    with pytest.raises(StoreUnavailable) as refused:
        await done(store, log_in("1002", "1002"))
    assert refused.value.fault is fault
    assert str(path) in str(refused.value)
    assert "fastagi serve --new-database" in str(refused.value)
    # Readers and writers agree, and nothing is answered from memory.
    with pytest.raises(StoreUnavailable):
        await store.agent("1001")
    with pytest.raises(StoreUnavailable):
        views.agents()
    assert (await store.health.ask()).fault is fault
    with pytest.raises(StoreUnavailable):
        await store.set_note("a", "1")


async def test_a_file_that_was_moved_away_and_comes_back(store: PeeweeStore, path: Path) -> None:
    await done(store, log_in())
    os.rename(path, f"{path}.away")
    with pytest.raises(StoreUnavailable):
        await done(store, log_in("1002", "1002"))
    assert not exists(path), "SQLite has made no new one"
    os.rename(f"{path}.away", path)
    await done(store, log_in("1002", "1002"))
    assert (await store.health.ask()).fault is None
    assert [state.number for state in await store.logged_in()] == ["1001", "1002"]


async def test_it_is_noticed_without_any_call(
    store: PeeweeStore, path: Path, eventually: Callable[..., Awaitable[None]]
) -> None:
    looking = asyncio.create_task(store.health.run())
    await eventually(lambda: store.health._ended > 0)
    delete(path)
    await eventually(lambda: store.health.now.fault is StoreFault.MISSING)
    looking.cancel()


async def test_damage_in_the_middle_is_for_good(
    store: PeeweeStore, path: Path, opened: Opened
) -> None:
    """Whoever of us comes across it, from then on nobody writes."""
    await done(store, log_in())
    views = Reading(f"sqlite:///{path}", store.file)
    store._database.connection().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    spoil(path)
    with pytest.raises(StoreUnavailable, match=r"damaged.*\.recover") as refused:
        views.agents()
    assert refused.value.fault is StoreFault.DAMAGED
    with pytest.raises(StoreUnavailable, match="malformed"):
        await done(store, log_in("1002", "1002"))
    assert (await store.health.ask()).fault is StoreFault.DAMAGED
    await store.close()
    with pytest.raises(StoreUnusable, match="damaged"):
        open_store(f"sqlite:///{path}", serve=True)


async def test_what_is_no_damage(store: PeeweeStore, path: Path) -> None:
    """Other programs may do with a database what SQLite lets them do."""
    await done(store, log_in())
    other = sqlite3.connect(path)
    for statement in (
        "PRAGMA wal_checkpoint(TRUNCATE)",
        "CREATE TABLE filling (x)",
        "INSERT INTO filling SELECT hex(randomblob(500)) FROM memberships, memberships",
        "PRAGMA wal_checkpoint(TRUNCATE)",
    ):
        other.execute(statement)
        other.commit()
        await store.set_note("a", statement)
    before = size(path)
    other.execute("DROP TABLE filling")
    other.commit()
    other.execute("VACUUM")
    other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert size(path) < before
    await store.set_note("a", "vacuumed")
    await done(store, log_off())
    with sqlite3.connect(beside(path, ".backup")) as backup:
        other.backup(backup)
    other.close()
    await done(store, log_in())
    assert (await store.health.ask()).fault is None


async def test_a_change_in_the_log_alone_is_no_damage(store: PeeweeStore) -> None:
    """Many turns of the log, with checkpoints of our own."""
    for n in range(60):
        await store.run(
            lambda c, n=n: (
                c.execute(  # type: ignore[misc]
                    "INSERT INTO notes (key, value) VALUES (?, hex(randomblob(200000)))", (f"n{n}",)
                ).rowcount
            )
        )
    assert (await store.health.ask()).fault is None


# -- a start


async def test_a_start_without_the_database_of_before(path: Path, opened: Opened) -> None:
    url = f"sqlite:///{path}"
    store = opened(url, serve=True)
    identity = store.identity
    await done(store, log_in())
    await store.close()
    delete(path)
    with pytest.raises(StoreUnusable, match=r"gone.*fastagi serve --new-database") as refused:
        open_store(url, serve=True)
    assert str(path) in str(refused.value)
    assert not exists(path), "nothing was begun"
    open(path, "wb").close()  # truncated to nothing  # noqa: ASYNC230
    with pytest.raises(StoreUnusable, match="gone"):
        open_store(url, serve=True)
    anew = PeeweeStore(store.place, serve=True)
    anew.open(new=True)
    assert anew.identity not in ("", identity)
    await anew.close()
    await opened(url, serve=True).close()  # which is the one from now on


async def test_a_start_with_another_database(path: Path, tmp_path: Path, opened: Opened) -> None:
    url = f"sqlite:///{path}"
    await opened(url, serve=True).close()
    backup = tmp_path / "backup.db"
    shutil.copy(path, backup)
    other = tmp_path / "other.db"
    await opened(f"sqlite:///{other}").close()
    shutil.copy(other, path)
    with pytest.raises(StoreUnusable, match=r"another database.*--new-database"):
        open_store(url, serve=True)
    backup.replace(path)  # the same one, from before
    await opened(url, serve=True).close()


def test_a_start_on_another_programs_database(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE customers (name)")
    connection.close()
    with pytest.raises(StoreUnusable, match=r"another program.*customers"):
        open_store(f"sqlite:///{path}", serve=True)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("customers",)]
    connection.close()


@pytest.mark.parametrize("where", [0, 100, 4096, 3 * 4096, -4096])
def test_a_start_on_a_damaged_file(path: Path, where: int) -> None:
    with path.open("r+b") as opened_file:
        opened_file.seek(where, os.SEEK_END if where < 0 else os.SEEK_SET)
        opened_file.write(b"\xa5" * 4000)
    with pytest.raises(StoreUnusable, match=r"damaged.*backup") as refused:
        open_store(f"sqlite:///{path}", serve=True)
    assert str(path) in str(refused.value)
    assert refused.value.fault is StoreFault.DAMAGED


def test_a_start_on_a_file_cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 4096)
    with pytest.raises(StoreUnusable, match=r"damaged"):
        open_store(f"sqlite:///{path}", serve=True)


def test_folders_made_for_it_are_its_users_own(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        open_store(f"sqlite:///{tmp_path}/one/two/three/agents.db").workers.close()
    finally:
        os.umask(before)
    for folder in ("one", "one/two", "one/two/three"):
        assert (tmp_path / folder).stat().st_mode & 0o777 == 0o700


def test_every_message_has_the_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreUnavailable, match=str(tmp_path / "agents.db")):
        Reading("sqlite:///agents.db").agents()
    (tmp_path / "agents.db").write_text("no database " * 100)
    with pytest.raises(StoreUnavailable, match=str(tmp_path / "agents.db")):
        open_store("sqlite:///agents.db", serve=True)


# -- others at the same file

HOLD = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
connection.execute(sys.argv[2])
connection.execute("SELECT count(*) FROM agents").fetchall()
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def held(path: Path) -> "Callable[[str], subprocess.Popen[str]]":
    """Another process in a transaction that it does not end."""
    children: list[subprocess.Popen[str]] = []

    def hold(begin: str) -> "subprocess.Popen[str]":
        child = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(path), begin], stdout=subprocess.PIPE, text=True
        )
        children.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        return child

    yield hold  # type: ignore[misc]
    for child in children:
        child.kill()
        child.communicate()


async def test_who_has_locked_it_is_named(
    store: PeeweeStore, held: "Callable[[str], subprocess.Popen[str]]"
) -> None:
    await done(store, log_in())
    child = held("BEGIN EXCLUSIVE")
    with pytest.raises(StoreUnavailable, match=rf"locked.*pid {child.pid} \(python") as refused:
        await done(store, log_off())
    assert refused.value.fault is StoreFault.LOCKED
    child.kill()
    child.wait()
    await done(store, log_off())
    assert (await store.health.ask()).fault is None


async def test_a_reader_that_never_ends_is_named(
    store: PeeweeStore,
    held: "Callable[[str], subprocess.Popen[str]]",
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("fastagi.store.health.LOG_ALARM", 2**20)
    store.health._alarm = 2**20
    seen: list[tuple[bool, int]] = []
    store.health.on_figures.append(lambda *figures: seen.append(figures))
    child = held("BEGIN")
    for n in range(40):
        await store.run(
            lambda c, n=n: (
                c.execute(  # type: ignore[misc]
                    "INSERT INTO notes (key, value) VALUES (?, hex(randomblob(20000)))", (f"n{n}",)
                ).rowcount
            )
        )
    await store.health._look()
    await store.health._look()
    out = capsys.readouterr().out
    assert out.count("-wal file grows") == 1
    assert f"pid {child.pid} (python" in out
    assert store.health.log_bytes > 2**20


async def test_our_own_readers_hold_up_no_checkpoint(store: PeeweeStore, path: Path) -> None:
    """Pages, streams and commands read in short transactions: the log is used again and again."""
    views = Reading(f"sqlite:///{path}", store.file)
    most = 0
    for n in range(150):
        await store.run(
            lambda c, n=n: (
                c.execute(  # type: ignore[misc]
                    "INSERT INTO notes (key, value) VALUES (?, hex(randomblob(200000)))"
                    " ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                    (f"n{n % 10}",),
                ).rowcount
            )
        )
        await asyncio.to_thread(views.agents)
        await asyncio.to_thread(views.settled_events, 0, 100)
        await asyncio.to_thread(views.last_seq)
        most = max(most, size(beside(path, "-wal")))
    views.close()
    # 60 MB were written; the log is copied at 16 MiB.
    assert most < 32 * 2**20


async def test_the_log_is_cut_back_when_a_reader_has_ended(
    path: Path,
    opened: Opened,
    held: "Callable[[str], subprocess.Popen[str]]",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fastagi.store.database.LOG_BYTES", 2**20)
    store = opened(f"sqlite:///{path}", serve=True)

    async def write(times: int) -> None:
        for n in range(times):
            await store.run(
                lambda c, n=n: (
                    c.execute(  # type: ignore[misc]
                        "INSERT INTO notes (key, value) VALUES (?, hex(randomblob(500000)))"
                        " ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                        (f"n{n % 4}",),
                    ).rowcount
                )
            )

    child = held("BEGIN")
    await write(30)
    grown = size(beside(path, "-wal"))
    assert grown > 20 * 2**20
    child.kill()
    child.wait()
    await write(3)
    assert size(beside(path, "-wal")) < grown / 4


# -- file systems


def as_root(*command: str) -> None:
    """Only root can mount."""
    words = command if os.geteuid() == 0 else ("sudo", "-n", *command)
    try:
        subprocess.run(words, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.fail(f"needs root, or sudo without a password: {error}", pytrace=False)


class Disk:
    """A small disk of its own."""

    def __init__(self, folder: Path, size: str) -> None:
        self.folder = folder / "disk"
        self.folder.mkdir()
        image = str(folder / "disk.image")
        owner = f"root_owner={os.getuid()}:{os.getgid()}"
        subprocess.run(("truncate", "-s", size, image), check=True)
        mkfs = shutil.which("mkfs.ext4", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        assert mkfs is not None
        # Blocks of a page, as large disks have them: SQLite maps a file into memory.
        subprocess.run((mkfs, "-q", "-m", "0", "-b", "4096", "-E", owner, image), check=True)
        as_root("mount", "-o", "loop", image, str(self.folder))

    def break_down(self) -> None:
        """What the kernel does when a disk fails: it can only be read from then on."""
        as_root("mount", "-o", "remount,abort", str(self.folder))

    def read_only(self) -> None:
        as_root("mount", "-o", "remount,ro", str(self.folder))

    def fill(self) -> None:
        with contextlib.suppress(OSError), (self.folder / "filling").open("wb") as filling:
            while True:
                filling.write(b"x" * 65536)
                filling.flush()

    def fill_with_names(self) -> None:
        """There is room, but for no further file."""
        with contextlib.suppress(OSError):
            for n in range(100_000):
                (self.folder / f"file{n}").touch()

    def make_room(self) -> None:
        (self.folder / "filling").unlink()

    def close(self) -> None:
        as_root("umount", "-l", str(self.folder))


@pytest.fixture
def disk(tmp_path: Path, sqlite_made: dict[bool, Path]) -> Iterator[Disk]:
    made = Disk(tmp_path, "8M")
    shutil.copy(sqlite_made[True], made.folder / "agents.db")
    yield made
    made.close()


async def test_a_file_system_that_turns_read_only(disk: Disk, opened: Opened) -> None:
    store = opened(f"sqlite:///{disk.folder}/agents.db", serve=True)
    await done(store, log_in())
    assert (await store.health.ask()).fault is None
    disk.break_down()
    with pytest.raises(StoreUnavailable, match=f"{disk.folder}/agents.db") as refused:
        await done(store, log_off())
    assert refused.value.fault in (StoreFault.READ_ONLY, StoreFault.AWAY)
    assert "mount" in str(refused.value)
    assert (await store.health.ask()).fault is refused.value.fault


async def test_it_is_said_without_any_call(
    disk: Disk, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The probe writes: whoever only reads would be content."""
    store = opened(f"sqlite:///{disk.folder}/agents.db", serve=True)
    monkeypatch.setattr("fastagi.store.health.FRESH", 0.0)
    assert (await store.health.ask()).fault is None
    disk.break_down()
    assert (await store.health.ask()).fault in (StoreFault.READ_ONLY, StoreFault.AWAY)


def test_a_start_on_a_read_only_file_system(disk: Disk) -> None:
    disk.read_only()
    with pytest.raises(StoreUnusable, match=f"{disk.folder}/agents.db.*[Rr]ead-only"):
        open_store(f"sqlite:///{disk.folder}/agents.db", serve=True)


async def test_a_full_disk(disk: Disk, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(f"sqlite:///{disk.folder}/agents.db", serve=True)
    monkeypatch.setattr("fastagi.store.health.FRESH", 0.0)
    await done(store, log_in())
    disk.fill()

    async def write() -> None:
        for n in range(100):  # what is reserved for the log already can still be written
            await store.set_note(f"a{n}", "x" * 100_000)

    with pytest.raises(StoreUnavailable, match=f"{disk.folder}/agents.db.*make room") as refused:
        await write()
    assert refused.value.fault is StoreFault.FULL
    disk.make_room()
    await done(store, log_off())
    assert (await store.health.ask()).fault is None


def test_a_start_on_a_full_disk(disk: Disk) -> None:
    """Waiting helps: it is no mistake of the configuration."""
    os.unlink(disk.folder / "agents.db")
    disk.fill()
    with pytest.raises(StoreUnavailable, match="make room") as refused:
        open_store(f"sqlite:///{disk.folder}/agents.db", serve=True)
    assert refused.value.fault is StoreFault.FULL
    assert not isinstance(refused.value, StoreUnusable)


def test_why_sqlite_has_rolled_back_is_said(path: Path) -> None:
    """It does so by itself on a full disk; Peewee's own attempt then only says that there is
    nothing to roll back."""
    place = parse(f"sqlite:///{path}")
    database: Any = place.database()
    with database.connection_context():
        (pages,) = database.execute_sql("PRAGMA page_count").fetchone()
        database.execute_sql(f"PRAGMA max_page_count = {pages + 1}")
        with pytest.raises(PeeweeException, match="cannot rollback") as met, database.atomic():
            database.execute_sql(
                "INSERT INTO notes (key, value) VALUES ('a', ?)", ("x" * 1_000_000,)
            )
    told = explained(place, met.value, starting=True)
    assert told.fault is StoreFault.FULL
    assert "make room" in str(told)


def test_a_start_on_a_disk_without_room_for_another_file(disk: Disk) -> None:
    open_store(f"sqlite:///{disk.folder}/agents.db", serve=True)._close()
    disk.fill_with_names()
    with pytest.raises(StoreUnavailable, match="make room") as refused:
        open_store(f"sqlite:///{disk.folder}/agents.db", serve=True)
    assert refused.value.fault is StoreFault.FULL
    assert not isinstance(refused.value, StoreUnusable)


async def test_a_reload_that_takes_long_is_not_said_to_be_another_program(
    store: PeeweeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastagi.store.health.FRESH", 0.0)
    await store.set_note("a", "1")
    inside, gate = threading.Event(), threading.Event()

    def allow(removal: object) -> None:
        inside.set()
        gate.wait()

    bringing = asyncio.create_task(asyncio.to_thread(store.bring_in, settings(4), allow))
    try:
        await asyncio.to_thread(inside.wait)
        with pytest.raises(StoreUnavailable, match="a configuration is brought in") as refused:
            await store.set_note("a", "2")
    finally:
        gate.set()
    await bringing
    assert refused.value.fault is StoreFault.LOCKED
    assert "another program" not in str(refused.value)
    await store.set_note("a", "3")


def test_no_descriptor_is_left_for_each_store(path: Path) -> None:
    """Those that are kept are one for each file, however often it is opened."""
    open_store(f"sqlite:///{path}")._close()
    before = len(file._kept), len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        open_store(f"sqlite:///{path}")._close()
    kept, descriptors = before
    assert len(file._kept) == kept
    # What earlier tests left to the garbage collector may be closed meanwhile.
    assert len(os.listdir("/proc/self/fd")) <= descriptors


async def test_the_directory_is_not_brought_into_another_file(
    store: PeeweeStore, path: Path
) -> None:
    await done(store, log_in(), NOW)
    replace_by_another(path)
    with pytest.raises(StoreUnavailable, match="replaced"):
        store.bring_in(settings(4))


# -- one file of several names


def by_link(path: Path) -> Path:
    path.with_name("elsewhere").mkdir()
    other = path.with_name("elsewhere") / "link.db"
    other.symlink_to(path)
    return other


def by_hard_link(path: Path) -> Path:
    other = path.with_name("hard.db")
    other.hardlink_to(path)
    return other


def by_folder(path: Path) -> Path:
    other = path.parent.with_name(path.parent.name + "-link")
    other.symlink_to(path.parent)
    return other / path.name


NAMES = [by_link, by_hard_link, by_folder]


@pytest.mark.parametrize("named", NAMES)
async def test_a_file_with_another_name(
    path: Path, opened: Opened, named: Callable[[Path], Path]
) -> None:
    """/var/lib/fastagi.db may be a link to a larger disk."""
    other = named(path)
    store = opened(f"sqlite:///{other}", serve=True)
    await done(store, log_in())
    assert (await store.health.ask()).fault is None
    views = Reading(f"sqlite:///{other}", store.file)
    assert [one.number for one in views.agents(["1001"])] == ["1001"]
    assert store.file is not None
    assert store.file.log_size() > 0
    delete(path if named is by_link else other)
    with pytest.raises(StoreUnavailable) as refused:
        await done(store, log_in("1002", "1002"))
    assert refused.value.fault is StoreFault.MISSING


async def test_a_link_to_nothing_makes_the_file_there(path: Path, opened: Opened) -> None:
    other = by_link(path)
    delete(path)
    store = opened(f"sqlite:///{other}", serve=True)
    assert (await store.health.ask()).fault is None
    assert size(path) > 0


async def test_a_link_that_leads_elsewhere_now(path: Path, opened: Opened) -> None:
    other = by_link(path)
    store = opened(f"sqlite:///{other}", serve=True)
    await done(store, log_in())
    shutil.copy(path, beside(path, ".copy"))
    other.unlink()
    other.symlink_to(beside(path, ".copy"))
    with pytest.raises(StoreUnavailable) as refused:
        await done(store, log_in("1002", "1002"))
    assert refused.value.fault is StoreFault.REPLACED
    assert (await store.health.ask()).fault is StoreFault.REPLACED


@pytest.mark.parametrize("named", NAMES)
def test_two_services_do_not_get_one_file_by_two_names(
    store: PeeweeStore, path: Path, named: Callable[[Path], Path]
) -> None:
    """Their -wal files may be different ones: that spoils the database."""
    other = named(path)
    with pytest.raises(StoreUnusable, match="another service uses this file"):
        open_store(f"sqlite:///{other}", serve=True)
    start = (
        "import sys; from fastagi.store import open_store, StoreUnusable\n"
        "try: open_store(sys.argv[1], serve=True)\n"
        "except StoreUnusable as error: print(error)"
    )
    said = subprocess.run(
        [sys.executable, "-c", start, f"sqlite:///{other}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "another service uses this file" in said.stdout


async def test_who_ends_leaves_the_file_to_the_next(
    store: PeeweeStore, path: Path, opened: Opened
) -> None:
    other = by_link(path)
    await store.close()
    assert (await opened(f"sqlite:///{other}", serve=True).health.ask()).fault is None
