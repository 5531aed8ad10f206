"""The self-check's findings over real files, databases and relays (Protocol 08 §8.6)."""

from __future__ import annotations

import asyncio
import email.utils
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import websockets
from cl_hive_comms.domain.selfcheck import WAL_MAX, Check
from cl_hive_comms.services import selfcheck_machine
from cl_hive_comms.services.selfcheck_machine import Machine, MachineChecks, offsets_of
from hive_shared.cln import version_problem
from hive_shared.nostr.event import Event
from hive_shared.nostr.relay import RelayPool
from hive_shared.store import Db, StoreError, Tx
from pipeline_world import MIGRATIONS
from websockets.datastructures import Headers


class Node:
    """Its version, and how long it takes to say so."""

    version, seconds = "v26.06.6", 0.0

    async def getinfo(self) -> dict[str, Any]:
        await asyncio.sleep(self.seconds)
        return {"version": self.version}


class Place:
    """Checks over a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path, self.kept = directory / "cl_hive_comms.db", directory / "hive"
        self.kept.mkdir(mode=0o700)
        self.node = Node()
        self.db = Db.open(self.path, MIGRATIONS)
        self.now = time.time
        self.checks = MachineChecks(
            Machine(
                db=self.db,
                db_path=self.path,
                kept=self.kept,
                node=self.node,
                version_problem=version_problem,
                offsets=list,
                now=lambda: int(self.now()),
            )
        )

    async def check(self, name: str) -> Check:
        return await self.checks.all()[name]()


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    made = Place(tmp_path)
    yield made
    made.db.close()


async def test_a_sound_place_is_ok(place: Place) -> None:
    found = [await check() for check in place.checks.all().values()]
    assert {check.status for check in found} == {"ok"}, found


async def test_an_old_and_slow_node_is_named(place: Place) -> None:
    place.node.version, place.node.seconds = "v24.11", 1.1
    version, latency = await place.check("cln_version"), await place.check("rpc_latency")
    assert version.status == "fail" and "v25.02" in version.detail
    assert latency.status == "warn" and "1.1 s" in latency.detail


async def test_a_damaged_page_is_found(place: Place) -> None:
    def fill(tx: Tx) -> None:
        for number in range(2_000):
            tx.execute("INSERT INTO comms_state VALUES (?, ?, 0)", (f"filler:{number}", "x" * 100))

    await place.db.write(fill)
    await place.db.checkpoint()
    size = place.path.stat().st_size
    with place.path.open("r+b") as file:
        for page in range(size // 4_096 - 20, size // 4_096):
            file.seek(page * 4_096)
            file.write(os.urandom(4_096))
    try:
        check = await place.check("database")
    except StoreError as error:
        pytest.fail(f"damage has to be a finding: {error}")
    assert check.status == "fail" and "backup" in check.fix, check


async def test_a_check_of_a_large_file_goes_on_behind_the_answer(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selfcheck_machine, "_WAIT_S", 0.05)
    holding = asyncio.Event()
    damage = place.db.damage

    async def slow() -> list[str]:
        await holding.wait()
        return await damage()

    monkeypatch.setattr(place.db, "damage", slow)
    check = await place.check("database")
    assert check.status == "warn" and "still being read" in check.detail
    holding.set()
    monkeypatch.setattr(selfcheck_machine, "_WAIT_S", 3.0)
    assert (await place.check("database")).detail == "no damage found"
    holding.clear()
    monkeypatch.setattr(selfcheck_machine, "_WAIT_S", 0.05)
    check = await place.check("database")
    assert check.status == "ok" and "being read again" in check.detail
    holding.set()


async def test_a_long_log_is_told_and_folded_in(place: Place, tmp_path: Path) -> None:
    # Beside the open database, as nobody writes 64 MB in a test.
    other = MachineChecks(
        Machine(
            db=place.db,
            db_path=tmp_path / "other.db",
            kept=place.kept,
            node=place.node,
            version_problem=version_problem,
            offsets=list,
            now=lambda: 0,
        )
    )
    with (tmp_path / "other.db-wal").open("wb") as file:
        file.truncate(WAL_MAX + 1)
    check = await other.all()["wal"]()
    assert check.status == "warn" and check.detail == "64 MB" and "fix=true" in check.fix

    def fill(tx: Tx) -> None:
        tx.execute("INSERT INTO comms_state VALUES ('long', ?, 0)", ("x" * 1_000_000,))

    await place.db.write(fill)
    assert place.checks.wal_bytes() > 1_000_000
    await place.db.checkpoint()
    assert place.checks.wal_bytes() == 0


async def test_a_full_disk_fails(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selfcheck_machine, "DISK_MIN", 1 << 62)
    check = await place.check("disk")
    assert check.status == "fail" and "MB free" in check.detail


async def test_files_open_to_others_are_named_but_not_what_an_operator_touched(place: Place) -> None:
    (place.kept / "archive").mkdir(mode=0o755)
    (place.kept / "sibling.key").write_text("x")
    (place.kept / "sibling.key").chmod(0o640)
    (place.kept / "EMERGENCY_STOP").touch(0o644)
    (place.kept / "link").symlink_to("/etc/hostname")
    place.path.chmod(0o644)
    check = await place.check("file_modes")
    assert check.status == "fail"
    named = set(check.detail.removeprefix("open to others: ").split(", "))
    assert named == {"cl_hive_comms.db", "archive", "sibling.key"}


async def test_a_clock_that_was_stepped_is_told(place: Place) -> None:
    place.now = lambda: time.time() - 3_600
    check = await place.check("clock")
    assert check.status == "warn" and "-3600 s" in check.detail, check


async def test_relays_tell_the_time_in_their_handshake() -> None:
    async def dated(_connection: Any, _request: Any, response: Any) -> None:
        response.headers = Headers(response.headers)
        del response.headers["Date"]
        response.headers["Date"] = email.utils.formatdate(time.time() - 600, usegmt=True)

    async def relay(connection: Any) -> None:
        await connection.wait_closed()

    async def nobody(url: str, name: str, event: Event) -> None:
        return None

    async with websockets.serve(relay, "127.0.0.1", 0, process_response=dated) as server:
        port = server.sockets[0].getsockname()[1]
        pool = RelayPool(on_event=nobody, private_relays=True)
        await pool.set_relays([f"ws://127.0.0.1:{port}"], [], [])
        await pool.start()
        assert await pool.wait_for(lambda: pool.connected() == 1, 60)
        (offset,) = offsets_of(pool.status())
        await pool.stop()
    assert 595 < offset < 610
    assert offsets_of(pool.status()) == []
