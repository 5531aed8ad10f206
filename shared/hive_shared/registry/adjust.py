"""Parameters of fee and rebalance engines that config `adjust` sets (02 §4 item 12, §5.4)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from ..canonical import JsonValue
from .danger import Danger, DangerFacts, DangerRule, Params
from .params import MAX_SAT, Int, OneOf, Opaque, Param, ParamSchema, ParamType, Ratio

_PPM: Final = 50_000
_LOWEST_AMOUNT: Final = 1_000
_SHARE: Final = Ratio(0.1, 0.5)
_SOURCE: Final = Ratio(0.5, 0.8)
_SINK: Final = Ratio(0.2, 0.5)
_BALANCED: Final = Ratio(0.4, 0.6)
_DECAY: Final = Ratio(0.7, 0.95)
_ALPHA: Final = Ratio(0.1, 0.5)
_KELLY: Final = Ratio(0.3, 0.8)

# Where the sheet names no range, the widest that makes sense: what runs the parameter may allow less.
_GROUPS: Final[Mapping[str, Mapping[str, ParamType]]] = {
    "fee": {"min_fee_ppm": Int(0, _PPM), "max_fee_ppm": Int(1, _PPM)},
    "budget": {
        "daily_budget_sats": Int(0, MAX_SAT),
        "rebalance_max_amount": Int(_LOWEST_AMOUNT, MAX_SAT),
        "rebalance_min_amount": Int(_LOWEST_AMOUNT, MAX_SAT),
        "proportional_budget_pct": _SHARE,
    },
    "aimd": {
        "aimd_additive_increase_ppm": Int(1, _PPM),
        "aimd_multiplicative_decrease": Ratio(),
        "aimd_failure_threshold": Int(1, 1_000),
        "aimd_success_threshold": Int(1, 1_000),
    },
    "thompson": {
        "thompson_observation_decay_hours": Int(1, 8_760),
        "thompson_prior_std_fee": Int(1, _PPM),
        "thompson_max_observations": Int(1, 100_000),
    },
    "liquidity": {
        "low_liquidity_threshold": Ratio(),
        "high_liquidity_threshold": Ratio(),
        "scarcity_threshold": Ratio(),
    },
    "sling_targets": {
        "sling_target_source": _SOURCE,
        "sling_target_sink": _SINK,
        "sling_target_balanced": _BALANCED,
    },
    "sling_params": {
        "sling_chunk_size_sats": Int(_LOWEST_AMOUNT, MAX_SAT),
        "sling_max_hops": Int(2, 20),
        "sling_parallel_jobs": Int(1, 100),
    },
    "algorithm": {
        "vegas_decay_rate": _DECAY,
        "ema_smoothing_alpha": _ALPHA,
        "kelly_fraction": _KELLY,
        "hive_prior_weight": Ratio(),
    },
    "": {
        "rebalance_min_profit_ppm": Int(0, _PPM),
        "new_channel_grace_days": Int(0, 365),
        "rebalance_cooldown_hours": Int(0, 8_760),
    },
}
ADJUST_GROUP: Final[Mapping[str, str]] = MappingProxyType(
    {parameter: group for group, kinds in _GROUPS.items() for parameter in kinds}
)
"""Parameter of config `adjust` -> its isolation group, "" for the ungrouped ones (02 §5.4)."""
_KINDS: Final = {parameter: kind for kinds in _GROUPS.values() for parameter, kind in kinds.items()}
ADJUST_LOWER_OF: Final[Mapping[str, str]] = MappingProxyType(
    {
        "min_fee_ppm": "max_fee_ppm",
        "rebalance_min_amount": "rebalance_max_amount",
        "low_liquidity_threshold": "high_liquidity_threshold",
    }
)
"""Parameter -> the one it must not be above."""

TRIGGERS: Final = (
    *("drain_detected", "stagnation", "profitability_low", "profitability_high", "budget_exhausted"),
    *("market_conditions", "competitive_pressure", "rebalance_inefficiency", "algorithm_tuning"),
    *("liquidity_imbalance", "rebalance_churn", "target_optimization"),
)
_CONTEXT_BYTES: Final = 4_096
_HEAVY_GROUPS: Final = frozenset({"budget", "aimd", "thompson", "algorithm", "sling_targets", "sling_params"})


class _Value:
    """The value of a parameter before it is known which one: its range is checked with the whole."""

    def parse(self, value: JsonValue, path: str) -> JsonValue:
        """The value, unchanged."""
        return value

    def describe(self) -> dict[str, JsonValue]:
        """Type; the ranges are those of `values`."""
        return {"type": "number"}


class AdjustParams(ParamSchema, frozen=True):
    """Parameters of `adjust`: the range of `value` is that of `parameter`."""

    def parse(self, value: JsonValue, path: str = "params") -> dict[str, JsonValue]:
        """The parameters read. Raises `invalid_params`."""
        read = super().parse(value, path)
        where = "value" if path == "params" else f"{path}.value"
        read["value"] = _KINDS[str(read["parameter"])].parse(read["value"], where)
        return read

    def describe(self) -> dict[str, JsonValue]:
        """As of every action, and `values`: the range of each parameter."""
        return {**super().describe(), "values": {name: kind.describe() for name, kind in _KINDS.items()}}


ADJUST_PARAMS: Final = AdjustParams(
    (
        Param("parameter", OneOf(tuple(_KINDS)), required=True),
        Param("value", _Value(), required=True),
        Param("trigger_reason", OneOf(TRIGGERS), required=True),
        Param("confidence", Ratio()),
        Param("context_metrics", Opaque(_CONTEXT_BYTES)),
    )
)


def adjust_danger() -> DangerRule:
    """How dangerous it is to set a parameter: what spends or steers by itself is the heavier."""
    light, heavy = Danger.of("3/3/3/3/2"), Danger.of("3/4/4/4/3")

    def pick(params: Params, _facts: DangerFacts) -> Danger:
        group = ADJUST_GROUP.get(str(params.get("parameter")))
        return heavy if group in _HEAVY_GROUPS else light

    return DangerRule((light, heavy), pick)
