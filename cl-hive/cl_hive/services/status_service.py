"""What cl-hive can say truthfully about itself. docs/protocol/05-coordination.md section 21."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from hive_shared.errors import FeatureDisabled

from cl_hive.domain.run_record import RunRecord

FEATURES_NOT_SERVED: Final = (
    "gossip",
    "membership",
    "topology",
    "fees",
    "rebalancing",
    "splicing",
    "settlement",
    "bonds",
    "governance",
    "provisioning",
)
FEATURES_SERVED: Final = ("escrow",)


class Siblings(Protocol):
    """What this service asks of the sibling hub."""

    def present(self, who: Any) -> bool: ...

    def combo(self) -> str: ...

    def status(self) -> list[dict[str, Any]]: ...

    def emergency(self) -> bool | None: ...


class StatusService:
    """Builds the views of ``hive-status``; asks nobody, so it answers in any state of the node."""

    def __init__(
        self,
        *,
        version: str,
        db_schema: int,
        run: RunRecord,
        siblings: Siblings,
        loops: Callable[[], list[dict[str, Any]]],
        option: Callable[[str], Any],
        option_warnings: Callable[[], list[str]],
    ) -> None:
        self._version = version
        self._db_schema = db_schema
        self._run = run
        self._siblings = siblings
        self._loops = loops
        self._option = option
        self._option_warnings = option_warnings

    def degraded(self) -> str | None:
        """Why this combination is not supported, or None (docs/protocol/08-client-and-plugins.md §1.2)."""
        if self._siblings.present("comms"):
            return None
        return (
            "cl-hive-comms is not running: safe mode, everything that needs Nostr, Cashu, policy or alerts "
            "is unavailable; start cl-hive-comms"
        )

    def view(self, name: str) -> dict[str, Any]:
        """One of the views summary, health, loops, features."""
        match name:
            case "health":
                return self._health()
            case "loops":
                return {"loops": self._loops()}
            case "features":
                return self._features()
            case _:
                return self._summary()

    def siblings(self) -> dict[str, Any]:
        """The old ``hive-siblings``: which plugins run, as ``hive-status`` shows them."""
        return {"combination": self._siblings.combo(), "siblings": self._siblings.status()}

    def require_legacy(self, old_name: str, new_name: str) -> None:
        """Raises ``FeatureDisabled`` where the operator switched the older names off."""
        if not self._option("hive-legacy-methods"):
            raise FeatureDisabled(
                f"{old_name} is an older name and hive-legacy-methods is false; call {new_name}",
                data={"option": "hive-legacy-methods"},
            )

    def _summary(self) -> dict[str, Any]:
        degraded = self.degraded()
        return {
            "version": self._version,
            "tier": "none",
            "hive_id": None,
            "mode": "safe" if degraded else "normal",
            "governance_mode": self._option("hive-governance-mode"),
            "combination": self._siblings.combo(),
            "supported": degraded is None,
            "siblings": self._siblings.status(),
            "emergency": self._siblings.emergency(),
            "not_served": list(FEATURES_NOT_SERVED),
            "warnings": [*([] if degraded is None else [degraded]), *self._option_warnings()],
        }

    def _health(self) -> dict[str, Any]:
        failing = [row["name"] for row in self._loops() if row["failures"]]
        return {
            "ok": not failing and self.degraded() is None,
            "failing_loops": failing,
            "db_schema": self._db_schema,
            "first_started": self._run.first_started,
            "last_started": self._run.last_started,
            "starts": self._run.starts,
        }

    def _features(self) -> dict[str, Any]:
        why = "not part of this version"
        return {
            "features": [
                *({"name": name, "served": True} for name in FEATURES_SERVED),
                *({"name": name, "served": False, "why": why} for name in FEATURES_NOT_SERVED),
            ]
        }
