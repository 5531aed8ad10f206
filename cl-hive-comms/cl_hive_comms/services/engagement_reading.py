"""What the operator is shown of engagements (docs/protocol/04-marketplace-and-nostr.md §12)."""

from __future__ import annotations

from hive_shared.errors import Conflict
from hive_shared.market.contract_machine import RUNNING
from hive_shared.store import Db, Tx
from hive_shared.unreadable import Unreadable

from ..domain.engagement import MAX_THREAD_MESSAGES, Engagement, MarketMessage
from .ports_engagements import EngagementRows


class EngagementReading:
    """Reads, and changes nothing."""

    def __init__(self, db: Db, rows: EngagementRows) -> None:
        self._db, self._rows = db, rows

    async def get(self, contract_id: str) -> tuple[Engagement, list[MarketMessage]]:
        """A contract and what was said about it, in order. Raises NotFound."""

        def body(tx: Tx) -> tuple[Engagement, list[MarketMessage]]:
            row = self._rows.get(tx, contract_id)
            return row, self._rows.messages(tx, row.thread_id, MAX_THREAD_MESSAGES)[::-1]

        return await self._db.read(body)

    async def page(
        self, status: str | None, before: tuple[int, str] | None, limit: int
    ) -> list[Engagement | Unreadable]:
        """The newest first."""
        return await self._db.read(lambda tx: self._rows.page(tx, status=status, before=before, limit=limit))

    async def inbox(self, limit: int) -> list[tuple[MarketMessage, Engagement | None]]:
        """The newest messages that came in, with what they are about."""

        def body(tx: Tx) -> list[tuple[MarketMessage, Engagement | None]]:
            found = self._rows.messages(tx, None, limit)
            return [(message, self._rows.of_thread(tx, message.thread_id)) for message in found]

        return await self._db.read(body)

    def check_pay(self, tx: Tx, contract_id: str, pubkey: str) -> None:
        """Whether work of this advisor (x-only hex) may be paid under this contract; one that this node does
        not know is not its own to judge. Raises Conflict."""
        row = self._rows.find(tx, contract_id)
        if row is not None and row.peer_pubkey != pubkey:
            raise Conflict(f"contract {contract_id} is with {row.advisor_name}", reason="not_theirs")
        if row is not None and row.status not in RUNNING:
            raise Conflict(f"contract {contract_id} is {row.status.value}", reason="stale_state")

    async def counts(self) -> dict[str, int]:
        """How many contracts are in each state."""
        return await self._db.read(self._rows.counts)
