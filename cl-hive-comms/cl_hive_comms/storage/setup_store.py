"""Sole writer of comms_setup (docs/protocol/08-client-and-plugins.md §5.3)."""

from __future__ import annotations

import sqlite3

import msgspec
from hive_shared.store import Tx

from cl_hive_comms.domain.setup import Answers, Part, Session, State, Step

_LIVE = "state IN ('open', 'applying')"


class SetupStore:
    """Sessions; at most one of them is open or being applied."""

    def add(self, tx: Tx, session: Session) -> None:
        """Insert a session. Raises sqlite3.IntegrityError when another one is open."""
        tx.execute(
            "INSERT INTO comms_setup (session_id, created_at, state, step, answers_json, report_json,"
            " updated_at, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (session.session_id, session.created_at, *_changeable(session)),
        )

    def save(self, tx: Tx, session: Session) -> None:
        """Store everything that can change."""
        tx.execute(
            "UPDATE comms_setup SET state = ?, step = ?, answers_json = ?, report_json = ?, updated_at = ?,"
            " expires_at = ? WHERE session_id = ?",
            (*_changeable(session), session.session_id),
        )

    def get(self, tx: Tx, session_id: str) -> Session | None:
        """The session of that id."""
        row = tx.execute("SELECT * FROM comms_setup WHERE session_id = ?", (session_id,)).fetchone()
        return None if row is None else _session(row)

    def current(self, tx: Tx) -> Session | None:
        """The session that is open or being applied."""
        row = tx.execute(f"SELECT * FROM comms_setup WHERE {_LIVE}").fetchone()
        return None if row is None else _session(row)

    def forget(self, tx: Tx, until: int) -> None:
        """Delete sessions that ended and were last touched before that moment."""
        tx.execute(f"DELETE FROM comms_setup WHERE updated_at < ? AND NOT {_LIVE}", (until,))


def _changeable(session: Session) -> tuple[object, ...]:
    return (
        session.state.value,
        session.step.value,
        session.answers.to_text(),
        msgspec.json.encode(session.report).decode(),
        session.updated_at,
        session.expires_at,
    )


def _session(row: sqlite3.Row) -> Session:
    return Session(
        session_id=row["session_id"],
        state=State(row["state"]),
        step=Step(row["step"]),
        answers=Answers.from_text(row["answers_json"]),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        expires_at=row["expires_at"],
        report=msgspec.json.decode(row["report_json"], type=tuple[Part, ...]),
    )
