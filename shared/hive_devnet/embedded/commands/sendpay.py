"""sendpay and waitsendpay: one part along a given route."""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final

from hive_devnet.embedded.commands.invoices import parse_invoice
from hive_devnet.embedded.courier import REASONS, UNKNOWN_NEXT_PEER, describe_part, failure_of
from hive_devnet.embedded.errors import (
    INVALID_PARAMS,
    PAY_IN_PROGRESS,
    PAY_NO_SUCH_PAYMENT,
    PAY_RHASH_ALREADY_USED,
    PAY_TRY_OTHER_ROUTE,
    RpcError,
)
from hive_devnet.embedded.ledger.channel import LIVE
from hive_devnet.embedded.ledger.payments import COMPLETE, FAILED, PENDING, NewPart, Part
from hive_devnet.embedded.ledger.routing import NO_CHANNEL, Hop
from hive_devnet.embedded.node import EmbeddedNode
from hive_devnet.embedded.params import (
    bad_param,
    boolean,
    escaped_string,
    hex_bytes,
    is_node_id,
    is_scid,
    msat,
    number,
    opt,
    parse_msat,
    req,
    sha256,
    string,
    token_text,
    u64,
)
from hive_devnet.embedded.registry import Call, Result, command

_SCID: Final = re.compile(r"([0-9]+x[0-9]+x[0-9]+)(?:/[01])?")
_NAMES: Final = (
    ("short_channel_id_dir", "channel"),
    ("node_id_out", "id"),
    ("amount_out_msat", "amount_msat"),
    ("cltv_out", "delay"),
)
"""The four members of a hop: as of v26.06, and before."""


def _member(name: str, hop: Any, names: tuple[str, str]) -> Any:
    if not isinstance(hop, dict) or not any(each in hop for each in names):
        raise bad_param(name, f"must have either {names[0]} or {names[1]}", hop)
    return next(hop[each] for each in names if each in hop)


def _route(name: str, value: Any) -> list[tuple[str, str, int, int]]:
    """(scid, node, msat, blocks) of every hop."""
    if not isinstance(value, list):
        raise bad_param(name, "must be an array", value)
    hops = []
    for item in value:
        channel, target, amount, delay = (_member(name, item, names) for names in _NAMES)
        match = _SCID.fullmatch(channel) if isinstance(channel, str) else None
        if match is None or not is_scid(match[1]):
            raise bad_param(name, "bad short_channel_id", channel)
        if not is_node_id(target):
            raise bad_param(name, "bad node_id", target)
        worth = parse_msat(token_text(amount)) if isinstance(amount, int | str) else None
        if worth is None:
            raise bad_param(name, "bad amount", amount)
        if isinstance(delay, bool) or not isinstance(delay, int) or delay < 0:
            raise bad_param(name, "bad cltv_out/delay", delay)
        hops.append((match[1], str(target).lower(), worth, delay))
    return hops


def _hops(node: EmbeddedNode, asked: list[tuple[str, str, int, int]]) -> tuple[Hop, ...]:
    known = {channel.scid: channel for channel in node.world.channels.usable()}
    hops, source = [], node.node_id
    for scid, target, amount, delay in asked:
        channel = known.get(scid)
        fits = channel is not None and {channel.opener, channel.acceptor} == {source, target}
        number_ = channel.id if channel is not None and fits else NO_CHANNEL
        hops.append(Hop(number_, scid, source, target, amount, delay))
        source = target
    return tuple(hops)


def _parts(node: EmbeddedNode, payment_hash: str) -> list[Part]:
    return node.world.courier.payments.parts_of(node.node_id, payment_hash)


def _earlier(call: Call, group: int, amount: int, destination: str) -> Part | None:
    """What is known of this payment already: a finished or pending part that says the same, else None."""
    for part in _parts(call.node, call["payment_hash"]):
        if part.status == FAILED:
            continue
        if part.status == PENDING and part.groupid != group:
            text = (
                f"Payment with groupid={part.groupid} still in progress, cannot retry before that completes."
            )
            raise RpcError(PAY_IN_PROGRESS, text)
        if part.partid != call["partid"]:
            if part.status == COMPLETE:
                raise RpcError(PAY_RHASH_ALREADY_USED, "Already succeeded other parts")
            continue
        verb = "succeeded" if part.status == COMPLETE else "pending"
        if part.amount_msat != amount:
            text = f"Already {verb} with amount {part.amount_msat}msat (not {amount}msat)"
            raise RpcError(PAY_RHASH_ALREADY_USED, text)
        if part.destination != destination:
            raise RpcError(PAY_RHASH_ALREADY_USED, f"Already {verb} to {part.destination}")
        return part
    return None


@command(
    "sendpay",
    req("route", _route),
    req("payment_hash", sha256),
    opt("label", escaped_string),
    opt("amount_msat", msat),
    opt("bolt11", string),
    opt("payment_secret", sha256),
    opt("partid", u64, 0),
    opt("localinvreqid", sha256),
    opt("groupid", u64),
    opt("payment_metadata", hex_bytes),
    opt("description", string),
    opt("dev_legacy_hop", boolean, False),
)
async def sendpay(call: Call) -> Result:
    """Sends one part along a route; how it ends is told by waitsendpay."""
    node, asked = call.node, call["route"]
    amount = _amount(call)
    if call["bolt11"] is not None:
        parse_invoice("bolt11", call["bolt11"])
    group = call["groupid"]
    if group is None:
        group = 1 + max((part.groupid for part in _parts(node, call["payment_hash"])), default=0)
    hops = _hops(node, asked)
    destination = hops[-1].target if hops else node.node_id
    known = _earlier(call, group, amount, destination)
    if known is None:
        if hops:
            _check_first(node, hops[0])
        known = _send(call, group, amount, hops)
        if not hops:
            return describe_part(await _ended(node, known))
    shown = describe_part(known)
    if known.status == PENDING:
        shown["message"] = "Monitor status with listpays or waitsendpay"
    return shown


def _amount(call: Call) -> int:
    asked, given = call["route"], call["amount_msat"]
    if call["partid"] and given is None:
        raise RpcError(INVALID_PARAMS, "Must specify msatoshi with partid")
    if not asked:
        if given is None:
            raise RpcError(INVALID_PARAMS, "Self-payment requires amount_msat")
        if call["partid"]:
            raise RpcError(INVALID_PARAMS, "Self-payment does not allow (non-zero) partid")
        return int(given)
    final = asked[-1][2]
    if given is not None and not call["partid"] and given != final:
        text = f"Do not specify msatoshi ({given}msat) without partid: if you do, it must be exactly"
        raise RpcError(INVALID_PARAMS, f"{text} the final amount ({final}msat)")
    if call["partid"] and final > given:
        text = f"Final amount {final}msat is greater than {given}msat, despite MPP"
        raise RpcError(INVALID_PARAMS, text)
    if call["partid"] and call["payment_secret"] is None:
        raise RpcError(INVALID_PARAMS, "partid requires payment_secret")
    return int(final)


def _check_first(node: EmbeddedNode, hop: Hop) -> None:
    ready = hop.channel != NO_CHANNEL and node.world.channels.get(hop.channel).state in LIVE
    if ready and node.peers.link(hop.target) is not None:
        return
    data = {"erring_index": 0, "failcode": UNKNOWN_NEXT_PEER, "failcodename": REASONS[UNKNOWN_NEXT_PEER]}
    text = "No connection to first peer found"
    raise RpcError(PAY_TRY_OTHER_ROUTE, text, data | {"erring_node": node.node_id})


def _send(call: Call, group: int, amount: int, hops: tuple[Hop, ...]) -> Part:
    node = call.node
    part = node.world.courier.payments.add_part(
        NewPart(
            node_id=node.node_id,
            groupid=group,
            partid=call["partid"],
            payment_hash=call["payment_hash"],
            payment_secret=call["payment_secret"],
            destination=hops[-1].target if hops else node.node_id,
            amount_msat=amount,
            total_msat=call["amount_msat"] if call["partid"] else amount,
            route=hops,
            label=call["label"],
            bolt11=call["bolt11"],
            description=call["description"],
        )
    )
    node.world.courier.dispatch(part)
    return part


async def _ended(node: EmbeddedNode, part: Part) -> Part:
    """The part once it is complete. Raises RpcError when it failed."""
    ended = await node.world.courier.finish_of(part)
    if ended.status == FAILED:
        raise failure_of(node.world, ended)
    return ended


@command(
    "waitsendpay",
    req("payment_hash", sha256),
    opt("timeout", number),
    opt("partid", u64, 0),
    opt("groupid", u64),
)
async def waitsendpay(call: Call) -> Result:
    """A part of a payment once it is complete."""
    parts = _parts(call.node, call["payment_hash"])
    group = call["groupid"]
    if group is None:
        group = max((part.groupid for part in parts), default=0)
    wanted = [part for part in parts if (part.groupid, part.partid) == (group, call["partid"])]
    if not wanted:
        text = f"Never attempted payment part {call['partid']} for '{call['payment_hash']}'"
        raise RpcError(PAY_NO_SUCH_PAYMENT, text)
    try:
        async with asyncio.timeout(call["timeout"]):
            return describe_part(await _ended(call.node, wanted[-1]))
    except TimeoutError as error:
        raise RpcError(PAY_IN_PROGRESS, "Timed out while waiting") from error
