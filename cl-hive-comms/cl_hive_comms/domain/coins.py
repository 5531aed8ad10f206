"""Coins of the node's wallet: which may be spent, and what a transaction of them costs. Pure rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
from hive_shared.errors import HiveError, from_symbol

# Upper bounds in weight units: version, counts and locktime; a P2WPKH input with its witness; a P2TR output.
_BASE_WEIGHT: Final = 44
INPUT_WEIGHT: Final = 272
OUTPUT_WEIGHT: Final = 172


class Coin(msgspec.Struct, frozen=True):
    """An unspent output as the node lists it. `depth` is its number of confirmations, 0 for none;
    `reserved_to` the block until which it is set aside, 0 for none."""

    outpoint: str
    amount_sat: int
    depth: int
    reserved_to: int


def coins_of(outputs: Iterable[Mapping[str, Any]], height: int) -> tuple[Coin, ...]:
    """The unspent ones among listed outputs, at this block height."""
    found = []
    for row in outputs:
        if row.get("status") in ("spent", "immature"):
            continue
        block = row.get("blockheight")
        depth = height - int(block) + 1 if row.get("status") == "confirmed" and block else 0
        reserved = int(row.get("reserved_to_block", 0)) if row.get("reserved") else 0
        name = f"{row['txid']}:{row['output']}"
        found.append(Coin(name, int(row["amount_msat"]) // 1_000, depth, reserved))
    return tuple(found)


def named(coins: Sequence[Coin], outpoints: Iterable[str], depth: int) -> tuple[Coin, ...]:
    """The coins that a command names. Raises InvalidParams for one that cannot be spent, and says why."""
    known = {coin.outpoint: coin for coin in coins}
    found = []
    for outpoint in outpoints:
        coin = known.get(outpoint)
        if coin is None:
            raise _refused(outpoint, "is no unspent output of this wallet; list_funds shows them")
        if coin.reserved_to:
            raise _refused(outpoint, f"is set aside until block {coin.reserved_to}")
        if coin.depth < depth:
            raise _refused(outpoint, f"has {coin.depth} confirmations, {depth} are asked for")
        found.append(coin)
    return tuple(found)


def _refused(outpoint: str, why: str) -> HiveError:
    return from_symbol(
        "invalid_params",
        f"utxo {outpoint} {why}",
        param="utxos",
        expected="unspent outputs of this wallet that nothing else uses",
    )


def spendable(coins: Iterable[Coin], depth: int) -> tuple[Coin, ...]:
    """Those that the node may choose from, smallest first."""
    free = (coin for coin in coins if coin.depth >= depth and not coin.reserved_to)
    return tuple(sorted(free, key=lambda coin: (coin.amount_sat, coin.outpoint)))


def most_inputs(free: Sequence[Coin], amount_sat: int) -> int:
    """How many inputs it may take to pay an amount: the node may choose the smallest first."""
    total = count = 0
    for coin in free:
        if total >= amount_sat:
            break
        total, count = total + coin.amount_sat, count + 1
    return count + 1


def weight_of(inputs: int, outputs: int) -> int:
    """An upper bound of a transaction's weight."""
    return _BASE_WEIGHT + inputs * INPUT_WEIGHT + outputs * OUTPUT_WEIGHT


def fee_of(inputs: int, outputs: int, feerate_perkw: int) -> int:
    """An upper bound of a transaction's fee in sat."""
    return -(-weight_of(inputs, outputs) * feerate_perkw // 1_000)


def child_feerate(feerate_perkw: int, parent_weight: int, parent_fee_sat: int) -> int:
    """The rate at which a child with one input and one output lifts itself and its parent to a rate."""
    child = weight_of(1, 1)
    needed = -(-(parent_weight + child) * feerate_perkw // 1_000) - parent_fee_sat
    return max(feerate_perkw, -(-needed * 1_000 // child))
