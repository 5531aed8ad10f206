"""Findings of the self-check (docs/protocol/08-client-and-plugins.md §8.6)."""

from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec
from hive_shared.alerts import Level

WAL_MAX: Final = 64 * 1024 * 1024
"""Bytes of the write-ahead log above which it is folded in."""
DISK_MIN: Final = 500 * 1024 * 1024
"""Bytes that have to be free: receipts need the disk."""
RECEIPTS: Final = 1_000
"""Newest receipts that are verified."""
SLOW_RPC_S: Final = 1.0
MAX_CLOCK_S: Final = 60
"""Seconds the clock may be off, or be stepped."""
MANY_WAITING: Final = 100
"""Messages in the outbox."""
BACKUP_DAYS: Final = 30
"""Age of a part's newest backup from which it is called old."""
BACKUP_PARTS: Final = ("identity", "credentials", "receipts", "policy")
"""Parts that cannot be had from anywhere else."""
_RECORDS: Final = frozenset({"database", "key", "receipts"})
"""Checks whose failure may mean that something is lost for good."""

Status = Literal["ok", "warn", "fail"]


class Check(msgspec.Struct, frozen=True):
    """One finding; `fix` says what to do, empty when nothing is to be done."""

    id: str
    status: Status
    detail: str
    fix: str = ""

    def to_doc(self) -> dict[str, str]:
        """The row of the answer."""
        return {"id": self.id, "status": self.status, "detail": self.detail, "fix": self.fix}


def ok(name: str, detail: str) -> Check:
    """All is well."""
    return Check(name, "ok", detail)


def warn(name: str, detail: str, fix: str) -> Check:
    """Works, but somebody should look."""
    return Check(name, "warn", detail, fix)


def fail(name: str, detail: str, fix: str) -> Check:
    """Does not work, or something may be lost."""
    return Check(name, "fail", detail, fix)


class News(msgspec.Struct, frozen=True):
    """A change that the operator should hear of."""

    level: Level
    check: Check


def news(before: Mapping[str, str], now: Sequence[Check]) -> list[News]:
    """What changed to `fail`, and what is no longer failing, since statuses `before`."""
    told = []
    for check in now:
        was = before.get(check.id)
        if check.status == "fail" and was != "fail":
            told.append(News(Level.CRITICAL if check.id in _RECORDS else Level.WARNING, check))
        elif check.status != "fail" and was == "fail":
            told.append(News(Level.INFO, check))
    return told


def clock_check(step_s: float, offsets: Sequence[float]) -> Check:
    """Judge the clock by how far it was stepped since the start and by what relays say (our time minus
    theirs, seconds)."""
    name, fix = "clock", "check the clock and NTP: commands more than 300 s off are refused"
    if offsets:
        middle = sorted(offsets)[len(offsets) // 2]
        if abs(middle) > MAX_CLOCK_S:
            whose = f"{len(offsets)} relays" if len(offsets) > 1 else "the only relay that tells the time"
            text = f"{abs(middle):.0f} s {'ahead of' if middle > 0 else 'behind'} {whose}"
            return fail(name, text, fix) if len(offsets) > 1 else warn(name, text, fix)
    if abs(step_s) > MAX_CLOCK_S:
        return warn(name, f"the clock was stepped by {step_s:+.0f} s since the start", fix)
    return ok(name, f"agrees with {len(offsets)} relays" if offsets else "steady since the start")


def backup_check(taken: Mapping[str, int], *, at_stake: Sequence[str], now: int) -> Check:
    """Judge the newest backup of each part (Unix seconds); `at_stake` are parts that would be missed."""
    fix = "hive-client-backup path=<new file on another machine's disk> passphrase_file=<file>"
    missing = [part for part in at_stake if part not in taken]
    if missing:
        return warn("backup", f"never backed up: {', '.join(missing)}", fix)
    if not at_stake:
        return ok("backup", "nothing that is not in the node's seed")
    days = (now - min(taken[part] for part in at_stake)) // 86_400
    if days > BACKUP_DAYS:
        return warn("backup", f"the last backup is {days} days old", fix)
    return ok("backup", f"{days} days old")
