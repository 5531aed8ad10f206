"""States of a negotiation, the same on both sides: whose turn it is, and how it ended
(docs/protocol/04-marketplace-and-nostr.md §9).

Nothing leaves the database but messages, which are stored in the transaction of the step.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from hive_shared.machine import Step


class ThreadState(StrEnum):
    """Where a negotiation is. The values are stored."""

    ADVISORS_TURN = "advisors_turn"
    OPERATORS_TURN = "operators_turn"
    AGREED = "agreed"
    REJECTED = "rejected"
    ABORTED = "aborted"
    EXPIRED = "expired"
    FAILED = "failed"


class ThreadEvent(StrEnum):
    """What is said, or not said in time."""

    ON_OPERATOR_COUNTERED = "operator_countered"
    ON_ADVISOR_COUNTERED = "advisor_countered"
    ON_OPERATOR_ACCEPTED = "operator_accepted"
    ON_ADVISOR_ACCEPTED = "advisor_accepted"
    ON_REJECTED = "rejected"
    ON_ABORTED = "aborted"
    ON_EXPIRED = "expired"
    ON_ROUNDS_OUT = "rounds_out"


class ThreadEffect(StrEnum):
    """There is none."""


S, E = ThreadState, ThreadEvent
OPEN: Final = (S.ADVISORS_TURN, S.OPERATORS_TURN)
"""Terms are on the table."""

NEGOTIATIONS: Final[Mapping[tuple[ThreadState, ThreadEvent], Step[ThreadState, ThreadEffect]]] = (
    MappingProxyType(
        {
            (S.ADVISORS_TURN, E.ON_ADVISOR_COUNTERED): Step(S.OPERATORS_TURN),
            (S.ADVISORS_TURN, E.ON_ADVISOR_ACCEPTED): Step(S.AGREED),
            (S.OPERATORS_TURN, E.ON_OPERATOR_COUNTERED): Step(S.ADVISORS_TURN),
            (S.OPERATORS_TURN, E.ON_OPERATOR_ACCEPTED): Step(S.AGREED),
            **{(state, E.ON_REJECTED): Step(S.REJECTED) for state in OPEN},
            **{(state, E.ON_ABORTED): Step(S.ABORTED) for state in OPEN},
            **{(state, E.ON_EXPIRED): Step(S.EXPIRED) for state in OPEN},
            **{(state, E.ON_ROUNDS_OUT): Step(S.FAILED) for state in OPEN},
        }
    )
)
INITIAL: Final[Collection[ThreadState]] = OPEN
FINAL: Final[frozenset[ThreadState]] = frozenset({S.AGREED, S.REJECTED, S.ABORTED, S.EXPIRED, S.FAILED})
OUTCOMES: Final[Mapping[ThreadEffect, Collection[ThreadEvent]]] = MappingProxyType({})
