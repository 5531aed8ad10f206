"""What an operator would want to know before trusting the node with an advisor.

docs/protocol/08-client-and-plugins.md §8.6: `{ok, checks[{id, status ok|warn|fail, detail, fix}]}` in at
most 5 s, at start and daily.
"""

import asyncio
import os
import stat
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hive_shared.crypto import xonly_pubkey
from hive_shared.siblings import SiblingHub
from hive_shared.store import Db

from cl_hive_comms.services.identity_service import IdentityService
from cl_hive_comms.services.kill_switch import KillSwitch
from cl_hive_comms.services.messenger import Messenger
from cl_hive_comms.services.policy_service import PolicyService
from cl_hive_comms.services.ports_identity import Clock, Log
from cl_hive_comms.services.ports_status import NodeInfo, Options
from cl_hive_comms.services.receipt_service import ReceiptService

EACH_S: Final = 4.0
WAL_MAX: Final = 64 * 1024 * 1024
DISK_MIN: Final = 500 * 1024 * 1024
RECEIPTS: Final = 1_000
SLOW_RPC_S: Final = 1.0
MAX_CLOCK_STEP_S: Final = 60
MANY_WAITING: Final = 100


@dataclass(frozen=True)
class Check:
    """One finding; `fix` says what to do, empty when nothing is to be done."""

    id: str
    status: str
    detail: str
    fix: str = ""

    def to_doc(self) -> dict[str, str]:
        """The row of the answer."""
        return {"id": self.id, "status": self.status, "detail": self.detail, "fix": self.fix}


def _ok(name: str, detail: str) -> Check:
    return Check(name, "ok", detail)


def _warn(name: str, detail: str, fix: str) -> Check:
    return Check(name, "warn", detail, fix)


def _fail(name: str, detail: str, fix: str) -> Check:
    return Check(name, "fail", detail, fix)


@dataclass(frozen=True)
class Subjects:
    """What is looked at."""

    db: Db
    db_path: Path
    node: NodeInfo
    version_problem: Callable[[str], str | None]
    options: Callable[[], Options]
    identity: IdentityService
    policy: PolicyService
    receipts: ReceiptService
    last_receipt: Callable[[], Awaitable[int]]
    messenger: Messenger
    nostr: Callable[[], Mapping[str, Any]]
    rest_url: Callable[[], Awaitable[str | None]]
    rune_warnings: Callable[[], list[str]]
    siblings: SiblingHub
    kill_switch: KillSwitch
    now: Clock
    log: Log


class SelfcheckService:
    """Runs all checks side by side; a check that fails to run is a finding, not an error."""

    def __init__(self, subjects: Subjects) -> None:
        self._s = subjects
        # The distance between wall clock and monotonic clock shows later whether the clock was stepped.
        self._offset = subjects.now() - time.monotonic()
        self._checks: Mapping[str, Callable[[], Awaitable[Check]]] = {
            "cln_version": self._version,
            "rpc_latency": self._latency,
            "database": self._database,
            "wal": self._wal,
            "disk": self._disk,
            "file_modes": self._modes,
            "key": self._key,
            "clock": self._clock,
            "relays": self._relays,
            "clnrest": self._clnrest,
            "runes": self._runes,
            "siblings": self._siblings,
            "policy": self._policy,
            "options": self._options,
            "receipts": self._receipts,
            "outbox": self._outbox,
            "emergency": self._emergency,
        }

    async def run(self, fix: bool = False) -> dict[str, Any]:
        """All findings; with `fix` what can be repaired without asking is repaired first."""
        if fix:
            await asyncio.to_thread(self._repair_modes)
        checks = await asyncio.gather(*(self._guarded(name) for name in self._checks))
        return {
            "ok": all(check.status != "fail" for check in checks),
            "checks": [check.to_doc() for check in checks],
        }

    async def report(self) -> None:
        """Runs all checks and logs what is not well; run at start and daily."""
        for check in (await self.run())["checks"]:
            if check["status"] != "ok":
                self._s.log(
                    "warning", "selfcheck", id=check["id"], status=check["status"], note=check["detail"]
                )

    async def _guarded(self, name: str) -> Check:
        try:
            async with asyncio.timeout(EACH_S):
                return await self._checks[name]()
        except TimeoutError:
            return _warn(name, f"no result within {EACH_S:g} s", "try again when the node is idle")
        except Exception as error:
            return _fail(name, f"the check itself failed: {type(error).__name__}", "see the node's log")

    # -- node and disk -------------------------------------------------------------------------------

    async def _version(self) -> Check:
        version = str((await self._s.node.getinfo())["version"])
        problem = self._s.version_problem(version)
        return _fail("cln_version", problem, "upgrade CLN") if problem else _ok("cln_version", version)

    async def _latency(self) -> Check:
        began = time.monotonic()
        await self._s.node.getinfo()
        took = time.monotonic() - began
        if took > SLOW_RPC_S:
            return _warn("rpc_latency", f"getinfo took {took:.1f} s", "the node is busy")
        return _ok("rpc_latency", f"{took * 1_000:.0f} ms")

    async def _database(self) -> Check:
        damage = await self._s.db.damage()
        if damage:
            return _fail("database", "; ".join(damage)[:300], "restore a backup of the database")
        return _ok("database", "no damage found")

    async def _wal(self) -> Check:
        path = self._s.db_path.with_name(self._s.db_path.name + "-wal")
        size = path.stat().st_size if path.exists() else 0
        if size > WAL_MAX:
            return _warn("wal", f"{size >> 20} MB", "restart the plugin to fold it in")
        return _ok("wal", f"{size >> 10} kB")

    async def _disk(self) -> Check:
        stats = os.statvfs(self._s.db_path.parent)
        free = stats.f_bavail * stats.f_frsize
        if free < DISK_MIN:
            return _fail("disk", f"{free >> 20} MB free", "make room: receipts need the disk")
        return _ok("disk", f"{free >> 20} MB free")

    def _exposed(self) -> list[Path]:
        kept = self._s.db_path.parent / "hive"
        files = [self._s.db_path, *(kept.glob("*.key") if kept.is_dir() else [])]
        return [path for path in files if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077]

    def _repair_modes(self) -> None:
        for path in self._exposed():
            path.chmod(0o600)

    async def _modes(self) -> Check:
        exposed = self._exposed()
        if exposed:
            names = ", ".join(path.name for path in exposed)
            return _fail("file_modes", f"others may read {names}", "run again with fix=true")
        return _ok("file_modes", "private")

    # -- identity and messages -----------------------------------------------------------------------

    async def _key(self) -> Check:
        if xonly_pubkey(self._s.identity.secret()) != self._s.identity.pubkey:
            return _fail("key", "the stored key does not match the npub", "restore a backup")
        if self._s.identity.warnings:
            return _warn("key", "; ".join(self._s.identity.warnings), "remove the option")
        return _ok("key", self._s.identity.npub)

    async def _clock(self) -> Check:
        step = abs(self._s.now() - time.monotonic() - self._offset)
        if step > MAX_CLOCK_STEP_S:
            return _warn("clock", f"the clock was stepped by {step:.0f} s since start", "check NTP")
        return _ok("clock", "steady since start")

    async def _relays(self) -> Check:
        wanted, connected = len(self._s.options().relays), self._s.nostr()["connected"]
        if not wanted:
            return _warn("relays", "no relay is set", "set hive-comms-nostr-relays")
        if not connected:
            return _fail("relays", f"none of {wanted} relays is connected", "see hive-comms-transports")
        if connected < 2:
            return _warn("relays", "only one relay is connected", "add a second relay")
        return _ok("relays", f"{connected} connected")

    async def _clnrest(self) -> Check:
        if not self._s.options().get("rest-enabled"):
            return _ok("clnrest", "switched off")
        url = await self._s.rest_url()
        if url is None:
            return _warn("clnrest", "clnrest is not running", "set clnrest-port")
        return _ok("clnrest", url)

    async def _runes(self) -> Check:
        if owed := self._s.rune_warnings():
            return _warn(
                "runes", "; ".join(owed), "the node refuses createrune or blacklistrune: see its log"
            )
        return _ok("runes", "none waits to be made or blacklisted")

    async def _outbox(self) -> Check:
        status = await self._s.messenger.status()
        waiting = status["queue"]
        if isinstance(waiting, int) and waiting > MANY_WAITING:
            return _warn("outbox", f"{waiting} messages wait", "see hive-comms-transports")
        return _ok("outbox", f"{waiting} waiting")

    # -- rules and records ---------------------------------------------------------------------------

    async def _siblings(self) -> Check:
        bad = [row for row in self._s.siblings.status() if row.get("error")]
        if bad:
            text = "; ".join(f"{row['plugin']}: {row['error']}" for row in bad)
            return _warn("siblings", text[:300], "restart that plugin, or install the same release")
        return _ok("siblings", self._s.siblings.combo())

    async def _policy(self) -> Check:
        locked = self._s.policy.snapshot().locked
        if locked is not None:
            return _fail("policy", locked, "repair the document, or hive-client-policy action=reset")
        if self._s.policy.file_problem is not None:
            return _warn("policy", self._s.policy.file_problem, "repair the file")
        return _ok("policy", self._s.policy.snapshot().preset)

    async def _options(self) -> Check:
        unserved = self._s.options().unserved()
        if unserved:
            text = f"set but not served by this version: {', '.join(unserved)}"
            return _warn("options", text[:300], "remove them, nothing reads them yet")
        if ignored := self._s.options().ignored():
            return _warn("options", f"set and ignored: {', '.join(ignored)}", "remove them")
        return _ok("options", "all that are set are served")

    async def _receipts(self) -> Check:
        last = await self._s.last_receipt()
        if not last:
            return _ok("receipts", "none yet")
        report = await self._s.receipts.verify(max(1, last - RECEIPTS + 1), last)
        if not report.ok:
            text = f"receipt {report.first_bad}: {report.reason}"
            return _fail("receipts", text, "the record was altered: keep the file, restore a backup")
        return _ok("receipts", f"{report.checked} verified")

    async def _emergency(self) -> Check:
        if self._s.kill_switch.engaged():
            how = "hive-client-emergency-stop action=status shows it and gives the token to release it"
            return _warn("emergency", "the emergency stop is engaged", how)
        return _ok("emergency", "not engaged")
