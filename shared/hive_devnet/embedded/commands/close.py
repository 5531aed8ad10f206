"""close and listclosedchannels."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from hive_devnet.embedded import bech32
from hive_devnet.embedded.commands.channels import CHANNEL_TYPE
from hive_devnet.embedded.commands.onchain import script_of_address
from hive_devnet.embedded.commands.setchannel import find_channel
from hive_devnet.embedded.errors import INVALID_PARAMS, LIGHTNINGD, RpcError
from hive_devnet.embedded.feerates import feerate
from hive_devnet.embedded.ledger import channel as ledger
from hive_devnet.embedded.ledger.channel import Channel
from hive_devnet.embedded.node import EmbeddedNode
from hive_devnet.embedded.params import (
    anything,
    array,
    boolean,
    is_node_id,
    node_id,
    number,
    opt,
    req,
    string,
)
from hive_devnet.embedded.registry import Call, Result, command
from hive_devnet.embedded.transactions import (
    Transaction,
    TxInput,
    TxOutput,
    funding_script,
    sign_funding,
)

_CLOSE_WEIGHT = 672
_DEFAULT_TIMEOUT = 48 * 3600


def _range(name: str, value: Any) -> tuple[int, int]:
    items = array(name, value)
    if len(items) != 2:
        raise RpcError(INVALID_PARAMS, f"{name}: should be an array of 2 entries")
    low, high = feerate(name, items[0]), feerate(name, items[1])
    if low > high:
        raise RpcError(INVALID_PARAMS, f"{name}: should be ordered: first is larger than second")
    return low, high


@command(
    "close",
    req("id", anything),
    opt("unilateraltimeout", number, _DEFAULT_TIMEOUT),
    opt("destination", script_of_address),
    opt("fee_negotiation_step", string),
    opt("wrong_funding", string),
    opt("force_lease_closed", boolean, False),
    opt("feerange", _range),
)
async def close(call: Call) -> Result:
    """Closes a channel with its peer; alone when the peer does not come back within the timeout."""
    node = call.node
    channel = _channel_to_close(node, call["id"])
    if channel.state not in (ledger.NORMAL, ledger.AWAITING, ledger.SHUTTING_DOWN):
        raise RpcError(LIGHTNINGD, f"Channel is in state {channel.state}")
    if channel.state != ledger.SHUTTING_DOWN:
        _set_closer(node, channel)
        node.world.announce(
            node.world.channels.change_state(
                channel.id, ledger.SHUTTING_DOWN, "user", "User or plugin invoked close command"
            )
        )
    mutual = await _peer_agrees(call, channel)
    return _settle(call, node.world.channels.get(channel.id), mutual)


def _channel_to_close(node: EmbeddedNode, wanted: Any) -> Channel:
    if not is_node_id(wanted):
        return find_channel(node, "id", wanted)
    channels = [
        channel
        for channel in node.world.channels.of_node(node.node_id)
        if channel.peer_of(node.node_id) == wanted.lower() and channel.close_txid is None
    ]
    if not channels:
        raise RpcError(LIGHTNINGD, "Peer has no active channel")
    if len(channels) > 1:
        text = "Peer has multiple channels: use channel_id or short_channel_id"
        raise RpcError(LIGHTNINGD, text)
    return channels[0]


def _set_closer(node: EmbeddedNode, channel: Channel) -> None:
    with node.world.database.transaction():
        node.world.database.run("UPDATE channel SET closer = ? WHERE id = ?", (node.node_id, channel.id))


async def _peer_agrees(call: Call, channel: Channel) -> bool:
    """True once the peer is there and nothing is in flight; False when the timeout ends first."""
    node, world = call.node, call.node.world
    peer_id = channel.peer_of(node.node_id)
    timeout = call["unilateraltimeout"] or None
    try:
        async with asyncio.timeout(timeout):
            while world.channels.htlcs(channel):
                await world.courier.finished.wait()
            if node.peers.link(peer_id) is None:
                call.tell("info", "peer is offline, will negotiate once they reconnect")
            while node.peers.link(peer_id) is None:
                await world.links_changed.wait()
    except TimeoutError as error:
        if world.channels.htlcs(channel):
            text = "HTLCs are in flight and a unilateral close with HTLCs is beyond the embedded node"
            raise RpcError(LIGHTNINGD, text) from error
        return False
    return True


def _settle(call: Call, channel: Channel, mutual: bool) -> Result:
    node, world = call.node, call.node.world
    rate = call["feerange"][0] if call["feerange"] is not None else feerate("feerange", "mutual_close")
    with world.database.transaction():
        scripts = {
            owner: bech32.address_script(_fresh_address(node, owner))
            for owner in (channel.opener, channel.acceptor)
        }
        if call["destination"] is not None:
            scripts[node.node_id] = call["destination"]
        tx, fee = _closing_transaction(channel, scripts, rate)
        keys = [world.keys_of(owner).funding_key(channel.funding_key) for owner in scripts]
        script = funding_script(*(key.public_key.format() for key in keys))
        tx = sign_funding(tx, script, keys)
        world.channels.record_close(channel, node.node_id, tx.txid)
        world.chain.publish(tx, fee)
        path = (ledger.SIGEXCHANGE, ledger.COMPLETE) if mutual else (ledger.UNILATERAL,)
        words = "Closing complete" if mutual else "Forcibly closed by `close` command timeout"
        changes = [
            change
            for state in path
            for change in world.channels.change_state(channel.id, state, "user", words)
        ]
    world.announce(changes)
    return {
        "type": "mutual" if mutual else "unilateral",
        "txs": [tx.serialize().hex()],
        "txids": [tx.txid],
    }


def _fresh_address(node: EmbeddedNode, owner: str) -> str:
    return node.world.wallet_of(owner).new_address()


def _closing_transaction(channel: Channel, scripts: dict[str, bytes], rate: int) -> tuple[Transaction, int]:
    """The closing transaction, unsigned, and its fee; what is below a satoshi or dust goes to the fee."""
    fee = -(-_CLOSE_WEIGHT * rate // 1000)
    outputs = []
    for owner, script in scripts.items():
        amount = channel.balance_msat(owner) // 1000 - (fee if owner == channel.opener else 0)
        if amount >= ledger.DUST_LIMIT_SAT:
            outputs.append(TxOutput(amount, script))
    outputs.sort(key=lambda output: (output.amount_sat, output.script))
    spent = TxInput(channel.funding_txid, channel.funding_outnum, channel.capacity_sat, 0xFFFFFFFF)
    paid = channel.capacity_sat - sum(output.amount_sat for output in outputs)
    return Transaction((spent,), tuple(outputs)), paid


@command("listclosedchannels", opt("id", node_id))
async def listclosedchannels(call: Call) -> Result:
    """Channels that are closed and buried for good."""
    node = call.node
    shown = [
        _describe_closed(node, channel)
        for channel in node.world.channels.closed_of_node(node.node_id)
        if call["id"] in (None, channel.peer_of(node.node_id))
    ]
    return {"closedchannels": shown}


def _describe_closed(node: EmbeddedNode, channel: Channel) -> dict[str, Any]:
    us, peer_id = node.node_id, channel.peer_of(node.node_id)
    side, theirs = channel.side(us), channel.side(peer_id)
    entry: dict[str, Any] = {
        "peer_id": peer_id,
        "channel_id": channel.channel_id,
        "alias": {"local": side.alias, "remote": theirs.alias},
        "opener": "local" if channel.opener == us else "remote",
        "private": not channel.announce,
        "channel_type": CHANNEL_TYPE,
        "total_local_commitments": 1 + side.offered + theirs.offered,
        "total_remote_commitments": 1 + side.offered + theirs.offered,
        "total_htlcs_sent": side.offered,
        "funding_txid": channel.funding_txid,
        "funding_outnum": channel.funding_outnum,
        "funding_withheld": False,
        "leased": False,
        "total_msat": channel.capacity_sat * 1000,
        "final_to_us_msat": side.final_msat,
        "min_to_us_msat": side.min_to_us_msat,
        "max_to_us_msat": side.max_to_us_msat,
        "last_commitment_txid": channel.close_txid,
        "close_cause": "user" if channel.closer == us else "remote",
    }
    if channel.scid is not None:
        entry["short_channel_id"] = channel.scid
    if channel.closer is not None:
        entry["closer"] = "local" if channel.closer == us else "remote"
    if channel.pushed_msat:
        entry["funding_pushed_msat"] = channel.pushed_msat
    if side.last_stable is not None:
        entry["last_stable_connection"] = min(side.last_stable, int(time.time()))
    return entry
