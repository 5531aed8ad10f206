"""SQL of comms_outbox and comms_inbox."""

import json
import sqlite3
from collections.abc import Collection, Sequence

from hive_shared.crypto import Sealer

from cl_hive_comms.domain.outbox import Kept, MessageKind, Outgoing, Queued, Seen


class OutboxStore:
    """Messages to send. The text is sealed: a credential offer carries a rune."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def add(self, tx: sqlite3.Connection, message: Outgoing) -> bool:
        """Stores a message, due at once; False when its idempotency key is there already."""
        sealed = self._sealer.seal(
            "comms_outbox", message.idempotency_key, "content_enc", message.content.encode()
        )
        cursor = tx.execute(
            "INSERT INTO comms_outbox (idempotency_key, sender, recipient, kind, content_enc, reply_to,"
            " relays_json, transport, next_at, created_at, expires_at, chunk_id)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (idempotency_key) DO NOTHING",
            (
                message.idempotency_key,
                message.sender,
                message.recipient,
                message.kind.value,
                sealed,
                message.reply_to,
                json.dumps(message.reply_relays),
                message.transport,
                message.created_at,
                message.created_at,
                message.expires_at,
                message.chunk_id,
            ),
        )
        return cursor.rowcount == 1

    def long_sent(self, tx: sqlite3.Connection, recipient: str, chunk_id: str, now: int) -> Outgoing | None:
        """The newest message that went to a peer in parts of this id, wholly or so far; None when there is
        none that anybody still needs."""
        row = tx.execute(
            "SELECT * FROM comms_outbox WHERE recipient = ? AND chunk_id = ? AND state IN ('queued', 'sent')"
            " AND expires_at > ? ORDER BY outbox_id DESC LIMIT 1",
            (recipient, chunk_id, now),
        ).fetchone()
        return None if row is None else self._queued(row).message

    def find(self, tx: sqlite3.Connection, idempotency_key: str) -> tuple[Outgoing, str] | None:
        """A message by its key, with its state."""
        row = tx.execute(
            "SELECT * FROM comms_outbox WHERE idempotency_key = ?", (idempotency_key,)
        ).fetchone()
        return None if row is None else (self._queued(row).message, str(row["state"]))

    def queued_count(self, tx: sqlite3.Connection) -> int:
        """How many messages wait."""
        (count,) = tx.execute("SELECT count(*) FROM comms_outbox WHERE state = 'queued'").fetchone()
        return int(count)

    def queued_for(self, tx: sqlite3.Connection, recipient: str) -> int:
        """How many messages wait for one recipient."""
        (count,) = tx.execute(
            "SELECT count(*) FROM comms_outbox WHERE state = 'queued' AND recipient = ?", (recipient,)
        ).fetchone()
        return int(count)

    def drop_oldest(
        self, tx: sqlite3.Connection, kinds: Sequence[MessageKind], now: int, recipient: str | None = None
    ) -> bool:
        """Gives up the oldest waiting message (of a recipient) of the first kind that has one; False when
        none has."""
        for kind in kinds:
            row = tx.execute(
                "SELECT outbox_id FROM comms_outbox WHERE state = 'queued' AND kind = ?1"
                " AND (?2 IS NULL OR recipient = ?2) ORDER BY outbox_id LIMIT 1",
                (kind.value, recipient),
            ).fetchone()
            if row is not None:
                tx.execute(
                    "UPDATE comms_outbox SET state = 'dropped', sent_at = ?, last_error = 'queue full'"
                    " WHERE outbox_id = ?",
                    (now, row["outbox_id"]),
                )
                return True
        return False

    def due(
        self, tx: sqlite3.Connection, now: int, limit: int, *, each: int = 1_000, but: Collection[str] = ()
    ) -> list[Queued]:
        """Waiting messages whose time has come, oldest first: at most `each` per recipient, none for those
        in `but`."""
        rows = tx.execute(
            "SELECT * FROM comms_outbox WHERE outbox_id IN (SELECT outbox_id FROM"
            " (SELECT outbox_id, row_number() OVER (PARTITION BY recipient ORDER BY outbox_id) AS place"
            " FROM comms_outbox WHERE state = 'queued' AND next_at <= ?"
            " AND recipient NOT IN (SELECT value FROM json_each(?)))"
            " WHERE place <= ? ORDER BY outbox_id LIMIT ?) ORDER BY outbox_id",
            (now, json.dumps(list(but)), each, limit),
        ).fetchall()
        return [self._queued(row) for row in rows]

    def next_due(self, tx: sqlite3.Connection) -> int | None:
        """When the next waiting message is due, or None."""
        (when,) = tx.execute("SELECT min(next_at) FROM comms_outbox WHERE state = 'queued'").fetchone()
        return None if when is None else int(when)

    def retry_now(self, tx: sqlite3.Connection, now: int) -> int:
        """Makes every waiting message due; how many were not."""
        return tx.execute(
            "UPDATE comms_outbox SET next_at = ?1 WHERE state = 'queued' AND next_at > ?1", (now,)
        ).rowcount

    def retry_over(self, tx: sqlite3.Connection, transport: str, now: int) -> int:
        """Makes what waits for a registered transport due; how many were not."""
        return tx.execute(
            "UPDATE comms_outbox SET next_at = ?1 WHERE state = 'queued' AND next_at > ?1 AND transport = ?2",
            (now, transport),
        ).rowcount

    def mark_sent(self, tx: sqlite3.Connection, outbox_id: int, now: int) -> None:
        """A relay took it."""
        tx.execute(
            "UPDATE comms_outbox SET state = 'sent', sent_at = ?, attempts = attempts + 1, last_error = NULL"
            " WHERE outbox_id = ? AND state = 'queued'",
            (now, outbox_id),
        )

    def mark_failed(
        self, tx: sqlite3.Connection, outbox_id: int, *, attempts: int, next_at: int, error: str
    ) -> None:
        """No relay took it; try again at `next_at`."""
        tx.execute(
            "UPDATE comms_outbox SET attempts = ?, next_at = ?, last_error = ?"
            " WHERE outbox_id = ? AND state = 'queued'",
            (attempts, next_at, error[:500], outbox_id),
        )

    def expire(self, tx: sqlite3.Connection, now: int) -> int:
        """Gives up what nobody needs any more; how many."""
        return tx.execute(
            "UPDATE comms_outbox SET state = 'expired', sent_at = ?"
            " WHERE state = 'queued' AND expires_at <= ?",
            (now, now),
        ).rowcount

    def prune(self, tx: sqlite3.Connection, before: int) -> None:
        """Removes finished messages of before a time."""
        tx.execute("DELETE FROM comms_outbox WHERE state <> 'queued' AND sent_at < ?", (before,))

    def counts(self, tx: sqlite3.Connection) -> dict[str, int]:
        """Messages per state."""
        rows = tx.execute("SELECT state, count(*) AS n FROM comms_outbox GROUP BY state").fetchall()
        return {row["state"]: row["n"] for row in rows}

    def waiting(self, tx: sqlite3.Connection) -> dict[str, int]:
        """Messages that wait for each registered transport."""
        rows = tx.execute(
            "SELECT transport, count(*) AS n FROM comms_outbox WHERE state = 'queued' AND transport <> ''"
            " GROUP BY transport"
        ).fetchall()
        return {row["transport"]: row["n"] for row in rows}

    def last_sent(self, tx: sqlite3.Connection) -> int | None:
        """When a relay last took a message."""
        (when,) = tx.execute("SELECT max(sent_at) FROM comms_outbox WHERE state = 'sent'").fetchone()
        return None if when is None else int(when)

    def _queued(self, row: sqlite3.Row) -> Queued:
        content = self._sealer.open("comms_outbox", row["idempotency_key"], "content_enc", row["content_enc"])
        message = Outgoing(
            idempotency_key=row["idempotency_key"],
            sender=row["sender"],
            recipient=row["recipient"],
            kind=MessageKind(row["kind"]),
            content=content.decode(),
            created_at=row["created_at"],
            expires_at=row["expires_at"],
            reply_relays=tuple(json.loads(row["relays_json"])),
            reply_to=row["reply_to"],
            transport=row["transport"],
        )
        return Queued(row["outbox_id"], message, row["attempts"])


class InboxStore:
    """Ids of messages that were handled, and messages a transport handed in until they are.

    Only these need `sealer`: their text stands in the file.
    """

    def __init__(self, sealer: Sealer | None = None) -> None:
        self._sealer = sealer

    def keep(self, tx: sqlite3.Connection, row: Kept) -> bool:
        """Stores a message to be handled; False when it is known."""
        assert self._sealer is not None
        sealed = self._sealer.seal(
            "comms_inbox", f"{row.sender_key}:{row.msg_id}", "content_enc", row.content.encode()
        )
        cursor = tx.execute(
            "INSERT INTO comms_inbox (sender_key, msg_id, schema, state, received_at, transport, sender_did,"
            " content_enc) VALUES (?, ?, '', 'queued', ?, ?, ?, ?)"
            " ON CONFLICT (sender_key, msg_id) DO NOTHING",
            (row.sender_key, row.msg_id, row.received_at, row.transport, row.sender_did, sealed),
        )
        return cursor.rowcount == 1

    def kept(self, tx: sqlite3.Connection, limit: int) -> list[Kept]:
        """Messages that are not handled yet, oldest first."""
        assert self._sealer is not None
        found = []
        for row in tx.execute(
            "SELECT * FROM comms_inbox WHERE state = 'queued' ORDER BY received_at, msg_id LIMIT ?", (limit,)
        ):
            content = self._sealer.open(
                "comms_inbox", f"{row['sender_key']}:{row['msg_id']}", "content_enc", row["content_enc"]
            )
            found.append(
                Kept(
                    row["sender_key"],
                    row["msg_id"],
                    row["transport"],
                    row["sender_did"],
                    content.decode(),
                    row["received_at"],
                )
            )
        return found

    def settle(self, tx: sqlite3.Connection, sender_key: str, msg_id: str, schema: str, state: str) -> None:
        """A kept message was handled, or dropped: its text goes, its id stays."""
        tx.execute(
            "UPDATE comms_inbox SET state = ?, schema = ?, content_enc = NULL"
            " WHERE sender_key = ? AND msg_id = ? AND state = 'queued'",
            (state, schema, sender_key, msg_id),
        )

    def remember(self, tx: sqlite3.Connection, rows: Sequence[Seen]) -> None:
        """Stores ids; known ones stay as they are."""
        tx.executemany(
            "INSERT INTO comms_inbox (sender_key, msg_id, wrap_id, schema, state, received_at)"
            " VALUES (?, ?, ?, ?, 'handled', ?) ON CONFLICT (sender_key, msg_id) DO NOTHING",
            [(row.sender_key, row.msg_id, row.wrap_id, row.schema, row.received_at) for row in rows],
        )

    def recent_ids(self, tx: sqlite3.Connection, since: int, limit: int) -> list[str]:
        """Message and wrap ids received since a time, oldest first."""
        rows = tx.execute(
            "SELECT msg_id, wrap_id FROM comms_inbox WHERE received_at >= ?"
            " ORDER BY received_at DESC LIMIT ?",
            (since, limit),
        ).fetchall()
        ids = [name for row in reversed(rows) for name in (row["msg_id"], row["wrap_id"])]
        return [name for name in ids if name]

    def prune_seen(self, tx: sqlite3.Connection, before: int) -> None:
        """Forgets ids received before a time."""
        tx.execute("DELETE FROM comms_inbox WHERE received_at < ? AND state <> 'queued'", (before,))
