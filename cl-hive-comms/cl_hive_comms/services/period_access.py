"""Access paid period by period: an offer of this node for each agent, and the proof that its period is paid
(docs/protocol/02-fleet-management.md §8; 03 §7.4; docs/decisions/0563)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError
from hive_shared.errors import HiveError, from_symbol
from hive_shared.store import Tx

from ..domain.access_fee import BOLT12, PAID, PERIOD, AccessToken, Fee, Proof
from ..domain.access_income import income_of
from ..domain.payment import IN, Payment
from .decoded_invoice import decoded
from .ports_commands import Database, Node

_LABEL: Final = "hive:access:"
_ENDLESS: Final = 1_000_000_000
"""Uses of a period: as many as the other rules allow."""
_EXISTS: Final = 1_000


class PeriodRows(Protocol):
    """The store of sold access (storage.access_store.AccessStore)."""

    def add(self, tx: Tx, token: AccessToken) -> None: ...
    def of_hash(self, tx: Tx, payment_hash: str) -> AccessToken | None: ...
    def period_of(self, tx: Tx, agent_key: str, now: int) -> AccessToken | None: ...


class Income(Protocol):
    """The record of payments (storage.payment_store.PaymentStore)."""

    def insert(self, tx: Tx, row: Payment) -> None: ...
    def by_hash(self, tx: Tx, payment_hash: str, direction: str) -> tuple[Payment, ...]: ...


class PeriodAccess:
    """Sells periods and checks that one is paid."""

    def __init__(
        self, db: Database, rows: PeriodRows, income: Income, node: Node, now: Callable[[], int]
    ) -> None:
        self._db, self._rows, self._income, self._node, self._now = db, rows, income, node, now

    def running(self, agent_key: str) -> Fee | None:
        """What pays for the commands of an agent whose period runs."""
        token = self._db.peek(lambda tx: self._rows.period_of(tx, agent_key, self._now()))
        return None if token is None else _fee(token)

    async def by_proof(self, agent_key: str, credential_id: str, advisor_id: str | None, proof: Proof) -> Fee:
        """Bind the period whose invoice was paid to its agent, once; again it is what it was.

        Raises PaymentFailed (payment_invalid), ClnError when the node cannot be asked.
        """
        payment_hash = hashlib.sha256(bytes.fromhex(proof.preimage)).hexdigest()
        if proof.payment_hash not in ("", payment_hash):
            raise _bad("the preimage is not that of payment_hash")
        token = self._db.peek(lambda tx: self._rows.of_hash(tx, payment_hash))
        if token is None:
            token = await self._bound(agent_key, credential_id, advisor_id, payment_hash)
        if token.service != PERIOD or token.agent_key != agent_key:
            raise _bad("this payment is another's, or for something else")
        if self._now() >= token.expires_at:
            raise _bad(f"the period that was paid ended at {token.expires_at}")
        return _fee(token)

    async def _bound(
        self, agent_key: str, credential_id: str, advisor_id: str | None, payment_hash: str
    ) -> AccessToken:
        row = await self._paid_invoice(agent_key, payment_hash)
        asked = await decoded(self._node, "bolt12 invoice", str(row["bolt12"]))
        if asked.recurrence is None or asked.base is None or asked.counter is None:
            raise _bad("the offer that was paid has no periods")
        end = asked.recurrence.begin(asked.base, asked.counter + (asked.start or 0) + 1)
        token = AccessToken(
            token_id=payment_hash,
            service=PERIOD,
            agent_key=agent_key,
            credential_id=credential_id,
            payment_hash=payment_hash,
            caveats=(),
            price_sats=int(row["amount_received_msat"]) // 1_000,
            max_uses=_ENDLESS,
            uses=0,
            expires_at=end,
            status=PAID,
        )

        def body(tx: Tx) -> AccessToken:
            known = self._rows.of_hash(tx, payment_hash)
            if known is not None:
                return known
            self._rows.add(tx, token)
            if not self._income.by_hash(tx, payment_hash, IN):
                self._income.insert(tx, income_of(token, advisor_id, self._now()))
            return token

        return await self._db.write(body)

    async def _paid_invoice(self, agent_key: str, payment_hash: str) -> Mapping[str, Any]:
        for row in (await self._node.call("listinvoices", {"payment_hash": payment_hash}))["invoices"]:
            if row.get("status") != "paid" or "local_offer_id" not in row:
                continue
            found = await self._node.call("listoffers", {"offer_id": row["local_offer_id"]})
            if any(offer.get("label") == _LABEL + agent_key for offer in found["offers"]):
                return dict(row)
        raise _bad(
            "no paid invoice of your offer has this preimage; send the command without a proof and pay the"
            " offer of payment_required"
        )

    async def offer(self, agent_key: str, price_sats: int, days: int) -> dict[str, JsonValue]:
        """The offer of an agent: always the same while the price is. Raises PaymentFailed when the operator
        has ended it, ClnError."""
        asked = {
            "amount": price_sats * 1_000,
            "description": f"management access {agent_key}",
            "label": _LABEL + agent_key,
            "recurrence": f"{days}days",
        }
        try:
            made = await self._node.call("offer", asked)
        except ClnError as error:
            if error.code != _EXISTS:
                raise
            raise from_symbol(
                "payment_required",
                "the operator of this node has ended the offer for your access; ask for another",
                price_sats=price_sats,
                methods=[],
            ) from None
        return {"offer": str(made["bolt12"]), "amount_sats": price_sats, "period": f"{days} days"}


def _fee(token: AccessToken) -> Fee:
    return Fee(BOLT12, 0, token.payment_hash, token.token_id, token.max_uses)


def _bad(what: str) -> HiveError:
    return from_symbol("payment_invalid", what)
