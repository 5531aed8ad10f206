"""The receiving end of payments: invoices checked, multi-part sets gathered, keysend taken."""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import TYPE_CHECKING, Any

from hive_devnet.embedded.ledger.invoices import UNPAID, InvoiceBook, InvoiceRow
from hive_devnet.embedded.ledger.offers import OfferBook
from hive_devnet.embedded.ledger.payments import Failure, Part, Payments

if TYPE_CHECKING:
    from hive_devnet.embedded.node import EmbeddedNode
    from hive_devnet.embedded.world import World

MPP_TIMEOUT = 60.0
_UNKNOWN = (0x400F, "WIRE_INCORRECT_OR_UNKNOWN_PAYMENT_DETAILS")
_TIMEOUT = (23, "WIRE_MPP_TIMEOUT")


class _Gathering:
    """The parts of one payment that have arrived."""

    def __init__(self) -> None:
        self.parts: dict[int, Part] = {}
        self.decided = asyncio.Event()
        self.deciding = False

    def arrived_msat(self) -> int:
        return sum(part.amount_msat for part in self.parts.values())


class Receiver:
    """Takes parts that reached their destination."""

    def __init__(self, world: World, payments: Payments) -> None:
        self._world = world
        self._payments = payments
        self._gatherings: dict[tuple[str, str], _Gathering] = {}

    async def deliver(self, part: Part) -> Part:
        """Decides on a part together with the others of its payment; returns it taken or refused."""
        node = await self._world.when_running(part.destination)
        invoice = self._invoice_for(node, part)
        if invoice is None:
            return self._refuse(part, _UNKNOWN)
        key = (part.destination, part.payment_hash)
        gathering = self._gatherings.setdefault(key, _Gathering())
        gathering.parts[part.id] = part
        if gathering.arrived_msat() >= part.total_msat and not gathering.deciding:
            gathering.deciding = True
            await self._decide(invoice, list(gathering.parts.values()))
            self._gatherings.pop(key, None)
            gathering.decided.set()
        try:
            await asyncio.wait_for(gathering.decided.wait(), MPP_TIMEOUT)
        except TimeoutError:
            gathering.parts.pop(part.id, None)
            return self._refuse(part, _TIMEOUT)
        return self._payments.part(part.id)

    def _invoice_for(self, node: EmbeddedNode, part: Part) -> InvoiceRow | None:
        book = InvoiceBook(self._world.database, node.node_id)
        if part.keysend_preimage is not None and book.by_hash(part.payment_hash) is None:
            return self._accept_keysend(book, part)
        invoice = book.by_hash(part.payment_hash)
        if invoice is None or invoice.status != UNPAID:
            return None
        if part.keysend_preimage is None and invoice.payment_secret != part.payment_secret:
            return None
        offer = OfferBook(self._world.database, node.node_id).of_invoice(part.payment_hash)
        if offer is not None and not offer.active:
            return None
        wanted = invoice.amount_msat
        if wanted is not None and not wanted <= part.total_msat <= 2 * wanted:
            return None
        return invoice

    @staticmethod
    def _accept_keysend(book: InvoiceBook, part: Part) -> InvoiceRow | None:
        preimage = part.keysend_preimage or ""
        if hashlib.sha256(bytes.fromhex(preimage)).hexdigest() != part.payment_hash:
            return None
        now = time.time()
        book.add(
            InvoiceRow(
                node_id=part.destination,
                created_index=book.next_index(),
                label=f"keysend-{now:.9f}",
                payment_hash=part.payment_hash,
                preimage=preimage,
                payment_secret="00" * 32,
                amount_msat=None,
                bolt11=None,
                description="keysend",
                status=UNPAID,
                expires_at=int(now) + 3600,
            )
        )
        return book.by_hash(part.payment_hash)

    async def _decide(self, invoice: InvoiceRow, parts: list[Part]) -> None:
        received = sum(part.amount_msat for part in parts)
        node = await self._world.when_running(invoice.node_id)
        payment = {"label": invoice.label, "preimage": invoice.preimage, "msat": received}
        answers = await node.plugins.hooks.call("invoice_payment", {"payment": payment})
        for _, answer in answers:
            if answer.get("result") == "reject" or "failure_message" in answer:
                for part in parts:
                    self._refuse(part, _hook_failure(answer))
                return
        with self._world.database.transaction():
            book = InvoiceBook(self._world.database, invoice.node_id)
            book.mark_paid(invoice.payment_hash, received)
            self._payments.reveal((part.id for part in parts), invoice.preimage)
        node.notify(
            "invoice_payment", {"msat": received, "preimage": invoice.preimage, "label": invoice.label}
        )
        self._world.invoice_paid.ring()

    def _refuse(self, part: Part, why: tuple[int, str]) -> Part:
        return self._payments.doom(part, Failure(why[0], why[1], part.destination))


def _hook_failure(answer: dict[str, Any]) -> tuple[int, str]:
    message = str(answer.get("failure_message", "")) or "400f"
    code = int(message[:4], 16)
    return (code, _UNKNOWN[1] if code == _UNKNOWN[0] else f"failure {code}")
