"""multifundchannel: several channels in one transaction."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from hive_devnet.embedded import bech32
from hive_devnet.embedded.commands.channels import CHANNEL_TYPE, agreed_peer, default_policy
from hive_devnet.embedded.errors import INVALID_PARAMS, RpcError
from hive_devnet.embedded.feerates import feerate
from hive_devnet.embedded.ledger.wallet import FEERATE_PERKW
from hive_devnet.embedded.node import EmbeddedNode
from hive_devnet.embedded.params import array, is_node_id, msat, opt, req, sat, token_text, u32
from hive_devnet.embedded.registry import Call, Result, command
from hive_devnet.embedded.transactions import funding_script


@dataclass(frozen=True)
class _Destination:
    peer_id: str
    amount_sat: int
    announce: bool
    push_msat: int


def _destinations(name: str, value: Any) -> list[_Destination]:
    items = array(name, value)
    if not items:
        raise RpcError(INVALID_PARAMS, f"{name}: must have at least one entry")
    found: list[_Destination] = []
    for item in items:
        if not isinstance(item, dict) or not is_node_id(item.get("id")):
            raise RpcError(INVALID_PARAMS, f"{name}: invalid node id: invalid token '{token_text(item)}'")
        found.append(
            _Destination(
                str(item["id"]).lower(),
                sat("amount", item.get("amount")),
                item.get("announce") is not False,
                msat("push_msat", item.get("push_msat", 0)),
            )
        )
    if len({each.peer_id for each in found}) < len(found):
        raise RpcError(INVALID_PARAMS, f"{name}: Duplicate destination")
    return found


@command(
    "multifundchannel",
    req("destinations", _destinations),
    opt("feerate", feerate),
    opt("minconf", u32, 1),
    opt("utxos", array),
    opt("minchannels", u32),
    opt("commitment_feerate", feerate),
)
async def multifundchannel(call: Call) -> Result:
    """Opens a channel with every destination; with `minchannels` those that fail are left out."""
    wanted: list[_Destination] = call["destinations"]
    least = call["minchannels"] or len(wanted)
    taken: list[tuple[_Destination, EmbeddedNode, dict[str, Any]]] = []
    failed: list[dict[str, Any]] = []
    for each in wanted:
        try:
            acceptor, limits = await agreed_peer(call.node, each.peer_id, each.amount_sat, each.push_msat)
        except RpcError as error:
            data = error.data if isinstance(error.data, dict) else {"method": "fundchannel_start"}
            told = {"code": error.code, "message": error.message}
            failed.append({"id": each.peer_id, "method": data["method"], "error": told})
            if len(wanted) - len(failed) < least:
                raise RpcError(error.code, error.message, {**data, "id": each.peer_id}) from error
        else:
            taken.append((each, acceptor, limits))
    return _fund(call, taken, failed)


def _fund(
    call: Call,
    taken: list[tuple[_Destination, EmbeddedNode, dict[str, Any]]],
    failed: list[dict[str, Any]],
) -> Result:
    node, world = call.node, call.node.world
    only = None
    if call["utxos"] is not None:
        only = [(str(item).partition(":")[0], int(str(item).partition(":")[2])) for item in call["utxos"]]
    with world.database.transaction():
        numbers = [world.database.add("funding keys") for _ in taken]
        outputs: list[tuple[bytes, int | None]] = []
        for (each, acceptor, _), number in zip(taken, numbers, strict=True):
            keys = (node.keys.funding_key(number), acceptor.keys.funding_key(number))
            script = funding_script(*(key.public_key.format() for key in keys))
            outputs.append((bech32.segwit_script(0, hashlib.sha256(script).digest()), each.amount_sat))
        coins = node.wallet.coins(call["minconf"], only)
        payment = node.wallet.prepare(outputs, coins, call["feerate"] or FEERATE_PERKW, whole=False)
        world.chain.publish(payment.tx, payment.fee_sat, hidden_outputs=tuple(range(len(outputs))))
        channels = [
            world.channels.create(
                opener=node.node_id,
                acceptor=acceptor.node_id,
                capacity_sat=each.amount_sat,
                pushed_msat=each.push_msat,
                funding=(payment.tx.txid, index),
                announce=each.announce,
                policies=(default_policy(node), default_policy(acceptor)),
                feerate_perkw=FEERATE_PERKW,
                mindepth=int(limits.get("mindepth") or 1),
                funding_key=number,
            )
            for index, ((each, acceptor, limits), number) in enumerate(zip(taken, numbers, strict=True))
        ]
    return {
        "tx": payment.tx.serialize().hex(),
        "txid": payment.tx.txid,
        "channel_ids": [
            {
                "id": channel.peer_of(node.node_id),
                "channel_id": channel.channel_id,
                "channel_type": CHANNEL_TYPE,
                "outnum": channel.funding_outnum,
            }
            for channel in channels
        ],
        "failed": failed,
    }
