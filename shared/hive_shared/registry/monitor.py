"""Schemas 1 and 2, which this version serves whole: `hive:monitor/v1` and `hive:fee-policy/v1` (02 §4)."""

from __future__ import annotations

from typing import Final

from .danger import Danger, DangerFacts, DangerRule, Params, bulk_raised
from .params import (
    CURSOR,
    LIMIT,
    NO_PARAMS,
    PAGE,
    Bool,
    Channel,
    Int,
    ListOf,
    NodeKey,
    OneOf,
    Param,
    ParamSchema,
    Ratio,
    Text,
)
from .spec import SchemaSpec, SchemaTable

MONITOR: Final = "hive:monitor/v1"
FEE_POLICY: Final = "hive:fee-policy/v1"


def _monitor() -> SchemaSpec:
    table = SchemaTable(MONITOR, "monitor")
    peer = Param("peer_id", NodeKey())
    channel = Param("channel_id", Channel())
    table.read(
        "health_summary",
        "get_info",
        params=ParamSchema(
            (
                Param("include_channels", Bool(), default=False),
                Param("include_forwards", Bool(), default=False),
                Param("hours", Int(1, 720), default=24),
                Param("format", OneOf(("full", "brief")), default="full"),
            )
        ),
    )
    state = Param("state", Text(40, 1, pattern="[A-Z_]+", what="a channel state of listpeerchannels"))
    table.read("channel_list", "list_channels", params=ParamSchema((peer, state, *PAGE)))
    forward_status = Param("status", OneOf(("offered", "settled", "failed", "local_failed")))
    table.read(
        "forward_history",
        "list_forwards",
        params=ParamSchema(
            (forward_status, Param("in_channel", Channel()), Param("out_channel", Channel()), *PAGE)
        ),
    )
    table.read("earnings", params=ParamSchema((Param("hours", Int(1, 8760), default=168), *PAGE)))
    table.read("peer_list", "list_peers", params=ParamSchema((peer, *PAGE)))
    invoice_status = Param("status", OneOf(("unpaid", "paid", "expired")))
    table.read("invoice_list", params=ParamSchema((invoice_status, *PAGE)))
    payment_status = Param("status", OneOf(("pending", "complete", "failed")))
    table.read("payment_list", params=ParamSchema((payment_status, *PAGE)))
    table.read("htlc_snapshot", params=ParamSchema((channel, *PAGE)))
    table.read("fee_report", params=ParamSchema((channel, *PAGE)))
    table.read("onchain_balance", "get_balance", params=NO_PARAMS)
    query = (
        Param("node_id", NodeKey()),
        Param("source", NodeKey()),
        Param("destination", NodeKey()),
        Param("scid", Channel()),
    )
    table.read(
        "graph_query",
        params=ParamSchema((*query, *PAGE), exactly_one=("node_id", "source", "destination", "scid")),
    )
    level = Param("level", OneOf(("info", "unusual", "broken")), default="unusual")
    lines = Param("limit", Int(1, 200), default=100)
    table.read("log_stream", danger="1/1/1/2/1", params=ParamSchema((level, lines)))
    for name in ("plugin_status", "backup_status", "state_hash"):
        table.read(name, params=NO_PARAMS)
    return table.done()


_BASE: Final = Danger.of("2/2/2/2/1")
_PPM: Final = Danger.of("2/3/3/3/2")
_ZERO: Final = Danger.of("2/4/4/3/2")
_BULK_BASE: Final = Danger.of("3/3/3/4/2")
_BULK_PPM: Final = Danger.of("3/4/3/5/2")


def ends_at_zero_fee(params: Params, facts: DangerFacts) -> bool:
    """Whether `set_single` leaves the channel at 0 msat and 0 ppm; an unknown half counts as 0."""
    current = facts.fees.get(str(params.get("channel_id")), (0, 0))
    return params.get("base_msat", current[0]) == 0 and params.get("fee_ppm", current[1]) == 0


def _single(params: Params, facts: DangerFacts) -> Danger:
    if ends_at_zero_fee(params, facts):
        return _ZERO
    return _PPM if "fee_ppm" in params else _BASE


def _bulk(params: Params, facts: DangerFacts) -> Danger:
    policy, channels = params.get("policy"), params.get("channels")
    only_base = isinstance(policy, dict) and set(policy) == {"base_msat"}
    touched = len(channels) if isinstance(channels, list) else 0
    return bulk_raised(_BULK_BASE if only_base else _BULK_PPM, touched, facts)


def _fee_policy() -> SchemaSpec:
    table = SchemaTable(FEE_POLICY, "fee_policy")
    channel = Param("channel_id", Channel(), required=True)
    base = Param("base_msat", Int(0, 100_000))
    ppm = Param("fee_ppm", Int(0, 50_000))
    reason = Param("reason", Text(minimum=1))
    must_say = Param("reason", Text(minimum=1), required=True)
    table.write(
        "set_single",
        DangerRule((_BASE, _PPM, _ZERO), _single),
        params=ParamSchema(
            (channel, base, ppm, Param("enforce_delay_s", Int(0, 3600), default=600)),
            at_least_one=("base_msat", "fee_ppm"),
        ),
    )
    table.write(
        "set_anchor",
        "2/3/3/3/2",
        params=ParamSchema(
            (
                channel,
                Param("target_fee_ppm", Int(25, 5000), required=True),
                Param("confidence", Ratio(), default=0.5),
                Param("base_weight", Ratio()),
                Param("ttl_hours", Int(1, 720), default=24),
                reason,
            )
        ),
    )
    table.write("clear_anchor", "2/2/1/2/1", params=ParamSchema((channel,)))
    table.read("list_anchors", params=ParamSchema((Param("channel_id", Channel()), LIMIT, CURSOR)))
    table.write("set_zero_fee", "2/4/4/3/2", params=ParamSchema((channel, must_say)))
    policy = ParamSchema(
        (base, ppm, Param("fee_delta_pct", Int(-50, 50))),
        at_least_one=("base_msat", "fee_ppm", "fee_delta_pct"),
        exclusive=("fee_ppm", "fee_delta_pct"),
    )
    table.write(
        "set_bulk",
        DangerRule((_BULK_BASE, _BULK_PPM), _bulk),
        s5="max_fee_change_pct",
        params=ParamSchema(
            (
                Param("channels", ListOf(Channel(), 1, 200), required=True),
                Param("policy", policy, required=True),
            )
        ),
    )
    return table.done()


SCHEMAS: Final = (_monitor(), _fee_policy())
