"""Payments of this node: what is ordered, what is stored, what the node is told
(docs/protocol/03-escrow-and-payments.md §7). Amounts in msat, limits in sats."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec
from hive_shared.canonical import JsonValue, encode

from .compensation import command_of
from .lightning_invoice import fee_bound_msat, sats_up
from .payment_machine import State
from .recurrence import Window

BOLT11: Final = "bolt11"
BOLT12: Final = "bolt12"
KEYSEND: Final = "keysend"
L402: Final = "l402"
CASHU: Final = "cashu"
METHODS: Final = (BOLT11, BOLT12, KEYSEND)
"""Ways to pay over Lightning."""
OUT: Final = "out"
IN: Final = "in"
ADVISOR: Final = "advisor"
LIQUIDITY: Final = "liquidity"
INTERNAL: Final = "internal"
"""Between this node and its own ecash: no spend, bounded by what a mint may hold (§7.2)."""
REPLENISH: Final = "wallet:replenish"
"""Purpose of a payment that refills the wallet by itself: while it has no end, the operator's limits count
it (§5)."""
SIBLING_BUDGETS: Final = ("fleet", "provision", "archon")
OPERATOR_SCOPE: Final = "operator"
"""The limits of the operator's own budgets, advisor and liquidity (§7.2)."""
LEAST_FEE_MSAT: Final = 5_000
RETRY_S: Final = 60
"""How long the node tries a payment again (`retry_for`)."""
LATE_S: Final = 120
"""How long after its end, or that of who asked for it, the node may still be at an invoice."""
SETTLE_S: Final = RETRY_S + 120
"""After that no call to pay can still be at an attempt (docs/decisions/0516)."""


RESTORED_FACT: Final = "payments_restored"
"""Fact: since when rows may be missing because an older copy of the database was restored (unix seconds)."""


def id_of(key: str) -> str:
    """The id of the payment of an idempotency key: the same on every copy of the database, so that the node's
    list knows a payment that a copy has forgotten."""
    return hashlib.sha256(b"hive-payment/v1\0" + key.encode()).hexdigest()[:32]


def scope_of(budget: str) -> str:
    """Whose limits bound a budget."""
    return OPERATOR_SCOPE if budget in (ADVISOR, LIQUIDITY) else budget


def fee_limit_msat(amount_msat: int, max_fee_ppm: int, own_limit_msat: int | None) -> int:
    """The most that a payment may cost beside its amount: the node's rule, or the caller's limit if lower."""
    rule = max(LEAST_FEE_MSAT, fee_bound_msat(amount_msat, max_fee_ppm))
    return rule if own_limit_msat is None else min(rule, own_limit_msat)


class Period(msgspec.Struct, frozen=True):
    """Which period of which subscription is paid. `plain` is when the next one may be paid where the offer or
    invoice does not say."""

    sub_id: str
    counter: int
    plain: Window
    start: int | None = None

    @property
    def key(self) -> str:
        """What only one payment that did not fail has."""
        return f"{self.sub_id}:{self.counter}"

    @property
    def label(self) -> str:
        """The one label of a series, at the node and its issuer."""
        return f"hive:{self.sub_id}"


class Series(msgspec.Struct, frozen=True):
    """The part of a target that repeats, stored with it: `label` and `counter` are what the issuer is asked
    with (None: it knows of no periods), `period` is what operators read, `following` when the next period may
    be paid (None: this is the last)."""

    label: str | None
    counter: int
    period: str
    following: Window | None
    start: int | None = None

    def to_json(self) -> dict[str, JsonValue]:
        """The stored form, read back by `from_json`."""
        window = self.following
        return {
            "label": self.label,
            "counter": self.counter,
            "period": self.period,
            "following": None if window is None else [window.start, window.due, window.end],
            "start": self.start,
        }

    @classmethod
    def from_json(cls, doc: Mapping[str, Any]) -> Series:
        """Inverse of `to_json`."""
        window = doc["following"]
        return cls(**{**doc, "following": None if window is None else Window(*window)})


class Order(msgspec.Struct, frozen=True):
    """What somebody wants paid. `key` is the caller's idempotency key, `payee` (node id) whom the money must
    reach if that is agreed, `tlvs` are records of a keysend (type -> hex). Of access (L402) `target` is the
    URL, `amount_msat` the most that it may cost, `invoice` what its server asks for, over `payment_hash`."""

    key: str
    budget: str
    purpose: str
    method: str
    target: str
    amount_msat: int
    advisor_id: str | None = None
    max_fee_msat: int | None = None
    payer_note: str = ""
    note: str = ""
    payee: str | None = None
    contract_id: str | None = None
    tlvs: Mapping[str, str] = msgspec.field(default_factory=lambda: MappingProxyType({}))
    period: Period | None = None
    invoice: str | None = None
    payment_hash: str | None = None

    def content_hash(self) -> str:
        """What must be the same when the key is (§7.3); a note is not part of it."""
        doc: dict[str, JsonValue] = {
            "budget": self.budget,
            "purpose": self.purpose,
            "method": self.method,
            "target": self.target,
            "amount_msat": self.amount_msat,
            "advisor_id": self.advisor_id,
            "max_fee_msat": self.max_fee_msat,
            "payer_note": self.payer_note,
            "tlvs": dict(self.tlvs),
        }
        return hashlib.sha256(encode(doc)).hexdigest()


class Target(msgspec.Struct, frozen=True):
    """Where a payment goes, sealed on disk. `invoice` is what the node is told to pay (None for a keysend,
    and for an offer until its invoice is there); `amount_is_ours`: the invoice names no amount. For ecash
    `payee` is the key it is locked to, `mints` those that it may be of, the one in use first, and `then` the
    method that takes over when it was not taken; since `asked_since` (Unix s, 0: from the beginning) the
    payee is asked for an invoice."""

    text: str
    invoice: str | None = None
    payee: str | None = None
    amount_is_ours: bool = False
    payer_note: str = ""
    note: str = ""
    tlvs: Mapping[str, str] = msgspec.field(default_factory=lambda: MappingProxyType({}))
    series: Series | None = None
    mints: tuple[str, ...] = ()
    then: str = ""
    asked_since: int = 0

    def to_json(self) -> dict[str, JsonValue]:
        """The stored form, read back by `from_json`."""
        return {
            "text": self.text,
            "invoice": self.invoice,
            "payee": self.payee,
            "amount_is_ours": self.amount_is_ours,
            "payer_note": self.payer_note,
            "note": self.note,
            "tlvs": dict(self.tlvs),
            "series": None if self.series is None else self.series.to_json(),
            "mints": [*self.mints],
            "then": self.then,
            "asked_since": self.asked_since,
        }

    @classmethod
    def from_json(cls, doc: Mapping[str, Any]) -> Target:
        """Inverse of `to_json`, also of what was stored before there were series and ecash."""
        series = doc.get("series")
        series = None if series is None else Series.from_json(series)
        mints = tuple(doc.get("mints", ()))
        return cls(**{**doc, "tlvs": dict(doc["tlvs"]), "series": series, "mints": mints})


class Payment(msgspec.Struct, frozen=True):
    """One row of comms_payments. Times are unix seconds."""

    payment_id: str
    key: str
    content_hash: str
    advisor_id: str | None
    budget: str | None
    kind: str
    purpose: str
    direction: str
    amount_msat: int
    max_fee_msat: int
    state: State
    target: Target
    label: str
    created_at: int
    updated_at: int
    fee_msat: int = 0
    counted_sats: int = 0
    payment_hash: str | None = None
    preimage: str | None = None
    contract_id: str | None = None
    offer_id: str | None = None
    sent_index: int | None = None
    sent_at: int | None = None
    bound_to: str | None = None
    expires_at: int | None = None
    error: str | None = None
    period_key: str | None = None

    @property
    def command_id(self) -> str | None:
        """The command that this is the pay of; None for every other payment."""
        return command_of(self.key)

    @property
    def reserve_sats(self) -> int:
        """What limits count while its end is open: the amount and the highest fee."""
        return sats_up(self.amount_msat) + sats_up(self.max_fee_msat)


class Found(msgspec.Struct, frozen=True):
    """What the node's list says of a payment: `state` complete, pending, failed or none. `ours` is false for
    one that was complete before this payment began; then it cost us nothing. `invoice` is what it paid, where
    only that says it."""

    state: str
    preimage: str | None = None
    payment_hash: str | None = None
    amount_msat: int = 0
    sent_msat: int = 0
    ours: bool = True
    invoice: str | None = None

    @property
    def fee_msat(self) -> int:
        """What it cost beside its amount."""
        return max(0, self.sent_msat - self.amount_msat)


NONE: Final = Found("none")
