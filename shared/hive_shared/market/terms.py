"""The terms of an engagement: one document that proposal, counter offer, award and contract share
(docs/protocol/04-marketplace-and-nostr.md §9).

The document itself is hashed and signed, so what was read is kept as it came; the Structs only check it.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from hive_shared.canonical import DecodeError, JsonValue, decode_object, encode
from hive_shared.credential_scope import (
    check_constraints,
    check_patterns,
    out_of_reach,
    patterns_allow,
    permissions_for,
)
from hive_shared.crypto import sha256
from hive_shared.errors import InvalidParams
from hive_shared.registry import CONTROL, Tier, actions
from hive_shared.registry.params import MAX_SAT
from hive_shared.validation_words import in_words

MAX_BYTES: Final = 16_384
MIN_TRIAL_DAYS: Final = 7
MAX_TRIAL_DAYS: Final = 30
COUNTERED: Final = (
    "scope.constraints",
    "scope.capabilities",
    "scope.schemas",
    "scope.permissionTier",
    "compensation",
    "sla",
    "duration",
    "trialEvaluation",
    "coordination",
    "dispute",
)
"""What a counter offer may change: these paths and what is below them."""
_MAX_CHANGES: Final = 64
_PATH: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}(\.[A-Za-z][A-Za-z0-9_]{0,63}){0,5}", re.ASCII)

Sats = Annotated[int, Meta(ge=0, le=MAX_SAT)]
Percent = Annotated[float, Meta(ge=0, le=100)]
Capability = Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,40}\Z")]
Words = Annotated[str, Meta(min_length=1, max_length=200)]
Method = Literal["bolt11", "bolt12", "cashu", "l402"]
Model = Literal["per_action", "subscription", "performance", "hybrid"]


class Scope(Struct, frozen=True, forbid_unknown_fields=True):
    """What the advisor may do: as a management credential says it."""

    capabilities: Annotated[list[Capability], Meta(min_length=1, max_length=32)]
    schemas: Annotated[list[str], Meta(min_length=1, max_length=32)]
    permissionTier: Literal["monitor", "standard", "advanced", "admin"]
    constraints: dict[str, Any]


class Compensation(Struct, frozen=True, forbid_unknown_fields=True):
    """What the advisor is paid, in whole sat; `perActionSats` is the price of one action."""

    model: Model
    acceptedMethods: Annotated[list[Method], Meta(min_length=1, max_length=4)]
    baseMonthlySats: Sats | UnsetType = UNSET
    performanceSharePct: Annotated[float, Meta(ge=0, le=50)] | UnsetType = UNSET
    perActionSats: Sats | UnsetType = UNSET
    basePaymentMethod: Method | UnsetType = UNSET
    bonusEscrowMethod: Literal["cashu"] | UnsetType = UNSET
    escrowMint: Annotated[str, Meta(min_length=1, max_length=512)] | UnsetType = UNSET
    trialFlatFeeSats: Sats | UnsetType = UNSET


class Penalty(Struct, frozen=True, forbid_unknown_fields=True):
    """What a breach of one metric costs."""

    type: Literal["fee_credit_pct", "prorate", "no_bonus", "warning", "review"]
    value: Percent | UnsetType = UNSET
    per: Literal["incident", "period"] | UnsetType = UNSET
    cap_pct: Percent | UnsetType = UNSET


class Sla(Struct, frozen=True, forbid_unknown_fields=True):
    """What is measured, and by which values."""

    responseTimeMinutes: Annotated[int, Meta(ge=1, le=10_080)]
    uptimePct: Percent
    reportingFrequency: Literal["daily", "weekly", "monthly"] = "weekly"
    performanceTargets: dict[str, float] | UnsetType = UNSET
    penaltyForBreach: (
        dict[Literal["responseTime", "uptime", "reporting", "performance"], Penalty] | UnsetType
    ) = UNSET


class Duration(Struct, frozen=True, forbid_unknown_fields=True):
    """Days. A trial lasts 7 to 30 days or there is none (0)."""

    trialDays: Annotated[int, Meta(ge=0, le=MAX_TRIAL_DAYS)]
    fullTermDays: Annotated[int, Meta(ge=1, le=365)]
    noticePeriodDays: Annotated[int, Meta(ge=0, le=30)] = 7
    autoRenew: bool = False


class Criterion(Struct, frozen=True, forbid_unknown_fields=True):
    """One thing a trial is judged by."""

    metric: Literal[
        "actions_taken",
        "uptime_pct",
        "revenue_delta_pct",
        "response_time_p95_minutes",
        "stagnant_channels_pct",
    ]
    threshold: float
    operator: Literal[">=", "<=", ">", "<", "=="]
    description: Annotated[str, Meta(max_length=200)] = ""


class TrialEvaluation(Struct, frozen=True, forbid_unknown_fields=True):
    """How a trial is judged; no criteria means the usual ones."""

    criteria: Annotated[list[Criterion], Meta(max_length=16)]
    passingRequirement: Literal["all", "any"] | Annotated[int, Meta(ge=1, le=16)] = "all"
    autoUpgrade: bool = False


class Coordination(Struct, frozen=True, forbid_unknown_fields=True):
    """How the advisor works beside others."""

    multiAdvisor: bool = False
    peerAdvisors: Annotated[list[Words], Meta(max_length=32)] = []
    scopeIsolation: Literal["strict"] = "strict"
    conflictResolution: Literal["escalate_to_operator"] = "escalate_to_operator"
    sharedStateAccess: Literal["receipts_readonly"] = "receipts_readonly"
    actionCooldownSeconds: Annotated[int, Meta(ge=0, le=86_400)] = 300


class Referral(Struct, frozen=True, forbid_unknown_fields=True):
    """Who brought the two together, and what share of the first period it gets."""

    referrer: Words
    referralFeePct: Annotated[float, Meta(ge=0, le=10)]


class Dispute(Struct, frozen=True, forbid_unknown_fields=True):
    """Who decides where the two do not agree."""

    method: Literal["bilateral", "arbiter", "hive_panel"] = "bilateral"
    coolingDays: Annotated[int, Meta(ge=0, le=30)] = 7
    arbiter: Words | UnsetType = UNSET


class NodeInfo(Struct, frozen=True, forbid_unknown_fields=True):
    """Aggregates of the client's nodes; no part of what is agreed, so not of the hash."""

    nodeCount: Annotated[int, Meta(ge=1, le=10_000)] = 1
    totalCapacitySats: Sats | UnsetType = UNSET
    channelCount: Annotated[int, Meta(ge=0, le=1_000_000)] | UnsetType = UNSET


class Terms(Struct, frozen=True, forbid_unknown_fields=True):
    """The terms, read strictly; made by `read_terms`. Optional parts are UNSET when absent."""

    scope: Scope
    compensation: Compensation
    sla: Sla
    duration: Duration
    trialEvaluation: TrialEvaluation | UnsetType = UNSET
    coordination: Coordination | UnsetType = UNSET
    referral: Referral | None = None
    dispute: Dispute | UnsetType = UNSET
    nodeInfo: NodeInfo | UnsetType = UNSET

    @property
    def tier(self) -> Tier:
        """The tier the credential gets."""
        return Tier.parse(self.scope.permissionTier)


def read_terms(document: object) -> Terms:
    """Read a terms document strictly, with every bound of the sheet.

    Raises InvalidParams naming the field: unknown or missing, out of bounds, a tier that does not cover the
    schemas, a model without its price.
    """
    value = _plain(document)
    try:
        terms = msgspec.convert(value, Terms)
    except msgspec.ValidationError as err:
        raise InvalidParams(f"terms: {in_words(err, 300)}") from None
    problem = _problem(terms)
    if problem:
        raise InvalidParams(f"terms: {problem}")
    check_patterns(terms.scope.schemas)
    check_constraints(terms.scope.constraints)
    _check_tier(terms)
    return terms


def terms_hash(document: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of the canonical terms without nodeInfo: what both sides agree to."""
    return sha256(encode({name: part for name, part in document.items() if name != "nodeInfo"})).hex()


def modified(document: Mapping[str, Any], modifications: Mapping[str, JsonValue]) -> dict[str, Any]:
    """The terms a counter offer leads to, checked as any terms. The document itself is not changed.

    Raises InvalidParams for a path that a counter offer must not touch, for modifications that change
    nothing, and for terms that are none.
    """
    if not 1 <= len(modifications) <= _MAX_CHANGES:
        raise InvalidParams(f"modifications has {len(modifications)} paths; 1 to {_MAX_CHANGES} are possible")
    changed = copy.deepcopy(dict(document))
    ordered = sorted(modifications)
    for path in ordered:
        if not _PATH.fullmatch(path) or not any(_within(path, open_to) for open_to in COUNTERED):
            raise InvalidParams(
                f"modifications: {path[:100]!a} cannot be changed; what can: {', '.join(COUNTERED)}"
            )
    for outer in ordered:
        inner = next((path for path in ordered if path != outer and _within(path, outer)), None)
        if inner is not None:
            raise InvalidParams(f"modifications: {inner} lies within {outer}, which stands there too")
        _put(changed, outer.split("."), modifications[outer])
    read_terms(changed)
    if terms_hash(changed) == terms_hash(document):
        raise InvalidParams("modifications: the terms would stay as they are")
    return changed


def differences(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> dict[str, tuple[JsonValue, JsonValue]]:
    """What differs between two terms, by dotted path: (before, after), None where it is absent."""
    found: dict[str, tuple[JsonValue, JsonValue]] = {}
    _compare(before, after, "", found)
    return found


def widened(before: Terms, after: Terms) -> list[str]:
    """Where `after` lets the advisor do more than `before`: sentences for the operator, none if nowhere."""
    found = []
    if after.tier > before.tier:
        found.append(f"the tier rises from {before.tier.word} to {after.tier.word}")
    more = sorted(set(after.scope.schemas) - set(before.scope.schemas))
    if more:
        found.append(f"the schemas {', '.join(more)} are added")
    denied = sorted(
        pattern for pattern in set(before.scope.schemas) - set(after.scope.schemas) if pattern[:1] == "!"
    )
    if denied:
        found.append(f"the denials {', '.join(denied)} are dropped")
    for name, limit in sorted(before.scope.constraints.items()):
        now = after.scope.constraints.get(name)
        if now is None:
            found.append(f"the limit {name} {limit} is dropped")
        elif isinstance(limit, int) and isinstance(now, int) and now > limit:
            found.append(f"the limit {name} rises from {limit} to {now}")
        elif not isinstance(limit, int) and now != limit:
            found.append(f"the limit {name} becomes another")
    return found


def payment_method(preferred: Iterable[str], accepted: Iterable[str]) -> str:
    """The first of the operator's preferences the advisor accepts; none: `cashu`."""
    possible = set(accepted)
    return next((method for method in preferred if method in possible), "cashu")


def _plain(document: object) -> dict[str, JsonValue]:
    if not isinstance(document, Mapping):
        raise InvalidParams("terms is not an object")
    try:
        return decode_object(encode(document), max_bytes=MAX_BYTES, floats=True)
    except DecodeError as err:
        raise InvalidParams(f"terms: {err.detail}") from None
    except ValueError as err:
        raise InvalidParams(f"terms: {str(err)[:120]}") from None


def _problem(terms: Terms) -> str | None:
    pay, days = terms.compensation, terms.duration.trialDays
    if 0 < days < MIN_TRIAL_DAYS:
        return f"duration.trialDays {days} is neither 0 nor {MIN_TRIAL_DAYS} to {MAX_TRIAL_DAYS}"
    if pay.model == "per_action" and pay.perActionSats is UNSET:
        return "compensation.perActionSats is missing, the price of model per_action"
    if pay.model in ("subscription", "hybrid") and pay.baseMonthlySats is UNSET:
        return f"compensation.baseMonthlySats is missing, the price of model {pay.model}"
    if pay.model in ("performance", "hybrid") and pay.performanceSharePct is UNSET:
        return f"compensation.performanceSharePct is missing, the price of model {pay.model}"
    if pay.basePaymentMethod is not UNSET and pay.basePaymentMethod not in pay.acceptedMethods:
        return f"compensation.basePaymentMethod {pay.basePaymentMethod} is not in acceptedMethods"
    for what, values in (
        ("scope.capabilities", terms.scope.capabilities),
        ("scope.schemas", terms.scope.schemas),
        ("compensation.acceptedMethods", pay.acceptedMethods),
    ):
        if len(set(values)) != len(values):
            return f"{what} has an entry twice"
    dispute = terms.dispute
    if dispute is not UNSET and (dispute.method == "arbiter") is (dispute.arbiter is UNSET):
        return "dispute.arbiter belongs to method arbiter, and to no other"
    evaluation = terms.trialEvaluation
    if (
        evaluation is not UNSET
        and isinstance(evaluation.passingRequirement, int)
        and evaluation.criteria
        and evaluation.passingRequirement > len(evaluation.criteria)
    ):
        return (
            f"trialEvaluation asks for {evaluation.passingRequirement} of {len(evaluation.criteria)} criteria"
        )
    return None


def _check_tier(terms: Terms) -> None:
    """Every schema has something that the tier reaches: a schema of which nothing could be done is an error
    of the document, a single action beyond the tier is not."""
    flags = dict.fromkeys(permissions_for(tuple(terms.scope.schemas)), True)
    for pattern in terms.scope.schemas:
        if pattern == "*" or pattern[:1] == "!":
            continue
        missed = out_of_reach(terms.tier, (pattern,), flags, terms.scope.constraints)
        if missed and not _reached(pattern, missed_names={(each.schema, each.action) for each in missed}):
            raise InvalidParams(
                f"terms: scope.permissionTier {terms.tier.word} reaches nothing of {pattern}:"
                f" {missed[0].action} needs {missed[0].needs}"
            )


def _reached(pattern: str, missed_names: set[tuple[str, str]]) -> bool:
    return any(
        patterns_allow((pattern,), spec.schema, spec.name) and (spec.schema, spec.name) not in missed_names
        for spec in actions()
        if spec.schema != CONTROL
    )


def _within(path: str, outer: str) -> bool:
    return path == outer or path.startswith(f"{outer}.")


def _put(document: dict[str, Any], steps: list[str], value: JsonValue) -> None:
    *way, last = steps
    inside: Any = document
    for step in way:
        inside = inside.setdefault(step, {})
        if not isinstance(inside, dict):
            raise InvalidParams(f"modifications: {'.'.join(steps)} leads through {step}, which is no object")
    if value is None and steps[0] != "referral":
        inside.pop(last, None)
    else:
        inside[last] = value


def _compare(
    before: JsonValue | Mapping[str, Any],
    after: JsonValue | Mapping[str, Any],
    path: str,
    found: dict[str, tuple[JsonValue, JsonValue]],
) -> None:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in sorted({*before, *after}):
            _compare(before.get(name), after.get(name), f"{path}.{name}" if path else name, found)
    elif before != after:
        found[path] = (_json(before), _json(after))


def _json(value: JsonValue | Mapping[str, Any]) -> JsonValue:
    return dict(value) if isinstance(value, Mapping) else value
