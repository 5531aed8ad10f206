"""Danger and tiers: how much harm an action can do, and who may ask for it.

Five dimensions 1..10 (reversibility, financial exposure, time sensitivity, blast radius, recovery
difficulty); the total is the largest of them. The node always computes danger itself, from the action,
its parameters and what it knows of its own state; nothing an agent says about it counts
(docs/protocol/02-fleet-management.md §2.2, §3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Final, NamedTuple, TypeAlias

import msgspec

from ..canonical import JsonValue


class Tier(IntEnum):
    """What a credential is good for (02 §2.2); compares by privilege."""

    MONITOR = 0
    STANDARD = 1
    ADVANCED = 2
    ADMIN = 3

    @property
    def word(self) -> str:
        """The lower-case name that stands in documents."""
        return self.name.lower()

    @classmethod
    def parse(cls, word: str) -> Tier:
        """The tier of its document word. Raises ValueError for any other text."""
        try:
            return _TIER_WORDS[word]
        except KeyError:
            raise ValueError(f"tier {word[:40]!a} is not one of {', '.join(_TIER_WORDS)}") from None


_TIER_WORDS: Final[Mapping[str, Tier]] = MappingProxyType({tier.word: tier for tier in Tier})


class Danger(NamedTuple):
    """The five dimensions of 02 §3, each 1..10."""

    r: int
    f: int
    t: int
    b: int
    d: int

    @property
    def total(self) -> int:
        """The danger of the action: the largest dimension."""
        return max(self)

    def vector(self) -> list[int]:
        """The five numbers in the sheet's order R/F/T/B/D."""
        return list(self)

    def to_doc(self) -> dict[str, JsonValue]:
        """The form of receipts, quotes and `hive-schema-list`: five letters and `total`."""
        return {"r": self.r, "f": self.f, "t": self.t, "b": self.b, "d": self.d, "total": self.total}

    @classmethod
    def of(cls, text: str) -> Danger:
        """The vector of the sheets' notation, `2/3/3/3/2`. Raises ValueError when it is none."""
        parts = tuple(int(part) for part in text.split("/"))
        if len(parts) != 5 or not all(1 <= part <= 10 for part in parts):
            raise ValueError(f"{text!a} is not a danger vector of five numbers 1..10")
        return cls(*parts)

    def raised(self, other: Danger) -> Danger:
        """The dimension-wise maximum of both: an action that is two things is as bad as either."""
        return Danger(*(max(pair) for pair in zip(self, other, strict=True)))


class DangerFacts(msgspec.Struct, frozen=True):
    """What the node knows that parameters do not say. Missing knowledge scores as the worse case.

    `channels_total` counts the node's channels (0: unknown, so any bulk counts as over half of them).
    `fees` maps a channel, in the form the command names it, to its current (base msat, ppm).
    `amount_sat` is the amount of a payment whose parameters do not show it (an invoice), `spent_24h_sat`
    the credential's spend of the same class in the last 24 h. `foreign_destination` is set when an
    on-chain destination is not the node's own wallet. `peer_channels` counts the channels with the peer
    that the command names (None: unknown, so it counts as if there were some). `fee_sat` is the most that the
    command pays to miners, with what the credential paid them in the last 24 h.
    """

    channels_total: int = 0
    fees: Mapping[str, tuple[int, int]] = msgspec.field(default_factory=lambda: MappingProxyType({}))
    amount_sat: int | None = None
    spent_24h_sat: int = 0
    foreign_destination: bool = True
    peer_channels: int | None = None
    fee_sat: int = 0


Params: TypeAlias = Mapping[str, JsonValue]


class DangerRule(msgspec.Struct, frozen=True):
    """Danger that depends on parameters: every vector it may give, and the choice among them.

    `pick` may exceed `vectors` only by the bulk increment of `bulk_raised`.
    """

    vectors: tuple[Danger, ...]
    pick: Callable[[Params, DangerFacts], Danger]


READ: Final = Danger(1, 1, 1, 1, 1)
"""RO of 02 §4: a plain read."""

# Amount bands in sat, upper bound exclusive; the last vector has none.
_Bands: TypeAlias = tuple[tuple[int | None, Danger], ...]

_P_SCALE: Final[_Bands] = (
    (10_000, Danger.of("4/4/2/1/4")),
    (100_000, Danger.of("5/6/3/1/4")),
    (1_000_000, Danger.of("6/7/3/1/5")),
    (10_000_000, Danger.of("8/8/4/2/7")),
    (None, Danger.of("9/9/5/3/9")),
)
_W_SCALE: Final[_Bands] = (
    (100_000, Danger.of("6/6/4/1/6")),
    (10_000_000, Danger.of("8/8/5/2/8")),
    (None, Danger.of("9/9/5/2/9")),
)


def _band(scale: _Bands, amount_sat: int | None) -> Danger:
    for bound, vector in scale:
        if bound is None or (amount_sat is not None and amount_sat < bound):
            return vector
    raise AssertionError("the last band is open")


def _amount_sat(params: Params, facts: DangerFacts) -> int | None:
    """Amount of this command in sat (msat rounded up), or None when nobody knows it."""
    if facts.amount_sat is not None:
        return facts.amount_sat
    sats, msat = params.get("amount_sats"), params.get("amount_msat")
    if isinstance(sats, int) and not isinstance(sats, bool):
        return sats
    if isinstance(msat, int) and not isinstance(msat, bool):
        return -(-msat // 1000)
    return None


def lightning_spend(amount_sat: int | None, spent_24h_sat: int = 0) -> Danger:
    """P-scale of 02 §3 for this amount plus the same credential's last 24 h; None scores highest."""
    return _band(_P_SCALE, None if amount_sat is None else amount_sat + spent_24h_sat)


def onchain_spend(amount_sat: int | None, spent_24h_sat: int = 0) -> Danger:
    """W-scale of 02 §3, to a foreign address; None scores highest."""
    return _band(_W_SCALE, None if amount_sat is None else amount_sat + spent_24h_sat)


def bulk_raised(danger: Danger, touched: int, facts: DangerFacts) -> Danger:
    """Blast radius +1 when a bulk touches over half of all channels (02 §3)."""
    if 2 * touched <= facts.channels_total:
        return danger
    return danger._replace(b=min(10, danger.b + 1))


def fixed(text: str) -> DangerRule:
    """The rule of an action whose danger never changes."""
    vector = Danger.of(text)
    return DangerRule((vector,), lambda _params, _facts: vector)


def payment() -> DangerRule:
    """P-scale alone."""
    vectors = tuple(vector for _, vector in _P_SCALE)
    return DangerRule(vectors, lambda p, f: lightning_spend(_amount_sat(p, f), f.spent_24h_sat))


def payment_at_least(text: str) -> DangerRule:
    """The worse of a row's own vector and the P-scale."""
    row = Danger.of(text)
    vectors = tuple(row.raised(vector) for _, vector in _P_SCALE)
    return DangerRule(vectors, lambda p, f: row.raised(lightning_spend(_amount_sat(p, f), f.spent_24h_sat)))


def withdrawal(own: str | None = None) -> DangerRule:
    """W-scale alone; with `own`, that vector for a destination in the node's own wallet."""
    vectors = tuple(vector for _, vector in _W_SCALE)
    kept = None if own is None else Danger.of(own)

    def pick(params: Params, facts: DangerFacts) -> Danger:
        if kept is not None and not facts.foreign_destination:
            return kept
        return onchain_spend(_amount_sat(params, facts), facts.spent_24h_sat)

    return DangerRule(vectors if kept is None else (kept, *vectors), pick)


NOTABLE_FEE_SAT: Final = 10_000
"""From here on what miners get scores like any other payment to strangers."""


def with_fee(rule: DangerRule) -> DangerRule:
    """A rule whose transaction costs a fee: the worse of it and the W-scale of a notable fee
    (docs/decisions/0366)."""

    def pick(params: Params, facts: DangerFacts) -> Danger:
        row = rule.pick(params, facts)
        if facts.fee_sat < NOTABLE_FEE_SAT:
            return row
        return row.raised(onchain_spend(facts.fee_sat + (facts.amount_sat or 0), facts.spent_24h_sat))

    worse = tuple(row.raised(vector) for row in rule.vectors for _, vector in _W_SCALE)
    return DangerRule((*rule.vectors, *worse), pick)


def plus_withdrawal(text: str, destination: str) -> DangerRule:
    """A row marked "+W": the worse of it and the W-scale when `destination` names a foreign address."""
    row = Danger.of(text)

    def pick(params: Params, facts: DangerFacts) -> Danger:
        if params.get(destination) in (None, "wallet") or not facts.foreign_destination:
            return row
        return row.raised(onchain_spend(_amount_sat(params, facts), facts.spent_24h_sat))

    return DangerRule((row, *(row.raised(vector) for _, vector in _W_SCALE)), pick)


def by_amount(*bands: tuple[int | None, str], param: str = "amount_sats") -> DangerRule:
    """A row whose vector depends on an amount of its parameters in sat; unknown amounts score highest."""
    scale: _Bands = tuple((bound, Danger.of(text)) for bound, text in bands)

    def pick(params: Params, facts: DangerFacts) -> Danger:
        amount = params.get(param)
        known = amount if isinstance(amount, int) and not isinstance(amount, bool) else facts.amount_sat
        return _band(scale, known)

    return DangerRule(tuple(vector for _, vector in scale), pick)


def tier_for(total: int, *, read_only: bool, s5_met: bool) -> Tier:
    """Minimum tier of a danger total (02 §2.2); `s5_met` says that the constraint named S5 is present."""
    if total <= 2 and read_only:
        return Tier.MONITOR
    if total <= 4 or (total == 5 and s5_met):
        return Tier.STANDARD
    return Tier.ADVANCED if total <= 7 else Tier.ADMIN
