"""Sole writer of comms_commands, comms_pending, comms_approvals, comms_replay, comms_responses and
comms_timers (docs/protocol/02-fleet-management.md §11, 08 §5.3). Every method runs inside the caller's
transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from sqlite3 import Row

from hive_shared.store import Tx
from msgspec.structs import fields

from ..domain.command_record import (
    CommandRow,
    PendingRow,
    ReadGroup,
    RefusalGroup,
    StoredResponse,
    TimerRow,
    Vote,
)

_COMMAND_COLUMNS = tuple(f.name for f in fields(CommandRow))
_PENDING_COLUMNS = tuple(f.name for f in fields(PendingRow))


def _columns(names: Sequence[str]) -> str:
    return f"({', '.join(names)}) VALUES ({', '.join(f':{name}' for name in names)})"


_INSERT_COMMAND = f"INSERT INTO comms_commands {_columns(_COMMAND_COLUMNS)}"
_INSERT_PENDING = f"INSERT INTO comms_pending {_columns(_PENDING_COLUMNS)}"


def _values(row: object, columns: Iterable[str]) -> dict[str, object]:
    return {name: getattr(row, name) for name in columns}


def _command(row: Row) -> CommandRow:
    values = {name: row[name] for name in _COMMAND_COLUMNS}
    values["read_only"] = bool(values["read_only"])
    return CommandRow(**values)


def _pending(row: Row) -> PendingRow:
    return PendingRow(**{name: row[name] for name in _PENDING_COLUMNS})


class CommandStore:
    """Rows of commands from reception to their final state."""

    # -- replay -----------------------------------------------------------------------------------

    def last_nonce(self, tx: Tx, sender_key: str) -> int:
        """Highest burned nonce of a key, 0 when it never sent one."""
        row = tx.execute("SELECT last_nonce FROM comms_replay WHERE sender_key = ?", (sender_key,)).fetchone()
        return int(row["last_nonce"]) if row else 0

    def transports_of(self, tx: Tx, sender_key: str) -> list[str]:
        """The transports by which a key's last 100 commands came, the last one first."""
        rows = tx.execute(
            "SELECT transport, max(nonce) AS last FROM (SELECT transport, nonce FROM comms_commands"
            " WHERE sender_key = ? ORDER BY nonce DESC LIMIT 100) GROUP BY transport ORDER BY last DESC",
            (sender_key,),
        )
        return [row["transport"] for row in rows]

    def burn(self, tx: Tx, sender_key: str, nonce: int) -> None:
        """Raise the highest burned nonce of a key; a lower one leaves it where it is."""
        tx.execute(
            "INSERT INTO comms_replay (sender_key, last_nonce) VALUES (?, ?) ON CONFLICT (sender_key)"
            " DO UPDATE SET last_nonce = MAX(last_nonce, excluded.last_nonce)",
            (sender_key, nonce),
        )

    def next_seq(self, tx: Tx, sender_key: str) -> int:
        """Take the next sequence number of what we send to a key: 1, 2, 3… without gaps (02 §6.5)."""
        row = tx.execute(
            "INSERT INTO comms_replay (sender_key, last_nonce, last_seq) VALUES (?, 0, 1)"
            " ON CONFLICT (sender_key) DO UPDATE SET last_seq = last_seq + 1 RETURNING last_seq",
            (sender_key,),
        ).fetchone()
        return int(row["last_seq"])

    def counters(self, tx: Tx) -> list[tuple[str, int, int]]:
        """Every key with its highest burned nonce and last sequence number."""
        return [tuple(row) for row in tx.execute("SELECT sender_key, last_nonce, last_seq FROM comms_replay")]

    def raise_counters(self, tx: Tx, sender_key: str, nonce: int, seq: int) -> bool:
        """Set both counters of a key to the higher of old and new; False when neither moved."""
        done = tx.execute(
            "INSERT INTO comms_replay (sender_key, last_nonce, last_seq) VALUES (?, ?, ?)"
            " ON CONFLICT (sender_key) DO UPDATE SET last_nonce = MAX(last_nonce, excluded.last_nonce),"
            " last_seq = MAX(last_seq, excluded.last_seq)"
            " WHERE excluded.last_nonce > last_nonce OR excluded.last_seq > last_seq",
            (sender_key, nonce, seq),
        )
        return done.rowcount == 1

    # -- commands ---------------------------------------------------------------------------------

    def insert(self, tx: Tx, row: CommandRow) -> None:
        """Store a received command. Raises sqlite3.IntegrityError on a used id or nonce."""
        tx.execute(_INSERT_COMMAND, _values(row, _COMMAND_COLUMNS))

    def get(self, tx: Tx, command_id: str) -> CommandRow | None:
        """The command of that id."""
        row = tx.execute("SELECT * FROM comms_commands WHERE command_id = ?", (command_id,)).fetchone()
        return _command(row) if row else None

    def by_nonce(self, tx: Tx, sender_key: str, nonce: int) -> CommandRow | None:
        """The command that burned this nonce of this key."""
        row = tx.execute(
            "SELECT * FROM comms_commands WHERE sender_key = ? AND nonce = ?", (sender_key, nonce)
        ).fetchone()
        return _command(row) if row else None

    def move(
        self,
        tx: Tx,
        command_id: str,
        old: str,
        new: str,
        now: int,
        *,
        slug: str | None = None,
        danger: int | None = None,
        deadline: int | None = None,
        hold_json: str | None = None,
        undo_json: str | None = None,
        receipt_id: int | None = None,
    ) -> bool:
        """Move a command from one state to another; False when it is not in `old` any more.

        Arguments left None keep the stored value, except `deadline`, which belongs to the new state.
        """
        done = tx.execute(
            "UPDATE comms_commands SET state = ?, updated_at = ?, deadline = ?, slug = COALESCE(?, slug),"
            " danger = COALESCE(?, danger), hold_json = COALESCE(?, hold_json),"
            " undo_json = COALESCE(?, undo_json), receipt_id = COALESCE(?, receipt_id)"
            " WHERE command_id = ? AND state = ?",
            (new, now, deadline, slug, danger, hold_json, undo_json, receipt_id, command_id, old),
        )
        return done.rowcount == 1

    def in_states(
        self, tx: Tx, states: Sequence[str], *, due: int | None = None, limit: int = 1_000
    ) -> tuple[CommandRow, ...]:
        """Commands in any of the states, oldest first; with `due`, only those whose deadline passed."""
        marks = ",".join("?" * len(states))
        late = "" if due is None else " AND deadline IS NOT NULL AND deadline <= ?"
        values: tuple[object, ...] = (*states, *(() if due is None else (due,)), limit)
        rows = tx.execute(
            f"SELECT * FROM comms_commands WHERE state IN ({marks}){late}"
            " ORDER BY received_at, rowid LIMIT ?",
            values,
        )
        return tuple(_command(row) for row in rows)

    def forget_envelope(self, tx: Tx, command_id: str, above: int) -> None:
        """Drop the envelope of a command that ended without a change, if it has more than `above` bytes."""
        tx.execute(
            "UPDATE comms_commands SET envelope = '' WHERE command_id = ? AND length(envelope) > ?",
            (command_id, above),
        )

    def open_of_advisor(self, tx: Tx, advisor_id: str, states: Sequence[str]) -> tuple[CommandRow, ...]:
        """An advisor's commands in any of the states, oldest first."""
        marks = ",".join("?" * len(states))
        rows = tx.execute(
            f"SELECT * FROM comms_commands WHERE advisor_id = ? AND state IN ({marks})"
            " ORDER BY received_at, rowid",
            (advisor_id, *states),
        )
        return tuple(_command(row) for row in rows)

    def prune(self, tx: Tx, final: Sequence[str], before: int, limit: int = 1_000) -> int:
        """Forget finished, receipted commands that were last touched before `before`; returns how many."""
        marks = ",".join("?" * len(final))
        ids = [
            row["command_id"]
            for row in tx.execute(
                f"SELECT command_id FROM comms_commands WHERE state IN ({marks}) AND updated_at < ?"
                " AND receipt_id IS NOT NULL LIMIT ?",
                (*final, before, limit),
            )
        ]
        for command_id in ids:
            tx.execute("DELETE FROM comms_approvals WHERE command_id = ?", (command_id,))
            tx.execute("DELETE FROM comms_pending WHERE action_id = ?", (command_id,))
            tx.execute("DELETE FROM comms_commands WHERE command_id = ?", (command_id,))
        return len(ids)

    # -- refusals and reads that share a receipt -----------------------------------------------------

    def refusal_receipt(self, tx: Tx, sender_key: str, slug: str, minute: int) -> int | None:
        """The receipt that already covers this sender, symbol and minute (02 §7.1)."""
        row = tx.execute(
            "SELECT receipt_id FROM comms_commands WHERE sender_key = ? AND slug = ? AND updated_at >= ?"
            " AND updated_at < ? AND receipt_id IS NOT NULL LIMIT 1",
            (sender_key, slug, minute * 60, minute * 60 + 60),
        ).fetchone()
        return int(row["receipt_id"]) if row else None

    def refusals_without_receipt(self, tx: Tx, before_minute: int) -> tuple[RefusalGroup, ...]:
        """Repeats of refusals in minutes that are over."""
        rows = tx.execute(
            "SELECT sender_key, slug, updated_at / 60 AS minute, COUNT(*) AS count,"
            " MAX(command_id) AS last_command_id FROM comms_commands"
            " WHERE receipt_id IS NULL AND slug IS NOT NULL AND updated_at < ?"
            " GROUP BY sender_key, slug, minute ORDER BY minute, sender_key, slug LIMIT 500",
            (before_minute * 60,),
        )
        return tuple(RefusalGroup(**dict(row)) for row in rows)

    def cover_refusals(self, tx: Tx, group: RefusalGroup, receipt_id: int) -> None:
        """Note the roll-up receipt on the rows it counts."""
        tx.execute(
            "UPDATE comms_commands SET receipt_id = ? WHERE receipt_id IS NULL AND sender_key = ?"
            " AND slug = ? AND updated_at >= ? AND updated_at < ?",
            (receipt_id, group.sender_key, group.slug, group.minute * 60, group.minute * 60 + 60),
        )

    def reads_without_receipt(self, tx: Tx, before: int) -> tuple[ReadGroup, ...]:
        """Answered reads last touched before `before`, one group per advisor, credential and action."""
        rows = tx.execute(
            "SELECT advisor_id, credential_id, schema_id, action, COUNT(*) AS count,"
            " MIN(updated_at) AS first_at, MAX(updated_at) AS last_at FROM comms_commands"
            " WHERE receipt_id IS NULL AND read_only = 1 AND slug IS NULL AND updated_at < ?"
            " AND state <> 'received'"
            " GROUP BY advisor_id, credential_id, schema_id, action ORDER BY advisor_id, schema_id, action",
            (before,),
        )
        return tuple(ReadGroup(**dict(row)) for row in rows)

    def cover_reads(self, tx: Tx, advisor_id: str, credential_id: str, before: int, receipt_id: int) -> None:
        """Note the hourly roll-up on the reads it counts."""
        tx.execute(
            "UPDATE comms_commands SET receipt_id = ? WHERE receipt_id IS NULL AND read_only = 1"
            " AND slug IS NULL AND advisor_id = ? AND credential_id = ? AND updated_at < ?"
            " AND state <> 'received'",
            (receipt_id, advisor_id, credential_id, before),
        )

    def reads_since(self, tx: Tx, credential_id: str, since: int, limit: int) -> int:
        """How many reads a credential asked for after a time, counted up to `limit`."""
        row = tx.execute(
            "SELECT COUNT(*) AS n FROM (SELECT 1 FROM comms_commands WHERE credential_id = ?"
            " AND read_only = 1 AND received_at > ? LIMIT ?)",
            (credential_id, since, limit),
        ).fetchone()
        return int(row["n"])

    # -- responses ----------------------------------------------------------------------------------

    def put_response(self, tx: Tx, response: StoredResponse) -> None:
        """Keep the reply to a nonce; a later, final reply replaces the earlier one."""
        tx.execute(
            "INSERT INTO comms_responses (sender_key, nonce, body_hash, response_json, created_at)"
            " VALUES (?, ?, ?, ?, ?) ON CONFLICT (sender_key, nonce) DO UPDATE SET"
            " response_json = excluded.response_json, created_at = excluded.created_at",
            (
                response.sender_key,
                response.nonce,
                response.body_hash,
                response.response_json,
                response.created_at,
            ),
        )

    def response(self, tx: Tx, sender_key: str, nonce: int) -> StoredResponse | None:
        """The kept reply to a nonce."""
        row = tx.execute(
            "SELECT * FROM comms_responses WHERE sender_key = ? AND nonce = ?", (sender_key, nonce)
        ).fetchone()
        return StoredResponse(**dict(row)) if row else None

    def pushes(self, tx: Tx, sender_key: str, since_seq: int, limit: int) -> tuple[str, ...]:
        """Kept pushes to a key with a seq above `since_seq`, oldest first (11 §15.1)."""
        rows = tx.execute(
            "SELECT response_json FROM comms_responses WHERE sender_key = ? AND nonce < ?"
            " ORDER BY nonce DESC LIMIT ?",
            (sender_key, -since_seq, limit),
        )
        return tuple(str(row["response_json"]) for row in rows)

    def prune_responses(self, tx: Tx, before: int, limit: int = 2_000) -> int:
        """Drop replies and pushes older than `before` (7 days); returns how many."""
        done = tx.execute(
            "DELETE FROM comms_responses WHERE (sender_key, nonce) IN"
            " (SELECT sender_key, nonce FROM comms_responses WHERE created_at < ? LIMIT ?)",
            (before, limit),
        )
        return int(done.rowcount)

    # -- pending actions ------------------------------------------------------------------------------

    def add_pending(self, tx: Tx, row: PendingRow) -> None:
        """Store an action that waits for people."""
        tx.execute(_INSERT_PENDING, _values(row, _PENDING_COLUMNS))

    def pending(self, tx: Tx, action_id: str) -> PendingRow | None:
        """The pending action of that id, whatever its state."""
        row = tx.execute("SELECT * FROM comms_pending WHERE action_id = ?", (action_id,)).fetchone()
        return _pending(row) if row else None

    def list_pending(self, tx: Tx, limit: int, advisor_id: str | None = None) -> tuple[PendingRow, ...]:
        """Actions still waiting, the one that expires first on top."""
        mine = "" if advisor_id is None else " AND advisor_id = ?"
        rows = tx.execute(
            "SELECT * FROM comms_pending WHERE state IN ('pending', 'approved')"
            f"{mine} ORDER BY expires_at, action_id LIMIT ?",
            (*(() if advisor_id is None else (advisor_id,)), limit),
        )
        return tuple(_pending(row) for row in rows)

    def count_pending(self, tx: Tx, advisor_id: str | None = None) -> int:
        """How many actions wait, of one advisor or of all."""
        mine = "" if advisor_id is None else " AND advisor_id = ?"
        row = tx.execute(
            f"SELECT COUNT(*) AS n FROM comms_pending WHERE state IN ('pending', 'approved'){mine}",
            () if advisor_id is None else (advisor_id,),
        ).fetchone()
        return int(row["n"])

    def move_pending(
        self,
        tx: Tx,
        action_id: str,
        old: Sequence[str],
        new: str,
        *,
        params_json: str | None = None,
        challenge: str | None = None,
        challenge_expires: int | None = None,
        expires_at: int | None = None,
        confirm_signature: str | None = None,
        reason: str | None = None,
        result_json: str | None = None,
    ) -> bool:
        """Move a pending action; False when it is in none of the `old` states. None keeps what is stored."""
        marks = ",".join("?" * len(old))
        done = tx.execute(
            "UPDATE comms_pending SET state = ?, params_json = COALESCE(?, params_json),"
            " challenge = COALESCE(?, challenge), challenge_expires = COALESCE(?, challenge_expires),"
            " expires_at = COALESCE(?, expires_at), confirm_signature = COALESCE(?, confirm_signature),"
            " reason = COALESCE(?, reason), result_json = COALESCE(?, result_json)"
            f" WHERE action_id = ? AND state IN ({marks})",
            (
                new,
                params_json,
                challenge,
                challenge_expires,
                expires_at,
                confirm_signature,
                reason,
                result_json,
                action_id,
                *old,
            ),
        )
        return done.rowcount == 1

    def vote(self, tx: Tx, vote: Vote) -> bool:
        """Record a vote; False when this approver already voted on this command."""
        done = tx.execute(
            "INSERT OR IGNORE INTO comms_approvals (command_id, approver, decision, signature, at)"
            " VALUES (?, ?, ?, ?, ?)",
            (vote.command_id, vote.approver, vote.decision, vote.signature, vote.at),
        )
        return done.rowcount == 1

    def votes(self, tx: Tx, command_id: str) -> tuple[Vote, ...]:
        """All votes on a command, in order of arrival."""
        rows = tx.execute(
            "SELECT * FROM comms_approvals WHERE command_id = ? ORDER BY at, approver", (command_id,)
        )
        return tuple(Vote(**dict(row)) for row in rows)

    # -- timers ---------------------------------------------------------------------------------------

    def set_timer(self, tx: Tx, timer: TimerRow) -> None:
        """Arm a timer; an armed one of the same kind and subject is replaced."""
        self.disarm(tx, timer.kind, timer.subject, timer.timer_id)
        tx.execute(
            "INSERT INTO comms_timers (timer_id, kind, subject, due, payload_json) VALUES (?, ?, ?, ?, ?)",
            (timer.timer_id, timer.kind, timer.subject, timer.due, timer.payload_json),
        )

    def disarm(self, tx: Tx, kind: str, subject: str, by: str = "") -> bool:
        """Disarm the timer of that kind and subject; False when none was armed."""
        done = tx.execute(
            "UPDATE comms_timers SET done_at = due WHERE kind = ? AND subject = ? AND done_at IS NULL"
            " AND timer_id <> ?",
            (kind, subject, by),
        )
        return done.rowcount == 1

    def change_timer(self, tx: Tx, timer: TimerRow) -> bool:
        """Give an armed timer another time or other content; False when it is not armed."""
        done = tx.execute(
            "UPDATE comms_timers SET due = ?, payload_json = ? WHERE timer_id = ? AND done_at IS NULL",
            (timer.due, timer.payload_json, timer.timer_id),
        )
        return done.rowcount == 1

    def put_raw_timer(self, tx: Tx, timer: TimerRow) -> bool:
        """Arm a timer from a backup; False when it, or one of its kind and subject, stands here."""
        done = tx.execute(
            "INSERT OR IGNORE INTO comms_timers (timer_id, kind, subject, due, payload_json, done_at)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (timer.timer_id, timer.kind, timer.subject, timer.due, timer.payload_json, timer.done_at),
        )
        return done.rowcount == 1

    def timers(self, tx: Tx, kind: str | None = None, due: int | None = None) -> tuple[TimerRow, ...]:
        """Armed timers, earliest first; of one kind, and only those due by a time when given."""
        rows = tx.execute(
            "SELECT * FROM comms_timers WHERE done_at IS NULL AND (?1 IS NULL OR kind = ?1)"
            " AND (?2 IS NULL OR due <= ?2) ORDER BY due, timer_id LIMIT 1000",
            (kind, due),
        )
        return tuple(TimerRow(**dict(row)) for row in rows)

    def armed(self, tx: Tx, kind: str) -> tuple[tuple[str, int], ...]:
        """Subjects and times of the armed timers of one kind; by the index, not by reading all timers."""
        rows = tx.execute(
            "SELECT subject, due FROM comms_timers INDEXED BY comms_timers_subject"
            " WHERE kind = ? AND done_at IS NULL",
            (kind,),
        )
        return tuple((str(row["subject"]), int(row["due"])) for row in rows)

    def prune_timers(self, tx: Tx, before: int) -> int:
        """Forget timers that were done before a time; returns how many."""
        return int(tx.execute("DELETE FROM comms_timers WHERE done_at < ?", (before,)).rowcount)

    def timer_done(self, tx: Tx, timer_id: str, now: int) -> bool:
        """Mark a timer as fired; False when it already was."""
        done = tx.execute(
            "UPDATE comms_timers SET done_at = ? WHERE timer_id = ? AND done_at IS NULL", (now, timer_id)
        )
        return done.rowcount == 1
