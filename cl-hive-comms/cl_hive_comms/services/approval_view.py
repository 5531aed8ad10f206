"""What is stored about waiting commands, read for services and people (02 §7.3, 08 §5.2)."""

from __future__ import annotations

import json
from typing import cast

from hive_shared.canonical import JsonValue
from hive_shared.errors import Conflict, NotFound, from_symbol
from hive_shared.store import Tx

from ..domain.command_record import CommandRow, PendingRow
from .command_case import WAITING, Judged, judged_from
from .ports_commands import CommandRows, Database


class ApprovalView:
    """Reads waiting commands."""

    def __init__(self, db: Database, commands: CommandRows) -> None:
        self._db, self._commands = db, commands

    async def pending(self, limit: int = 100) -> dict[str, JsonValue]:
        """What waits, the one that expires first on top: {count, items}."""

        def body(tx: Tx) -> list[JsonValue]:
            return [self._shown(tx, row) for row in self._commands.list_pending(tx, limit)]

        items = await self._db.read(body)
        return {"count": len(items), "items": items}

    def _shown(self, tx: Tx, pending: PendingRow) -> dict[str, JsonValue]:
        row = self._commands.get(tx, pending.action_id)
        # The foreign key keeps the command as long as its pending row.
        assert row is not None
        judged = self.judged(row)
        yes = [v.approver for v in self._commands.votes(tx, row.command_id) if v.decision == "approve"]
        shown: dict[str, JsonValue] = {
            "action_id": pending.action_id,
            "advisor_id": pending.advisor_id,
            "schema": judged.schema,
            "action": judged.action,
            "params": dict(judged.params),
            "change": cast("JsonValue", judged.plan.undo),
            "danger": judged.danger.to_doc(),
            "level": judged.level,
            "workflow": pending.workflow,
            "state": row.state,
            "approvals": len(yes),
            "needed": pending.needed,
            "created_at": pending.created_at,
            "expires_at": pending.expires_at,
        }
        if judged.rule_ids:
            shown["rules"] = list(judged.rule_ids)
        return shown

    async def state(self, action_id: str) -> dict[str, JsonValue]:
        """Where a decided or waiting action is: {action_id, state, approvals, needed, slug?, reason?}."""

        def body(tx: Tx) -> dict[str, JsonValue]:
            row, pending = self._commands.get(tx, action_id), self._commands.pending(tx, action_id)
            assert row is not None and pending is not None
            yes = [v for v in self._commands.votes(tx, action_id) if v.decision == "approve"]
            state: dict[str, JsonValue] = {
                "action_id": action_id,
                "state": row.state,
                "approvals": len(yes),
                "needed": pending.needed,
            }
            if row.slug is not None:
                state["slug"] = row.slug
            if row.receipt_id is not None:
                state["receipt_id"] = row.receipt_id
            # While it waits and after it ran this holds the rules that asked, which `pending` shows.
            if row.slug is not None and pending.reason is not None:
                state["reason"] = pending.reason
            return state

        return await self._db.read(body)

    async def waiting(self, action_id: str, now: int) -> tuple[CommandRow, PendingRow]:
        """A command that waits at `now`. Raises NotFound, Conflict, PolicyDenied (approval_expired)."""

        def body(tx: Tx) -> tuple[CommandRow | None, PendingRow | None]:
            return self._commands.get(tx, action_id), self._commands.pending(tx, action_id)

        row, pending = await self._db.read(body)
        if row is None or pending is None:
            raise not_found(action_id)
        if row.state not in WAITING:
            raise Conflict(
                f"action {action_id} is {row.state}; nothing is left to decide", reason="already_decided"
            )
        if row.deadline is not None and now >= row.deadline:
            # The sweep that ends it runs every 30 s; until then nobody may bring it back.
            raise from_symbol("approval_expired", f"action {action_id} expired at {row.deadline}")
        return row, pending

    def judged(self, row: CommandRow) -> Judged:
        """What was judged when the command was held."""
        stored = json.loads(row.hold_json or "{}")
        return judged_from(stored["judged"], json.loads(row.undo_json or "{}"))


def not_found(action_id: str) -> NotFound:
    """The refusal for an id nothing waits under."""
    return NotFound(f"no action {action_id[:64]!a} waits here; hive-client-pending lists those that do")
