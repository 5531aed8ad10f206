"""Proofs of verifiable credentials that a Nostr key makes: suite `bip340-jcs-2025`
(docs/protocol/01-reputation.md §4).

A proof covers the whole document without `proof`, and its own options. Which key has to have made it is the
caller's question: `signer` answers whose proof one is, and only for proofs that hold.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from . import base58
from .binding import SECP256K1
from .canonical import JsonValue, encode
from .crypto import Secret, schnorr_sign, schnorr_verify, sha256, xonly_pubkey
from .errors import InvalidParams

SUITE: Final = "bip340-jcs-2025"
CONTEXT: Final = "https://www.w3.org/ns/credentials/v2"
MAX_PROOFS: Final = 3
_NOSTR: Final = "did:nostr:"
_FIELDS: Final = frozenset(
    ("type", "cryptosuite", "created", "verificationMethod", "proofPurpose", "proofValue", "@context")
)
_HEX64: Final = re.compile(r"[0-9a-f]{64}")
_MOMENT: Final = re.compile(
    r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d{1,9})?(Z|[+-](?:0\d|1[0-4]):[0-5]\d)", re.ASCII
)

Document = Mapping[str, JsonValue]


def moment(at: int) -> str:
    """Unix seconds as the xsd:dateTimeStamp that documents carry, in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def unix(text: JsonValue, what: str) -> int:
    """Unix seconds of an xsd:dateTimeStamp; the zone is required, fractions are cut. Raises InvalidParams."""
    at = _unix(text) if isinstance(text, str) else None
    if at is None:
        what = f"{what} {text!a:.40}"
        raise InvalidParams(f"{what} is not a time like 2026-01-31T00:00:00Z", reason="malformed")
    return at


# One document says the same moment several times, and a proof's is read once more by whoever trusts it.
@lru_cache(maxsize=256)
def _unix(text: str) -> int | None:
    found = _MOMENT.fullmatch(text)
    try:
        if found is not None:
            zone = "+00:00" if found[2] == "Z" else found[2]
            return int(datetime.fromisoformat(found[1] + zone).timestamp())
    except (ValueError, OverflowError):
        pass
    return None


def did_of(pubkey: str) -> str:
    """The id of a Nostr key (64 hex) in documents."""
    return _NOSTR + pubkey


def key_of(did: JsonValue) -> str | None:
    """The Nostr key (64 hex) behind `did:nostr:…`, None for every other value."""
    if isinstance(did, str) and did.startswith(_NOSTR) and _HEX64.fullmatch(did[len(_NOSTR) :]):
        return did[len(_NOSTR) :]
    return None


def content_hash(document: Document) -> str:
    """SHA-256 (hex) of the canonical document without `proof`: what identifies its content.

    Raises InvalidParams for a document that has no canonical form.
    """
    return sha256(_canonical(_bare(document))).hex()


def prove(document: Document, secret: Secret, created: int) -> dict[str, JsonValue]:
    """A proof of the document as it stands without `proof`, made by a Nostr key at a time (Unix seconds).

    Raises InvalidParams for a document that has no canonical form.
    """
    options: dict[str, JsonValue] = {
        "type": "DataIntegrityProof",
        "cryptosuite": SUITE,
        "created": moment(created),
        "verificationMethod": f"{did_of(xonly_pubkey(secret))}#key1",
        "proofPurpose": "assertionMethod",
    }
    if "@context" in document:
        options["@context"] = document["@context"]
    signature = bytes.fromhex(schnorr_sign(secret, _digest(document, options)))
    return {**options, "proofValue": "z" + base58.encode(signature)}


def proofs(document: Document) -> list[dict[str, JsonValue]]:
    """The proofs of a document, one to three objects. Raises InvalidParams."""
    found = document.get("proof")
    several: list[JsonValue] = found if isinstance(found, list) else [found]
    read = [one for one in several if isinstance(one, dict)]
    if not 1 <= len(read) <= MAX_PROOFS or len(read) != len(several):
        raise InvalidParams(f"proof must be one to {MAX_PROOFS} objects", reason="proof_missing")
    return read


def signer(document: Document, proof: Mapping[str, JsonValue]) -> str:
    """The Nostr key (64 hex) that made this proof of this document.

    Raises InvalidParams, reason `proof_unsupported` (another suite), `proof_malformed`, `proof_invalid`
    (it is not that key's signature over this content).
    """
    if proof.get("type") != "DataIntegrityProof" or proof.get("cryptosuite") != SUITE:
        kind = f"{proof.get('type')!a:.40} {proof.get('cryptosuite')!a:.40}"
        raise InvalidParams(f"proof {kind} is not a DataIntegrityProof {SUITE}", reason="proof_unsupported")
    unknown = sorted(set(proof) - _FIELDS)
    if unknown:
        raise _malformed(f"has unknown fields: {', '.join(unknown)!a:.100}")
    if proof.get("proofPurpose") != "assertionMethod":
        raise _malformed("has a proofPurpose other than assertionMethod")
    unix(proof.get("created"), "created of the proof")
    key = _method_key(proof.get("verificationMethod"))
    signature = _signature(proof.get("proofValue"))
    options = {name: value for name, value in proof.items() if name != "proofValue"}
    _set_context(options, document)
    if not schnorr_verify(key, _digest(document, options), signature.hex()):
        raise InvalidParams(f"proof is not {key}'s signature over this document", reason="proof_invalid")
    return key


def created(proof: Mapping[str, JsonValue]) -> int:
    """When a proof says that it was made, Unix seconds. Raises InvalidParams."""
    return unix(proof.get("created"), "created of the proof")


def _set_context(options: dict[str, JsonValue], document: Document) -> None:
    """What the options are hashed with: the proof's own context where it is the beginning of the
    document's, the document's where the proof names none."""
    whole = document.get("@context")
    named = options.get("@context")
    if named is None:
        options.pop("@context", None)
        if whole is not None:
            options["@context"] = whole
        return
    first = named if isinstance(named, list) else [named]
    all_of_it = whole if isinstance(whole, list) else [whole]
    if not first or all_of_it[: len(first)] != first:
        raise _malformed("has a @context that the document's does not begin with")


def _digest(document: Document, options: Document) -> bytes:
    return sha256(sha256(_canonical(options)) + sha256(_canonical(_bare(document))))


def _bare(document: Document) -> dict[str, JsonValue]:
    return {name: value for name, value in document.items() if name != "proof"}


def _canonical(value: Document) -> bytes:
    try:
        return encode(value)
    except ValueError as error:
        raise InvalidParams(f"document has no canonical form: {error}", reason="malformed") from None


def _method_key(method: JsonValue) -> str:
    text = method if isinstance(method, str) and len(method) <= 256 else ""
    did, _, fragment = text.partition("#")
    key = key_of(did)
    if key is not None and fragment == "key1":
        return key
    body = did.removeprefix("did:key:z")
    if did.startswith("did:key:zQ3s") and fragment == "z" + body:
        try:
            data = base58.decode(body)
        except ValueError:
            data = b""
        if len(data) == 35 and data.startswith(SECP256K1) and data[2] in (2, 3):
            return data[3:].hex()
    raise _malformed(f"names the key {method!a:.100}, which is neither did:nostr:<hex>#key1 nor a did:key")


def _signature(value: JsonValue) -> bytes:
    text = value if isinstance(value, str) and len(value) <= 128 else ""
    data = b""
    try:
        if text.startswith("z"):
            data = base58.decode(text[1:])
        elif text.startswith("u") and re.fullmatch(r"[A-Za-z0-9_-]*", text[1:]):
            data = base64.urlsafe_b64decode(text[1:] + "=" * (-len(text[1:]) % 4))
    except (ValueError, binascii.Error):
        data = b""
    if len(data) != 64:
        raise _malformed("has a proofValue that is not z and base58, or u and base64url, of 64 bytes")
    return data


def _malformed(what: str) -> InvalidParams:
    return InvalidParams(f"proof {what}", reason="proof_malformed")
