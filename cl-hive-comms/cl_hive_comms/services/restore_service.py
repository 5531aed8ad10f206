"""Restoring backups (docs/protocol/08-client-and-plugins.md §8.4, docs/protocol/09-archon.md §12.4).

The file is read twice: once to prove all of it (seal, manifest, receipt chain, node), once more, inside the
transaction, for the receipts. A dry run does the same and takes the transaction back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
from hive_shared.canonical import JsonValue
from hive_shared.crypto import Secret
from hive_shared.errors import Conflict, InvalidParams
from hive_shared.receipts import ChainReport
from hive_shared.sealed_file import SealedReader
from hive_shared.store import Tx
from msgspec.structs import asdict, replace

from ..domain.backup import TABLES, Head, Reading, Row, chosen
from ..domain.emergency import Stop
from ..domain.identity import KeyRing
from ..domain.receipt_checkpoint import PRUNE, ArchiveEnd, archive_end, fault
from ..domain.receipt_record import AckRow, ReceiptRow, RootRow
from .policy_record import PolicyRecord
from .ports_backup import Keys, Tables
from .ports_commands import Database
from .receipt_check import verify_rows
from .receipt_service import ReceiptService, operator_event
from .restore_history import (
    LEGACY_RECEIPTS,
    LEGACY_ROWS,
    restore_blocked,
    restore_channels,
    restore_contracts,
    restore_handoffs,
    restore_legacy,
    restore_record,
)
from .restore_parts import Outcome, restore_aliases, restore_credentials, restore_payments
from .restore_policy import restore_policy
from .restore_wallet import restore_wallet

_RECEIPTS: Final = "management_receipts"
# A node may have very many of them: they are read again from the file, not held in memory.
_STREAMED: Final = frozenset({_RECEIPTS, LEGACY_RECEIPTS, LEGACY_ROWS})


class Running(msgspec.Struct, frozen=True):
    """What of the running plugin a restore meets. `committing` is held around the transaction: nothing else
    changes these meanwhile, and memory follows at its end. `policy_by_file` tells whether a file is the
    policy document, `stop` which emergency stop is on; `engaged` stores one with its receipt and alert."""

    committing: Callable[[], AbstractAsyncContextManager[None]]
    policy_by_file: Callable[[], bool]
    record: PolicyRecord
    stop: Callable[[Tx], Stop | None]
    engaged: Callable[[Tx, Stop, Mapping[str, JsonValue]], None]


class Restored(msgspec.Struct, frozen=True):
    """What a restore did, or would do."""

    head: Head
    outcomes: tuple[Outcome, ...]


@dataclass(slots=True)
class _Content:
    """A backup that was read to its end: every row but the receipts themselves."""

    head: Head
    rows: dict[str, list[Row]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    ring: KeyRing | None = None
    chain: ChainReport | None = None
    keys: tuple[str, ...] = ()
    newer_here: bool = False
    stop_left: bool = False
    on_record: list[Callable[[Tx], None]] = field(default_factory=list)
    """Receipts and alerts of what was taken in; a dry run leaves none, not even in the log."""

    def of(self, part: str, table: str) -> list[dict[str, Any]]:
        return [row.values for row in self.rows.get(part, ()) if row.table == table]

    def roots(self) -> list[RootRow]:
        return [RootRow(**values) for values in self.of("receipts", "comms_receipt_roots")]


class _DryRun(Exception):
    def __init__(self, outcomes: tuple[Outcome, ...]) -> None:
        super().__init__()
        self.outcomes = outcomes


class RestoreService:
    """Merges a backup into this node's database."""

    def __init__(
        self,
        db: Database,
        tables: Tables,
        identity: Keys,
        receipts: ReceiptService,
        running: Running,
        *,
        node_id: str,
        now: Callable[[], int],
    ) -> None:
        self._db, self._t, self._identity, self._receipts = db, tables, identity, receipts
        self._running = running
        self._node_id, self._now = node_id, now

    async def restore(
        self,
        path: Path,
        passphrase: Secret,
        *,
        components: Sequence[str] = (),
        skip: Sequence[str] = (),
        replace: bool = False,
        dry_run: bool = True,
    ) -> Restored:
        """Take in the parts of a backup; what is newer here stays unless `replace`.

        Raises InvalidParams when the file does not open or is not whole, Conflict for another node's backup.
        """
        parts = chosen(components, skip)
        content = await asyncio.to_thread(self._read, path, passphrase)

        def body(tx: Tx) -> tuple[Outcome, ...]:
            content.newer_here = self._newer_here(tx, content) and not replace
            content.stop_left = "channels" not in parts and bool(content.of("channels", "comms_state"))
            outcomes = tuple(self._part(tx, part, content, path, passphrase, replace) for part in parts)
            if not dry_run:
                for note in content.on_record:
                    note(tx)
            self._note_gap(tx, content.head, outcomes)
            if dry_run:
                raise _DryRun(outcomes)
            return outcomes

        committing = nullcontext() if dry_run else self._running.committing()
        try:
            async with committing, self._identity.changing:
                return Restored(content.head, await self._db.write(body))
        except _DryRun as end:
            return Restored(content.head, end.outcomes)

    # -- reading and proving ------------------------------------------------------------------------

    def _read(self, path: Path, passphrase: Secret) -> _Content:
        with SealedReader(path, passphrase) as reader:
            reading = Reading(reader.lines())
            if reading.head.node_id != self._node_id:
                raise Conflict(
                    f"the backup is of node {reading.head.node_id}, this is {self._node_id};"
                    " it can only be restored on its own node",
                    reason="other_node",
                )
            content = _Content(reading.head)
            try:
                self._prove(content, _receipts_of(reading, content))
            except (KeyError, TypeError, ValueError) as error:
                raise InvalidParams(f"the backup holds a row that is not whole: {error}") from None
        content.counts = {part: tally.count for part, tally in reading.tallies.items()}
        return content

    def _prove(self, content: _Content, found: Iterator[ReceiptRow]) -> None:
        """Read to the end, checking the receipt chain on the way."""
        first = next(found, None)
        for values in content.of("identity", "keys"):
            content.ring = KeyRing.from_bytes(str(values["ring"]).encode())
        keys = set(self._identity.all_pubkeys())
        if content.ring is not None:
            keys |= {content.ring.current.pubkey, *(key.pubkey for key in content.ring.old)}
        content.keys = tuple(keys)
        checkpoints = [root for root in content.roots() if root.kind == PRUNE]
        if bad := fault(checkpoints, node_keys=keys, node_id=self._node_id):
            content.chain = ChainReport(False, 0, bad[0], bad[1])
        elif first is not None:

            def rows() -> Iterator[ReceiptRow]:
                yield first
                yield from found

            start = archive_end(checkpoints[-1] if checkpoints else None)
            content.chain = verify_rows(rows(), start, tuple(keys))
        for _ in found:
            pass

    # -- parts --------------------------------------------------------------------------------------

    def _part(
        self, tx: Tx, part: str, content: _Content, path: Path, passphrase: Secret, replace: bool
    ) -> Outcome:
        count = content.counts.get(part, 0)
        if not count and part != "payments":
            return Outcome(part, 0, note="the backup has nothing of it")
        match part:
            case "identity":
                return self._keys(tx, content, replace)
            case "credentials":
                return self._credentials(tx, content, replace)
            case "receipts":
                outcome = self._chain(tx, content, path, passphrase)
                taken, note = restore_legacy(
                    tx,
                    self._t.legacy,
                    content.of(part, "comms_migrations"),
                    lambda table: self._rows_of(path, passphrase, table),
                    node_keys=content.keys,
                    node_id=self._node_id,
                )
                return _joined(outcome, count, taken, -taken, note)
            case "channels":
                return self._channels(tx, content)
            case "escrow":
                found = {table: content.of(part, table) for table in TABLES[part]}
                return restore_wallet(tx, self._t, found, self._now())
            case "payments":
                found = {table: content.of(part, table) for table in TABLES[part]}
                return restore_payments(tx, self._t, found, self._now())
            case "policy":
                return self._policy(tx, content, replace)
            case _:
                return restore_aliases(tx, self._t.advisors, content.of(part, "comms_aliases"), replace)

    def _credentials(self, tx: Tx, content: _Content, replace: bool) -> Outcome:
        found = {
            table: content.of("credentials", table)
            for table in (*_CREDENTIALS, "comms_trust_days", "marketplace_trials", "comms_state")
        }
        outcome = restore_credentials(tx, self._t, {name: found[name] for name in _CREDENTIALS}, replace)
        count = content.counts["credentials"]
        record = restore_record(tx, self._t, found["comms_trust_days"], found["marketplace_trials"])
        outcome = _joined(outcome, count, *record)
        outcome = _joined(outcome, count, *restore_contracts(tx, self._t, content.of, self._now()))
        blocked = content.of("credentials", "marketplace_blocklist")
        taken, left = restore_blocked(
            tx, self._t.adverts, blocked, newer_here=content.newer_here, now=self._now()
        )
        outcome = _joined(outcome, count, taken, left)
        handoffs = found["comms_state"]
        taken, note = restore_handoffs(tx, self._t, handoffs, newer_here=content.newer_here, now=self._now())
        outcome = _joined(outcome, count, taken, len(handoffs) - taken, note)
        return _joined(outcome, count, 0, 0, _STOP_LEFT) if content.stop_left else outcome

    def _keys(self, tx: Tx, content: _Content, replace: bool) -> Outcome:
        ring = content.ring
        assert ring is not None  # the part has a row, and it was read
        secrets = {
            key: Secret(bytes.fromhex(text))
            for values in content.of("identity", "keys")
            for key, text in values["secrets"].items()
        }
        own = self._identity.ring
        joined = own.joined(ring, self._now(), take_current=replace)
        self._identity.store_in(tx, joined, {**secrets, **self._identity.readable_secrets()})
        if ring.current.pubkey == own.current.pubkey:
            return Outcome("identity", 1, kept=1, note="this node has the same key")
        if replace:
            return Outcome("identity", 1, restored=1, note="the backup's key is this node's key again")
        return Outcome(
            "identity",
            1,
            kept=1,
            note="this node keeps its key; the backup's opens messages for 30 days; mode=replace takes it",
        )

    def _policy(self, tx: Tx, content: _Content, replace: bool) -> Outcome:
        outcome, taken = restore_policy(
            tx,
            self._t.policy,
            content.rows["policy"],
            replace=replace,
            by_file=self._running.policy_by_file(),
            now=self._now(),
        )
        if taken is not None:
            record = self._running.record
            content.on_record.append(
                lambda tx: record.followed(tx, "restore", before=taken.before, after=taken.after)
            )
        return outcome

    def _channels(self, tx: Tx, content: _Content) -> Outcome:
        here = self._running.stop(tx)
        outcome, stop = restore_channels(
            tx,
            self._t,
            content.of("channels", "comms_saved_channel"),
            content.of("channels", "comms_timers"),
            content.of("channels", "comms_state"),
            here=here,
            newer_here=content.newer_here,
            now=self._now(),
        )
        if stop is not None and stop != here:
            engaged, params = self._running.engaged, {"restored": True, **_shown(stop)}
            content.on_record.append(lambda tx: engaged(tx, stop, params))
        return outcome

    def _chain(self, tx: Tx, content: _Content, path: Path, passphrase: Secret) -> Outcome:
        report, found = content.chain, content.counts["receipts"]
        if report is None or not report.ok:
            why = "no receipt in it" if report is None else f"receipt {report.first_bad}: {report.reason}"
            return Outcome("receipts", found, note=f"refused, the backup's chain does not verify ({why})")
        own = self._receipts.end(tx)
        if own.receipt_id >= report.last_id:
            same = self._hash_of(tx, report.last_id, own) == report.last_hash
            note = "this node's record reaches further" if same else _DIVERGED
            return Outcome("receipts", found, kept=found, note=note)
        for root in content.roots():
            if own.receipt_id == 0 and root.kind == PRUNE:
                self._t.receipts.add_root(tx, root)
        added, previous = 0, self._receipts.end(tx)
        with SealedReader(path, passphrase) as reader:
            for row in _receipts_of(Reading(reader.lines()), None):
                if row.receipt_id <= previous.receipt_id:
                    continue
                if not added and row.prev_hash != previous.receipt_hash:
                    return Outcome("receipts", found, kept=found, note=_DIVERGED)
                self._t.receipts.append(tx, row)
                added += 1
        for root in content.roots():
            self._t.receipts.add_root(tx, root)
        for values in content.of("receipts", "comms_receipt_acks"):
            ack = AckRow(**values)
            if self._t.receipts.get(tx, ack.receipt_id) is not None:
                self._t.receipts.add_ack(tx, ack)
        self._keep_keys(tx, content)
        return Outcome("receipts", found, restored=added, kept=found - added)

    def _newer_here(self, tx: Tx, content: _Content) -> bool:
        """Whether this node's record has something that the backup's has not."""
        own = self._receipts.end(tx)
        if own.receipt_id == 0:
            return False
        chain = content.chain
        return chain is None or not chain.ok or own.receipt_id > chain.last_id

    @staticmethod
    def _rows_of(path: Path, passphrase: Secret, table: str) -> Iterator[dict[str, Any]]:
        with SealedReader(path, passphrase) as reader:
            for row in Reading(reader.lines()).rows():
                if row.table == table:
                    yield row.values

    def _keep_keys(self, tx: Tx, content: _Content) -> None:
        # Without the public keys that signed them the restored receipts could not be verified any more.
        if content.ring is not None:
            stored = self._identity.stored_ring(tx)
            if not stored.knows(content.ring):
                joined = stored.joined(content.ring, self._now(), take_current=False)
                self._identity.store_in(tx, joined, self._identity.readable_secrets())

    def _hash_of(self, tx: Tx, receipt_id: int, own: ArchiveEnd) -> str | None:
        if receipt_id == own.receipt_id:
            return own.receipt_hash
        row = self._t.receipts.get(tx, receipt_id)
        if row is not None:
            return row.receipt_hash
        ends = [root.last_hash for root in self._t.receipts.checkpoints(tx) if root.last_id == receipt_id]
        return ends[0] if ends else None

    def _note_gap(self, tx: Tx, head: Head, outcomes: Sequence[Outcome]) -> None:
        """The receipt of the restore: what happened between backup and now is not on the record."""
        parts: list[JsonValue] = [asdict(outcome) for outcome in outcomes]
        said: dict[str, JsonValue] = {
            "parts": parts,
            "gap": {"from": head.created_at, "to": self._now()},
        }
        made: dict[str, JsonValue] = {"backup_created_at": head.created_at, "backup_npub": head.npub}
        self._receipts.append(tx, operator_event("restore", params=made, result=said))


_CREDENTIALS: Final = ("comms_advisors", "comms_credentials", "comms_replay", "comms_gossip_credentials")
_DIVERGED: Final = (
    "this node's record went its own way, two chains cannot be joined: kept; the backup file keeps the other"
)


_STOP_LEFT: Final = (
    "the emergency stop was on when the backup was made: it comes back with the part channels, which is left"
    " out here"
)


def _shown(stop: Stop) -> dict[str, JsonValue]:
    return {"reason": stop.reason, "revoke_all": stop.revoke_due, "freeze_forwarding": stop.freeze}


def _receipts_of(reading: Reading, content: _Content | None) -> Iterator[ReceiptRow]:
    """The receipts of a backup, in order; all other rows are collected in `content`."""
    for row in reading.rows():
        if row.table == _RECEIPTS:
            yield ReceiptRow(**row.values)
        elif content is not None and row.table not in _STREAMED:
            content.rows.setdefault(row.part, []).append(row)


def _joined(outcome: Outcome, found: int, restored: int, kept: int, note: str = "") -> Outcome:
    return replace(
        outcome,
        found=found,
        restored=outcome.restored + restored,
        kept=max(0, outcome.kept + kept),
        note="; ".join(filter(None, (outcome.note, note))),
    )
