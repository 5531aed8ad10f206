"""What each key of the policy bears on, and whether this version runs any of it.

docs/protocol/08-client-and-plugins.md §5.4. The pages of docs/reference and `hive-client-policy` tell it by
this table: a limit on actions that nobody can run yet protects nothing, and must not look as if it did.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Final

import msgspec
from hive_shared.registry import CONTROL, actions

WRITES: Final = "every write"
ALL: Final = "every action"

_RATES: Final = ("hive:fee-policy/v1#set_*", "hive:fee-policy/v1#clear_anchor")
_REBALANCES: Final = ("hive:rebalance/v1#*",)
_OPENS: Final = ("hive:channel/v1#open", "hive:channel/v1#open_batch", "hive:expansion/v1#*")
# Who opened a channel pays for its close; a close may also pay to an address of somebody else.
_CLOSES: Final = (
    "hive:channel/v1#close_*",
    "hive:emergency/v1#force_close*",
    "hive:htlc-mgmt/v1#force_resolve_expired",
)
_SPENDS: Final = (
    "hive:payment/v1#pay_*",
    "hive:payment/v1#keysend",
    "hive:wallet/v1#send_onchain",
    "hive:wallet/v1#sweep",
    "hive:wallet/v1#consolidate_utxos",
    "hive:wallet/v1#bump_fee",
    *_REBALANCES,
    *_OPENS,
    *_CLOSES,
    "hive:splice/v1#*",
    "hive:liquidity/v1#*",
)
_OPTIONS: Final = ("hive:config/v1#set_config", "hive:config/v1#adjust", "hive:plugin/v1#configure")
_PEERS: Final = (
    "hive:peer/v1#connect",
    *_OPENS,
    "hive:splice/v1#*",
    *_REBALANCES,
    "hive:payment/v1#*",
    "hive:liquidity/v1#*",
)
_FEERATES: Final = (
    "hive:splice/v1#splice_in",
    "hive:splice/v1#splice_out",
    "hive:wallet/v1#send_onchain",
    "hive:wallet/v1#sweep",
    "hive:wallet/v1#consolidate_utxos",
    "hive:wallet/v1#bump_fee",
    *_OPENS,
    "hive:channel/v1#close_cooperative",
)

REACH: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "max_danger": (WRITES,),
        "require_confirmation_above": (WRITES,),
        "max_fee_change_per_24h_pct": _RATES,
        "min_fee_ppm": (*_RATES, "hive:emergency/v1#fee_spike"),
        "max_fee_ppm": (*_RATES, "hive:emergency/v1#fee_spike"),
        "max_rebalance_sats": _REBALANCES,
        "max_rebalance_fee_ppm": _REBALANCES,
        "max_channel_open_sats": (*_OPENS, "hive:splice/v1#splice_in"),
        "forbidden_peers": _PEERS,
        "protected_channels": (WRITES,),
        "blocked_schemas": (ALL,),
        "allowed_config": _OPTIONS,
        "approved_plugins": ("hive:plugin/v1#start_approved",),
        "approvers": (WRITES,),
        "allow_push": ("hive:channel/v1#open", "hive:expansion/v1#propose_channel_open"),
        "allow_private_hosts": ("hive:peer/v1#connect",),
        "max_feerate_perkw": _FEERATES,
        "protected_plugins": ("hive:plugin/v1#stop",),
        "daily_budget_sats": _SPENDS,
        "required_confirmation.danger_gte": (WRITES,),
        "required_confirmation.channel_close": (
            "hive:channel/v1#close_*",
            "hive:emergency/v1#force_close*",
            "hive:htlc-mgmt/v1#force_resolve_expired",
        ),
        "required_confirmation.onchain_send_gte_sats": (
            "hive:wallet/v1#send_onchain",
            "hive:wallet/v1#sweep",
            "hive:splice/v1#splice_out",
        ),
        "rate_limits.fee_changes_per_hour": ("hive:fee-policy/v1#*",),
        "rate_limits.rebalances_per_day": _REBALANCES,
        "rate_limits.total_actions_per_day": (WRITES,),
        "time_restrictions.quiet_hours": (WRITES,),
        "time_restrictions.quiet_hour_max_danger": (WRITES,),
        "approval_overrides": (WRITES,),
    }
)
"""Each key (of nested ones: each inner key) with the actions it bears on, as globs over `schema#action`."""

BESIDES: Final[Mapping[str, str]] = MappingProxyType(
    {"forbidden_peers": "connections and channels of these peers, whoever asks for them"}
)
"""What a key does besides deciding about commands."""


class Reach(msgspec.Struct, frozen=True):
    """The globs of a key of which this version runs something, and those of which it runs nothing."""

    served: tuple[str, ...]
    later: tuple[str, ...]


def reach_of(key: str) -> Reach:
    """What a key bears on now and later. Raises KeyError for a key that is none."""
    served = [glob for glob in REACH[key] if any(True for _ in served_actions(glob))]
    return Reach(tuple(served), tuple(glob for glob in REACH[key] if glob not in served))


def served_actions(glob: str) -> Iterator[tuple[str, str]]:
    """Schema and name of every action of a glob that this version runs; of the protocol's own, none."""
    for spec in actions():
        if not spec.served or spec.schema == CONTROL:
            continue
        name = f"{spec.schema}#{spec.name}"
        if glob == ALL or (glob == WRITES and not spec.read_only) or fnmatchcase(name, glob):
            yield spec.schema, spec.name


def idle_keys(overrides: Mapping[str, object]) -> list[str]:
    """Of a document's overrides the keys that bear on nothing this version runs."""
    found = []
    for key, value in overrides.items():
        names = [f"{key}.{name}" for name in value] if isinstance(value, dict) else [key]
        names = [name for name in names if name in REACH] or [key] * (key in REACH)
        found += [name for name in names if not reach_of(name).served and name not in BESIDES]
    return found
