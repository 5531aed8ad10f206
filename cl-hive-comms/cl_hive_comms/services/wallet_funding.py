"""Paying a mint's invoice for ecash of our own: a transfer, no spend (docs/protocol/03 §5 "fund", §7.2)."""

from __future__ import annotations

from typing import Protocol

from hive_shared.cashu.journal import Op

from ..domain.payment import BOLT11, INTERNAL, Order, Payment


class Pays(Protocol):
    """Payments of this node (services.payment_service.PaymentService)."""

    async def pay(self, order: Order) -> Payment: ...


class FundPayer:
    """The invoice of a fund operation, paid once by the operation's own key, exactly its amount."""

    def __init__(self, payments: Pays) -> None:
        self._payments = payments

    async def pay(self, op: Op) -> str:
        """The payment's id. Raises HiveError when nothing was paid."""
        order = Order(
            key=f"wallet:{op.op_id}",
            budget=INTERNAL,
            purpose="wallet:fund",
            method=BOLT11,
            target=op.body.invoice,
            amount_msat=op.amount_sats * 1_000,
        )
        return (await self._payments.pay(order)).payment_id
