"""Backups that agents have made, in NET/hive/backup/<backup_id>/ (docs/decisions/0385).

A backup is a directory that gets its name when everything in it is on disk, so that what bears a name is
whole; there is no row beside it that could say otherwise.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
from hive_shared.canonical import JsonValue, encode
from hive_shared.crypto import Secret, hkdf_sha256
from hive_shared.sealed_file import SealedFileError, SealedReader, file_digest, new_file, written

from ..domain.node_backup import BackupFile, NodeBackup, is_backup_id, read_manifest, superfluous

SCB: Final = "scb.sealed"
COMMS: Final = "comms.sealed"
_MANIFEST: Final = "manifest.json"
_UNFINISHED: Final = ".unfinished-"

WriteOwn = Callable[[Path, Secret], Awaitable[object]]
"""Writes this plugin's own backup to a new file, sealed with the passphrase."""


class BackupKey(msgspec.Struct, frozen=True):
    """What the node's `makesecret` gave: it seals the files, and marks the manifest as this node's."""

    secret: Secret

    @property
    def passphrase(self) -> Secret:
        """As the operator gets it from `makesecret`: hex."""
        return Secret(self.secret.reveal().hex().encode())

    @property
    def mark(self) -> bytes:
        """Key of the manifest's code."""
        return hkdf_sha256(self.secret.reveal(), info=b"manifest")


class Looked(msgspec.Struct, frozen=True):
    """What is found of a backup: names of files that are gone or changed, and the channel entries, None
    where the backup holds none or its file does not open."""

    broken: tuple[str, ...]
    scb: tuple[str, ...] | None


class NodeBackups:
    """Makes, lists, reads and removes backups. `operator_key` is the x-only key (hex) that exports are sealed
    to, None while the operator has set none."""

    def __init__(
        self,
        directory: Path,
        write_own: WriteOwn,
        operator_key: Callable[[], str | None],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._directory, self._write_own = directory, write_own
        self.operator_key, self.random_bytes = operator_key, random_bytes

    async def make(
        self, backup: NodeBackup, scb: Sequence[str] | None, key: BackupKey
    ) -> tuple[NodeBackup, str]:
        """Write the backup, then remove those that are one too many; what it became, and the SHA-256 of its
        manifest, which names the files' own. `backup.files` is filled in here.

        Raises InvalidParams or OSError when it cannot be written; then nothing of it is left.
        """
        unfinished = self._directory / f"{_UNFINISHED}{backup.backup_id}"
        try:
            await asyncio.to_thread(self._begin, unfinished)
            if scb is not None:
                head: dict[str, JsonValue] = {
                    "node_id": backup.node_id,
                    "created_at": backup.created_at,
                    "scb": list(scb),
                }
                await asyncio.to_thread(self._seal, unfinished / SCB, encode(head), key)
            if backup.kind == "full":
                await self._write_own(unfinished / COMMS, key.passphrase)
            return await asyncio.to_thread(self._finish, unfinished, backup, key)
        except Exception:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise

    def _begin(self, unfinished: Path) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # What a run that was killed left: it has no name and is no backup.
        for rest in self._directory.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(rest, ignore_errors=True)
        unfinished.mkdir(mode=0o700)

    def _seal(self, path: Path, content: bytes, key: BackupKey) -> None:
        with written(path, key.passphrase, self.random_bytes) as out:
            out.write(content)

    def _finish(self, unfinished: Path, backup: NodeBackup, key: BackupKey) -> tuple[NodeBackup, str]:
        files = tuple(
            BackupFile(path.name, file_digest(path), path.stat().st_size)
            for path in sorted(unfinished.iterdir())
        )
        done = NodeBackup(
            backup.backup_id, backup.node_id, backup.kind, backup.created_at, backup.channels, files
        )
        with new_file(unfinished / _MANIFEST) as out:
            out.write(encode(done.manifest(key.mark)))
            out.flush()
            os.fsync(out.fileno())
        digest = file_digest(unfinished / _MANIFEST)
        _sync(unfinished)
        unfinished.rename(self._directory / backup.backup_id)
        _sync(self._directory)
        for each in superfluous(self._all(key)[0], backup.created_at):
            self._remove(each.backup_id)
        return done, digest

    def _remove(self, backup_id: str) -> None:
        gone = self._directory / f"{_UNFINISHED}{backup_id}"
        # First the name: half a directory must not pass for a backup.
        (self._directory / backup_id).rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    async def all(self, key: BackupKey) -> tuple[tuple[NodeBackup, ...], int]:
        """Backups, the newest first, and how many directories bear a name and hold none of this node's."""
        return await asyncio.to_thread(self._all, key)

    def _all(self, key: BackupKey) -> tuple[tuple[NodeBackup, ...], int]:
        try:
            names = [path.name for path in self._directory.iterdir() if is_backup_id(path.name)]
        except FileNotFoundError:
            names = []
        found = [self._find(name, key) for name in names]
        backups = [each[0] for each in found if each is not None]
        backups.sort(key=lambda each: (each.created_at, each.backup_id), reverse=True)
        return tuple(backups), len(names) - len(backups)

    async def find(self, backup_id: str, key: BackupKey) -> tuple[NodeBackup, str] | None:
        """A backup and the SHA-256 of its manifest; None when there is none of this node's by that id."""
        return await asyncio.to_thread(self._find, backup_id, key)

    def _find(self, backup_id: str, key: BackupKey) -> tuple[NodeBackup, str] | None:
        path = self._directory / backup_id / _MANIFEST
        try:
            doc = json.loads(path.read_bytes())
            backup = read_manifest(doc, key.mark) if isinstance(doc, dict) else None
            # A copy under another name would be an old backup that looks like a new one.
            if backup is None or backup.backup_id != backup_id:
                return None
            return backup, file_digest(path)
        except (OSError, ValueError):
            return None

    async def look(self, backup: NodeBackup, key: BackupKey) -> Looked:
        """Hash the files and open the channel entries."""
        return await asyncio.to_thread(self._look, backup, key)

    def _look(self, backup: NodeBackup, key: BackupKey) -> Looked:
        directory, broken = self._directory / backup.backup_id, []
        for file in backup.files:
            try:
                same = file_digest(directory / file.name) == file.sha256
            except OSError:
                same = False
            if not same:
                broken.append(file.name)
        held = any(file.name == SCB for file in backup.files)
        if not held or SCB in broken:
            return Looked(tuple(broken), None)
        try:
            with SealedReader(directory / SCB, key.passphrase) as reader:
                entries = json.loads(b"".join(reader.lines()))["scb"]
            return Looked(tuple(broken), tuple(map(str, entries)))
        except (SealedFileError, ValueError, KeyError, TypeError):
            return Looked((*broken, SCB), None)


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
