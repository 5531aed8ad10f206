"""Ecash as text: tokens V3 (`cashuA`, JSON) and V4 (`cashuB`, CBOR).

One token is of one mint, in sat, at most 256 KiB and 1,000 proofs (docs/protocol/03-escrow-and-payments.md
§5, NUT-00). A token that decodes is well formed and no more: whether its signatures are the mint's and its
conditions ours is checked by who receives it.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from hive_shared.canonical import DecodeError, decode_object, encode
from hive_shared.cashu import cbor
from hive_shared.cashu.keysets import SHORT_ID_HEX
from hive_shared.cashu.reasons import TokenInvalid
from hive_shared.cashu.wire import MAX_AMOUNT, Dleq, Proof

MAX_TOKEN_BYTES: Final = 256 * 1024
MAX_PROOFS: Final = 1_000
MAX_SECRET_CHARS: Final = 1_024
"""Longest secret any mint lets spend; conditions of ours are shorter (`secrets.MAX_MULTI_KEY`)."""
_URI: Final = "cashu:"
_BASE64: Final = re.compile(r"[A-Za-z0-9_-]+={0,2}").fullmatch
_POINT: Final = re.compile(r"0[23][0-9a-f]{64}").fullmatch
_SCALAR: Final = re.compile(r"[0-9a-f]{64}").fullmatch
_KEYSET_ID: Final = re.compile(r"00[0-9a-f]{14}|01[0-9a-f]{14}(?:[0-9a-f]{50})?").fullmatch
_MAX_URL: Final = 1_024
_MAX_WITNESS: Final = 4_096


class Token(msgspec.Struct, frozen=True):
    """Ecash of one mint. `mint` as the sender wrote it; keyset ids of V4 may be short (`keysets.expand`)."""

    mint: str
    proofs: tuple[Proof, ...]
    memo: str | None = None

    @property
    def amount_sats(self) -> int:
        """Sum of the proofs, before the mint's fee."""
        return sum(each.amount for each in self.proofs)

    def __repr__(self) -> str:
        return f"<token of {self.amount_sats} sat at {self.mint}>"


def decode_token(text: str) -> Token:
    """Read a token of either version, with or without `cashu:` before it.

    Raises TokenInvalid: `token_size`, `token_form`, `unit`, `mint`, `amount`, `keyset`, `secret_length`,
    `point`, `dleq`, `repeated_secret`.
    """
    if len(text) > MAX_TOKEN_BYTES:
        raise TokenInvalid("token_size", f"token has {len(text)} characters, at most {MAX_TOKEN_BYTES}")
    body = text.removeprefix(_URI)
    version, rest = body[:6], body[6:]
    if version not in ("cashuA", "cashuB"):
        raise TokenInvalid("token_form", "a token begins with cashuA or cashuB")
    data = _base64(rest)
    token = _read_v3(data) if version == "cashuA" else _read_v4(data)
    if not token.proofs:
        raise TokenInvalid("token_form", "the token holds no proofs")
    secrets = {each.secret for each in token.proofs}
    if len(secrets) != len(token.proofs):
        raise TokenInvalid(
            "repeated_secret", "two proofs of the token have one secret: only one can be spent"
        )
    return token


def encode_token(token: Token) -> str:
    """The V4 text with short keyset ids, proofs grouped by keyset in their order, padding left out."""
    groups: dict[str, list[cbor.CborValue]] = {}
    for proof in token.proofs:
        fields: dict[str, cbor.CborValue] = {
            "a": proof.amount,
            "s": proof.secret,
            "c": bytes.fromhex(proof.C),
        }
        if proof.dleq is not None:
            scalars = {"e": proof.dleq.e, "s": proof.dleq.s, "r": proof.dleq.r}
            fields["d"] = {name: bytes.fromhex(value) for name, value in scalars.items() if value is not None}
        if proof.witness is not None:
            fields["w"] = proof.witness
        groups.setdefault(proof.id, []).append(fields)
    shorts = [keyset_id[:SHORT_ID_HEX] for keyset_id in groups]
    parts: list[cbor.CborValue] = [
        # A short id that fits two of the token's own keysets would be refused by every reader.
        {"i": bytes.fromhex(short if shorts.count(short) == 1 else keyset_id), "p": proofs}
        for short, (keyset_id, proofs) in zip(shorts, groups.items(), strict=True)
    ]
    whole: dict[str, cbor.CborValue] = {"t": parts}
    if token.memo is not None:
        whole["d"] = token.memo
    whole |= {"m": token.mint, "u": "sat"}
    return "cashuB" + _text(cbor.encode(whole))


def encode_v3(token: Token) -> str:
    """The V3 text, for wallets that read nothing newer: whole keyset ids, padding left out."""
    proofs = [
        {"amount": each.amount, "id": each.id, "secret": each.secret, "C": each.C}
        | ({} if each.dleq is None else {"dleq": _present(each.dleq)})
        | ({} if each.witness is None else {"witness": each.witness})
        for each in token.proofs
    ]
    whole: dict[str, object] = {"token": [{"mint": token.mint, "proofs": proofs}], "unit": "sat"}
    if token.memo is not None:
        whole["memo"] = token.memo
    return "cashuA" + _text(encode(whole))


def _present(dleq: Dleq) -> dict[str, str]:
    return {"e": dleq.e, "s": dleq.s} | ({} if dleq.r is None else {"r": dleq.r})


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _base64(text: str) -> bytes:
    if not _BASE64(text):
        raise TokenInvalid("token_form", "a token is base64 of the URL alphabet, without spaces or line ends")
    bare = text.rstrip("=")
    try:
        data = base64.urlsafe_b64decode(bare + "=" * (-len(bare) % 4))
    except ValueError:
        raise TokenInvalid("token_form", "the token is cut off: its base64 is not whole") from None
    if _text(data) != bare:
        raise TokenInvalid(
            "token_form", "the token is cut off or altered: its base64 ends in bits that say nothing"
        )
    return data


def _read_v3(data: bytes) -> Token:
    try:
        whole = decode_object(data, max_bytes=MAX_TOKEN_BYTES, max_depth=6, max_nodes=16 * MAX_PROOFS)
    except DecodeError as err:
        raise TokenInvalid("token_form", f"the token's JSON: {err.detail}") from None
    entries = whole.get("token")
    if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
        raise TokenInvalid("token_form", "token is no list of objects")
    if len(entries) != 1:
        raise TokenInvalid("mint", f"a token is of one mint, this one has {len(entries)} entries")
    _check_unit(whole.get("unit", "sat"))
    entry: Any = entries[0]
    proofs = [_proof(_hex_fields(each)) for each in _proof_list(entry.get("proofs"))]
    return Token(_mint(entry.get("mint")), tuple(proofs), _memo(whole.get("memo")))


def _read_v4(data: bytes) -> Token:
    try:
        whole = cbor.decode(data)
    except cbor.CborError as err:
        raise TokenInvalid("token_form", f"the token's CBOR: {err}") from None
    if not isinstance(whole, dict):
        raise TokenInvalid("token_form", "the token's CBOR is no map")
    groups = whole.get("t")
    if not isinstance(groups, list):
        raise TokenInvalid("token_form", "t is no list")
    _check_unit(whole.get("u"))
    proofs: list[Proof] = []
    for group in groups:
        if not isinstance(group, dict) or not isinstance(group.get("i"), bytes):
            raise TokenInvalid("token_form", "an element of t is no map with bytes i")
        keyset_id = _bytes_as_hex(group["i"])
        for each in _proof_list(group.get("p")):
            proofs.append(_proof(_byte_fields(each, keyset_id)))
            if len(proofs) > MAX_PROOFS:
                raise TokenInvalid("token_size", f"the token has more than {MAX_PROOFS} proofs")
    return Token(_mint(whole.get("m")), tuple(proofs), _memo(whole.get("d")))


def _proof_list(value: object) -> Sequence[Mapping[str, object]]:
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise TokenInvalid("token_form", "proofs are no list of objects")
    if len(value) > MAX_PROOFS:
        raise TokenInvalid("token_size", f"the token has more than {MAX_PROOFS} proofs")
    return value


_Fields = tuple[object, object, object, object, object, object]
"""amount, keyset id, secret, C, dleq (a mapping of hex or None), witness, as either version holds them."""


def _hex_fields(proof: Mapping[str, object]) -> _Fields:
    names = ("amount", "id", "secret", "C", "dleq", "witness")
    amount, keyset_id, secret, c, dleq, witness = (proof.get(name) for name in names)
    return amount, keyset_id, secret, c, dleq, witness


def _byte_fields(proof: Mapping[str, object], keyset_id: object) -> _Fields:
    amount, secret, c, dleq, witness = (proof.get(name) for name in ("a", "s", "c", "d", "w"))
    if isinstance(dleq, dict):
        dleq = {name: _bytes_as_hex(value) for name, value in dleq.items()}
    return amount, keyset_id, secret, _bytes_as_hex(c), dleq, witness


def _bytes_as_hex(value: object) -> object:
    return value.hex() if isinstance(value, bytes) else None


def _proof(fields: _Fields) -> Proof:
    amount, keyset_id, secret, c, dleq, witness = fields
    if type(amount) is not int or not 0 < amount <= MAX_AMOUNT:
        raise TokenInvalid("amount", "a proof's amount is no whole number of sat above 0")
    if not isinstance(keyset_id, str) or not _KEYSET_ID(keyset_id):
        raise TokenInvalid("keyset", "a proof's keyset id is of no version we know")
    if not isinstance(secret, str) or not secret.isascii() or not secret:
        raise TokenInvalid("token_form", "a proof's secret is no ASCII text")
    if len(secret) > MAX_SECRET_CHARS:
        raise TokenInvalid(
            "secret_length", f"a secret has {len(secret)} characters, at most {MAX_SECRET_CHARS}"
        )
    if not isinstance(c, str) or not _POINT(c):
        raise TokenInvalid("point", "a proof's C is no compressed point")
    if witness is not None and (not isinstance(witness, str) or len(witness) > _MAX_WITNESS):
        raise TokenInvalid("token_form", f"a proof's witness is no text of at most {_MAX_WITNESS} characters")
    return Proof(amount, keyset_id, secret, c, witness, _dleq(dleq))


def _dleq(value: object) -> Dleq | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise TokenInvalid("dleq", "a proof's dleq is no object")
    scalars = [value.get(name) for name in ("e", "s", "r")]
    if not all(isinstance(each, str) and _SCALAR(each) for each in scalars):
        raise TokenInvalid("dleq", "a proof's dleq is not e, s and r of 32 bytes each")
    e, s, r = (str(each) for each in scalars)
    return Dleq(e, s, r)


def _check_unit(unit: object) -> None:
    if unit != "sat":
        raise TokenInvalid(
            "unit", f"the token is in {unit if isinstance(unit, str) else 'no unit'!a}, not in sat"
        )


def _mint(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_URL or not value.isascii():
        raise TokenInvalid("mint", f"the token names no mint by an address of at most {_MAX_URL} characters")
    return value


def _memo(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TokenInvalid("token_form", "the token's memo is no text")
    return value
