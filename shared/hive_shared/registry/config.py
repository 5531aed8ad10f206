"""Options of the node: `hive:config/v1` (02 §4 item 12)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..canonical import MAX_INTEGER, JsonValue
from .danger import Danger, DangerFacts, DangerRule, Params, Tier
from .params import (
    MAX_MSAT,
    MAX_SAT,
    NO_PARAMS,
    PAGE,
    Bool,
    Hex,
    Int,
    Param,
    ParamSchema,
    Text,
    refuse,
)
from .spec import SchemaSpec, SchemaTable

CONFIG: Final = "hive:config/v1"
MAX_ALIAS_BYTES: Final = 32
"""What a node announcement has room for (BOLT 7)."""

OPTION: Final = Text(100, 1, pattern=r"[a-z0-9][a-z0-9._-]*", what="the name of an option")
"""How options of the node and of its plugins are named."""
_ADDRESS: Final = Text(
    255, 4, pattern=r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?", what="host or host:port"
)
_HOOK: Final = "this version has no hook for the size of channels that others open"


@dataclass(frozen=True, slots=True)
class Scalar:
    """The value of an option: text without control characters, an integer, or true or false."""

    def parse(self, value: JsonValue, path: str) -> JsonValue:
        """The value."""
        if isinstance(value, str):
            return Text(500).parse(value, path)
        if value is None or isinstance(value, float | list | dict) or not _fits(value):
            refuse(path, "text, an integer, or true or false", value)
        return value

    def describe(self) -> dict[str, JsonValue]:
        """Types."""
        return {"type": ["string", "integer", "boolean"], "maxLength": 500}


def _fits(value: int) -> bool:
    return -MAX_INTEGER <= value <= MAX_INTEGER


@dataclass(frozen=True, slots=True)
class Alias:
    """A node's name: 1 to 32 bytes of UTF-8 without control characters."""

    def parse(self, value: JsonValue, path: str) -> JsonValue:
        """The name."""
        text = Text(MAX_ALIAS_BYTES, 1).parse(value, path)
        if not isinstance(text, str) or len(text.encode()) > MAX_ALIAS_BYTES or text != text.strip():
            refuse(path, f"1 to {MAX_ALIAS_BYTES} bytes of UTF-8 without spaces around", value)
        return text

    def describe(self) -> dict[str, JsonValue]:
        """Type and bounds; the length is in bytes."""
        return {"type": "string", "minLength": 1, "maxLength": MAX_ALIAS_BYTES, "format": "utf8-bytes"}


_HEAVY_GROUPS: Final = frozenset({"budget", "aimd", "thompson", "algorithm", "sling_targets", "sling_params"})


def _adjust() -> DangerRule:
    light, heavy = Danger.of("3/3/3/3/3"), Danger.of("3/4/4/4/3")

    def pick(params: Params, _facts: DangerFacts) -> Danger:
        group = ADJUST_GROUP.get(str(params.get("parameter")))
        return heavy if group in _HEAVY_GROUPS else light

    return DangerRule((light, heavy), pick)


_GROUPS: Final = {
    "fee": "min_fee_ppm max_fee_ppm",
    "budget": "daily_budget_sats rebalance_max_amount rebalance_min_amount proportional_budget_pct",
    "aimd": (
        "aimd_additive_increase_ppm aimd_multiplicative_decrease aimd_failure_threshold"
        " aimd_success_threshold"
    ),
    "thompson": "thompson_observation_decay_hours thompson_prior_std_fee thompson_max_observations",
    "liquidity": "low_liquidity_threshold high_liquidity_threshold scarcity_threshold",
    "sling_targets": "sling_target_source sling_target_sink sling_target_balanced",
    "sling_params": "sling_chunk_size_sats sling_max_hops sling_parallel_jobs",
    "algorithm": "vegas_decay_rate ema_smoothing_alpha kelly_fraction hive_prior_weight",
    "": "rebalance_min_profit_ppm new_channel_grace_days rebalance_cooldown_hours",
}
ADJUST_GROUP: Final = {parameter: group for group, names in _GROUPS.items() for parameter in names.split()}
"""Parameter of config `adjust` -> its isolation group, "" for the ungrouped ones (02 §5.4)."""


def config() -> SchemaSpec:
    """What agents may read and set of the node's options."""
    table = SchemaTable(CONFIG, "config_tune")
    table.read("get_config", params=ParamSchema((Param("key", OPTION), *PAGE)))
    table.write("adjust", _adjust())
    table.write(
        "set_config",
        "5/3/5/5/5",
        tier=Tier.ADMIN,
        params=ParamSchema(
            (
                Param("key", OPTION, required=True),
                Param("value", Scalar(), required=True),
                Param("transient", Bool(), default=False),
            )
        ),
    )
    table.write(
        "set_alias",
        "1/1/1/1/1",
        tier=Tier.STANDARD,
        params=ParamSchema(
            (Param("alias", Alias()), Param("color", Hex(3))), at_least_one=("alias", "color")
        ),
    )
    table.write(
        "set_network_address",
        "3/3/5/5/3",
        params=ParamSchema((Param("address", _ADDRESS, required=True),)),
    )
    table.write("set_tor", "3/3/5/5/3", params=ParamSchema((Param("enabled", Bool(), required=True),)))
    table.write("set_max_channel_size", "3/3/2/3/2", why=_HOOK)
    table.write(
        "set_min_channel_size",
        "3/3/2/3/2",
        params=ParamSchema((Param("sats", Int(1, MAX_SAT), required=True),)),
    )
    table.write(
        "set_dust_limit",
        "3/4/4/4/3",
        tier=Tier.ADVANCED,
        params=ParamSchema((Param("max_dust_exposure_msat", Int(0, MAX_MSAT), required=True),)),
    )
    table.write("fee_schedule", "3/4/4/4/3")
    table.write("auto_rebalance_rules", "4/6/5/5/4")
    table.write("disable_forwarding", "4/4/6/6/3", params=NO_PARAMS)
    table.write("enable_forwarding", "2/2/3/3/2", params=NO_PARAMS)
    table.write("restart_node", "5/5/7/7/4", tier=Tier.ADMIN)
    return table.done()
