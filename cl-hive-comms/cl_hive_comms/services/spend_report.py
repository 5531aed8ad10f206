"""What agents' commands spent, for the status, and which of their payments have no known end, for the
self-check (docs/protocol/08-client-and-plugins.md §5.2, §8.6)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, Protocol

import msgspec
from hive_shared.errors import HiveError
from hive_shared.registry import PAYMENT, WALLET, find
from hive_shared.store import Tx

from ..domain.command_machine import State
from ..domain.command_record import CommandRow
from ..domain.policy_reach import REACH, served_actions
from ..domain.spend import CLASSES, DAY_S, SpentRow
from .ports_commands import Database

PENDING_LONG_S: Final = 3_600
"""From then on a payment or a send whose end the node does not know yet is told."""
UNKNOWN_TOLD_S: Final = 7 * DAY_S
"""So long a spend whose end cannot be proved is told."""
_SENDS: Final = frozenset({PAYMENT, WALLET})


class SpentRows(Protocol):
    """The spend store as it is read here (storage.spend_store.SpendStore)."""

    def spent(self, tx: Tx, since: int) -> tuple[SpentRow, ...]:
        """Sums per credential and class after a time."""
        ...


class Commands(Protocol):
    """The command store as it is read here (storage.command_store.CommandStore)."""

    def in_states(
        self, tx: Tx, states: Sequence[str], *, due: int | None = None, limit: int = 1_000
    ) -> tuple[CommandRow, ...]:
        """Commands in any of the states, oldest first."""
        ...


class Unresolved(msgspec.Struct, frozen=True):
    """A spend without a known end: `state` since `since` (unix seconds)."""

    command_id: str
    action: str
    state: str
    since: int


class SpendReport:
    """Reads spends. `budget_sat` is the operator's daily budget at present, None without one."""

    def __init__(
        self,
        *,
        db: Database,
        rows: SpentRows,
        commands: Commands,
        budget_sat: Callable[[], int | None],
        now: Callable[[], int],
    ) -> None:
        self._db, self._rows, self._commands = db, rows, commands
        self._budget_sat, self._now = budget_sat, now
        globs = REACH["daily_budget_sats"]
        self._spending = frozenset(name for glob in globs for name in served_actions(glob))

    async def spent(self) -> tuple[SpentRow, ...]:
        """What was spent in the last 24 hours or is on its way, per credential and class."""
        since = self._now() - DAY_S
        return await self._db.read(lambda tx: self._rows.spent(tx, since))

    async def of_node(self) -> dict[str, Any]:
        """The last 24 hours of all commands: sats, of those the fees and what is only reserved, by class."""
        rows = await self.spent()
        return {
            "spent_24h_sats": sum(row.total_sat for row in rows),
            "fees_24h_sats": sum(row.fee_sat for row in rows),
            "reserved_sats": sum(row.reserved_sat for row in rows),
            "by_class": {
                kind: sum(row.total_sat for row in rows if row.kind == kind)
                for kind in CLASSES
                if any(row.kind == kind for row in rows)
            },
            "daily_budget_sats": self._budget_sat(),
            "unresolved": len(await self.unresolved()),
        }

    async def unresolved(self) -> tuple[Unresolved, ...]:
        """Spends of which nobody knows what became: unprovable ones of the last week, payments and sends
        that the node has had under way for over an hour (openings and closes may take long)."""
        states = (State.INDETERMINATE, State.PENDING_EXTERNAL)
        rows, now = await self._db.read(lambda tx: self._commands.in_states(tx, states)), self._now()
        return tuple(
            Unresolved(row.command_id, row.action, row.state, row.updated_at)
            for row in rows
            if _told(row, self._spending, now)
        )


def _told(row: CommandRow, spending: Collection[tuple[str, str]], now: int) -> bool:
    try:
        spec = find(row.schema_id, row.action)
    except HiveError:
        return False
    if (spec.schema, spec.name) not in spending:
        return False
    age_s = now - row.updated_at
    if row.state == State.INDETERMINATE:
        return age_s < UNKNOWN_TOLD_S
    return spec.schema in _SENDS and age_s >= PENDING_LONG_S


def spent_by(rows: Sequence[SpentRow], credential_ids: Collection[str]) -> int:
    """Sats, fees included, of some credentials."""
    return sum(row.total_sat for row in rows if row.credential_id in credential_ids)
