"""Moving the oldest receipts into signed files, behind checkpoints of the chain
(docs/protocol/02-fleet-management.md §9.2, docs/protocol/08-client-and-plugins.md §6 "Receipts")."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
from hive_shared import receipts
from hive_shared.canonical import JsonValue, encode
from hive_shared.errors import Conflict
from hive_shared.store import StoreError, Tx
from msgspec.structs import asdict

from ..domain.command_machine import UNFINISHED
from ..domain.receipt_checkpoint import PRUNE, archive_end
from ..domain.receipt_record import RootRow
from .ports_commands import CommandRows, Database, Identity, Log, ReceiptRows
from .receipt_service import ReceiptService, operator_event

KEPT: Final = 1_000
"""The newest receipts, which always stay."""
LIVE_MAX: Final = 100_000
"""Receipts in the database before the oldest segment is archived by itself."""
_SEGMENT: Final = 10_000
DAY_S: Final = 86_400


class Archived(msgspec.Struct, frozen=True):
    """What one run moved; `path` is the signed file, None when nothing was old enough."""

    count: int
    first_id: int | None = None
    last_id: int | None = None
    path: Path | None = None
    sha256: str | None = None


class ReceiptArchive:
    """Archives; never two runs at once. `directory` is created 0700, its files are 0600.

    `open_since` gives the time (Unix s) from which on receipts belong to a trial without its review.
    """

    def __init__(
        self,
        db: Database,
        rows: ReceiptRows,
        receipts: ReceiptService,
        commands: CommandRows,
        identity: Identity,
        *,
        directory: Path,
        node_id: str,
        retention_days: Callable[[], int],
        open_since: Callable[[Tx], int | None],
        now: Callable[[], int],
        log: Log,
    ) -> None:
        self._db, self._rows, self._receipts, self._commands = db, rows, receipts, commands
        self._identity, self._directory, self._node_id = identity, directory, node_id
        self._retention_days, self._now, self._log = retention_days, now, log
        self._open_since = open_since
        self._lock = asyncio.Lock()

    async def prune(self, days: int) -> Archived:
        """Archive receipts older than `days`. The newest 1,000 stay, and everything from the first receipt
        of an unfinished command or of an open trial on. Raises Conflict when the file cannot be written."""
        before = self._now() - days * DAY_S
        return await self._archive(lambda tx: self._older(tx, before), "prune", {"days": days})

    async def sweep(self) -> Archived:
        """What the hourly loop does: archive the oldest segment above 100,000 receipts, and what is older
        than the option receipt-retention-days when that is set."""
        done = await self._archive(self._surplus, "archive", {"above": LIVE_MAX})
        days = self._retention_days()
        if days:
            older = await self.prune(days)
            done = older if older.count else done
        return done

    # -- what may go --------------------------------------------------------------------------------

    def _older(self, tx: Tx, before: int) -> int:
        span = self._rows.span(tx, 0, before)
        return 0 if span is None else self._allowed(tx, span[1])

    def _surplus(self, tx: Tx) -> int:
        first, last = self._rows.first_id(tx), self._receipts.end(tx).receipt_id
        if first is None or last - first + 1 <= LIVE_MAX:
            return 0
        return self._allowed(tx, last - LIVE_MAX + _SEGMENT)

    def _allowed(self, tx: Tx, last_id: int) -> int:
        """The highest id up to `last_id` that may be archived."""
        last_id = min(last_id, self._receipts.end(tx).receipt_id - KEPT)
        waiting = [row.command_id for row in self._commands.in_states(tx, tuple(UNFINISHED), limit=100_000)]
        still_open = self._rows.first_of_commands(tx, waiting)
        if still_open is not None:
            last_id = min(last_id, still_open - 1)
        if (since := self._open_since(tx)) is not None:
            settled = self._rows.span(tx, 0, since)
            last_id = min(last_id, 0 if settled is None else settled[1])
        # A root of which a part is archived could prove nothing about the rest any more.
        while (root := self._rows.root_across(tx, last_id)) is not None:
            last_id = root.first_id - 1
        return last_id

    # -- moving -------------------------------------------------------------------------------------

    async def _archive(
        self, choose: Callable[[Tx], int], action: str, params: dict[str, JsonValue]
    ) -> Archived:
        async with self._lock:
            first_id, last_id = await self._db.read(lambda tx: (self._rows.first_id(tx), choose(tx)))
            if first_id is None or last_id < first_id:
                return Archived(0)
            report = await self._receipts.verify(first_id, last_id)
            if not report.ok:
                # Archiving would give a false record the blessing of a fresh signature.
                raise Conflict(
                    f"receipt {report.first_bad} does not verify ({report.reason}); nothing was archived",
                    reason="receipts_damaged",
                )
            path = self._directory / f"receipts-{first_id:012}-{last_id:012}.jsonl"
            try:
                root, digest = await self._write_file(path, first_id, last_id)
            except OSError as error:
                raise Conflict(f"the archive {path} cannot be written: {error.strerror}") from None
            said: dict[str, JsonValue] = {
                "first_id": first_id,
                "last_id": last_id,
                "count": root.count,
                "merkle_root": root.merkle_root,
                "last_hash": root.last_hash,
                "file": path.name,
                "sha256": digest,
            }

            def body(tx: Tx) -> None:
                if self._rows.first_id(tx) != first_id or not self._rows.add_root(tx, root):
                    raise StoreError(
                        "the receipts changed while they were being archived; nothing was removed"
                    )
                self._rows.forget(tx, first_id, last_id)
                self._receipts.append(tx, operator_event(action, params=params, result=said))

            await self._db.write(body)
            self._log("info", "receipts_archived", first_id=first_id, last_id=last_id, file=path.name)
            return Archived(root.count, first_id, last_id, path, digest)

    async def _write_file(self, path: Path, first_id: int, last_id: int) -> tuple[RootRow, str]:
        """Receipts, one a line with their acknowledgements; the signed checkpoint is the last line."""
        partial = path.with_suffix(".partial")
        await asyncio.to_thread(path.parent.mkdir, 0o700, True, True)

        def lines(tx: Tx) -> tuple[list[str], str]:
            hashes: list[str] = []
            with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                for row in self._rows.walk(tx, first_id, last_id):
                    acks: list[JsonValue] = [asdict(ack) for ack in self._rows.acks(tx, row.receipt_id)]
                    line: dict[str, JsonValue] = {
                        "receipt": self._receipts.document(row),
                        "advisor_id": row.advisor_id,
                        "acks": acks,
                    }
                    file.write(encode(line) + b"\n")
                    hashes.append(row.receipt_hash)
            return hashes, archive_end(self._rows.last_root(tx, PRUNE)).receipt_hash

        hashes, prev_hash = await self._db.read(lines)
        merkle = receipts.merkle_root(hashes)
        root = await self._receipts.sign_root(PRUNE, self._now(), first_id, last_id, merkle, hashes[-1])
        checkpoint: dict[str, JsonValue] = {
            **asdict(root),
            "v": 1,
            "prev_hash": prev_hash,
            "node_id": self._node_id,
            "node_key": self._identity.pubkey,
        }
        return root, await asyncio.to_thread(_finish, partial, path, encode({"checkpoint": checkpoint}))


def _finish(partial: Path, path: Path, last_line: bytes) -> str:
    """Append the last line, bring everything to disk under its name; SHA-256 of the file."""
    import hashlib

    with partial.open("ab") as file:
        file.write(last_line + b"\n")
        file.flush()
        os.fsync(file.fileno())
    with partial.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    os.replace(partial, path)
    # The rename itself must survive a power cut before the rows go.
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return digest
