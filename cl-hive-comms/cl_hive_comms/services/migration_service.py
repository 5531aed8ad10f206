"""Taking over from the earlier single plugin (docs/protocol/08-client-and-plugins.md §8.3).

The source is read twice from a private copy: once to say what there is (that is all a dry run does) and to
have the receipts' checkpoint signed, once more inside the one transaction that takes it in.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
from hive_shared.canonical import DecodeError, JsonValue, decode
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.errors import Busy, Conflict
from hive_shared.receipts import MerkleTree
from hive_shared.store import Tx

from ..domain.identity import KeyRecord, KeyRing, usable
from ..domain.legacy import (
    PRIVATE_KEY,
    PUBLIC_KEY,
    STATE,
    TABLES,
    LegacyRow,
    LegacyTable,
    TableReport,
)
from ..domain.legacy_record import LEGACY, LegacyReceipt, Segment, shown_schema, shown_time
from .ports_commands import Database
from .ports_migration import LegacyFiles, LegacySource, LegacyTables, OwnKeys
from .receipt_service import ReceiptService, operator_event

_KEY_MESSAGE: Final = "nostr_key_derivation"
"""The earlier plugin hid its key under SHA-256 of the node's signature over this text."""
_MAX_REISSUE: Final = 100
_KNOWN: Final = "imported before"
_MARKET_NOTE: Final = (
    "kept as they were, not active: this version serves no market, so what still runs (contracts, trials,"
    " leases) has to be ended or renewed by hand"
)
_CREDENTIAL_NOTE: Final = (
    "kept as they were, none authorises: their signatures do not cover what this version demands. Issue new"
    " ones for those under reissue"
)


class Migrated(msgspec.Struct, frozen=True):
    """What a migration did, or would do. `reissue` lists credentials of ours that were still valid."""

    source_sha256: str
    tables: tuple[TableReport, ...]
    reissue: tuple[dict[str, Any], ...]
    receipt_id: int | None = None

    @property
    def imported(self) -> int:
        """Rows taken in, over all tables."""
        return sum(table.imported for table in self.tables)


class _Key(msgspec.Struct, frozen=True):
    """The earlier plugin's key, or why there is none to take."""

    secret: Secret | None
    note: str

    @property
    def pubkey(self) -> str | None:
        return None if self.secret is None else xonly_pubkey(self.secret)


@dataclass(slots=True)
class _Pass:
    """One reading of the source. `write` tells whether rows are stored as they come."""

    first_seq: int
    write: bool
    migration_id: int = 0
    reports: list[TableReport] = field(default_factory=list)
    reissue: list[dict[str, Any]] = field(default_factory=list)
    tree: MerkleTree = field(default_factory=MerkleTree)
    receipts: int = 0
    last_digest: str = ""
    ring: KeyRing | None = None


class MigrationService:
    """Imports an earlier database, at most one at a time. `taken` is awaited after something was."""

    def __init__(
        self,
        db: Database,
        store: LegacyTables,
        files: LegacyFiles,
        identity: OwnKeys,
        receipts: ReceiptService,
        *,
        signmessage: Callable[[str], Awaitable[str]],
        node_id: str,
        now: Callable[[], int],
    ) -> None:
        self._db, self._store, self._files = db, store, files
        self._identity, self._receipts, self._signmessage = identity, receipts, signmessage
        self._node_id, self._now = node_id, now
        self._lock = asyncio.Lock()

    async def migrate(self, path: Path, *, dry_run: bool, take_key: bool) -> Migrated:
        """Take in what is new in the earlier database at `path`; with `dry_run` only say what that is.

        With `take_key` the earlier key becomes this node's; else it only opens messages for 30 days. Raises
        InvalidParams or Conflict when the source is refused, Busy when a migration is under way.
        """
        if self._lock.locked():
            raise Busy("a migration is under way already; wait for its answer")
        async with self._lock:
            source = await asyncio.to_thread(self._files.open, path)
            try:
                return await self._take(source, dry_run, take_key)
            finally:
                await asyncio.to_thread(source.close)

    async def _take(self, source: LegacySource, dry_run: bool, take_key: bool) -> Migrated:
        key = await self._key(source)
        plan = await self._db.read(lambda tx: self._walk(tx, source, key, take_key, write=False))
        found = Migrated(source.sha256, tuple(plan.reports), tuple(plan.reissue))
        if dry_run or not found.imported:
            return found
        segment = await self._sign(plan) if plan.receipts else None
        async with self._identity.changing:
            done, receipt_id = await self._db.write(
                lambda tx: self._import(tx, source, key, take_key, segment)
            )
            if done.ring is not None:
                await self._identity.reload()
        return Migrated(source.sha256, tuple(done.reports), tuple(done.reissue), receipt_id)

    async def _sign(self, plan: _Pass) -> Segment:
        last_seq = plan.first_seq + plan.receipts - 1
        root = await self._receipts.sign_root(
            LEGACY, self._now(), plan.first_seq, last_seq, plan.tree.root(), plan.last_digest
        )
        return Segment(
            root.start,
            root.first_id,
            root.last_id,
            root.merkle_root,
            root.last_hash,
            root.node_signature,
            root.hsm_signature or "",
        )

    def _import(
        self, tx: Tx, source: LegacySource, key: _Key, take_key: bool, segment: Segment | None
    ) -> tuple[_Pass, int]:
        done = self._walk(tx, source, key, take_key, write=True)
        span = None if segment is None else (segment.first_seq, segment.last_seq, segment.merkle_root)
        if span != self._span(done):
            raise Conflict("the database changed during the migration; nothing was imported, run it again")
        tables: list[JsonValue] = [report.to_doc() for report in done.reports]
        said: dict[str, JsonValue] = {"tables": tables}
        if segment is not None:
            said["legacy_receipts"] = {
                "first": segment.first_seq,
                "last": segment.last_seq,
                "merkle_root": segment.merkle_root,
            }
        self._store.add_migration(
            tx,
            done.migration_id,
            # What was signed carries the time of signing.
            at=self._now() if segment is None else segment.at,
            source_sha256=source.sha256,
            report={"tables": tables},
            segment=segment,
        )
        made: dict[str, JsonValue] = {"source_sha256": source.sha256, "take_key": take_key}
        receipt = self._receipts.append(tx, operator_event("migrate", params=made, result=said))
        return done, receipt.receipt_id

    @staticmethod
    def _span(done: _Pass) -> tuple[int, int, str] | None:
        if not done.receipts:
            return None
        return done.first_seq, done.first_seq + done.receipts - 1, done.tree.root()

    # -- reading the source -------------------------------------------------------------------------

    def _walk(self, tx: Tx, source: LegacySource, key: _Key, take_key: bool, *, write: bool) -> _Pass:
        done = _Pass(self._store.last_seq(tx) + 1, write, self._store.next_migration(tx))
        for table in TABLES:
            why = source.missing(table)
            if why == "":
                continue
            report = TableReport(table.name)
            done.reports.append(report)
            for found in source.rows(table) if why is None else ():
                report.read += 1
                reason = found if isinstance(found, str) else self._row(tx, done, table, found, report)
                if reason:
                    report.skip(reason)
            if why is not None:
                report.note = f"not read: {why}"
            elif table.name == STATE:
                self._keep_key(tx, done, report, key, take_key)
            elif report.read:
                report.note = {"market": _MARKET_NOTE, "credential": _CREDENTIAL_NOTE}.get(table.becomes, "")
        return done

    def _row(
        self, tx: Tx, done: _Pass, table: LegacyTable, row: LegacyRow, report: TableReport
    ) -> str | None:
        """Take in one row; the reason when it is not."""
        if table.becomes == "state":
            # Only the key is of use, and it is counted where it is taken.
            return (
                None if row.key == PRIVATE_KEY else "of no use here (relays are an option, no cursor holds)"
            )
        if table.becomes == "receipt":
            reason = self._receipt(tx, done, row)
        else:
            if table.becomes == "credential":
                self._note_live(done, row)
            known = self._store.has_row(tx, table.name, row.key, row.digest)
            reason = _KNOWN if known else None
            if done.write and not known:
                self._store.add_row(tx, table.name, row, done.migration_id)
        report.imported += reason is None
        return reason

    def _receipt(self, tx: Tx, done: _Pass, row: LegacyRow) -> str | None:
        kept = self._store.receipt_digest(tx, row.key)
        if kept is not None:
            return _KNOWN if kept == row.digest else "imported before with another content, which stays"
        seq = done.first_seq + done.receipts
        done.receipts += 1
        done.last_digest = row.digest
        done.tree.add(row.digest)
        if done.write:
            schema = shown_schema(row.text_of("schema_id"))
            at = shown_time(row.cells.get("executed_at"))
            self._store.add_receipt(tx, LegacyReceipt(seq, row.key, at, schema, row.digest, row.text))
        return None

    def _note_live(self, done: _Pass, row: LegacyRow) -> None:
        ours = row.text_of("issuer_id") == self._node_id == row.text_of("node_id")
        until = row.time_of("valid_until") or 0
        if not ours or row.cells.get("revoked_at") is not None or until <= self._now():
            return
        if len(done.reissue) < _MAX_REISSUE:
            shown = {name: (row.text_of(name) or "")[:256] for name in ("agent_id", "tier")}
            schemas = _list(row.text_of("allowed_schemas_json"))
            done.reissue.append(
                {"credential_id": row.key, **shown, "allowed_schemas": schemas, "valid_until": until}
            )

    # -- the key ------------------------------------------------------------------------------------

    async def _key(self, source: LegacySource) -> _Key:
        rows = await asyncio.to_thread(self._state, source)
        stored = rows.get(PRIVATE_KEY)
        if stored is None:
            return _Key(None, "it holds no key")
        storage_key = hashlib.sha256((await self._signmessage(_KEY_MESSAGE)).encode()).digest()
        for candidate in (_unhidden(stored, storage_key), stored):
            try:
                secret = Secret(bytes.fromhex(candidate))
            except ValueError:
                continue
            if len(candidate) == 64 and usable(secret.reveal()):
                said = rows.get(PUBLIC_KEY)
                if said is not None and said != xonly_pubkey(secret):
                    return _Key(None, "its key does not belong to its public key: not taken")
                return _Key(secret, "")
        return _Key(None, "its key does not open with this node's seed: not taken")

    @staticmethod
    def _state(source: LegacySource) -> dict[str, str]:
        table = TABLES[0]
        if source.missing(table) is not None:
            return {}
        return {
            row.key: text
            for row in source.rows(table)
            if not isinstance(row, str) and row.key in (PRIVATE_KEY, PUBLIC_KEY)
            if (text := row.text_of("value")) is not None
        }

    def _keep_key(self, tx: Tx, done: _Pass, report: TableReport, key: _Key, take_key: bool) -> None:
        if key.secret is None or key.pubkey is None:
            report.note = key.note
            if report.read > report.imported + sum(report.why.values()):
                report.skip("a key that is not taken")
            return
        own, now = self._identity.ring, self._now()
        theirs = KeyRing(KeyRecord(key.pubkey, "imported", now), (), own.next_generation)
        joined = own.joined(theirs, now, take_current=take_key)
        if joined == own:
            report.skip("a key this node has already")
            return
        report.imported += 1
        done.ring = joined
        report.note = (
            "the earlier key becomes this node's key"
            if take_key
            else "this node keeps its own key; the earlier one is sealed again and opens messages for 30"
            " days. key=take makes it this node's"
        )
        if done.write:
            secrets = {key.pubkey: key.secret, **self._identity.readable_secrets()}
            self._identity.store_in(tx, joined, secrets)


def _unhidden(text: str, storage_key: bytes) -> str:
    """The key's text as the earlier plugin hid it: XOR with a repeated 32-byte key, in base64."""
    try:
        raw = base64.b64decode(text.encode("ascii"), validate=True)
        return bytes(byte ^ storage_key[i % 32] for i, byte in enumerate(raw)).decode("ascii")
    except ValueError:
        return ""


def _list(text: str | None) -> list[str]:
    try:
        found = decode(text or "[]", max_bytes=4_096)
    except DecodeError:
        return []
    return [item for item in found if isinstance(item, str)] if isinstance(found, list) else []
