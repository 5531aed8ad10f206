"""The statement that binds a Nostr key to a DID (docs/protocol/09-archon.md §7)."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from . import base58
from .canonical import encode
from .crypto import Secret, schnorr_sign, sha256, xonly_pubkey
from .errors import InvalidParams, Unauthorized

TAG: Final = "hive-bind-v1:"
_NONCE: Final = re.compile(r"[0-9a-f]{32}")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?Z")
_DID: Final = re.compile(r"did:(?:cid:b[a-z2-7]{20,100}|key:z[1-9A-HJ-NP-Za-km-z]{20,100})")
SECP256K1: Final = b"\xe7\x01"
"""Multicodec prefix of a compressed secp256k1 key."""


def statement(did: str, key: str, nonce: str, valid_from: str) -> str:
    """`hive-bind-v1:` and the hash of what is bound; `key` is x-only hex."""
    bound = {"bindingType": "nostr", "did": did, "key": key, "nonce": nonce, "validFrom": valid_from}
    return TAG + sha256(encode(bound)).hex()


def check_for_node(did: str, nonce: str, valid_from: str, node_id: str) -> None:
    """Whether these may stand in a binding of this node.

    Raises InvalidParams for what is malformed, Unauthorized for the did:key of another node.
    """
    if not _DID.fullmatch(did):
        raise InvalidParams(f"did {did[:80]!a} is neither did:cid:.. nor this node's did:key:..")
    if did.startswith("did:key:") and did != did_key(node_id):
        raise Unauthorized(f"{did} is not the did:key of this node, {did_key(node_id)}")
    _check_moment(nonce, valid_from)


def check_for_person(did: str, nonce: str, valid_from: str) -> None:
    """Whether these may stand in a binding of somebody without a node. Raises InvalidParams."""
    if not _DID.fullmatch(did):
        raise InvalidParams(f"did {did[:80]!a} is neither did:cid:.. nor did:key:..")
    _check_moment(nonce, valid_from)


def check_attestation(text: str) -> str:
    """The id of a published binding (09 §7: its asset's DID). Raises InvalidParams."""
    if not text.startswith("did:cid:") or not _DID.fullmatch(text):
        raise InvalidParams(f"attestation {text[:80]!a} is not the did:cid:.. of a published binding")
    return text


def _check_moment(nonce: str, valid_from: str) -> None:
    if not _NONCE.fullmatch(nonce):
        raise InvalidParams(f"nonce {nonce[:40]!a} is not 32 lower-case hex digits")
    try:
        well_formed = _TIME.fullmatch(valid_from) is not None
        datetime.fromisoformat(valid_from).astimezone(UTC)
    except ValueError:
        well_formed = False
    if not well_formed:
        raise InvalidParams(f"valid_from {valid_from[:40]!a} is not a time like 2026-01-31T00:00:00Z")


def key_proof(secret: Secret, did: str, nonce: str, valid_from: str) -> str:
    """BIP-340 signature of the bound key over the hash of the statement."""
    text = statement(did, xonly_pubkey(secret), nonce, valid_from)
    return schnorr_sign(secret, sha256(text.encode()))


def did_key(node_id: str) -> str:
    """The did:key of a Lightning node id (66 hex digits)."""
    return "did:key:z" + base58.encode(SECP256K1 + bytes.fromhex(node_id))
