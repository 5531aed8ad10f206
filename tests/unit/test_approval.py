"""Approval levels, trust, votes and edits (02 §7.3)."""

from __future__ import annotations

from fractions import Fraction

import pytest
from cl_hive_comms.domain import approval
from cl_hive_comms.domain.approval import Workflow
from hive_shared.canonical import JsonValue
from hypothesis import given
from hypothesis import strategies as st

trusts = st.fractions(Fraction(1, 2), Fraction(2), max_denominator=1000)
dangers = st.integers(1, 10)


@pytest.mark.parametrize(
    ("danger", "trust", "value", "workflow"),
    [
        (3, "1", "3", Workflow.AUTO),
        (4, "1", "4", Workflow.QUEUE),
        (6, "1", "6", Workflow.QUEUE),
        (7, "1", "7", Workflow.CONFIRM),
        (8, "1", "8", Workflow.CONFIRM),
        (9, "1", "9", Workflow.MULTISIG),
        (3, "1/2", "6", Workflow.QUEUE),
        (5, "2", "5/2", Workflow.AUTO),
        (6, "1/2", "12", Workflow.MULTISIG),
        (10, "2", "5", Workflow.QUEUE),
    ],
)
def test_levels_of_the_sheet(danger: int, trust: str, value: str, workflow: Workflow) -> None:
    level = approval.level(danger, Fraction(trust))
    assert (level, approval.workflow_of(level)) == (Fraction(value), workflow)


@given(dangers, trusts, trusts)
def test_more_trust_never_asks_for_more(danger: int, first: Fraction, second: Fraction) -> None:
    low, high = sorted((first, second))
    assert approval.level(danger, high) <= approval.level(danger, low)
    assert approval.level(danger, high) >= Fraction(danger, 2)


@given(trusts, st.integers(1, 9))
def test_more_danger_never_asks_for_less(trust: Fraction, danger: int) -> None:
    assert approval.level(danger + 1, trust) > approval.level(danger, trust)
    floors = [approval.rank(approval.floor_of(each)) for each in (danger, danger + 1)]
    assert floors == sorted(floors)


def test_trust_outside_its_range_is_held_to_it() -> None:
    assert approval.level(4, Fraction(100)) == approval.level(4, Fraction(2))
    assert approval.level(4, Fraction(0)) == approval.level(4, Fraction(1, 2))


@pytest.mark.parametrize(
    ("value", "text"),
    [("3", "3"), ("5/2", "2.5"), ("10/3", "3.34"), ("12", "12"), ("0", "0"), ("60/13", "4.62")],
)
def test_levels_are_written_without_fractions(value: str, text: str) -> None:
    assert approval.level_text(Fraction(value)) == text


def test_votes_needed() -> None:
    assert approval.approvals_needed(Workflow.AUTO, 5) == 0
    assert approval.approvals_needed(Workflow.QUEUE, 0) == 1
    assert [approval.approvals_needed(Workflow.MULTISIG, m) for m in (2, 3, 4, 5)] == [2, 2, 3, 3]
    assert approval.approvals_needed(Workflow.MULTISIG, 5, named=4) == 4
    assert approval.approvals_needed(Workflow.MULTISIG, 5, named=1) == 2


@pytest.mark.parametrize(
    ("facts", "trust"),
    [
        ({}, "1"),
        ({"age_days": 29, "receipts": 100, "success": Fraction(1)}, "1"),
        ({"age_days": 60, "receipts": 9, "success": Fraction(1)}, "1"),
        ({"age_days": 60, "receipts": 10, "success": Fraction(1)}, "3/2"),
        ({"age_days": 90, "receipts": 10, "success": Fraction(95, 100)}, "2"),
        ({"age_days": 900, "receipts": 10, "success": Fraction(94, 100)}, "1"),
        ({"age_days": 900, "receipts": 10, "success": Fraction(1), "violations": 1}, "1"),
        ({"standing": "newcomer"}, "1/2"),
        ({"standing": "senior"}, "2"),
        ({"standing": "stranger"}, "1/2"),
        ({"standing": "senior", "pin": Fraction(1)}, "1"),
        ({"pin": Fraction(9)}, "2"),
    ],
)
def test_trust_of_an_agent(facts: dict[str, object], trust: str) -> None:
    assert approval.trust_of(Fraction(1), **facts) == Fraction(trust)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("original", "edited", "fine"),
    [
        ({"fee_ppm": 150}, {"fee_ppm": 120}, True),
        ({"fee_ppm": 150}, {"fee_ppm": 150}, True),
        ({"fee_ppm": 150}, {"fee_ppm": 151}, False),
        ({"delta": -30}, {"delta": -10}, True),
        ({"delta": -30}, {"delta": 10}, False),
        ({"delta": -30}, {"delta": -31}, False),
        ({"a": 1}, {"a": True}, False),
        ({"a": 1}, {"a": 0.5}, False),
        ({"a": True}, {"a": False}, False),
        ({"a": 1, "b": 2}, {"a": 1}, False),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({"c": ["1x1x1", "2x1x1", "3x1x1"]}, {"c": ["1x1x1", "3x1x1"]}, True),
        ({"c": ["1x1x1"]}, {"c": ["9x1x1"]}, False),
        ({"c": ["1x1x1"]}, {"c": []}, False),
        ({"c": ["1x1x1", "2x1x1"]}, {"c": ["2x1x1", "1x1x1"]}, False),
        ({"d": [{"sats": 5}]}, {"d": [{"sats": 4}]}, True),
        ({"d": [{"peer": "a", "sats": 5}]}, {"d": [{"peer": "b", "sats": 4}]}, False),
        ({"channel_id": "1x1x1"}, {"channel_id": "2x1x1"}, False),
        ({"a": None}, {"a": None}, True),
    ],
)
def test_edits_may_only_reduce(original: JsonValue, edited: JsonValue, fine: bool) -> None:
    assert approval.only_reduces(original, edited) is fine


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-100, 100) | st.sampled_from(["a", "b"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["x", "y"]), inner, max_size=2)
    ),
    max_leaves=6,
)


@given(json_values, json_values)
def test_reducing_is_an_order(one: JsonValue, other: JsonValue) -> None:
    assert approval.only_reduces(one, one)
    if approval.only_reduces(one, other) and approval.only_reduces(other, one):
        assert one == other
