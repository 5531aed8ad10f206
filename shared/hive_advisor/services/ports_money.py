"""Ways in and out as the services see them (docs/protocol/11-advisor-kit.md §8)."""

from __future__ import annotations

from typing import Protocol

from hive_advisor.domain.earning import Made, Order, Sight
from hive_advisor.domain.outgoing import Outgoing, Result


class WayIn(Protocol):
    """Where invoices come from and where it shows that they were paid."""

    name: str

    async def make(self, order: Order) -> Made:
        """An invoice, unchecked. May be called again for the same order. Raises TransportUnavailable,
        PaymentFailed, Unsupported; nothing is owed or lost then."""

    async def look(self, payment_hash: str, invoice: str, look_at: str) -> Sight:
        """Whether it was paid. Raises TransportUnavailable, PaymentFailed when it cannot be told."""


class WayOut(Protocol):
    """What pays an invoice."""

    name: str

    def most_fee_msat(self, amount_sats: int) -> int:
        """What paying so much may cost beside it."""

    async def pay(self, payment: Outgoing) -> Result:
        """Pay once. Whatever does not prove that it was paid, or cannot ever be, is `UNKNOWN`. Raises
        TransportUnavailable only when the wallet was certainly not asked."""

    async def settled(self, payment: Outgoing) -> Result:
        """What became of it. Never raises for a wallet that does not answer: `UNKNOWN`."""


class Web(Protocol):
    """One GET of a public server: no redirects, bounded. Raises TransportUnavailable."""

    async def get(self, url: str) -> bytes: ...
