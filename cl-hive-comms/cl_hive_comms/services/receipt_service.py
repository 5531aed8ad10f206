"""The receipt chain: appending, proving, listing, hourly and daily roots
(docs/protocol/02-fleet-management.md §9.1, §9.2; 11-advisor-kit.md §15.7)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Final, NamedTuple

import msgspec
from hive_shared import crypto, receipts
from hive_shared.canonical import JsonValue, encode
from hive_shared.envelope import nonce_json
from hive_shared.errors import InvalidParams
from hive_shared.hidden import hidden
from hive_shared.receipts import MAX_RESULT_BYTES, ChainReport, Receipt
from hive_shared.store import Tx
from msgspec.structs import asdict, fields, replace

from ..domain.receipt_checkpoint import PRUNE, ArchiveEnd, archive_end, signed_text
from ..domain.receipt_checkpoint import fault as checkpoint_fault
from ..domain.receipt_record import ReceiptQuery, ReceiptRow, RootRow, SealRow
from .ports_commands import Database, Identity, ReceiptRows
from .receipt_check import SEAL_SIZE, seal, verify_rows

OPERATOR_SCHEMA: Final = "hive:operator/v1"
"""Schema of receipts of what the operator did; no command can have it."""
_PERIODS: Final = {"hour": 3_600, "day": 86_400}
# One sweep after a long stop; the next sweep goes on.
_MAX_ROOTS_PER_SWEEP: Final = 100
_MAX_SEALS_PER_SWEEP: Final = 200


class ReceiptFields(msgspec.Struct, frozen=True, kw_only=True):
    """What a receipt says, before it gets its place in the chain. Names are those of 02 §9.1.

    `advisor_id` is local and not signed: it finds an advisor's receipts. Secrets in `params`, `result` and
    `error` are hashed when the receipt is appended.
    """

    schema: str
    action: str
    status: str
    advisor_id: str = ""
    agent_id: str | None = None
    credential_id: str | None = None
    command_id: str | None = None
    command_hash: str | None = None
    nonce: int | None = None
    params: JsonValue = None
    danger: JsonValue = None
    approval: JsonValue = None
    payment: JsonValue = None
    escrow: JsonValue = None
    error: JsonValue = None
    result: JsonValue = None
    state_hash_before: str | None = None
    state_hash_after: str | None = None
    agent_signature: str | None = None
    confirm_signature: str | None = None


def operator_event(
    action: str,
    *,
    params: JsonValue = None,
    result: JsonValue = None,
    advisor_id: str = "",
    credential_id: str | None = None,
    agent_id: str | None = None,
    status: str = "success",
) -> ReceiptFields:
    """The receipt of something the operator did: authorize, revoke, policy, approval, key rotation."""
    return ReceiptFields(
        schema=OPERATOR_SCHEMA,
        action=action,
        status=status,
        advisor_id=advisor_id,
        credential_id=credential_id,
        agent_id=agent_id,
        params=params,
        result=result,
    )


class _Draft(NamedTuple):
    kind: str
    start: int
    first_id: int
    last_id: int
    root: str
    last_hash: str


class ReceiptService:
    """Sole author of receipts.

    `node_id` gives the 66-hex Lightning key, `node_keys` the current and earlier Nostr keys (x-only hex),
    `signmessage` the Lightning key's zbase32 signature over a text.
    """

    def __init__(
        self,
        db: Database,
        rows: ReceiptRows,
        identity: Identity,
        *,
        node_id: Callable[[], str],
        node_keys: Callable[[], Collection[str]],
        signmessage: Callable[[str], Awaitable[str]],
        now: Callable[[], int],
    ) -> None:
        self._db, self._rows, self._identity = db, rows, identity
        self._node_id, self._node_keys, self._signmessage = node_id, node_keys, signmessage
        self._now = now

    def append(self, tx: Tx, what: ReceiptFields) -> Receipt:
        """Chain, hash, sign and store a receipt in the caller's transaction.

        A result above 16 KiB is replaced by its hash.
        """
        last_id, last_hash = self.end(tx)
        said = {
            f.name: getattr(what, f.name)
            for f in fields(what)
            if f.name not in ("advisor_id", "nonce", "result", "params", "error")
        }
        result, result_hash = what.result, None
        if result is not None and len(long := encode(result)) > MAX_RESULT_BYTES:
            result, result_hash = None, crypto.sha256(long).hex()
        receipt, text = receipts.seal_with_text(
            Receipt(
                receipt_id=last_id + 1,
                v=1,
                prev_hash=last_hash,
                node_id=self._node_id(),
                created_at=self._now(),
                nonce=None if what.nonce is None else _nonce(what.nonce),
                params=hidden(what.params),
                error=hidden(what.error),
                result=hidden(result),
                result_hash=result_hash,
                **said,
            ),
            self._identity.secret(),
        )
        self._rows.append(tx, _row(receipt, text, what.advisor_id))
        return receipt

    def end(self, tx: Tx) -> ArchiveEnd:
        """Id and hash of the newest receipt, archived or not; 0 and genesis before the first."""
        head = self._rows.head(tx)
        if head is not None:
            return ArchiveEnd(head.receipt_id, head.receipt_hash)
        return archive_end(self._rows.last_root(tx, PRUNE))

    # -- reading ------------------------------------------------------------------------------------

    def document(self, row: ReceiptRow) -> dict[str, JsonValue]:
        """The receipt as a document, hash and signature included."""
        doc: dict[str, JsonValue] = msgspec.json.decode(row.document)
        return {**doc, "receipt_hash": row.receipt_hash, "node_signature": row.node_signature}

    def read(self, tx: Tx, receipt_id: int) -> dict[str, JsonValue] | None:
        """One receipt's document, in the caller's transaction."""
        row = self._rows.get(tx, receipt_id)
        return None if row is None else self.document(row)

    async def get(self, receipt_id: int) -> dict[str, JsonValue] | None:
        """One receipt's document."""
        return await self._db.read(lambda tx: self.read(tx, receipt_id))

    async def list(self, query: ReceiptQuery) -> dict[str, JsonValue]:
        """A page of receipts, newest first: {count, items, next_cursor?}."""
        more = ReceiptQuery(**{**asdict(query), "limit": query.limit + 1})
        found = await self._db.read(lambda tx: self._rows.find(tx, more))
        items: list[JsonValue] = [self.document(row) for row in found[: query.limit]]
        page: dict[str, JsonValue] = {"count": len(items), "items": items}
        if len(found) > query.limit:
            page["next_cursor"] = str(found[query.limit - 1].receipt_id)
        return page

    async def verify(self, from_id: int = 1, to_id: int | None = None) -> ChainReport:
        """Check ids, chain, hashes, signatures and searchable columns of a range, streamed from the file.

        Of archived receipts the signed checkpoints are checked (02 §9.2), the range goes on behind them.
        Raises InvalidParams when the range is empty, starts beyond the chain or is archived altogether.
        """
        if from_id < 1 or (to_id is not None and to_id < from_id):
            raise InvalidParams(f"receipts {from_id} to {to_id} are no range; from_id is 1 or more")
        return await self._db.read(lambda tx: self._verify(tx, from_id, to_id))

    def _verify(self, tx: Tx, from_id: int, to_id: int | None) -> ChainReport:
        archived = archive_end(self._rows.last_root(tx, PRUNE))
        last = self.end(tx)[0]
        end = last if to_id is None else min(to_id, last)
        if from_id > last + 1:
            raise InvalidParams(f"there is no receipt {from_id - 1}; the chain ends at {last}")
        if end <= archived.receipt_id < last:
            raise InvalidParams(
                f"receipts up to {archived.receipt_id} are archived behind checkpoints; give a higher to_id"
            )
        if bad := checkpoint_fault(
            self._rows.checkpoints(tx), node_keys=tuple(self._node_keys()), node_id=self._node_id()
        ):
            return ChainReport(False, 0, bad[0], bad[1])
        from_id = max(from_id, archived.receipt_id + 1)
        after_hash = archived.receipt_hash
        if from_id > archived.receipt_id + 1:
            before = self._rows.get(tx, from_id - 1)
            if before is None:
                return ChainReport(False, 0, from_id - 1, f"receipt {from_id - 1} is missing")
            after_hash = before.receipt_hash

        start = ArchiveEnd(from_id - 1, after_hash)
        seals = self._rows.seals(tx, from_id, end)
        report = verify_rows(self._rows.walk(tx, from_id, end), start, tuple(self._node_keys()), seals)
        if report.ok and report.checked < end - from_id + 1:
            missing = from_id + report.checked
            return report._replace(ok=False, first_bad=missing, reason=f"receipt {missing} is missing")
        return report

    # -- seals --------------------------------------------------------------------------------------

    async def seal_checked(self) -> int:
        """Check the signatures of every thousand receipts that have no seal yet, once, and seal them
        (docs/decisions/0290); how many seals were made. What is damaged gets none."""
        made = 0
        while made < _MAX_SEALS_PER_SWEEP:
            seal_row = await self._db.read(self._next_seal)
            if seal_row is None:
                break
            await self._db.write(partial(self._rows.add_seal, seal=seal_row), durable=False)
            made += 1
        return made

    def _next_seal(self, tx: Tx) -> SealRow | None:
        done = max(self._rows.last_sealed(tx), archive_end(self._rows.last_root(tx, PRUNE)).receipt_id)
        # Behind an archive that ended in the middle of a thousand, the rest of those stays without.
        first_id = -(-done // SEAL_SIZE) * SEAL_SIZE + 1
        last_id = first_id + SEAL_SIZE - 1
        if self.end(tx).receipt_id < last_id or not self._verify(tx, first_id, last_id).ok:
            return None
        return seal(self._rows.walk(tx, first_id, last_id), self._identity.secret())

    # -- roots --------------------------------------------------------------------------------------

    async def hourly_roots(self) -> int:
        """Sign the root of every hour and day that is over and has receipts; returns how many.

        The Lightning key signs too, which ties the chain to the node (02 §9.1): one RPC per root.
        """
        made = 0
        for kind, length in _PERIODS.items():
            while made < _MAX_ROOTS_PER_SWEEP:
                draft = await self._db.read(partial(self._draft, kind=kind, length=length))
                if draft is None:
                    break
                await self._store_root(draft)
                made += 1
        return made

    def _draft(self, tx: Tx, kind: str, length: int) -> _Draft | None:
        last = self._rows.last_root(tx, kind)
        after = max(last.last_id if last else 0, archive_end(self._rows.last_root(tx, PRUNE)).receipt_id)
        following = self._rows.after(tx, after, 1)
        if not following:
            return None
        start = following[0].created_at // length * length
        if last is not None:
            # After the clock was set back a period that has its root gets receipts again: they belong to the
            # one after it, else no root would ever follow.
            start = max(start, last.start + length)
        if start + length > self._now():
            return None
        span = self._rows.span(tx, after, start + length)
        # Always found: `following` itself lies in the period.
        assert span is not None
        first_id, last_id = after + 1, span[1]
        hashes = self._rows.hashes(tx, first_id, last_id)
        return _Draft(kind, start, first_id, last_id, receipts.merkle_root(hashes), hashes[-1])

    async def _store_root(self, draft: _Draft) -> None:
        root = await self.sign_root(
            draft.kind, draft.start, draft.first_id, draft.last_id, draft.root, draft.last_hash
        )
        await self._db.write(lambda tx: self._rows.add_root(tx, root))

    async def sign_root(
        self, kind: str, start: int, first_id: int, last_id: int, root: str, last_hash: str
    ) -> RootRow:
        """A root under the Nostr key and, by one RPC, under the Lightning key; not stored."""
        unsigned = RootRow(kind, start, first_id, last_id, last_id - first_id + 1, root, last_hash, "")
        text = signed_text(unsigned)
        zbase = await self._signmessage(text)
        signature = crypto.schnorr_sign(self._identity.secret(), crypto.sha256(text.encode()))
        return replace(unsigned, node_signature=signature, hsm_signature=zbase)


def _nonce(nonce: int) -> int | str:
    value = nonce_json(nonce)
    assert isinstance(value, int | str)
    return value


def _row(receipt: Receipt, text: str, advisor_id: str) -> ReceiptRow:
    return ReceiptRow(
        receipt_id=receipt.receipt_id,
        advisor_id=advisor_id,
        document=text,
        receipt_hash=receipt.receipt_hash,
        node_signature=receipt.node_signature,
        prev_hash=receipt.prev_hash,
        created_at=receipt.created_at,
        schema_id=receipt.schema,
        action=receipt.action,
        status=receipt.status,
        command_id=receipt.command_id,
        credential_id=receipt.credential_id,
        agent_id=receipt.agent_id,
    )
