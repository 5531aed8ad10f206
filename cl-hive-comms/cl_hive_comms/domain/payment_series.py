"""Which part of a payment repeats (docs/protocol/03-escrow-and-payments.md §7.4; docs/decisions/0560)."""

from __future__ import annotations

from hive_shared.errors import InvalidParams
from msgspec.structs import replace

from .lightning_invoice import Asked
from .payment import Order, Series
from .payment_checks import failed
from .recurrence import PLAIN_PERIOD_S

_PLAIN: str = f"{PLAIN_PERIOD_S} seconds"


def series_of(order: Order, asked: Asked) -> Series | None:
    """The series that an order belongs to; None for one that is paid once. Raises InvalidParams for an offer
    of periods that is not paid as such."""
    period = order.period
    recurs = asked.kind == "bolt12 offer" and asked.recurrence is not None
    if period is None:
        if recurs:
            raise InvalidParams(
                "the offer is paid period by period: give purpose=subscription to begin that",
                data={"param": "target"},
            )
        return None
    if not recurs:
        return Series(None, period.counter, _PLAIN, period.plain)
    assert asked.recurrence is not None
    return Series(period.label, period.counter, asked.recurrence.text(), None, period.start)


def fetched(series: Series, asked: Asked) -> Series:
    """The series once the invoice of its period is there: now it is known when the next one may be paid.
    Raises PaymentFailed (`offer_changed`) where that is a time which nobody can write down."""
    if series.label is None or asked.recurrence is None or asked.base is None or asked.counter is None:
        return series
    index = asked.counter + (asked.start or 0)
    try:
        following = asked.recurrence.following(asked.base, index)
    except ValueError:
        text = f"the issuer counts its periods ({asked.recurrence.text()}) beyond the year 9999"
        raise failed(text, "offer_changed") from None
    return replace(series, following=following)
