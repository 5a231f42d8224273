"""PINs are kept as argon2id hashes. They have few digits, so the lock-out protects them, not this;
a hash costs what keeps a storm of logins from being felt: 8 MiB and one pass, a few ms."""

import asyncio
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import structlog
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError

from fastagi.agents.service import StoreUnavailable

log = structlog.get_logger()

_hasher = PasswordHasher(time_cost=1, memory_cost=8 * 1024, parallelism=1)
THREADS = min(4, os.cpu_count() or 1)
DEADLINE = 10.0  # seconds; only a flood of attempts waits so long


def matches(pin_hash: str, pin: str) -> bool:
    """Blocks for some ms."""
    try:
        return _hasher.verify(pin_hash, pin)
    except VerifyMismatchError:
        return False
    except (InvalidHashError, VerificationError) as error:
        log.error("a stored PIN hash cannot be read", error=type(error).__name__)
        return False


def hash_of(pin: str) -> str:
    """Blocks for some ms."""
    return _hasher.hash(pin)


def hashed(wanted: Iterable[tuple[str, str]], known: Mapping[str, str | None]) -> dict[str, str]:
    """Hashes for (key, PIN); a known hash that fits the PIN is kept. Blocks, on all processors."""

    def one(item: tuple[str, str]) -> tuple[str, str]:
        key, pin = item
        old = known.get(key)
        if old is not None and matches(old, pin):
            return key, old
        return key, _hasher.hash(pin)

    # argon2 gives the interpreter's lock away while it computes.
    with ThreadPoolExecutor(THREADS, thread_name_prefix="pin") as threads:
        return dict(threads.map(one, wanted))


class Pins:
    """Implements ``fastagi.agents.service.Pins``."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="pin")

    async def verify(self, pin_hash: str, pin: str) -> bool:
        """Raises StoreUnavailable when too many wait."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(DEADLINE):
                return await loop.run_in_executor(self._threads, matches, pin_hash, pin)
        except TimeoutError:
            raise StoreUnavailable("too many PINs are being checked") from None

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
