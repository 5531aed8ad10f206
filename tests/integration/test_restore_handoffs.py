"""Handoffs between advisors in a backup (docs/decisions/0254-handoff-between-hired-advisors.md, 0313)."""

from __future__ import annotations

from pathlib import Path

import pytest
from backup_world import WORD, BackupWorld
from cl_hive_comms.services.advisor_service import Hire
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.errors import HiveError

DAY = 86_400
KEYS = [xonly_pubkey(Secret(bytes([number]) * 32)) for number in (0x22, 0x23, 0x24)]


async def started(directory: Path, *, days: int = 0, channels: BackupWorld | None = None) -> BackupWorld:
    directory.mkdir()
    world = BackupWorld(directory, None if channels is None else channels.channels)
    world.now += days * DAY
    await world.start()
    return world


async def handing_over(directory: Path) -> tuple[BackupWorld, list[str]]:
    """Three advisors, of whom the first hands over to the second in four days."""
    world = await started(directory)
    for key in KEYS:
        await world.service.authorize(Hire(key, "fees"))
    ids = [advisor.advisor_id for advisor in world.credentials.advisors()]
    await begin(world, ids[0], ids[1])
    return world, ids


async def begin(world: BackupWorld, outgoing: str, incoming: str) -> None:
    first, second = world.credentials.advisor(outgoing), world.credentials.advisor(incoming)
    assert first is not None and second is not None
    await world.handoffs.start(first, second, 4)


def may(world: BackupWorld, advisor_id: str) -> bool:
    try:
        world.handoffs.check_write(advisor_id)
    except HiveError as error:
        assert error.symbol == "permission_denied"
        return False
    return True


@pytest.mark.parametrize(("days", "works"), [(1, [True, False]), (3, [False, True])])
async def test_a_handoff_goes_on_where_it_was_by_then(tmp_path: Path, days: int, works: list[bool]) -> None:
    world, ids = await handing_over(tmp_path / "node")
    before = [row for row in await world.rows("comms_state") if row["key"].startswith("handoff:")]
    await world.backups.backup(tmp_path / "a.backup", WORD)
    world.db.close()
    fresh = await started(tmp_path / "new", days=days)
    done = await fresh.restored(tmp_path / "a.backup")
    assert "handoffs that go on: 1 of 1" in done["credentials"].note
    after = [row for row in await fresh.rows("comms_state") if row["key"].startswith("handoff:")]
    assert [row["value"] for row in after] == [row["value"] for row in before]
    # Memory follows at once, and it is the same after a restart.
    assert [may(fresh, each) for each in ids[:2]] == works
    await fresh.restart()
    await fresh.handoffs.load()
    assert [may(fresh, each) for each in ids[:2]] == works and may(fresh, ids[2])
    again = await fresh.restored(tmp_path / "a.backup")
    assert "not begun again" in again["credentials"].note
    fresh.db.close()


async def test_one_that_is_over_ends_as_it_would_have(tmp_path: Path) -> None:
    """Without it the first advisor would be back for good."""
    world, ids = await handing_over(tmp_path / "node")
    await world.backups.backup(tmp_path / "a.backup", WORD)
    world.db.close()
    fresh = await started(tmp_path / "new", days=5)
    await fresh.restored(tmp_path / "a.backup")
    assert not may(fresh, ids[0])
    await fresh.handoffs.settle()
    assert [fresh.credentials.active_of(each) is not None for each in ids] == [False, True, True]
    assert [row["action"] for row in await fresh.rows("management_receipts")].count("handoff_end") == 1
    fresh.db.close()


async def test_what_ended_or_began_here_since_stays_as_it_is(tmp_path: Path) -> None:
    world, ids = await handing_over(tmp_path / "node")
    await world.backups.backup(tmp_path / "a.backup", WORD)
    await world.service.revoke(ids[1], "another plan")
    await world.handoffs.settle()
    await begin(world, ids[2], ids[0])
    for replace in (False, True):
        done = await world.restored(tmp_path / "a.backup", replace=replace)
        assert ("0 of 1" in done["credentials"].note) is replace
        handoffs = [row for row in await world.rows("comms_state") if row["key"].startswith("handoff:")]
        assert [row["key"] for row in handoffs] == [f"handoff:{ids[2]}"]
    world.db.close()


async def test_without_its_advisors_there_is_no_handoff(tmp_path: Path) -> None:
    world, _ = await handing_over(tmp_path / "node")
    await world.backups.backup(tmp_path / "a.backup", WORD)
    fresh = await started(tmp_path / "new")
    for _ in range(500):
        next(fresh.random)
    # The outgoing one was authorised anew there and keeps that, under another id.
    await fresh.service.authorize(Hire(KEYS[0], "fees"))
    await fresh.restored(tmp_path / "a.backup", components=["credentials"], replace=True)
    handoffs = [row for row in await fresh.rows("comms_state") if row["key"].startswith("handoff:")]
    assert handoffs == [] and may(fresh, fresh.credentials.advisors()[0].advisor_id)
    world.db.close()
    fresh.db.close()
