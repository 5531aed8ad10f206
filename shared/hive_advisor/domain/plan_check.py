"""What registry, credential and the node's own word forbid is never sent (docs/protocol/11-advisor-kit.md
§5.1). Only what can be told without the node's state: whatever depends on it, the node decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from hive_shared import registry
from hive_shared.canonical import JsonValue
from hive_shared.credential import Credential
from hive_shared.errors import CredentialInvalid, HiveError, Unsupported, from_symbol
from hive_shared.registry import ActionSpec, Danger, DangerFacts

FRESH_S: Final = 3_600
"""For how long a node's capabilities count."""

_LEAST: Final = DangerFacts(channels_total=1_000_000_000, foreign_destination=False, peer_channels=0)
_AMOUNTS: Final = ("amount_sats", "capacity_sats")


def least_danger(spec: ActionSpec, params: Mapping[str, JsonValue]) -> Danger:
    """The danger if everything that only the node knows is harmless."""
    named = [spec.danger(params, _LEAST)]
    if not any(name in params for name in (*_AMOUNTS, "amount_msat")):
        named += spec.rule.vectors
    return min(named, key=lambda vector: vector.total)


def check_scope(spec: ActionSpec, params: Mapping[str, JsonValue], credential: Credential) -> None:
    """Raises CredentialInvalid with the symbol the node would answer with."""
    if not credential.allows(spec.schema, spec.name, registry.glob_names(spec, params)):
        raise CredentialInvalid(
            f"the credential does not allow {spec.schema}#{spec.name}", reason="schema_not_allowed"
        )
    if not credential.has_permission(*spec.permissions):
        raise from_symbol(
            "permission_denied",
            f"{spec.name} needs permission {' or '.join(spec.permissions)}, which the credential lacks",
        )
    danger = least_danger(spec, params).total
    met = spec.s5_constraint is not None and spec.s5_constraint in credential.constraints
    tier = spec.tier
    if tier is None:
        tier = registry.tier_for(danger, read_only=spec.read_only, s5_met=met)
    if credential.effective_tier < tier:
        raise from_symbol(
            "tier_insufficient",
            f"{spec.name} needs tier {tier.word} or more, the credential gives"
            f" {credential.effective_tier.word}",
        )
    for name, sentence in _broken(spec, params, credential.constraints, danger):
        raise from_symbol("constraint_violated", f"{name}: {sentence}", constraint=name)


def check_contract(spec: ActionSpec, params: Mapping[str, JsonValue], contract: Credential) -> None:
    """Raises CredentialInvalid, reason `wider_than_contract`, for what the credential gives and the contract
    behind it does not. `contract` is what the contract alone would give."""
    try:
        check_scope(spec, params, contract)
    except HiveError as error:
        raise CredentialInvalid(
            f"the credential allows {spec.schema}#{spec.name} and the contract it was issued for does not:"
            f" {error.detail}",
            reason="wider_than_contract",
        ) from None


def check_served(
    spec: ActionSpec, params: Mapping[str, JsonValue], capabilities: Mapping[str, Any] | None
) -> None:
    """Raises Unsupported for what the node said it does not do; without its word, everything may be asked.

    A row with `parameters` speaks of these values of `parameter` only (config adjust).
    """
    told = (capabilities or {}).get("unsupported_actions")
    for row in told if isinstance(told, list) else ():
        if isinstance(row, dict) and (row.get("schema"), row.get("action")) == (spec.schema, spec.name):
            only = row.get("parameters")
            if isinstance(only, list) and params.get("parameter") not in only:
                continue
            what = f"{params['parameter']} in {spec.name}" if isinstance(only, list) else spec.name
            raise Unsupported(
                f"the node said that it does not do {what} of {spec.schema}:"
                f" {str(row.get('reason'))[:200]}; 'hive-advisor client capabilities' asks again",
                reason="unsupported_action",
            )


def _broken(
    spec: ActionSpec, params: Mapping[str, JsonValue], limits: Mapping[str, JsonValue], danger: int
) -> Iterator[tuple[str, str]]:
    if spec.read_only:
        return
    wanted, granted = f"{spec.schema}#{spec.name}", limits.get("grants_critical")
    if danger >= 9 and wanted not in (granted if isinstance(granted, list) else ()):
        yield "grants_critical", f"{wanted} has danger {danger} and is not granted by name"
    policy = params.get("policy")
    for given in (params, policy if isinstance(policy, dict) else {}):
        yield from _above(limits, "max_fee_ppm", given.get("fee_ppm"), "ppm")
    if spec.category == "rebalance":
        yield from _above(limits, "max_rebalance_fee_ppm", params.get("max_fee_ppm"), "ppm")
    channels = params.get("channels")
    if isinstance(channels, list):
        yield from _above(limits, "max_channels_per_call", len(channels), "channels in one command")
    denied = limits.get("denied_channels")
    named = {params.get("channel_id"), *(c for c in _texts(channels))}
    for channel in sorted(str(name) for name in named & set(_texts(denied))):
        yield "denied_channels", f"channel {channel} is excluded by the credential"
    for name in _amount_limits(spec):
        for key in _AMOUNTS:
            yield from _above(limits, name, params.get(key), "sat")


def _amount_limits(spec: ActionSpec) -> tuple[str, ...]:
    if spec.name.startswith("swap_"):
        return ("max_swap_sats",)
    if spec.category == "rebalance":
        return ("max_rebalance_sats",)
    if spec.name.startswith("open") or spec.name == "splice_in" or spec.category == "expansion":
        return ("max_channel_open_sats",)
    return ("max_payment_sats_24h",) if spec.category == "payment" else ()


def _above(
    limits: Mapping[str, JsonValue], name: str, value: JsonValue | None, unit: str
) -> Iterator[tuple[str, str]]:
    limit = limits.get(name)
    if isinstance(limit, int) and isinstance(value, int) and value > limit:
        yield name, f"{value} is above {limit} {unit}"


def _texts(value: JsonValue | None) -> tuple[str, ...]:
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()
