"""What a payer of tickets can make the operator read (docs/protocol/03-escrow-and-payments.md §6.7)."""

from __future__ import annotations

from typing import Any

from cl_hive_comms.services.received_tickets import PayeeAlerts
from hive_shared.alerts import Level

TICKET, OTHER = "ab" * 16, "cd" * 16


class Keys:
    """Which alerts are one."""

    def __init__(self) -> None:
        self.raised: dict[str, list[tuple[Level, str]]] = {}

    def raise_in(self, _tx: Any, level: Level, code: str, text: str, dedup_key: str = "") -> None:
        assert code == "escrow" and dedup_key
        self.raised.setdefault(dedup_key, []).append((level, text))


def test_what_a_payer_repeats_in_other_words_is_one_alert_and_what_happened_is_its_own() -> None:
    keys = Keys()
    told: Any = PayeeAlerts(keys)  # type: ignore[arg-type]
    for number in range(120):
        told(None, "ticket_owed", TICKET, f"item 1: the payer owes {number + 1} sat: late_release")
        told(None, "ticket_metric", TICKET, f"item 1: revenue {number}, needed 9: not reached")
        told(None, "ticket_refused", f"{number:032x}", f"token_invalid(signature): words {number}")
    assert [len(each) for each in keys.raised.values()] == [120, 120, 120]
    told(None, "ticket_owed", TICKET, "item 2: the payer owes 5 sat: late_release")
    told(None, "ticket_owed", OTHER, "item 1: the payer owes 5 sat: late_release")
    told(None, "ticket_refused", TICKET, "token_spent: words")
    for ticket_id in (TICKET, OTHER):
        for item in (0, 1):
            told(None, "ticket_lost", ticket_id, f"item {item}, 100 sat")
    assert len(keys.raised) == 3 + 3 + 4
    assert {level for each in keys.raised.values() for level, _ in each} == {
        Level.INFO,
        Level.WARNING,
        Level.CRITICAL,
    }
