"""Receipts of clients: checked, linked, kept (docs/protocol/11-advisor-kit.md §5.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hive_shared import receipts
from hive_shared.crypto import cln_recover_message
from hive_shared.errors import Conflict, InvalidParams
from hive_shared.store import Db, Tx

from hive_advisor.domain import evidence
from hive_advisor.domain.evidence import Fork
from hive_advisor.domain.rows import Client, ReceiptLevel, StoredReceipt
from hive_advisor.services.forks import ForkService
from hive_advisor.services.ports import ClientRows, RecordRows

_ROOT_SPAN = 100_000


class VerificationFailed(Conflict):
    """A node contradicts its own record (exit code 7)."""


class ReceiptService:
    """Every receipt that reaches us is checked before it is believed."""

    def __init__(self, db: Db, records: RecordRows, clients: ClientRows, forks: ForkService) -> None:
        self._db, self._records, self._clients, self._forks = db, records, clients, forks

    def check(self, client: Client, document: Mapping[str, Any]) -> StoredReceipt:
        """Shape, hash and node signature of a full receipt. Raises InvalidParams naming the failed check."""
        receipt_id, prev = document.get("receipt_id"), document.get("prev_hash")
        if not isinstance(receipt_id, int) or isinstance(receipt_id, bool) or receipt_id < 1:
            raise InvalidParams("the receipt has no id")
        if not isinstance(prev, str) or len(prev) != 64:
            raise InvalidParams(f"receipt {receipt_id} has no previous hash")
        try:
            receipt = receipts.from_doc(document)
        except ValueError as error:
            raise InvalidParams(f"receipt {receipt_id}: {error}") from error
        computed = receipts.receipt_hash(receipt)
        if receipt.receipt_hash != computed:
            raise InvalidParams(f"receipt {receipt_id}: its hash is not that of its content")
        if not receipts.verify(receipt, client.node_key):
            raise InvalidParams(f"receipt {receipt_id} is not signed by the node")
        if document.get("node_id") != client.node_id:
            raise InvalidParams(f"receipt {receipt_id} is of another node")
        return StoredReceipt(client.client_id, receipt_id, computed, prev, True, dict(document), "signed")

    async def take(self, client: Client, checked: StoredReceipt) -> ReceiptLevel:
        """Store a checked receipt; returns how far it could be linked. Raises Fork."""
        claims = [evidence.receipt_claim(checked.document)]
        return await self._db.write(lambda tx: self._take(tx, client, checked, claims))

    async def take_stub(
        self, client: Client, stub: Mapping[str, Any], carried_by: str, claims: Sequence[dict[str, Any]]
    ) -> None:
        """Another agent's receipt: only its place in the chain is known, on the node's word, which is in the
        answer to our question `carried_by` and in `claims`. Raises Fork."""
        receipt_id, digest, prev = stub.get("receipt_id"), stub.get("receipt_hash"), stub.get("prev_hash")
        if (
            isinstance(receipt_id, bool)
            or not isinstance(receipt_id, int)
            or not isinstance(digest, str)
            or not isinstance(prev, str)
        ):
            raise InvalidParams("a receipt stub is not well formed")
        made = StoredReceipt(
            client.client_id, receipt_id, digest, prev, False, dict(stub), "stub", carried_by=carried_by
        )
        await self._db.write(lambda tx: self._take(tx, client, made, claims))

    def _take(
        self, tx: Tx, client: Client, receipt: StoredReceipt, claims: Sequence[dict[str, Any]]
    ) -> ReceiptLevel:
        known = self._records.receipt(tx, client.client_id, receipt.receipt_id)
        if known is not None and known.hash != receipt.hash:
            raise Fork(
                f"receipt {receipt.receipt_id} had hash {known.hash[:16]}… and now {receipt.hash[:16]}…",
                [*self._forks.claim(tx, known), *claims],
            )
        self._records.add_receipt(tx, receipt)
        return self._relink(tx, client)

    async def begin_behind(self, client: Client, archived_to: int, prev: str) -> None:
        """What the node archived behind a signed checkpoint is not listed any more: the chain goes on after
        it, from the hash that its next receipt names."""

        def body(tx: Tx) -> None:
            current = self._clients.by_id(tx, client.client_id) or client
            if current.head_id < archived_to:
                self._clients.set_head(tx, client.client_id, archived_to, prev)
                self._relink(tx, client)

        await self._db.write(body)

    async def first_unanchored(self, client: Client) -> int:
        """Id of the first linked receipt that no signed root covers yet; the head's successor if all are."""
        return await self._db.read(lambda tx: self._records.first_below(tx, client.client_id, "anchored"))

    async def anchor(self, client: Client, roots: object) -> int:
        """Receipts under an hourly root that the node's Lightning key signed become ``anchored``.

        The root is computed from the hashes stored here, stubs included. A root that does not match or is
        not signed by the pinned node id anchors nothing. Returns how many receipts were anchored.
        """
        spans = [self._signed_span(client, root) for root in (roots if isinstance(roots, list) else [])]
        wanted = [span for span in spans if span is not None]
        return await self._db.write(lambda tx: sum(self._anchor(tx, client, *span) for span in wanted))

    @staticmethod
    def _signed_span(client: Client, root: object) -> tuple[int, int, str] | None:
        if not isinstance(root, dict):
            return None
        numbers = [root.get(name) for name in ("start", "first_id", "last_id")]
        if not all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
            return None
        start, first, last = (int(str(number)) for number in numbers)
        kind, merkle, zbase = (str(root.get(name, "")) for name in ("kind", "merkle_root", "zbase"))
        if not 0 < first <= last or last - first > _ROOT_SPAN:
            return None
        text = receipts.root_text(kind, start, first, last, merkle)
        return (first, last, merkle) if cln_recover_message(text, zbase) == client.node_id else None

    def _anchor(self, tx: Tx, client: Client, first: int, last: int, merkle: str) -> int:
        rows = list(self._records.receipts(tx, client.client_id, first - 1, last - first + 1))
        if [row.receipt_id for row in rows] != list(range(first, last + 1)):
            return 0
        if receipts.merkle_root([row.hash for row in rows]) != merkle:
            return 0
        mine = [row for row in rows if row.level in ("signed", "chained")]
        for row in mine:
            self._records.set_level(tx, client.client_id, row.receipt_id, "anchored")
        return len(mine)

    def _relink(self, tx: Tx, client: Client) -> ReceiptLevel:
        """Walk on from the head over what is stored; what links is ``chained``."""
        current = self._clients.by_id(tx, client.client_id) or client
        head_id, head_hash = current.head_id, current.head_hash or receipts.GENESIS
        level: ReceiptLevel = "signed"
        for item in self._records.receipts(tx, client.client_id, head_id):
            if item.receipt_id != head_id + 1:
                break
            if item.prev != head_hash:
                before = self._records.receipt(tx, client.client_id, head_id)
                raise Fork(
                    f"receipt {item.receipt_id} does not continue receipt {head_id}",
                    [*(self._forks.claim(tx, before) if before else []), *self._forks.claim(tx, item)],
                )
            if item.level == "signed":
                self._records.set_level(tx, client.client_id, item.receipt_id, "chained")
            head_id, head_hash, level = item.receipt_id, item.hash, "chained"
        if head_id != current.head_id:
            self._clients.set_head(tx, client.client_id, head_id, head_hash)
        return level

    async def get(self, client: Client, receipt_id: int) -> StoredReceipt | None:
        return await self._db.read(lambda tx: self._records.receipt(tx, client.client_id, receipt_id))

    async def listed(self, client: Client, since: int, limit: int) -> list[StoredReceipt]:
        return list(
            await self._db.read(lambda tx: self._records.receipts(tx, client.client_id, since, limit))
        )

    async def every(self, client: Client) -> list[StoredReceipt]:
        """All stored receipts of a client, in order."""
        found: list[StoredReceipt] = []
        while page := await self.listed(client, found[-1].receipt_id if found else 0, 500):
            found += page
        return found

    async def verify(self, client: Client) -> dict[str, Any]:
        """Check everything stored again. ``first_bad`` names the first receipt that fails, and why."""
        checked, previous = 0, (0, receipts.GENESIS)
        gaps: list[int] = []
        for item in await self.every(client):
            problem = self._problem(client, item)
            if problem is None and item.receipt_id == previous[0] + 1 and item.prev != previous[1]:
                problem = f"does not continue receipt {previous[0]}"
            if problem is not None:
                return {
                    "ok": False,
                    "client": client.alias,
                    "checked": checked,
                    "first_bad": item.receipt_id,
                    "reason": problem,
                }
            if item.receipt_id != previous[0] + 1:
                gaps.append(previous[0] + 1)
            previous = (item.receipt_id, item.hash)
            checked += 1
        return {
            "ok": True,
            "client": client.alias,
            "checked": checked,
            "first_bad": None,
            "gaps_from": gaps[:20],
            "head": previous[0],
        }

    def _problem(self, client: Client, item: StoredReceipt) -> str | None:
        if item.level == "stub":
            return None
        try:
            again = self.check(client, item.document)
        except InvalidParams as error:
            return error.detail
        return None if again.hash == item.hash else "its stored hash is not that of its content"
