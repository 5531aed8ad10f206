"""A restore never lifts an emergency stop or a freeze; one that was on when the backup was made is on again
(docs/protocol/08-client-and-plugins.md §6, §8.4; docs/decisions/0312-a-restore-never-lifts-a-stop.md)."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest
from backup_world import WORD, BackupWorld
from cl_hive_comms.services.advisor_service import Hire
from hive_shared.crypto import Secret, xonly_pubkey

AGENT = xonly_pubkey(Secret(b"\x03" * 32))
BEFORE = [(1, 990), (0, 880)]
FROZEN = [(1, 1), (0, 1)]


async def started(directory: Path, like: BackupWorld | None = None) -> BackupWorld:
    """A node; with `like` the same one on a new disk."""
    directory.mkdir()
    world = BackupWorld(directory, None if like is None else like.channels)
    if like is not None:
        world.now = like.now + 60
    await world.start()
    await world.kill_switch.load()
    await world.policy.load("moderate", "")
    return world


async def receipts(world: BackupWorld, action: str) -> int:
    return sum(row["action"] == action for row in await world.rows("management_receipts"))


async def release(world: BackupWorld) -> None:
    await world.emergency.release((await world.emergency.status())["release"]["token"])


@pytest.mark.parametrize("mode", ["merge", "replace"])
async def test_a_frozen_node_on_a_new_disk_stays_frozen_until_its_release(tmp_path: Path, mode: str) -> None:
    world = await started(tmp_path / "node")
    await world.service.authorize(Hire(AGENT, "fees"))
    await world.emergency.engage("theft", freeze_forwarding=True)
    assert world.channels.bounds() == FROZEN
    await world.backups.backup(tmp_path / "a.backup", WORD)
    world.db.close()

    fresh = await started(tmp_path / "new", world)
    calls = fresh.channels.calls
    shown = await fresh.restored(tmp_path / "a.backup", dry_run=True, replace=mode == "replace")
    assert not fresh.kill_switch.engaged() and await fresh.rows("comms_alerts") == []
    done = await fresh.restored(tmp_path / "a.backup", replace=mode == "replace")
    assert done == shown
    note = done["channels"].note
    assert "theft" in note and "2 channels that a stop had frozen stay frozen" in note
    assert (done["channels"].found, done["channels"].restored) == (3, 3)
    # The credentials are back, and of no use until the operator releases the stop.
    assert fresh.credentials.advisors() and fresh.kill_switch.engaged()
    assert [stop is not None and stop.freeze for stop in fresh.announced] == [True]
    assert await receipts(fresh, "emergency_engage") == 2, "that of then, and that of the restore"
    assert [row["code"] for row in await fresh.rows("comms_alerts")].count("emergency_stop") == 1
    await fresh.freeze.settle()
    await fresh.restart(seconds=60)
    await fresh.kill_switch.load()
    await fresh.emergency.watch()
    await fresh.freeze.settle()
    assert (fresh.channels.bounds(), fresh.channels.calls) == (FROZEN, calls)
    await release(fresh)
    assert fresh.channels.bounds() == BEFORE
    # Released after the backup: a merge does not engage it again, mode=replace does.
    again = await fresh.restored(tmp_path / "a.backup")
    assert not fresh.kill_switch.engaged() and "is not engaged" in again["channels"].note
    assert fresh.channels.bounds() == BEFORE
    fresh.db.close()


async def test_a_stop_without_freeze_is_on_again(tmp_path: Path) -> None:
    world = await started(tmp_path / "node")
    await world.service.authorize(Hire(AGENT, "fees"))
    await world.emergency.engage()
    await world.backups.backup(tmp_path / "a.backup", WORD)
    world.db.close()
    fresh = await started(tmp_path / "new", world)
    left = await fresh.restored(tmp_path / "a.backup", skip=["channels"], dry_run=True)
    assert "the part channels, which is left out" in left["credentials"].note
    done = await fresh.restored(tmp_path / "a.backup")
    assert "left out" not in done["credentials"].note
    assert fresh.kill_switch.engaged() and fresh.channels.bounds() == BEFORE
    assert "it was on when the backup was made" in done["channels"].note
    await release(fresh)
    # Asked to take the backup as it is, it is on once more.
    await fresh.restored(tmp_path / "a.backup", replace=True)
    assert fresh.kill_switch.engaged()
    fresh.db.close()


@pytest.mark.parametrize(("mode", "by"), [("merge", "file"), ("replace", "call")])
async def test_a_stop_that_is_on_here_stays_whatever_the_backup_says(
    tmp_path: Path, mode: str, by: str
) -> None:
    world = await started(tmp_path / "node")
    await world.backups.backup(tmp_path / "quiet.backup", WORD)
    await world.emergency.engage(freeze_forwarding=True)
    await world.backups.backup(tmp_path / "frozen.backup", WORD)
    world.db.close()
    fresh = await started(tmp_path / "new", world)
    if by == "file":
        fresh.kill_switch.file.touch()
    else:
        await fresh.emergency.engage("seen something")
    for name in ("frozen", "quiet"):
        await fresh.restored(tmp_path / f"{name}.backup", replace=mode == "replace")
        assert fresh.kill_switch.engaged()
        await fresh.emergency.watch()
        await fresh.freeze.settle()
        assert fresh.channels.bounds() == FROZEN, name
    stop = fresh.kill_switch.stop
    assert stop is not None and stop.freeze and stop.by == ("file" if by == "file" else "operator")
    fresh.db.close()


async def test_bounds_of_a_freeze_without_its_stop_engage_one(tmp_path: Path) -> None:
    """The release was under way when the backup was made, or an earlier version wrote it."""
    world = await started(tmp_path / "node")
    await world.emergency.engage(freeze_forwarding=True)
    await world.run(("DELETE FROM comms_state WHERE key = 'emergency'", ()))
    await world.backups.backup(tmp_path / "a.backup", WORD)
    world.db.close()
    fresh = await started(tmp_path / "new", world)
    done = await fresh.restored(tmp_path / "a.backup")
    await fresh.freeze.settle()
    assert fresh.channels.bounds() == FROZEN and fresh.kill_switch.engaged()
    assert "channels were frozen when the backup was made" in done["channels"].note
    await release(fresh)
    assert fresh.channels.bounds() == BEFORE
    fresh.db.close()


async def test_effects_that_were_due_then_are_due_again(tmp_path: Path) -> None:
    world = await started(tmp_path / "node")
    await world.service.authorize(Hire(AGENT, "fees"))
    await world.run(
        (
            "INSERT INTO comms_state VALUES ('emergency', ?, 1)",
            ('{"since": 1, "by": "operator", "revoke_due": true}',),
        )
    )
    await world.backups.backup(tmp_path / "a.backup", WORD)
    world.db.close()
    fresh = await started(tmp_path / "new", world)
    await fresh.restored(tmp_path / "a.backup")
    (row,) = await fresh.rows("comms_credentials")
    assert row["status"] == "revoked"
    fresh.db.close()


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from backup_world import BackupWorld
from cl_hive_comms.services.kill_switch import KillSwitch
from cl_hive_comms.services.restore_service import RestoreService

def die(*args, **more):
    os.kill(os.getpid(), signal.SIGKILL)

owner, name = {
    "before the stop is stored": (KillSwitch, "put"),
    "before the restore is on record": (RestoreService, "_note_gap"),
    "before memory follows": (KillSwitch, "load"),
}[sys.argv[1]]

async def main():
    world = BackupWorld(Path(sys.argv[2]))
    await world.start()
    await world.policy.load("moderate", "")
    setattr(owner, name, die)
    await world.restored(Path(sys.argv[3]))

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("point", "done"),
    [
        ("before the stop is stored", False),
        ("before the restore is on record", False),
        ("before memory follows", True),
    ],
)
async def test_a_kill_leaves_all_of_a_restore_or_nothing(tmp_path: Path, point: str, done: bool) -> None:
    world = await started(tmp_path / "node")
    await world.service.authorize(Hire(AGENT, "fees"))
    await world.policy.set_preset("aggressive")
    await world.emergency.engage(freeze_forwarding=True)
    await world.backups.backup(tmp_path / "a.backup", WORD)
    world.db.close()
    fresh = await started(tmp_path / "new", world)
    fresh.db.close()
    died = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", KILLED, point, str(fresh.path), str(tmp_path / "a.backup")),
        env={**os.environ, "PYTHONPATH": os.pathsep.join([os.environ["PYTHONPATH"], *sys.path])},
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await died.communicate()
    assert died.returncode == -signal.SIGKILL, said.decode()
    await fresh.restart()
    await fresh.kill_switch.load()
    await fresh.policy.load("moderate", "")
    await fresh.freeze.settle()
    assert fresh.channels.bounds() == FROZEN
    assert fresh.kill_switch.engaged() is done and bool(fresh.credentials.advisors()) is done
    assert (fresh.policy.snapshot().preset == "aggressive") is done
    if not done:
        await fresh.restored(tmp_path / "a.backup")
    assert fresh.kill_switch.engaged() and fresh.policy.snapshot().preset == "aggressive"
    for action, count in {"restore": 1, "policy_followed": 1, "emergency_engage": 2}.items():
        assert await receipts(fresh, action) == count, action
    codes = [row["code"] for row in await fresh.rows("comms_alerts")]
    assert sorted(codes) == ["emergency_stop", "policy_loosened"]
    assert (await fresh.receipts.verify()).ok
    fresh.db.close()
