"""States of a command and what moves it (docs/protocol/02-fleet-management.md §7.1), as a table.

The command service drives it: a row of `comms_commands` moves only along this table, with its old state in
the WHERE of the update. `execute` is the one effect; whoever may have begun it is asked, never repeated.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from hive_shared.machine import Step


class State(StrEnum):
    """Where a command is. The values are what `command_status` answers and what is stored."""

    RECEIVED = "received"
    PENDING_APPROVAL = "pending_approval"
    CONFIRM_WAIT = "confirm_wait"
    APPROVED = "approved"
    EXECUTING = "executing"
    PENDING_EXTERNAL = "pending_external"
    SUCCESS = "success"
    ERROR = "error"
    PARTIAL = "partial"
    INDETERMINATE = "indeterminate"
    REJECTED = "rejected"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class Event(StrEnum):
    """What happens to a command."""

    ON_REFUSED = "refused"
    ON_ALLOWED = "allowed"
    ON_HELD = "held"
    ON_APPROVED = "approved"
    ON_CHALLENGED = "challenged"
    ON_CONFIRMED = "confirmed"
    ON_EXPIRED = "expired"
    ON_CANCELLED = "cancelled"
    ON_STARTED = "started"
    ON_SUCCEEDED = "succeeded"
    ON_FAILED = "failed"
    ON_PARTLY = "partly"
    ON_UNRESOLVED = "unresolved"
    ON_UNPROVABLE = "unprovable"


class Effect(StrEnum):
    """What leaves the database: the action itself, and the watching of one that CLN has not finished."""

    EXECUTE = "execute"
    WATCH = "watch"


S, E, Fx = State, Event, Effect

COMMANDS: Final[Mapping[tuple[State, Event], Step[State, Effect]]] = MappingProxyType(
    {
        (S.RECEIVED, E.ON_REFUSED): Step(S.REJECTED),
        (S.RECEIVED, E.ON_ALLOWED): Step(S.APPROVED),
        (S.RECEIVED, E.ON_HELD): Step(S.PENDING_APPROVAL),
        # Revocation and the kill switch reach a command between its nonce and its decision too.
        (S.RECEIVED, E.ON_CANCELLED): Step(S.CANCELLED),
        (S.PENDING_APPROVAL, E.ON_APPROVED): Step(S.APPROVED),
        (S.PENDING_APPROVAL, E.ON_CHALLENGED): Step(S.CONFIRM_WAIT),
        (S.PENDING_APPROVAL, E.ON_REFUSED): Step(S.REJECTED),
        (S.PENDING_APPROVAL, E.ON_EXPIRED): Step(S.EXPIRED),
        (S.PENDING_APPROVAL, E.ON_CANCELLED): Step(S.CANCELLED),
        (S.CONFIRM_WAIT, E.ON_CONFIRMED): Step(S.APPROVED),
        (S.CONFIRM_WAIT, E.ON_REFUSED): Step(S.REJECTED),
        (S.CONFIRM_WAIT, E.ON_EXPIRED): Step(S.EXPIRED),
        (S.CONFIRM_WAIT, E.ON_CANCELLED): Step(S.CANCELLED),
        # Approved is the moment between permission and the executing row: checks are repeated here.
        (S.APPROVED, E.ON_STARTED): Step(S.EXECUTING, Fx.EXECUTE),
        (S.APPROVED, E.ON_REFUSED): Step(S.REJECTED),
        (S.APPROVED, E.ON_EXPIRED): Step(S.EXPIRED),
        (S.APPROVED, E.ON_CANCELLED): Step(S.CANCELLED),
        # No cancel and no expiry from here on: the node may have acted, only the outcome moves us.
        (S.EXECUTING, E.ON_SUCCEEDED): Step(S.SUCCESS),
        (S.EXECUTING, E.ON_FAILED): Step(S.ERROR),
        (S.EXECUTING, E.ON_PARTLY): Step(S.PARTIAL),
        (S.EXECUTING, E.ON_UNRESOLVED): Step(S.PENDING_EXTERNAL, Fx.WATCH),
        (S.EXECUTING, E.ON_UNPROVABLE): Step(S.INDETERMINATE),
        (S.PENDING_EXTERNAL, E.ON_SUCCEEDED): Step(S.SUCCESS),
        (S.PENDING_EXTERNAL, E.ON_FAILED): Step(S.ERROR),
        (S.PENDING_EXTERNAL, E.ON_PARTLY): Step(S.PARTIAL),
        (S.PENDING_EXTERNAL, E.ON_UNPROVABLE): Step(S.INDETERMINATE),
    }
)

INITIAL: Final[Collection[State]] = (S.RECEIVED,)
WAITING: Final[frozenset[State]] = frozenset({S.PENDING_APPROVAL, S.CONFIRM_WAIT, S.APPROVED})
"""States in which nothing has been done yet: reject, expiry, cancel and revocation apply."""
FINAL: Final[frozenset[State]] = frozenset(
    {S.SUCCESS, S.ERROR, S.PARTIAL, S.INDETERMINATE, S.REJECTED, S.EXPIRED, S.CANCELLED}
)
UNFINISHED: Final[frozenset[State]] = frozenset(State) - FINAL
OUTCOMES: Final[Mapping[Effect, Collection[Event]]] = MappingProxyType(
    {
        Fx.EXECUTE: (E.ON_SUCCEEDED, E.ON_FAILED, E.ON_PARTLY, E.ON_UNRESOLVED, E.ON_UNPROVABLE),
        Fx.WATCH: (E.ON_SUCCEEDED, E.ON_FAILED, E.ON_PARTLY, E.ON_UNPROVABLE),
    }
)
MAX_EXTERNAL_S: Final = 30 * 86_400
"""How long a pending_external command is watched before it is given up as indeterminate."""


def after(state: State, event: Event) -> State | None:
    """The state an event leads to, or None when the state does not take it."""
    step = COMMANDS.get((state, event))
    return None if step is None else step.to
