"""The terms an operator proposes: what the advisor advertises, and what the operator says on top
(docs/protocol/04-marketplace-and-nostr.md §12 "Objects").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from hive_shared.errors import InvalidParams
from hive_shared.market.offer import Offer
from hive_shared.market.profile import Price, Profile
from hive_shared.market.terms import payment_method
from hive_shared.market.words import schemas_of

_MONITOR: Final = "hive:monitor/*"
_SECTIONS: Final = (
    *("scope", "compensation", "sla", "duration", "trialEvaluation", "coordination", "referral"),
    *("dispute", "nodeInfo"),
)
_DURATION: Final = {"trialDays": 0, "fullTermDays": 90, "noticePeriodDays": 7, "autoRenew": False}


def drafted(
    profile: Profile | None,
    offer: Offer | None,
    *,
    said: Mapping[str, Any],
    scope: Mapping[str, Any],
    tier: str,
    pricing: Mapping[str, Any],
    methods: Sequence[str],
) -> dict[str, Any]:
    """Terms in full. `said` are the operator's own terms, section by section; `scope`, `tier` and `pricing`
    are shortcuts into them; `methods` the node's ways to pay, the best first.

    Raises InvalidParams for a section that is none. Whether the terms hold is read_terms' question.
    """
    for name, section in said.items():
        if name not in _SECTIONS or not (isinstance(section, Mapping) or section is None):
            raise InvalidParams(f"terms: {name[:40]!a} is none of {', '.join(_SECTIONS)} with an object")
    found: dict[str, Any] = {
        "scope": _scope(profile, offer),
        "compensation": _compensation(profile, offer, methods),
        "sla": _sla(profile, offer),
        "duration": dict(_DURATION),
    }
    for name, section in said.items():
        found[name] = {**found.get(name, {}), **section} if isinstance(section, Mapping) else section
    found["scope"] = {**found["scope"], **scope}
    if tier or "permissionTier" not in found["scope"]:
        found["scope"]["permissionTier"] = tier or "standard"
    # Another model brings its own price: the advertised one must not stand beside it.
    wanted = {**(said.get("compensation") or {}), **pricing}
    if wanted.get("model", found["compensation"].get("model")) != _compensation(profile, offer, methods).get(
        "model"
    ):
        found["compensation"] = {
            "acceptedMethods": found["compensation"].get("acceptedMethods", []),
            **wanted,
        }
    found["compensation"] = {**found["compensation"], **pricing}
    return found


def _scope(profile: Profile | None, offer: Offer | None) -> dict[str, Any]:
    capabilities = list(
        offer.capabilities if offer is not None else () if profile is None else profile.primary
    )
    if not capabilities:
        return {"constraints": {}}
    patterns = ["*" if schema == "hive:*" else schema for schema in schemas_of(capabilities)]
    return {
        "capabilities": capabilities,
        "schemas": list(dict.fromkeys((_MONITOR, *patterns))),
        "constraints": {},
    }


def _compensation(profile: Profile | None, offer: Offer | None, methods: Sequence[str]) -> dict[str, Any]:
    if offer is not None:
        taken = list(offer.methods or (() if profile is None else profile.methods))
        price = Price(
            model=offer.pricing_model,
            monthly_sats=offer.monthly_sats,
            action_sats=offer.price_sats if offer.pricing_model == "per_action" else None,
            share_pct=offer.performance_pct or 0,
        )
    elif profile is not None and profile.prices:
        price = profile.prices[0]
        taken = list(price.methods or profile.methods)
    else:
        return {}
    found: dict[str, Any] = {
        "model": price.model if price.model != "flat" else "subscription",
        "acceptedMethods": taken or ["cashu"],
    }
    if price.model == "per_action":
        found["perActionSats"] = price.action_sats or 0
    else:
        found["baseMonthlySats"] = price.monthly_sats or 0
    if price.model in ("performance", "hybrid"):
        found["performanceSharePct"] = price.share_pct
    chosen = payment_method(methods, found["acceptedMethods"])
    if chosen in found["acceptedMethods"]:
        found["basePaymentMethod"] = chosen
    return found


def _sla(profile: Profile | None, offer: Offer | None) -> dict[str, Any]:
    response_s = offer.sla_response_s if offer is not None else None
    uptime = offer.sla_uptime if offer is not None else None
    if profile is not None:
        response_s = profile.response_s if response_s is None else response_s
        uptime = profile.uptime_pct if uptime is None else uptime
    return {
        "responseTimeMinutes": 10 if response_s is None else max(1, -(-response_s // 60)),
        "uptimePct": 99 if uptime is None else uptime,
        "reportingFrequency": "weekly",
    }
