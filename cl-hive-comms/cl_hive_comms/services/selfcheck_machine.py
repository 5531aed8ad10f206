"""Self-checks of the node, its disk and our files (docs/protocol/08-client-and-plugins.md §8.6)."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from hive_shared.store import Db

from cl_hive_comms.domain.selfcheck import (
    DISK_MIN,
    SLOW_RPC_S,
    WAL_MAX,
    Check,
    clock_check,
    fail,
    ok,
    warn,
)
from cl_hive_comms.services.ports_identity import Clock
from cl_hive_comms.services.ports_status import NodeInfo

_WAIT_S: Final = 3.0
"""How long a self-check waits for SQLite's own check of a large file; that goes on."""
_SIGNALS: Final = frozenset({"EMERGENCY_STOP", "DRAIN"})
"""Files an operator makes with `touch`; nothing is in them."""


class Machine(msgspec.Struct, frozen=True):
    """What is looked at. `kept` is NET/hive; `offsets` gives our time minus that of relays, seconds."""

    db: Db
    db_path: Path
    kept: Path
    node: NodeInfo
    version_problem: Callable[[str], str | None]
    offsets: Callable[[], Sequence[float]]
    now: Clock


class MachineChecks:
    """Checks that need no record of ours."""

    def __init__(self, machine: Machine) -> None:
        self._m = machine
        # The distance between wall clock and monotonic clock shows later whether the clock was stepped.
        self._offset = machine.now() - time.monotonic()
        self._quick: asyncio.Task[list[str]] | None = None
        self._sound_at: int | None = None

    def all(self) -> Mapping[str, Callable[[], Awaitable[Check]]]:
        """The checks by id."""
        return {
            "cln_version": self._version,
            "rpc_latency": self._latency,
            "database": self._database,
            "wal": self._wal,
            "disk": self._disk,
            "file_modes": self._modes,
            "clock": self._clock,
        }

    async def _version(self) -> Check:
        version = str((await self._m.node.getinfo())["version"])
        problem = self._m.version_problem(version)
        return fail("cln_version", problem, "upgrade CLN") if problem else ok("cln_version", version)

    async def _latency(self) -> Check:
        began = time.monotonic()
        await self._m.node.getinfo()
        took = time.monotonic() - began
        if took > SLOW_RPC_S:
            return warn("rpc_latency", f"getinfo took {took:.1f} s", "the node is busy")
        return ok("rpc_latency", f"{took * 1_000:.0f} ms")

    async def _database(self) -> Check:
        if self._quick is None:
            self._quick = asyncio.get_running_loop().create_task(self._m.db.damage())
        # The file may be so large that reading it takes minutes: that goes on, and the next call has it.
        done, _ = await asyncio.wait({self._quick}, timeout=_WAIT_S)
        if not done:
            if self._sound_at is None:
                return warn("database", "still being read, it is large", "ask again in some minutes")
            return ok("database", f"no damage found {self._m.now() - self._sound_at} s ago, being read again")
        task, self._quick = self._quick, None
        if damage := task.result():
            self._sound_at = None
            return fail("database", "; ".join(damage)[:300], "restore a backup of the database")
        self._sound_at = self._m.now()
        return ok("database", "no damage found")

    async def _wal(self) -> Check:
        size = await asyncio.to_thread(self.wal_bytes)
        if size > WAL_MAX:
            return warn("wal", f"{size >> 20} MB", "run again with fix=true to fold it in")
        return ok("wal", f"{size >> 10} kB")

    def wal_bytes(self) -> int:
        """Size of the write-ahead log."""
        path = self._m.db_path.with_name(self._m.db_path.name + "-wal")
        return path.stat().st_size if path.exists() else 0

    async def _disk(self) -> Check:
        stats = await asyncio.to_thread(os.statvfs, self._m.db_path.parent)
        free = stats.f_bavail * stats.f_frsize
        if free < DISK_MIN:
            return fail("disk", f"{free >> 20} MB free", "make room: receipts need the disk")
        return ok("disk", f"{free >> 20} MB free")

    async def _modes(self) -> Check:
        exposed = await asyncio.to_thread(self.exposed)
        if exposed:
            names = ", ".join(path.name for path in exposed)
            return fail("file_modes", f"open to others: {names}"[:300], "run again with fix=true")
        return ok("file_modes", "private")

    def exposed(self) -> list[Path]:
        """Our files and directories that others may enter, read or write."""
        return [path for path in self._ours() if stat.S_IMODE(path.lstat().st_mode) & 0o077]

    def _ours(self) -> Iterator[Path]:
        name = self._m.db_path.name
        yield from (path for path in self._m.db_path.parent.glob(f"{name}*") if path.is_file())
        if self._m.kept.is_dir():
            yield self._m.kept
            for path in self._m.kept.rglob("*"):
                # A link's own mode says nothing, and what it points to is not ours to change.
                if path.name not in _SIGNALS and not path.is_symlink() and (path.is_dir() or path.is_file()):
                    yield path

    async def _clock(self) -> Check:
        step = self._m.now() - time.monotonic() - self._offset
        return clock_check(step, self._m.offsets())


def offsets_of(relays: Sequence[Mapping[str, Any]]) -> list[float]:
    """Clock offsets in the rows of hive-comms-transports, of relays that are connected."""
    found = (row.get("clock_offset") for row in relays if row.get("connected"))
    return [offset for offset in found if isinstance(offset, int | float)]
