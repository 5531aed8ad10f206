"""hive-mgmt-credential-issue (docs/protocol/02-fleet-management.md §2, §11; 08 §5.2)."""

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, Final

from hive_shared import credential as credentials
from hive_shared.canonical import encode
from hive_shared.credential_scope import PERMISSIONS
from hive_shared.errors import InvalidParams, SiblingUnavailable, Unsupported
from hive_shared.nostr.keys import parse_pubkey
from hive_shared.registry import Tier, check_price_table
from hive_shared.runtime_spec import MethodSpec, Param

from ..domain.access_fee import PERIODS, SERVED, SUBSCRIPTION
from ..domain.advisor import MAX_DAYS
from ..domain.compensation import MAX_RATE_SATS
from ..domain.compensation import SERVED as PAID_BY
from ..domain.conflict import CHANNEL_COOLDOWN_S, MAX_COOLDOWN_S
from ..services.advisor_requests import Hired, Issue
from ..services.advisor_service import AdvisorService

_MAX_BYTES: Final = 4_096
_SHOWN: Final = 20
_TRUST: Final = "trust must be a number from 0.5 to 2 with at most three decimals"


class CredentialIssueCommands:
    """A credential spelt out by the operator. `hive`: whether cl-hive is there, and whether it gossips
    credentials."""

    def __init__(self, service: Callable[[], AdvisorService], hive: Callable[[], tuple[bool, bool]]) -> None:
        self._service, self._hive = service, hive

    def specs(self) -> list[MethodSpec]:
        """The method of this family."""
        return [
            MethodSpec(
                "hive-mgmt-credential-issue",
                "X",
                (
                    Param("agent_id", "str", required=True, maximum=200),
                    Param("tier", "str", required=True, choices=tuple(tier.word for tier in Tier)),
                    Param("allowed_schemas_json", "json", required=True),
                    Param("constraints_json", "json"),
                    Param("permissions_json", "json"),
                    Param("access_json", "json"),
                    Param("compensation_json", "json"),
                    Param("valid_days", "int", default=90, minimum=1, maximum=MAX_DAYS),
                    Param("trust", "any"),
                    Param("gossip", "bool", default=False),
                    Param(
                        "action_cooldown_s",
                        "int",
                        default=CHANNEL_COOLDOWN_S,
                        minimum=0,
                        maximum=MAX_COOLDOWN_S,
                    ),
                ),
                self._issue,
                "Give an agent a credential spelt out: tier, schema patterns, constraints, permissions, what"
                " it pays for access, what it is paid for its commands.",
            )
        ]

    async def _issue(self, params: dict[str, Any]) -> dict[str, Any]:
        if params["gossip"]:
            self._refuse_gossip()
        charge, pay = _charge(params["access_json"]), _pay(params["compensation_json"])
        if charge is not None and pay is not None and charge["model"] == pay["model"] == "per_action":
            raise InvalidParams(
                "access_json and compensation_json both go by action, but a command carries one"
                " payment_proof: leave one of them out"
            )
        agent_id, key = _agent(params["agent_id"])
        hired = await self._service().authorize(
            Issue(
                advisor="",
                npub=key,
                agent_id=agent_id,
                days=params["valid_days"],
                trust=_trust(params["trust"]),
                permissions=_permissions(params["permissions_json"]),
                charge=charge,
                pay=pay,
                tier=Tier.parse(params["tier"]),
                schemas=_schemas(params["allowed_schemas_json"]),
                limits=_constraints(params["constraints_json"]),
                action_cooldown_s=params["action_cooldown_s"],
            )
        )
        return _issued(hired)

    def _refuse_gossip(self) -> None:
        present, gossips = self._hive()
        instead = "leave gossip out: the agent gets its credential by direct message all the same"
        if not present:
            raise SiblingUnavailable(
                f"gossip=true needs cl-hive, which is not running; {instead}", data={"sibling": "cl-hive"}
            )
        if not gossips:
            raise Unsupported(
                f"the cl-hive of this node does not gossip credentials (no did-gossip); {instead}",
                reason="unsupported_action",
                data={"sibling": "cl-hive"},
            )
        raise Unsupported(
            f"this version of cl-hive-comms hands no credentials to cl-hive; {instead}",
            reason="unsupported_action",
        )


def _agent(text: str) -> tuple[str, str]:
    """The agent as documents name it, and its x-only key."""
    body = text.strip()
    if body.startswith("did:") and not body.startswith("did:nostr:"):
        raise SiblingUnavailable(
            "only cl-hive-archon can resolve this DID and it is not there; give the agent's npub",
            data={"sibling": "cl-hive-archon"},
        )
    if len(body) == 66 and body[:2] in ("02", "03"):
        key = _key(body[2:])
        return body.lower(), key
    return "", _key(body)


def _key(text: str) -> str:
    try:
        return parse_pubkey(text)
    except ValueError as error:
        raise InvalidParams(f"agent_id: {error}; a Lightning node id works too") from None


def _schemas(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise InvalidParams('allowed_schemas_json must be a list of patterns such as ["hive:monitor/*"]')
    if len(value) > 100 or len(encode(value)) > _MAX_BYTES:
        raise InvalidParams(f"allowed_schemas_json must be at most 100 patterns in {_MAX_BYTES} bytes")
    return tuple(dict.fromkeys(value))


def _constraints(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidParams('constraints_json must be an object such as {"max_fee_change_pct": 25}')
    return value


def _permissions(value: Any) -> Mapping[str, Any] | None:
    if value is None:
        return None
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        value = dict.fromkeys(value, True)
    if not isinstance(value, dict):
        raise InvalidParams('permissions_json must be an object of booleans such as {"monitor": true}')
    for name, granted in value.items():
        if name not in PERMISSIONS:
            raise InvalidParams(f"permission {name[:40]!a} is unknown; known are {', '.join(PERMISSIONS)}")
        if not isinstance(granted, bool):
            raise InvalidParams(f"permission {name} must be true or false")
    return value


def _charge(value: Any) -> Mapping[str, Any] | None:
    """What the agent pays for access; None: nothing."""
    if value is None:
        return None
    if not isinstance(value, dict) or value.get("model") not in ("none", "per_action", SUBSCRIPTION):
        raise InvalidParams(
            'access_json must be an object such as {"model":"per_action","accepted_methods":["l402"]}; model'
            " is none, per_action or subscription"
        )
    methods = value.get("accepted_methods", [])
    served = PERIODS if value["model"] == SUBSCRIPTION else SERVED
    unknown = [name for name in methods if name not in served] if isinstance(methods, list) else [methods]
    if unknown:
        raise InvalidParams(
            f"access_json.accepted_methods: {str(unknown[0])[:40]!a} is not taken; the list holds"
            f" {', '.join(served)}"
        )
    table = value.get("price_table")
    if table is not None:
        if not isinstance(table, list) or not all(type(price) is int for price in table):
            raise InvalidParams("access_json.price_table must be 10 whole numbers, sat for danger 1 to 10")
        try:
            check_price_table(tuple(table))
        except ValueError as error:
            raise InvalidParams(f"access_json.price_table: {error}") from None
    return value


_PRICES: Final = {"per_action": "rate_sats", "subscription": "base_monthly_sats"}
"""What each model's price is called."""


def _pay(value: Any) -> Mapping[str, Any] | None:
    """What the agent is paid; None: nothing."""
    if value is None:
        return None
    model = value.get("model") if isinstance(value, dict) else None
    if not isinstance(model, str) or model not in _PRICES:
        raise InvalidParams(
            'compensation_json must be an object such as {"model":"per_action","rate_sats":25} or'
            ' {"model":"subscription","base_monthly_sats":5000} (performance is not served by this version)'
        )
    price = _PRICES[model]
    for name in value:
        if name not in ("model", price, "accepted_methods"):
            raise InvalidParams(f"compensation_json of {model} has an unknown key {name[:40]!a}")
    rate = value.get(price, 1 if model == "per_action" else None)
    if type(rate) is not int or not 1 <= rate <= MAX_RATE_SATS:
        without = "; without it the price of the action's danger is paid" if model == "per_action" else ""
        raise InvalidParams(f"compensation_json.{price} must be 1 to {MAX_RATE_SATS} sat{without}")
    methods = value.get("accepted_methods", [])
    unknown = [name for name in methods if name not in PAID_BY] if isinstance(methods, list) else [methods]
    if unknown:
        raise InvalidParams(
            f"compensation_json.accepted_methods: {str(unknown[0])[:40]!a} is no way this node pays; the list"
            f" holds {', '.join(PAID_BY)}"
        )
    # Of a monthly fee no action earns anything.
    agreed: Mapping[str, Any] = value if model == "per_action" else {**value, "rate_sats": 0}
    return agreed


def _trust(value: Any) -> Fraction | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise InvalidParams(_TRUST)
    try:
        exact = Fraction(str(value).strip())
    except (ValueError, ZeroDivisionError):
        raise InvalidParams(f"{_TRUST}, not {str(value)[:20]!a}") from None
    if not Fraction(1, 2) <= exact <= 2 or 1000 % exact.denominator:
        raise InvalidParams(f"{_TRUST}, not {str(value)[:20]!a}")
    return exact


def _issued(hired: Hired) -> dict[str, Any]:
    document = hired.row.credential
    result: dict[str, Any] = {
        "credential": credentials.to_doc(document),
        "credential_id": hired.row.credential_id,
        "hash": credentials.doc_hash(document),
        "advisor_id": hired.advisor.advisor_id,
        "name": hired.name,
        "valid_until": document.valid_until,
        "delivery": "queued" if document.agent_id.startswith("did:nostr:") else "by hand",
        "rune": hired.with_rune,
    }
    if hired.out_of_reach:
        beyond = hired.out_of_reach
        result["warning_out_of_reach"] = [
            f"{each.schema}#{each.action} needs {each.needs}" for each in beyond[:_SHOWN]
        ] + ([f"and {len(beyond) - _SHOWN} more"] if len(beyond) > _SHOWN else [])
    return result
