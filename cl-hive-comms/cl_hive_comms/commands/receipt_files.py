"""hive-client-receipts-export and hive-client-prune (docs/protocol/08-client-and-plugins.md §5.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hive_shared.runtime_spec import MethodSpec, Param
from hive_shared.sealed_file import file_path

from ..services.receipt_archive import ReceiptArchive
from ..services.receipt_export import ReceiptExport


class ReceiptFileCommands:
    """Receipts that leave the database: copied for the operator, or archived behind a checkpoint."""

    def __init__(self, export: Callable[[], ReceiptExport], archive: Callable[[], ReceiptArchive]) -> None:
        self._export, self._archive = export, archive

    def specs(self) -> list[MethodSpec]:
        """The methods of this family."""
        return [
            MethodSpec(
                "hive-client-receipts-export",
                "X",
                (
                    Param("path", "str", required=True),
                    Param("since", "int", default=0, minimum=0),
                    Param("passphrase_file", "str", default=""),
                    Param("legacy", "bool", default=False),
                ),
                self._receipts_export,
                "Write receipts to a new file: JSON, or CSV if it ends in .csv; sealed with a passphrase.",
            ),
            MethodSpec(
                "hive-client-prune",
                "X",
                (Param("days", "int", default=90, minimum=0, maximum=36_500),),
                self._prune,
                "Move receipts older than days into a signed archive file; the newest 1,000 stay.",
            ),
        ]

    async def _receipts_export(self, params: dict[str, Any]) -> dict[str, Any]:
        path = file_path(params["path"])
        passphrase_file = file_path(params["passphrase_file"]) if params["passphrase_file"] else None
        count, digest = await self._export().export(
            path, params["since"], passphrase_file, legacy=params["legacy"]
        )
        return {
            "path": str(path),
            "sha256": digest,
            "count": count,
            "sealed": passphrase_file is not None,
        }

    async def _prune(self, params: dict[str, Any]) -> dict[str, Any]:
        done = await self._archive().prune(params["days"])
        result: dict[str, Any] = {"receipts": done.count}
        if done.path is not None:
            result["archive"] = {
                "path": str(done.path),
                "sha256": done.sha256,
                "first_id": done.first_id,
                "last_id": done.last_id,
            }
        return result
