"""BOLT 12 offers, invoice requests and invoices: records, merkle signatures, and how `decode` shows them.

The recurrence records are Core Lightning's (its wire/extracted_bolt12_01_recurrence.patch).
"""

from __future__ import annotations

import calendar
import hashlib
import struct
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import coincurve
from hive_shared.crypto import schnorr_verify

from hive_devnet.embedded import bech32

OFFER, REQUEST, INVOICE = "lno", "lnr", "lni"
CHAIN: Final = bytes.fromhex("06226e46111a0b59caaf126043eb5bbf28c34f3a5e332a1fc7b2b73cf188910f")
"""The genesis block hash of regtest."""
EXPIRY_S: Final = 7_200
SIGNATURE: Final = 240

METADATA, CHAINS, AMOUNT, DESCRIPTION, ABSOLUTE_EXPIRY = 0, 2, 8, 10, 14
ISSUER, QUANTITY_MAX, ISSUER_ID = 18, 20, 22
REQUEST_CHAIN, REQUEST_AMOUNT, REQUEST_FEATURES, QUANTITY, PAYER_ID, PAYER_NOTE = 80, 82, 84, 86, 88, 89
PATHS, PAYINFO, CREATED_AT, RELATIVE_EXPIRY, PAYMENT_HASH, INVOICE_AMOUNT = 160, 162, 164, 166, 168, 170
INVOICE_FEATURES, NODE_ID, BASETIME = 174, 176, 3_000_000_177
RECURRENCE, RECURRENCE_OPTIONAL, RECURRENCE_BASE = 1_000_000_024, 1_000_000_025, 1_000_000_026
PAYWINDOW, RECURRENCE_LIMIT = 1_000_000_027, 1_000_000_029
COUNTER, START, CANCEL = 2_000_000_092, 2_000_000_093, 2_000_000_094

Records = dict[int, bytes]
_OFFER_RANGES = ((1, 79), (1_000_000_000, 1_999_999_999))
_CHARSET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_UNITS = ("seconds", "days", "months")


class Bolt12Error(ValueError):
    """The text is no valid offer, request or invoice of this network; worded as CLN words it."""


# -- numbers and records --------------------------------------------------------------------------------


def _bigsize(value: int) -> bytes:
    if value < 0xFD:
        return bytes([value])
    if value <= 0xFFFF:
        return b"\xfd" + value.to_bytes(2, "big")
    if value <= 0xFFFFFFFF:
        return b"\xfe" + value.to_bytes(4, "big")
    return b"\xff" + value.to_bytes(8, "big")


def _read_bigsize(data: bytes, at: int) -> tuple[int, int]:
    size = {0xFD: 2, 0xFE: 4, 0xFF: 8}.get(data[at], 0)
    if at + 1 + size > len(data):
        raise IndexError
    value = int.from_bytes(data[at + 1 : at + 1 + size], "big") if size else data[at]
    return value, at + 1 + size


def tu(value: int) -> bytes:
    """An integer without leading zero bytes."""
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def of_tu(data: bytes) -> int:
    """What `tu` wrote."""
    return int.from_bytes(data, "big")


def _record(kind: int, value: bytes) -> bytes:
    return _bigsize(kind) + _bigsize(len(value)) + value


def to_wire(records: Mapping[int, bytes]) -> bytes:
    """The records as a TLV stream."""
    return b"".join(_record(kind, records[kind]) for kind in sorted(records))


def of_wire(data: bytes) -> Records:
    """A TLV stream's records. Raises ValueError."""
    records: Records = {}
    at, last = 0, -1
    try:
        while at < len(data):
            kind, at = _read_bigsize(data, at)
            size, at = _read_bigsize(data, at)
            if kind <= last or at + size > len(data):
                raise ValueError("records out of order or cut off")
            records[kind], last = data[at : at + size], kind
            at += size
    except IndexError as error:
        raise ValueError("a record is cut off") from error
    return records


# -- text -----------------------------------------------------------------------------------------------


def encode(prefix: str, records: Mapping[int, bytes]) -> str:
    """The text of a TLV stream: bech32 letters without a checksum."""
    return prefix + "1" + "".join(_CHARSET[group] for group in bech32.to_five_bits(to_wire(records)))


def decode(text: str, prefix: str) -> Records:
    """Records of a text, checked for what every reader needs. Raises Bolt12Error."""
    joined = text.lower() if text == text.upper() else text
    hrp, separator, rest = joined.rpartition("1")
    if not separator or any(letter not in _CHARSET for letter in rest):
        raise Bolt12Error("invalid bech32 string")
    if hrp != prefix:
        raise Bolt12Error(f"unexpected prefix {hrp}")
    name = {OFFER: "offer", REQUEST: "invreq", INVOICE: "invoice"}[prefix]
    try:
        wire = bech32.to_bytes([_CHARSET.index(letter) for letter in rest])
    except ValueError as error:
        raise Bolt12Error("invalid bech32 string") from error
    try:
        records = of_wire(wire)
    except ValueError as error:
        raise Bolt12Error(f"invalid {name} data") from error
    {OFFER: _check_offer, REQUEST: _check_request, INVOICE: _check_invoice}[prefix](records)
    return records


def _check_offer(records: Records) -> None:
    chains = records.get(CHAINS, b"")
    if CHAIN not in (chains[at : at + 32] for at in range(0, len(chains), 32)):
        raise Bolt12Error("wrong chain")
    for kind in records:
        if not any(low <= kind <= high for low, high in _OFFER_RANGES):
            raise Bolt12Error(f"Offer {kind} field outside offer range")
    if AMOUNT in records and DESCRIPTION not in records:
        raise Bolt12Error("Offer does not contain a description, but contains an amount")
    if AMOUNT in records and not of_tu(records[AMOUNT]):
        raise Bolt12Error("Offer contains a zero amount")
    if ISSUER_ID in records and not _is_point(records[ISSUER_ID]):
        raise Bolt12Error("invalid offer data")
    if ISSUER_ID not in records:
        raise Bolt12Error("Offer does not contain an issuer_id or paths")
    recurrence = recurrence_of(records)
    if recurrence is None:
        if any(kind in records for kind in (PAYWINDOW, RECURRENCE_LIMIT, RECURRENCE_BASE)):
            raise Bolt12Error("Offer contains recurrence fields but no recurrence")
        return
    if recurrence[0] >= len(_UNITS):
        raise Bolt12Error(f"Offer contains invalid recurrence time_unit {recurrence[0]}")
    if not recurrence[1]:
        raise Bolt12Error("Offer contains invalid recurrence period 0")
    if RECURRENCE_LIMIT in records and not of_tu(records[RECURRENCE_LIMIT]):
        raise Bolt12Error("Offer contains invalid recurrence limit 0")


def _is_point(data: bytes) -> bool:
    try:
        coincurve.PublicKey(data)
    except ValueError:
        return False
    return True


def _check_request(records: Records) -> None:
    if records.get(REQUEST_CHAIN) != CHAIN:
        raise Bolt12Error("wrong chain")


def _check_invoice(records: Records) -> None:
    _check_request(records)
    if NODE_ID not in records:
        raise Bolt12Error("Missing node_id")
    if SIGNATURE not in records:
        raise Bolt12Error("Missing signature")
    digest = signature_digest("invoice", records)
    if not schnorr_verify(records[NODE_ID][1:].hex(), digest, records[SIGNATURE].hex()):
        raise Bolt12Error("Invalid signature")
    for kind, name in (
        (INVOICE_AMOUNT, "invoice_amount"),
        (CREATED_AT, "invoice_created_at"),
        (PAYMENT_HASH, "invoice_payment_hash"),
    ):
        if kind not in records:
            raise Bolt12Error(f"missing {name}")
    if PATHS not in records or PAYINFO not in records:
        raise Bolt12Error("missing/empty invoice_paths")


# -- ids and signatures ---------------------------------------------------------------------------------


def offer_id(records: Mapping[int, bytes]) -> str:
    """The id of an offer, also out of a request or invoice for it."""
    own = {k: v for k, v in records.items() if any(low <= k <= high for low, high in _OFFER_RANGES)}
    return hashlib.sha256(to_wire(own)).hexdigest()


def _tagged(tag: bytes, *parts: bytes) -> bytes:
    digest = hashlib.sha256(tag).digest()
    return hashlib.sha256(digest + digest + b"".join(parts)).digest()


def _branch(a: bytes, b: bytes) -> bytes:
    return _tagged(b"LnBranch", min(a, b), max(a, b))


def _tree(leaves: list[bytes]) -> bytes:
    while len(leaves) > 1:
        pairs = [leaves[at : at + 2] for at in range(0, len(leaves), 2)]
        leaves = [_branch(*pair) if len(pair) == 2 else pair[0] for pair in pairs]
    return leaves[0]


def merkle_root(records: Mapping[int, bytes]) -> bytes:
    """The root over all records that are no signature."""
    kinds = sorted(records)
    first = _record(kinds[0], records[kinds[0]])
    leaves = [
        _branch(_tagged(b"LnLeaf", _record(kind, records[kind])), _tagged(b"LnNonce" + first, _bigsize(kind)))
        for kind in kinds
        if not 240 <= kind <= 1000
    ]
    return _tree(leaves)


def signature_digest(message: str, records: Mapping[int, bytes]) -> bytes:
    """What is signed of an `invoice` or `invoice_request`."""
    return _tagged(f"lightning{message}signature".encode(), merkle_root(records))


def signed(message: str, records: Mapping[int, bytes], sign: Callable[[bytes], bytes]) -> Records:
    """The records with their signature."""
    return {**records, SIGNATURE: sign(signature_digest(message, records))}


def request_signed(records: Mapping[int, bytes]) -> bool:
    """Whether a request carries its payer's signature."""
    if SIGNATURE not in records:
        return False
    digest = signature_digest("invoice_request", records)
    return schnorr_verify(records[PAYER_ID][1:].hex(), digest, records[SIGNATURE].hex())


# -- recurrence -----------------------------------------------------------------------------------------


def expires_at(records: Mapping[int, bytes]) -> int:
    """When an invoice ends (Unix seconds)."""
    left = of_tu(records[RELATIVE_EXPIRY]) if RELATIVE_EXPIRY in records else EXPIRY_S
    return of_tu(records[CREATED_AT]) + left


def recurrence_of(records: Mapping[int, bytes]) -> tuple[int, int, bool] | None:
    """(time unit, period, compulsory) of an offer that recurs."""
    for kind, compulsory in ((RECURRENCE, True), (RECURRENCE_OPTIONAL, False)):
        if kind in records:
            return records[kind][0], of_tu(records[kind][1:]), compulsory
    return None


def _add_months(at: int, months: int) -> int:
    moment = datetime.fromtimestamp(at, UTC)
    years, month = divmod(moment.month - 1 + months, 12)
    year = moment.year + years
    day = min(moment.day, calendar.monthrange(year, month + 1)[1])
    return int(moment.replace(year=year, month=month + 1, day=day).timestamp())


def period_start(records: Mapping[int, bytes], base: int, index: int) -> int:
    """When a period of a recurring offer begins (Unix seconds); `base` is when the first one did."""
    recurrence = recurrence_of(records)
    if recurrence is None:
        raise ValueError("the offer does not recur")
    unit, period, _ = recurrence
    return _add_months(base, period * index) if unit == 2 else base + period * index * (86_400 if unit else 1)


def paywindow(records: Mapping[int, bytes], base: int, index: int) -> tuple[int, int]:
    """When a period's invoice may be fetched, from and until (Unix seconds)."""
    start = period_start(records, base, index)
    if (window := records.get(PAYWINDOW)) is None:
        since = period_start(records, base, index - 1) if index else 0
        return since, period_start(records, base, index + 1) - 1
    before, after = of_tu(window[:4]), of_tu(window[4:])
    if RECURRENCE_BASE not in records and index == 0:
        after = max(after, 60)
    return start - before, start + after


# -- what decode shows ----------------------------------------------------------------------------------


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _chains(value: bytes) -> list[str]:
    return [value[at : at + 32].hex() for at in range(0, len(value), 32)]


_SHOWN: Final[Mapping[int, tuple[str, Callable[[bytes], Any]]]] = {
    CHAINS: ("offer_chains", _chains),
    AMOUNT: ("offer_amount_msat", of_tu),
    DESCRIPTION: ("offer_description", _text),
    ABSOLUTE_EXPIRY: ("offer_absolute_expiry", of_tu),
    ISSUER: ("offer_issuer", _text),
    QUANTITY_MAX: ("offer_quantity_max", of_tu),
    ISSUER_ID: ("offer_issuer_id", bytes.hex),
    METADATA: ("invreq_metadata", bytes.hex),
    PAYER_ID: ("invreq_payer_id", bytes.hex),
    REQUEST_CHAIN: ("invreq_chain", bytes.hex),
    REQUEST_AMOUNT: ("invreq_amount_msat", of_tu),
    REQUEST_FEATURES: ("invreq_features", bytes.hex),
    QUANTITY: ("invreq_quantity", of_tu),
    PAYER_NOTE: ("invreq_payer_note", _text),
    COUNTER: ("invreq_recurrence_counter", of_tu),
    START: ("invreq_recurrence_start", of_tu),
    CREATED_AT: ("invoice_created_at", of_tu),
    RELATIVE_EXPIRY: ("invoice_relative_expiry", of_tu),
    PAYMENT_HASH: ("invoice_payment_hash", bytes.hex),
    INVOICE_AMOUNT: ("invoice_amount_msat", of_tu),
    INVOICE_FEATURES: ("invoice_features", bytes.hex),
    NODE_ID: ("invoice_node_id", bytes.hex),
    BASETIME: ("invoice_recurrence_basetime", of_tu),
    SIGNATURE: ("signature", bytes.hex),
}


def _describe_recurrence(records: Mapping[int, bytes]) -> dict[str, Any] | None:
    recurrence = recurrence_of(records)
    if recurrence is None:
        return None
    unit, period, compulsory = recurrence
    shown: dict[str, Any] = {
        "compulsory_field": compulsory,
        "time_unit": unit,
        "time_unit_name": _UNITS[unit],
        "period": period,
    }
    if (base := records.get(RECURRENCE_BASE)) is not None:
        shown |= {"basetime": of_tu(base[1:]), "proportional_amount": bool(base[0])}
    if (limit := records.get(RECURRENCE_LIMIT)) is not None:
        shown["limit"] = of_tu(limit)
    if (window := records.get(PAYWINDOW)) is not None:
        before, after = of_tu(window[:4]), of_tu(window[4:])
        shown["paywindow"] = {"seconds_before": before, "seconds_after": after}
    return shown


def describe(prefix: str, records: Mapping[int, bytes]) -> dict[str, Any]:
    """As `decode` shows it."""
    kind = {OFFER: "offer", REQUEST: "invoice request", INVOICE: "invoice"}[prefix]
    shown: dict[str, Any] = {"type": f"bolt12 {kind}", "offer_id": offer_id(records)}
    for number, (name, read) in _SHOWN.items():
        if number in records:
            shown[name] = read(records[number])
    if prefix == INVOICE:
        shown.setdefault("invoice_relative_expiry", EXPIRY_S)
    if (recurrence := _describe_recurrence(records)) is not None:
        shown["offer_recurrence"] = recurrence
    if PATHS in records:
        shown["invoice_paths"] = [describe_path(records)]
    return shown | {"valid": True}


def make_path(
    node_id: str, path_key: bytes, blinded_id: bytes, data: bytes, cltv: int
) -> tuple[bytes, bytes]:
    """One blinded hop at the payee itself, and its terms (records PATHS and PAYINFO)."""
    hop = blinded_id + struct.pack(">H", len(data)) + data
    path = bytes.fromhex(node_id) + path_key + b"\x01" + hop
    return path, struct.pack(">IIHQQH", 0, 0, cltv, 0, 2_100_000_000_000_000_000, 0)


def path_data(records: Mapping[int, bytes]) -> bytes:
    """What the payee put into its own blinded hop."""
    return records[PATHS][102:]


def path_cltv(records: Mapping[int, bytes]) -> int:
    """Blocks that the last hop needs."""
    return int(struct.unpack(">IIHQQH", records[PAYINFO])[2])


def describe_path(records: Mapping[int, bytes]) -> dict[str, Any]:
    """The one path of an invoice as `decode` shows it."""
    path = records[PATHS]
    base, ppm, cltv, least, most, _ = struct.unpack(">IIHQQH", records[PAYINFO])
    return {
        "first_node_id": path[:33].hex(),
        "first_path_key": path[33:66].hex(),
        "payinfo": {
            "fee_base_msat": base,
            "fee_proportional_millionths": ppm,
            "cltv_expiry_delta": cltv,
            "htlc_minimum_msat": least,
            "htlc_maximum_msat": most,
            "features": "",
        },
        "path": [{"blinded_node_id": path[67:100].hex(), "encrypted_recipient_data": path[102:].hex()}],
    }


def payment_secret(records: Mapping[int, bytes]) -> str:
    """What shows the payee that a payment came by its own path: here of what it put into its hop."""
    return hashlib.sha256(path_data(records)).hexdigest()
