"""Locks of fleet tickets as cl-hive stores them (docs/protocol/03-escrow-and-payments.md §8)."""

from __future__ import annotations

from pathlib import Path

from cl_hive.domain.fleet_escrow import FleetLock
from cl_hive.storage.fleet_lock_store import FleetLockStore
from cl_hive.storage.meta_store import MIGRATIONS
from hive_shared.cashu.lock_machine import LockState
from hive_shared.store import Db

NEVER = 9_999_999_999


async def test_locks_that_ended_are_asked_about_however_many_stand(tmp_path: Path) -> None:
    store, db = FleetLockStore(), Db.open(tmp_path / "hive.db", MIGRATIONS)

    def lock(name: str, state: LockState, next_at: int) -> FleetLock:
        return FleetLock(name, f"t-{name}", f"h-{name}", 0, 0, "payer", 1_000, state, next_at, 1, 1)

    rows = [
        *(lock(f"stands {number}", LockState.DELIVERED, number) for number in range(3)),
        lock("took back", LockState.REFUNDED, 5),
        lock("later", LockState.REDEEMED, 900),
        lock("no more", LockState.LOST, NEVER),
    ]
    await db.write(lambda tx: [store.add(tx, row) for row in rows])
    due = await db.read(lambda tx: [row.lock_id for row in store.due(tx, 100, 2)])
    assert due == ["stands 0", "stands 1", "took back"]
    await db.write(lambda tx: store.look_now(tx, ["later"]))
    await db.write(lambda tx: store.put_off(tx, "took back", NEVER))
    due = await db.read(lambda tx: [row.lock_id for row in store.due(tx, 100, 9)])
    assert due == ["stands 0", "stands 1", "stands 2", "later"]
    assert await db.read(store.anything_open)
    await db.write(lambda tx: [store.put_off(tx, row.lock_id, NEVER) for row in rows])
    await db.write(lambda tx: tx.execute("UPDATE escrow_locks SET state = 'redeemed'"))
    assert not await db.read(store.anything_open)
    db.close()
