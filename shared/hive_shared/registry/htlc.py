"""HTLC bounds and single HTLCs: `hive:htlc-policy/v1` and `hive:htlc-mgmt/v1` (02 §4 items 3 and 15)."""

from __future__ import annotations

from typing import Final

from .danger import Danger, DangerFacts, DangerRule, Params, Tier, bulk_raised
from .params import MAX_MSAT, PAGE, Bool, Channel, Int, ListOf, Param, ParamSchema, Text
from .spec import NO_CALL, SchemaSpec, SchemaTable

HTLC_POLICY: Final = "hive:htlc-policy/v1"
HTLC_MGMT: Final = "hive:htlc-mgmt/v1"

_BOUNDS: Final = ("htlc_minimum_msat", "htlc_maximum_msat")
# A largest HTLC of 0 makes other implementations discard the update and route into failures (02 §13.15).
_LIMITS: Final = (Param(_BOUNDS[0], Int(0, MAX_MSAT)), Param(_BOUNDS[1], Int(1, MAX_MSAT)))
_HTLC_ID: Final = Param(
    "htlc_id",
    Text(48, 7, pattern=r"[0-9]{1,8}x[0-9]{1,8}x[0-9]{1,5}:[0-9]{1,16}(:(in|out))?", what="scid:id[:in|out]"),
    required=True,
)


def _limits_rule() -> DangerRule:
    low, other = Danger.of("2/2/2/2/1"), Danger.of("3/3/2/3/2")

    def pick(params: Params, _facts: DangerFacts) -> Danger:
        return other if "htlc_maximum_msat" in params else low

    return DangerRule((low, other), pick)


def _bulk_rule() -> DangerRule:
    row = Danger.of("3/4/4/5/3")

    def pick(params: Params, facts: DangerFacts) -> Danger:
        channels = params.get("channels")
        return bulk_raised(row, len(channels) if isinstance(channels, list) else 0, facts)

    return DangerRule((row,), pick)


def _delta_rule() -> DangerRule:
    channel, node_wide = Danger.of("3/2/4/2/3"), Danger.of("4/2/4/5/4")
    return DangerRule(
        (channel, node_wide), lambda params, _facts: channel if "channel_id" in params else node_wide
    )


def htlc_policy() -> SchemaSpec:
    """How small and how large an HTLC a channel forwards."""
    table = SchemaTable(HTLC_POLICY, "htlc", "fee_policy")
    table.write(
        "set_htlc_limits",
        _limits_rule(),
        params=ParamSchema((Param("channel_id", Channel(), required=True), *_LIMITS), at_least_one=_BOUNDS),
    )
    table.write(
        "set_htlc_limits_bulk",
        _bulk_rule(),
        s5="max_channels_per_call",
        params=ParamSchema(
            (Param("channels", ListOf(Channel(), 1, 200), required=True), *_LIMITS), at_least_one=_BOUNDS
        ),
    )
    # Standard even node-wide: the value only takes effect after the operator's own restart.
    table.write(
        "set_cltv_delta",
        _delta_rule(),
        tier=Tier.STANDARD,
        params=ParamSchema(
            (
                Param("channel_id", Channel()),
                Param("cltv_expiry_delta", Int(18, 2016), required=True),
            )
        ),
    )
    return table.done()


def htlc_mgmt() -> SchemaSpec:
    """Looking at HTLCs; acting on single ones is beyond what CLN offers."""
    table = SchemaTable(HTLC_MGMT, "htlc")
    reads = ("monitor",)
    channel = Param("channel_id", Channel())
    table.read("list_htlcs", permissions=reads, params=ParamSchema((channel, *PAGE)))
    table.read(
        "list_stuck",
        danger="1/1/1/2/1",
        permissions=reads,
        params=ParamSchema(
            (
                Param("min_age_seconds", Int(0, 1_209_600), default=3_600),
                Param("include_details", Bool(), default=False),
                *PAGE,
            )
        ),
    )
    table.read(
        "inspect",
        danger="1/1/1/2/1",
        permissions=reads,
        params=ParamSchema((_HTLC_ID, Param("include_onion", Bool(), default=False))),
    )
    table.write("fail_htlc", "6/7/6/3/6", tier=Tier.ADMIN, why=NO_CALL)
    table.write("settle_htlc", "6/7/6/3/6", tier=Tier.ADMIN, why=NO_CALL)
    table.write(
        "force_resolve_expired",
        "7/8/8/4/7",
        params=ParamSchema((_HTLC_ID, Param("reason", Text(minimum=1), required=True))),
    )
    return table.done()
