"""Receipts: what happened, hash-chained and signed, and how either end proves it.

docs/protocol/02-fleet-management.md §9.1 and §9.2, docs/protocol/11-advisor-kit.md §15.7. A receipt's
hash covers exactly the fields of `Receipt` that are present, the hash of the receipt before it among
them; the node's Nostr key signs the hash. Hourly and daily Merkle roots (RFC 6962) are signed by the
Lightning key too.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from . import crypto
from .canonical import JsonValue, encode
from .crypto import Secret

GENESIS: Final = "0" * 64
"""prev_hash of receipt 1."""
RECEIPT_TAG: Final = "hive-receipt:v1:"
ROOT_TAG: Final = "hive-receipt-root:v1:"
MAX_RESULT_BYTES: Final = 16_384
"""A larger result is replaced by its hash (`result_hash`)."""

# msgspec cannot build a decoder for the recursive JsonValue; what these hold is proved by the hash.
Json: TypeAlias = Any

_PROOF_FIELDS: Final = frozenset({"receipt_hash", "node_signature"})


class Receipt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One receipt; field by field 02 §9.1. None means absent, and absent fields are not hashed.

    `receipt_id` counts from 1 without gaps; `created_at` is Unix seconds; `danger` is
    `Danger.to_doc()`; `nonce` is the command's number. Operator events have no command fields.
    """

    receipt_id: int
    v: int
    prev_hash: str
    node_id: str
    created_at: int
    schema: str
    action: str
    status: str
    agent_id: str | None = None
    credential_id: str | None = None
    command_id: str | None = None
    command_hash: str | None = None
    nonce: int | str | None = None
    params: Json = None
    danger: Json = None
    approval: Json = None
    payment: Json = None
    escrow: Json = None
    error: Json = None
    result: Json = None
    result_hash: str | None = None
    state_hash_before: str | None = None
    state_hash_after: str | None = None
    agent_signature: str | None = None
    confirm_signature: str | None = None
    receipt_hash: str = ""
    node_signature: str = ""


CONTENT_FIELDS: Final = tuple(name for name in Receipt.__struct_fields__ if name not in _PROOF_FIELDS)
"""The fields a receipt's hash covers."""
_KNOWN: Final = frozenset(Receipt.__struct_fields__)


def content(receipt: Receipt | Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """What is hashed: the present content fields of a receipt or of its document."""
    if isinstance(receipt, Receipt):
        values = ((name, getattr(receipt, name)) for name in CONTENT_FIELDS)
        return {name: value for name, value in values if value is not None}
    return {name: value for name, value in receipt.items() if name not in _PROOF_FIELDS}


def to_doc(receipt: Receipt) -> dict[str, JsonValue]:
    """The receipt's JSON document, hash and signature included."""
    doc = content(receipt)
    doc["receipt_hash"] = receipt.receipt_hash
    doc["node_signature"] = receipt.node_signature
    return doc


def from_doc(doc: Mapping[str, JsonValue]) -> Receipt:
    """The receipt of a document. Raises ValueError naming what does not belong or has the wrong type."""
    unknown = sorted(set(doc) - _KNOWN)
    if unknown:
        raise ValueError(f"receipt has unknown fields: {', '.join(unknown)[:200]!a}")
    # A null would vanish from the content and so from the hash: absent fields are absent.
    nulls = [name for name, value in doc.items() if value is None]
    if nulls:
        raise ValueError(f"receipt field {nulls[0]} is null; absent fields are left out")
    try:
        return msgspec.convert(dict(doc), Receipt, strict=True)
    except msgspec.ValidationError as err:
        raise ValueError(f"receipt is not well formed: {err}") from None


def receipt_hash(receipt: Receipt | Mapping[str, JsonValue]) -> str:
    """SHA-256 (hex) of the canonical content."""
    return crypto.sha256(_canonical(content(receipt))).hex()


def seal(receipt: Receipt, secret: Secret, *, aux: bytes | None = None) -> Receipt:
    """The receipt with its hash and the node's signature over it."""
    return seal_with_text(receipt, secret, aux=aux)[0]


def seal_with_text(receipt: Receipt, secret: Secret, *, aux: bytes | None = None) -> tuple[Receipt, str]:
    """`seal`, and the canonical content that was hashed, for who has to keep it."""
    text = encode(content(receipt))
    digest = crypto.sha256(text).hex()
    signature = crypto.schnorr_sign(secret, signing_digest(digest), aux)
    sealed = msgspec.structs.replace(receipt, receipt_hash=digest, node_signature=signature)
    return sealed, text.decode()


def signing_digest(hash_hex: str) -> bytes:
    """The 32 bytes the node signs for a receipt hash (hex text)."""
    return crypto.tagged(RECEIPT_TAG, hash_hex)


def verify(receipt: Receipt | Mapping[str, JsonValue], node_key: str) -> bool:
    """Whether hash and signature of one receipt hold under the node's Nostr key (x-only hex)."""
    doc = to_doc(receipt) if isinstance(receipt, Receipt) else receipt
    claimed, signature = doc.get("receipt_hash"), doc.get("node_signature")
    if not isinstance(claimed, str) or not isinstance(signature, str):
        return False
    try:
        actual = receipt_hash(doc)
    except ValueError:
        return False
    return actual == claimed and crypto.schnorr_verify(node_key, signing_digest(claimed), signature)


class ChainReport(NamedTuple):
    """Outcome of `verify_chain`: how many receipts held, and the first id that does not, with the reason."""

    ok: bool
    checked: int
    first_bad: int | None = None
    reason: str | None = None
    last_id: int = 0
    last_hash: str = GENESIS


def verify_chain(
    receipts: Iterable[Receipt | Mapping[str, JsonValue]],
    *,
    after_id: int = 0,
    after_hash: str = GENESIS,
    node_keys: Collection[str] = (),
) -> ChainReport:
    """Check receipts in id order, one at a time, against the end (`after_id`, `after_hash`) before them.

    Ids must be gapless, each prev_hash the hash before it, each hash that of the content; with
    `node_keys` (the node's current and earlier Nostr keys) each signature too. Stops at the first bad one.
    """
    checked, last_id, last_hash = 0, after_id, after_hash
    for receipt in receipts:
        doc = to_doc(receipt) if isinstance(receipt, Receipt) else receipt
        reason = _broken(doc, last_id + 1, last_hash, node_keys)
        if reason is not None:
            return ChainReport(False, checked, last_id + 1, reason, last_id, last_hash)
        checked, last_id, last_hash = checked + 1, last_id + 1, str(doc["receipt_hash"])
    return ChainReport(True, checked, None, None, last_id, last_hash)


def _broken(
    doc: Mapping[str, JsonValue], expected_id: int, prev_hash: str, node_keys: Collection[str]
) -> str | None:
    if doc.get("receipt_id") != expected_id:
        return f"receipt {expected_id} is missing: the next one found has id {doc.get('receipt_id')!a}"
    if doc.get("prev_hash") != prev_hash:
        return f"prev_hash of receipt {expected_id} is not the hash of the receipt before it"
    if not _KNOWN.issuperset(doc):
        return f"receipt {expected_id} has fields that no receipt has"
    claimed, signature = doc.get("receipt_hash"), doc.get("node_signature")
    try:
        actual = receipt_hash(doc)
    except ValueError as err:
        return f"content of receipt {expected_id} has no canonical form: {err}"
    if actual != claimed:
        return f"content of receipt {expected_id} does not have its receipt_hash"
    if node_keys and not (isinstance(signature, str) and _signed_by(actual, signature, node_keys)):
        return f"node_signature of receipt {expected_id} does not hold"
    return None


def _signed_by(hash_hex: str, signature: str, node_keys: Collection[str]) -> bool:
    digest = signing_digest(hash_hex)
    return any(crypto.schnorr_verify(key, digest, signature) for key in node_keys)


# msgspec writes what RFC 8785 asks for as long as the text is ASCII, numbers are short integers and nothing
# is null (it writes NaN so); it is what lets a long chain be checked in seconds. Everything else takes the
# slower, general way.
_FAST: Final = msgspec.json.Encoder(order="deterministic")
_UNUSUAL: Final = re.compile(rb"[:,\[](?:null|-?(?:[0-9]+[.eE]|9[0-9]{15}|[0-9]{17}))")


def _canonical(value: dict[str, JsonValue]) -> bytes:
    try:
        text = _FAST.encode(value)
    except (ValueError, TypeError, OverflowError):
        return encode(value)
    return text if text.isascii() and not _UNUSUAL.search(text) else encode(value)


# ------------------------------------------------------------------------------------- Merkle roots


class MerkleTree:
    """RFC 6962 tree head over hashes (hex) that come one by one; memory grows with their logarithm."""

    def __init__(self) -> None:
        # Complete subtrees by height, merged like binary addition.
        self._stack: list[tuple[int, bytes]] = []

    def add(self, hash_hex: str) -> None:
        """The next leaf."""
        height, node = 0, _leaf(hash_hex)
        while self._stack and self._stack[-1][0] == height:
            node = _node(self._stack.pop()[1], node)
            height += 1
        self._stack.append((height, node))

    def root(self) -> str:
        """The head (hex) over what was added so far; of nothing, SHA-256 of nothing."""
        if not self._stack:
            return crypto.sha256(b"").hex()
        node = self._stack[-1][1]
        for _, left in reversed(self._stack[:-1]):
            node = _node(left, node)
        return node.hex()


def merkle_root(hashes: Sequence[str]) -> str:
    """RFC 6962 tree head (hex) over receipt hashes (hex) in id order; of none, SHA-256 of nothing."""
    tree = MerkleTree()
    for text in hashes:
        tree.add(text)
    return tree.root()


class MerkleLevels:
    """RFC 6962 tree head over a list of hashes that is much the same from one time to the next: what changed
    is hashed again, with the nodes above it. Not for two threads at once."""

    def __init__(self) -> None:
        self._hashes: list[str] = []
        # Leaves first; an odd last node moves up unchanged, as in `merkle_path`.
        self._levels: list[list[bytes]] = [[]]

    def root(self, hashes: Sequence[str]) -> str:
        """The head (hex), the same as `merkle_root`."""
        known = self._hashes
        if len(hashes) != len(known):
            self._levels = [[b""] * size for size in _level_sizes(len(hashes))]
            known = [""] * len(hashes)
        changed = [i for i, (new, old) in enumerate(zip(hashes, known, strict=True)) if new != old]
        self._hashes = list(hashes)
        for i in changed:
            self._levels[0][i] = _leaf(hashes[i])
        for below, level in zip(self._levels, self._levels[1:], strict=False):
            changed = sorted({i // 2 for i in changed})
            for i in changed:
                pair = below[2 * i : 2 * i + 2]
                level[i] = _node(*pair) if len(pair) == 2 else pair[0]
        return self._levels[-1][0].hex() if hashes else merkle_root(())


def _level_sizes(leaves: int) -> list[int]:
    sizes = [leaves]
    while sizes[-1] > 1:
        sizes.append((sizes[-1] + 1) // 2)
    return sizes


def merkle_path(hashes: Sequence[str], index: int) -> list[str]:
    """The audit path (hex, leaf upwards) of the hash at `index`. Raises IndexError outside the list."""
    if not 0 <= index < len(hashes):
        raise IndexError(f"no receipt hash at position {index} of {len(hashes)}")
    level = [_leaf(text) for text in hashes]
    path: list[str] = []
    while len(level) > 1:
        sibling = index ^ 1
        if sibling < len(level):
            path.append(level[sibling].hex())
        # An odd last node moves up unchanged: the same shape as RFC 6962's recursive split.
        pairs = [_node(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = pairs + (level[-1:] if len(level) % 2 else [])
        index //= 2
    return path


def verify_path(hash_hex: str, index: int, size: int, path: Sequence[str], root: str) -> bool:
    """Whether `path` proves that `hash_hex` is number `index` of `size` under `root`. Never raises."""
    if not 0 <= index < size:
        return False
    try:
        node, siblings = _leaf(hash_hex), [bytes.fromhex(text) for text in path]
    except ValueError:
        return False
    last = size - 1
    for sibling in siblings:
        if last == 0:
            return False
        if index % 2 or index == last:
            node = _node(sibling, node)
            while index % 2 == 0 and index:
                index, last = index // 2, last // 2
        else:
            node = _node(node, sibling)
        index, last = index // 2, last // 2
    return last == 0 and node.hex() == root


def root_text(kind: str, start: int, first_id: int, last_id: int, root: str) -> str:
    """What the Lightning key signs for a root (11 §15.7); `kind` is hour, day or prune, `start` Unix s."""
    return f"{ROOT_TAG}{kind}:{start}:{first_id}:{last_id}:{root}"


def _leaf(hash_hex: str) -> bytes:
    return crypto.sha256(b"\x00" + bytes.fromhex(hash_hex))


def _node(left: bytes, right: bytes) -> bytes:
    return crypto.sha256(b"\x01" + left + right)
