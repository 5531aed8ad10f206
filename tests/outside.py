"""What a plugin does to its files and to the machine, seen by somebody who is not the plugin."""

from __future__ import annotations

import asyncio
import hashlib
import os
import resource
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hive_devnet.node import DevnetRpcError, NodeHandle
from hive_devnet.world import PATIENCE_S, PLUGINS, World, until

COMMS = "cl-hive-comms.py"


BY_THE_CLOCK = frozenset({"comms_state", "comms_baselines"})
"""Tables that the plugin writes half a minute and a minute after its start, whoever sends whatever: what the
selfcheck found, how an advisor found the channels."""
BY_THE_HOUR = frozenset(
    {"management_receipts", "comms_receipt_roots", "comms_receipt_seals", "comms_commands"}
)
"""Those that it writes when an hour is over: the receipt of the hour's reads, the root over all receipts."""


class StoreWatch:
    """The database of cl-hive-comms over a connection of our own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._hour = self._this_hour()
        self._connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)

    @classmethod
    def of(cls, node: NodeHandle) -> StoreWatch:
        return cls(node.net_dir / "cl_hive_comms.db")

    def close(self) -> None:
        self._connection.close()

    def commits(self) -> int:
        """A number that changes with every commit of anybody else."""
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    def rows(self, sql: str, *values: object) -> list[Any]:
        return self._connection.execute(sql, values).fetchall()

    def one(self, sql: str, *values: object) -> Any:
        return self.rows(sql, *values)[0][0]

    def tables(self) -> dict[str, str]:
        """Every table with the hash of its content: says which one changed when one did."""
        names = self.rows("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
        return {name: self._content(name) for (name,) in names}

    def changed(self, before: dict[str, str]) -> set[str]:
        """The tables that differ from before, without those that are written by the clock."""
        now, others = self.tables(), BY_THE_CLOCK
        if self._hour != self._this_hour():
            others |= BY_THE_HOUR
        return {name for name in now if now[name] != before.get(name) and name not in others}

    def unwritten(self, version: int, before: dict[str, str]) -> bool:
        """Whether nothing was committed since then, but for what is written by the clock."""
        now = self.tables()
        return self.commits() == version or (now != before and not self.changed(before))

    @staticmethod
    def _this_hour() -> int:
        return int(time.time()) // 3_600

    def _content(self, table: str) -> str:
        rows = sorted(repr(row) for row in self.rows(f'SELECT * FROM "{table}"'))
        return f"{len(rows)} rows, {hashlib.sha256(''.join(rows).encode()).hexdigest()[:16]}"

    def text(self) -> str:
        """Everything stored, as the bytes of the file and its log have it after a dump."""
        names = [name for (name,) in self.rows("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        return "\n".join(repr(row) for name in names for row in self.rows(f'SELECT * FROM "{name}"'))

    async def quiet(self, seconds: float = 3.0, timeout: float = PATIENCE_S) -> int:
        """Wait until nothing was committed for `seconds`; the commit number from then on."""
        last, since = self.commits(), time.monotonic()

        async def still() -> bool:
            nonlocal last, since
            now = self.commits()
            if now != last:
                last, since = now, time.monotonic()
            return time.monotonic() - since >= seconds

        await until(still, f"{seconds:g} s without a commit", timeout)
        return last


@contextmanager
def tampering(node: NodeHandle) -> Iterator[sqlite3.Connection]:
    """A writable connection whose owner removed the receipt triggers and puts them back."""
    connection = sqlite3.connect(node.net_dir / "cl_hive_comms.db", isolation_level=None, timeout=60)
    triggers = connection.execute(
        "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = 'management_receipts'"
    ).fetchall()
    assert triggers
    try:
        for name, _ in triggers:
            connection.execute(f'DROP TRIGGER "{name}"')
        yield connection
    finally:
        for _, sql in triggers:
            connection.execute(sql)
        connection.close()


def resident_mb(pid: int) -> float:
    """Memory of a process that is in RAM, MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise LookupError(f"process {pid} has no VmRSS")


def internet_sockets(pid: int) -> set[tuple[str, str, int]]:
    """(protocol, remote address, remote port) of every internet socket that the process holds.

    A listening or unconnected one has the remote address 0.0.0.0 and port 0.
    """
    held = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(entry)
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            held.add(target[8:-1])
    return {
        (protocol, *_remote(fields[2]))
        for protocol in ("tcp", "tcp6", "udp", "udp6", "raw")
        for fields in _rows(pid, protocol)
        if fields[9] in held
    }


def _rows(pid: int, protocol: str) -> list[list[str]]:
    lines = Path(f"/proc/{pid}/net/{protocol}").read_text().splitlines()[1:]
    return [line.split() for line in lines]


def _remote(text: str) -> tuple[str, int]:
    address, port = text.split(":")
    octets: Any = bytes.fromhex(address)[::-1]
    return (".".join(str(octet) for octet in octets) if len(octets) == 4 else address), int(port, 16)


def stood_ready(pid: int) -> float:
    """Seconds that a process's main thread was ready to run while other programs had the processor; 0 where
    the kernel does not count them."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/schedstat").read_text()
    except OSError:
        return 0.0
    return int(text.split()[1]) / 1e9


def parent(pid: int) -> int:
    """The process that started another one: of a plugin, its node."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def age(pid: int) -> float:
    """Seconds since a process was started, to the hundredth."""
    # Field 22 of proc_pid_stat(5), counted behind the name, which may hold blanks.
    started = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Took:
    """How long something took: by the wall clock (s), and without the time in which the process that did it
    stood ready and other programs had the processor."""

    wall: float
    own: float


class Stopwatch:
    """Times what a process does, on a machine that may be busy with other things. What the process itself
    waits for (disk, timers, other threads) counts; only being kept off the processor does not."""

    def __init__(self, pid: int, *between: int) -> None:
        """`between` are processes by which question and answer go (the asker, the node); mostly one
        works while the others sleep, so what keeps them off the processor adds up. Where two stand ready at
        once too much is taken off; a wait of the plugin's own is seen all the same."""
        self._pids = (pid, *between)
        self._waited, self._began = self._off(), time.monotonic()

    def _off(self) -> float:
        return sum(stood_ready(pid) for pid in self._pids)

    def stop(self) -> Took:
        """Seconds since it was made."""
        wall = time.monotonic() - self._began
        return Took(wall, max(0.0, wall - (self._off() - self._waited)))


@contextmanager
def full_disk(pid: int) -> Iterator[None]:
    """No file of the process can grow or be written, as on a full disk; pipes and sockets still work."""
    old = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, old[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, old)


async def restart_plugin(world: World) -> None:
    """Start cl-hive-comms again and wait until it serves."""
    await world.alice.call("plugin", {"subcommand": "start", "plugin": str(PLUGINS["cl-hive-comms"])})

    async def serves() -> bool:
        try:
            await world.alice.call("hive-client-status")
        except DevnetRpcError:
            return False
        return True

    await until(serves, "cl-hive-comms to serve again")


async def exists(path: Path, timeout: float = PATIENCE_S) -> None:
    """Wait for a file."""

    async def there() -> bool:
        return path.exists()

    await until(there, str(path.name), timeout)


async def receipts_of(node: NodeHandle, command_id: str) -> list[dict[str, Any]]:
    """The receipts of one command."""
    items = (await node.call("hive-client-receipts", {"limit": 500}))["items"]
    return [item for item in items if item.get("command_id") == command_id]


async def within(seconds: float, work: Any) -> Any:
    """The result of an awaitable that has to come in time."""
    async with asyncio.timeout(seconds):
        return await work
