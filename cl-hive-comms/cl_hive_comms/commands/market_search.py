"""The market as its client sees it (docs/protocol/04-marketplace-and-nostr.md §12, 08 §5.2)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from hive_shared.canonical import JsonValue, decode_object
from hive_shared.errors import FeatureDisabled, InvalidParams, NotFound
from hive_shared.market.offer import Offer
from hive_shared.market.words import PRICING_TAGS
from hive_shared.nostr.keys import npub_encode
from hive_shared.runtime_spec import ClassBy, MethodSpec, Param

from cl_hive_comms.commands.rendering import as_text
from cl_hive_comms.commands.status import FORMAT
from cl_hive_comms.domain.advert import DAY_S
from cl_hive_comms.domain.market_match import Found, criteria
from cl_hive_comms.services.discovery_service import Answer, DiscoveryService

_MAX_REASON: Final = 200
_MAX_BLOCK_DAYS: Final = 3_650


class MarketSearchCommands:
    """discover (both names), profile, verify, block, status."""

    def __init__(
        self,
        discovery: Callable[[], DiscoveryService],
        now: Callable[[], int],
        status: Callable[[], Awaitable[dict[str, JsonValue]]],
    ) -> None:
        self._discovery, self._now, self._status = discovery, now, status

    def specs(self) -> list[MethodSpec]:
        """The methods of this family."""
        return [*self._search_specs(), *self._other_specs()]

    def _search_specs(self) -> list[MethodSpec]:
        verbose = Param("verbose", "bool", default=False)
        return [
            MethodSpec(
                "hive-client-discover",
                "R",
                (
                    Param("capabilities", "any"),
                    Param("type", "str", default="advisor", choices=("advisor",)),
                    Param("query", "str", default=""),
                    Param("max_price_sats", "int", minimum=0),
                    Param("min_rating", "int", minimum=0, maximum=5),
                    Param("source", "str", default="all", choices=("all", "nostr", "local")),
                    Param("limit", "int", default=20, minimum=1, maximum=500),
                    Param("refresh", "bool", default=False),
                    FORMAT,
                ),
                self._client_discover,
                "Advisors that offer what you need, best first. source=local asks no relay.",
            ),
            MethodSpec(
                "hive-marketplace-discover",
                "R",
                (Param("criteria", "json"), Param("criteria_json", "json"), verbose, FORMAT),
                self._discover,
                "Advisors by criteria: capabilities, maxMonthlySats, payment_methods, min_uptime, sort ...",
            ),
        ]

    def _other_specs(self) -> list[MethodSpec]:
        return [
            MethodSpec(
                "hive-marketplace-profile",
                "A",
                (
                    Param("profile", "str", default=""),
                    Param("action", "str", default="get", choices=("get",)),
                    FORMAT,
                ),
                self._profile,
                "What one advisor says of itself: a name, an index of the last result or a key.",
            ),
            MethodSpec(
                "hive-marketplace-verify",
                "R",
                (Param("event", "any", required=True), FORMAT),
                self._verify,
                "Every check of an advert: its JSON, or the id of an event that a relay has.",
            ),
            MethodSpec(
                "hive-marketplace-block",
                "A",
                (
                    Param("ref", "str", default=""),
                    Param("action", "str", default="list", choices=("list", "add", "remove")),
                    Param("reason", "str", default=""),
                    Param("days", "int", minimum=1, maximum=_MAX_BLOCK_DAYS),
                    FORMAT,
                ),
                self._block,
                "Advisors whose adverts this node does not take.",
                by=ClassBy("action", {"list": "R", "add": "A", "remove": "A"}),
            ),
            MethodSpec(
                "hive-marketplace-status",
                "R",
                (FORMAT,),
                self._market_status,
                "What the market cache holds and refused, and how relays fare.",
            ),
        ]

    # -- searching -----------------------------------------------------------------------------------

    async def _client_discover(self, params: dict[str, Any]) -> dict[str, Any]:
        asked: dict[str, Any] = {"limit": params["limit"]}
        if params["capabilities"] not in (None, ""):
            asked["capabilities"] = params["capabilities"]
        if params["query"].strip():
            asked["query"] = params["query"]
        if params["max_price_sats"] is not None:
            asked["maxMonthlySats"] = params["max_price_sats"]
        if params["min_rating"]:
            asked["minReputationScore"] = params["min_rating"] * 20
        question = criteria(asked)
        answer = await self._discovery().discover(
            question, refresh=params["refresh"], cached=params["source"] == "local"
        )
        result = {
            "result_id": answer.result_id,
            "items": [self._row(answer.first + place, one) for place, one in enumerate(answer.found)],
            **_about(answer),
        }
        return as_text(result) if params["format"] == "text" else result

    async def _discover(self, params: dict[str, Any]) -> dict[str, Any]:
        given = [params[name] for name in ("criteria", "criteria_json") if params[name] is not None]
        if len(given) > 1:
            raise InvalidParams("criteria and criteria_json are one parameter; give one of them")
        document = given[0] if given else {}
        if not isinstance(document, dict):
            raise InvalidParams('criteria must be an object, for example {"capabilities":["rebalancing"]}')
        answer = await self._discovery().discover(criteria(document))
        rows = []
        for place, one in enumerate(answer.found):
            row = self._row(answer.first + place, one)
            row |= {"match_score": one.score, "trust_score": one.trust, "did_state": one.row.did_state}
            row |= {
                "reputation": {"score": None, "confidence": "none"},
                "age_days": one.row.age_days(self._now()),
                "source": [one.row.source],
                "warnings": list(self._discovery().warnings(one.row)),
            }
            row.pop("warning")
            if params["verbose"]:
                row |= {"id": one.row.advisor_id, "profile": await self._document(one)}
            rows.append(row)
        result = {"advisors": rows, "count": answer.total, "result_id": answer.result_id, **_about(answer)}
        result["sponsored"] = []
        return as_text(result) if params["format"] == "text" else result

    def _row(self, index: int, one: Found) -> dict[str, JsonValue]:
        profile, row = one.row.profile, one.row
        warnings = self._discovery().warnings(row)
        return {
            "index": index,
            "name": profile.name,
            "rating": None,
            "nodes": profile.load,
            "price": _price(one),
            "specialties": list(dict.fromkeys((*profile.capabilities, *profile.specializations))),
            "methods": list(profile.methods),
            "trial": profile.trial or any(offer.offer.trial_days for offer in one.offers),
            "source": row.source,
            "verified": row.did_state == "verified",
            "warning": "; ".join(warnings),
        }

    async def _document(self, one: Found) -> JsonValue:
        text = await self._discovery().cache.document(one.row.advisor_id)
        return None if text is None else decode_object(text, floats=True)

    async def _profile(self, params: dict[str, Any]) -> dict[str, Any]:
        if not params["profile"].strip():
            raise InvalidParams("say whose profile: a name, an index of the last result or a key")
        one = await self._discovery().resolve(params["profile"])
        row, now = one.row, self._now()
        result: dict[str, JsonValue] = {
            "name": row.profile.name,
            "npub": npub_encode(row.pubkey),
            "version": row.profile.version,
            "status": row.status,
            "did_state": row.did_state,
            "claimed_id": row.claimed_did,
            "trust_score": one.trust,
            "age_days": row.age_days(now),
            "stale": row.stale(now),
            "valid_until": row.profile.valid_until,
            "event_id": row.event_id,
            "relays": list(row.relays),
            "warnings": list(self._discovery().warnings(row)),
            "offers": [_offer(offer.offer) for offer in one.offers],
            "profile": await self._document(one),
        }
        return as_text(result) if params["format"] == "text" else result

    # -- checking, blocking --------------------------------------------------------------------------

    async def _verify(self, params: dict[str, Any]) -> dict[str, Any]:
        result = await self._discovery().verify(params["event"])
        return as_text(result) if params["format"] == "text" else result

    async def _block(self, params: dict[str, Any]) -> dict[str, Any]:
        action, ref, reason = params["action"], params["ref"].strip(), params["reason"].strip()
        if action != "add" and (reason or params["days"] is not None):
            raise InvalidParams(f"reason and days belong to action=add, not to {action}")
        discovery = self._discovery()
        if action == "list":
            await discovery.cache.load()
        elif not ref:
            raise InvalidParams(f"action={action} needs ref=: a name, an index of the last result or a key")
        elif len(reason) > _MAX_REASON or not reason.isprintable():
            raise InvalidParams(f"reason is at most {_MAX_REASON} characters on one line")
        elif action == "add":
            days = params["days"]
            until = None if days is None else self._now() + days * DAY_S
            await discovery.cache.block(await discovery.key_of(ref), reason, until)
        elif not await discovery.cache.unblock(await discovery.key_of(ref)):
            raise NotFound(f"{ref[:80]!a} is not blocked; hive-marketplace-block lists who is")
        rows: list[JsonValue] = [
            {"npub": npub_encode(key), "reason": why, "until": until}
            for key, (why, until) in discovery.cache.blocked.items()
        ]
        result: dict[str, JsonValue] = {"count": len(rows), "blocked": rows}
        return as_text(result) if params["format"] == "text" else result

    async def _market_status(self, params: dict[str, Any]) -> dict[str, Any]:
        discovery = self._discovery()
        if not discovery.enabled:
            raise FeatureDisabled(
                "the advisor market is off: hive-comms-marketplace-enabled=false",
                reason="marketplace_disabled",
            )
        await discovery.cache.settle()
        cache = discovery.cache
        result: dict[str, JsonValue] = {
            "cache": {
                "profiles": len(cache.profiles),
                "offers": sum(map(len, cache.offers.values())),
                "rejected": dict(cache.counters),
                "blocked": len(cache.blocked),
                "looked_at": discovery.looked_at,
            },
            **await self._status(),
        }
        return as_text(result) if params["format"] == "text" else result


def _about(answer: Answer) -> dict[str, JsonValue]:
    last = answer.first - 1 + len(answer.found)
    return {
        "total": answer.total,
        "next_cursor": str(last) if answer.found and last < answer.total else None,
        "sources": dict(answer.sources),
        "single_source": answer.single_source,
    }


def _price(one: Found) -> str:
    """The advisor's prices in a few words."""
    said = []
    for price in one.row.profile.prices:
        if price.monthly_sats is not None:
            said.append(f"{price.monthly_sats} sats/month")
        if price.action_sats is not None:
            said.append(f"from {price.action_sats} sats/action")
        if price.share_pct:
            said.append(f"{price.share_pct:g} % of the gain")
    return ", ".join(dict.fromkeys(said)) or "on request"


def _offer(offer: Offer) -> dict[str, JsonValue]:
    return {
        "offer_id": offer.offer_id,
        "capabilities": list(offer.capabilities),
        "pricing_model": PRICING_TAGS[offer.pricing_model],
        "price": f"{offer.price_sats} sats/{offer.period}",
        "performance_pct": offer.performance_pct,
        "trial_days": offer.trial_days,
        "max_channels": offer.max_channels,
        "min_node_capacity": offer.min_node_capacity,
        "sla_response_s": offer.sla_response_s,
        "sla_uptime": offer.sla_uptime,
        "methods": list(offer.methods),
        "description": offer.description,
        "expires_at": offer.expires_at,
    }
