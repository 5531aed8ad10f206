"""One writer per channel, wallet and config (docs/protocol/02-fleet-management.md §7.1 "Locks")."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

from hive_shared.errors import from_symbol

LOCK_WAIT_S: Final = 30.0


class ExecutionLocks:
    """Named locks, taken in one order so that two bulk changes cannot wait for each other."""

    def __init__(self, wait_s: float = LOCK_WAIT_S) -> None:
        self._wait_s = wait_s
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}
        self._watches: list[set[str]] = []

    @contextmanager
    def watch(self) -> Iterator[set[str]]:
        """The names released while the block runs: what was read in it about them may be old."""
        released: set[str] = set()
        self._watches.append(released)
        try:
            yield released
        finally:
            # By identity: two watches that saw the same names are equal.
            self._watches = [watch for watch in self._watches if watch is not released]

    @asynccontextmanager
    async def hold(self, names: Iterable[str]) -> AsyncIterator[bool]:
        """Hold all the locks; yields whether any had to be waited for (what was read before may be old).

        Raises Busy (busy) after 30 s.
        """
        taken: list[str] = []
        waited = False
        try:
            async with asyncio.timeout(self._wait_s):
                for name in sorted(set(names)):
                    lock = self._enter(name)
                    waited = waited or lock.locked()
                    try:
                        await lock.acquire()
                    except BaseException:
                        self._leave(name)
                        raise
                    taken.append(name)
        except TimeoutError:
            self._release(taken)
            raise from_symbol(
                "busy",
                f"another change of the same channel has not ended within {self._wait_s:g} s; try again",
            ) from None
        except BaseException:
            self._release(taken)
            raise
        try:
            yield waited
        finally:
            self._release(taken)

    def _enter(self, name: str) -> asyncio.Lock:
        lock, users = self._locks.get(name, (None, 0))
        lock = lock or asyncio.Lock()
        self._locks[name] = (lock, users + 1)
        return lock

    def _leave(self, name: str) -> None:
        lock, users = self._locks[name]
        if users == 1:
            del self._locks[name]
        else:
            self._locks[name] = (lock, users - 1)

    def _release(self, names: Iterable[str]) -> None:
        for name in names:
            self._locks[name][0].release()
            self._leave(name)
            for watch in self._watches:
                watch.add(name)
