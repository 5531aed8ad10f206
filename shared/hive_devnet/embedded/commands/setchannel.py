"""setchannel: fees and HTLC limits of our side of channels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hive_devnet.embedded.errors import LIGHTNINGD, RpcError
from hive_devnet.embedded.ledger.channel import SETTABLE, Channel
from hive_devnet.embedded.node import EmbeddedNode
from hive_devnet.embedded.params import (
    anything,
    bad_param,
    boolean,
    is_node_id,
    is_scid,
    msat,
    msat_u32,
    number,
    opt,
    req,
)
from hive_devnet.embedded.registry import Call, Result, command


@command(
    "setchannel",
    req("id", anything),
    opt("feebase", msat_u32),
    opt("feeppm", number),
    opt("htlcmin", msat),
    opt("htlcmax", msat),
    opt("enforcedelay", number, 600),
    opt("ignorefeelimits", boolean),
    checks=True,
)
async def setchannel(call: Call) -> Result:
    """Changes what is given and leaves the rest; limits are bent to what the channel allows."""
    chosen = _chosen(call.node, call["id"])
    low, high = call["htlcmin"], call["htlcmax"]
    if low is not None and high is not None and high < low:
        raise RpcError(LIGHTNINGD, "htlcmax cannot be less than htlcmin")
    if call.check_only:
        return {}
    with call.node.world.database.transaction():
        return {"channels": [_apply(call, channel) for channel in chosen]}


def _chosen(node: EmbeddedNode, wanted: Any) -> list[Channel]:
    channels = node.world.channels.of_node(node.node_id)
    settable = [channel for channel in channels if channel.state in SETTABLE]
    if wanted == "all":
        return settable
    if is_node_id(wanted):
        peer_id = wanted.lower()
        if peer_id in {c.peer_of(node.node_id) for c in channels} | set(node.peers.connected_ids()):
            of_peer = [channel for channel in settable if channel.peer_of(node.node_id) == peer_id]
            if not of_peer:
                raise RpcError(LIGHTNINGD, "Could not find any active channels of peer with that id")
            return of_peer
    found = find_channel(node, "id", wanted)
    if found.state not in SETTABLE:
        raise bad_param("id", f"Channel in state {found.state}", wanted)
    return [found]


def find_channel(node: EmbeddedNode, name: str, wanted: Any) -> Channel:
    """The live channel a channel_id or scid (or local alias) names. Raises RpcError."""
    for channel in node.world.channels.of_node(node.node_id):
        names = (channel.channel_id, channel.scid, channel.side(node.node_id).alias)
        if wanted in names:
            return channel
    if isinstance(wanted, str) and len(wanted) == 64 and not is_scid(wanted):
        raise bad_param(name, "Channel ID not found", wanted)
    if is_scid(wanted):
        raise bad_param(name, "Short channel id not found", wanted)
    raise bad_param(name, "should be a channel ID or short channel ID", wanted)


def _apply(call: Call, channel: Channel) -> dict[str, Any]:
    node = call.node
    peer_id = channel.peer_of(node.node_id)
    before = channel.side(node.node_id).policy
    given = {
        "fee_base_msat": call["feebase"],
        "fee_ppm": call["feeppm"],
        "htlc_min_msat": call["htlcmin"],
        "htlc_max_msat": call["htlcmax"],
    }
    after = replace(before, **{key: value for key, value in given.items() if value is not None})
    warnings = {}
    highest = channel.htlc_max_possible_msat(node.node_id)
    if after.htlc_max_msat > highest and call["htlcmax"] is not None:
        after = replace(after, htlc_max_msat=highest)
        warnings["warning_htlcmax_too_high"] = "Set maximum_htlc_out_msat to maximum possible in channel"
    dearer = (
        after.fee_base_msat > before.fee_base_msat
        or after.fee_ppm > before.fee_ppm
        or after.htlc_min_msat > before.htlc_min_msat
        or after.htlc_max_msat < before.htlc_max_msat
    )
    ledger = node.world.channels
    ledger.set_policy(channel, node.node_id, after, float(call["enforcedelay"]) if dearer else None)
    ignore = before.ignore_fee_limits
    if call["ignorefeelimits"] is not None:
        ignore = call["ignorefeelimits"]
        ledger.set_ignore_fee_limits(channel, node.node_id, ignore)
    entry: dict[str, Any] = {"peer_id": peer_id, "channel_id": channel.channel_id}
    if channel.scid is not None:
        entry["short_channel_id"] = channel.scid
    return entry | {
        "fee_base_msat": after.fee_base_msat,
        "fee_proportional_millionths": after.fee_ppm,
        "minimum_htlc_out_msat": after.htlc_min_msat,
        "maximum_htlc_out_msat": after.htlc_max_msat,
        "ignore_fee_limits": ignore,
        **warnings,
    }
