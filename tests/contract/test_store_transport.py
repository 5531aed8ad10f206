"""The outbox and inbox stores on a real file."""

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from cl_hive_comms.domain.outbox import MessageKind, Outgoing, Seen
from cl_hive_comms.storage.transport_store import InboxStore, OutboxStore
from hive_shared.crypto import Sealer, Secret
from hive_shared.store import Db

MIGRATIONS = Path(__file__).parents[2] / "cl-hive-comms" / "cl_hive_comms" / "storage" / "migrations"


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Db]:
    opened = Db.open(tmp_path / "comms.db", MIGRATIONS)
    yield opened
    opened.close()


@pytest.fixture
def outbox() -> OutboxStore:
    return OutboxStore(Sealer({1: Secret(bytes(32))}, 1))


def message(key: str, kind: MessageKind = MessageKind.PUSH, at: int = 100) -> Outgoing:
    return Outgoing(
        key, "aa" * 32, "bb" * 32, kind, f"text of {key}", at, at + 1_000, ("wss://r.example",), "e1"
    )


async def test_a_message_comes_back_as_it_was_stored(db: Db, outbox: OutboxStore) -> None:
    assert await db.write(lambda tx: outbox.add(tx, message("k")))
    (queued,) = await db.read(lambda tx: outbox.due(tx, 100, 10))
    assert queued.message == message("k")
    assert queued.attempts == 0


async def test_the_text_is_not_readable_in_the_file(db: Db, outbox: OutboxStore, tmp_path: Path) -> None:
    await db.write(lambda tx: outbox.add(tx, message("k")))
    db.close()
    assert b"text of k" not in (tmp_path / "comms.db").read_bytes()


async def test_the_same_key_is_stored_once(db: Db, outbox: OutboxStore) -> None:
    assert await db.write(lambda tx: outbox.add(tx, message("k")))
    assert not await db.write(lambda tx: outbox.add(tx, message("k")))
    assert await db.read(outbox.queued_count) == 1


async def test_a_failed_message_is_due_again_later_and_a_sent_one_never(db: Db, outbox: OutboxStore) -> None:
    await db.write(lambda tx: (outbox.add(tx, message("a")), outbox.add(tx, message("b"))))
    first, second = await db.read(lambda tx: outbox.due(tx, 100, 10))
    await db.write(lambda tx: outbox.mark_failed(tx, first.outbox_id, attempts=1, next_at=130, error="down"))
    await db.write(lambda tx: outbox.mark_sent(tx, second.outbox_id, 101))
    assert await db.read(lambda tx: outbox.due(tx, 129, 10)) == []
    assert await db.read(outbox.next_due) == 130
    (again,) = await db.read(lambda tx: outbox.due(tx, 130, 10))
    assert (again.message.idempotency_key, again.attempts) == ("a", 1)
    assert await db.read(outbox.last_sent) == 101


async def test_full_queue_gives_up_the_oldest_of_the_least_important_kind(
    db: Db, outbox: OutboxStore
) -> None:
    await db.write(lambda tx: outbox.add(tx, message("response", MessageKind.RESPONSE)))
    await db.write(lambda tx: outbox.add(tx, message("push-1")))
    await db.write(lambda tx: outbox.add(tx, message("push-2")))
    assert await db.write(lambda tx: outbox.drop_oldest(tx, [MessageKind.PUSH, MessageKind.RESPONSE], 200))
    left = await db.read(lambda tx: outbox.due(tx, 200, 10))
    assert [row.message.idempotency_key for row in left] == ["response", "push-2"]
    assert await db.read(outbox.counts) == {"queued": 2, "dropped": 1}


async def test_expired_messages_are_given_up_and_pruned(db: Db, outbox: OutboxStore) -> None:
    await db.write(lambda tx: outbox.add(tx, message("k")))
    assert await db.write(lambda tx: outbox.expire(tx, 1_099)) == 0
    assert await db.write(lambda tx: outbox.expire(tx, 1_100)) == 1
    await db.write(lambda tx: outbox.prune(tx, 1_101))
    assert await db.read(outbox.counts) == {}


async def test_inbox_ids_are_remembered_once_and_forgotten_by_age(db: Db) -> None:
    inbox = InboxStore()
    row = Seen("aa" * 32, "m1", "w1", "hive:monitor/v1", 100)
    await db.write(lambda tx: inbox.remember(tx, [row, row]))
    await db.write(lambda tx: inbox.remember(tx, [Seen("aa" * 32, "m2", None, "x", 200)]))
    assert await db.read(lambda tx: inbox.recent_ids(tx, 0, 10)) == ["m1", "w1", "m2"]
    await db.write(lambda tx: inbox.prune_seen(tx, 150))
    assert await db.read(lambda tx: inbox.recent_ids(tx, 0, 10)) == ["m2"]


async def test_what_waited_before_transports_could_be_registered_still_waits(tmp_path: Path) -> None:
    """Migration 0013 makes the outbox anew."""
    before = tmp_path / "before"
    before.mkdir()
    for file in MIGRATIONS.glob("*.sql"):
        if int(file.name[:4]) < 13:
            shutil.copy(file, before)
    sealer = Sealer({1: Secret(bytes(32))}, 1)
    old = Db.open(tmp_path / "old.db", before)

    def fill(tx: sqlite3.Connection) -> None:
        for number, (key, state) in enumerate((("a", "queued"), ("b", "sent"), ("c", "expired")), start=3):
            tx.execute(
                "INSERT INTO comms_outbox (outbox_id, idempotency_key, sender, recipient, kind, content_enc,"
                " reply_to, relays_json, state, attempts, next_at, created_at, expires_at, sent_at,"
                " last_error) VALUES (?, ?, ?, ?, 'push', ?, 'e1', '[\"wss://r.example\"]', ?, 2, 130, 100,"
                " 1100, ?, 'no')",
                (
                    number,
                    key,
                    "aa" * 32,
                    "bb" * 32,
                    sealer.seal("comms_outbox", key, "content_enc", f"text of {key}".encode()),
                    state,
                    105 if state == "sent" else None,
                ),
            )

    await old.write(fill)
    rows = await old.read(lambda tx: [dict(r) for r in tx.execute("SELECT * FROM comms_outbox")])
    old.close()
    new = Db.open(tmp_path / "old.db", MIGRATIONS)
    outbox = OutboxStore(sealer)
    after = await new.read(lambda tx: [dict(r) for r in tx.execute("SELECT * FROM comms_outbox")])
    later = ("transport", "chunk_id")
    assert [{k: v for k, v in row.items() if k not in later} for row in after] == rows
    (waiting,) = await new.read(lambda tx: outbox.due(tx, 130, 10))
    assert waiting.message == message("a") and waiting.attempts == 2 and waiting.message.transport == ""
    # One key is one message still, and new kinds are taken.
    assert not await new.write(lambda tx: outbox.add(tx, message("b")))
    assert await new.write(lambda tx: outbox.add(tx, message("d", MessageKind.EVENT)))
    new.close()


async def test_a_message_in_parts_is_found_by_its_recipient_and_id(db: Db, outbox: OutboxStore) -> None:
    def long(key: str, recipient: str = "bb" * 32, kind: MessageKind = MessageKind.RESPONSE) -> Outgoing:
        return Outgoing(key, "aa" * 32, recipient, kind, "x" * 40_000, 100, 1_100)

    name = long("a").chunk_id
    assert name is not None and message("k").chunk_id is None
    assert long("e", kind=MessageKind.EVENT).chunk_id is None

    async def found(recipient: str = "bb" * 32, now: int = 500) -> str | None:
        sent = await db.read(lambda tx: outbox.long_sent(tx, recipient, name, now))
        return None if sent is None else sent.idempotency_key

    assert await found() is None
    await db.write(lambda tx: [outbox.add(tx, each) for each in (long("a"), message("k"), long("b"))])
    # The newest of the same text; to its recipient alone, and while anybody needs it.
    assert await found() == "b" and await found("cc" * 32) is None and await found(now=1_100) is None
    await db.write(lambda tx: outbox.mark_sent(tx, 3, 200))
    assert await found() == "b"
    await db.write(lambda tx: tx.execute("UPDATE comms_outbox SET state = 'dropped' WHERE outbox_id = 3"))
    assert await found() == "a"
    plan = await db.read(
        lambda tx: tx.execute(
            "EXPLAIN QUERY PLAN SELECT * FROM comms_outbox WHERE recipient = ? AND chunk_id = ?"
            " AND state IN ('queued', 'sent') AND expires_at > ? ORDER BY outbox_id DESC LIMIT 1",
            ("b", "c", 1),
        ).fetchall()
    )
    assert any("comms_outbox_chunks" in row["detail"] for row in plan), [row["detail"] for row in plan]
