"""Sheet 08 §13.17: migration from the earlier single plugin, as an operator does it."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import legacy_database as legacy
import pytest
from channel_world import ready
from hive_devnet.node import DevnetRpcError
from hive_devnet.world import World
from hive_shared.crypto import xonly_pubkey
from hive_shared.nostr.keys import npub_encode

METHOD = "hive-comms-migrate"


async def old_database(world: World, directory: Path) -> Path:
    """The earlier plugin's database of this node, its key hidden under the node's own signature."""
    zbase = (await world.alice.call("signmessage", {"message": "nostr_key_derivation"}))["zbase"]
    node_id = (await world.alice.call("getinfo"))["id"]
    return legacy.filled(directory / "old" / "cl_hive.db", node_id=node_id, signature=zbase)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "old").mkdir()
    return tmp_path


BACKGROUND = {"comms_channel_names", "comms_state", "comms_alerts", "comms_outbox", "nostr_state"}
"""Tables that the running plugin writes by itself (self-check, alerts, names, relay lists, cursors)."""


def own_rows(world: World) -> dict[str, list[tuple[Any, ...]]]:
    """Rows of every table that nothing but a command writes (of bytes: integration/test_migration.py)."""
    path = world.alice.net_dir / "cl_hive_comms.db"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        names = {
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
        assert names > BACKGROUND
        return {
            name: connection.execute(f"SELECT * FROM {name} ORDER BY 1").fetchall()
            for name in sorted(names - BACKGROUND)
        }


async def migrate(world: World, path: Path, **more: object) -> dict[str, Any]:
    return await world.alice.call(METHOD, {"source": str(path), **more}, timeout=120)


async def test_acceptance_08_17_dry_run_then_once_and_never_twice(world: World, directory: Path) -> None:
    call = world.alice.call
    old = await old_database(world, directory)
    source, before = legacy.digest(old), own_rows(world)
    npub = (await call("hive-client-identity"))["npub"]

    shown = await migrate(world, old)
    assert shown["dry_run"] is True and shown["imported"] == 27, shown
    assert own_rows(world) == before, "a dry run writes nothing"
    with pytest.raises(DevnetRpcError, match="confirm=true") as refused:
        await migrate(world, old, dry_run=False)
    assert refused.value.code == 4005
    assert own_rows(world) == before

    done = await migrate(world, old, dry_run=False, confirm=True)
    assert done["tables"] == shown["tables"] and done["reissue"] == shown["reissue"]
    assert (await call("hive-client-identity"))["npub"] == npub
    assert (await call("hive-mgmt-credential-list"))["count"] == 0, "nothing of it may command"
    again = await migrate(world, old, dry_run=False, confirm=True)
    assert again["imported"] == 0 and "receipt_id" not in again
    assert legacy.digest(old) == source
    assert not (world.alice.net_dir / "hive" / "migration").exists()

    verified = await call("hive-client-receipts-verify")
    assert verified["ok"] is True
    assert verified["legacy"] == {"ok": True, "checked": 20, "first_bad": None, "reason": ""}
    page = await call("hive-client-receipts", {"legacy": True, "limit": 15})
    assert page["count"] == 15 and page["items"][0]["executed_at"] == legacy.AT + 20
    rest = await call("hive-client-receipts", {"legacy": True, "cursor": page["next_cursor"]})
    assert rest["count"] == 5 and rest["items"][-1]["params_json"] == legacy.receipt(1)["params_json"]
    (newest,) = (await call("hive-client-receipts", {"limit": 1}))["items"]
    assert newest["action"] == "migrate" and newest["receipt_id"] == done["receipt_id"]
    text = await call("hive-client-receipts", {"legacy": True, "format": "text", "limit": 2})
    assert "legacy=true cursor=" in text["text"]

    for name, count in (("legacy.json", 20), ("legacy.csv", 20)):
        path = directory / name
        told = await call("hive-client-receipts-export", {"path": str(path), "legacy": True})
        assert told["count"] == count
    exported = json.loads((directory / "legacy.json").read_text())["receipts"]
    assert [row["receipt_id"] for row in exported] == [
        legacy.receipt(number)["receipt_id"] for number in range(1, 21)
    ]


async def test_acceptance_08_17_a_source_that_is_refused(world: World, directory: Path) -> None:
    before = own_rows(world)
    old = await old_database(world, directory)
    corrupt, foreign, newer = (directory / f"{name}.db" for name in ("corrupt", "foreign", "newer"))
    corrupt.write_bytes(old.read_bytes()[:9_000])
    legacy.build(foreign, without=["hive_members"])
    legacy.build(newer)
    with closing(sqlite3.connect(newer)) as connection:
        connection.execute("PRAGMA user_version = 3")
    own = world.alice.net_dir / "cl_hive_comms.db"
    config = world.alice.net_dir / "hsm_secret"
    for path, says in (
        (corrupt, "is damaged"),
        (foreign, "not a database of the earlier single cl-hive plugin"),
        (newer, "schema version 3"),
        (own, "own database"),
        (directory / "absent.db", "No such file"),
        (config, "SQLite|No such file"),
    ):
        for confirm in (False, True):
            with pytest.raises(DevnetRpcError, match=says) as refused:
                await migrate(world, path, dry_run=not confirm, confirm=confirm)
            assert refused.value.code == -32602
    with closing(sqlite3.connect(old)) as connection:
        connection.execute("SELECT count(*) FROM hive_members").fetchone()
        with pytest.raises(DevnetRpcError, match="still runs") as refused:
            await migrate(world, old)
        assert refused.value.code == 4015 and refused.value.data["reason"] == "source_in_use"
    for wrong in (
        {},
        {"source": str(old), "dry": True},
        {"source": "cl_hive.db"},
        {"source": str(old), "key": "replace"},
        {"source": ""},
        {"source": "a\0b"},
    ):
        with pytest.raises(DevnetRpcError) as refused:
            await world.alice.call(METHOD, wrong)
        assert refused.value.code == -32602, wrong
    assert own_rows(world) == before


async def test_acceptance_08_17_the_key_becomes_ours_only_when_asked(world: World, directory: Path) -> None:
    old = await old_database(world, directory)
    await migrate(world, old, dry_run=False, confirm=True)
    theirs = npub_encode(xonly_pubkey(legacy.KEY))
    assert (await world.alice.call("hive-client-identity"))["npub"] != theirs
    done = await migrate(world, old, dry_run=False, confirm=True, key="take")
    assert done["imported"] == 1, done
    assert (await world.alice.call("hive-client-identity"))["npub"] == theirs
    await world.alice.stop()
    await world.alice.start()
    await ready(world)
    assert (await world.alice.call("hive-client-identity"))["npub"] == theirs
    assert (await world.alice.call("hive-client-receipts-verify"))["ok"] is True
    data = b"".join(path.read_bytes() for path in world.alice.net_dir.glob("cl_hive_comms.db*"))
    assert legacy.KEY.reveal() not in data and legacy.KEY.reveal().hex().encode() not in data
