"""Backups that agents have made: what one says of itself, which are kept, and what one lacks.

docs/protocol/02-fleet-management.md §4 item 13, docs/decisions/0385.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
from hive_shared.canonical import JsonValue, encode
from hive_shared.crypto import equal, hmac_sha256

KEY_LABEL: Final = "hive-comms-backup-v1"
"""`lightning-cli makesecret string=<label>` gives the passphrase of the files, as hex."""
NEWEST: Final = 10
"""So many of the newest backups are kept,"""
DAYS: Final = 30
"""and the newest of each of so many of the last days that have one."""
_DAY_S: Final = 86_400
# An entry of `staticbackup` begins with the channel's number in the node's database and its channel id.
_ID_AT, _ID_END = 16, 80
_NO_NEED: Final = frozenset(
    {
        *("OPENINGD", "DUALOPEND_OPEN_INIT", "DUALOPEND_OPEN_COMMIT_READY"),
        *("CLOSINGD_COMPLETE", "FUNDING_SPEND_SEEN", "ONCHAIN", "CLOSED"),
    }
)
"""States in which a channel has nothing that a static channel backup would bring back."""


def is_backup_id(text: str) -> bool:
    """Whether it can be the id of a backup: 16 hex characters, nothing that leads out of a directory."""
    return re.fullmatch(r"[0-9a-f]{16}", text) is not None


class BackupFile(msgspec.Struct, frozen=True):
    """One sealed file of a backup: its name, SHA-256 (hex) and bytes."""

    name: str
    sha256: str
    size: int

    def to_doc(self) -> dict[str, JsonValue]:
        """As in the manifest and in answers."""
        return {"name": self.name, "sha256": self.sha256, "bytes": self.size}


class NodeBackup(msgspec.Struct, frozen=True):
    """What a backup says of itself; `created_at` in Unix seconds. `kind` is `scb` or `full`."""

    backup_id: str
    node_id: str
    kind: str
    created_at: int
    channels: int
    files: tuple[BackupFile, ...]

    def to_doc(self) -> dict[str, JsonValue]:
        """As in answers."""
        return {
            "backup_id": self.backup_id,
            "node_id": self.node_id,
            "backup_type": self.kind,
            "created_at": self.created_at,
            "channels": self.channels,
            "files": [file.to_doc() for file in self.files],
        }

    def manifest(self, key: bytes) -> dict[str, JsonValue]:
        """As on disk, under a code that only this node can make."""
        doc = self.to_doc()
        return {**doc, "mac": hmac_sha256(key, encode(doc)).hex()}


def read_manifest(doc: Mapping[str, Any], key: bytes) -> NodeBackup | None:
    """The backup of a manifest; None when it is none of this node's or was changed."""
    doc = dict(doc)
    mac = doc.pop("mac", None)
    try:
        if not isinstance(mac, str) or not equal(mac, hmac_sha256(key, encode(doc)).hex()):
            return None
        files = tuple(BackupFile(row["name"], row["sha256"], row["bytes"]) for row in doc["files"])
        return NodeBackup(
            doc["backup_id"],
            doc["node_id"],
            doc["backup_type"],
            doc["created_at"],
            doc["channels"],
            files,
        )
    except (KeyError, TypeError, ValueError):
        return None


def superfluous(backups: Iterable[NodeBackup], now: int) -> tuple[NodeBackup, ...]:
    """Backups to remove: neither among the newest nor the newest of one of the last days."""
    newest_first = sorted(backups, key=lambda each: (each.created_at, each.backup_id), reverse=True)
    keep = {each.backup_id for each in newest_first[:NEWEST]}
    days: set[int] = set()
    for each in newest_first:
        day = each.created_at // _DAY_S
        if day not in days and each.created_at > now - DAYS * _DAY_S:
            days.add(day)
            keep.add(each.backup_id)
    return tuple(each for each in newest_first if each.backup_id not in keep)


def backed_up(scb: Iterable[str]) -> frozenset[str]:
    """Channel ids of the entries that `staticbackup` gave. Raises ValueError for an entry that is none."""
    found = set()
    for entry in scb:
        if len(entry) < _ID_END:
            raise ValueError("an entry of a static channel backup is too short to name its channel")
        found.add(bytes.fromhex(entry[_ID_AT:_ID_END]).hex())
    return frozenset(found)


def needing(rows: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """Ids of those of the node's channels that a backup should hold."""
    return frozenset(
        str(row["channel_id"])
        for row in rows
        if row.get("channel_id") is not None and row.get("state") not in _NO_NEED
    )
