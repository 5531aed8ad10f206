"""bkpr-listbalances, bkpr-listincome, bkpr-channelsapy, computed from the ledger."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from hive_devnet.embedded.bolt11 import Bolt11Error, decode_invoice
from hive_devnet.embedded.ledger.channel import Channel
from hive_devnet.embedded.ledger.invoices import PAID, InvoiceBook
from hive_devnet.embedded.ledger.payments import COMPLETE, SETTLED
from hive_devnet.embedded.node import EmbeddedNode
from hive_devnet.embedded.params import boolean, opt, u32, u64
from hive_devnet.embedded.registry import Call, Result, command

_CURRENCY = "bcrt"
_BLOCKS_PER_YEAR = 52364


@command("bkpr-listbalances")
async def listbalances(call: Call) -> Result:
    """The wallet's and each channel's balance."""
    node = call.node
    wallet = sum(row["amount_sat"] for row in node.wallet.outputs() if row["height"] is not None) * 1000
    accounts: list[dict[str, Any]] = [{"account": "wallet", "balances": _balance(wallet)}]
    for channel in node.world.channels.of_node(node.node_id):
        closed = channel.close_txid is not None
        accounts.append(
            {
                "account": channel.channel_id,
                "peer_id": channel.peer_of(node.node_id),
                "we_opened": channel.opener == node.node_id,
                "account_closed": closed,
                "account_resolved": closed,
                "balances": _balance(channel.balance_msat(node.node_id)),
            }
        )
    return {"accounts": accounts}


def _balance(amount_msat: int) -> list[dict[str, Any]]:
    return [{"balance_msat": amount_msat, "coin_type": _CURRENCY}]


@command(
    "bkpr-listincome",
    opt("consolidate_fees", boolean, True),
    opt("start_time", u32, 0),
    opt("end_time", u32, (1 << 32) - 1),
)
async def listincome(call: Call) -> Result:
    """Everything that changed what the node owns, by time."""
    node = call.node
    events = _chain_events(node) + _channel_events(node) + _payment_events(node) + _forward_events(node)
    events = [event for event in events if call["start_time"] <= event["timestamp"] <= call["end_time"]]
    return {"income_events": sorted(events, key=lambda event: int(event["timestamp"]))}


def _event(account: str, tag: str, timestamp: float, credit: int, debit: int, **more: Any) -> dict[str, Any]:
    event = {
        "account": account,
        "tag": tag,
        "credit_msat": credit,
        "debit_msat": debit,
        "currency": _CURRENCY,
        "timestamp": int(timestamp),
    }
    return event | {name: value for name, value in more.items() if value is not None}


def _chain_events(node: EmbeddedNode) -> list[dict[str, Any]]:
    database = node.world.database
    funded = {channel.funding_txid: channel for channel in _all_channels(node)}
    closed = {channel.close_txid: channel for channel in _all_channels(node)}
    events = []
    for tx in node.wallet.transactions():
        ours = database.find(
            "SELECT 1 FROM utxo WHERE spent_by = ? AND node_id = ?", (tx["txid"], node.node_id)
        )
        if ours is not None:
            account = funded[tx["txid"]].channel_id if tx["txid"] in funded else "wallet"
            events.append(
                _event(account, "onchain_fee", tx["time"], 0, tx["fee_sat"] * 1000, txid=tx["txid"])
            )
        elif tx["txid"] in closed:
            channel = closed[tx["txid"]]
            if channel.opener == node.node_id:
                account = channel.channel_id
                fee = tx["fee_sat"] * 1000
                events.append(_event(account, "onchain_fee", tx["time"], 0, fee, txid=tx["txid"]))
        events += _output_events(node, tx, spent_by_us=ours is not None, closing=tx["txid"] in closed)
    return events


def _output_events(node: EmbeddedNode, tx: Any, *, spent_by_us: bool, closing: bool) -> list[dict[str, Any]]:
    if closing:
        return []
    events = []
    for row in node.world.database.rows("SELECT * FROM utxo WHERE txid = ? ORDER BY vout", (tx["txid"],)):
        amount, place = row["amount_sat"] * 1000, f"{row['txid']}:{row['vout']}"
        if row["node_id"] == node.node_id and not spent_by_us:
            events.append(_event("wallet", "deposit", tx["time"], amount, 0, outpoint=place))
        elif row["node_id"] != node.node_id and spent_by_us:
            events.append(_event("wallet", "withdrawal", tx["time"], 0, amount, outpoint=place))
    return events


def _all_channels(node: EmbeddedNode) -> list[Channel]:
    channels = node.world.channels
    return channels.closed_of_node(node.node_id) + channels.of_node(node.node_id)


def _channel_events(node: EmbeddedNode) -> list[dict[str, Any]]:
    events = []
    for channel in _all_channels(node):
        if channel.pushed_msat:
            opened = channel.opener == node.node_id
            credit, debit = (0, channel.pushed_msat) if opened else (channel.pushed_msat, 0)
            events.append(_event(channel.channel_id, "pushed", channel.created, credit, debit))
    return events


def _payment_events(node: EmbeddedNode) -> list[dict[str, Any]]:
    names = {channel.id: channel.channel_id for channel in _all_channels(node)}
    payments = node.world.courier.payments
    events = []
    for part in payments.parts_of(node.node_id):
        if part.status != COMPLETE or not part.route:
            continue
        account, when = names[part.route[0].channel], part.completed_at or part.created_at
        about = {"payment_id": part.payment_hash}
        text = part.description or _description(part.bolt11)
        if part.destination == node.node_id:
            # From us to us only the fee is gone.
            kept = InvoiceBook(node.world.database, node.node_id).by_hash(part.payment_hash)
            text = text or (None if kept is None else kept.description)
            fee = part.sent_msat - part.amount_msat
            events.append(_event(account, "rebalance_fee", when, 0, fee, description=text, **about))
            continue
        events.append(_event(account, "invoice", when, 0, part.amount_msat, description=text, **about))
        fee = part.sent_msat - part.amount_msat
        if fee:
            events.append(_event(account, "invoice_fee", when, 0, fee, **about))
    for invoice in InvoiceBook(node.world.database, node.node_id).all():
        if invoice.status != PAID or any(
            part.status == COMPLETE for part in payments.parts_of(node.node_id, invoice.payment_hash)
        ):
            continue
        for channel, amount in payments.received(node.node_id, invoice.payment_hash):
            facts: dict[str, Any] = {"payment_id": invoice.payment_hash, "description": invoice.description}
            events.append(_event(names[channel], "invoice", invoice.paid_at or 0, amount, 0, **facts))
    return events


def _description(bolt11: str | None) -> str | None:
    try:
        return decode_invoice(bolt11).description if bolt11 is not None else None
    except Bolt11Error:
        return None


def _forward_events(node: EmbeddedNode) -> list[dict[str, Any]]:
    names = {channel.scid: channel.channel_id for channel in _all_channels(node)}
    return [
        _event(
            names[forward.out_channel],
            "routed",
            forward.resolved_time or forward.received_time,
            forward.in_msat - (forward.out_msat or 0),
            0,
            payment_id=forward.payment_hash,
        )
        for forward in node.world.courier.payments.forwards(node.node_id)
        if forward.status == SETTLED
    ]


@command("bkpr-channelsapy", opt("start_time", u64, 0), opt("end_time", u64, (1 << 63) - 1))
async def channelsapy(call: Call) -> Result:
    """What each channel carried and earned, and the yearly yield of it."""
    node = call.node
    window = (call["start_time"], call["end_time"])
    figures = [_figures(node, channel, window) for channel in _all_channels(node) if channel.scid is not None]
    names = ("routed_out", "routed_in", "pushed_out", "pushed_in", "ours", "total", "fees_out", "fees_in")
    net: dict[str, Any] = {name: sum(entry[name] for entry in figures) for name in names}
    net |= {"account": "net", "blocks": max((entry["blocks"] for entry in figures), default=1)}
    return {"channels_apy": [_render_apy(entry) for entry in [*figures, net]]}


def _figures(node: EmbeddedNode, channel: Channel, window: tuple[int, int]) -> dict[str, Any]:
    us = node.node_id
    routed_in = fees_in = fees_out = 0
    for forward in node.world.courier.payments.forwards(us):
        when = forward.resolved_time or 0
        if forward.status != SETTLED or not window[0] <= when <= window[1]:
            continue
        fee = forward.in_msat - (forward.out_msat or 0)
        fees_out += fee if forward.out_channel == channel.scid else 0
        fees_in += fee if forward.in_channel == channel.scid else 0
    routed_in = channel.side(channel.peer_of(us)).fulfilled_msat
    opened = channel.opener == us
    tx = node.world.chain.transaction(channel.funding_txid)
    start = tx["height"] if tx is not None and tx["height"] is not None else node.world.chain.height
    total = channel.capacity_sat * 1000
    return {
        "account": channel.channel_id,
        "routed_out": channel.side(us).fulfilled_msat,
        "routed_in": routed_in,
        "pushed_out": channel.pushed_msat if opened else 0,
        "pushed_in": 0 if opened else channel.pushed_msat,
        "ours": total - channel.pushed_msat if opened else channel.pushed_msat,
        "total": total,
        "fees_out": fees_out,
        "fees_in": fees_in,
        "blocks": node.world.chain.height - start + 1,
    }


def _percent(part: int, whole: int, factor: Fraction = Fraction(1)) -> str:
    share = Fraction(part, whole) * factor * 100 if whole else Fraction(0)
    ten_thousandths = round(share * 10_000)
    return f"{ten_thousandths // 10_000}.{ten_thousandths % 10_000:04d}%"


def _render_apy(entry: dict[str, Any]) -> dict[str, Any]:
    ours, total = entry["ours"], entry["total"]
    theirs = total - ours
    yearly = Fraction(_BLOCKS_PER_YEAR, max(entry["blocks"], 1))
    earned = entry["fees_out"] + entry["fees_in"]
    shown: dict[str, Any] = {
        "account": entry["account"],
        "routed_out_msat": entry["routed_out"],
        "routed_in_msat": entry["routed_in"],
        "lease_fee_paid_msat": 0,
        "lease_fee_earned_msat": 0,
        "pushed_out_msat": entry["pushed_out"],
        "pushed_in_msat": entry["pushed_in"],
        "our_start_balance_msat": ours,
        "channel_start_balance_msat": total,
        "fees_out_msat": entry["fees_out"],
        "fees_in_msat": entry["fees_in"],
        "utilization_out": _percent(entry["routed_out"], total),
        "utilization_in": _percent(entry["routed_in"], total),
        "apy_out": _percent(entry["fees_out"], total, yearly),
        "apy_in": _percent(entry["fees_in"], total, yearly),
        "apy_total": _percent(earned, total, yearly),
    }
    if ours:
        shown["utilization_out_initial"] = _percent(entry["routed_out"], ours)
        shown["apy_out_initial"] = _percent(entry["fees_out"], ours, yearly)
        shown["apy_total_initial"] = _percent(earned, ours, yearly)
    if theirs:
        shown["utilization_in_initial"] = _percent(entry["routed_in"], theirs)
        shown["apy_in_initial"] = _percent(entry["fees_in"], theirs, yearly)
    return shown
