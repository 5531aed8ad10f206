"""Invoices, offers and keys for ecash that this node gives on behalf of siblings, and the proof that they
were paid (docs/protocol/03-escrow-and-payments.md §7.4, §7.5; docs/decisions/0517, 0562, 0596).

Crash points: `invoice_noted`, `invoice_made`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from hive_shared.cln import ClnError
from hive_shared.crypto import Secret
from hive_shared.errors import (
    Busy,
    Capacity,
    Conflict,
    FeatureDisabled,
    HiveError,
    PaymentFailed,
)
from hive_shared.row_by_row import RowByRow
from hive_shared.store import Tx
from msgspec.structs import replace

from ..domain.access_fee import CASHU, L402
from ..domain.payment import BOLT11, BOLT12, IN, LATE_S, Payment, Target
from ..domain.payment_machine import Event, State
from ..domain.request_macaroon import check_macaroon, is_of, macaroon_of
from .ecash_requests import EcashRequests
from .ports_commands import Database, Fault, KillSwitch, Node
from .ports_identity import Log
from .ports_payments import PaymentRows

MOST_OPEN: Final = 1_000
"""Invoices and offers that wait at once; unpaid ones expire."""
_DUPLICATE_LABEL: Final = 900
_OF_OFFER: Final = re.compile(r"([0-9a-f]{64})-0[23][0-9a-f]{64}-0")
"""The label that the node gives to the invoice of an offer."""


class PaymentRequests:
    """Asks for money and knows what came."""

    def __init__(
        self,
        *,
        db: Database,
        rows: PaymentRows,
        node: Node,
        kill_switch: KillSwitch,
        random_bytes: Callable[[int], bytes],
        now: Callable[[], int],
        fault: Fault,
        key: Secret,
        node_id: str,
        log: Log,
    ) -> None:
        self._key, self._node_id = key, node_id
        self.ecash: EcashRequests | None = None
        """Set where this node has a wallet."""
        self._db, self._rows, self._node, self._kill_switch = db, rows, node, kill_switch
        self._random, self._now, self._fault, self._alone = random_bytes, now, fault, RowByRow(log)

    async def request(
        self,
        sats: int,
        purpose: str,
        advisor_id: str | None,
        expiry_s: int,
        kind: str = BOLT11,
        *,
        payer: str | None = None,
    ) -> Payment:
        """An invoice over an amount (bolt11, l402), an offer that is paid once, or a key for ecash, valid for
        `expiry_s` seconds; `payer` (x-only hex) may lock tickets to that key too. Raises Busy when the node
        does not answer (none is known then: ask anew), PaymentFailed when it refuses, Capacity,
        EmergencyStop, FeatureDisabled."""
        self._kill_switch.check()
        row = self._row(sats, purpose, advisor_id, expiry_s, kind)

        def body(tx: Tx) -> None:
            if self._rows.awaited(tx) >= MOST_OPEN:
                raise Capacity(f"{MOST_OPEN} invoices wait to be paid; unpaid ones expire, ask again later")
            self._rows.insert(tx, row)

        if kind == CASHU:
            return await self._by_ecash(row, payer, body)
        await self._db.write(body)
        await self._fault("invoice_noted")
        done = await (self._offer(row, expiry_s) if kind == BOLT12 else self._invoice(row, expiry_s))
        await self._fault("invoice_made")
        await self._db.write(lambda tx: self._rows.asked(tx, done, self._now()))
        return done

    async def _by_ecash(self, row: Payment, payer: str | None, insert: Callable[[Tx], None]) -> Payment:
        ecash = self._of_ecash()

        def body(tx: Tx) -> Payment:
            insert(tx)
            asked = ecash.asked(tx, row, payer)
            self._rows.asked(tx, asked, self._now())
            return asked

        return await self._db.write(body)

    def _of_ecash(self) -> EcashRequests:
        if self.ecash is None:
            raise FeatureDisabled("this node has no ecash wallet: it has no `makesecret`")
        return self.ecash

    def told(self, row: Payment, payer: str | None) -> dict[str, object]:
        """What whoever is to pay a request is told beside its id and end."""
        if row.kind == CASHU:
            return self._of_ecash().told(row, payer)
        if row.kind == BOLT12:
            return {"offer": row.target.text, "offer_id": row.offer_id}
        shown: dict[str, object] = {"invoice": row.target.invoice, "payment_hash": row.payment_hash}
        if row.kind == L402:
            shown["macaroon"] = macaroon_of(self._key, row, self._node_id, payer)
        return shown

    async def _invoice(self, row: Payment, expiry_s: int) -> Payment:
        asked = {
            "amount_msat": row.amount_msat,
            "label": row.label,
            "description": row.purpose,
            "expiry": expiry_s,
        }
        try:
            made = await self._node.call("invoice", asked)
        except ClnError as error:
            made = await self._made(row, error)
        target = replace(row.target, text=str(made["bolt11"]), invoice=str(made["bolt11"]))
        return replace(
            row,
            target=target,
            payment_hash=str(made["payment_hash"]),
            expires_at=int(made["expires_at"]),
        )

    async def _offer(self, row: Payment, expiry_s: int) -> Payment:
        asked = {
            "amount": row.amount_msat,
            # An offer is known by what it says: with the id in it no two are the same.
            "description": f"{row.purpose} {row.payment_id}",
            "label": row.label,
            "absolute_expiry": row.created_at + expiry_s,
            "single_use": True,
        }
        try:
            made = await self._node.call("offer", asked)
        except ClnError as error:
            if not error.outcome_unknown:
                raise PaymentFailed(f"the node refused to make an offer (code {error.code})") from None
            raise Busy("the node does not answer, so there is no offer; ask for another one") from None
        target = replace(row.target, text=str(made["bolt12"]))
        return replace(row, target=target, offer_id=str(made["offer_id"]))

    def _row(self, sats: int, purpose: str, advisor_id: str | None, expiry_s: int, kind: str) -> Payment:
        payment_id, now = self._random(16).hex(), self._now()
        return Payment(
            payment_id=payment_id,
            key=f"request:{payment_id}",
            content_hash="",
            advisor_id=advisor_id,
            budget=None,
            kind=kind,
            purpose=purpose,
            direction=IN,
            amount_msat=sats * 1_000,
            max_fee_msat=0,
            state=State.AWAITING,
            target=Target(""),
            label=f"hive:{payment_id}",
            created_at=now,
            updated_at=now,
            expires_at=now + expiry_s,
        )

    async def _made(self, row: Payment, error: ClnError) -> dict[str, Any]:
        if error.outcome_unknown or error.code == _DUPLICATE_LABEL:
            try:
                found = await self._labelled(row.label)
            except ClnError:
                found = None
            if found is not None:
                return found
            raise Busy("the node does not answer, so there is no invoice; ask for another one") from None
        raise PaymentFailed(f"the node refused to make an invoice (code {error.code})") from None

    async def _labelled(self, label: str) -> dict[str, Any] | None:
        rows = (await self._node.call("listinvoices", {"label": label}))["invoices"]
        return dict(rows[0]) if rows else None

    # -- what came -------------------------------------------------------------------------------------

    async def heard(self, label: str) -> None:
        """The node says that the invoice of a label was paid: look, and note it."""
        offer = _OF_OFFER.fullmatch(label)
        row = await self._db.read(
            lambda tx: self._rows.by_label(tx, label) if offer is None else self._rows.by_offer(tx, offer[1])
        )
        if row is not None and row.state in (State.AWAITING, State.EXPIRED):
            # A node that does not answer is asked again by the sweep.
            with suppress(ClnError):
                await self._look(row)

    async def settle(self) -> None:
        """Ask the node for every invoice that waits; at the start, then every minute."""
        with self._alone.round("payment requests") as alone:
            for row in await self._db.read(lambda tx: self._rows.in_states(tx, (State.AWAITING,))):
                with alone(row.payment_id):
                    try:
                        await self._look(row)
                    except ClnError:
                        return

    async def _look(self, row: Payment) -> Payment:
        if row.kind == CASHU:
            return row if self.ecash is None else await self.ecash.look(row)
        found = await self._known(row)
        if found is not None and found["status"] == "paid":
            changes: dict[str, Any] = {
                "payment_hash": str(found["payment_hash"]),
                "preimage": str(found["payment_preimage"]),
            }
            return await self._moved(row, Event.ON_PAID, changes)
        assert row.expires_at is not None
        over = found is not None and found["status"] == "expired"
        if row.state is State.AWAITING and (over or self._now() > row.expires_at + LATE_S):
            return await self._moved(row, Event.ON_EXPIRED, {})
        return row

    async def _known(self, row: Payment) -> dict[str, Any] | None:
        """The invoice of a row, of an offer the one that was paid."""
        if row.kind != BOLT12:
            return await self._labelled(row.label)
        if row.offer_id is None:
            # Nobody has heard of an offer whose making was cut off.
            return None
        rows = (await self._node.call("listinvoices", {"offer_id": row.offer_id}))["invoices"]
        return next((dict(each) for each in rows if each["status"] == "paid"), None)

    async def _of_offer(self, payment_hash: str) -> tuple[Payment, ...]:
        """The row that the invoice of a hash belongs to by its offer, as the node has it now."""
        try:
            rows = (await self._node.call("listinvoices", {"payment_hash": payment_hash}))["invoices"]
            offer_id = next((str(each["local_offer_id"]) for each in rows if "local_offer_id" in each), "")
            row = await self._db.read(lambda tx: self._rows.by_offer(tx, offer_id)) if offer_id else None
            if row is None:
                return ()
            seen = await self._look(row) if row.state in (State.AWAITING, State.EXPIRED) else row
        except ClnError:
            raise _silent() from None
        # Of an offer for one payment another invoice than this one may have been paid.
        return (seen,) if seen.payment_hash in (None, payment_hash) else ()

    async def _moved(self, row: Payment, event: Event, changes: dict[str, Any]) -> Payment:
        try:
            return await self._db.write(lambda tx: self._rows.move(tx, row, event, self._now(), **changes))
        except Conflict:
            # The notification and the sweep may meet; the first one has written it.
            return await self._db.read(lambda tx: self._rows.get(tx, row.payment_id)) or row

    async def verify_token(self, token: str, price_sats: int, agent: str) -> str:
        """Take ecash for the request whose key it is locked to (`EcashRequests.verify`)."""
        return await self._of_ecash().verify(token, price_sats, agent)

    async def verify_macaroon(self, macaroon: str, preimage: str, price_sats: int, agent: str) -> str:
        """As `verify`, of an invoice that was given with a macaroon. Raises PaymentFailed `payment_invalid`
        too."""
        now = self._now()
        token_id = check_macaroon(self._key, macaroon, preimage, node_id=self._node_id, agent=agent, now=now)
        digest = hashlib.sha256(bytes.fromhex(preimage)).hexdigest()
        return await self.verify(digest, preimage, price_sats, agent, token_id)

    async def verify(
        self,
        payment_hash: str,
        preimage: str,
        price_sats: int,
        agent: str,
        token_id: bytes | None = None,
    ) -> str:
        """Use up what was paid, for an agent, once; the payment's id. Raises PaymentFailed with the reason
        `preimage_mismatch`, `not_found`, `not_paid`, `too_little` or `payment_replayed`."""
        if hashlib.sha256(bytes.fromhex(preimage)).hexdigest() != payment_hash:
            raise _refused("the preimage is not that of the payment hash", "preimage_mismatch")
        rows = await self._db.read(lambda tx: self._rows.by_hash(tx, payment_hash, IN))
        rows = rows or await self._of_offer(payment_hash)
        if not rows:
            raise _refused("no invoice of this node has this payment hash", "not_found")
        row = rows[0]
        if (row.kind == L402) is not (token_id is not None):
            raise _refused("the proof of this payment is its macaroon with the preimage", "payment_invalid")
        if token_id is not None and not is_of(row, token_id):
            raise _refused("no invoice of this node has this macaroon", "not_found")
        if row.state in (State.AWAITING, State.EXPIRED):
            try:
                row = await self._look(row)
            except ClnError:
                raise _silent() from None
        if row.state is not State.SETTLED:
            raise _refused("the invoice is not paid", "not_paid")
        if row.amount_msat < price_sats * 1_000:
            raise _refused(
                f"{row.amount_msat // 1_000} sat were paid, the price is {price_sats}", "too_little"
            )
        if not await self._db.write(lambda tx: self._rows.bind(tx, row.payment_id, agent, self._now())):
            raise _refused("this payment was used before", "payment_replayed")
        return row.payment_id


def _silent() -> Busy:
    return Busy("the node does not answer, so whether it was paid is not known; try again")


def _refused(sentence: str, reason: str) -> HiveError:
    return PaymentFailed(sentence, reason=reason)
