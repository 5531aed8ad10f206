"""Checking stored receipts, fast enough for a long chain (docs/protocol/02-fleet-management.md §9.2, §16).

Every receipt's text, hash, searchable columns and link are checked every time. Its signature costs five times
all of that together; a thousand signatures that were checked once are therefore put under one seal of the
node's key (docs/decisions/0290-seals-over-checked-signatures.md), and signatures under a seal that holds are
those that were checked. Where a seal is missing or does not hold, each signature is checked again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from typing import Final, NamedTuple

import msgspec
from hive_shared import crypto, receipts
from hive_shared.crypto import Secret
from hive_shared.receipts import ChainReport

from ..domain.receipt_checkpoint import ArchiveEnd
from ..domain.receipt_record import ReceiptRow, SealRow

SEAL_SIZE: Final = 1_000
"""Receipts under one seal. Seals begin at ids 1, 1001, 2001 ..."""
_SEAL_TAG: Final = "hive-receipt-seal:v1:"

_UNREAD: Final = msgspec.Raw()


class _Said(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a receipt's text says about the columns beside it; the rest is only found to be there."""

    receipt_id: int
    prev_hash: str
    created_at: int
    schema: str
    action: str
    status: str
    command_id: str | None = None
    credential_id: str | None = None
    agent_id: str | None = None
    v: msgspec.Raw = _UNREAD
    node_id: msgspec.Raw = _UNREAD
    command_hash: msgspec.Raw = _UNREAD
    nonce: msgspec.Raw = _UNREAD
    params: msgspec.Raw = _UNREAD
    danger: msgspec.Raw = _UNREAD
    approval: msgspec.Raw = _UNREAD
    payment: msgspec.Raw = _UNREAD
    escrow: msgspec.Raw = _UNREAD
    error: msgspec.Raw = _UNREAD
    result: msgspec.Raw = _UNREAD
    result_hash: msgspec.Raw = _UNREAD
    state_hash_before: msgspec.Raw = _UNREAD
    state_hash_after: msgspec.Raw = _UNREAD
    agent_signature: msgspec.Raw = _UNREAD
    confirm_signature: msgspec.Raw = _UNREAD


_SAID: Final = msgspec.json.Decoder(_Said, strict=True)


class _Signed(NamedTuple):
    receipt_id: int
    receipt_hash: str
    signature: str


def verify_rows(
    rows: Iterable[ReceiptRow],
    after: ArchiveEnd,
    node_keys: Collection[str],
    seals: Sequence[SealRow] = (),
) -> ChainReport:
    """Check receipts in id order against the end of the chain before them; stops at the first bad one.

    `node_keys` are the node's current and earlier Nostr keys (x-only hex), `seals` in order of their ids.
    """
    signatures = _Signatures(node_keys, seals)
    last_id, last_hash = after
    fault: tuple[int, str] | None = None
    for row in rows:
        if reason := _broken(row, last_id + 1, last_hash):
            fault = last_id + 1, reason
            break
        last_id, last_hash = row.receipt_id, row.receipt_hash
        if fault := signatures.add(_Signed(last_id, last_hash, row.node_signature)):
            break
    # A signature that waits for its seal is of an earlier receipt than any other fault.
    fault = signatures.check_waiting() or fault
    if fault is None:
        return ChainReport(True, last_id - after.receipt_id, None, None, last_id, last_hash)
    first_bad, reason = fault
    return ChainReport(False, first_bad - after.receipt_id - 1, first_bad, reason, first_bad - 1)


def seal(rows: Iterable[ReceiptRow], secret: Secret) -> SealRow:
    """The seal over receipts whose signatures were all checked."""
    signed = [_Signed(row.receipt_id, row.receipt_hash, row.node_signature) for row in rows]
    signature = crypto.schnorr_sign(secret, _digest(signed))
    return SealRow(signed[0].receipt_id, signed[-1].receipt_id, signature)


class _Signatures:
    """Checks signatures of receipts that come in order, by their seal or else one by one."""

    def __init__(self, node_keys: Collection[str], seals: Sequence[SealRow]) -> None:
        self._keys = tuple(crypto.SchnorrKey(key) for key in node_keys)
        self._seals = {seal.first_id: seal for seal in seals}
        self._seal: SealRow | None = None
        self._waiting: list[_Signed] = []

    def add(self, signed: _Signed) -> tuple[int, str] | None:
        """The next receipt's; the first receipt whose signature does not hold, and why."""
        if self._seal is None:
            self._seal = self._seals.get(signed.receipt_id)
        if self._seal is None:
            return self._check(signed)
        self._waiting.append(signed)
        if signed.receipt_id < self._seal.last_id:
            return None
        if self._holds(self._seal):
            self._seal, self._waiting = None, []
            return None
        return self.check_waiting()

    def check_waiting(self) -> tuple[int, str] | None:
        """Check one by one what still waits for its seal."""
        waiting, self._waiting, self._seal = self._waiting, [], None
        return next((fault for signed in waiting if (fault := self._check(signed))), None)

    def _holds(self, seal: SealRow) -> bool:
        digest = _digest(self._waiting)
        return any(key.verify(digest, seal.signature) for key in self._keys)

    def _check(self, signed: _Signed) -> tuple[int, str] | None:
        digest = receipts.signing_digest(signed.receipt_hash)
        if not self._keys or any(key.verify(digest, signed.signature) for key in self._keys):
            return None
        return signed.receipt_id, f"node_signature of receipt {signed.receipt_id} does not hold"


def _digest(signed: Sequence[_Signed]) -> bytes:
    """What a seal signs: which receipts, and their hashes with their signatures."""
    # Lengths are fixed: a hash proved itself by the text, and what is no signature was never sealed.
    told = hashlib.sha256("\n".join(f"{one.receipt_hash}:{one.signature}" for one in signed).encode())
    first, last = signed[0].receipt_id, signed[-1].receipt_id
    return crypto.tagged(_SEAL_TAG, f"{first}:{last}:{told.hexdigest()}")


def _broken(row: ReceiptRow, expected_id: int, prev_hash: str) -> str | None:
    """What is wrong with a receipt, its signature aside."""
    if row.receipt_id != expected_id:
        return f"receipt {expected_id} is missing: the next one found has id {row.receipt_id}"
    # Byte for byte: a text that parses to the same content but is written otherwise was changed too.
    if hashlib.sha256(row.document.encode()).hexdigest() != row.receipt_hash:
        return f"the text of receipt {expected_id} does not have its receipt_hash"
    try:
        said = _SAID.decode(row.document)
    except msgspec.DecodeError as error:
        return f"the text of receipt {expected_id} is no receipt: {error}"
    if said.receipt_id != expected_id or said.prev_hash != prev_hash:
        return f"receipt {expected_id} does not name the hash of the receipt before it"
    beside = (
        row.prev_hash,
        row.created_at,
        row.schema_id,
        row.action,
        row.status,
        row.command_id,
        row.credential_id,
        row.agent_id,
    )
    told = (
        said.prev_hash,
        said.created_at,
        said.schema,
        said.action,
        said.status,
        said.command_id,
        said.credential_id,
        said.agent_id,
    )
    if beside != told:
        column = next(
            name
            for name, one, other in zip(ReceiptRow._fields[5:], beside, told, strict=True)
            if one != other
        )
        return f"column {column} of receipt {expected_id} is not what was signed"
    return None
