"""newaddr, listaddresses, listfunds."""

from __future__ import annotations

from typing import Any

from hive_devnet.embedded.commands.onchain import script_of_address
from hive_devnet.embedded.errors import INVALID_PARAMS, RpcError
from hive_devnet.embedded.ledger.channel import CLOSED
from hive_devnet.embedded.params import boolean, opt, token_text, u32, u64
from hive_devnet.embedded.registry import Call, Result, command


def _address_type(name: str, value: Any) -> str:
    if value not in ("bech32", "p2tr", "all"):
        text = f"'{name}' should be 'p2tr', 'bech32', or 'all', not '{token_text(value)}'"
        raise RpcError(INVALID_PARAMS, text)
    return str(value)


@command("newaddr", opt("addresstype", _address_type, "all"))
async def newaddr(call: Call) -> Result:
    """Fresh on-chain addresses of the wallet."""
    kind, wallet = call["addresstype"], call.node.wallet
    result = {}
    if kind in ("bech32", "all"):
        result["bech32"] = wallet.new_address()
    if kind in ("p2tr", "all"):
        result["p2tr"] = wallet.new_address(taproot=True)
    return result


@command("listaddresses", opt("address", script_of_address), opt("start", u64, 1), opt("limit", u32))
async def listaddresses(call: Call) -> Result:
    """Addresses of the wallet, all or the one asked about."""
    wanted, limit = call["address"], call["limit"]
    shown: list[dict[str, Any]] = []
    for row in call.node.wallet.addresses():
        if wanted is not None and row["script"] != wanted.hex():
            continue
        if row["key_index"] >= call["start"] and (limit is None or len(shown) < limit):
            kind = "p2tr" if row["script"].startswith("5120") else "bech32"
            shown.append({"keyidx": row["key_index"], kind: row["address"]})
    return {"addresses": shown}


@command("listfunds", opt("spent", boolean, False))
async def listfunds(call: Call) -> Result:
    """On-chain outputs and channel funds."""
    node = call.node
    return {
        "outputs": [_output(row, node.world.chain.height) for row in node.wallet.outputs(call["spent"])],
        "channels": _channel_funds(call),
    }


def _output(row: Any, height: int) -> dict[str, Any]:
    confirmed = row["height"] is not None
    status = "confirmed" if confirmed else "unconfirmed"
    reserved = row["reserved_to"] is not None and row["reserved_to"] > height
    output = {
        "txid": row["txid"],
        "output": row["vout"],
        "amount_msat": row["amount_sat"] * 1000,
        "scriptpubkey": row["script"],
        "address": row["address"],
        "status": "spent" if row["spent_by"] is not None else status,
        "reserved": reserved,
    }
    if confirmed:
        output["blockheight"] = row["height"]
    if reserved:
        output["reserved_to_block"] = row["reserved_to"]
    return output


def _channel_funds(call: Call) -> list[dict[str, Any]]:
    node = call.node
    shown = []
    for channel in node.world.channels.of_node(node.node_id):
        if channel.state == CLOSED:
            continue
        peer_id = channel.peer_of(node.node_id)
        entry: dict[str, Any] = {
            "peer_id": peer_id,
            "connected": node.peers.link(peer_id) is not None,
            "state": channel.state,
            "channel_id": channel.channel_id,
            "our_amount_msat": channel.balance_msat(node.node_id),
            "amount_msat": channel.capacity_sat * 1000,
            "funding_txid": channel.funding_txid,
            "funding_output": channel.funding_outnum,
        }
        if channel.scid is not None:
            entry["short_channel_id"] = channel.scid
        shown.append(entry)
    return shown
