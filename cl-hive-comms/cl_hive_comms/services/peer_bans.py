"""Bans of peers: who is banned now, and their end by the clock
(docs/protocol/02-fleet-management.md §4 `ban`, §5.5)."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

from hive_shared.canonical import JsonValue
from hive_shared.registry import PEER
from hive_shared.store import Tx
from msgspec.structs import replace

from ..domain.command_record import TimerRow
from ..domain.policy import PolicySnapshot
from .executors.action import Caller
from .executors.peer import BAN
from .ports_commands import CommandRows, Database, Policies
from .receipt_service import ReceiptService
from .timer_end import timer_event


class PeerBans:
    """Reads and ends bans."""

    def __init__(
        self, db: Database, commands: CommandRows, receipts: ReceiptService, now: Callable[[], int]
    ) -> None:
        self._db, self._commands, self._receipts, self._now = db, commands, receipts, now
        self._read: tuple[int, tuple[tuple[str, int], ...]] | None = None

    def banned(self) -> frozenset[str]:
        """Node ids of the peers that are banned now."""
        # Asked with every command. What was read stands until this process, the file's only writer, commits.
        written = self._db.stats.writes
        if self._read is None or self._read[0] != written:
            self._read = (written, self._db.peek(lambda tx: self._commands.armed(tx, BAN)))
        now = self._now()
        return frozenset(peer for peer, until in self._read[1] if until > now)

    async def end_due(self) -> None:
        """Each ban whose time has come ends once, with a receipt; also after a restart."""
        for timer in await self._db.read(lambda tx: self._commands.timers(tx, BAN, self._now())):
            await self._db.write(partial(self._ended, timer=timer))

    def _ended(self, tx: Tx, timer: TimerRow) -> None:
        if not self._commands.timer_done(tx, timer.timer_id, self._now()):
            return
        payload = json.loads(timer.payload_json)
        caller = Caller(timer.timer_id, "", payload["advisor_id"], payload["credential_id"], self._now())
        result: dict[str, JsonValue] = {"peer_id": timer.subject, "due": timer.due}
        fields = timer_event(PEER, "unban", "success", timer=timer, caller=caller, error=None, result=result)
        self._receipts.append(tx, fields)


class BanningPolicies:
    """The operator's policy with banned peers among the forbidden ones."""

    def __init__(self, policies: Policies, banned: Callable[[], frozenset[str]]) -> None:
        self._policies, self._banned = policies, banned

    def snapshot(self) -> PolicySnapshot:
        """The policy in force."""
        found, banned = self._policies.snapshot(), self._banned()
        return replace(found, banned=banned) if banned else found
