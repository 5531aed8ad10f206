"""hive-comms-migrate (docs/protocol/08-client-and-plugins.md §5.2, §8.3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hive_shared.errors import ConfirmationRequired
from hive_shared.runtime_spec import MethodSpec, Param
from hive_shared.sealed_file import file_path

from ..services.migration_service import MigrationService


class MigrationCommands:
    """Taking over from the earlier single plugin."""

    def __init__(self, service: Callable[[], MigrationService]) -> None:
        self._service = service

    def specs(self) -> list[MethodSpec]:
        """The methods of this family."""
        return [
            MethodSpec(
                "hive-comms-migrate",
                "X",
                (
                    Param("source", "str", required=True),
                    Param("dry_run", "bool", default=True),
                    Param("confirm", "bool", default=False),
                    Param("key", "str", default="keep", choices=("keep", "take")),
                ),
                self._migrate,
                "Take over from the earlier single plugin's database: shows what would be imported;"
                " dry_run=false confirm=true does it.",
            )
        ]

    async def _migrate(self, params: dict[str, Any]) -> dict[str, Any]:
        dry_run, take_key = params["dry_run"], params["key"] == "take"
        if not dry_run and not params["confirm"]:
            raise ConfirmationRequired(
                "a migration adds to this node's record for good; look at dry_run=true, then add confirm=true"
            )
        done = await self._service().migrate(file_path(params["source"]), dry_run=dry_run, take_key=take_key)
        result: dict[str, Any] = {
            "dry_run": dry_run,
            "source": params["source"],
            "source_sha256": done.source_sha256,
            "imported": done.imported,
            "tables": [table.to_doc() for table in done.tables],
            "reissue": list(done.reissue),
        }
        if done.receipt_id is not None:
            result["receipt_id"] = done.receipt_id
        return result
