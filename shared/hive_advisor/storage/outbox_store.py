"""adv_outbox: signed messages to nodes, until a relay took them."""

from __future__ import annotations

import sqlite3
from typing import Final

from hive_shared.store import Tx

from hive_advisor.domain.mail import OutMessage

_KEPT_S: Final = 7 * 86_400


class OutboxStore:
    """Messages under way. Methods join the caller's transaction."""

    def find(self, tx: Tx, client_id: str, name: str) -> OutMessage | None:
        """What was put under a name."""
        row = tx.execute(
            "SELECT * FROM adv_outbox WHERE client_id = ? AND name = ?", (client_id, name)
        ).fetchone()
        return None if row is None else _message(row)

    def next_seq(self, tx: Tx, client_id: str, area: str, least: int) -> int:
        """A number above all of ours to this node in this area, `least` or more."""
        row = tx.execute(
            "SELECT max(seq) AS seq FROM adv_outbox WHERE client_id = ? AND area = ?", (client_id, area)
        ).fetchone()
        return max((row["seq"] or 0) + 1, least)

    def add(self, tx: Tx, message: OutMessage, now: int) -> None:
        """Keep a message to be sent at once; those that ended a week ago are forgotten."""
        tx.execute(
            "INSERT INTO adv_outbox (msg_id, client_id, name, area, seq, sender, content, answers, state,"
            " next_send, expires_at, created) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'waiting', ?, ?, ?)",
            (
                message.msg_id,
                message.client_id,
                message.name,
                message.area,
                message.seq,
                message.sender,
                message.content,
                message.answers,
                now,
                message.expires_at,
                now,
            ),
        )
        # The newest of an area says which number comes next.
        tx.execute(
            "DELETE FROM adv_outbox WHERE expires_at < ? AND seq < (SELECT max(seq) FROM adv_outbox AS newer"
            " WHERE newer.client_id = adv_outbox.client_id AND newer.area = adv_outbox.area)",
            (now - _KEPT_S,),
        )

    def waiting(self, tx: Tx, now: int) -> list[str]:
        """The clients that messages are to be sent to now."""
        rows = tx.execute(
            "SELECT DISTINCT client_id FROM adv_outbox"
            " WHERE state = 'waiting' AND next_send <= ? AND expires_at > ? ORDER BY client_id",
            (now, now),
        )
        return [str(row["client_id"]) for row in rows]

    def due(self, tx: Tx, client_id: str, now: int, limit: int) -> list[OutMessage]:
        """Messages to send a client now, in the order in which they were put."""
        rows = tx.execute(
            "SELECT * FROM adv_outbox WHERE client_id = ? AND state = 'waiting' AND next_send <= ?"
            " AND expires_at > ? ORDER BY created, seq LIMIT ?",
            (client_id, now, now, limit),
        )
        return [_message(row) for row in rows]

    def tried(self, tx: Tx, msg_id: str, *, taken: bool, next_send: int) -> None:
        """A relay took it, or when to try again."""
        tx.execute(
            "UPDATE adv_outbox SET sends = sends + 1, state = ?, next_send = ? WHERE msg_id = ?",
            ("sent" if taken else "waiting", next_send, msg_id),
        )

    def again(self, tx: Tx, client_id: str, answers: str, now: int) -> int:
        """What was put in answer to a message goes out once more; how many."""
        return int(
            tx.execute(
                "UPDATE adv_outbox SET state = 'waiting', next_send = ? WHERE client_id = ? AND answers = ?"
                " AND expires_at > ?",
                (now, client_id, answers, now),
            ).rowcount
        )

    def forget(self, tx: Tx, client_id: str) -> int:
        """Erase what is kept of a client; how many rows."""
        return int(tx.execute("DELETE FROM adv_outbox WHERE client_id = ?", (client_id,)).rowcount)


def _message(row: sqlite3.Row) -> OutMessage:
    return OutMessage(
        msg_id=row["msg_id"],
        client_id=row["client_id"],
        name=row["name"],
        area=row["area"],
        seq=row["seq"],
        sender=row["sender"],
        content=row["content"],
        answers=row["answers"],
        sends=row["sends"],
        expires_at=row["expires_at"],
    )
