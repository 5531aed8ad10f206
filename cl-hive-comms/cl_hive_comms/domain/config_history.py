"""What agents changed of the node's settings, and which of them keep each other waiting
(docs/protocol/02-fleet-management.md §5.4)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

DAY_S: Final = 86_400
QUIET_ISOLATION_S: Final = 12 * 3_600
QUIET_REVENUE_MSAT: Final = 100_000
"""Below this revenue of 24 hours a node's group is isolated for `QUIET_ISOLATION_S` only."""


class ConfigChange(msgspec.Struct, frozen=True):
    """One setting that a run changed. `group` is its isolation group, "" without one; `old` and `new` are the
    values as text; `reason` is the agent's."""

    parameter: str
    group: str
    old: str
    new: str
    reason: str


class ChangeRow(msgspec.Struct, frozen=True):
    """A stored change: which command made it, and when (unix seconds)."""

    change: ConfigChange
    command_id: str
    at: int


def isolated_by(
    rows: Iterable[ChangeRow], parameter: str, group: str, now: int, window_s: int
) -> ChangeRow | None:
    """The newest change of another parameter of the group within the window; None when there is none.

    A parameter does not keep itself waiting: what an agent tried it may take back.
    """
    if not group:
        return None
    others = (
        row
        for row in rows
        if row.change.group == group and row.change.parameter != parameter and row.at > now - window_s
    )
    return max(others, key=lambda row: row.at, default=None)
