"""hive-client-backup and hive-client-restore (docs/protocol/08-client-and-plugins.md §5.2, §8.4)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hive_shared.errors import ConfirmationRequired
from hive_shared.runtime_spec import MethodSpec, Param
from hive_shared.sealed_file import file_path, read_passphrase
from hive_shared.store import StoreError
from msgspec.structs import asdict

from ..services.backup_service import BackupService
from ..services.restore_parts import names
from ..services.restore_service import RestoreService

OpenChannels = Callable[[str], Awaitable[dict[str, Any]]]
"""The channel entries of the backup of that id. Raises NotFound."""


class BackupCommands:
    """Writing and restoring backups. `safety_copy` gives the path of the backup that precedes a replacing
    restore; `channels` opens a backup that an agent had made."""

    def __init__(
        self,
        backup: Callable[[], BackupService],
        restore: Callable[[], RestoreService],
        *,
        safety_copy: Callable[[], Path],
        channels: OpenChannels,
    ) -> None:
        self._backup, self._restore, self._safety_copy = backup, restore, safety_copy
        self._channels = channels

    def specs(self) -> list[MethodSpec]:
        """The methods of this family."""
        file = (Param("path", "str", required=True), Param("passphrase_file", "str", required=True))
        return [
            MethodSpec(
                "hive-client-backup",
                "X",
                (*file, Param("components", "any")),
                self._write,
                "Write identity, credentials, receipts, policy, names and saved limits to a new sealed file.",
            ),
            MethodSpec(
                "hive-client-restore",
                "X",
                (
                    *file,
                    Param("components", "any"),
                    Param("skip", "any"),
                    Param("dry_run", "bool", default=True),
                    Param("confirm", "bool", default=False),
                    Param("mode", "str", default="merge", choices=("merge", "replace")),
                ),
                self._read,
                "Restore a backup of this node: shows what would happen; dry_run=false confirm=true does it.",
            ),
            MethodSpec(
                "hive-client-open-backup",
                "X",
                (Param("backup_id", "str", required=True),),
                self._open,
                "Channel entries of a backup that an agent had made, for recoverchannel.",
            ),
        ]

    async def _write(self, params: dict[str, Any]) -> dict[str, Any]:
        components = names(params["components"], "components")
        passphrase = read_passphrase(file_path(params["passphrase_file"]))
        done = await self._backup().backup(file_path(params["path"]), passphrase, components)
        with suppress(StoreError):
            # The backup is there; that we could not note it must not look like a failure of it.
            await self._backup().note(done)
        return {
            "path": str(done.path),
            "sha256": done.sha256,
            "created_at": done.created_at,
            "manifest": done.manifest,
        }

    async def _open(self, params: dict[str, Any]) -> dict[str, Any]:
        return await self._channels(params["backup_id"])

    async def _read(self, params: dict[str, Any]) -> dict[str, Any]:
        components, skip = names(params["components"], "components"), names(params["skip"], "skip")
        replace, dry_run = params["mode"] == "replace", params["dry_run"]
        if not dry_run and not params["confirm"]:
            raise ConfirmationRequired(
                "a restore changes who may manage this node; look at dry_run=true, then add confirm=true"
            )
        passphrase = read_passphrase(file_path(params["passphrase_file"]))
        result: dict[str, Any] = {"dry_run": dry_run, "mode": params["mode"]}
        if replace and not dry_run:
            before = await self._backup().backup(self._safety_copy(), passphrase)
            result["before"] = {"path": str(before.path), "sha256": before.sha256}
        done = await self._restore().restore(
            file_path(params["path"]),
            passphrase,
            components=components,
            skip=skip,
            replace=replace,
            dry_run=dry_run,
        )
        result["created_at"] = done.head.created_at
        result["parts"] = [
            {name: value for name, value in asdict(outcome).items() if value != ""}
            for outcome in done.outcomes
        ]
        return result
