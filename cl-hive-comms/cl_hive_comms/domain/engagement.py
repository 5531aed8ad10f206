"""An engagement as this node knows it: its negotiation, its contract, what was said
(docs/protocol/04-marketplace-and-nostr.md §9, §10, §11).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from hive_shared.canonical import JsonValue
from hive_shared.errors import Conflict
from hive_shared.machine import EventRejected
from hive_shared.market.contract_machine import CONTRACTS, FINAL, ContractEvent, ContractState
from hive_shared.market.negotiation import Negotiation

MAX_CONTRACTS: Final = 10_000
MAX_MESSAGES: Final = 100_000
MAX_THREAD_MESSAGES: Final = 500


class Left(msgspec.Struct, frozen=True):
    """How much of both caps a message has to leave free: in its conversation, of all."""

    thread: int
    every: int


FOR_OUR_OWN: Final = Left(100, 10_000)
"""What the other side cannot fill: it never keeps us from answering, nor the operator from ending it."""
FOR_THE_OPERATOR: Final = Left(50, 5_000)
"""What our own answers leave to the operator's acts."""
NOTHING: Final = Left(0, 0)


class Engagement(msgspec.Struct, frozen=True, kw_only=True):
    """One engagement; keys are x-only hex, times Unix seconds. `credential_id` is reserved before the
    contract is signed, and `document` is the contract with the proofs it has so far."""

    contract_id: str
    thread_id: str
    peer_pubkey: str
    advisor_did: str
    advisor_name: str
    operator_id: str
    node_id: str
    status: ContractState
    thread: Negotiation
    created_at: int
    updated_at: int
    version: int = 0
    document: Mapping[str, Any] | None = None
    contract_hash: str | None = None
    credential_id: str | None = None
    contract_start: int | None = None
    contract_end: int | None = None
    notice_at: int | None = None
    effective_at: int | None = None
    terminated_at: int | None = None
    termination_reason: str | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self.status in FINAL

    @property
    def terms(self) -> Mapping[str, Any]:
        """The terms agreed, or offered last."""
        thread = self.thread
        return (thread.last if thread.agreed is None else thread.agreed_round).terms

    def after(self, event: ContractEvent, at: int, **changes: Any) -> Engagement:
        """The row after an event. Raises EventRejected where its state does not take it."""
        step = CONTRACTS.get((self.status, event))
        if step is None:
            raise EventRejected(f"contract {self.contract_id}", self.status, event)
        return msgspec.structs.replace(self, status=step.to, updated_at=at, **changes)


class MarketMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One message of a negotiation. `state`: held (waits for an earlier one), done, refused (`code` says
    why), sent."""

    msg_id: str
    thread_id: str
    direction: str
    seq: int
    verb: str
    body: JsonValue
    sig: str
    sent_at: int
    expires_at: int
    state: str
    received_at: int | None = None
    code: str | None = None


def check_open(row: Engagement) -> None:
    """Raises Conflict for an engagement that is over."""
    if row.over:
        raise Conflict(f"contract {row.contract_id} is {row.status.value} already", reason="stale_state")
