"""What hive-client-selfcheck fix=true may do without asking: nothing that loses, grants or changes a rule
(docs/protocol/08-client-and-plugins.md §8.6, docs/decisions/0150-what-fix-repairs.md)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from hive_shared.store import Db

from cl_hive_comms.domain.selfcheck import WAL_MAX
from cl_hive_comms.services.messenger import Messenger
from cl_hive_comms.services.selfcheck_machine import MachineChecks


class Repairs:
    """The repairs by the id of their check. Each returns what it did, empty when there was nothing to do.

    `dial_relays` tries relays that wait for their next attempt and returns how many did, `republish` has
    the relay lists published again and returns whether that may be done now,
    `settle_runes` makes and blacklists the runes that `rune_warnings` tells of.
    """

    def __init__(
        self,
        db: Db,
        machine: MachineChecks,
        messenger: Messenger,
        *,
        dial_relays: Callable[[], Awaitable[int]],
        republish: Callable[[], bool],
        settle_runes: Callable[[], Awaitable[None]],
        rune_warnings: Callable[[], list[str]],
        watch_emergency: Callable[[], Awaitable[None]],
        effects_due: Callable[[], int],
    ) -> None:
        self._db, self._machine, self._messenger = db, machine, messenger
        self._dial_relays, self._republish = dial_relays, republish
        self._settle_runes, self._rune_warnings = settle_runes, rune_warnings
        self._watch_emergency, self._effects_due = watch_emergency, effects_due

    def all(self) -> Mapping[str, Callable[[], Awaitable[str]]]:
        """The repairs by id."""
        return {
            "file_modes": self._modes,
            "wal": self._wal,
            "relays": self._relays,
            "outbox": self._outbox,
            "runes": self._runes,
            "emergency": self._effects,
        }

    async def _modes(self) -> str:
        return await asyncio.to_thread(self._close_to_others)

    def _close_to_others(self) -> str:
        exposed = self._machine.exposed()
        for path in exposed:
            path.chmod(0o700 if path.is_dir() else 0o600)
        return f"made private: {', '.join(path.name for path in exposed)}"[:300] if exposed else ""

    async def _wal(self) -> str:
        before = await asyncio.to_thread(self._machine.wal_bytes)
        if before <= WAL_MAX:
            return ""
        await self._db.checkpoint()
        after = await asyncio.to_thread(self._machine.wal_bytes)
        return f"folded in: {before >> 20} MB, {after >> 20} MB are left"

    async def _relays(self) -> str:
        # The waits grow to half an hour: who has mended the line wants to see it now.
        did = ["the relay lists are published again"] if self._republish() else []
        if count := await self._dial_relays():
            did.insert(0, f"{count} relays were dialled")
        return ", ".join(did)

    async def _outbox(self) -> str:
        count = await self._messenger.retry_now()
        return f"{count} messages are tried now" if count else ""

    async def _runes(self) -> str:
        if not self._rune_warnings():
            return ""
        await self._settle_runes()
        return "" if self._rune_warnings() else "owed runes were made and blacklisted"

    async def _effects(self) -> str:
        due = self._effects_due()
        if not due:
            return ""
        await self._watch_emergency()
        return f"{due - self._effects_due()} of {due} effects of the stop done"
