"""splice_init, splice_update, splice_signed, abort_channels: a channel's size changed while it lives.

Messages between the two ends are handed over in memory, so the peer agrees at once. As in CLN, what is
negotiated lives as long as the connection; what both ends hold commitments for is on disk.
"""

from __future__ import annotations

import hashlib
from typing import Any

from hive_devnet.embedded import bech32
from hive_devnet.embedded.commands.psbts import psbt
from hive_devnet.embedded.errors import (
    SPLICE_ABORT,
    SPLICE_FUNDING_LOW,
    SPLICE_INVALID_CHANNEL_STATE,
    SPLICE_LOW_FEE,
    SPLICE_STATE_ERROR,
    SPLICE_UNKNOWN_CHANNEL,
    SPLICE_WRONG_OWNER,
    RpcError,
)
from hive_devnet.embedded.feerates import feerate
from hive_devnet.embedded.ledger import channel as ledger
from hive_devnet.embedded.ledger.channel import Channel, Splice
from hive_devnet.embedded.ledger.wallet import INPUT_WEIGHT
from hive_devnet.embedded.node import EmbeddedNode
from hive_devnet.embedded.params import array, bad_param, boolean, opt, req, s64
from hive_devnet.embedded.peers import Link
from hive_devnet.embedded.psbt import Psbt
from hive_devnet.embedded.registry import Call, Result, command
from hive_devnet.embedded.splicing import Negotiation
from hive_devnet.embedded.transactions import Transaction, TxInput, TxOutput, funding_script, sign_funding

_SPLICE_PERKW = 505
_FUNDING_INPUT_WEIGHT = 164 + 222
_FIELDS_WEIGHT = 42


def _channel_id(name: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) != 64 or set(value) - set("0123456789abcdef"):
        raise bad_param(name, "should be a channel id", value)
    return value


def _channel(node: EmbeddedNode, channel_id: str) -> tuple[Channel, Link]:
    """The channel and the connection it is used over. Raises RpcError 351, 352, 353."""
    for channel in node.world.channels.of_node(node.node_id):
        if channel.channel_id == channel_id:
            break
    else:
        raise RpcError(SPLICE_UNKNOWN_CHANNEL, f"Unknown channel {channel_id}")
    link = node.peers.link(channel.peer_of(node.node_id))
    if link is None:
        raise RpcError(SPLICE_WRONG_OWNER, "Channel is disconnected")
    if channel.state not in ledger.LIVE:
        text = f"Channel needs to be in normal or awaiting splice state but is in state {channel.state}"
        raise RpcError(SPLICE_INVALID_CHANNEL_STATE, text)
    return channel, link


def _negotiation(node: EmbeddedNode, channel: Channel, link: Link) -> Negotiation | None:
    """What is under way on this connection; what an earlier one left is forgotten."""
    found = node.splicing.get(channel.channel_id)
    if found is not None and found.link is not link:
        del node.splicing[channel.channel_id]
        return None
    return found


def _keys(node: EmbeddedNode, channel: Channel) -> list[Any]:
    ends = (channel.opener, channel.acceptor)
    return [node.world.keys_of(owner).funding_key(channel.funding_key) for owner in ends]


def _witness_script(node: EmbeddedNode, channel: Channel) -> bytes:
    return funding_script(*(key.public_key.format() for key in _keys(node, channel)))


@command(
    "splice_init",
    req("channel_id", _channel_id),
    req("relative_amount", s64),
    opt("initialpsbt", psbt),
    opt("feerate_per_kw", feerate, _SPLICE_PERKW),
    opt("force_feerate", boolean, False),
)
async def splice_init(call: Call) -> Result:
    """Begins a splice of a channel; the PSBT gets the old and the new funding output."""
    node, amount = call.node, call["relative_amount"]
    channel, link = _channel(node, call["channel_id"])
    if _negotiation(node, channel, link) is not None:
        text = "Can't start two splices on the same channel at once."
        raise RpcError(SPLICE_STATE_ERROR, text)
    if channel.splice is not None:
        # CLN would bid more for the one under way.
        raise RpcError(SPLICE_STATE_ERROR, "A second splice is beyond the embedded node")
    given: Psbt = call["initialpsbt"] or Psbt(Transaction((), ()), ())
    script = bech32.segwit_script(0, hashlib.sha256(_witness_script(node, channel)).digest())
    old = TxInput(channel.funding_txid, channel.funding_outnum, channel.capacity_sat, 0)
    new = TxOutput(max(0, channel.capacity_sat + amount), script)
    tx = Transaction((*given.tx.inputs, old), (*given.tx.outputs, new), (), given.tx.locktime)
    made = Psbt(tx, (*given.spent_scripts, script))
    node.splicing[channel.channel_id] = Negotiation(link, amount, call["feerate_per_kw"], made)
    return {"psbt": made.text()}


def _ordered(made: Psbt, funding: tuple[str, int], new: bytes) -> Psbt:
    """As both ends agree on it: the funding output first among inputs and outputs."""
    pairs = sorted(
        zip(made.tx.inputs, made.spent_scripts, strict=True),
        key=lambda pair: (pair[0].txid, pair[0].vout) != funding,
    )
    outputs = sorted(made.tx.outputs, key=lambda output: output.script != new)
    tx = Transaction(tuple(item for item, _ in pairs), tuple(outputs), (), made.tx.locktime)
    return Psbt(tx, tuple(script for _, script in pairs))


@command("splice_update", req("channel_id", _channel_id), req("psbt", psbt))
async def splice_update(call: Call) -> Result:
    """Tells the peer the transaction; called again with the same one, both exchange commitments for it."""
    node = call.node
    channel, link = _channel(node, call["channel_id"])
    found = _negotiation(node, channel, link)
    if found is None:
        text = "Can't accept a splice PSBT update because this channel hasn't begun a splice."
        raise RpcError(SPLICE_STATE_ERROR, text)
    if found.secured:
        raise RpcError(SPLICE_STATE_ERROR, "Can't update a splice when not in splice mode.")
    funding = (channel.funding_txid, channel.funding_outnum)
    new = bech32.segwit_script(0, hashlib.sha256(_witness_script(node, channel)).digest())
    agreed = _ordered(call["psbt"], funding, new)
    if not found.told or agreed.tx.txid != found.psbt.tx.txid:
        node.splicing[channel.channel_id] = Negotiation(
            link, found.amount_sat, found.feerate_perkw, agreed, told=True
        )
        return {"psbt": agreed.text(), "commitments_secured": False, "signatures_secured": False}
    try:
        _check(node, channel, found)
    except RpcError:
        del node.splicing[channel.channel_id]
        raise
    outnum = next(n for n, output in enumerate(agreed.tx.outputs) if output.script == new)
    node.world.splices.secure(
        Splice(channel.id, node.node_id, found.amount_sat, agreed.tx.txid, outnum, found.feerate_perkw, False)
    )
    node.splicing[channel.channel_id] = Negotiation(
        link, found.amount_sat, found.feerate_perkw, agreed, told=True, secured=True
    )
    return {"psbt": agreed.text(), "commitments_secured": True, "signatures_secured": True}


def _check(node: EmbeddedNode, channel: Channel, found: Negotiation) -> None:
    """Raises RpcError 357, 359, 362 for amounts that do not fit together."""
    balance = channel.balance_msat(node.node_id)
    if balance + found.amount_sat * 1000 < 0:
        raise RpcError(
            SPLICE_ABORT,
            f"Intiator is attempting to splice out {found.amount_sat}sat funds out of channel while only"
            f" having {balance // 1000}sat funds attributable to them.",
        )
    tx = found.psbt.tx
    # All inputs but the funding output are the initiator's, and all outputs.
    given = balance + sum(item.amount_sat for item in tx.inputs) * 1000 - channel.capacity_sat * 1000
    funding_sat = channel.capacity_sat + found.amount_sat
    paid_out = sum(output.amount_sat for output in tx.outputs) - funding_sat
    taken = balance + (found.amount_sat + paid_out) * 1000
    if given < taken:
        text = f"You provided {given}msat but committed to {taken}msat."
        raise RpcError(SPLICE_FUNDING_LOW, text)
    weight = _FIELDS_WEIGHT + _FUNDING_INPUT_WEIGHT + (len(tx.inputs) - 1) * INPUT_WEIGHT
    weight += sum(4 * (9 + len(output.script)) for output in tx.outputs)
    if (given - taken) // 1000 < weight * found.feerate_perkw // 1000:
        text = f"Feerate too low. Your funding only provided {given - taken}msat in fees"
        raise RpcError(SPLICE_LOW_FEE, text)


@command(
    "splice_signed",
    req("channel_id", _channel_id),
    req("psbt", psbt),
    opt("sign_first", boolean, False),
)
async def splice_signed(call: Call) -> Result:
    """Signs the funding input with the peer and publishes the transaction."""
    node, given = call.node, call["psbt"]
    channel, link = _channel(node, call["channel_id"])
    found = _negotiation(node, channel, link)
    if found is None:
        text = "Can't accept a signed splice PSBT because this channel hasn't begun a splice."
        raise RpcError(SPLICE_STATE_ERROR, text)
    if not found.secured:
        text = "Can't sign a splice until the splice is finalized using splice_update"
        raise RpcError(SPLICE_STATE_ERROR, text)
    funding = (channel.funding_txid, channel.funding_outnum)
    missing = any(
        not stack and (item.txid, item.vout) != funding
        for item, stack in zip(given.tx.inputs, given.witnesses, strict=True)
    )
    if given.tx.txid != found.psbt.tx.txid or missing:
        text = "The PSBT is missing a signature. Have you signed it with `signpsbt`?"
        raise RpcError(SPLICE_STATE_ERROR, text)
    signed = publish(node, channel, given)
    assert channel.splice is not None
    return {
        "tx": signed.tx.serialize().hex(),
        "txid": signed.tx.txid,
        "outnum": channel.splice.outnum,
        "psbt": signed.text(),
    }


def publish(node: EmbeddedNode, channel: Channel, given: Psbt) -> Psbt:
    """Sends a secured splice whose own inputs are signed; the signed PSBT."""
    tx = given.tx
    index = next(
        n
        for n, item in enumerate(tx.inputs)
        if (item.txid, item.vout) == (channel.funding_txid, channel.funding_outnum)
    )
    signed = sign_funding(tx, _witness_script(node, channel), _keys(node, channel), index)
    fee = sum(item.amount_sat for item in tx.inputs) - sum(output.amount_sat for output in tx.outputs)
    node.world.announce(node.world.splices.send(channel, signed, fee))
    node.splicing.pop(channel.channel_id, None)
    return Psbt(signed, given.spent_scripts)


@command("abort_channels", req("channel_ids", array))
async def abort_channels(call: Call) -> Result:
    """Gives up what is negotiated on channels, also what both ends hold commitments for."""
    node = call.node
    if not call["channel_ids"]:
        raise bad_param("channel_ids", "Must specify a channel", call["channel_ids"])
    chosen = [_channel(node, _channel_id("(null)", each))[0] for each in call["channel_ids"]]
    for channel in chosen:
        node.splicing.pop(channel.channel_id, None)
        node.world.splices.drop(channel)
    return {}
