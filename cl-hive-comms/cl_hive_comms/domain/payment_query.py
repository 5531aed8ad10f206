"""Which payments are asked for, and their sums (docs/protocol/08-client-and-plugins.md §5.2)."""

from __future__ import annotations

import msgspec


class PaymentQuery(msgspec.Struct, frozen=True):
    """Newest first. `before` is the (created_at, payment_id) of the last row of the page before."""

    advisor_id: str | None = None
    kind: str | None = None
    since: int = 0
    before: tuple[int, str] | None = None
    limit: int = 50


class Total(msgspec.Struct, frozen=True):
    """Sums of payments of one direction, method, advisor and state."""

    direction: str
    kind: str
    advisor_id: str | None
    state: str
    count: int
    amount_msat: int
    fee_msat: int
