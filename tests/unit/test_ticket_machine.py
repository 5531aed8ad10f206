"""Tables of a ticket's items: sound, and money is given up only on the mint's word (03 §6.6)."""

from __future__ import annotations

import pytest
from hive_shared.cashu import ticket_machine as machine
from hive_shared.cashu.ticket_machine import (
    PAYEE_ITEMS,
    PAYER_ITEMS,
    PayeeEvent,
    PayeeItem,
    PayerEvent,
    PayerItem,
    TicketStatus,
    ticket_status,
)
from hive_shared.machine import problems


def test_both_tables_are_sound() -> None:
    assert (
        problems(
            PAYER_ITEMS,
            initial=machine.PAYER_INITIAL,
            final=machine.PAYER_FINAL,
            outcomes=machine.PAYER_OUTCOMES,
        )
        == []
    )
    assert (
        problems(
            PAYEE_ITEMS,
            initial=machine.PAYEE_INITIAL,
            final=machine.PAYEE_FINAL,
            outcomes=machine.PAYEE_OUTCOMES,
        )
        == []
    )


def test_the_way_of_the_sheet() -> None:
    state = PayerItem.PLANNED
    for event in ("locked", "delivered", "acknowledged", "started", "succeeded", "released", "redeemed"):
        state = PAYER_ITEMS[state, PayerEvent(event)].to
    assert state is PayerItem.REDEEMED
    theirs = PayeeItem.DELIVERED
    for event in ("accepted", "started", "released", "redeemed"):
        theirs = PAYEE_ITEMS[theirs, PayeeEvent(event)].to
    assert theirs is PayeeItem.REDEEMED


def test_a_preimage_is_released_only_after_success() -> None:
    sources = {state for (state, event) in PAYER_ITEMS if event is PayerEvent.ON_RELEASED}
    assert sources == {PayerItem.SUCCEEDED}
    into = {state for (state, _), step in PAYER_ITEMS.items() if step.to is PayerItem.SUCCEEDED}
    assert into == {PayerItem.EXECUTING, PayerItem.UNKNOWN}


def test_nothing_that_runs_or_succeeded_is_refunded() -> None:
    due = {state for (state, event) in PAYER_ITEMS if event is PayerEvent.ON_REFUND_DUE}
    assert not due & {PayerItem.EXECUTING, PayerItem.SUCCEEDED, PayerItem.PLANNED}
    refunded = [key for key, step in PAYER_ITEMS.items() if step.to is PayerItem.REFUNDED]
    assert {state for state, _ in refunded} == {PayerItem.REFUNDING, PayerItem.DISPUTED}
    assert [event for state, event in refunded if state is PayerItem.REFUNDING] == [PayerEvent.ON_REFUNDED]


def test_wherever_money_is_locked_its_redemption_by_the_payee_is_taken_as_the_fact_it_is() -> None:
    unlocked = {
        PayerItem.PLANNED,
        PayerItem.CANCELLED,
        PayerItem.REDEEMED,
        PayerItem.REFUNDED,
        PayerItem.DISPUTED,
    }
    for state in set(PayerItem) - unlocked:
        assert PAYER_ITEMS[state, PayerEvent.ON_REDEEMED].to is PayerItem.REDEEMED
    assert not [state for state in unlocked if (state, PayerEvent.ON_REDEEMED) in PAYER_ITEMS]


def test_only_what_was_never_locked_is_cancelled() -> None:
    cancelled = {state for (state, event) in PAYER_ITEMS if event is PayerEvent.ON_CANCELLED}
    assert cancelled == {PayerItem.PLANNED}


@pytest.mark.parametrize(
    ("states", "status"),
    [
        (["planned", "planned"], "pending"),
        (["planned", "locked"], "active"),
        (["delivered"], "active"),
        (["redeemed", "released"], "active"),
        (["redeemed", "redeemed"], "redeemed"),
        (["refunded", "refunded"], "refunded"),
        (["redeemed", "refunded"], "partial"),
        (["redeemed", "refundable"], "expired"),
        (["refunding", "refundable"], "expired"),
        (["failed"], "failed"),
        (["failed", "refunding", "redeemed"], "failed"),
        (["failed", "unknown"], "active"),
        (["cancelled", "cancelled"], "cancelled"),
        (["cancelled", "redeemed"], "redeemed"),
        (["disputed", "redeemed"], "disputed"),
    ],
)
def test_what_the_items_of_a_payer_say_together(states: list[str], status: str) -> None:
    assert ticket_status([PayerItem(state) for state in states]) is TicketStatus(status)


@pytest.mark.parametrize(
    ("states", "status"),
    [
        (["accepted"], "active"),
        (["lost", "lost"], "failed"),
        (["lost", "redeemed"], "partial"),
        (["redeemed"], "redeemed"),
        (["disputed", "redeemed"], "disputed"),
        (["failed", "redeemed"], "failed"),
    ],
)
def test_what_the_items_of_a_payee_say_together(states: list[str], status: str) -> None:
    assert ticket_status([PayeeItem(state) for state in states]) is TicketStatus(status)


def test_a_ticket_without_items_has_no_status() -> None:
    with pytest.raises(ValueError, match="items"):
        ticket_status([])
