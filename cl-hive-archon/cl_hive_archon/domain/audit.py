"""Values of the audit trail. docs/protocol/09-archon.md section 14."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

AUDIT_ROWS_MAX: Final = 100_000


class AuditEvent(StrEnum):
    """What is written down."""

    STARTED = "started"
    OPTION_CHANGED = "option_changed"


@dataclass(frozen=True)
class AuditEntry:
    """One row: what happened, who caused it, details (never secrets), unix seconds."""

    event: AuditEvent
    actor: str
    detail: dict[str, str]
    at: int
