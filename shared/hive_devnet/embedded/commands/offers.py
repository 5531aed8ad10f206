"""offer, listoffers, disableoffer, enableoffer, fetchinvoice, cancelrecurringinvoice."""

from __future__ import annotations

import asyncio
import re
import struct
from typing import Any

from hive_devnet.embedded import bolt12
from hive_devnet.embedded.bolt12 import Bolt12Error, Records, of_tu, tu
from hive_devnet.embedded.errors import INVALID_PARAMS, LIGHTNINGD, METHOD_NOT_FOUND, RpcError
from hive_devnet.embedded.ledger.offers import OfferBook, OfferRow
from hive_devnet.embedded.node import EmbeddedNode
from hive_devnet.embedded.params import (
    array,
    bad_param,
    boolean,
    escaped_string,
    hex_bytes,
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
from hive_devnet.embedded.requester import Requester, Wish

_ALREADY_EXISTS, _ALREADY_DISABLED, _ALREADY_ENABLED, _USED_SINGLE_USE = 1000, 1001, 1006, 1007
_TIMEOUT = 1005
_UNITS = {
    "second": (0, 1),
    "minute": (0, 60),
    "hour": (0, 3_600),
    "day": (1, 1),
    "week": (1, 7),
    "month": (2, 1),
    "year": (2, 12),
}
_TIME = re.compile(r"([0-9]+)\s*([a-z]+?)s?")
_WINDOW = re.compile(r"-([0-9]{1,9})\+([0-9]{1,9})")
_CURRENCY = re.compile(r"[0-9]+(?:\.[0-9]+)?[A-Z]{3}")
_NEEDS_RECURRENCE = ("recurrence_limit", "recurrence_base", "recurrence_paywindow")


def _book(node: EmbeddedNode) -> OfferBook:
    return OfferBook(node.world.database, node.node_id)


def _amount(name: str, value: Any) -> int | None:
    if value == "any":
        return None
    amount = parse_msat(token_text(value)) if isinstance(value, int | str) else None
    if amount is not None:
        return amount
    if isinstance(value, str) and _CURRENCY.fullmatch(value):
        raise RpcError(METHOD_NOT_FOUND, "Unknown command 'currencyconvert'")
    raise bad_param(name, "should be 'any', msatoshis or <amount>[.<amount>]<ISO-4217>", value)


def _recurrence(name: str, value: Any) -> bytes:
    found = _TIME.fullmatch(value) if isinstance(value, str) else None
    unit = _UNITS.get(found[2]) if found is not None else None
    if found is None or unit is None:
        raise bad_param(name, "not a valid time", value)
    return bytes([unit[0]]) + tu(int(found[1]) * unit[1])


def _paywindow(name: str, value: Any) -> bytes:
    found = _WINDOW.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise bad_param(name, "expected -time+time", value)
    return struct.pack(">I", int(found[1])) + tu(int(found[2]))


@command(
    "offer",
    req("amount", _amount),
    opt("description", escaped_string),
    opt("issuer", escaped_string),
    opt("label", escaped_string),
    opt("quantity_max", u64),
    opt("absolute_expiry", u64),
    opt("recurrence", _recurrence),
    opt("recurrence_base", u64),
    opt("recurrence_paywindow", _paywindow),
    opt("recurrence_limit", number),
    opt("single_use", boolean, False),
    opt("proportional_amount", boolean, False),
    opt("optional_recurrence", boolean, False),
    opt("fronting_nodes", array),
    opt("dev_paths", array),
    checks=True,
)
async def offer(call: Call) -> Result:
    """Makes an offer, or finds the same one."""
    records = _records(call)
    text = bolt12.encode(bolt12.OFFER, records)
    try:
        bolt12.decode(text, bolt12.OFFER)
    except Bolt12Error as error:
        raise bad_param("bolt12", str(error), text) from error
    if call.check_only:
        return {}
    book, offer_id = _book(call.node), bolt12.offer_id(records)
    known = book.get(offer_id)
    if known is not None and not known.active:
        raise RpcError(_ALREADY_EXISTS, "Already exists, but isn't active")
    if known is None:
        book.add(OfferRow(offer_id, text, call["label"], call["single_use"], True, False))
    row = known or book.get(offer_id)
    assert row is not None
    return _describe(row, described=False) | {"created": known is None}


def _records(call: Call) -> Records:
    for name in _NEEDS_RECURRENCE:
        if call[name] is not None and call["recurrence"] is None:
            raise bad_param(name, "needs recurrence", call.raw)
    if call["amount"] is not None and call["description"] is None:
        problem = "description is required for the user to know what it was they paid for"
        raise bad_param("description", problem, call.raw)
    if call["proportional_amount"] and call["recurrence_base"] is None:
        raise bad_param("proportional_amount", "proportional_amount needs recurrence_base", call.raw)
    if call["optional_recurrence"] and call["recurrence_base"] is not None:
        raise bad_param("optional_recurrence", "incompatible with recurrence_base", call.raw)
    recurs = bolt12.RECURRENCE_OPTIONAL if call["optional_recurrence"] else bolt12.RECURRENCE
    base = call["recurrence_base"]
    found: dict[int, bytes | None] = {
        bolt12.CHAINS: bolt12.CHAIN,
        bolt12.AMOUNT: None if call["amount"] is None else tu(call["amount"]),
        bolt12.DESCRIPTION: _utf8(call["description"]),
        bolt12.ABSOLUTE_EXPIRY: _tu(call["absolute_expiry"]),
        bolt12.ISSUER: _utf8(call["issuer"]),
        bolt12.QUANTITY_MAX: _tu(call["quantity_max"]),
        bolt12.ISSUER_ID: bytes.fromhex(call.node.node_id),
        recurs: call["recurrence"],
        bolt12.RECURRENCE_BASE: None
        if base is None
        else bytes([int(call["proportional_amount"])]) + tu(base),
        bolt12.PAYWINDOW: call["recurrence_paywindow"],
        bolt12.RECURRENCE_LIMIT: _tu(call["recurrence_limit"]),
    }
    return {kind: value for kind, value in found.items() if value is not None}


def _utf8(value: str | None) -> bytes | None:
    return None if value is None else value.encode()


def _tu(value: int | None) -> bytes | None:
    return None if value is None else tu(value)


def _describe(row: OfferRow, described: bool = True) -> Result:
    shown: dict[str, Any] = {
        "offer_id": row.offer_id,
        "active": row.active,
        "single_use": row.single_use,
        "bolt12": row.bolt12,
        "force_paths": False,
        "used": row.used,
    }
    if row.label is not None:
        shown["label"] = row.label
    records = bolt12.decode(row.bolt12, bolt12.OFFER)
    if described and bolt12.DESCRIPTION in records:
        shown["description"] = records[bolt12.DESCRIPTION].decode()
    return shown


@command("listoffers", opt("offer_id", sha256), opt("active_only", boolean, False))
async def listoffers(call: Call) -> Result:
    """Offers, all or the one asked for."""
    rows = _book(call.node).all()
    if call["offer_id"] is not None:
        rows = [row for row in rows if row.offer_id == call["offer_id"]]
    if call["active_only"]:
        rows = [row for row in rows if row.active]
    return {"offers": [_describe(row) for row in rows]}


def _known(call: Call) -> OfferRow:
    row = _book(call.node).get(call["offer_id"])
    if row is None:
        raise RpcError(LIGHTNINGD, "Unknown offer")
    return row


def _switched(call: Call, row: OfferRow, active: bool) -> Result:
    changed = _book(call.node).set_active(row.offer_id, active)
    return _describe(changed or row)


@command("disableoffer", req("offer_id", sha256))
async def disableoffer(call: Call) -> Result:
    """Gives no more invoices for an offer."""
    row = _known(call)
    if not row.active:
        raise RpcError(_ALREADY_DISABLED, "offer is not active")
    return _switched(call, row, False)


@command("enableoffer", req("offer_id", sha256))
async def enableoffer(call: Call) -> Result:
    """Gives invoices for an offer again."""
    row = _known(call)
    if row.active:
        raise RpcError(_ALREADY_ENABLED, "offer already active")
    if row.single_use and row.used:
        raise RpcError(_USED_SINGLE_USE, "cannot activate an used single use offer")
    return _switched(call, row, True)


def read_offer(name: str, value: Any) -> Records:
    """An offer given as parameter."""
    try:
        return bolt12.decode(token_text(value), bolt12.OFFER)
    except Bolt12Error as error:
        raise bad_param(name, f"Unparsable offer: {error}", value) from error


def _label(name: str, value: Any) -> str:
    if isinstance(value, dict | list | bool):
        raise bad_param(name, "should be a string or number", value)
    return token_text(value)


@command(
    "fetchinvoice",
    req("offer", read_offer),
    opt("amount_msat", msat),
    opt("quantity", u64),
    opt("recurrence_counter", number),
    opt("recurrence_start", number),
    opt("recurrence_label", _label),
    opt("timeout", number, 60),
    opt("payer_note", string),
    opt("payer_metadata", hex_bytes),
    opt("bip353", string),
    opt("dev_path_use_scidd", string),
    opt("dev_reply_path", array),
)
async def fetchinvoice(call: Call) -> Result:
    """Asks the issuer of an offer for an invoice."""
    wish = Wish(
        amount_msat=call["amount_msat"],
        quantity=call["quantity"],
        counter=call["recurrence_counter"],
        start=call["recurrence_start"],
        label=call["recurrence_label"],
        payer_note=call["payer_note"],
        payer_metadata=call["payer_metadata"],
    )
    invoice = await fetched(call.node, call["offer"], wish, float(call["timeout"]))
    result: Result = {"invoice": bolt12.encode(bolt12.INVOICE, invoice), "changes": _changes(invoice)}
    following = _next_period(invoice)
    return result if following is None else result | {"next_period": following}


async def fetched(node: EmbeddedNode, offer: Records, wish: Wish, timeout: float) -> Records:
    """The invoice of an offer. Raises RpcError."""
    requester = Requester(node)
    request = requester.request(offer, wish)
    try:
        async with asyncio.timeout(timeout):
            return await requester.send(request)
    except TimeoutError as error:
        raise RpcError(_TIMEOUT, "Timeout waiting for response") from error


def _changes(invoice: Records) -> dict[str, Any]:
    asked = invoice.get(bolt12.REQUEST_AMOUNT)
    expected = None if asked is None else of_tu(asked)
    if expected is None and bolt12.AMOUNT in invoice:
        expected = of_tu(invoice[bolt12.AMOUNT]) * of_tu(invoice.get(bolt12.QUANTITY, b"\x01"))
    amount = of_tu(invoice[bolt12.INVOICE_AMOUNT])
    return {} if amount == expected else {"amount_msat": amount}


def _next_period(invoice: Records) -> dict[str, int] | None:
    if bolt12.recurrence_of(invoice) is None:
        return None
    counter = of_tu(invoice[bolt12.COUNTER]) + 1
    index = counter + of_tu(invoice.get(bolt12.START, b""))
    limit = invoice.get(bolt12.RECURRENCE_LIMIT)
    if limit is not None and index > of_tu(limit):
        return None
    base = of_tu(invoice[bolt12.BASETIME])
    since, until = bolt12.paywindow(invoice, base, index)
    return {
        "counter": counter,
        "starttime": bolt12.period_start(invoice, base, index),
        "endtime": bolt12.period_start(invoice, base, index + 1) - 1,
        "paywindow_start": since,
        "paywindow_end": until,
    }


@command(
    "cancelrecurringinvoice",
    req("offer", read_offer),
    req("recurrence_counter", number),
    req("recurrence_label", _label),
    opt("recurrence_start", number),
    opt("payer_note", string),
    opt("bip353", string),
)
async def cancelrecurringinvoice(call: Call) -> Result:
    """Tells the issuer that a series of payments ends."""
    if bolt12.recurrence_of(call["offer"]) is None:
        raise RpcError(INVALID_PARAMS, "Not a recurring offer")
    if call["recurrence_counter"] == 0:
        raise bad_param("recurrence_counter", "Must be non-zero", call.raw)
    wish = Wish(
        counter=call["recurrence_counter"],
        start=call["recurrence_start"],
        label=call["recurrence_label"],
        payer_note=call["payer_note"],
        cancel=True,
    )
    requester = Requester(call.node)
    request = requester.request(call["offer"], wish)
    try:
        await requester.send(request)
    except RpcError as error:
        # Nobody waits for an answer; only a message that cannot go out is an error.
        if error.code not in (1004, _TIMEOUT):
            raise
    return {"bolt12": request}
