"""What the wallet writes down: proofs it owns, operations in its journal (docs/protocol/03 §5, §8).

Every operation that moves ecash is such a row, with the exact request, committed before the request leaves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

import msgspec

from .outputs import Output
from .wire import Proof

PROBE_KEY: Final = "probe:"
"""What the keys of a probe's operations begin with."""


class ProofStatus(StrEnum):
    """Where a proof of ours is. `PENDING`: an operation under way holds it."""

    UNSPENT = "unspent"
    PENDING = "pending"
    SPENT = "spent"
    QUARANTINED = "quarantined"


class OpKind(StrEnum):
    """What an operation does."""

    FUND = "fund"
    LOCK = "lock"
    REDEEM = "redeem"
    REFUND = "refund"
    RECEIVE = "receive"
    SEND = "send"
    MELT = "melt"
    PROBE = "probe"
    CONSOLIDATE = "consolidate"


class OpState(StrEnum):
    """Where an operation is (docs/protocol/03-escrow-and-payments.md §5)."""

    PREPARED = "prepared"
    SENT = "sent"
    RECOVERING = "recovering"
    DONE = "done"
    FAILED = "failed"


OPEN: Final = (OpState.PREPARED, OpState.SENT, OpState.RECOVERING)
"""States in which the outcome is not settled."""

MOVES: Final[Mapping[OpState, frozenset[OpState]]] = MappingProxyType(
    {
        OpState.PREPARED: frozenset({OpState.SENT, OpState.FAILED}),
        OpState.SENT: frozenset({OpState.RECOVERING, OpState.DONE, OpState.FAILED}),
        OpState.RECOVERING: frozenset(
            {OpState.SENT, OpState.RECOVERING, OpState.DONE, OpState.FAILED},
        ),
        # A released operation is watched: the mint may have carried it out late.
        OpState.FAILED: frozenset({OpState.DONE}),
        OpState.DONE: frozenset(),
    }
)
"""Which state may follow which; a store refuses every other move."""

MAX_ELEMENTS: Final = 1_000
"""Inputs, and outputs, of one request (docs/protocol/03 §2.1)."""
LONGEST_WAIT_S: Final = 900
"""The longest that an operation waits before it is looked at again: one that says more was written by a clock
that was ahead and has been set back."""
INCOMING: Final = frozenset({OpKind.RECEIVE, OpKind.REDEEM, OpKind.REFUND, OpKind.FUND})
"""Operations that bring money to us: one that a crash left unsent is carried on, the others are given up."""


class Coin(msgspec.Struct, frozen=True):
    """What coin selection looks at: a proof's name, keyset and amount (sat)."""

    y: str
    keyset_id: str
    amount: int


class OwnProof(msgspec.Struct, frozen=True):
    """A proof of ours with its DLEQ; `counter` derived it (None: the seed did not)."""

    y: str
    proof: Proof
    counter: int | None = None


class PlannedOutput(msgspec.Struct, frozen=True):
    """An output of a request, and what it is for: keep (ours), hold (ours once the operation's owner says
    so), give (somebody else's), lock."""

    output: Output
    use: str = "keep"
    counter: int | None = None


class OpBody(msgspec.Struct, frozen=True):
    """The secret part of an operation: the request as it leaves, and what came of it.

    `inputs` are proofs with their witness; `invoice` is what a melt pays or a fund is paid by; `token` what
    a send or lock made; `preimage` what a melt was answered.
    """

    inputs: tuple[Proof, ...] = ()
    outputs: tuple[PlannedOutput, ...] = ()
    invoice: str = ""
    token: str = ""
    preimage: str = ""

    def __repr__(self) -> str:
        return f"<request of {len(self.inputs)} inputs, {len(self.outputs)} outputs>"


class Op(msgspec.Struct, frozen=True):
    """One operation. Amounts in sat, times in Unix seconds; `amount_sats` is what its caller asked for,
    `fee_sats` what the mint takes; `content` names what an idempotency key stands for."""

    op_id: str
    idempotency_key: str
    content: str
    owner: str
    kind: OpKind
    mint_url: str
    state: OpState
    inputs: tuple[str, ...]
    amount_sats: int
    fee_sats: int
    created_at: int
    updated_at: int
    body: OpBody = msgspec.field(default_factory=OpBody)
    quote_id: str = ""
    quote_key: bytes = b""
    payment_id: str = ""
    lock_ids: tuple[str, ...] = ()
    attempts: int = 0
    next_retry_at: int = 0
    expires_at: int = 0
    sent_at: int = 0
    watch_until: int = 0
    error: str = ""
    reason: str = ""

    def __repr__(self) -> str:
        return f"<op {self.op_id} {self.kind} {self.state}>"

    @property
    def open(self) -> bool:
        """Whether its outcome is not settled."""
        return self.state in OPEN


def in_time(op: Op, now: int) -> Op:
    """The operation with times of this clock (Unix s): by those of one that was ahead it would wait for
    years. The very same where they are sane."""
    if max(op.next_retry_at, op.sent_at) <= now + LONGEST_WAIT_S:
        return op
    day = now + 86_400
    return msgspec.structs.replace(
        op,
        next_retry_at=now,
        sent_at=min(op.sent_at, now),
        expires_at=min(op.expires_at, day),
        watch_until=min(op.watch_until, day),
    )


def body_to_text(body: OpBody) -> str:
    """An operation's request as JSON."""
    inputs = msgspec.to_builtins(body.inputs)
    outputs = [
        [
            o.output.amount,
            o.output.keyset_id,
            o.output.secret,
            o.output.r.hex(),
            o.output.blinded,
            o.use,
            o.counter,
        ]
        for o in body.outputs
    ]
    rest = {"invoice": body.invoice, "token": body.token, "preimage": body.preimage}
    return json.dumps({"inputs": inputs, "outputs": outputs, **rest})


def body_from_text(text: str) -> OpBody:
    """The inverse of `body_to_text`."""
    doc: Mapping[str, Any] = json.loads(text)
    outputs = (
        PlannedOutput(Output(amount, keyset_id, secret, bytes.fromhex(r), blinded), use, counter)
        for amount, keyset_id, secret, r, blinded, use, counter in doc["outputs"]
    )
    inputs = msgspec.convert(doc["inputs"], tuple[Proof, ...])
    return OpBody(inputs, tuple(outputs), doc["invoice"], doc["token"], doc["preimage"])
