"""Tickets of the fleet as cl-hive keeps them: what comms said of their locks, what it is to send, receipts
(docs/protocol/03-escrow-and-payments.md §1, §8). Amounts in sat, times in Unix seconds."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

import msgspec
from hive_shared.canonical import JsonValue, encode
from hive_shared.cashu.lock_machine import LockState
from hive_shared.crypto import sha256

MARGIN_S: Final = 60
"""How long after its locktime a lock is asked back at the earliest."""
RELEASED_HOLD_S: Final = 86_400
"""How long after its locktime a released item is left to its payee (03 §6.7)."""
OVER: Final = frozenset({LockState.REDEEMED, LockState.REFUNDED, LockState.LOST})


class FleetLock(msgspec.Struct, frozen=True):
    """What comms last said of a lock. `token` is always empty: ecash is with comms alone."""

    lock_id: str
    ticket_id: str
    terms_hash: str
    item: int
    share: int
    role: str
    locktime: int
    state: LockState
    next_at: int
    created_at: int
    updated_at: int
    error: str = ""
    token: str = ""


class Parcel(StrEnum):
    """What is to be sent. The values are stored. Tokens and preimages are put in when it leaves."""

    MESSAGE = "message"
    TOKENS = "tokens"
    RELEASE = "release"
    ALERT = "alert"


class Outgoing(msgspec.Struct, frozen=True):
    """One thing that comms is to send to an agent (x-only hex), or to tell the operator."""

    key: str
    kind: Parcel
    recipient: str
    body: Mapping[str, Any]
    expires_at: int
    created_at: int


class FleetReceipt(msgspec.Struct, frozen=True):
    """What came of an item's work, signed by the node. There is one of each item."""

    ticket_id: str
    i: int
    schema_id: str
    action: str
    params: Mapping[str, JsonValue]
    result: Mapping[str, JsonValue]
    success: bool
    created_at: int
    node_signature: str = ""
    agent_signature: str = ""
    preimage_revealed: bool = False

    @property
    def receipt_id(self) -> str:
        """The same for the same item."""
        return sha256(f"hive-escrow-receipt/v1\0{self.ticket_id}\0{self.i}".encode()).hex()[:32]

    @property
    def hash(self) -> str:
        """`sha256:` of what is signed."""
        document: dict[str, JsonValue] = {
            "v": 1,
            "receipt_id": self.receipt_id,
            "ticket_id": self.ticket_id,
            "item": self.i,
            "schema": self.schema_id,
            "action": self.action,
            "params": dict(self.params),
            "result": dict(self.result),
            "success": self.success,
            "created_at": self.created_at,
        }
        return "sha256:" + sha256(encode(document)).hex()

    @property
    def text(self) -> str:
        """What the node signs by `signmessage`."""
        return f"hive-escrow-receipt:v1:{self.hash.removeprefix('sha256:')}"
