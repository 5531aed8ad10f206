"""Values the kit keeps and hands out. Times are unix seconds; keys are x-only hex."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from hive_advisor.domain.command_machine import CommandState

EMERGENCY_STOP: Final = "emergency_stop"
"""Why a client is paused that nobody here paused."""
ClientState = Literal["offered", "active", "paused", "suspect", "ended"]
CredentialState = Literal["offered", "active", "superseded", "revoked", "declined"]
Passed = Literal["", "guard", "human", "pin"]
ReceiptLevel = Literal["stub", "signed", "chained", "anchored"]
Standing = Literal["agrees", "differs", "unknown"]
"""Whether a receipt says what the node answered; `unknown` when we know of no such command of ours."""
AlertState = Literal["open", "acking", "acked", "resolved"]


class Client(msgspec.Struct, frozen=True):
    """A node we hold, or were offered, a credential for. ``node_key`` and ``node_id`` are pinned."""

    client_id: str
    alias: str
    node_key: str
    node_id: str
    network: str
    relays: tuple[str, ...]
    max_skew_s: int
    state: ClientState
    created: int
    updated: int
    remote_name: str = ""
    offset_s: int = 0
    capabilities: dict[str, Any] | None = None
    capabilities_at: int | None = None
    last_nonce: int = 0
    last_seq: int = 0
    head_id: int = 0
    head_hash: str = ""
    suspect_why: str = ""

    @property
    def stopped(self) -> bool:
        """Paused by its operator's emergency stop."""
        return self.state == "paused" and self.suspect_why == EMERGENCY_STOP


class StoredCredential(msgspec.Struct, frozen=True):
    """A management credential as its node signed it (docs/protocol/02-fleet-management.md §2.1). One that was
    issued for a contract is used as far as `scope`, the contract's own."""

    credential_id: str
    client_id: str
    document: dict[str, Any]
    state: CredentialState
    valid_until: int
    created: int
    contract_id: str = ""
    scope: dict[str, Any] | None = None

    @property
    def agent_key(self) -> str:
        """The key of ours that it was issued to."""
        return str(self.document.get("agent_key", ""))


class StoredCommand(msgspec.Struct, frozen=True):
    """One command and the only envelope it will ever have alive.

    A draft or held one has none yet: nonce and timestamp are 0, the envelope is empty, and until `deadline`
    it can be sent. `passed` is who let it pass the guard. `sent_at` is when its bytes left first.
    `payment` is the proof it was planned with.
    """

    command_id: str
    client_id: str
    credential_id: str
    schema: str
    action: str
    params: dict[str, Any]
    danger: tuple[int, ...]
    origin: str
    nonce: int
    timestamp: int
    command_hash: str
    envelope: dict[str, Any]
    state: CommandState
    created: int
    updated: int
    note: str = ""
    slug: str | None = None
    response: dict[str, Any] | None = None
    challenge: str | None = None
    receipt_id: int | None = None
    retry_of: str | None = None
    sends: int = 0
    next_send: int | None = None
    deadline: int | None = None
    confirmed_danger: int | None = None
    resigned: int = 0
    plan_hash: str = ""
    expected_root: str | None = None
    passed: Passed = ""
    retry_until: int | None = None
    sent_at: int | None = None
    payment: dict[str, Any] | None = None

    @property
    def sender(self) -> str:
        """The key of ours that signed it."""
        return str(self.envelope.get("sender", ""))

    @property
    def total_danger(self) -> int:
        """The computed danger: the largest of the five numbers."""
        return max(self.danger, default=0)


class StoredReceipt(msgspec.Struct, frozen=True):
    """A receipt, or the stub of another agent's, and how far it could be checked."""

    client_id: str
    receipt_id: int
    hash: str
    prev: str
    mine: bool
    document: dict[str, Any]
    level: ReceiptLevel
    acked: bool = False
    standing: Standing | None = None
    ack_next: int | None = None
    carried_by: str | None = None


class HeadWord(msgspec.Struct, frozen=True):
    """What a node last said its newest receipt is: its id, the node's time and number of that answer, and the
    question of ours that was answered."""

    receipt_id: int
    at: int
    seq: int
    asked_by: str


class StoredEvidence(msgspec.Struct, frozen=True):
    """Something a node signed that contradicts what it signed before."""

    evidence_id: int
    client_id: str
    why: str
    document: dict[str, Any]
    at: int


class Alert(msgspec.Struct, frozen=True):
    """What a node (`origin` node) or the kit itself found worth a human's look."""

    number: int
    client_id: str
    origin: Literal["node", "kit"]
    alert_id: str
    level: str
    code: str
    text: str
    subject: str
    state: AlertState
    at: int
    updated: int


class Event(msgspec.Struct, frozen=True):
    """Something that happened; ``cursor`` rises, so that a consumer that crashed misses nothing."""

    cursor: int
    kind: str
    ref: str
    text: str
    at: int


def event_row(event: Event) -> dict[str, Any]:
    """An event as programs see it. ``at`` is Unix seconds."""
    return {
        "cursor": event.cursor,
        "kind": event.kind,
        "ref": event.ref,
        "text": event.text,
        "at": event.at,
    }


class Quarantined(msgspec.Struct, frozen=True):
    """A message that failed a check. Kept as evidence, without any effect."""

    rumor_id: str
    peer: str
    why: str
    received_at: int
    raw: dict[str, Any] = msgspec.field(default_factory=dict)


class AuditRow(msgspec.Struct, frozen=True):
    """One call of a program through the MCP server. ``decision``: begun, done, shown (dry run), refused,
    failed, limited."""

    audit_id: int
    at: int
    client: str
    tool: str
    node: str
    klass: str
    args_hash: str
    decision: str
    slug: str = ""
    out_hash: str = ""
    plan: str = ""
