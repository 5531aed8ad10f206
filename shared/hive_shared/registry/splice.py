"""Splices: `hive:splice/v1` (02 §4 item 7)."""

from __future__ import annotations

from typing import Final

from .channel import MAX_PERKW, MIN_PERKW
from .danger import fixed, plus_withdrawal, with_fee
from .params import MAX_SAT, Channel, Int, Param, ParamSchema, Text
from .spec import NO_CALL, SchemaSpec, SchemaTable
from .wallet import DUST_SAT

SPLICE: Final = "hive:splice/v1"
TO_WALLET: Final = "wallet"
"""The destination that is a new address of the node's own wallet."""

_COMMON: Final = (
    Param("channel_id", Channel(), required=True),
    Param("amount_sats", Int(DUST_SAT, MAX_SAT), required=True),
    Param("feerate_perkw", Int(MIN_PERKW, MAX_PERKW)),
)
_WHERE: Final = Param(
    "destination",
    Text(100, 6, pattern=f"{TO_WALLET}|[A-Za-z0-9]{{14,100}}", what="wallet or an on-chain address"),
    default=TO_WALLET,
)


def splice() -> SchemaSpec:
    """What changes the size of a channel while it lives."""
    table = SchemaTable(SPLICE, "splice")
    table.write("splice_in", with_fee(fixed("5/5/4/3/4")), params=ParamSchema(_COMMON))
    table.write(
        "splice_out",
        with_fee(plus_withdrawal("6/6/4/3/5", "destination")),
        params=ParamSchema((*_COMMON, _WHERE)),
    )
    table.write("splice_open", "7/7/5/5/6", why=NO_CALL)
    return table.done()
