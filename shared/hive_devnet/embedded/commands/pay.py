"""pay, xpay, keysend, xkeysend, listpays, listsendpays."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass, replace
from typing import Any

from hive_devnet.embedded import bolt12
from hive_devnet.embedded.commands.invoices import (
    index_name,
    invoice_hash,
    is_bolt12,
    parse_bolt12,
    parse_invoice,
)
from hive_devnet.embedded.commands.offers import fetched, read_offer
from hive_devnet.embedded.courier import describe_part
from hive_devnet.embedded.errors import INVALID_PARAMS, PAY_ALREADY_PAID, PAY_INVOICE_EXPIRED, RpcError
from hive_devnet.embedded.ledger.payments import COMPLETE, FAILED, PENDING, Part
from hive_devnet.embedded.node import EmbeddedNode
from hive_devnet.embedded.params import (
    array,
    bad_param,
    boolean,
    hex_bytes,
    msat,
    node_id,
    opt,
    req,
    sha256,
    string,
    u16,
    u32,
    u64,
)
from hive_devnet.embedded.payer import Outcome, Payer, PaymentOrder
from hive_devnet.embedded.registry import Call, Result, command
from hive_devnet.embedded.requester import Wish

_EXEMPT_FEE_MSAT = 5000
_KEYSEND_CLTV = 42


@dataclass(frozen=True)
class _Terms:
    payee: str
    payment_hash: str
    payment_secret: str | None
    amount_msat: int | None
    expires_at: int
    min_final_cltv: int


def _percent(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        problem = "should be a non-negative floating-point number"
        raise bad_param(name, problem, value) from error
    if isinstance(value, bool) or not 0 <= number < 1e9:
        raise bad_param(name, "should be a non-negative floating-point number", value)
    return number


def _fee_limit(call: Call, amount_msat: int) -> int:
    """maxfee; or maxfeepercent (0.5) of the amount, but at least exemptfee."""
    if call["maxfee"] is not None:
        if call["maxfeepercent"] is not None or call["exemptfee"] is not None:
            text = "If you specify maxfee, cannot specify maxfeepercent or exemptfee."
            raise RpcError(INVALID_PARAMS, text)
        return int(call["maxfee"])
    percent = 0.5 if call["maxfeepercent"] is None else call["maxfeepercent"]
    exempt = _EXEMPT_FEE_MSAT if call["exemptfee"] is None else call["exemptfee"]
    return max(amount_msat * round(percent * 1000) // 100_000, exempt)


def _terms(text: str) -> _Terms:
    """What an invoice of either kind asks for. Raises RpcError -32602."""
    if is_bolt12(text):
        records = parse_bolt12("invoice", text)
        return _Terms(
            payee=records[bolt12.NODE_ID].hex(),
            payment_hash=records[bolt12.PAYMENT_HASH].hex(),
            payment_secret=bolt12.payment_secret(records),
            amount_msat=bolt12.of_tu(records[bolt12.INVOICE_AMOUNT]),
            expires_at=bolt12.expires_at(records),
            min_final_cltv=bolt12.path_cltv(records),
        )
    terms = parse_invoice("invoice", text)
    return _Terms(
        terms.payee,
        terms.payment_hash,
        terms.payment_secret,
        terms.amount_msat,
        terms.expires_at,
        terms.min_final_cltv,
    )


def _order(terms: _Terms, text: str, call: Call, partial: int | None) -> PaymentOrder:
    amount = terms.amount_msat
    if amount is not None and call["amount_msat"] is not None:
        raise RpcError(INVALID_PARAMS, "amount_msat parameter unnecessary")
    if amount is None:
        amount = call["amount_msat"]
    if amount is None:
        raise RpcError(INVALID_PARAMS, "amount_msat parameter required")
    if terms.expires_at < int(time.time()):
        raise RpcError(PAY_INVOICE_EXPIRED, "Invoice expired")
    return PaymentOrder(
        destination=terms.payee,
        payment_hash=terms.payment_hash,
        amount_msat=partial if partial is not None else amount,
        total_msat=amount,
        maxfee_msat=0,
        final_cltv=terms.min_final_cltv,
        payment_secret=terms.payment_secret,
        label=call["label"],
        bolt11=text,
    )


def _with(order: PaymentOrder, **changes: Any) -> PaymentOrder:
    return PaymentOrder(**(vars(order) | changes))


def _previous(node: EmbeddedNode, payment_hash: str) -> Outcome | None:
    parts = node.world.courier.payments.parts_of(node.node_id, payment_hash)
    complete = tuple(part for part in parts if part.status == COMPLETE)
    return Outcome(str(complete[0].preimage), complete, 0) if complete else None


async def _pay(node: EmbeddedNode, order: PaymentOrder) -> Outcome:
    previous = _previous(node, order.payment_hash)
    return previous if previous is not None else await Payer(node).pay(order)


@command(
    "pay",
    req("bolt11", string),
    opt("amount_msat", msat),
    opt("label", string),
    opt("riskfactor", _percent),
    opt("maxfeepercent", _percent),
    opt("retry_for", u16, 60),
    opt("maxdelay", u16),
    opt("exemptfee", msat),
    opt("localinvreqid", hex_bytes),
    opt("exclude", array),
    opt("maxfee", msat),
    opt("description", string),
    opt("partial_msat", msat),
)
async def pay(call: Call) -> Result:
    """Pays an invoice and reports as the classic command does."""
    text = call["bolt11"]
    order = _order(_terms(text), text, call, call["partial_msat"])
    limit = _fee_limit(call, order.amount_msat)
    order = _with(
        order, maxfee_msat=limit, retry_for=float(call["retry_for"]), description=call["description"]
    )
    started = time.time()
    return _classic(await _pay(call.node, order), order, started)


def _classic(outcome: Outcome, order: PaymentOrder, started: float) -> Result:
    return {
        "payment_preimage": outcome.preimage,
        "status": COMPLETE,
        "amount_msat": sum(part.amount_msat for part in outcome.parts),
        "amount_sent_msat": outcome.sent_msat,
        "destination": order.destination,
        "payment_hash": order.payment_hash,
        "created_at": min(started, outcome.parts[0].created_at),
        "parts": len(outcome.parts),
    }


def _modern(outcome: Outcome) -> Result:
    return {
        "payment_preimage": outcome.preimage,
        "amount_msat": sum(part.amount_msat for part in outcome.parts),
        "amount_sent_msat": outcome.sent_msat,
        "failed_parts": outcome.failed_parts,
        "successful_parts": len(outcome.parts),
    }


async def _of_offer(call: Call) -> tuple[str, Call]:
    """An offer's invoice, and the call that pays it."""
    offer, asked = read_offer("invstring", call["invstring"]), call["amount_msat"]
    if bolt12.recurrence_of(offer) is not None:
        raise RpcError(INVALID_PARAMS, "Cannot xpay recurring offers")
    named = bolt12.of_tu(offer[bolt12.AMOUNT]) if bolt12.AMOUNT in offer else None
    if named is not None and asked not in (None, named):
        text = f"Offer amount is {named}msat, you tried to pay {asked}msat"
        raise RpcError(INVALID_PARAMS, text)
    wish = Wish(amount_msat=asked if named is None else None, payer_note=call["payer_note"])
    invoice = await fetched(call.node, offer, wish, float(call["retry_for"]))
    bare = replace(call, args=call.args | {"amount_msat": None})
    return bolt12.encode(bolt12.INVOICE, invoice), bare


@command(
    "xpay",
    req("invstring", string),
    opt("amount_msat", msat),
    opt("maxfee", msat),
    opt("layers", array),
    opt("retry_for", u32, 60),
    opt("partial_msat", msat),
    opt("maxdelay", u32),
    opt("payer_note", string),
    opt("label", string),
    opt("localinvreqid", hex_bytes),
    opt("dev_use_shadow", boolean),
)
async def xpay(call: Call) -> Result:
    """Pays an invoice."""
    text = call["invstring"]
    if text.lower().startswith("lno1"):
        text, call = await _of_offer(call)
    order = _order(_terms(text), text, call, call["partial_msat"])
    default = max(order.amount_msat // 100, _EXEMPT_FEE_MSAT)
    limit = call["maxfee"] if call["maxfee"] is not None else default
    order = _with(order, maxfee_msat=limit, retry_for=float(call["retry_for"]))
    # Unlike pay, which gives the first payment's answer.
    if _previous(call.node, order.payment_hash) is not None:
        raise RpcError(PAY_ALREADY_PAID, "Already paid this invoice successfully")
    return _modern(await Payer(call.node).pay(order))


def _extra_tlvs(name: str, value: Any) -> str:
    if not isinstance(value, dict):
        text = f'Could not decode the TLV object from {name}: "{value}" is not a valid JSON object.'
        raise RpcError(INVALID_PARAMS, text)
    for kind, data in value.items():
        if not str(kind).isdigit():
            raise RpcError(INVALID_PARAMS, f'"{kind}" is not a valid numeric TLV type.')
        try:
            bytes.fromhex(str(data))
        except ValueError as error:
            raise RpcError(INVALID_PARAMS, f'"{data}" is not a valid hex encoded TLV value.') from error
    return " ".join(f"{kind}={data}" for kind, data in value.items())


def _keysend_order(call: Call, maxfee: int) -> PaymentOrder:
    preimage = os.urandom(32)
    return PaymentOrder(
        destination=call["destination"],
        payment_hash=hashlib.sha256(preimage).hexdigest(),
        amount_msat=call["amount_msat"],
        total_msat=call["amount_msat"],
        maxfee_msat=maxfee,
        final_cltv=_KEYSEND_CLTV,
        label=call["label"],
        keysend_preimage=preimage.hex(),
        extra=call["extratlvs"],
        retry_for=float(call["retry_for"]),
    )


@command(
    "keysend",
    req("destination", node_id),
    req("amount_msat", msat),
    opt("label", string),
    opt("maxfeepercent", _percent),
    opt("retry_for", u32, 60),
    opt("maxdelay", u32),
    opt("exemptfee", msat),
    opt("extratlvs", _extra_tlvs),
    opt("routehints", array),
    opt("maxfee", msat),
)
async def keysend(call: Call) -> Result:
    """Pays a node without an invoice, reporting as the classic command does."""
    order = _keysend_order(call, _fee_limit(call, call["amount_msat"]))
    started = time.time()
    return _classic(await Payer(call.node).pay(order), order, started)


@command(
    "xkeysend",
    req("destination", node_id),
    req("amount_msat", msat),
    opt("label", string),
    opt("maxfee", msat),
    opt("layers", array),
    opt("retry_for", u32, 60),
    opt("maxdelay", u32),
    opt("extratlvs", _extra_tlvs),
)
async def xkeysend(call: Call) -> Result:
    """Pays a node without an invoice."""
    default = max(call["amount_msat"] // 100, _EXEMPT_FEE_MSAT)
    limit = call["maxfee"] if call["maxfee"] is not None else default
    return _modern(await Payer(call.node).pay(_keysend_order(call, limit)))


def _status(name: str, value: Any) -> str:
    if value not in (PENDING, COMPLETE, FAILED):
        raise bad_param(name, "should be one of pending, complete, failed", value)
    return str(value)


_LIST_PARAMS = (
    opt("bolt11", string),
    opt("payment_hash", sha256),
    opt("status", _status),
    opt("index", index_name),
    opt("start", u64, 0),
    opt("limit", u32),
)


def _selected(call: Call) -> list[Part]:
    digest = call["payment_hash"]
    if call["bolt11"] is not None:
        digest = invoice_hash("invoice", call["bolt11"])
    parts = call.node.world.courier.payments.parts_of(call.node.node_id, digest)
    if call["index"] == "updated":
        parts = sorted((p for p in parts if p.updated_index), key=lambda p: p.updated_index or 0)
        return [part for part in parts if (part.updated_index or 0) >= call["start"]]
    return [part for part in parts if part.created_index >= call["start"]]


@command("listsendpays", *_LIST_PARAMS)
async def listsendpays(call: Call) -> Result:
    """Every part ever sent."""
    parts = [part for part in _selected(call) if call["status"] in (None, part.status)]
    shown = [describe_part(part) for part in parts]
    return {"payments": shown if call["limit"] is None else shown[: call["limit"]]}


@command("listpays", *_LIST_PARAMS)
async def listpays(call: Call) -> Result:
    """Every payment ever tried, its parts taken together."""
    groups: dict[tuple[str, int], list[Part]] = {}
    for part in _selected(call):
        groups.setdefault((part.payment_hash, part.groupid), []).append(part)
    shown = [_describe_payment(parts) for parts in groups.values()]
    shown = [entry for entry in shown if call["status"] in (None, entry["status"])]
    return {"pays": shown if call["limit"] is None else shown[: call["limit"]]}


def _describe_payment(parts: list[Part]) -> dict[str, Any]:
    states = {part.status for part in parts}
    status = COMPLETE if COMPLETE in states else PENDING if PENDING in states else FAILED
    first = parts[0]
    entry: dict[str, Any] = {
        "payment_hash": first.payment_hash,
        "status": status,
        "destination": first.destination,
        "created_at": first.created_at,
        "created_index": first.created_index,
    }
    done = [part for part in parts if part.status == COMPLETE]
    if done:
        entry |= {
            "completed_at": max(part.completed_at or 0 for part in done),
            "preimage": done[0].preimage,
            "amount_msat": sum(part.amount_msat for part in done),
            "amount_sent_msat": sum(part.sent_msat for part in done),
        }
        if len(done) > 1:
            entry["number_of_parts"] = len(done)
    updated = [part.updated_index for part in parts if part.updated_index is not None]
    optional = {
        "bolt11": first.bolt11 if not is_bolt12(first.bolt11 or "") else None,
        "bolt12": first.bolt11 if is_bolt12(first.bolt11 or "") else None,
        "label": first.label,
        "description": first.description,
        "updated_index": max(updated) if updated else None,
    }
    return entry | {name: value for name, value in optional.items() if value is not None}
