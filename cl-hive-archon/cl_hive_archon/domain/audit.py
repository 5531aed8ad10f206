"""Values of the audit trail. docs/protocol/09-archon.md section 14."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

AUDIT_ROWS_MAX: Final = 100_000


class AuditEvent(StrEnum):
    """What is written down."""

    STARTED = "started"
    OPTION_CHANGED = "option_changed"


class AuditEntry(msgspec.Struct, frozen=True):
    """One row: what happened, who caused it, details (never secrets), unix seconds."""

    event: AuditEvent
    actor: str
    detail: dict[str, str]
    at: int
