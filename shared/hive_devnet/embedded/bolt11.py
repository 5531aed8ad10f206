"""BOLT 11 invoices: signed encoding and strict decoding for regtest (`lnbcrt`)."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import coincurve

from hive_devnet.embedded import bech32

PREFIX = "lnbcrt"
DEFAULT_EXPIRY = 3600
DEFAULT_CLTV = 18
_CHARSET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_HINT_BYTES = 51
_MSAT_PER_BTC = 100_000_000_000
_UNITS = {"": Fraction(1), "m": Fraction(1, 10**3), "u": Fraction(1, 10**6), "n": Fraction(1, 10**9)}
_UNITS["p"] = Fraction(1, 10**12)


class Bolt11Error(ValueError):
    """The text is no valid invoice of this network."""


@dataclass(frozen=True)
class Hint:
    """A last hop to the payee over a channel that the payer may not know."""

    pubkey: str
    scid: str
    fee_base_msat: int
    fee_ppm: int
    cltv_delta: int

    def to_bytes(self) -> bytes:
        """As BOLT 11 writes it: 51 bytes."""
        block, tx, out = map(int, self.scid.split("x"))
        number = block << 40 | tx << 16 | out
        return bytes.fromhex(self.pubkey) + struct.pack(
            ">QIIH", number, self.fee_base_msat, self.fee_ppm, self.cltv_delta
        )

    @classmethod
    def of_bytes(cls, data: bytes) -> Hint:
        """What `to_bytes` wrote."""
        number, base, ppm, delta = struct.unpack(">QIIH", data[33:_HINT_BYTES])
        scid = f"{number >> 40}x{number >> 16 & 0xFFFFFF}x{number & 0xFFFF}"
        return cls(data[:33].hex(), scid, base, ppm, delta)

    def describe(self) -> dict[str, object]:
        """As `decode` shows it."""
        return {
            "pubkey": self.pubkey,
            "short_channel_id": self.scid,
            "fee_base_msat": self.fee_base_msat,
            "fee_proportional_millionths": self.fee_ppm,
            "cltv_expiry_delta": self.cltv_delta,
        }


@dataclass(frozen=True)
class Invoice:
    """An invoice. `amount_msat` None means any amount; exactly one of the descriptions is set."""

    payee: str
    payment_hash: str
    payment_secret: str
    created_at: int
    amount_msat: int | None = None
    description: str | None = None
    description_hash: str | None = None
    expiry: int = DEFAULT_EXPIRY
    min_final_cltv: int = DEFAULT_CLTV
    features: str = ""
    metadata: str | None = None
    signature: bytes = b""
    extra: tuple[tuple[str, str], ...] = field(default=())
    routes: tuple[Hint, ...] = ()

    @property
    def expires_at(self) -> int:
        """Unix time after which it must not be paid."""
        return self.created_at + self.expiry

    @property
    def der_signature(self) -> str:
        """The signature in DER, as `decode` shows it."""
        return _der(self.signature[:64]).hex()


def encode_invoice(invoice: Invoice, sign: Callable[[bytes], bytes]) -> str:
    """The bech32 text; `sign` makes the 65-byte recoverable signature of a digest."""
    hrp = PREFIX + _encode_amount(invoice.amount_msat)
    groups = _integer(invoice.created_at, 7)
    groups += _field("s", bech32.to_five_bits(bytes.fromhex(invoice.payment_secret)))
    groups += _field("p", bech32.to_five_bits(bytes.fromhex(invoice.payment_hash)))
    if invoice.description_hash is not None:
        groups += _field("h", bech32.to_five_bits(bytes.fromhex(invoice.description_hash)))
    else:
        groups += _field("d", bech32.to_five_bits((invoice.description or "").encode()))
    groups += _field("x", _integer(invoice.expiry))
    groups += _field("c", _integer(invoice.min_final_cltv))
    if invoice.features:
        groups += _field("9", _feature_groups(invoice.features))
    if invoice.metadata is not None:
        groups += _field("m", bech32.to_five_bits(bytes.fromhex(invoice.metadata)))
    for hint in invoice.routes:
        groups += _field("r", bech32.to_five_bits(hint.to_bytes()))
    signature = sign(_digest(hrp, groups))
    return bech32.encode(hrp, groups + bech32.to_five_bits(signature))


def decode_invoice(text: str) -> Invoice:
    """Decodes and verifies an invoice; a `lightning:` prefix is let through. Raises Bolt11Error."""
    plain = text[10:] if text.lower().startswith("lightning:") else text
    try:
        hrp, groups, constant = bech32.decode(plain)
    except ValueError as error:
        raise Bolt11Error("Bad bech32 string") from error
    if constant != bech32.BECH32:
        raise Bolt11Error("Bad bech32 string")
    if not hrp.startswith("ln"):
        raise Bolt11Error("Prefix does not start with ln")
    if not hrp.startswith(PREFIX):
        raise Bolt11Error(f"Prefix {hrp} is not for regtest")
    if len(groups) < 7 + 104:
        raise Bolt11Error("Can't get timestamp or signature")
    amount = _decode_amount(hrp.removeprefix(PREFIX))
    body, signature = groups[:-104], bech32.to_bytes(groups[-104:])
    fields = _fields(body[7:])
    payee = _verify(_digest(hrp, body), signature, fields)
    return replace(_build(fields, payee, _number(body[:7]), amount, signature), routes=_hints_in(body[7:]))


def _build(
    fields: dict[str, list[int]], payee: str, created_at: int, amount: int | None, signature: bytes
) -> Invoice:
    if "p" not in fields:
        raise Bolt11Error("No valid 'p' field found")
    if "s" not in fields:
        raise Bolt11Error("Missing required payment secret (s field)")
    if "d" not in fields and "h" not in fields:
        raise Bolt11Error("must have either 'd' or 'h' field")
    description = None
    if "d" in fields:
        try:
            description = bech32.to_bytes(fields["d"], strict=False).decode()
        except UnicodeDecodeError as error:
            raise Bolt11Error("d: invalid utf8") from error
    known = "psdhxc9mnr"
    return Invoice(
        payee=payee,
        payment_hash=_hex(fields["p"]),
        payment_secret=_hex(fields["s"]),
        created_at=created_at,
        amount_msat=amount,
        description=description,
        description_hash=_hex(fields["h"]) if "h" in fields else None,
        expiry=_number(fields["x"]) if "x" in fields else DEFAULT_EXPIRY,
        min_final_cltv=_number(fields["c"]) if "c" in fields else DEFAULT_CLTV,
        features=_feature_hex(fields.get("9", [])),
        metadata=_hex(fields["m"]) if "m" in fields else None,
        signature=signature,
        extra=tuple((tag, _hex(data)) for tag, data in fields.items() if tag not in known),
    )


def _verify(digest: bytes, signature: bytes, fields: dict[str, list[int]]) -> str:
    try:
        key = coincurve.PublicKey.from_signature_and_message(signature, digest, hasher=None)
    except Exception as error:  # coincurve raises bare Exception and ValueError alike
        raise Bolt11Error("signature recovery failed") from error
    if "n" in fields and _hex(fields["n"]) != key.format().hex():
        raise Bolt11Error("invalid signature")
    return str(key.format().hex())


def _hints_in(groups: Sequence[int]) -> tuple[Hint, ...]:
    """Every field of hints, each of one hop: the only one that repeats."""
    found, position = [], 0
    while position < len(groups):
        size = groups[position + 1] * 32 + groups[position + 2]
        data = bytes.fromhex(_hex(groups[position + 3 : position + 3 + size]))
        if _CHARSET[groups[position]] == "r" and len(data) == _HINT_BYTES:
            found.append(Hint.of_bytes(data))
        position += 3 + size
    return tuple(found)


def _fields(groups: Sequence[int]) -> dict[str, list[int]]:
    fields: dict[str, list[int]] = {}
    lengths = {"p": 52, "h": 52, "s": 52, "n": 53}
    position = 0
    while position < len(groups):
        if position + 3 > len(groups):
            raise Bolt11Error("Can't get length")
        tag = _CHARSET[groups[position]]
        size = groups[position + 1] * 32 + groups[position + 2]
        data = list(groups[position + 3 : position + 3 + size])
        position += 3 + size
        if len(data) != size:
            raise Bolt11Error(f"{tag}: truncated")
        # BOLT 11: fields of fixed length with another length are skipped, of doubles the first counts.
        if size == lengths.get(tag, size):
            fields.setdefault(tag, data)
    return fields


def _digest(hrp: str, groups: Sequence[int]) -> bytes:
    bits = len(groups) * 5
    data = _number(groups) << (-bits % 8)
    return hashlib.sha256(hrp.encode() + data.to_bytes(-(-bits // 8), "big")).digest()


def _encode_amount(amount_msat: int | None) -> str:
    if amount_msat is None:
        return ""
    for unit in ("", "m", "u", "n", "p"):
        number = Fraction(amount_msat, _MSAT_PER_BTC) / _UNITS[unit]
        if number.denominator == 1:
            return f"{number.numerator}{unit}"
    raise Bolt11Error(f"{amount_msat} msat cannot be written")


def _decode_amount(text: str) -> int | None:
    if not text:
        return None
    unit = text[-1] if text[-1] in "munp" else ""
    digits = text.removesuffix(unit)
    if not digits.isdigit() or digits.startswith("0"):
        raise Bolt11Error(f"Invalid amount '{text}'")
    amount = int(digits) * _UNITS[unit] * _MSAT_PER_BTC
    if amount.denominator != 1:
        raise Bolt11Error(f"Invalid sub-millisatoshi amount '{text}'")
    return amount.numerator


def _field(tag: str, data: list[int]) -> list[int]:
    return [_CHARSET.index(tag), len(data) >> 5, len(data) & 31, *data]


def _integer(number: int, size: int | None = None) -> list[int]:
    groups: list[int] = []
    while number or not groups:
        groups.insert(0, number & 31)
        number >>= 5
    return [0] * ((size or len(groups)) - len(groups)) + groups


def _number(groups: Sequence[int]) -> int:
    value = 0
    for group in groups:
        value = value << 5 | group
    return value


def _feature_groups(features: str) -> list[int]:
    return _integer(int(features, 16))


def _feature_hex(groups: Sequence[int]) -> str:
    value = _number(groups)
    return value.to_bytes(-(-value.bit_length() // 8), "big").hex()


def _hex(groups: Sequence[int]) -> str:
    return bech32.to_bytes(groups, strict=False).hex()


def _der(compact: bytes) -> bytes:
    parts = b""
    for part in (compact[:32], compact[32:]):
        number = part.lstrip(b"\0") or b"\0"
        number = b"\0" + number if number[0] & 0x80 else number
        parts += b"\x02" + bytes([len(number)]) + number
    return b"\x30" + bytes([len(parts)]) + parts
