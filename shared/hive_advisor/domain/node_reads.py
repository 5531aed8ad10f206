"""Reads of the node itself that a program needs to make sense of the rest: what it is, its channels, its
wallet (docs/protocol/11-advisor-kit.md §11.3, set core). Each is one reading call of CLN, cut down.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from hive_shared.runtime_spec import MethodSpec, Param

Result = Mapping[str, Any]
MAX_CHANNELS: Final = 75
"""Channels of one answer; more would pass the bound of an answer."""


class NodeRead(msgspec.Struct, frozen=True):
    """One read: the tool's name and parameters, CLN's parameters made from them, and the answer made of
    CLN's."""

    tool: str
    spec: MethodSpec
    ask: Callable[[Result], dict[str, Any]]
    shape: Callable[[Result, Result], dict[str, Any]]


def _info(said: Result, given: Result) -> dict[str, Any]:
    kept = ("id", "alias", "version", "network", "blockheight", "fees_collected_msat")
    counts = ("num_peers", "num_active_channels", "num_inactive_channels", "num_pending_channels")
    return {
        **{name: said[name] for name in (*kept, *counts) if name in said},
        "warnings": [text for name, text in said.items() if name.startswith("warning_")],
    }


_CHANNEL: Final = {
    "short_channel_id": "short_channel_id",
    "channel_id": "channel_id",
    "peer_id": "peer_id",
    "state": "state",
    "peer_connected": "peer_connected",
    "private": "private",
    "opener": "opener",
    "total_msat": "capacity_msat",
    "to_us_msat": "to_us_msat",
    "spendable_msat": "spendable_msat",
    "receivable_msat": "receivable_msat",
    "fee_base_msat": "fee_base_msat",
    "fee_proportional_millionths": "fee_ppm",
    "minimum_htlc_out_msat": "htlc_min_msat",
    "maximum_htlc_out_msat": "htlc_max_msat",
    "in_fulfilled_msat": "in_fulfilled_msat",
    "out_fulfilled_msat": "out_fulfilled_msat",
}


def channel_row(row: Result) -> dict[str, Any]:
    """A channel of ``listpeerchannels`` as programs see it."""
    shown = {ours: row[theirs] for theirs, ours in _CHANNEL.items() if theirs in row}
    remote = row.get("updates", {}).get("remote")
    if remote:
        shown["their_fee_base_msat"] = remote["fee_base_msat"]
        shown["their_fee_ppm"] = remote["fee_proportional_millionths"]
    return {**shown, "htlcs": len(row.get("htlcs", ()))}


def _channels(said: Result, given: Result) -> dict[str, Any]:
    rows, start = said["channels"], int(given.get("offset", 0))
    items = [channel_row(row) for row in rows[start : start + int(given.get("limit", 50))]]
    after = start + len(items)
    page = {"count": len(items), "total": len(rows), "items": items}
    return {**page, "next_offset": after} if after < len(rows) else page


def _onchain(said: Result, given: Result) -> dict[str, Any]:
    sums = dict.fromkeys(("confirmed_sats", "unconfirmed_sats", "immature_sats", "reserved_sats"), 0)
    for output in said["outputs"]:
        name = "reserved_sats" if output.get("reserved") else f"{output['status']}_sats"
        if name in sums:
            sums[name] += int(output["amount_msat"]) // 1_000
    own = sum(int(row["our_amount_msat"]) for row in said["channels"])
    return {**sums, "outputs": len(said["outputs"]), "in_channels_msat": own}


def _feerates(said: Result, given: Result) -> dict[str, Any]:
    names = ("opening", "mutual_close", "unilateral_close", "min_acceptable", "floor")
    rates = said["perkb"]
    return {
        "sat_per_kvb": {name: rates[name] for name in names if name in rates},
        "estimates": [
            {"blocks": row["blockcount"], "sat_per_kvb": row["feerate"]} for row in rates.get("estimates", ())
        ],
    }


async def _elsewhere(params: dict[str, Any]) -> dict[str, Any]:
    """Stands for CLN's own handler; never reached."""
    raise AssertionError("a declaration of the kit is not called")


def _read(
    tool: str,
    method: str,
    description: str,
    shape: Callable[[Result, Result], dict[str, Any]],
    ask: Callable[[Result], dict[str, Any]] = lambda given: {},
    params: tuple[Param, ...] = (),
) -> NodeRead:
    return NodeRead(tool, MethodSpec(method, "R", params, _elsewhere, description), ask, shape)


NODE_READS: Final[Mapping[str, NodeRead]] = {
    read.spec.name: read
    for read in (
        _read("node_info", "getinfo", "What the node is: version, height, counts, warnings.", _info),
        _read(
            "channels",
            "listpeerchannels",
            "Channels with state, balance, fees of both sides and what went through.",
            _channels,
            lambda given: {"id": given["peer_id"]} if "peer_id" in given else {},
            (
                Param("peer_id", "str", maximum=66),
                Param("limit", "int", default=50, minimum=1, maximum=MAX_CHANNELS),
                Param("offset", "int", default=0, minimum=0, maximum=1_000_000),
            ),
        ),
        _read("onchain", "listfunds", "Sums of the on-chain wallet, and what is in channels.", _onchain),
        _read(
            "feerates",
            "feerates",
            "On-chain fee rates as the node estimates them.",
            _feerates,
            lambda given: {"style": "perkb"},
        ),
    )
}
"""By CLN's method."""
