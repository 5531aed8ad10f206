"""A pipeline whose agent is paid for its commands, by a node that pays invoices."""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

from cl_hive_comms.domain.compensation import key_of
from cl_hive_comms.domain.payment import Payment
from cl_hive_comms.payments.bolt11 import Bolt11
from cl_hive_comms.payments.bolt12 import Bolt12
from cl_hive_comms.services.debts import Debts
from cl_hive_comms.services.decoded_invoice import decoded
from cl_hive_comms.services.executors.sent_parts import SentParts
from cl_hive_comms.services.payment_service import PaymentService
from cl_hive_comms.storage.payment_store import PaymentStore
from cl_hive_comms.storage.sealed_command_store import SealedCommandStore
from hive_shared.canonical import JsonValue, decode_object
from hive_shared.crypto import xonly_pubkey
from hive_shared.invoice_messages import INVOICE, Invoice, body_doc
from hive_shared.signed_message import Draft
from hive_shared.store import Tx
from payment_world import NodeWithPayments
from pipeline_world import AGENT_KEY, SEALER, View, World, issue

AGENT = xonly_pubkey(AGENT_KEY)
PAY: dict[str, JsonValue] = {"model": "per_action", "rate_sats": 25}


class Letters:
    """Signed messages that were put into the outbox."""

    def __init__(self) -> None:
        self.sent: dict[str, dict[str, Any]] = {}

    def put(self, tx: Tx, recipient: str, body: JsonValue, *, schema: str, key: str, expires_at: int) -> None:
        self.sent.setdefault(key, {"to": recipient, "schema": schema, "body": body})

    def kick(self) -> None:
        return None


class Rewarding(World):
    """Agent 1 earns per action; `restored` says that an older copy of the database was put back."""

    def __init__(self, directory: Path, **compensation: Any) -> None:
        self.letters, self.restored, self.offered_labels = Letters(), False, True
        super().__init__(directory)
        self.pay_terms = type(self.pay_terms)(escrow_min_danger=10)
        self.node: NodeWithPayments = NodeWithPayments()
        self.node.rows = [self.node._row(n) for n in range(1, 5)]
        self.hire(**compensation)
        self.restart()

    def hire(self, trust: int = 1, **compensation: Any) -> None:
        """The agent's credential names this pay."""
        named = {**PAY, **compensation}
        agreed = {name: value for name, value in named.items() if value is not None}
        made = View(issue(compensation=agreed, trust=Fraction(trust)), "adv-1", trust_pinned=True)
        self.credentials.add(made)

    def restart(self) -> None:
        super().restart()
        self._pay()

    def _pay(self) -> None:
        rows = PaymentStore(SEALER)

        def offers(_name: str) -> bool:
            return self.offered_labels

        lightning = Bolt11(self.node, SentParts(self.node), partial(decoded, self.node), offers, "regtest")
        self.payments = PaymentService(
            db=self.db,
            rows=rows,
            limits=self.limits,
            lightning=lightning,
            offers=Bolt12(self.node, lightning.read, offers),
            paying=self.pipeline.executors.paying,
            methods=lambda: ("bolt11", "bolt12"),
            kill_switch=self.switch,
            alerts=self.out,
            restored=lambda _tx: self.restored,
            now=lambda: self.now,
            log=lambda *_args, **_fields: None,
            fault=self._fault,
        )
        self.debts = Debts(
            db=self.db,
            rows=rows,
            commands=SealedCommandStore(SEALER),
            payments=self.payments,
            lightning=lightning,
            letters=self.letters,
            push=self.push,
            alerts=self.out,
            now=lambda: self.now,
            log=lambda *_args, **_fields: None,
        )
        self.payments.on_debt_paid = self.debts.told

    def bill(self, word: str = "bill", sats: int = 25, **fields: Any) -> str:
        """An invoice of the agent."""
        return self.node.invoice_of(word, sats * 1_000, **fields)

    async def earn(
        self, ppm: int = 102, channel: str = "101x1x0", *, word: str = "bill", **fields: Any
    ) -> Any:
        """A command with a claim; its response."""
        proof: dict[str, JsonValue] = {"method": "bolt11", "invoice": self.bill(word, **fields)}
        return await self.set_fee(ppm, channel, payment_proof=proof)

    async def minute(self) -> None:
        """What the loop does each minute."""
        await self.payments.settle()
        await self.debts.pay_due()

    async def answer(self, key: str, word: str, sats: int = 25, sender: str = AGENT, **fields: Any) -> None:
        """The agent's answer to an invoice_request."""
        invoice = Invoice(
            idempotency_key=key,
            bolt11=self.bill(word, sats, **fields),
            amount_sats=sats,
            expires_at=self.now + 600,
        )
        body = body_doc(invoice)
        message = Draft(
            INVOICE, "00000000-0000-4000-8000-000000000001", "t", 1, self.now, self.now + 60, body
        )
        await self.debts.take_invoice(message, sender)
        await self.debts.drain()

    def row(self, command_id: str) -> Payment | None:
        """The payment of a command."""
        return self.db.peek(lambda tx: PaymentStore(SEALER).by_key(tx, key_of(command_id)))

    def row_of_all(self, sql: str) -> str:
        """The one text that a query finds, "" for none."""
        found = self.db.peek(lambda tx: tx.execute(sql).fetchone())
        return "" if found is None else str(found[0])

    def owed_rows(self) -> list[Payment]:
        """All payments, oldest first."""
        rows = "SELECT payment_id FROM comms_payments ORDER BY rowid"
        store = PaymentStore(SEALER)
        return self.db.peek(
            lambda tx: [row for (pid,) in tx.execute(rows).fetchall() if (row := store.get(tx, pid))]
        )

    def notices(self) -> list[dict[str, Any]]:
        """Payment notices that were pushed to the agent."""
        docs = [decode_object(one["content"], floats=True) for one in self.out.sent if one["kind"] == "push"]
        found: list[dict[str, Any]] = []
        for doc in docs:
            payload: Any = doc["schema_payload"]
            if payload["action"] == "payment_notice":
                found.append(dict(payload["params"]))
        return found

    def counted(self) -> int:
        """Sats that limits count in a day."""
        return int(
            self.db.peek(
                lambda tx: tx.execute(
                    "SELECT COALESCE(SUM(sats), 0) FROM comms_payment_sums WHERE advisor_id = ''"
                ).fetchone()[0]
            )
        )
