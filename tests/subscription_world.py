"""An advisor that is paid period by period: a node that pays, an issuer that counts, a clock of the test."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from cl_hive_comms.domain.payment import ADVISOR, BOLT12, Order
from cl_hive_comms.domain.recurrence import DAY_S
from cl_hive_comms.domain.subscription import Subscription
from cl_hive_comms.services.period_invoices import PeriodInvoices, Whom
from cl_hive_comms.services.subscription_service import PURPOSE, SubscriptionService
from cl_hive_comms.storage.payment_store import PaymentStore
from cl_hive_comms.storage.subscription_store import SubscriptionStore
from hive_shared.cln import ClnError
from hive_shared.invoice_messages import INVOICE, Invoice, body_doc
from hive_shared.signed_message import Draft
from hive_shared.store import Tx
from paying_world import ADA, SEALER, PayingWorld
from payment_world import SHOP, NodeWithPayments, bolt11
from pipeline_world import NOW
from reward_world import AGENT, Letters

MONTH_S = 30 * DAY_S


class NodeWithSeries(NodeWithPayments):
    """`now` is the issuer's clock, `price_msat` what it asks, `down` an issuer that does not answer. Periods
    are of 30 days, payable from three days before their begin to one after it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.price_msat = 50_000
        self.down = False
        self.recurrence: dict[str, Any] = {
            "compulsory_field": True,
            "time_unit": 1,
            "period": 30,
            "paywindow": {"seconds_before": 3 * DAY_S, "seconds_after": DAY_S},
        }
        self.begun: dict[str, int] = {}
        self.asked_for: list[tuple[str, int]] = []
        self.ended: list[dict[str, Any]] = []

    def series(self, word: str = "care", **says: Any) -> str:
        """An offer that recurs."""
        offer = bolt11(word).replace("lnbcrt", "lno")
        self.asked[offer] = {
            "type": "bolt12 offer",
            "valid": True,
            "offer_issuer_id": SHOP,
            "offer_amount_msat": 50_000,
            "offer_recurrence": self.recurrence,
            "preimage": "",
            **says,
        }
        return offer

    def periods_paid(self) -> list[int]:
        """Of every payment that went through its period, in order."""
        done = [row["bolt12"] for row in self.parts if row["status"] == "complete"]
        return [self.asked[text]["invreq_recurrence_counter"] for text in done]

    def _fetchinvoice(self, params: dict[str, Any]) -> dict[str, Any]:
        offer = params["offer"]
        if self.down:
            raise ClnError("fetchinvoice", 1005, "Timeout waiting for response")
        if "offer_recurrence" not in self.asked[offer]:
            return super()._fetchinvoice(params)
        counter, label = params["recurrence_counter"], params["recurrence_label"]
        self.asked_for.append((label, counter))
        if counter and counter - 1 not in self._paid_of(label):
            raise ClnError("fetchinvoice", -32602, "No previous payment attempted for this label and offer")
        if counter in self._paid_of(label):
            raise ClnError("fetchinvoice", 1004, "Remote node sent failure message")
        base = self.begun.setdefault(label, self.now)
        begin = base + counter * MONTH_S
        if counter and not begin - 3 * DAY_S <= self.now <= begin + DAY_S:
            early = self.now < begin
            word = "Too early: can't send until time" if early else "Too late: expired time"
            raise ClnError("fetchinvoice", -1, f"{word} {begin}")
        return self._invoice_for(offer, label, counter, begin + DAY_S)

    def _paid_of(self, label: str) -> set[int]:
        mine = [row for row in self.parts if row["label"] == label and row["status"] == "complete"]
        return {self.asked[row["bolt12"]]["invreq_recurrence_counter"] for row in mine}

    def _invoice_for(self, offer: str, label: str, counter: int, until: int) -> dict[str, Any]:
        text = bolt11(f"{offer}{label}{counter}").replace("lnbcrt", "lni")
        preimage = hashlib.sha256(text.encode()).digest()
        self.asked[text] = {
            "type": "bolt12 invoice",
            "valid": True,
            "invoice_node_id": SHOP,
            "invoice_payment_hash": hashlib.sha256(preimage).hexdigest(),
            "invoice_created_at": self.now,
            "invoice_relative_expiry": until - self.now,
            "invoice_amount_msat": self.price_msat,
            "invreq_recurrence_counter": counter,
            "invoice_recurrence_basetime": self.begun[label],
            "offer_recurrence": self.asked[offer]["offer_recurrence"],
            "preimage": preimage.hex(),
        }
        changed = self.price_msat != self.asked[offer]["offer_amount_msat"]
        return {"invoice": text, "changes": {"amount_msat": self.price_msat} if changed else {}}

    def _send(
        self, method: str, params: dict[str, Any], to: str, amount: int, preimage: str
    ) -> dict[str, Any]:
        try:
            return super()._send(method, params, to, amount, preimage)
        finally:
            self.parts[-1]["bolt12"] = params.get("invstring", "")

    def _cancelrecurringinvoice(self, params: dict[str, Any]) -> dict[str, Any]:
        self.ended.append(params)
        return {"bolt12": "lnr1x"}


class Agreed:
    """`with_` is who is asked for invoices, None where nothing was agreed; `ended` are contracts."""

    def __init__(self) -> None:
        self.with_: Whom | None = None
        self.ended: set[str] = set()

    def whom(self, tx: Tx, row: Subscription) -> Whom | None:
        return self.with_

    def over(self, tx: Tx, contract_id: str) -> bool:
        return contract_id in self.ended


class Notices:
    """What was pushed to agents."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, dict[str, Any]]] = []

    def push(self, tx: Tx, recipient: str, action: str, payload: dict[str, Any]) -> int:
        self.sent.append((recipient, action, payload))
        return len(self.sent)

    def kick(self) -> None:
        return None


class SubscribedWorld(PayingWorld):
    """`hired` are advisors with a credential. `at` is the clock of both sides."""

    node: NodeWithSeries

    def __init__(self, directory: Path) -> None:
        self.hired, self.agreed = {ADA}, Agreed()
        self.letters, self.notices = Letters(), Notices()
        super().__init__(directory, NodeWithSeries())

    def open(self) -> None:
        """The plugin starts."""
        super().open()
        payments = self.service
        self.subscriptions = SubscriptionService(
            db=self.db,
            rows=SubscriptionStore(),
            payments=payments,
            lightning=payments._lightning,
            offers=payments._offers,
            invoices=PeriodInvoices(
                self.db,
                SubscriptionStore(),
                PaymentStore(SEALER),
                payments._lightning,
                self.letters,
                self.notices,
                self.agreed,
                now=lambda: self.now,
            ),
            hired=lambda advisor_id: advisor_id in self.hired,
            name_of=str,
            methods=lambda: self.methods,
            kill_switch=payments._kill_switch,
            alerts=self.outside,
            now=lambda: self.now,
            log=lambda *_args, **_fields: None,
        )

    def at(self, seconds: int) -> None:
        """The clock of both sides goes on."""
        self.now += seconds
        self.node.now = self.now

    def begin(self, offer: str, key: str = "client:care", **fields: Any) -> Order:
        """The operator's order to begin or to pay the due period."""
        given = {"purpose": PURPOSE, "method": BOLT12, "budget": ADVISOR, **fields}
        return self.order(offer, key=key, **given)

    def asked(self) -> list[dict[str, Any]]:
        """Invoices that were asked for, in order."""
        return [letter["body"] for letter in self.letters.sent.values()]

    async def answer(self, word: str, sats: int = 50, sender: str = AGENT, key: str = "", **says: Any) -> str:
        """The agent answers the newest request, or `key`; its invoice, which is paid in the background."""
        text = self.bill(word, sats, **{"created_at": self.now, **says})
        body = Invoice(
            idempotency_key=key or self.asked()[-1]["idempotency_key"],
            bolt11=text,
            amount_sats=sats,
            expires_at=self.now + 600,
        )
        number = "00000000-0000-4000-8000-000000000001"
        draft = Draft(INVOICE, number, "t", 1, self.now, self.now + 60, body_doc(body))
        await self.subscriptions.take_invoice(draft, sender)
        await self.subscriptions.drain()
        return text

    def one(self) -> Subscription:
        """The only subscription."""
        (row,) = self.every()
        return row

    def every(self) -> tuple[Subscription, ...]:
        """All of them."""
        return self.db.peek(lambda tx: SubscriptionStore().page(tx, None, 10))
