"""States of a command on the advisor's side (docs/protocol/11-advisor-kit.md §5.2)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class CommandState(StrEnum):
    """Where a command stands. Before READY nothing is signed, before SENT nothing left; everything from DONE
    on is final."""

    DRAFT = "draft"
    HELD = "held"
    READY = "ready"
    SENT = "sent"
    PENDING = "pending"
    DONE = "done"
    PARTIAL = "partial"
    REJECTED = "rejected"
    ERROR = "error"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    INDETERMINATE = "indeterminate"
    LOST = "lost"


class CommandEvent(StrEnum):
    """What moves a command: the guard and a human, our own send, a verified answer, or proof that it never
    ran."""

    ON_HELD = "on_held"
    ON_COMMITTED = "on_committed"
    ON_UNSENT = "on_unsent"
    ON_SENT = "on_sent"
    ON_PENDING = "on_pending"
    ON_SUCCESS = "on_success"
    ON_PARTIAL = "on_partial"
    ON_REJECTED = "on_rejected"
    ON_ERROR = "on_error"
    ON_CANCELLED = "on_cancelled"
    ON_EXPIRED = "on_expired"
    ON_INDETERMINATE = "on_indeterminate"
    ON_PROVEN_NOT_RUN = "on_proven_not_run"
    ON_SIGNED_ANEW = "on_signed_anew"


UNSIGNED = frozenset({CommandState.DRAFT, CommandState.HELD})
"""Planned, and nothing signed."""

NOT_RUN = frozenset({CommandState.REJECTED, CommandState.CANCELLED, CommandState.EXPIRED, CommandState.LOST})
"""Ended, and nothing happened at the node."""

FINAL = frozenset(
    {
        CommandState.DONE,
        CommandState.PARTIAL,
        CommandState.REJECTED,
        CommandState.ERROR,
        CommandState.CANCELLED,
        CommandState.EXPIRED,
        CommandState.INDETERMINATE,
        CommandState.LOST,
    }
)

_ANSWERS: Mapping[CommandEvent, CommandState] = {
    CommandEvent.ON_SUCCESS: CommandState.DONE,
    CommandEvent.ON_PARTIAL: CommandState.PARTIAL,
    CommandEvent.ON_REJECTED: CommandState.REJECTED,
    CommandEvent.ON_ERROR: CommandState.ERROR,
    CommandEvent.ON_CANCELLED: CommandState.CANCELLED,
    CommandEvent.ON_EXPIRED: CommandState.EXPIRED,
    CommandEvent.ON_INDETERMINATE: CommandState.INDETERMINATE,
}

TABLE: Mapping[tuple[CommandState, CommandEvent], CommandState] = MappingProxyType(
    {
        (CommandState.DRAFT, CommandEvent.ON_HELD): CommandState.HELD,
        (CommandState.DRAFT, CommandEvent.ON_COMMITTED): CommandState.READY,
        (CommandState.DRAFT, CommandEvent.ON_EXPIRED): CommandState.EXPIRED,
        (CommandState.DRAFT, CommandEvent.ON_CANCELLED): CommandState.CANCELLED,
        (CommandState.HELD, CommandEvent.ON_COMMITTED): CommandState.READY,
        (CommandState.HELD, CommandEvent.ON_EXPIRED): CommandState.EXPIRED,
        (CommandState.HELD, CommandEvent.ON_REJECTED): CommandState.REJECTED,
        (CommandState.HELD, CommandEvent.ON_CANCELLED): CommandState.CANCELLED,
        # Its bytes never left, and what they say grows old: to be planned anew.
        (CommandState.READY, CommandEvent.ON_UNSENT): CommandState.DRAFT,
        (CommandState.READY, CommandEvent.ON_SENT): CommandState.SENT,
        # A send that we crashed out of may have left: its answer counts in READY too.
        **{(CommandState.READY, event): state for event, state in _ANSWERS.items()},
        (CommandState.READY, CommandEvent.ON_PENDING): CommandState.PENDING,
        (CommandState.SENT, CommandEvent.ON_SENT): CommandState.SENT,
        # Its number or its time was refused before it counted: the same command under another one.
        (CommandState.SENT, CommandEvent.ON_SIGNED_ANEW): CommandState.READY,
        (CommandState.READY, CommandEvent.ON_SIGNED_ANEW): CommandState.READY,
        (CommandState.SENT, CommandEvent.ON_PENDING): CommandState.PENDING,
        **{(CommandState.SENT, event): state for event, state in _ANSWERS.items()},
        # Only an answer given after the envelope died proves that it never ran.
        (CommandState.SENT, CommandEvent.ON_PROVEN_NOT_RUN): CommandState.LOST,
        (CommandState.PENDING, CommandEvent.ON_PENDING): CommandState.PENDING,
        **{(CommandState.PENDING, event): state for event, state in _ANSWERS.items()},
    }
)


_REFUSED_AT_ONCE = frozenset({"busy", "unsupported_schema", "unsupported_action", "requires_restart"})


def did_nothing(state: CommandState, slug: str | None) -> bool:
    """Whether a command that ended so changed nothing at the node."""
    return state in NOT_RUN or (state == CommandState.ERROR and slug in _REFUSED_AT_ONCE)


def next_state(state: CommandState, event: CommandEvent) -> CommandState | None:
    """The state after ``event``, or None when the event changes nothing (a final command)."""
    return TABLE.get((state, event))


_BY_SLUG: Mapping[str, CommandEvent] = {
    "approval_rejected": CommandEvent.ON_REJECTED,
    "approval_expired": CommandEvent.ON_EXPIRED,
    "cancelled": CommandEvent.ON_CANCELLED,
    "indeterminate": CommandEvent.ON_INDETERMINATE,
}

_BY_STATUS: Mapping[int, CommandEvent] = {
    0: CommandEvent.ON_SUCCESS,
    1: CommandEvent.ON_REJECTED,
    2: CommandEvent.ON_ERROR,
    3: CommandEvent.ON_PENDING,
    4: CommandEvent.ON_PARTIAL,
}


def event_of_answer(status: int, slug: str | None) -> CommandEvent:
    """The event that a verified answer stands for (docs/protocol/02-fleet-management.md §6.1, §7.2).

    Raises ValueError for a status outside 0..4.
    """
    if status not in _BY_STATUS:
        raise ValueError(f"status {status} is not 0 to 4")
    if status in (1, 2) and slug is not None and slug in _BY_SLUG:
        return _BY_SLUG[slug]
    return _BY_STATUS[status]
