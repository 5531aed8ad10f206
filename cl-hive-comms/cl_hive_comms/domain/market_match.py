"""Which advisors answer a question, and in which order (docs/protocol/04-marketplace-and-nostr.md §8).

The same question over the same adverts gives the same order, to four decimals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import msgspec
from hive_shared.errors import InvalidParams
from hive_shared.market import words
from hive_shared.market.fields import Fields

from . import names
from .advert import DAY_S, LEGACY, CachedOffer, CachedProfile, with_months

WEIGHTS: Final[Mapping[str, float]] = MappingProxyType(
    {"rep": 0.35, "cap": 0.25, "spec": 0.15, "price": 0.10, "avail": 0.10, "fresh": 0.05}
)
SORTS: Final = ("match", "price", "trust", "newest")
MAX_LIMIT: Final = 500
DEFAULT_LIMIT: Final = 20
UNKNOWN_REPUTATION: Final = 0.30
_FRESH_S: Final = 90 * DAY_S
_ALIASES: Final = MappingProxyType(
    {"min_reputation": "minReputationScore", "specialization": "specializations"}
)
_KNOWN: Final = (
    *("capabilities", "specializations", "supportedSchemas", "minReputationScore", "maxMonthlySats"),
    *("acceptingNewClients", "pricing_model", "payment_methods", "trial_available", "min_uptime"),
    *("max_response_s", "node_capacity", "channel_count", "require_did", "include_stale", "include_hidden"),
    *("weights", "sort", "limit", "cursor", "query"),
)
_MODELS: Final = {**{one: one for one in words.PRICING_TAGS}, **{b: a for a, b in words.PRICING_TAGS.items()}}


class Criteria(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked. Sats, seconds, percent; None and empty ask for nothing."""

    capabilities: tuple[str, ...] = ()
    specializations: tuple[str, ...] = ()
    schemas: tuple[str, ...] = ()
    min_reputation: float = 0
    max_monthly_sats: int | None = None
    accepting: bool = True
    pricing_model: str | None = None
    methods: tuple[str, ...] = ()
    trial: bool = False
    min_uptime: float | None = None
    max_response_s: int | None = None
    node_capacity: int | None = None
    channel_count: int | None = None
    require_did: bool = False
    include_stale: bool = False
    include_hidden: bool = False
    weights: Mapping[str, float] | None = None
    sort: str = "match"
    limit: int = DEFAULT_LIMIT
    offset: int = 0
    text: str = ""


class Found(msgspec.Struct, frozen=True):
    """An advisor that answers, and how well."""

    row: CachedProfile
    offers: tuple[CachedOffer, ...]
    score: float
    trust: int


class Searched(msgspec.Struct, frozen=True):
    """A profile with what every search wants to know of it and what only a new profile changes: a search over
    thousands reads it instead of working it out again. Sats, Unix seconds.

    `fresh_until` is the last second before it is stale, `drawn` the form of its name that look-alikes share.
    """

    row: CachedProfile
    capabilities: tuple[str, ...]
    full_stack: bool
    open: bool
    monthly_sats: int | None
    availability: float
    begun: int
    fresh_until: int
    legacy: bool
    worth: int
    drawn: str

    @classmethod
    def of(cls, row: CachedProfile) -> Searched:
        """From a kept profile."""
        profile = row.profile
        capabilities = profile.capabilities
        return cls(
            row=row,
            capabilities=capabilities,
            full_stack=words.FULL_STACK in capabilities,
            open=profile.accepting is not False and row.status != "paused",
            monthly_sats=profile.monthly_sats,
            availability=_availability(row),
            begun=row.begun(),
            fresh_until=row.fresh_until(),
            legacy=LEGACY in row.flags,
            worth=row.worth(),
            drawn=names.drawn_form(profile.name),
        )


def criteria(document: Mapping[str, Any]) -> Criteria:
    """Read a question strictly. Raises InvalidParams for an unknown key or a value out of its range."""
    asked = {_ALIASES.get(name, name): value for name, value in document.items()}
    if len(asked) != len(document):
        raise InvalidParams("criteria name one thing twice, by its name and by its older name")
    unknown = sorted(set(asked) - set(_KNOWN))
    if unknown:
        raise InvalidParams(
            f"criteria have unknown keys: {', '.join(unknown)!a:.100}; known are {', '.join(_KNOWN)}"
        )
    for name in ("capabilities", "specializations", "supportedSchemas", "payment_methods"):
        if isinstance(asked.get(name), str):
            asked[name] = [part.strip() for part in asked[name].split(",") if part.strip()]
    fields = Fields("criteria", asked)
    return Criteria(
        capabilities=fields.words("capabilities"),
        specializations=fields.words("specializations"),
        schemas=fields.texts("supportedSchemas", 60),
        min_reputation=fields.percent("minReputationScore") or 0,
        max_monthly_sats=fields.whole("maxMonthlySats", words.MAX_SATS),
        accepting=fields.flag("acceptingNewClients") is not False,
        pricing_model=_one_of(fields, "pricing_model", _MODELS),
        methods=_methods(fields),
        trial=fields.flag("trial_available") or False,
        min_uptime=fields.percent("min_uptime"),
        max_response_s=fields.whole("max_response_s", 366 * DAY_S),
        node_capacity=fields.whole("node_capacity", words.MAX_SATS),
        channel_count=fields.whole("channel_count", 1_000_000),
        require_did=fields.flag("require_did") or False,
        include_stale=fields.flag("include_stale") or False,
        include_hidden=fields.flag("include_hidden") or False,
        weights=_weights(fields),
        sort=_one_of(fields, "sort", {one: one for one in SORTS}) or "match",
        limit=_limit(fields),
        offset=_offset(fields),
        text=(fields.text("query", 100) or "").casefold().strip(),
    )


def _one_of(fields: Fields, name: str, known: Mapping[str, str]) -> str | None:
    value = fields.text(name, 40)
    if value is not None and value not in known:
        raise fields.bad(name, "one of " + ", ".join(known))
    return None if value is None else known[value]


def _methods(fields: Fields) -> tuple[str, ...]:
    methods = fields.texts("payment_methods", 20)
    if not set(methods) <= set(words.PAYMENT_METHODS):
        raise fields.bad("payment_methods", "a list of " + ", ".join(words.PAYMENT_METHODS))
    return methods


def _limit(fields: Fields) -> int:
    limit = fields.whole("limit", MAX_LIMIT)
    if limit == 0:
        raise fields.bad("limit", f"an integer from 1 to {MAX_LIMIT}")
    return DEFAULT_LIMIT if limit is None else limit


def _offset(fields: Fields) -> int:
    cursor = fields.text("cursor", 8)
    if cursor is not None and not (cursor.isascii() and cursor.isdigit()):
        raise fields.bad("cursor", "the next_cursor of an answer")
    return 0 if cursor is None else int(cursor)


def _weights(fields: Fields) -> Mapping[str, float] | None:
    given = fields.document.get("weights")
    if given is None:
        return None
    if not isinstance(given, dict) or not given or set(given) - set(WEIGHTS):
        raise fields.bad("weights", "an object with numbers for " + ", ".join(WEIGHTS))
    read: dict[str, float] = {}
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1_000:
            raise fields.bad("weights", f"an object of numbers from 0 to 1000, which {name} is not")
        read[name] = value
    return read


# -- filtering ---------------------------------------------------------------------------------------------

Offers = Callable[[str], Sequence[CachedOffer]]
"""The offers of a key that stand now."""


Filter = Callable[[Searched], bool]


def filters(asked: Criteria, offers_of: Offers, now: int) -> list[Filter]:
    """What an advisor has to pass, all of it; only what is asked. Of a list one value has to fit; what an
    advisor does not say fails what is asked of it, but a price that nobody can know fails nothing."""
    found: list[Filter] = [lambda one: one.row.status != "withdrawn"]
    if not asked.include_stale:
        found.append(lambda one: one.fresh_until >= now)
    if asked.accepting:
        found.append(lambda one: one.open)
    if asked.capabilities:
        capabilities = frozenset(asked.capabilities)
        found.append(lambda one: one.full_stack or not capabilities.isdisjoint(one.capabilities))
    if asked.specializations:
        special = frozenset(asked.specializations)
        found.append(lambda one: one.full_stack or not special.isdisjoint(one.row.profile.specializations))
    if asked.schemas:
        schemas = frozenset(asked.schemas)
        found.append(lambda one: not schemas.isdisjoint(one.row.profile.schemas))
    # Nobody's reputation is known without credentials of third parties.
    if asked.min_reputation > 0:
        found.append(lambda one: False)
    if asked.require_did:
        found.append(lambda one: one.row.did_proved)
    if (most := asked.max_monthly_sats) is not None:
        found.append(lambda one: one.monthly_sats is None or one.monthly_sats <= most)
    if (least := asked.min_uptime) is not None:
        found.append(lambda one: _is_up(one, least))
    if (slowest := asked.max_response_s) is not None:
        found.append(lambda one: _answers_within(one, slowest))
    if asked.text:
        parts = asked.text.replace("_", "-").split()
        found.append(lambda one: _named(one, parts))
    by_size = asked.node_capacity is not None or asked.channel_count is not None
    if by_size or asked.pricing_model is not None or asked.methods or asked.trial:
        found.append(lambda one: _offering(asked, one.row, offers_of(one.row.pubkey)))
    return found


def _is_up(one: Searched, percent: float) -> bool:
    uptime = one.row.profile.uptime_pct
    return uptime is not None and uptime >= percent


def _answers_within(one: Searched, seconds: int) -> bool:
    response = one.row.profile.response_s
    return response is not None and response <= seconds


def _offering(asked: Criteria, row: CachedProfile, offers: Sequence[CachedOffer]) -> bool:
    """What offers have a say in."""
    profile = row.profile
    models = {one.model for one in profile.prices} | {one.offer.pricing_model for one in offers}
    if asked.pricing_model is not None and asked.pricing_model not in models:
        return False
    methods = {*profile.methods, *(method for one in offers for method in one.offer.methods)}
    if asked.methods and not set(asked.methods) & methods:
        return False
    if asked.trial and not profile.trial and not any(one.offer.trial_days for one in offers):
        return False
    return not offers or any(
        (asked.node_capacity is None or one.offer.min_node_capacity <= asked.node_capacity)
        and (
            asked.channel_count is None
            or one.offer.max_channels is None
            or one.offer.max_channels >= asked.channel_count
        )
        for one in offers
    )


def _named(one: Searched, parts: Sequence[str]) -> bool:
    profile = one.row.profile
    said = " ".join((profile.name.casefold(), *one.capabilities, *profile.specializations))
    return all(part in said for part in parts)


# -- scoring -----------------------------------------------------------------------------------------------


class Scorer:
    """The match score of profiles for one question at one time, 0 to 1, rounded to four decimals."""

    def __init__(self, asked: Criteria, now: int, weights: Mapping[str, float]) -> None:
        self._asked, self._now = asked, now
        rep, self._cap, self._spec, self._cheap, self._avail, self._fresh = (
            weights.get(name, 0) for name in WEIGHTS
        )
        self._known = rep * UNKNOWN_REPUTATION
        self._whole = sum(weights.values())

    def score(self, one: Searched) -> float:
        """How well this one answers."""
        asked = self._asked
        capable = _capabilities(asked, one) if asked.capabilities or asked.schemas else 1.0
        special = _specializations(asked, one) if asked.specializations else 1.0
        cheap = _price(one.monthly_sats, asked.max_monthly_sats)
        age = self._now - one.begun
        fresh = 1.0 if age <= 0 else 0.0 if age >= _FRESH_S else 1 - age / _FRESH_S
        return round(
            (
                self._known
                + self._cap * capable
                + self._spec * special
                + self._cheap * cheap
                + self._avail * one.availability
                + self._fresh * fresh
            )
            / self._whole,
            4,
        )


def _capabilities(asked: Criteria, one: Searched) -> float:
    fit = 1.0
    if asked.capabilities:
        fit = 0.0
        for name in asked.capabilities:
            fit += _level(one, name)
        fit /= len(asked.capabilities)
    if asked.schemas:
        fit = (fit + len(set(asked.schemas) & set(one.row.profile.schemas)) / len(asked.schemas)) / 2
    return fit


def _level(one: Searched, capability: str) -> float:
    profile = one.row.profile
    for level, worth in ((profile.primary, 1.0), (profile.secondary, 0.6), (profile.experimental, 0.3)):
        if capability in level:
            return worth
    return 0.5 if one.full_stack else 0.0


def _specializations(asked: Criteria, one: Searched) -> float:
    missing = 0.5 if one.full_stack else 0.0
    own = one.row.profile.specializations
    return sum(1.0 if name in own else missing for name in asked.specializations) / len(asked.specializations)


def _price(cost: int | None, budget: int | None) -> float:
    if budget is None or cost is None:
        return 0.5
    if cost <= budget:
        return 1 - 0.5 * cost / budget if budget else 1.0
    return max(0.0, 0.5 * (2 - cost / budget)) if budget else 0.0


def _availability(row: CachedProfile) -> float:
    profile = row.profile
    if profile.accepting is False or row.status == "paused":
        return 0.0
    if profile.max_nodes is None or profile.load is None:
        return 0.5
    if profile.load >= profile.max_nodes:
        return 0.0
    return 1 - profile.load / profile.max_nodes


# -- the order ---------------------------------------------------------------------------------------------

Ranked = tuple[Searched, float, int]
"""Who answers, with its match score and its trust."""


def search(
    asked: Criteria,
    rows: Iterable[Searched],
    offers_of: Offers,
    now: int,
    weights: Mapping[str, float],
    min_trust: int | None,
) -> list[Ranked]:
    """All that fit and are trusted enough, in the order of the answer. Stale and early-software profiles
    stand after all others; ties go by trust, then by the newer one, then by the id."""
    score = Scorer(asked, now, weights).score
    for wanted in filters(asked, offers_of, now):
        rows = filter(wanted, rows)
    found = []
    for one in rows:
        row = one.row
        trust = with_months(one.worth, row.first_seen, now)
        if min_trust is not None and trust < min_trust:
            continue
        match = score(one)
        last = now > one.fresh_until or one.legacy
        found.append(
            (last, *_first(asked.sort, one, match, trust), -trust, -row.created_at, row.advisor_id, one)
        )
    # No two have one id, so what stands behind it is never compared.
    found.sort()
    return [(place[-1], -place[-5], -place[-4]) for place in found]


def _first(sort: str, one: Searched, match: float, trust: int) -> tuple[Any, ...]:
    """What goes before all ties; the score stands at its end."""
    if sort == "match":
        return (-match,)
    if sort == "price":
        cost = one.monthly_sats
        return (cost is None, cost or 0, -match)
    return (-trust if sort == "trust" else -one.row.created_at, -match)
