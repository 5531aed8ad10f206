"""Restoring trials, trust, what came from the earlier plugin, and channels that wait for their old settings
(docs/protocol/08-client-and-plugins.md §8.4, docs/decisions/0292-what-a-backup-holds.md)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

from hive_shared.store import Tx

from ..domain.command_record import TimerRow
from ..domain.emergency import Limits, SavedChannel, Stop, stop_from_text
from ..domain.forwarding import BY_ADVISORS, Hold
from ..domain.handoff import FACT, Handoff
from ..domain.legacy_record import LegacyReceipt, Segment, verify_segments
from ..domain.stop_restore import stop_after
from .kill_switch import EMERGENCY_FACT
from .messenger_signed import RESTORED_AT
from .ports_backup import AdvertTables, LegacyTables, Tables
from .restore_parts import Outcome

LEGACY_RECEIPTS: Final = "comms_legacy_receipts"
LEGACY_ROWS: Final = "comms_legacy_rows"
_SEGMENT: Final = (
    *("at", "first_seq", "last_seq", "merkle_root", "last_digest", "node_signature", "hsm_signature"),
)


class RowsOf(Protocol):
    """Reads the rows of a table from the backup once more, streamed."""

    def __call__(self, table: str) -> Iterator[dict[str, Any]]:
        """In the order of the backup."""
        ...


def restore_record(
    tx: Tx, tables: Tables, days: Sequence[dict[str, Any]], trials: Sequence[dict[str, Any]]
) -> tuple[int, int]:
    """Days counted for trust and trials that are not here: how many were taken in, and left as they are.

    A trial without its credential here is of an advisor whom this node does not have.
    """
    known = {row["credential_id"] for row in tables.advisors.raw_credentials(tx)}
    taken = sum(tables.trust.put_raw_day(tx, day) for day in days)
    for trial in trials:
        taken += trial["credential_id"] in known and tables.trials.put_raw_trial(tx, trial)
    return taken, len(days) + len(trials) - taken


def restore_contracts(
    tx: Tx, tables: Tables, rows_of: Callable[[str, str], Sequence[dict[str, Any]]], now: int
) -> tuple[int, int]:
    """Negotiations and contracts that are not here: how many rows were taken in, and left as they are. What
    is said in them from now on has numbers above all that were used after the backup."""
    taken = found = 0
    for table in ("marketplace_contracts", "marketplace_threads", "marketplace_messages"):
        for row in rows_of("credentials", table):
            found += 1
            taken += tables.contracts.put_raw(tx, table, row)
    if taken:
        tables.facts.put(tx, RESTORED_AT, str(now), now)
    return taken, found - taken


def restore_blocked(
    tx: Tx, adverts: AdvertTables, rows: Sequence[Mapping[str, Any]], *, newer_here: bool, now: int
) -> tuple[int, int]:
    """Whom the operator had blocked on the market: how many were taken in, and left. Not where this node went
    on after the backup: some may have been let in again since."""
    known = {ref for ref, _, _ in adverts.blocked(tx)}
    taken = 0
    for row in rows:
        ref, until = str(row["ref"]), row["until"]
        if newer_here or ref in known or (until is not None and int(until) <= now):
            continue
        adverts.block(tx, ref, str(row["reason"]), None if until is None else int(until))
        taken += 1
    return taken, len(rows) - taken


def restore_handoffs(
    tx: Tx, tables: Tables, rows: Sequence[Mapping[str, Any]], *, newer_here: bool, now: int
) -> tuple[int, str]:
    """Handoffs that ran when the backup was made, with their times of then: one that is over ends within a
    minute, with its outgoing credential. How many were taken in, and a note.

    Not where this node went on (it may have ended there), nor of advisors who are not here, or are part of
    one here, or where the outgoing one has no credential any more.
    """
    if not rows:
        return 0, ""
    if newer_here:
        return 0, "handoffs of the backup are not begun again: this node went on after it"
    live = {
        str(row["advisor_id"]) for row in tables.advisors.raw_credentials(tx) if row["status"] == "active"
    }
    known = {str(row["advisor_id"]) for row in tables.advisors.raw_advisors(tx)}
    here = [Handoff.from_text(text) for text in tables.facts.with_prefix(tx, FACT).values()]
    taken: list[Handoff] = []
    for row in rows:
        handoff = Handoff.from_text(str(row["value"]))
        busy = any(each.involves(handoff.outgoing, handoff.incoming) for each in (*here, *taken))
        if handoff.outgoing in live and handoff.incoming in known and not busy:
            tables.facts.put(tx, FACT + handoff.outgoing, handoff.to_text(), now)
            taken.append(handoff)
    return len(taken), f"handoffs that go on: {len(taken)} of {len(rows)}"


def restore_legacy(
    tx: Tx,
    tables: LegacyTables,
    migrations: Sequence[Mapping[str, Any]],
    rows_of: RowsOf,
    *,
    node_keys: Collection[str],
    node_id: str,
) -> tuple[int, str]:
    """All of what came from the earlier plugin, or nothing: its segments are numbered through. How many rows
    were taken in, and why not."""
    if not migrations:
        return 0, ""
    if tables.next_migration(tx) > 1:
        return 0, "this node took over from the earlier plugin itself and keeps that"
    segments = [
        Segment(**{name: row[name] for name in _SEGMENT})
        for row in migrations
        if row["first_seq"] is not None
    ]
    verdict = verify_segments(segments, _legacy_receipts(rows_of), node_keys=node_keys, node_id=node_id)
    if verdict.first_bad is not None:
        return 0, f"what came from the earlier plugin is refused: {verdict.reason}"
    taken = 0
    for row in migrations:
        tables.put_raw_migration(tx, row)
        taken += 1
    for receipt in _legacy_receipts(rows_of):
        tables.add_receipt(tx, receipt)
        taken += 1
    for row in rows_of(LEGACY_ROWS):
        tables.put_raw_row(tx, row)
        taken += 1
    return taken, ""


def _legacy_receipts(rows_of: RowsOf) -> Iterator[LegacyReceipt]:
    return (LegacyReceipt(**row) for row in rows_of(LEGACY_RECEIPTS))


def restore_channels(
    tx: Tx,
    tables: Tables,
    saved: Sequence[Mapping[str, Any]],
    timers: Sequence[Mapping[str, Any]],
    stops: Sequence[Mapping[str, Any]],
    *,
    here: Stop | None,
    newer_here: bool,
    now: int,
) -> tuple[Outcome, Stop | None]:
    """Bounds that channels get back when a hold on them ends, timers that put fees back, and the emergency
    stop; the stop in force afterwards, where `here` is the node's.

    Not taken when this node's record goes on after the backup: then it knows better which of them ended.
    """
    found = len(saved) + len(timers) + len(stops)
    if newer_here:
        note = "this node went on after the backup and knows its channels; mode=replace takes the backup's"
        if stops and here is None:
            note += ". The emergency stop that was on then is not engaged"
        return Outcome("channels", found, kept=found, note=note), here
    known = tables.saved.names(tx)
    said = next((stop_from_text(str(row["value"])) for row in stops if row["key"] == EMERGENCY_FACT), None)
    taken = frozen = 0
    for row in saved:
        hold = _hold(row)
        if (hold.reason, hold.channel.channel_id) not in known:
            tables.saved.hold(tx, hold, now)
            taken += 1
            frozen += hold.reason not in BY_ADVISORS
    taken += sum(tables.timers.put_raw_timer(tx, TimerRow(**row)) for row in timers)
    after = stop_after(here, said, frozen=frozen > 0, now=now)
    taken += said is not None and after != here
    return Outcome("channels", found, taken, found - taken, _of_stop(here, after, frozen)), after


def _of_stop(here: Stop | None, after: Stop | None, frozen: int) -> str:
    if after is None:
        return ""
    notes = []
    if here is None:
        notes.append(f"the emergency stop is engaged: {after.reason}; hive-client-emergency-stop releases it")
    else:
        notes.append("the emergency stop stays on")
    if frozen:
        notes.append(f"{frozen} channels that a stop had frozen stay frozen until its release")
    elif after.freeze and (here is None or not here.freeze):
        notes.append("it freezes the channels, as it did then")
    return "; ".join(notes)


def _hold(row: Mapping[str, Any]) -> Hold:
    channel = row["channel"]
    limits = Limits(*channel["limits"])
    saved = SavedChannel(channel_id=str(channel["channel_id"]), scid=str(channel["scid"]), limits=limits)
    return Hold(str(row["reason"]), saved)
