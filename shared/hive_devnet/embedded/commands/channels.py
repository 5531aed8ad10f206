"""fundchannel and listpeerchannels."""

from __future__ import annotations

import hashlib
import sqlite3
from typing import Any

from hive_devnet.embedded import bech32
from hive_devnet.embedded.errors import (
    FUND_MAX_EXCEEDED,
    FUND_OUTPUT_IS_DUST,
    INVALID_PARAMS,
    LIGHTNINGD,
    RpcError,
)
from hive_devnet.embedded.feerates import feerate
from hive_devnet.embedded.ledger import channel as ledger
from hive_devnet.embedded.ledger.channel import Channel, Policy, Side, Splice
from hive_devnet.embedded.ledger.wallet import DUST_SAT, FEERATE_PERKW
from hive_devnet.embedded.logbook import iso_time
from hive_devnet.embedded.node import EmbeddedNode
from hive_devnet.embedded.params import (
    array,
    boolean,
    msat,
    node_id,
    opt,
    req,
    sat,
    sat_or_all,
    scid,
    sha256,
    string,
    u32,
)
from hive_devnet.embedded.registry import Call, Result, command
from hive_devnet.embedded.transactions import funding_script

CHANNEL_TYPE = {"bits": list(ledger.CHANNEL_TYPE_BITS), "names": list(ledger.CHANNEL_TYPE_NAMES)}
_LARGEST_SAT = 21_000_000 * 100_000_000


@command(
    "fundchannel",
    req("id", node_id),
    req("amount", sat_or_all),
    opt("feerate", feerate),
    opt("announce", boolean, True),
    opt("minconf", u32, 1),
    opt("utxos", array),
    opt("push_msat", msat, 0),
    opt("close_to", string),
    opt("request_amt", sat),
    opt("compact_lease", string),
    opt("mindepth", u32),
    opt("reserve", sat),
    opt("channel_type", array),
)
async def fundchannel(call: Call) -> Result:
    """Opens a channel with a connected peer, paid from the wallet."""
    amount, push = call["amount"], call["push_msat"]
    acceptor, limits = await agreed_peer(call.node, call["id"], amount, push)
    return _open(call, acceptor, limits.get("mindepth"))


async def agreed_peer(
    node: EmbeddedNode, peer_id: str, amount: int | None, push_msat: int
) -> tuple[EmbeddedNode, dict[str, Any]]:
    """A connected peer that takes a channel of that size (None: everything), and what its hook asks for.

    Raises RpcError as the node does before anything is funded.
    """
    link = node.peers.link(peer_id)
    if link is None:
        try:
            link = await node.peers.connect(peer_id, None, None)
        except RpcError as error:
            data = {"id": peer_id, "method": "connect"}
            raise RpcError(error.code, error.message, data) from error
    if amount is not None and amount < DUST_SAT:
        raise RpcError(FUND_OUTPUT_IS_DUST, f"Output {amount}sat would be dust")
    if amount is not None and amount < 2 * DUST_SAT:
        text = (
            "Not opening because if they used the same setting as us channel_reserve_satoshis"
            f" {DUST_SAT}sat and {DUST_SAT}sat too large for funding {amount}sat"
        )
        raise RpcError(LIGHTNINGD, text, {"id": peer_id, "method": "fundchannel_start"})
    if amount is not None and amount > _LARGEST_SAT:
        raise RpcError(FUND_MAX_EXCEEDED, f"Amount exceeds {_LARGEST_SAT}sat")
    if amount is not None and push_msat > amount * 1000:
        raise RpcError(INVALID_PARAMS, "Requested to push more than the channel's amount")
    minimum = int(link.peer.options.get("min-capacity-sat"))
    if amount is not None and amount < minimum:
        text = f"They sent ERROR channel capacity is {amount}sat, which is below {minimum * 1000}msat"
        raise RpcError(LIGHTNINGD, text)
    return link.peer, await _openchannel_hook(node, link.peer, amount or 0, push_msat)


async def _openchannel_hook(
    opener: EmbeddedNode, acceptor: EmbeddedNode, amount: int, push: int
) -> dict[str, Any]:
    payload = {
        "id": opener.node_id,
        "funding_msat": amount * 1000,
        "push_msat": push,
        "dust_limit_msat": ledger.DUST_LIMIT_SAT * 1000,
        "max_htlc_value_in_flight_msat": (1 << 64) - 1,
        "channel_reserve_msat": amount * 10,
        "htlc_minimum_msat": 0,
        "feerate_per_kw": FEERATE_PERKW,
        "to_self_delay": ledger.TO_SELF_DELAY,
        "max_accepted_htlcs": ledger.MAX_ACCEPTED_HTLCS,
        "channel_flags": 1,
        "channel_type": CHANNEL_TYPE,
    }
    answers = await acceptor.plugins.hooks.call("openchannel", {"openchannel": payload})
    for _, answer in answers:
        if answer.get("result") == "reject":
            reason = answer.get("error_message", "Channel rejected by plugin")
            raise RpcError(LIGHTNINGD, f"They sent ERROR {reason}")
    return answers[-1][1] if answers else {}


def default_policy(node: EmbeddedNode) -> Policy:
    highest = node.options.get("htlc-maximum-msat")
    return Policy(
        int(node.options.get("fee-base")),
        int(node.options.get("fee-per-satoshi")),
        int(node.options.get("htlc-minimum-msat")),
        int(highest) if highest is not None else 1 << 62,
        int(node.options.get("cltv-delta")),
        bool(node.options.get("ignore-fee-limits")),
    )


def _open(call: Call, acceptor: EmbeddedNode, mindepth: int | None) -> Result:
    node, world = call.node, call.node.world
    only = None
    if call["utxos"] is not None:
        only = [(str(item).partition(":")[0], int(str(item).partition(":")[2])) for item in call["utxos"]]
    with world.database.transaction():
        number = world.database.add("funding keys")
        keys = (node.keys.funding_key(number), acceptor.keys.funding_key(number))
        script = funding_script(*(key.public_key.format() for key in keys))
        payment = node.wallet.pay(
            call["amount"],
            lambda: bech32.segwit_script(0, hashlib.sha256(script).digest()),
            node.wallet.coins(call["minconf"], only),
            call["feerate"] or FEERATE_PERKW,
        )
        world.chain.publish(payment.tx, payment.fee_sat, hidden_outputs=(0,))
        depth = call["mindepth"] if call["mindepth"] is not None else int(mindepth or 1)
        channel = world.channels.create(
            opener=node.node_id,
            acceptor=acceptor.node_id,
            capacity_sat=payment.amount_sat,
            pushed_msat=call["push_msat"],
            funding=(payment.tx.txid, 0),
            announce=call["announce"],
            policies=(default_policy(node), default_policy(acceptor)),
            feerate_perkw=FEERATE_PERKW,
            mindepth=depth,
            funding_key=number,
        )
    for end in (node, acceptor):
        peer_id = channel.peer_of(end.node_id)
        end.log.write("info", "lightningd", f"channel {channel.channel_id} funded", peer_id)
    return {
        "tx": payment.tx.serialize().hex(),
        "txid": payment.tx.txid,
        "outnum": 0,
        "channel_id": channel.channel_id,
        "channel_type": CHANNEL_TYPE,
        "mindepth": channel.mindepth,
    }


@command("listpeerchannels", opt("id", node_id), opt("short_channel_id", scid), opt("channel_id", sha256))
async def listpeerchannels(call: Call) -> Result:
    """Every live channel with its money, fees, limits and state."""
    if call["id"] is not None and call["short_channel_id"] is not None:
        raise RpcError(INVALID_PARAMS, "Cannot specify both id and short_channel_id")
    node = call.node
    shown = []
    for channel in node.world.channels.of_node(node.node_id):
        side = channel.side(node.node_id)
        if call["id"] not in (None, channel.peer_of(node.node_id)):
            continue
        wanted = call["short_channel_id"]
        if wanted is not None and wanted not in (channel.scid, side.alias):
            continue
        if call["channel_id"] not in (None, channel.channel_id):
            continue
        shown.append(describe_channel(node, channel))
    return {"channels": shown}


def _update(side: Side) -> dict[str, Any]:
    return {
        "htlc_minimum_msat": side.policy.htlc_min_msat,
        "htlc_maximum_msat": side.policy.htlc_max_msat,
        "cltv_expiry_delta": side.policy.cltv_delta,
        "fee_base_msat": side.policy.fee_base_msat,
        "fee_proportional_millionths": side.policy.fee_ppm,
    }


def describe_channel(node: EmbeddedNode, channel: Channel) -> dict[str, Any]:
    """One entry of listpeerchannels."""
    us, peer_id = node.node_id, channel.peer_of(node.node_id)
    side, theirs = channel.side(us), channel.side(peer_id)
    link = node.peers.link(peer_id)
    entry: dict[str, Any] = {"peer_id": peer_id, "peer_connected": link is not None}
    if link is not None:
        entry["reestablished"] = True
        entry["owner"] = "channeld"
    entry |= {
        "state": channel.state,
        "channel_type": CHANNEL_TYPE,
        "updates": {"local": _update(side)},
        "ignore_fee_limits": side.policy.ignore_fee_limits,
        "lost_state": False,
        "feerate": {"perkw": channel.feerate_perkw, "perkb": channel.feerate_perkw * 4},
        "direction": channel.direction(us),
        "channel_id": channel.channel_id,
        "funding_txid": channel.funding_txid,
        "funding_outnum": channel.funding_outnum,
        "private": not channel.announce,
        "opener": "local" if channel.opener == us else "remote",
        "alias": {"local": side.alias},
        "features": ["option_static_remotekey", "option_anchors"],
    }
    if channel.scid is not None:
        entry["short_channel_id"] = channel.scid
        entry["updates"]["remote"] = _update(theirs)
        entry["alias"]["remote"] = theirs.alias
    if channel.splice is not None:
        rate = channel.splice.feerate_perkw
        entry["inflight"] = [_inflight(channel, channel.splice, us)]
        entry |= {"initial_feerate": f"{rate}perkw", "last_feerate": f"{rate}perkw"}
        entry["next_feerate"] = f"{rate * 25 // 24}perkw"
    if channel.closer is not None:
        entry["closer"] = "local" if channel.closer == us else "remote"
    if side.close_to is not None:
        entry["close_to"] = side.close_to
    return entry | _money(node, channel) | _record(node, channel)


def _inflight(channel: Channel, splice: Splice, us: str) -> dict[str, Any]:
    return {
        "funding_txid": splice.txid,
        "funding_outnum": splice.outnum,
        "feerate": f"{splice.feerate_perkw}perkw",
        "total_funding_msat": (channel.capacity_sat + splice.amount_sat) * 1000,
        "our_funding_msat": channel.capacity_sat * 1000 if channel.opener == us else 0,
        "splice_amount": splice.amount_sat if splice.initiator == us else 0,
        "scratch_txid": hashlib.sha256(f"{splice.txid} {us}".encode()).hexdigest(),
    }


def _money(node: EmbeddedNode, channel: Channel) -> dict[str, Any]:
    us, peer_id = node.node_id, channel.peer_of(node.node_id)
    side, theirs = channel.side(us), channel.side(peer_id)
    opened = channel.opener == us
    total = channel.capacity_sat * 1000
    funding: dict[str, Any] = {
        "local_funds_msat": total if opened else 0,
        "remote_funds_msat": 0 if opened else total,
    }
    if channel.pushed_msat:
        funding["pushed_msat"] = channel.pushed_msat
    usable = channel.state in ledger.LIVE
    return {
        "funding": funding,
        "to_us_msat": channel.balance_msat(us),
        "min_to_us_msat": side.min_to_us_msat,
        "max_to_us_msat": side.max_to_us_msat,
        "total_msat": total,
        "fee_base_msat": side.policy.fee_base_msat,
        "fee_proportional_millionths": side.policy.fee_ppm,
        "dust_limit_msat": ledger.DUST_LIMIT_SAT * 1000,
        "their_max_htlc_value_in_flight_msat": (1 << 64) - 1,
        "our_max_htlc_value_in_flight_msat": (1 << 64) - 1,
        "their_reserve_msat": theirs.reserve_msat,
        "our_reserve_msat": side.reserve_msat,
        "spendable_msat": channel.spendable_msat(us) if usable else 0,
        "receivable_msat": channel.spendable_msat(peer_id) if usable else 0,
        "minimum_htlc_in_msat": 0,
        "minimum_htlc_out_msat": side.policy.htlc_min_msat,
        "maximum_htlc_out_msat": side.policy.htlc_max_msat,
        "their_to_self_delay": ledger.TO_SELF_DELAY,
        "our_to_self_delay": ledger.TO_SELF_DELAY,
        "max_accepted_htlcs": ledger.MAX_ACCEPTED_HTLCS,
    }


def _record(node: EmbeddedNode, channel: Channel) -> dict[str, Any]:
    us, peer_id = node.node_id, channel.peer_of(node.node_id)
    side, theirs = channel.side(us), channel.side(peer_id)
    record: dict[str, Any] = {
        "state_changes": [
            {
                "timestamp": iso_time(row["time"]),
                "old_state": row["old_state"],
                "new_state": row["new_state"],
                "cause": row["cause"],
                "message": row["message"],
            }
            for row in node.world.channels.history(channel, us)
        ],
        "status": [f"{channel.state}:{'Channel ready for use.' if channel.scid else 'Waiting for lockin.'}"],
        "in_payments_offered": theirs.offered,
        "in_offered_msat": theirs.offered_msat,
        "in_payments_fulfilled": theirs.fulfilled,
        "in_fulfilled_msat": theirs.fulfilled_msat,
        "out_payments_offered": side.offered,
        "out_offered_msat": side.offered_msat,
        "out_payments_fulfilled": side.fulfilled,
        "out_fulfilled_msat": side.fulfilled_msat,
        "htlcs": [_describe_htlc(row, us) for row in node.world.channels.htlcs(channel)],
    }
    if side.last_stable is not None:
        record["last_stable_connection"] = side.last_stable
    return record


def _describe_htlc(row: sqlite3.Row, us: str) -> dict[str, Any]:
    sent = row["sender"] == us
    return {
        "direction": "out" if sent else "in",
        "id": row["number"],
        "amount_msat": row["amount_msat"],
        "expiry": row["expiry"],
        "payment_hash": row["payment_hash"],
        "state": htlc_state(row["state"], sent),
    }


def htlc_state(state: str, sent: bool) -> str:
    """The name CLN gives a ledger HTLC as one end sees it."""
    if state == "open":
        return "SENT_ADD_ACK_REVOCATION" if sent else "RCVD_ADD_ACK_REVOCATION"
    return "RCVD_REMOVE_ACK_REVOCATION" if sent else "SENT_REMOVE_ACK_REVOCATION"
