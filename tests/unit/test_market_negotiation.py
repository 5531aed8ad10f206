"""A negotiation: turns, rounds, expiry; both sides come to the same end from the same messages (04 §9)."""

from __future__ import annotations

from typing import Any

import pytest
from hive_shared.errors import Conflict, InvalidParams
from hive_shared.machine import problems
from hive_shared.market import negotiation_machine as machine
from hive_shared.market.messages import ContractProposal, CounterOffer
from hive_shared.market.negotiation import (
    MAX_PROPOSAL_S,
    MAX_ROUNDS,
    PROPOSAL_S,
    ROUND_S,
    Negotiation,
    Side,
    aborted,
    accepted,
    countered,
    expired,
    negotiation_doc,
    negotiation_of,
    proposed,
    rejected,
)
from hive_shared.market.negotiation_machine import NEGOTIATIONS, ThreadState
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.market_terms import terms

NOW = 1_800_000_000
ID = "6f1d8a34-3c1f-4f0e-9b52-0d9a4a3f6c11"
OP, AD = Side.OPERATOR, Side.ADVISOR


def proposal(expires_at: int = NOW + PROPOSAL_S) -> ContractProposal:
    return ContractProposal(
        type="HiveContractProposal",
        proposalId=ID,
        terms=terms(),
        expiresAt=expires_at,
        sender="did:nostr:" + "a" * 64,
        recipient="did:nostr:" + "b" * 64,
    )


def counter(thread: Negotiation, sats: int, at: int, *, last_s: int = ROUND_S) -> CounterOffer:
    base = thread.standing(at) or thread.last
    return CounterOffer(
        type="HiveCounterOffer",
        proposalId=ID,
        round=thread.last.number + 1,
        base_terms_hash=base.terms_hash,
        modifications={"compensation.perActionSats": sats},
        justification="",
        expiresAt=at + last_s,
    )


def opened() -> Negotiation:
    return proposed(proposal(), OP, NOW)


def test_the_table_is_sound() -> None:
    found = problems(NEGOTIATIONS, initial=machine.INITIAL, final=machine.FINAL, outcomes=machine.OUTCOMES)
    assert found == []


def test_a_counter_offer_turns_the_table_and_the_other_accepts() -> None:
    thread = opened()
    assert (thread.state, thread.turn(NOW)) == (ThreadState.ADVISORS_TURN, AD)
    thread = countered(thread, AD, counter(thread, 40, NOW), NOW)
    assert (thread.state, thread.turn(NOW)) == (ThreadState.OPERATORS_TURN, OP)
    thread = accepted(thread, OP, thread.last.terms_hash, NOW + 1)
    assert thread.state is ThreadState.AGREED
    assert thread.agreed_round.terms["compensation"]["perActionSats"] == 40
    assert negotiation_of(negotiation_doc(thread)) == thread


def test_nobody_accepts_or_counters_what_it_offered_itself() -> None:
    thread = opened()
    with pytest.raises(Conflict, match="own_terms"):
        accepted(thread, OP, thread.last.terms_hash, NOW)
    with pytest.raises(Conflict, match="own_terms"):
        countered(thread, OP, counter(thread, 40, NOW), NOW)


def test_other_terms_than_those_that_stand_are_stale() -> None:
    thread = opened()
    first = thread.last.terms_hash
    thread = countered(thread, AD, counter(thread, 40, NOW), NOW)
    with pytest.raises(Conflict, match="stale_terms"):
        accepted(thread, OP, first, NOW)
    late = counter(thread, 50, NOW)
    for wrong in ({"base_terms_hash": first}, {"round": 1}, {"round": 3}):
        stale: Any = {name: getattr(late, name) for name in late.__struct_fields__} | wrong
        with pytest.raises(Conflict, match="stale_terms"):
            countered(thread, OP, CounterOffer(**stale), NOW)


def test_the_sixth_round_fails() -> None:
    thread, by = opened(), AD
    for number in range(1, MAX_ROUNDS + 1):
        thread = countered(thread, by, counter(thread, 40 + number, NOW), NOW)
        by = by.other
    assert thread.last.number == 5
    thread = countered(thread, by, counter(thread, 99, NOW), NOW)
    assert thread.state is ThreadState.FAILED
    assert len(thread.rounds) == 6
    with pytest.raises(Conflict, match="failed already"):
        accepted(thread, OP, thread.last.terms_hash, NOW)


def test_a_round_that_ran_out_leaves_the_terms_before_it() -> None:
    thread = opened()
    thread = countered(thread, AD, counter(thread, 40, NOW, last_s=3_600), NOW)
    later = NOW + 3_600
    standing = thread.standing(later)
    assert standing is not None and standing.number == 0
    with pytest.raises(Conflict, match="own_terms"):
        accepted(thread, OP, thread.last.terms_hash, later)
    again = countered(thread, AD, counter(thread, 45, later), later)
    assert (again.last.number, again.state) == (2, ThreadState.OPERATORS_TURN)
    done = accepted(thread, AD, thread.rounds[0].terms_hash, later)
    assert done.agreed_round.number == 0


def test_what_ran_out_is_not_accepted() -> None:
    thread = opened()
    with pytest.raises(Conflict, match="terms stand until"):
        expired(thread, NOW + PROPOSAL_S - 1)
    with pytest.raises(Conflict, match="expired"):
        accepted(thread, AD, thread.last.terms_hash, NOW + PROPOSAL_S)
    assert expired(thread, NOW + PROPOSAL_S).state is ThreadState.EXPIRED


@pytest.mark.parametrize("expires_at", [NOW, NOW - 1, NOW + MAX_PROPOSAL_S + 1])
def test_a_proposal_stands_for_a_while_and_not_forever(expires_at: int) -> None:
    with pytest.raises(InvalidParams, match="expiresAt"):
        proposed(proposal(expires_at), OP, NOW)


def test_a_counter_offer_stands_for_three_days_at_most() -> None:
    thread = opened()
    with pytest.raises(InvalidParams, match="expiresAt"):
        countered(thread, AD, counter(thread, 40, NOW, last_s=ROUND_S + 1), NOW)


@pytest.mark.parametrize("end", [rejected, aborted])
def test_either_ends_it_and_only_once(end: Any) -> None:
    for side in Side:
        over = end(opened(), side, NOW)
        assert not over.open
        for again in (rejected, aborted):
            with pytest.raises(Conflict):
                again(over, side, NOW)


_ACTS = st.lists(
    st.tuples(
        st.sampled_from(("counter", "accept", "reject", "abort", "wait")),
        st.sampled_from(tuple(Side)),
        st.sampled_from((60, ROUND_S, PROPOSAL_S)),
        st.booleans(),
    ),
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(_ACTS)
def test_both_sides_come_to_the_same_end(acts: list[tuple[str, Side, int, bool]]) -> None:
    """Whatever is tried in whatever order, one side dying before it has stored what it says (then nothing was
    said) or after (then it comes again): the two hold the same, and never more than one agreement."""
    ours = theirs = opened()
    at = NOW
    for step, (what, by, seconds, dies) in enumerate(acts):
        at += seconds if what == "wait" else 1
        if what == "wait":
            continue
        try:
            said = _said(ours, what, by, at, 33 + step)
        except Conflict:
            with pytest.raises(Conflict):
                _said(theirs, what, by, at, 33 + step)
            continue
        if dies:
            continue  # before the commit: no row and no message
        ours, theirs = said, _said(negotiation_of(negotiation_doc(theirs)), what, by, at, 33 + step)
        if not theirs.open:
            with pytest.raises(Conflict):
                _said(theirs, what, by, at, 33 + step)
    assert ours == theirs
    assert (ours.agreed is not None) is (ours.state is ThreadState.AGREED)


def _said(thread: Negotiation, what: str, by: Side, at: int, sats: int) -> Negotiation:
    if what == "counter":
        return countered(thread, by, counter(thread, sats, at), at)
    if what == "accept":
        return accepted(thread, by, (thread.standing(at) or thread.last).terms_hash, at)
    return (rejected if what == "reject" else aborted)(thread, by, at)
