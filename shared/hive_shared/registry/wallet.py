"""The on-chain wallet: `hive:wallet/v1` (02 §4 item 10)."""

from __future__ import annotations

from typing import Final

from .danger import Tier, fixed, with_fee, withdrawal
from .params import MAX_SAT, PAGE, Hex, Int, ListOf, OneOf, Outpoint, Param, ParamSchema, Text
from .spec import SchemaSpec, SchemaTable

WALLET: Final = "hive:wallet/v1"
DUST_SAT: Final = 546
"""Least amount of an output: what every node relays, whatever the kind of address."""

_WHERE: Final = Param("destination", Text(100, 14, pattern="[A-Za-z0-9]+", what="an address"), required=True)
_RATE: Final = Int(253, 100_000)
_BUMP: Final = (
    Param("txid", Hex(32), required=True),
    Param("vout", Int(0, 65_535), required=True),
    Param("feerate_perkw", _RATE, required=True),
    Param("max_fee_sats", Int(1, MAX_SAT), required=True),
)


def wallet() -> SchemaSpec:
    """Moving coins and keeping them."""
    table = SchemaTable(WALLET, "wallet")
    coins = ListOf(Outpoint(), 1, 50)
    named = Param("utxos", ListOf(Outpoint(), 1, 100))
    rate = Param("feerate_perkw", _RATE)
    table.read("list_funds", params=ParamSchema(PAGE))
    kinds = Param("type", OneOf(("bech32", "p2tr")), default="p2tr")
    table.write(
        "generate_address", "1/1/1/1/1", "new_address", tier=Tier.MONITOR, params=ParamSchema((kinds,))
    )
    amount = Param("amount_sats", Int(DUST_SAT, MAX_SAT), required=True)
    depth = Param("min_confirmations", Int(1, 100), default=1)
    table.write(
        "send_onchain",
        # To the node's own wallet nothing is given away: that is a consolidation by another name.
        with_fee(withdrawal(own="4/4/2/2/2")),
        "withdraw",
        least_tier=Tier.ADVANCED,
        params=ParamSchema((_WHERE, amount, rate, depth, named)),
    )
    table.write("sweep", "8/9/5/4/8", params=ParamSchema((_WHERE,)))
    table.write(
        "consolidate_utxos",
        with_fee(fixed("4/4/2/2/2")),
        least_tier=Tier.ADVANCED,
        params=ParamSchema(
            (Param("utxos", ListOf(Outpoint(), 2, 100)), Param("max_count", Int(2, 100)), rate),
            exclusive=("utxos", "max_count"),
        ),
    )
    held = Param("utxos", coins, required=True)
    blocks = Param("blocks", Int(6, 4_320), default=144)
    table.write("freeze_utxos", "2/3/3/2/2", "utxo_management", params=ParamSchema((held, blocks)))
    table.write("unfreeze_utxos", "2/3/3/2/2", params=ParamSchema((held,)))
    table.write("bump_fee", with_fee(fixed("4/4/3/2/2")), least_tier=Tier.ADVANCED, params=ParamSchema(_BUMP))
    return table.done()
