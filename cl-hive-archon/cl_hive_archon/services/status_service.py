"""What cl-hive-archon can say truthfully about itself. docs/protocol/09-archon.md section 15."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

FAMILIES_NOT_SERVED: Final = (
    "identity: hive-archon-provision and DIDs",
    "bindings, credentials, reputation",
    "polls, contacts, Dmail",
    "backup vault and recovery",
)


class Siblings(Protocol):
    """What this service asks of the sibling hub."""

    def present(self, who: Any) -> bool: ...

    def combo(self) -> str: ...

    def status(self) -> list[dict[str, Any]]: ...

    def emergency(self) -> bool | None: ...


class StatusService:
    """Builds ``hive-archon-status``; asks nobody, so it answers in any state of the node."""

    def __init__(
        self, version: str, db_schema: int, siblings: Siblings, option_warnings: Callable[[], list[str]]
    ) -> None:
        self._version = version
        self._db_schema = db_schema
        self._siblings = siblings
        self._option_warnings = option_warnings

    def degraded(self) -> str | None:
        """Why this combination is not supported, or None (docs/protocol/08-client-and-plugins.md §1.2)."""
        if self._siblings.present("comms"):
            return None
        return (
            "cl-hive-comms is not running: only hello and status answer, and nothing uses the network; "
            "start cl-hive-comms"
        )

    def status(self, *, verbose: bool) -> dict[str, Any]:
        """State of identity, siblings and options. There is no DID in this version, and none is made up."""
        degraded = self.degraded()
        result: dict[str, Any] = {
            "version": self._version,
            "state": "NONE",
            "did": None,
            "tier": "none",
            "governance_tier": "basic",
            "combination": self._siblings.combo(),
            "supported": degraded is None,
            "siblings": self._siblings.status(),
            "emergency": self._siblings.emergency(),
            "missing": list(FAMILIES_NOT_SERVED),
            "warnings": [*([] if degraded is None else [degraded]), *self._option_warnings()],
        }
        if verbose:
            result["db_schema"] = self._db_schema
        return result
