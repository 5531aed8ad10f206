"""The issuing end of offers: invoice requests checked, invoices made, as CLN's offers plugin does."""

from __future__ import annotations

import hashlib
import os
import time
from typing import TYPE_CHECKING

import coincurve

from hive_devnet.embedded import bolt12
from hive_devnet.embedded.bolt12 import Records, of_tu, tu
from hive_devnet.embedded.errors import RpcError
from hive_devnet.embedded.ledger.invoices import EXPIRED, PAID, UNPAID, InvoiceBook, InvoiceRow
from hive_devnet.embedded.ledger.offers import OfferBook, OfferRow

if TYPE_CHECKING:
    from hive_devnet.embedded.node import EmbeddedNode

_FEATURES = bytes.fromhex("020000")
_MUCH = 5


class RequestError(Exception):
    """Why no invoice is given, as the issuer tells the payer."""


class Issuer:
    """Answers invoice requests for one node's offers."""

    def __init__(self, node: EmbeddedNode) -> None:
        self._node = node
        self._invoices = InvoiceBook(node.world.database, node.node_id)
        self._offers = OfferBook(node.world.database, node.node_id)

    def answer(self, text: str) -> Records:
        """The invoice for a request. Raises RequestError."""
        request = bolt12.decode(text, bolt12.REQUEST)
        try:
            return self._answer(request)
        except RequestError as error:
            if str(error) == "Internal error":
                raise
            raise RequestError(f"Failed invreq {text}: {error}") from None

    def _answer(self, request: Records) -> Records:
        offer = self._offers.get(bolt12.offer_id(request))
        if offer is None:
            raise RequestError("Unknown offer")
        if not offer.active:
            raise RequestError("Offer no longer available")
        now, counter = int(time.time()), request.get(bolt12.COUNTER)
        until = request.get(bolt12.ABSOLUTE_EXPIRY)
        if until is not None and (counter is None or not of_tu(counter)) and now >= of_tu(until):
            raise RequestError("Offer expired")
        if not bolt12.request_signed(request):
            raise RequestError("bad signature")
        terms = {
            kind: value for kind, value in request.items() if kind not in (bolt12.SIGNATURE, bolt12.CANCEL)
        }
        terms[bolt12.INVOICE_AMOUNT] = tu(self._amount(request))
        terms |= {bolt12.CREATED_AT: tu(now), bolt12.NODE_ID: request[bolt12.ISSUER_ID]}
        terms[bolt12.INVOICE_FEATURES] = _FEATURES
        if bolt12.recurrence_of(request) is not None:
            self._recurring(request, terms, now)
        elif until is not None and of_tu(until) - now < bolt12.EXPIRY_S:
            terms[bolt12.RELATIVE_EXPIRY] = tu(of_tu(until) - now)
        return self._made(offer, request, terms)

    @staticmethod
    def _amount(request: Records) -> int:
        if bolt12.AMOUNT not in request:
            if bolt12.REQUEST_AMOUNT not in request and bolt12.CANCEL not in request:
                raise RequestError("Missing invreq_amount")
            return of_tu(request.get(bolt12.REQUEST_AMOUNT, b""))
        least = of_tu(request[bolt12.AMOUNT]) * of_tu(request.get(bolt12.QUANTITY, b"\x01"))
        if bolt12.REQUEST_AMOUNT not in request:
            return least
        asked = of_tu(request[bolt12.REQUEST_AMOUNT])
        if asked < least:
            raise RequestError(f"Amount must be at least {least}msat")
        if asked // _MUCH > least:
            raise RequestError(f"Amount vastly exceeds {least}msat")
        return asked

    def _recurring(self, request: Records, terms: Records, now: int) -> None:
        if bolt12.COUNTER not in request:
            raise RequestError("Missing invreq_recurrence_counter")
        counter, base = of_tu(request[bolt12.COUNTER]), now
        if counter:
            base = self._base_before(request, counter)
        index = counter
        if bolt12.RECURRENCE_BASE in request:
            base = of_tu(request[bolt12.RECURRENCE_BASE][1:])
            index += of_tu(request[bolt12.START])
        limit = request.get(bolt12.RECURRENCE_LIMIT)
        if limit is not None and index > of_tu(limit):
            raise RequestError(f"period_index {index} too great")
        since, until = bolt12.paywindow(request, base, index)
        if now < since:
            raise RequestError(f"period_index {index} too early (start {since})")
        if now > until:
            raise RequestError(f"period_index {index} too late (ended {until})")
        terms |= {bolt12.BASETIME: tu(base), bolt12.RELATIVE_EXPIRY: tu(max(1, until - now))}
        first = request.get(bolt12.RECURRENCE_BASE, b"\x00")
        start, end = (bolt12.period_start(request, base, at) for at in (index, index + 1))
        if first[0] and now > start:
            # As lightningd divides: whole periods only, so that one begun costs 1 msat.
            part = of_tu(terms[bolt12.INVOICE_AMOUNT]) * ((end - now) // (end - start))
            terms[bolt12.INVOICE_AMOUNT] = tu(max(1, part))

    def _base_before(self, request: Records, counter: int) -> int:
        row = self._invoices.by_label(self._label(request, counter - 1))
        if row is None or row.bolt12 is None:
            raise RequestError(f"No previous invoice #{counter - 1}")
        if row.status != PAID:
            raise RequestError(f'Previous invoice #{counter - 1} status "{row.status}"')
        return of_tu(bolt12.decode(row.bolt12, bolt12.INVOICE)[bolt12.BASETIME])

    @staticmethod
    def _label(request: Records, counter: int) -> str:
        return f"{bolt12.offer_id(request)}-{request[bolt12.PAYER_ID].hex()}-{counter}"

    def _made(self, offer: OfferRow, request: Records, terms: Records) -> Records:
        label = self._label(request, of_tu(request.get(bolt12.COUNTER, b"")))
        known = self._invoices.by_label(label)
        if known is not None:
            return self._again(known)
        if bolt12.CANCEL in request:
            terms[bolt12.RELATIVE_EXPIRY] = b""
        preimage, data = os.urandom(32), os.urandom(50)
        terms[bolt12.PAYMENT_HASH] = hashlib.sha256(preimage).digest()
        key, blinded = (coincurve.PrivateKey().public_key.format() for _ in range(2))
        cltv = int(self._node.options.get("cltv-final"))
        path, info = bolt12.make_path(self._node.node_id, key, blinded, data, cltv)
        terms |= {bolt12.PATHS: path, bolt12.PAYINFO: info}
        invoice = bolt12.signed("invoice", terms, self._sign)
        self._record(offer, request, invoice, preimage, label)
        return invoice

    def _sign(self, digest: bytes) -> bytes:
        return self._node.keys.node_key.sign_schnorr(digest)

    def _record(
        self, offer: OfferRow, request: Records, invoice: Records, preimage: bytes, label: str
    ) -> None:
        digest, text = invoice[bolt12.PAYMENT_HASH].hex(), bolt12.encode(bolt12.INVOICE, invoice)
        description = request.get(bolt12.DESCRIPTION)
        note = request.get(bolt12.PAYER_NOTE)
        row = InvoiceRow(
            node_id=self._node.node_id,
            created_index=self._invoices.next_index(),
            label=label,
            payment_hash=digest,
            preimage=preimage.hex(),
            payment_secret=bolt12.payment_secret(invoice),
            amount_msat=of_tu(invoice[bolt12.INVOICE_AMOUNT]),
            bolt11=None,
            description=None if description is None else description.decode(),
            status=UNPAID,
            expires_at=bolt12.expires_at(invoice),
        )
        with self._node.world.database.transaction():
            self._offers.given(digest, offer.offer_id, text, None if note is None else note.decode())
            self._invoices.add(row)
        payload = {"preimage": row.preimage, "label": label, "msat": row.amount_msat}
        self._node.notify("invoice_creation", payload)

    @staticmethod
    def _again(known: InvoiceRow) -> Records:
        # The same period gets the same invoice for as long as it is unpaid.
        if known.status == EXPIRED:
            raise RequestError("invoice expired (cancelled?)")
        if known.status != UNPAID or known.bolt12 is None:
            raise RequestError("Internal error")
        return bolt12.decode(known.bolt12, bolt12.INVOICE)


def as_rpc_error(error: RequestError) -> RpcError:
    """What fetchinvoice answers when the issuer refused."""
    return RpcError(1004, "Remote node sent failure message", {"error": str(error)})
