"""What an advisor's trust rests on (docs/protocol/02-fleet-management.md §7.3, docs/decisions/0202)."""

from __future__ import annotations

from fractions import Fraction
from typing import Final

import msgspec

from .advisor import DAY_S
from .approval import trust_of

WINDOW_DAYS: Final = 90
"""How far back the record of an advisor counts."""
VIOLATIONS: Final = frozenset(
    {
        *("tier_insufficient", "permission_denied", "schema_not_allowed", "constraint_violated"),
        *("protected_channel", "forbidden_peer"),
    }
)
"""Refusals of what the agent could know it must not ask. A policy it cannot see is none of them."""


class Record(msgspec.Struct, frozen=True):
    """Finished writes of an advisor in the window, how many of them succeeded, and violations."""

    writes: int = 0
    successes: int = 0
    violations: int = 0


def trust_by_record(credential_trust: Fraction, known_since: int, now: int, record: Record) -> Fraction:
    """The r of an agent without operator's pin or standing: its credential's trust, raised by its history."""
    success = Fraction(record.successes, record.writes) if record.writes else Fraction(0)
    return trust_of(
        credential_trust,
        age_days=max(0, now - known_since) // DAY_S,
        receipts=record.writes,
        success=success,
        violations=record.violations,
    )
