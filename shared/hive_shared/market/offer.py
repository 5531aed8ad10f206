"""An advisor's offer: what it does for which price, for seven to thirty days (04 §4.3, §12)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from ..canonical import JsonValue
from ..errors import InvalidParams
from . import words
from .fields import Fields

MIN_DAYS: Final = 7
MAX_DAYS: Final = 30
DEFAULT_DAYS: Final = 14
MAX_CONTENT_BYTES: Final = 8_192
PERIODS: Final = ("month", "week", "day", "action", "once")
OFFER_ID: Final = re.compile(r"[a-z0-9-]{1,64}")
_OFFERED: Final = frozenset(
    (
        *("offer_id", "capabilities", "pricing_model", "price_sats", "period", "performance_pct"),
        *("trial_days", "max_channels", "min_node_capacity", "sla_response_s", "sla_uptime", "methods"),
        *("expires_in_days", "description"),
    )
)


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """One offer. Sats, seconds, percent; None: the advisor does not say. `expires_at` is Unix seconds."""

    offer_id: str
    capabilities: tuple[str, ...]
    pricing_model: str
    price_sats: int
    period: str = "month"
    performance_pct: float | None = None
    trial_days: int = 0
    max_channels: int | None = None
    min_node_capacity: int = 0
    sla_response_s: int | None = None
    sla_uptime: float | None = None
    methods: tuple[str, ...] = ()
    description: str = ""
    status: str = "active"
    expires_at: int = 0

    @property
    def monthly_sats(self) -> int | None:
        """What a month costs, where the offer is one by the month."""
        return self.price_sats if self.period == "month" else None


def draft(document: Mapping[str, JsonValue], *, offer_id: str, now: int) -> Offer:
    """An own offer from the fields of 04 §12; `offer_id` is taken where the document names none.

    Raises InvalidParams with the field that is wrong; unknown fields are refused.
    """
    unknown = sorted(set(document) - _OFFERED)
    if unknown:
        raise InvalidParams(
            f"offer has unknown fields: {', '.join(unknown)!a:.100}; known are {', '.join(sorted(_OFFERED))}"
        )
    fields = Fields("offer", document)
    identity = document.get("offer_id", offer_id)
    if not isinstance(identity, str) or not OFFER_ID.fullmatch(identity):
        raise fields.bad("offer_id", "1 to 64 characters of a-z, 0-9 and -")
    days = document.get("expires_in_days", DEFAULT_DAYS)
    if type(days) is not int or not MIN_DAYS <= days <= MAX_DAYS:
        raise fields.bad("expires_in_days", f"an integer from {MIN_DAYS} to {MAX_DAYS}")
    description = document.get("description", "")
    if not isinstance(description, str) or not _fits(description):
        raise fields.bad("description", f"a text of at most {MAX_CONTENT_BYTES} bytes")
    capabilities = fields.words("capabilities")
    if not capabilities:
        raise fields.bad("capabilities", "a list of at least one capability")
    price = fields.whole("price_sats", words.MAX_SATS)
    if price is None:
        raise fields.bad("price_sats", "an integer number of sats")
    return Offer(
        offer_id=identity,
        capabilities=capabilities,
        pricing_model=_one_of(fields, "pricing_model", tuple(words.PRICING_TAGS)),
        price_sats=price,
        period=_one_of(fields, "period", PERIODS) if "period" in document else "month",
        performance_pct=fields.percent("performance_pct"),
        trial_days=_trial_days(fields),
        max_channels=fields.whole("max_channels", 1_000_000),
        min_node_capacity=fields.whole("min_node_capacity", words.MAX_SATS) or 0,
        sla_response_s=fields.whole("sla_response_s", 30 * 86_400),
        sla_uptime=fields.percent("sla_uptime"),
        methods=_methods(fields),
        description=description,
        expires_at=now + days * 86_400,
    )


def _one_of(fields: Fields, field: str, known: tuple[str, ...]) -> str:
    value = fields.document.get(field)
    if not isinstance(value, str) or value not in known:
        raise fields.bad(field, "one of " + ", ".join(known))
    return value


def _trial_days(fields: Fields) -> int:
    days = fields.whole("trial_days", 30) or 0
    if 0 < days < 7:
        raise fields.bad("trial_days", "0 (no trial) or 7 to 30")
    return days


def _methods(fields: Fields) -> tuple[str, ...]:
    methods = fields.texts("methods", 20)
    if not set(methods) <= set(words.PAYMENT_METHODS):
        raise fields.bad("methods", "a list of " + ", ".join(words.PAYMENT_METHODS))
    return methods


def _fits(text: str) -> bool:
    try:
        return len(text.encode()) <= MAX_CONTENT_BYTES
    except UnicodeEncodeError:
        return False
