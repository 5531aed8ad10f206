"""adv_questions: what waits for a human here."""

from __future__ import annotations

import sqlite3

from hive_shared.store import Tx

from hive_advisor.domain.question import Question, QuestionState

_KEPT_S = 30 * 86_400


class QuestionStore:
    """Questions to the human. Methods join the caller's transaction."""

    def add(self, tx: Tx, question: Question) -> None:
        """Keep a new question; what ended a month ago goes."""
        tx.execute("DELETE FROM adv_questions WHERE expires < ?", (question.created - _KEPT_S,))
        tx.execute(
            "INSERT INTO adv_questions (approval_id, kind, command_id, plan_hash, object, reason, origin,"
            " state, expires, created) VALUES (?,?,?,?,?,?,?,?,?,?)",
            (
                question.approval_id,
                question.kind,
                question.command_id,
                question.plan_hash,
                question.object,
                question.reason,
                question.origin,
                question.state,
                question.expires,
                question.created,
            ),
        )

    def find(self, tx: Tx, prefix: str) -> list[Question]:
        """Questions whose id starts with `prefix` (hex digits only); at most 3."""
        rows = tx.execute(
            "SELECT * FROM adv_questions WHERE approval_id >= ? AND approval_id < ? LIMIT 3",
            (prefix, prefix + "g"),
        ).fetchall()
        return [_question(row) for row in rows]

    def of_command(self, tx: Tx, command_id: str) -> Question | None:
        """The newest question about a held command."""
        row = tx.execute(
            "SELECT * FROM adv_questions WHERE command_id = ? ORDER BY created DESC, rowid DESC LIMIT 1",
            (command_id,),
        ).fetchone()
        return _question(row) if row else None

    def listed(self, tx: Tx, since: int, limit: int) -> list[Question]:
        """What waits, or (`since` 0) everything; the most urgent first."""
        rows = tx.execute(
            "SELECT * FROM adv_questions WHERE ? = 0 OR (expires > ? AND state = 'waiting')"
            " ORDER BY expires, approval_id LIMIT ?",
            (since, since, limit),
        ).fetchall()
        return [_question(row) for row in rows]

    def waiting(self, tx: Tx, now: int) -> int:
        """How many wait."""
        row = tx.execute(
            "SELECT count(*) AS n FROM adv_questions WHERE state = 'waiting' AND expires > ?", (now,)
        ).fetchone()
        return int(row["n"])

    def end(self, tx: Tx, approval_id: str, state: QuestionState, now: int) -> bool:
        """Decide it; False when it was decided before."""
        done = tx.execute(
            "UPDATE adv_questions SET state = ?, decided = ? WHERE approval_id = ? AND state = 'waiting'",
            (state, now, approval_id),
        )
        return done.rowcount == 1

    def expire(self, tx: Tx, now: int) -> None:
        """Time is over for what nobody decided."""
        tx.execute(
            "UPDATE adv_questions SET state = 'expired', decided = ?"
            " WHERE state = 'waiting' AND expires <= ?",
            (now, now),
        )

    def forget(self, tx: Tx, client_id: str) -> int:
        """Erase the questions about a client's commands, while those are there; how many rows."""
        return int(
            tx.execute(
                "DELETE FROM adv_questions WHERE command_id IN"
                " (SELECT command_id FROM adv_commands WHERE client_id = ?)",
                (client_id,),
            ).rowcount
        )


def _question(row: sqlite3.Row) -> Question:
    return Question(
        approval_id=row["approval_id"],
        kind=row["kind"],
        origin=row["origin"],
        state=row["state"],
        expires=row["expires"],
        created=row["created"],
        command_id=row["command_id"],
        plan_hash=row["plan_hash"],
        object=row["object"],
        reason=row["reason"],
        decided=row["decided"],
    )
