"""How loud an alert is, in the plugin and in the advisor kit alike
(docs/protocol/08-client-and-plugins.md §6 "Alerts")."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

from .store import Tx


class Level(StrEnum):
    """How loud an alert is."""

    INFO = "info"
    NOTICE = "notice"
    WARNING = "warning"
    CRITICAL = "critical"


class Alerts(Protocol):
    """Where a service tells what somebody should notice."""

    def raise_in(self, tx: Tx, level: Level, code: str, text: str, dedup_key: str = "") -> None:
        """In the caller's transaction; one with the key of an open one is not told again at once."""
        ...
