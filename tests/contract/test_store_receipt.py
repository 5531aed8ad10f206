"""The receipt chain on a real SQLite file (docs/protocol/02-fleet-management.md §9, §15.16)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from cl_hive_comms.domain.receipt_record import AckRow, ReceiptQuery, ReceiptRow, RootRow
from cl_hive_comms.storage import receipt_store
from cl_hive_comms.storage.receipt_store import ReceiptStore
from hive_shared.store import Db

MIGRATIONS = Path(receipt_store.__file__).parent / "migrations"


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Db]:
    opened = Db.open(tmp_path / "comms.db", MIGRATIONS)
    yield opened
    opened.close()


def receipt(number: int, advisor: str = "adv", schema: str = "hive:fee-policy/v1") -> ReceiptRow:
    document = f'{{"created_at":{number * 100},"receipt_id":{number},"schema":"{schema}"}}'
    hashed, before = f"{number:064x}", f"{number - 1:064x}"
    return ReceiptRow(
        number,
        advisor,
        document,
        hashed,
        "ab" * 64,
        before,
        number * 100,
        schema,
        "set_single",
        "success",
        f"c{number}",
    )


async def test_ids_are_gapless(db: Db) -> None:
    store = ReceiptStore()
    with pytest.raises(sqlite3.IntegrityError, match="gapless"):
        await db.write(lambda tx: store.append(tx, receipt(2)))
    await db.write(lambda tx: store.append(tx, receipt(1)))
    with pytest.raises(sqlite3.IntegrityError):
        await db.write(lambda tx: store.append(tx, receipt(1)))
    await db.write(lambda tx: store.append(tx, receipt(2)))
    assert await db.read(store.head) == receipt(2)


@pytest.mark.parametrize(
    "sql", ["UPDATE management_receipts SET document = '{}'", "DELETE FROM management_receipts"]
)
async def test_acceptance_02_16_update_and_delete_of_a_receipt_fail(db: Db, sql: str) -> None:
    store = ReceiptStore()
    await db.write(lambda tx: store.append(tx, receipt(1)))
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        await db.write(lambda tx: tx.execute(sql))
    assert await db.read(lambda tx: store.get(tx, 1)) == receipt(1)


async def test_listing_filters_and_pages_newest_first(db: Db) -> None:
    store = ReceiptStore()
    rows = [receipt(1), receipt(2, "other"), receipt(3, schema="hive:monitor/v1"), receipt(4), receipt(5)]
    for r in rows:
        await db.write(lambda tx, r=r: store.append(tx, r))

    async def ids(query: ReceiptQuery) -> list[int]:
        return [r.receipt_id for r in await db.read(lambda tx: store.find(tx, query))]

    assert await ids(ReceiptQuery()) == [5, 4, 3, 2, 1]
    assert await ids(ReceiptQuery(advisor_id="adv", limit=2)) == [5, 4]
    assert await ids(ReceiptQuery(advisor_id="adv", before_id=4)) == [3, 1]
    assert await ids(ReceiptQuery(schema="hive:monitor/v1")) == [3]
    assert await ids(ReceiptQuery(since=200, until=500)) == [4, 3, 2]
    assert [r.receipt_id for r in await db.read(lambda tx: list(store.walk(tx, 2, 4)))] == [2, 3, 4]
    assert [r.receipt_id for r in await db.read(lambda tx: store.after(tx, 3, 10))] == [4, 5]
    assert await db.read(lambda tx: store.hashes(tx, 1, 2)) == [f"{1:064x}", f"{2:064x}"]
    assert await db.read(lambda tx: store.span(tx, 1, 400)) == (2, 3)
    assert await db.read(lambda tx: store.span(tx, 5, 10_000)) is None


async def test_a_period_has_one_root_and_an_agent_one_acknowledgement(db: Db) -> None:
    store = ReceiptStore()
    await db.write(lambda tx: store.append(tx, receipt(1)))
    root = RootRow("hour", 3_600, 1, 1, 1, "cc" * 32, "dd" * 32, "ee" * 64, "zbase")
    assert await db.write(lambda tx: store.add_root(tx, root))
    assert not await db.write(lambda tx: store.add_root(tx, root))
    assert await db.read(lambda tx: store.last_root(tx, "hour")) == root
    assert await db.read(lambda tx: store.roots(tx, 0, 10)) == (root,)
    ack = AckRow(1, "aa" * 32, "ff" * 64, 5)
    assert await db.write(lambda tx: store.add_ack(tx, ack))
    assert not await db.write(lambda tx: store.add_ack(tx, ack))
    assert await db.read(lambda tx: store.acks(tx, 1)) == (ack,)
