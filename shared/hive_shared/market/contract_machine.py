"""States of an engagement from the first proposal to its end, the same table on both sides
(docs/protocol/04-marketplace-and-nostr.md §10).

The one effect is the operator's: the management credential, issued in the transaction of its outcome, so a
crash between the signatures and the credential leaves `signed`, which is taken up again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from hive_shared.machine import Step


class ContractState(StrEnum):
    """Where an engagement is. The values are stored."""

    DRAFT = "draft"
    PROPOSED = "proposed"
    COUNTERED = "countered"
    AGREED = "agreed"
    SIGNING = "signing"
    SIGNED = "signed"
    TRIAL = "trial"
    TRIAL_REVIEW = "trial_review"
    ACTIVE = "active"
    NOTICE = "notice"
    TERMINATED = "terminated"
    COMPLETED = "completed"
    REJECTED = "rejected"
    EXPIRED = "expired"
    ABORTED = "aborted"
    FAILED = "failed"


class ContractEvent(StrEnum):
    """What happens to an engagement."""

    ON_PROPOSED = "proposed"
    ON_COUNTERED = "countered"
    ON_ACCEPTED = "accepted"
    ON_REJECTED = "rejected"
    ON_EXPIRED = "expired"
    ON_ABORTED = "aborted"
    ON_ROUNDS_OUT = "rounds_out"
    ON_OPERATOR_SIGNED = "operator_signed"
    ON_SIGNED = "signed"
    ON_TRIAL = "trial"
    ON_TRIAL_OVER = "trial_over"
    ON_ACTIVATED = "activated"
    ON_NOTICE = "notice"
    ON_RENEWED = "renewed"
    ON_COMPLETED = "completed"
    ON_TERMINATED = "terminated"


class ContractEffect(StrEnum):
    """What leaves the row: the node signs a credential."""

    ISSUE = "issue"


S, E, Fx = ContractState, ContractEvent, ContractEffect
NEGOTIATED: Final = (S.PROPOSED, S.COUNTERED)
"""Nothing is agreed yet."""
UNSIGNED: Final = (S.DRAFT, *NEGOTIATED, S.AGREED, S.SIGNING)
"""Not both have signed: it may still come to nothing."""
RUNNING: Final = (S.SIGNED, S.TRIAL, S.TRIAL_REVIEW, S.ACTIVE, S.NOTICE)
"""Both have signed, and it has not ended."""

CONTRACTS: Final[Mapping[tuple[ContractState, ContractEvent], Step[ContractState, ContractEffect]]] = (
    MappingProxyType(
        {
            (S.DRAFT, E.ON_PROPOSED): Step(S.PROPOSED),
            (S.DRAFT, E.ON_ABORTED): Step(S.ABORTED),
            (S.DRAFT, E.ON_EXPIRED): Step(S.EXPIRED),
            **{(state, E.ON_COUNTERED): Step(S.COUNTERED) for state in NEGOTIATED},
            **{(state, E.ON_ACCEPTED): Step(S.AGREED) for state in NEGOTIATED},
            **{(state, E.ON_REJECTED): Step(S.REJECTED) for state in NEGOTIATED},
            **{(state, E.ON_ROUNDS_OUT): Step(S.FAILED) for state in NEGOTIATED},
            **{(state, E.ON_EXPIRED): Step(S.EXPIRED) for state in (*NEGOTIATED, S.AGREED, S.SIGNING)},
            **{(state, E.ON_ABORTED): Step(S.ABORTED) for state in (*NEGOTIATED, S.AGREED, S.SIGNING)},
            (S.AGREED, E.ON_OPERATOR_SIGNED): Step(S.SIGNING),
            (S.SIGNING, E.ON_SIGNED): Step(S.SIGNED, Fx.ISSUE),
            (S.SIGNED, E.ON_TRIAL): Step(S.TRIAL),
            (S.SIGNED, E.ON_ACTIVATED): Step(S.ACTIVE),
            (S.TRIAL, E.ON_TRIAL_OVER): Step(S.TRIAL_REVIEW),
            (S.TRIAL, E.ON_ACTIVATED): Step(S.ACTIVE),
            (S.TRIAL_REVIEW, E.ON_TRIAL): Step(S.TRIAL),
            (S.TRIAL_REVIEW, E.ON_ACTIVATED): Step(S.ACTIVE),
            (S.ACTIVE, E.ON_RENEWED): Step(S.ACTIVE),
            **{(state, E.ON_NOTICE): Step(S.NOTICE) for state in (S.TRIAL, S.ACTIVE)},
            **{(state, E.ON_COMPLETED): Step(S.COMPLETED) for state in (S.ACTIVE, S.NOTICE)},
            **{(state, E.ON_TERMINATED): Step(S.TERMINATED) for state in RUNNING},
        }
    )
)
INITIAL: Final[Collection[ContractState]] = (S.DRAFT, S.PROPOSED)
FINAL: Final[frozenset[ContractState]] = frozenset(
    {S.TERMINATED, S.COMPLETED, S.REJECTED, S.EXPIRED, S.ABORTED, S.FAILED}
)
OUTCOMES: Final[Mapping[ContractEffect, Collection[ContractEvent]]] = MappingProxyType(
    {Fx.ISSUE: (E.ON_TRIAL, E.ON_ACTIVATED, E.ON_TERMINATED)}
)
