"""The command table: reachable, left only by outcomes, final where the sheet says so (02 §7.1)."""

from __future__ import annotations

from cl_hive_comms.domain.command_machine import (
    COMMANDS,
    FINAL,
    INITIAL,
    OUTCOMES,
    UNFINISHED,
    WAITING,
    Event,
    State,
    after,
)
from hive_shared.machine import mermaid, problems
from hypothesis import given
from hypothesis import strategies as st

SHEET = {
    (State.RECEIVED, State.REJECTED),
    (State.RECEIVED, State.PENDING_APPROVAL),
    (State.RECEIVED, State.APPROVED),
    (State.RECEIVED, State.CANCELLED),
    (State.PENDING_APPROVAL, State.CONFIRM_WAIT),
    (State.PENDING_APPROVAL, State.APPROVED),
    (State.CONFIRM_WAIT, State.APPROVED),
    (State.APPROVED, State.EXECUTING),
    (State.EXECUTING, State.SUCCESS),
    (State.EXECUTING, State.ERROR),
    (State.EXECUTING, State.PARTIAL),
    (State.EXECUTING, State.PENDING_EXTERNAL),
    (State.EXECUTING, State.INDETERMINATE),
    (State.PENDING_EXTERNAL, State.SUCCESS),
    (State.PENDING_EXTERNAL, State.ERROR),
    (State.PENDING_EXTERNAL, State.PARTIAL),
    (State.PENDING_EXTERNAL, State.INDETERMINATE),
    *((waiting, end) for waiting in WAITING for end in (State.REJECTED, State.EXPIRED, State.CANCELLED)),
}


def test_the_table_is_sound() -> None:
    assert problems(COMMANDS, initial=INITIAL, final=FINAL, outcomes=OUTCOMES) == []


def test_the_table_has_exactly_the_moves_of_the_sheet() -> None:
    assert {(state, step.to) for (state, _), step in COMMANDS.items()} == SHEET


def test_an_executing_command_cannot_be_cancelled_or_expire() -> None:
    for state in (State.EXECUTING, State.PENDING_EXTERNAL):
        for event in (Event.ON_CANCELLED, Event.ON_EXPIRED, Event.ON_REFUSED, Event.ON_STARTED):
            assert after(state, event) is None


def test_unfinished_and_final_share_out_all_states() -> None:
    assert set(State) == FINAL | UNFINISHED
    assert not FINAL & UNFINISHED and WAITING < UNFINISHED


def test_it_can_be_drawn() -> None:
    assert "APPROVED --> EXECUTING: ON_STARTED / EXECUTE" in mermaid(COMMANDS)


@given(st.lists(st.sampled_from(Event), max_size=30))
def test_no_order_of_events_runs_a_command_twice(events: list[Event]) -> None:
    state, runs = State.RECEIVED, 0
    for event in events:
        following = after(state, event)
        if following is not None:
            assert state not in FINAL
            runs += following is State.EXECUTING
            state = following
    assert runs <= 1
