"""The table of locks: sound, and money is given up only on the mint's word (03 §8)."""

from __future__ import annotations

from hive_shared.cashu import lock_machine as machine
from hive_shared.cashu.lock_machine import HOLDING, LOCKS, LockEvent, LockState
from hive_shared.machine import problems


def test_the_table_is_sound() -> None:
    assert problems(LOCKS, initial=machine.INITIAL, final=machine.FINAL, outcomes=machine.OUTCOMES) == []


def test_what_ended_stays_and_what_failed_may_have_been_locked_late() -> None:
    sources = {state for state, _ in LOCKS}
    assert not sources & machine.FINAL
    assert [event for state, event in LOCKS if state is LockState.FAILED] == [LockEvent.ON_LOCKED]


def test_every_end_is_reached_from_a_lock_that_holds_money() -> None:
    ends = {state for (state, _), step in LOCKS.items() if step.to in machine.FINAL}
    assert ends <= set(HOLDING)
