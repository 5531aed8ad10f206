"""Moving liquidity about: `hive:rebalance/v1` (02 §4 item 5)."""

from __future__ import annotations

from typing import Final

from .danger import by_amount, plus_withdrawal
from .params import MAX_SAT, Bool, Channel, Int, NodeKey, OneOf, Param, ParamSchema, Text
from .spec import SchemaSpec, SchemaTable

REBALANCE: Final = "hive:rebalance/v1"

_MOST_PPM: Final = Param("max_fee_ppm", Int(0, 1_000), required=True)
_CIRCULAR: Final = (
    Param("from_channel", Channel(), required=True),
    Param("to_channel", Channel(), required=True),
    Param("amount_sats", Int(1_000, MAX_SAT), required=True),
    _MOST_PPM,
    Param("prefer_hive_route", Bool()),
    Param("retry_for", Int(10, 600), default=60),
)
_SWAP: Final = (
    Param("amount_sats", Int(1_000, MAX_SAT), required=True),
    Param("max_fee_sats", Int(0, MAX_SAT), required=True),
)
_ADDRESS: Final = Param("address", Text(100, 14, pattern="[A-Za-z0-9]+", what="an on-chain address"))
_BY_PEER: Final = (
    Param("peer_id", NodeKey(), required=True),
    # What the fleet's task takes (05 §6, TASK_REQUEST).
    Param("amount_sats", Int(100_000, 10_000_000_000), required=True),
    Param("direction", OneOf(("in", "out")), required=True),
    _MOST_PPM,
)


def rebalance() -> SchemaSpec:
    """Between own channels, with a peer's help, and between Lightning and the chain."""
    table = SchemaTable(REBALANCE, "rebalance")
    circular = by_amount((100_000, "3/3/3/3/2"), (None, "4/5/3/3/3"))
    table.write("circular_rebalance", circular, s5="max_rebalance_sats", params=ParamSchema(_CIRCULAR))
    table.write("peer_rebalance", "3/4/3/3/2", params=ParamSchema(_BY_PEER))
    # `submarine_swap` with a direction is the older name of both; the direction decides, so it is no alias.
    foreign = plus_withdrawal("5/5/4/3/4", "address")
    out = ParamSchema((*_SWAP, _ADDRESS))
    table.write("swap_out", foreign, s5="max_swap_sats", params=out)
    table.write("swap_in", "4/5/3/2/3", s5="max_swap_sats", params=ParamSchema(_SWAP))
    table.write("liquidity_market", "4/5/4/3/4")
    return table.done()
