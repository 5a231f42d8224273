"""The SQLite file: is it still the one that was opened, and is it whole?

SQLite goes on without a word when its file is deleted, replaced or cut: what it writes then is
gone with the process. A few system calls in each transaction notice it.
"""

import fcntl
import os
import struct
import sys
import threading
from contextlib import suppress
from pathlib import Path

from fastagi.agents.service import StoreUnavailable
from fastagi.agents.storage import StoreFault

# https://www.sqlite.org/fileformat2.html#the_database_header
_MAGIC = b"SQLite format 3\0"
_HEADER = 100
# https://www.sqlite.org/walformat.html#the_wal_index_file_format
_INDEX = 48
_WAL_HEADER = 32
_FRAME_HEADER = 24
_WRITE_LOCK = (120, 1)  # bytes of the -shm file that are locked: the one writer, …
_READ_LOCKS = (123, 5)  # … and the readers

_RESTART = (
    "stop the service, put the database or a backup of it back, and start it; a start with another"
    " or an empty one needs `fastagi serve --new-database`"
)


class StoreUnusable(StoreUnavailable):
    """Waiting does not help: somebody has to do what the text says."""


# Descriptors of database and -shm files, never closed: closing one takes away all of SQLite's locks
# on that file, in whichever connection (https://www.sqlite.org/howtocorrupt.html, 2.2).
_kept: dict[tuple[int, int], int] = {}
_keeping = threading.Lock()


def _descriptor(path: str) -> tuple[tuple[int, int], int]:
    """Of the file that has this name now, and which file that is."""
    with _keeping:
        found = os.stat(path)
        which = (found.st_dev, found.st_ino)
        if which not in _kept:
            opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            is_now = os.fstat(opened)
            which = (is_now.st_dev, is_now.st_ino)
            if which in _kept:  # replaced between the two: kept open, as it may be in use
                return which, _kept[which]
            _kept[which] = opened
        return which, _kept[which]


_claimed: set[tuple[int, int]] = set()  # by services of this process


class Claimed:
    """The file itself, whatever its name: by a link or another mount it has several, and SQLite
    keeps apart only those who say the same one (https://www.sqlite.org/howtocorrupt.html, 2.5).

    By a lock of flock's, which has nothing to do with SQLite's own on Linux; elsewhere, and where
    the file system knows none, nobody is kept out.
    """

    def __init__(self, path: Path) -> None:
        """Raises BlockingIOError when another service has it, and OSError when there is none."""
        self._which, self._file = _descriptor(str(path))
        if self._which in _claimed:
            raise BlockingIOError
        if sys.platform.startswith("linux"):
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise
            except OSError:
                pass
        _claimed.add(self._which)

    def close(self) -> None:
        if sys.platform.startswith("linux"):
            with suppress(OSError):
                fcntl.flock(self._file, fcntl.LOCK_UN)
        _claimed.discard(self._which)


class DatabaseFile:
    """One for each store; any thread may ask. Raises StoreUnavailable with what is wrong."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._name = str(path)
        self._wal = self._shm = ""  # beside the file, where the name is a link's
        self._which: tuple[int, int] | None = None
        self._file = -1
        self._least = 0  # bytes
        self._wal_which: tuple[int, int] | None = None
        self._wal_file = -1
        self._index = -1
        self._broken = ""
        self._log_broken = ""  # as the last writer found
        self.busy = ""  # what this very service does for long, as long as it holds the write lock

    def remember(self) -> None:
        """To be called in the writer's first transaction on a new connection."""
        which, file = _descriptor(self._name)
        if self._which is not None and which != self._which:
            raise self._fault(StoreFault.REPLACED, "the file was replaced by another one")
        real = os.path.realpath(self._name)
        self._wal, self._shm = real + "-wal", real + "-shm"
        _, self._index = _descriptor(self._shm)
        wal = os.open(self._wal, os.O_RDONLY | os.O_CLOEXEC)
        found = os.fstat(wal)
        # SQLite locks nothing in the -wal file: this one can be closed.
        if self._wal_file >= 0:
            os.close(self._wal_file)
        self._wal_which, self._wal_file = (found.st_dev, found.st_ino), wal
        self._which, self._file = which, file
        self._least = os.fstat(file).st_size

    def forget_log(self) -> None:
        """The writer's connection is closed: SQLite may delete the -wal file and make another."""
        self._wal_which = None

    def break_off(self, why: str) -> None:
        """SQLite has found it damaged: nothing is written any more until a restart."""
        self._broken = why

    def close(self) -> None:
        if self._wal_file >= 0:
            os.close(self._wal_file)
            self._wal_file = -1
        self._wal_which = None

    def exists(self) -> None:
        """Before a connection is opened; SQLite would make what is not there."""
        if self._which is None:
            return
        if self._broken:
            raise self._fault(StoreFault.DAMAGED, self._broken)
        found = self._stat(self._name)
        if (found.st_dev, found.st_ino) != self._which:
            raise self._fault(StoreFault.REPLACED, "the file was replaced by another one")

    def check(self, *, writing: bool = False) -> None:
        """``writing``: asked by whoever holds the write lock, so that the log stands still."""
        if self._which is None:
            return
        if self._broken:
            raise self._fault(StoreFault.DAMAGED, self._broken)
        found = self._stat(self._name)
        if (found.st_dev, found.st_ino) != self._which:
            raise self._fault(StoreFault.REPLACED, "the file was replaced by another one")
        header = os.pread(self._file, _HEADER, 0)
        if len(header) < _HEADER or not header.startswith(_MAGIC):
            raise self._fault(StoreFault.DAMAGED, "the beginning of the file was overwritten")
        if found.st_size < self._least:
            # VACUUM makes it smaller too, and the header says so.
            page = int.from_bytes(header[16:18], "big")
            page = 65536 if page == 1 else page
            if found.st_size < page * int.from_bytes(header[28:32], "big"):
                raise self._fault(StoreFault.DAMAGED, "the file was truncated")
        self._least = found.st_size
        known = self._wal_which
        if known is None:
            return
        log = self._stat(self._wal)
        if (log.st_dev, log.st_ino) != known:
            raise self._fault(StoreFault.REPLACED, "its -wal file was replaced by another one")
        if writing:
            self._log_broken = self._look_at_log(log.st_size)
        if self._log_broken:
            raise self._fault(StoreFault.DAMAGED, self._log_broken)

    def _look_at_log(self, size: int) -> str:
        """What is wrong with the -wal file, by the index that SQLite keeps of it."""
        index = os.pread(self._index, _INDEX, 0)
        if len(index) < _INDEX:
            return "its -shm file was truncated"
        page, frames = struct.unpack_from("=HI", index, 14)
        if not frames:
            return ""
        page = 65536 if page == 1 else page
        salts = os.pread(self._wal_file, _WAL_HEADER, 0)[16:24]
        if size < _WAL_HEADER + frames * (_FRAME_HEADER + page) or salts != index[32:40]:
            return "its -wal file was truncated or overwritten"
        return ""

    def _stat(self, name: str) -> os.stat_result:
        try:
            return os.stat(name)
        except FileNotFoundError:
            what = "the file" if name == self._name else "its -wal file"
            raise self._fault(StoreFault.MISSING, f"{what} was deleted or moved away") from None
        except PermissionError as error:
            raise StoreUnavailable(
                f"{name}: {error.strerror}: let the user of the service enter its folder",
                fault=StoreFault.DENIED,
            ) from error
        except OSError as error:
            raise StoreUnavailable(
                f"{name}: {error.strerror}: look at the disk and its mount", fault=StoreFault.AWAY
            ) from error

    def _fault(self, fault: StoreFault, what: str) -> StoreUnavailable:
        return StoreUnavailable(
            f"{self._name}: {what} while it was in use: {_RESTART}", fault=fault
        )

    # -- who is in the way

    @property
    def log_name(self) -> str:
        """The -wal file; "" before it is opened."""
        return self._wal

    def log_size(self) -> int:
        """Bytes of the -wal file."""
        try:
            return os.stat(self._wal).st_size
        except OSError:  # none, or not opened yet
            return 0

    def writer(self) -> str:
        """Another process that is writing, as far as the kernel says: ``pid 12 (sqlite3)``."""
        return self._holder(*_WRITE_LOCK)

    def reader(self) -> str:
        """Another process that is reading."""
        return self._holder(*_READ_LOCKS)

    def _holder(self, start: int, length: int) -> str:
        if self._index < 0 or not sys.platform.startswith("linux"):
            return ""
        # struct flock; l_pid is the process that would be in the way of a lock of ours.
        asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
        try:
            answer = fcntl.fcntl(self._index, fcntl.F_GETLK, asked)
        except OSError:
            return ""
        kind, _, _, _, pid = struct.unpack_from("hhqqi", answer)
        if kind == fcntl.F_UNLCK or pid <= 0:
            return ""
        try:
            name = Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
        except OSError:
            name = ""
        return f"pid {pid} ({name})" if name.isprintable() and name else f"pid {pid}"
