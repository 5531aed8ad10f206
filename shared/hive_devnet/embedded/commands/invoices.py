"""invoice, listinvoices, delinvoice, waitinvoice, waitanyinvoice, decode."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from typing import Any

from hive_devnet.embedded import bolt12
from hive_devnet.embedded.bolt11 import Bolt11Error, Hint, Invoice, decode_invoice, encode_invoice
from hive_devnet.embedded.bolt12 import Bolt12Error, Records
from hive_devnet.embedded.errors import (
    INVALID_PARAMS,
    INVOICE_EXPIRED_DURING_WAIT,
    INVOICE_NO_DESCRIPTION,
    INVOICE_NOT_FOUND,
    INVOICE_STATUS_UNEXPECTED,
    INVOICE_WAIT_TIMED_OUT,
    LIGHTNINGD,
    RpcError,
)
from hive_devnet.embedded.ledger.channel import LIVE
from hive_devnet.embedded.ledger.invoices import EXPIRED, PAID, UNPAID, InvoiceBook, InvoiceRow
from hive_devnet.embedded.node import EmbeddedNode
from hive_devnet.embedded.params import (
    array,
    bad_param,
    boolean,
    escaped_string,
    is_scid,
    opt,
    parse_msat,
    req,
    scid,
    sha256,
    string,
    token_text,
    u32,
    u64,
)
from hive_devnet.embedded.registry import Call, Result, command
from hive_devnet.embedded.runes import Rune, RuneError, parse_rune

_FEATURES = "02024100"
_WEEK = 604800
_MAX_DESCRIPTION = 1023


def _book(node: EmbeddedNode) -> InvoiceBook:
    return InvoiceBook(node.world.database, node.node_id)


def _amount_or_any(name: str, value: Any) -> int | None:
    if value == "any":
        return None
    amount = parse_msat(token_text(value)) if isinstance(value, int | str) else None
    if not amount:
        raise bad_param(name, "should be positive msat or 'any'", value)
    return amount


def _label(name: str, value: Any) -> str:
    if isinstance(value, dict | list | bool):
        raise bad_param(name, "should be a string or number", value)
    return token_text(value)


_NO_HINTS = 902


def _hints(name: str, value: Any) -> bool | tuple[str, ...]:
    """True, false, one short channel id or a list of them."""
    if isinstance(value, bool):
        return value
    if isinstance(value, list):
        if not all(map(is_scid, value)):
            raise bad_param(name, "should be a short channel id", value)
        return tuple(map(str, value))
    return (scid(name, value),)


def _routes(node: EmbeddedNode, hints: bool | tuple[str, ...] | None, amount_msat: int) -> tuple[Hint, ...]:
    """The first listed channel that the amount can come in by, or all of them if it takes that many."""
    if not isinstance(hints, tuple):
        return ()
    live = [c for c in node.world.channels.of_node(node.node_id) if c.state in LIVE and c.scid in hints]
    if hints and not live:
        raise RpcError(_NO_HINTS, "None of those hints were suitable local channels")
    live.sort(key=lambda channel: hints.index(str(channel.scid)))
    room = [channel.spendable_msat(channel.peer_of(node.node_id)) for channel in live]
    enough = [channel for channel, msat in zip(live, room, strict=True) if msat >= amount_msat]
    chosen = enough[:1] or (live if sum(room) >= amount_msat else [])
    found = []
    for channel in chosen:
        peer = channel.peer_of(node.node_id)
        policy = channel.side(peer).policy
        found.append(Hint(peer, str(channel.scid), policy.fee_base_msat, policy.fee_ppm, policy.cltv_delta))
    return tuple(found)


@command(
    "invoice",
    req("amount_msat", _amount_or_any),
    req("label", _label),
    req("description", escaped_string),
    opt("expiry", u64, _WEEK),
    opt("fallbacks", array),
    opt("preimage", sha256),
    opt("exposeprivatechannels", _hints),
    opt("cltv", u32),
    opt("deschashonly", boolean, False),
    checks=True,
)
async def invoice(call: Call) -> Result:
    """A new signed invoice."""
    node, text = call.node, call["description"]
    if len(text.encode()) > _MAX_DESCRIPTION and not call["deschashonly"]:
        limit = f"(description length {len(text.encode())})"
        raise RpcError(
            INVALID_PARAMS, f"Descriptions greater than {_MAX_DESCRIPTION} bytes not yet supported {limit}"
        )
    if call.check_only:
        return {}
    preimage = call["preimage"] or os.urandom(32).hex()
    created = int(time.time())
    terms = Invoice(
        payee=node.node_id,
        payment_hash=hashlib.sha256(bytes.fromhex(preimage)).hexdigest(),
        payment_secret=os.urandom(32).hex(),
        created_at=created,
        amount_msat=call["amount_msat"],
        description=None if call["deschashonly"] else text,
        description_hash=hashlib.sha256(text.encode()).hexdigest() if call["deschashonly"] else None,
        expiry=call["expiry"],
        min_final_cltv=call["cltv"] if call["cltv"] is not None else int(node.options.get("cltv-final")),
        features=_FEATURES,
        routes=_routes(node, call["exposeprivatechannels"], call["amount_msat"] or 1),
    )
    row = _record(node, terms, preimage, call["label"], text)
    created_payload: dict[str, Any] = {"preimage": preimage, "label": row.label}
    if row.amount_msat is not None:
        created_payload["msat"] = row.amount_msat
    node.notify("invoice_creation", created_payload)
    result = {
        "payment_hash": row.payment_hash,
        "expires_at": row.expires_at,
        "bolt11": row.bolt11,
        "payment_secret": row.payment_secret,
        "created_index": row.created_index,
    }
    return result | _capacity_warning(node, row.amount_msat)


def _record(node: EmbeddedNode, terms: Invoice, preimage: str, label: str, description: str) -> InvoiceRow:
    book = _book(node)
    with node.world.database.transaction():
        row = InvoiceRow(
            node_id=node.node_id,
            created_index=book.next_index(),
            label=label,
            payment_hash=terms.payment_hash,
            preimage=preimage,
            payment_secret=terms.payment_secret,
            amount_msat=terms.amount_msat,
            bolt11=encode_invoice(terms, node.keys.sign_invoice),
            description=description,
            status=UNPAID,
            expires_at=terms.expires_at,
        )
        book.add(row)
    return row


def _capacity_warning(node: EmbeddedNode, amount_msat: int | None) -> dict[str, Any]:
    channels = [c for c in node.world.channels.of_node(node.node_id) if c.state in LIVE]
    receivable = [c.spendable_msat(c.peer_of(node.node_id)) for c in channels]
    if sum(receivable) < (amount_msat or 1):
        return {"warning_capacity": "Insufficient incoming channel capacity to pay invoice"}
    if amount_msat is not None and max(receivable) < amount_msat:
        return {"warning_mpp": "The invoice is only payable with MPP-capable payers."}
    return {}


def describe_invoice(row: InvoiceRow) -> dict[str, Any]:
    """An invoice as listinvoices shows it."""
    entry: dict[str, Any] = {
        "label": row.label,
        "payment_hash": row.payment_hash,
        "status": row.status,
        "expires_at": row.expires_at,
        "created_index": row.created_index,
    }
    optional = {
        "bolt11": row.bolt11,
        "bolt12": row.bolt12,
        "local_offer_id": row.local_offer_id,
        "invreq_payer_note": row.payer_note,
        "amount_msat": row.amount_msat,
        "description": row.description,
        "updated_index": row.updated_index,
    }
    entry |= {name: value for name, value in optional.items() if value is not None}
    if row.status == PAID:
        entry |= {
            "pay_index": row.pay_index,
            "amount_received_msat": row.received_msat,
            "paid_at": row.paid_at,
            "payment_preimage": row.preimage,
        }
    return entry


def index_name(name: str, value: Any) -> str:
    """The `index` parameter of list commands."""
    if value not in ("created", "updated"):
        raise bad_param(name, "unrecognized index", value)
    return str(value)


@command(
    "listinvoices",
    opt("label", _label),
    opt("invstring", string),
    opt("payment_hash", sha256),
    opt("offer_id", sha256),
    opt("index", index_name),
    opt("start", u64, 0),
    opt("limit", u32),
)
async def listinvoices(call: Call) -> Result:
    """Invoices, all or those asked for."""
    wanted = [name for name in ("label", "invstring", "payment_hash", "offer_id") if call[name] is not None]
    if len(wanted) > 1:
        text = "Can only specify one of {label}, {invstring}, {payment_hash} or {offer_id}"
        raise RpcError(INVALID_PARAMS, text)
    if call["index"] is None and call["start"]:
        raise RpcError(INVALID_PARAMS, "Can only specify {start} with {index}")
    rows = _book(call.node).all()
    if call["offer_id"] is not None:
        rows = [row for row in rows if row.local_offer_id == call["offer_id"]]
    if call["label"] is not None:
        rows = [row for row in rows if row.label == call["label"]]
    if call["payment_hash"] is not None:
        rows = [row for row in rows if row.payment_hash == call["payment_hash"]]
    if call["invstring"] is not None:
        digest = invoice_hash("invstring", call["invstring"])
        rows = [row for row in rows if row.payment_hash == digest]
    return {"invoices": [describe_invoice(row) for row in _page(call, rows)]}


def _page(call: Call, rows: list[InvoiceRow]) -> list[InvoiceRow]:
    if call["index"] == "updated":
        rows = sorted((row for row in rows if row.updated_index), key=lambda row: row.updated_index or 0)
        rows = [row for row in rows if (row.updated_index or 0) >= call["start"]]
    elif call["index"] == "created":
        rows = [row for row in rows if row.created_index >= call["start"]]
    return rows if call["limit"] is None else rows[: call["limit"]]


def parse_invoice(name: str, text: str) -> Invoice:
    """Decodes an invoice given as parameter. Raises RpcError -32602 as CLN words it."""
    try:
        return decode_invoice(text)
    except Bolt11Error as error:
        raise RpcError(INVALID_PARAMS, f"Invalid bolt11 {name}: {error}") from error


def parse_bolt12(name: str, text: str) -> Records:
    """Decodes an invoice of an offer. Raises RpcError -32602 as CLN words it."""
    try:
        return bolt12.decode(text, bolt12.INVOICE)
    except Bolt12Error as error:
        raise RpcError(INVALID_PARAMS, f"Invalid bolt12 {name}: {error}") from error


def is_bolt12(text: str) -> bool:
    """Whether a text begins as an offer, request or invoice does."""
    return text.lower().startswith(("lno1", "lnr1", "lni1"))


def invoice_hash(name: str, text: str) -> str:
    """The payment hash of an invoice of either kind. Raises RpcError -32602."""
    if is_bolt12(text):
        return parse_bolt12(name, text)[bolt12.PAYMENT_HASH].hex()
    return parse_invoice(name, text).payment_hash


@command("delinvoice", req("label", _label), req("status", string), opt("desconly", boolean, False))
async def delinvoice(call: Call) -> Result:
    """Forgets an invoice in the given state, or only its description."""
    book, wanted = _book(call.node), call["status"]
    if wanted not in (PAID, UNPAID, EXPIRED):
        raise bad_param("status", "should be one of paid, unpaid, expired", wanted)
    row = book.by_label(call["label"])
    if row is None:
        raise RpcError(INVOICE_NOT_FOUND, "Unknown invoice")
    if row.status != wanted:
        text = f"Invoice status is {row.status} not {wanted}"
        data = {"current_status": row.status, "expected_status": wanted}
        raise RpcError(INVOICE_STATUS_UNEXPECTED, text, data)
    if call["desconly"]:
        if row.description is None:
            raise RpcError(INVOICE_NO_DESCRIPTION, "Invoice description already removed")
        book.clear_description(row.label)
        row = book.by_label(row.label) or row
    else:
        book.delete(row.label)
    return describe_invoice(row)


@command("waitinvoice", req("label", _label))
async def waitinvoice(call: Call) -> Result:
    """Returns when the invoice is paid; fails when it expires."""
    while True:
        row = _book(call.node).by_label(call["label"])
        if row is None:
            raise RpcError(LIGHTNINGD, "Label not found")
        if row.status == PAID:
            return describe_invoice(row)
        if row.status == EXPIRED:
            raise RpcError(INVOICE_EXPIRED_DURING_WAIT, "invoice expired during wait", describe_invoice(row))
        try:
            left = max(row.expires_at - time.time(), 0.0) + 0.05
            await asyncio.wait_for(call.node.world.invoice_paid.wait(), left)
        except TimeoutError:
            continue


@command("waitanyinvoice", opt("lastpay_index", u64, 0), opt("timeout", u64))
async def waitanyinvoice(call: Call) -> Result:
    """The first invoice paid after an index; waits for it."""
    book = _book(call.node)
    try:
        async with asyncio.timeout(call["timeout"]):
            while (row := book.next_paid(call["lastpay_index"])) is None:
                await call.node.world.invoice_paid.wait()
    except TimeoutError as error:
        text = "Timed out while waiting for invoice to be paid"
        raise RpcError(INVOICE_WAIT_TIMED_OUT, text) from error
    return describe_invoice(row)


@command("decode", req("string", string))
async def decode(call: Call) -> Result:
    """What an invoice, an offer or a rune says."""
    text = call["string"]
    if is_bolt12(text):
        prefix = text[:3].lower()
        try:
            return bolt12.describe(prefix, bolt12.decode(text, prefix))
        except Bolt12Error as error:
            raise bad_param("string", str(error), text) from error
    try:
        return _describe_bolt11(decode_invoice(text))
    except Bolt11Error:
        pass
    try:
        rune = parse_rune(text)
    except RuneError as error:
        raise bad_param("string", "Unparsable string", text) from error
    return _describe_rune(rune)


def _describe_bolt11(terms: Invoice) -> Result:
    result: dict[str, Any] = {
        "type": "bolt11 invoice",
        "currency": "bcrt",
        "created_at": terms.created_at,
        "expiry": terms.expiry,
        "payee": terms.payee,
        "min_final_cltv_expiry": terms.min_final_cltv,
        "payment_secret": terms.payment_secret,
        "payment_hash": terms.payment_hash,
        "signature": terms.der_signature,
        "valid": True,
    }
    optional: dict[str, Any] = {
        "amount_msat": terms.amount_msat,
        "description": terms.description,
        "description_hash": terms.description_hash,
        "features": terms.features or None,
        "payment_metadata": terms.metadata,
    }
    if terms.routes:
        optional["routes"] = [[hint.describe()] for hint in terms.routes]
    if terms.extra:
        optional["extra"] = [{"tag": tag, "data": data} for tag, data in terms.extra]
    return result | {name: value for name, value in optional.items() if value is not None}


def _describe_rune(rune: Rune) -> Result:
    result: dict[str, Any] = {"type": "rune"}
    if rune.unique_id is not None:
        result["unique_id"] = rune.unique_id
    if rune.version is not None:
        result["version"] = rune.version
    text = "&".join("|".join(a.encode() for a in restriction) for restriction in rune.restrictions)
    return result | {
        "string": f"{rune.code.hex()}:{text}",
        "restrictions": [
            {
                "alternatives": [f"{a.field}{a.condition}{a.value}" for a in restriction],
                "summary": " OR ".join(f"{a.english}" for a in restriction),
            }
            for restriction in rune.conditions
        ],
        "hex": (rune.code + text.encode()).hex(),
        "valid": True,
    }
