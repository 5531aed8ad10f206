"""The terms of an escrow ticket: one canonical document that both sides sign and hash, and that every locked
proof is bound to (docs/protocol/03-escrow-and-payments.md §6.2, §6.3).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import pairwise
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from hive_shared.canonical import DecodeError, JsonValue, decode_object, encode
from hive_shared.cashu.curve import is_point
from hive_shared.cashu.mint_url import normal_mint_url
from hive_shared.cashu.reasons import TokenInvalid
from hive_shared.cashu.windows import MULTI_MINT_STEP_S
from hive_shared.crypto import (
    Secret,
    cln_recover_message,
    schnorr_sign,
    schnorr_verify,
    sha256,
)
from hive_shared.validation_words import in_words

MAX_TERMS_BYTES: Final = 512 * 1024
MAX_BATCH: Final = 512
MAX_MILESTONES: Final = 32
MAX_BONUSES: Final = 8
MAX_MINTS: Final = 4
MAX_ITEM_SATS: Final = 10_000_000
_MAX_NODES: Final = 32_768
_MAX_DEPTH: Final = 10

Hex16 = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
Hex32 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
PointText = Annotated[str, Meta(pattern=r"^0[23][0-9a-f]{64}\Z")]
Party = Annotated[str, Meta(pattern=r"^[!-~]{1,128}\Z")]
"""A Nostr key (64 hex), a node id (66 hex) or a DID."""
Moment = Annotated[int, Meta(ge=1_000_000_000, le=9_999_999_999)]
"""Unix seconds of ten digits: what a locktime can say."""
SCHEMA_NAME: Final = r"^[a-z0-9][a-z0-9._-]{0,31}:[A-Za-z0-9._/-]{1,64}/v[1-9][0-9]{0,2}\Z"
SchemaName = Annotated[str, Meta(pattern=SCHEMA_NAME)]
Label = Annotated[str, Meta(max_length=64)]
Reference = Annotated[str, Meta(min_length=1, max_length=256)]
_X: Final = re.compile(r"[0-9a-f]{64}").fullmatch
_NODE: Final = re.compile(r"0[23][0-9a-f]{64}").fullmatch


class TicketType(StrEnum):
    """How the items of a ticket belong together."""

    SINGLE = "single"
    BATCH = "batch"
    MILESTONE = "milestone"
    PERFORMANCE = "performance"


class Mode(StrEnum):
    """Who has the preimage: the verifier, the payee, or nobody because the lock has no hash."""

    TASK = "task"
    RECEIPT = "receipt"
    P2PK = "p2pk"


class Payer(Struct, frozen=True, forbid_unknown_fields=True):
    """Who pays, and the key that takes the money back."""

    id: Party
    refund_pubkey: PointText


class Payee(Struct, frozen=True, forbid_unknown_fields=True):
    """Who is paid, and the key the money is locked to."""

    id: Party
    lock_pubkey: PointText


class Verifier(Struct, frozen=True, forbid_unknown_fields=True):
    """Who judges the work and holds the preimages."""

    id: Party
    node_id: PointText


class MintShare(Struct, frozen=True, forbid_unknown_fields=True):
    """A mint, and what part of every item is locked there; the shares of all mints are 1000."""

    url: Annotated[str, Meta(min_length=1, max_length=512)]
    permille: Annotated[int, Meta(ge=1, le=1_000)]


class Item(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One payable part. `hash` is that of the preimage, absent in mode p2pk; `deadline` and `locktime` are
    Unix seconds; `cond` is for verifier and payee, `verify_rpc` in it names a judge (03 §6.1)."""

    i: Annotated[int, Meta(ge=0, lt=MAX_BATCH)]
    label: Label
    amount_sats: Annotated[int, Meta(ge=1, le=MAX_ITEM_SATS)]
    deadline: Moment
    locktime: Moment
    cond: dict[str, Any]
    hash: Hex32 | msgspec.UnsetType = msgspec.UNSET


class Terms(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """HiveEscrowTerms, read strictly; made by `decode_terms`. Optional fields are UNSET when absent."""

    v: Literal[1]
    ticket_id: Hex16
    type: TicketType
    mode: Mode
    payer: Payer
    payee: Payee
    verifier: Verifier
    node_id: PointText
    unit: Literal["sat"]
    mints: Annotated[list[MintShare], Meta(min_length=1, max_length=MAX_MINTS)]
    items: Annotated[list[Item], Meta(min_length=1, max_length=MAX_BATCH)]
    schema: SchemaName
    task_params_hash: Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}\Z")]
    danger: Annotated[int, Meta(ge=1, le=10)]
    issued_at: Moment
    salt: Hex16
    credential_ref: Reference | msgspec.UnsetType = msgspec.UNSET
    contract_id: Reference | msgspec.UnsetType = msgspec.UNSET
    price_basis: Literal["flat", "trust"] | msgspec.UnsetType = msgspec.UNSET
    baseline: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    replaces: Hex16 | msgspec.UnsetType = msgspec.UNSET

    @property
    def amount_sats(self) -> int:
        """What the payee nets when every item is paid."""
        return sum(item.amount_sats for item in self.items)


def decode_terms(source: bytes | str | Mapping[str, object]) -> Terms:
    """Read terms of a stranger, as text or as the object a message held.

    Raises TokenInvalid: `terms_form` for what is no such document, `terms_rule` for what contradicts itself.
    """
    try:
        text = source if isinstance(source, (bytes, str)) else encode(source)
        value = decode_object(text, max_bytes=MAX_TERMS_BYTES, max_depth=_MAX_DEPTH, max_nodes=_MAX_NODES)
    except DecodeError as err:
        raise TokenInvalid("terms_form", f"terms: {err.detail}") from None
    except ValueError as err:
        raise TokenInvalid("terms_form", f"terms: {str(err)[:120]}") from None
    _refuse_null(value)
    try:
        terms = msgspec.convert(value, Terms)
    except msgspec.ValidationError as err:
        raise TokenInvalid("terms_form", f"terms: {in_words(err)}") from None
    _check(terms)
    return terms


def terms_json(terms: Terms) -> dict[str, JsonValue]:
    """The document as an object, absent fields left out: what travels beside the token."""
    found: dict[str, JsonValue] = msgspec.to_builtins(terms)
    return found


def terms_hash(terms: Terms) -> bytes:
    """SHA-256 of the canonical document, 32 bytes: what every nonce of the ticket is derived from."""
    return sha256(encode(terms_json(terms)))


def task_params_hash(schema: str, action: str, params: Mapping[str, JsonValue]) -> str:
    """`sha256:` and the hash of what the task is, as the terms name it."""
    return "sha256:" + sha256(encode({"schema": schema, "action": action, "params": dict(params)})).hex()


def terms_text(hash_: bytes) -> str:
    """The text that the payer signs: with its Nostr key its SHA-256, with its node by `signmessage`."""
    return f"hive-escrow-terms:v1:{hash_.hex()}"


def lock_key_text(context: str, pubkey: str) -> str:
    """The text that binds a lock key to who announces it (03 §4.1)."""
    return f"hive-lock-key:v1:{context}:{pubkey}"


def sign_text(key: Secret, text: str) -> str:
    """The Nostr key's signature on one of these texts, 128 hex."""
    return schnorr_sign(key, sha256(text.encode()))


def signed_by(party: str, text: str, signature: str) -> bool:
    """Whether a party signed one of these texts: a Nostr key by BIP-340, a node id by `signmessage`.

    False for a DID, which only cl-hive-archon can resolve, and for anything malformed.
    """
    if _X(party):
        return schnorr_verify(party, sha256(text.encode()), signature)
    if _NODE(party):
        return cln_recover_message(text, signature) == party
    return False


def share_sats(terms: Terms, item: int, mint: int) -> int:
    """What the payee nets of an item at one mint: its permille rounded down, the first mint has the rest."""
    amount = terms.items[item].amount_sats
    if mint:
        return amount * terms.mints[mint].permille // 1_000
    return amount - sum(share_sats(terms, item, other) for other in range(1, len(terms.mints)))


def share_locktime(terms: Terms, item: int, mint: int) -> int:
    """From when on the payer may take that share back: each further mint is a day later."""
    return terms.items[item].locktime + mint * MULTI_MINT_STEP_S


def _check(terms: Terms) -> None:
    problem = (
        _keys_problem(terms)
        or _mints_problem(terms)
        or _items_problem(terms.items, terms.mode, terms.issued_at)
        or _type_problem(terms.type, terms.items)
        or _shares_problem(terms)
    )
    if problem:
        raise TokenInvalid("terms_rule", problem)


def _keys_problem(terms: Terms) -> str | None:
    keys = {
        "payer.refund_pubkey": terms.payer.refund_pubkey,
        "payee.lock_pubkey": terms.payee.lock_pubkey,
        "node_id": terms.node_id,
        "verifier.node_id": terms.verifier.node_id,
    }
    for name, key in keys.items():
        if not is_point(key):
            return f"{name} {key} is not on the curve"
    if terms.payer.refund_pubkey[2:] == terms.payee.lock_pubkey[2:]:
        return "the refund key is the payee's"
    if terms.mode is Mode.TASK and terms.verifier.id == terms.payee.id:
        return "the payee would judge its own work"
    if terms.replaces == terms.ticket_id:
        return "the ticket replaces itself"
    return None


def _mints_problem(terms: Terms) -> str | None:
    for mint in terms.mints:
        try:
            normal = normal_mint_url(mint.url)
        except ValueError as err:
            return str(err)[:160]
        if normal != mint.url:
            return f"mint {mint.url[:80]!a} is not in its normal form {normal[:80]}"
    if len({mint.url for mint in terms.mints}) != len(terms.mints):
        return "a mint is listed twice"
    if sum(mint.permille for mint in terms.mints) != 1_000:
        return "the mints' shares do not make 1000 permille"
    return None


def _items_problem(items: Sequence[Item], mode: Mode, issued_at: int) -> str | None:
    hashes: set[str] = set()
    for number, item in enumerate(items):
        if item.i != number:
            return f"item {number} calls itself {item.i}"
        if (item.hash is msgspec.UNSET) is not (mode is Mode.P2PK):
            return f"item {number} has {'a' if mode is Mode.P2PK else 'no'} hash in mode {mode}"
        if isinstance(item.hash, str):
            if item.hash in hashes:
                return f"item {number} has the hash of an earlier one: one preimage would pay both"
            hashes.add(item.hash)
        if not issued_at < item.deadline < item.locktime:
            return f"item {number}: issued, deadline and locktime do not follow one another"
    return None


def _type_problem(kind: TicketType, items: Sequence[Item]) -> str | None:
    count = len(items)
    if kind is TicketType.SINGLE and count != 1:
        return f"a single ticket has one item, not {count}"
    if kind is TicketType.MILESTONE:
        if count > MAX_MILESTONES:
            return f"{count} milestones, at most {MAX_MILESTONES}"
        for before, after in pairwise(items):
            if after.amount_sats < before.amount_sats or after.deadline < before.deadline:
                return f"milestone {after.i} pays less or ends earlier than the one before"
    if kind is TicketType.PERFORMANCE:
        if not 2 <= count <= 1 + MAX_BONUSES:
            return f"a performance ticket has a base and 1 to {MAX_BONUSES} bonuses, not {count} items"
        if any(bonus.deadline <= items[0].deadline for bonus in items[1:]):
            return "a bonus is due before the work is"
    return None


def _shares_problem(terms: Terms) -> str | None:
    if len(terms.mints) == 1:
        return None
    for item in terms.items:
        if any(share_sats(terms, item.i, mint) < 1 for mint in range(len(terms.mints))):
            return f"item {item.i} of {item.amount_sats} sat leaves nothing for one of the mints"
        if share_locktime(terms, item.i, len(terms.mints) - 1) > 9_999_999_999:
            return f"item {item.i} is locked beyond what a locktime can say"
    return None


def _refuse_null(value: JsonValue) -> None:
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if each is None:
            raise TokenInvalid("terms_form", "terms hold null: what does not apply is left out")
        if isinstance(each, dict):
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each
