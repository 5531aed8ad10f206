"""Which advisors answer a question, and in which order (docs/protocol/04-marketplace-and-nostr.md §8).

The same question over the same adverts gives the same order, to four decimals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import msgspec
from hive_shared.errors import InvalidParams
from hive_shared.market import words
from hive_shared.market.fields import Fields

from .advert import DAY_S, LEGACY, CachedOffer, CachedProfile

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


def fits(asked: Criteria, row: CachedProfile, offers: Sequence[CachedOffer], now: int) -> bool:
    """Whether an advisor passes every filter. Of a list one value has to fit; what an advisor does not say
    fails what is asked of it, but a price that nobody can know fails nothing."""
    profile = row.profile
    full = words.FULL_STACK in profile.capabilities
    if row.status == "withdrawn" or (row.stale(now) and not asked.include_stale):
        return False
    if asked.accepting and (profile.accepting is False or row.status == "paused"):
        return False
    if asked.capabilities and not full and not set(asked.capabilities) & set(profile.capabilities):
        return False
    if asked.specializations and not full and not set(asked.specializations) & set(profile.specializations):
        return False
    if asked.schemas and not set(asked.schemas) & set(profile.schemas):
        return False
    # Nobody's reputation is known without credentials of third parties.
    if asked.min_reputation > 0 or (asked.require_did and not row.did_proved):
        return False
    return _affordable(asked, row, offers) and _able(asked, row, offers) and _named(asked, row)


def _affordable(asked: Criteria, row: CachedProfile, offers: Sequence[CachedOffer]) -> bool:
    profile, cost = row.profile, row.profile.monthly_sats
    if asked.max_monthly_sats is not None and cost is not None and cost > asked.max_monthly_sats:
        return False
    models = {one.model for one in profile.prices} | {one.offer.pricing_model for one in offers}
    if asked.pricing_model is not None and asked.pricing_model not in models:
        return False
    methods = {*profile.methods, *(method for one in offers for method in one.offer.methods)}
    if asked.methods and not set(asked.methods) & methods:
        return False
    return not asked.trial or profile.trial or any(one.offer.trial_days for one in offers)


def _able(asked: Criteria, row: CachedProfile, offers: Sequence[CachedOffer]) -> bool:
    profile = row.profile
    if asked.min_uptime is not None and (profile.uptime_pct is None or profile.uptime_pct < asked.min_uptime):
        return False
    slowest = asked.max_response_s
    if slowest is not None and (profile.response_s is None or profile.response_s > slowest):
        return False
    if not offers:
        return True
    return any(
        (asked.node_capacity is None or one.offer.min_node_capacity <= asked.node_capacity)
        and (
            asked.channel_count is None
            or one.offer.max_channels is None
            or one.offer.max_channels >= asked.channel_count
        )
        for one in offers
    )


def _named(asked: Criteria, row: CachedProfile) -> bool:
    if not asked.text:
        return True
    profile = row.profile
    said = " ".join((profile.name.casefold(), *profile.capabilities, *profile.specializations))
    return all(part in said for part in asked.text.replace("_", "-").split())


# -- scoring -----------------------------------------------------------------------------------------------


def match(asked: Criteria, row: CachedProfile, now: int, weights: Mapping[str, float]) -> float:
    """The match score, 0 to 1, rounded to four decimals."""
    parts = {
        "rep": UNKNOWN_REPUTATION,
        "cap": _capabilities(asked, row),
        "spec": _specializations(asked, row),
        "price": _price(asked, row),
        "avail": _availability(row),
        "fresh": max(0.0, 1 - max(0, now - row.begun()) / _FRESH_S),
    }
    whole = sum(weights.values())
    return round(sum(weights.get(name, 0) * part for name, part in parts.items()) / whole, 4)


def _capabilities(asked: Criteria, row: CachedProfile) -> float:
    profile = row.profile
    fit = 1.0
    if asked.capabilities:
        fit = sum(_level(row, one) for one in asked.capabilities) / len(asked.capabilities)
    if asked.schemas:
        fit = (fit + len(set(asked.schemas) & set(profile.schemas)) / len(asked.schemas)) / 2
    return fit


def _level(row: CachedProfile, capability: str) -> float:
    profile = row.profile
    for level, worth in ((profile.primary, 1.0), (profile.secondary, 0.6), (profile.experimental, 0.3)):
        if capability in level:
            return worth
    return 0.5 if words.FULL_STACK in profile.capabilities else 0.0


def _specializations(asked: Criteria, row: CachedProfile) -> float:
    if not asked.specializations:
        return 1.0
    missing = 0.5 if words.FULL_STACK in row.profile.capabilities else 0.0
    own = row.profile.specializations
    return sum(1.0 if one in own else missing for one in asked.specializations) / len(asked.specializations)


def _price(asked: Criteria, row: CachedProfile) -> float:
    cost, budget = row.profile.monthly_sats, asked.max_monthly_sats
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


def ranked(found: Sequence[Found], sort: str, now: int) -> list[Found]:
    """In the order of the answer. Stale and early-software profiles stand after all others; ties go by trust,
    then by the newer one, then by the id."""

    def place(one: Found) -> tuple[Any, ...]:
        row = one.row
        cost = row.profile.monthly_sats
        first: tuple[Any, ...] = {
            "match": (-one.score,),
            "price": (cost is None, cost or 0, -one.score),
            "trust": (-one.trust, -one.score),
            "newest": (-row.created_at, -one.score),
        }[sort]
        last = row.stale(now) or LEGACY in row.flags
        return (last, *first, -one.trust, -row.created_at, row.advisor_id)

    return sorted(found, key=place)
