"""Events as a stream: whoever takes them goes on after the last cursor it had (11 §3, §10)."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from hive_advisor.advisor import MIGRATIONS, Advisor
from hive_advisor.identity import create_identity, write_identity
from hive_advisor.services.events import DROPPED
from hive_advisor.storage.record_store import RecordStore
from hive_devnet.world import AdvisorShell
from hive_shared.errors import InvalidParams
from hive_shared.store import Db, Tx
from plan_world import PlanWorld

PASSPHRASE = "correct horse battery staple"


@pytest.fixture
def world(tmp_path: Path) -> PlanWorld:
    return PlanWorld(tmp_path)


def noted(count: int, at: int = 1_800_000_000, first: int = 1) -> Callable[[Tx], None]:
    def body(tx: Tx) -> None:
        for number in range(first, first + count):
            RecordStore().add_event(tx, "alert", "alice", f"number {number}", at)

    return body


async def taken(kit: Advisor, since: int, most: int) -> list[int]:
    """A consumer that goes away after so many."""
    cursors: list[int] = []
    async with aclosing(kit.events(since)) as events:
        async for event in events:
            cursors.append(event.cursor)
            if len(cursors) == most:
                break
    return cursors


async def test_a_consumer_that_is_gone_misses_nothing_also_over_a_restart(world: PlanWorld) -> None:
    seen: list[int] = []
    async with world.open() as kit:
        begun = await kit._events.newest()
        seen += await taken(kit, 0, 1)
        await kit._db.write(noted(700))
        seen += await taken(kit, seen[-1], 3)
    async with world.open() as kit:
        await kit._db.write(noted(1, first=701))
        seen += [event.cursor async for event in kit.events(seen[-1], once=True)]
        assert seen == list(range(1, begun + 702))

        async def later() -> None:
            await kit._db.write(noted(2, first=702))

        # What comes while it waits is told too.
        waiting = asyncio.create_task(taken(kit, seen[-1], 2))
        await later()
        assert await asyncio.wait_for(waiting, 30) == [begun + 702, begun + 703]


async def test_a_cursor_of_nobody_is_refused_and_what_is_gone_is_said(world: PlanWorld) -> None:
    async with world.open() as kit:
        newest = await kit._events.newest()
        with pytest.raises(InvalidParams, match=f"ahead of the newest event, {newest}"):
            await taken(kit, newest + 1, 1)
        assert [event async for event in kit.events(newest, once=True)] == []
        await kit._db.write(noted(3, at=world.now))
        await kit._db.write(noted(2, at=world.now + 40 * 86_400))
        rows = [event async for event in kit.events(1, once=True)]
        assert [row.kind for row in rows] == [DROPPED, "alert", "alert"]
        assert rows[0].cursor + 1 == rows[1].cursor
        assert rows[0].text == f"{rows[0].cursor - 1} events after 1 are gone"
        # Who has never asked has missed nothing that it was promised.
        assert [row.kind async for row in kit.events(0, once=True)] == ["alert", "alert"]


def test_follow_killed_and_started_again_tells_every_event_once(tmp_path: Path) -> None:
    shell = AdvisorShell(tmp_path, ["ws://127.0.0.1:9"])
    data = tmp_path / "data" / "hive-advisor" / "default"
    data.mkdir(parents=True)
    write_identity(data / "identity.json", create_identity(), PASSPHRASE, now=1)
    db = Db.open(data / "advisor.db", MIGRATIONS)
    asyncio.run(db.write(noted(5)))
    db.close()

    def started(*arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "hive_advisor", "follow", *arguments]
        return subprocess.Popen(command, env=shell.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def row(process: subprocess.Popen[bytes]) -> dict[str, Any]:
        assert process.stdout is not None
        told: dict[str, Any] = json.loads(process.stdout.readline())
        return told

    first = started()
    seen = [row(first), row(first)]
    first.kill()
    assert first.wait(60) == -signal.SIGKILL
    first.communicate()
    second = started("--since", str(seen[-1]["cursor"]), "--once")
    out, err = second.communicate(timeout=60)
    assert second.returncode == 0, err
    seen += [json.loads(line) for line in out.splitlines()]
    assert [each["text"] for each in seen] == [f"number {n}" for n in range(1, 6)]
    assert set(seen[0]) == {"cursor", "kind", "ref", "text", "at"}
