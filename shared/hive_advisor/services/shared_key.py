"""One key on two machines: noticed by what nodes answer, and nothing is sent any more
(docs/protocol/11-advisor-kit.md §2).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

import msgspec
from hive_shared.errors import Conflict
from hive_shared.store import Db, Tx
from msgspec.structs import asdict

from hive_advisor.domain.answer import Answer
from hive_advisor.services.ports import ClientRows, RecordRows

TOO_LOW_S: Final = 86_400
"""Two nonces too low at one node within this time are no accident."""
_ALARM: Final = "identity_shared"
_CLEARED: Final = "identity_shared_cleared"
_TOO_LOW: Final = "nonce_too_low:"


class SharedKey(msgspec.Struct, frozen=True):
    """What was noticed: when, at which node (its key and our name for it), in answer to which command."""

    at: int
    node_key: str
    node: str
    slug: str
    command_id: str


class SharedKeyService:
    """Keeps the alert `identity_shared` over restarts, until a human clears it."""

    def __init__(self, db: Db, rows: ClientRows, records: RecordRows, now: Callable[[], int]) -> None:
        self._db, self._rows, self._records, self._now = db, rows, records, now

    def answered(
        self, tx: Tx, node_key: str, node: str, answer: Answer, last_nonce: int, command_id: str
    ) -> None:
        """An answer of a node to a command of ours; joins the transaction that takes it in.

        `last_nonce` is the highest that we gave out for this node: what it saw above that was not ours, what
        lies below it is one of our own commands that overtook another.
        """
        slug = answer.slug
        if slug not in ("nonce_reuse", "nonce_too_low") or self._found(tx) is not None:
            return
        now = self._now()
        if slug == "nonce_too_low":
            if answer.expected_min is not None and answer.expected_min - 1 <= last_nonce:
                return
            last = int(self._rows.meta(tx, _TOO_LOW + node_key) or 0)
            self._rows.set_meta(tx, _TOO_LOW + node_key, str(now))
            cleared = int(self._rows.meta(tx, _CLEARED) or 0)
            if last <= max(cleared, now - TOO_LOW_S):
                return
        found = SharedKey(now, node_key, node, slug, command_id)
        self._rows.set_meta(tx, _ALARM, json.dumps(asdict(found)))
        self._records.add_event(tx, "identity_shared", command_id, f"{node} answered {slug}", now)

    def raised(self, tx: Tx) -> bool:
        """Whether nothing may be sent."""
        return self._found(tx) is not None

    def check(self, tx: Tx) -> None:
        """Raises Conflict (identity_shared) while nothing may be sent."""
        found = self._found(tx)
        if found is not None:
            raise Conflict(
                f"this key is used on another machine too: {found.node} answered {found.slug} to"
                f" {found.command_id}. Nothing is sent until you stopped the other one and said 'hive-advisor"
                " identity shared --clear'; if you do not know the other one, rotate the key",
                reason="identity_shared",
                data=self._shown(found),
            )

    async def found(self) -> dict[str, Any] | None:
        """What was noticed, as people see it; None while all is well."""
        found = await self._db.read(self._found)
        return None if found is None else self._shown(found)

    async def clear(self) -> bool:
        """A human looked: sending goes on. False when there was nothing to clear."""

        def body(tx: Tx) -> bool:
            if self._found(tx) is None:
                return False
            self._rows.set_meta(tx, _ALARM, "")
            self._rows.set_meta(tx, _CLEARED, str(self._now()))
            self._records.add_event(tx, "identity_shared_cleared", "", "", self._now())
            return True

        return await self._db.write(body)

    @staticmethod
    def _shown(found: SharedKey) -> dict[str, Any]:
        return {"at": found.at, "node": found.node, "slug": found.slug, "command_id": found.command_id}

    def _found(self, tx: Tx) -> SharedKey | None:
        text = self._rows.meta(tx, _ALARM)
        return SharedKey(**json.loads(text)) if text else None
