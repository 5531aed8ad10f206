"""Paying a mint's invoice for ecash of our own: a transfer, no spend (docs/protocol/03 §5 "fund", §7.2)."""

from __future__ import annotations

from typing import Final, Protocol

from hive_shared.cashu.journal import Op
from hive_shared.cashu.settling import Paid
from hive_shared.errors import NotFound

from ..domain.payment import BOLT11, INTERNAL, REPLENISH, Order, Payment
from ..domain.payment_machine import State

REPLENISH_KEY: Final = "replenish:"
"""What the keys of refills begin with in the wallet's journal."""


class Pays(Protocol):
    """Payments of this node (services.payment_service.PaymentService)."""

    async def pay(self, order: Order) -> Payment: ...
    async def find(self, *, payment_id: str = "", key: str = "", payment_hash: str = "") -> Payment: ...


class FundPayer:
    """The invoice of a fund operation, paid once by the operation's own key, exactly its amount."""

    def __init__(self, payments: Pays) -> None:
        self._payments = payments

    async def pay(self, op: Op) -> str:
        """The payment's id. Raises HiveError when nothing was paid."""
        order = Order(
            key=_key(op),
            budget=INTERNAL,
            purpose=REPLENISH if op.idempotency_key.startswith(REPLENISH_KEY) else "wallet:fund",
            method=BOLT11,
            target=op.body.invoice,
            amount_msat=op.amount_sats * 1_000,
        )
        return (await self._payments.pay(order)).payment_id

    async def became(self, op: Op) -> Paid | None:
        """What became of it; None when this node's books do not have it."""
        try:
            payment = await self._payments.find(key=_key(op))
        except NotFound:
            return None
        return {State.SETTLED: Paid.SETTLED, State.FAILED: Paid.FAILED}.get(payment.state, Paid.OPEN)


def _key(op: Op) -> str:
    return f"wallet:{op.op_id}"
