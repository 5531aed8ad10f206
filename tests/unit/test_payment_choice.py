"""Which method a payment takes, and records of a keysend (docs/protocol/03-escrow-and-payments.md §7.1)."""

from __future__ import annotations

import pytest
from cl_hive_comms.domain.payment_checks import check_tlvs, method_of
from cl_hive_comms.domain.payment_choice import FLAT, PER_ACTION, SUBSCRIPTION, Case, choose, ways
from hive_shared.errors import InvalidParams, PaymentFailed

ALL = ("bolt11", "bolt12", "l402", "cashu")
BOTH = ("bolt11", "bolt12")
TICKETS = (*ALL, "cashu_escrow")
SHARED = {"shared_mint": True}


@pytest.mark.parametrize(
    ("case", "preferred", "accepted", "chosen"),
    [
        (Case(SUBSCRIPTION), ("bolt11", "bolt12"), ALL, "bolt12"),
        (Case(SUBSCRIPTION), ("bolt11", "bolt12"), ("bolt11", "cashu"), "bolt11"),
        (Case(PER_ACTION), ("bolt11", "bolt12"), ALL, "bolt11"),
        (Case(PER_ACTION), ("l402", "bolt11"), ALL, "l402"),
        (Case(FLAT), ("bolt12", "bolt11"), ALL, "bolt11"),
        (
            Case(PER_ACTION, conditional=True, shared_mint=True),
            ("bolt11",),
            (*ALL, "cashu_escrow"),
            "cashu_escrow",
        ),
        (Case(PER_ACTION, shared_mint=True), ("bolt12",), ("cashu", "bolt11"), "cashu"),
        (Case(PER_ACTION, shared_mint=True), ("cashu", "bolt11"), ALL, "cashu"),
        (Case(PER_ACTION, danger=3, shared_mint=True), ("cashu", "bolt11"), ALL, "bolt11"),
    ],
)
def test_the_first_common_method_that_fits(
    case: Case, preferred: tuple[str, ...], accepted: tuple[str, ...], chosen: str
) -> None:
    assert choose(case, preferred, accepted) == chosen


@pytest.mark.parametrize(
    ("case", "preferred", "accepted", "found"),
    [
        # Conditional: a ticket, whatever the operator prefers and however small the danger.
        (Case(PER_ACTION, conditional=True, danger=9, **SHARED), BOTH, TICKETS, ("cashu_escrow",)),
        (Case(FLAT, conditional=True, **SHARED), (), ("cashu_escrow",), ("cashu_escrow",)),
        (Case(PER_ACTION, conditional=True), BOTH, TICKETS, ()),
        (Case(PER_ACTION, conditional=True, **SHARED), ALL, ALL, ()),
        # A subscription: Bolt 12, then Bolt 11, whichever stands first; then ecash up to danger 2.
        (Case(SUBSCRIPTION), BOTH, ALL, ("bolt12", "bolt11")),
        (Case(SUBSCRIPTION), ("bolt11",), ALL, ("bolt11",)),
        (Case(SUBSCRIPTION), ("l402",), ALL, ()),
        (Case(SUBSCRIPTION, **SHARED), BOTH, ALL, ("bolt12", "bolt11", "cashu")),
        # One action: Bolt 11 or L402 in the operator's order, never Bolt 12.
        (Case(PER_ACTION), ("l402", "bolt12", "bolt11"), ALL, ("l402", "bolt11")),
        (Case(PER_ACTION), ("bolt12",), ALL, ()),
        # A flat sum: Bolt 11 alone.
        (Case(FLAT), ("l402", "bolt12", "bolt11"), ALL, ("bolt11",)),
        # Ecash that nothing holds back: named by the operator in its place, last where it is not, no mint in
        # common or danger from 3 on: not at all.
        (Case(FLAT, danger=2, **SHARED), ("cashu", "bolt11"), ALL, ("cashu", "bolt11")),
        (Case(FLAT, danger=2, **SHARED), ("bolt11",), ALL, ("bolt11", "cashu")),
        (Case(FLAT, danger=3, **SHARED), ("cashu", "bolt11"), ALL, ("bolt11",)),
        (Case(FLAT, danger=2), ("cashu", "bolt11"), ALL, ("bolt11",)),
        (Case(FLAT, danger=2, **SHARED), ("bolt11",), ("bolt11",), ("bolt11",)),
    ],
)
def test_each_row_of_the_sheets_table_in_the_order_of_fallback(
    case: Case, preferred: tuple[str, ...], accepted: tuple[str, ...], found: tuple[str, ...]
) -> None:
    assert ways(case, preferred, accepted) == found


@pytest.mark.parametrize(
    ("case", "preferred", "accepted"),
    [
        (Case(FLAT), ("bolt12",), ALL),
        (Case(PER_ACTION), ("bolt11",), ("cashu",)),
        (Case(PER_ACTION, danger=3, shared_mint=True), ("bolt12",), ("cashu",)),
        (Case(SUBSCRIPTION, conditional=True), ("bolt11",), ALL),
        (Case(FLAT), (), ()),
    ],
)
def test_nothing_in_common_is_said(case: Case, preferred: tuple[str, ...], accepted: tuple[str, ...]) -> None:
    with pytest.raises(PaymentFailed, match="no_common_method"):
        choose(case, preferred, accepted)


def test_a_text_shows_its_method() -> None:
    assert [method_of(text) for text in ("lnbcrt1", " LNO1xx", "lightning:lni1x", "")] == [
        *("bolt11", "bolt12", "bolt12", "bolt11")
    ]


@pytest.mark.parametrize(
    "given", ["text", [], {"1": "ab"}, {"70001": "AB"}, {"70001": ""}, {"5482373484": "ab"}, {"x": "ab"}]
)
def test_records_that_are_none_of_ours_are_refused(given: object) -> None:
    with pytest.raises(InvalidParams, match="tlv_json"):
        check_tlvs(given)


def test_records_are_taken_as_they_are() -> None:
    assert check_tlvs(None) == {} and check_tlvs({"1212765765": "7b7d"}) == {"1212765765": "7b7d"}
