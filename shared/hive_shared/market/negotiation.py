"""A negotiation as its rounds: who offered which terms until when, and what may follow
(docs/protocol/04-marketplace-and-nostr.md §9).

Pure and the same on both sides: from the same messages both come to the same end. A moment `at` is when
something was said (Unix seconds), not when it was read.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

import msgspec
from msgspec import Struct

from hive_shared.errors import Conflict, InvalidParams
from hive_shared.machine import EventRejected

from .messages import ContractProposal, CounterOffer
from .negotiation_machine import NEGOTIATIONS, OPEN, ThreadEvent, ThreadState
from .terms import modified, read_terms, terms_hash

MAX_ROUNDS: Final = 5
ROUND_S: Final = 72 * 3_600
"""How long a counter offer stands at most."""
PROPOSAL_S: Final = 7 * 86_400
MAX_PROPOSAL_S: Final = 14 * 86_400
"""How long a proposal stands: by default, and at most."""


class Side(StrEnum):
    """The two who negotiate. The values are stored."""

    OPERATOR = "operator"
    ADVISOR = "advisor"

    @property
    def other(self) -> Side:
        """The one across the table."""
        return Side.ADVISOR if self is Side.OPERATOR else Side.OPERATOR


_COUNTERED: Final = {
    Side.OPERATOR: ThreadEvent.ON_OPERATOR_COUNTERED,
    Side.ADVISOR: ThreadEvent.ON_ADVISOR_COUNTERED,
}
_ACCEPTED: Final = {
    Side.OPERATOR: ThreadEvent.ON_OPERATOR_ACCEPTED,
    Side.ADVISOR: ThreadEvent.ON_ADVISOR_ACCEPTED,
}
_TURN_OF: Final = {
    Side.OPERATOR: ThreadState.OPERATORS_TURN,
    Side.ADVISOR: ThreadState.ADVISORS_TURN,
}


class Round(Struct, frozen=True):
    """Terms that one side offered; number 0 is the proposal."""

    number: int
    by: Side
    terms: dict[str, Any]
    terms_hash: str
    expires_at: int


class Negotiation(Struct, frozen=True):
    """All rounds so far, and where they led. `agreed` is the round both agreed to."""

    contract_id: str
    rounds: tuple[Round, ...]
    state: ThreadState
    agreed: int | None = None

    @property
    def open(self) -> bool:
        """Whether terms are on the table."""
        return self.state in OPEN

    @property
    def last(self) -> Round:
        """The newest round, whether or not it stands."""
        return self.rounds[-1]

    @property
    def ends_at(self) -> int:
        """When nothing of it stands any more (Unix s)."""
        return max(each.expires_at for each in self.rounds)

    def standing(self, at: int) -> Round | None:
        """The terms on the table at a moment: the newest that have not run out; None when all have."""
        return next((each for each in reversed(self.rounds) if at < each.expires_at), None)

    def turn(self, at: int) -> Side | None:
        """Who may accept or counter at a moment: the one who did not offer what stands."""
        found = self.standing(at) if self.open else None
        return None if found is None else found.by.other

    @property
    def agreed_round(self) -> Round:
        """The round both agreed to. Raises Conflict when there is none."""
        if self.agreed is None:
            raise Conflict(f"{self.contract_id} is not agreed", reason="stale_state")
        return next(each for each in self.rounds if each.number == self.agreed)


def proposed(body: ContractProposal, by: Side, at: int) -> Negotiation:
    """The negotiation that a proposal opens.

    Raises InvalidParams for terms that are none and an expiry that is not within 14 days.
    """
    _check_expiry(body.expiresAt, at, MAX_PROPOSAL_S)
    read_terms(body.terms)
    first = Round(0, by, dict(body.terms), terms_hash(body.terms), body.expiresAt)
    return Negotiation(body.proposalId, (first,), _TURN_OF[by.other])


def countered(thread: Negotiation, by: Side, body: CounterOffer, at: int) -> Negotiation:
    """What a counter offer leads to; the sixth ends the negotiation as failed.

    Raises Conflict: `stale_state` when it is over, `expired`, `own_terms` when the sender's own terms stand,
    `stale_terms` when it is made on others or with another number. InvalidParams as `modified` does.
    """
    base = _answered(thread, by, at)
    number = thread.last.number + 1
    if body.base_terms_hash != base.terms_hash or body.round != number:
        raise Conflict(
            f"round {body.round} on terms {body.base_terms_hash}; what stands is {base.terms_hash}, and round"
            f" {number} is next",
            reason="stale_terms",
        )
    if number > MAX_ROUNDS:
        return _moved(thread, by, ThreadEvent.ON_ROUNDS_OUT, at)
    _check_expiry(body.expiresAt, at, ROUND_S)
    changed = modified(base.terms, body.modifications)
    follows = Round(number, by, changed, terms_hash(changed), body.expiresAt)
    moved = _moved(thread, by, _COUNTERED[by], at)
    return msgspec.structs.replace(moved, rounds=(*thread.rounds, follows))


def accepted(thread: Negotiation, by: Side, wanted_hash: str, at: int) -> Negotiation:
    """What an acceptance leads to.

    Raises Conflict: `stale_state`, `expired`, `own_terms` when the sender's own terms stand, `stale_terms`
    when it names others.
    """
    base = _answered(thread, by, at)
    if wanted_hash != base.terms_hash:
        raise Conflict(
            f"terms {wanted_hash} do not stand; what stands is {base.terms_hash} of round {base.number}",
            reason="stale_terms",
        )
    moved = _moved(thread, by, _ACCEPTED[by], at)
    return msgspec.structs.replace(moved, agreed=base.number)


def rejected(thread: Negotiation, by: Side, at: int) -> Negotiation:
    """What a rejection leads to. Raises Conflict `stale_state` when it is over."""
    return _moved(thread, by, ThreadEvent.ON_REJECTED, at)


def aborted(thread: Negotiation, by: Side, at: int) -> Negotiation:
    """What a withdrawal leads to. Raises Conflict `stale_state` when it is over."""
    return _moved(thread, by, ThreadEvent.ON_ABORTED, at)


def expired(thread: Negotiation, at: int) -> Negotiation:
    """The negotiation after nobody said anything in time. Raises Conflict when something still stands."""
    if thread.open and thread.standing(at) is not None:
        raise Conflict(f"{thread.contract_id}: terms stand until {thread.ends_at}", reason="stale_state")
    return _moved(thread, thread.last.by, ThreadEvent.ON_EXPIRED, at)


def _answered(thread: Negotiation, by: Side, at: int) -> Round:
    """The terms that `by` may answer."""
    if not thread.open:
        raise Conflict(f"{thread.contract_id} is {thread.state.value} already", reason="stale_state")
    base = thread.standing(at)
    if base is None:
        raise Conflict(f"the last terms ran out at {thread.ends_at}; it was {at}", reason="expired")
    if base.by is by:
        raise Conflict(
            f"the terms that stand, round {base.number}, are the {by.value}'s own; only the"
            f" {by.other.value} can answer them",
            reason="own_terms",
        )
    return base


def _moved(thread: Negotiation, by: Side, event: ThreadEvent, at: int) -> Negotiation:
    # Whose turn it is follows from the rounds: one that ran out gives it back without a word.
    turn = thread.turn(at)
    state = _TURN_OF[turn] if turn is not None else thread.state
    step = NEGOTIATIONS.get((state, event))
    if step is None:
        raise EventRejected(thread.contract_id, state, event)
    return msgspec.structs.replace(thread, state=step.to)


def _check_expiry(expires_at: int, at: int, most_s: int) -> None:
    if not at < expires_at <= at + most_s:
        raise InvalidParams(
            f"expiresAt {expires_at} is not within {most_s // 3_600} h after {at}, when it was said"
        )


def negotiation_doc(thread: Negotiation) -> Mapping[str, Any]:
    """The negotiation as plain data, for a table; `negotiation_of` reads it back."""
    found: Mapping[str, Any] = msgspec.to_builtins(thread)
    return found


def negotiation_of(document: Mapping[str, Any]) -> Negotiation:
    """The negotiation that `negotiation_doc` wrote."""
    return msgspec.convert(document, Negotiation)
