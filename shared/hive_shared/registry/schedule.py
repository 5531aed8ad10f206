"""Rules that a node follows by itself: config `fee_schedule`, `auto_rebalance_rules`
(02 §4 item 12; docs/decisions/0426, 0427)."""

from __future__ import annotations

from typing import Final

from .params import MAX_SAT, Int, ListedChannel, ListOf, OneOf, Param, ParamSchema, Text

MAX_RULES: Final = 20
MAX_RULE_CHANNELS: Final = 20
DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
# As a held rate has them (set_anchor): a rule holds a channel at a rate.
MIN_HELD_PPM: Final = 25
MAX_HELD_PPM: Final = 5_000

_CLOCK: Final = Text(5, 5, pattern="([01][0-9]|2[0-3]):[0-5][0-9]", what="a time of the day HH:MM")
_SHARE: Final = Int(1, 999)

TIME: Final = ParamSchema(
    (
        Param("from", _CLOCK, required=True),
        Param("to", _CLOCK, required=True),
        Param("days", ListOf(OneOf(DAYS), 1, 7)),
        Param("timezone", Text(64, 1, what="an IANA time zone"), default="UTC"),
    )
)
"""Hours of the given days (all when absent), from `from` (included) to `to` (not), over midnight if need be;
the day is that of `from`."""
THRESHOLD: Final = ParamSchema(
    (Param("local_permille_below", _SHARE), Param("local_permille_above", _SHARE)),
    exactly_one=("local_permille_below", "local_permille_above"),
)
"""How much of a channel is ours, in thousandths of its capacity."""
_FEE_RULE: Final = ParamSchema(
    (
        Param("channels", ListOf(ListedChannel(), 1, MAX_RULE_CHANNELS), required=True),
        Param("fee_ppm", Int(MIN_HELD_PPM, MAX_HELD_PPM), required=True),
        Param("time", TIME),
        Param("threshold", THRESHOLD),
    ),
    exactly_one=("time", "threshold"),
)
FEE_SCHEDULE_PARAMS: Final = ParamSchema((Param("rules", ListOf(_FEE_RULE, 0, MAX_RULES), required=True),))
_REBALANCE_RULE: Final = ParamSchema(
    (
        Param("from_channel", ListedChannel(), required=True),
        Param("to_channel", ListedChannel(), required=True),
        Param("amount_sats", Int(1_000, MAX_SAT), required=True),
        Param("max_fee_ppm", Int(0, 1_000), required=True),
        Param("to_permille_below", _SHARE, required=True),
        Param("from_permille_above", _SHARE, default=500),
        Param("time", TIME),
    )
)
AUTO_REBALANCE_PARAMS: Final = ParamSchema(
    (
        Param("rules", ListOf(_REBALANCE_RULE, 0, MAX_RULES), required=True),
        Param("daily_budget_sats", Int(1, MAX_SAT)),
    )
)
