"""Taking over from the earlier single plugin (docs/protocol/08-client-and-plugins.md §8.3, §13.17)."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import legacy_database as legacy
import pytest
import pytest_asyncio
from cl_hive_comms.domain.legacy import RECEIPTS
from cl_hive_comms.domain.legacy_record import LegacyReceipt
from cl_hive_comms.plugin import migration as composition
from cl_hive_comms.services.migration_service import Migrated
from cl_hive_comms.storage.legacy_store import LegacyStore
from hive_shared.crypto import xonly_pubkey
from hive_shared.errors import Busy, Conflict, InvalidParams
from hive_shared.store import StoreError, Tx
from legacy_world import HSM, NODE_ID, Plugin


@pytest_asyncio.fixture
async def plugin(tmp_path: Path) -> AsyncIterator[Plugin]:
    made = await Plugin(tmp_path / "net").start()
    yield made
    made.stop()


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return legacy.filled(tmp_path / "cl_hive.db", node_id=NODE_ID, signature=legacy.node_signature(HSM))


def by_table(done: Migrated) -> dict[str, dict[str, Any]]:
    return {report.table: report.to_doc() for report in done.tables}


async def test_everything_comes_over_once_and_proves_itself(plugin: Plugin, old: Path) -> None:
    own = plugin.identity.pubkey
    done = await plugin.run(old)
    report = by_table(done)
    assert {name: (row["read"], row["imported"], row["skipped"]) for name, row in report.items()} == {
        "nostr_state": (4, 1, 3),
        "management_credentials": (4, 4, 0),
        "management_receipts": (20, 20, 0),
        "marketplace_profiles": (0, 0, 0),
        "marketplace_contracts": (1, 1, 0),
        "marketplace_trials": (0, 0, 0),
        "liquidity_offers": (0, 0, 0),
        "liquidity_leases": (1, 1, 0),
        "liquidity_heartbeats": (0, 0, 0),
    }
    assert "none authorises" in report["management_credentials"]["reason"]
    assert "not active" in report["liquidity_leases"]["reason"]
    # Of four credentials one is revoked, one expired, one another node's.
    assert [row["credential_id"] for row in done.reissue] == [legacy.credential(1, NODE_ID)["credential_id"]]
    assert await plugin.count("comms_credentials") == 0

    assert plugin.identity.pubkey == own, "an own key is never replaced unasked"
    assert plugin.identity.secret_of(xonly_pubkey(legacy.KEY)) is not None, "the earlier one opens messages"
    verdict = await plugin.legacy.verify()
    assert (verdict.checked, verdict.first_bad) == (20, None)
    chain = await plugin.receipts.verify()
    assert chain.ok and chain.checked == 1
    receipt = await plugin.receipts.get(done.receipt_id or 0)
    assert receipt is not None and receipt["action"] == "migrate"
    assert receipt["result"]["legacy_receipts"]["last"] == 20  # type: ignore[index,call-overload]

    again = await plugin.run(old)
    assert again.imported == 0 and again.receipt_id is None
    assert by_table(again)["management_receipts"]["reason"] == "20 imported before"
    assert await plugin.count("management_receipts") == 1
    assert len(again.reissue) == 1, "what has to be issued anew is said every time"


async def test_the_key_lies_sealed_and_nowhere_in_the_clear(plugin: Plugin, old: Path) -> None:
    await plugin.run(old)
    plugin.db.close()
    data = plugin.path.read_bytes()
    assert legacy.KEY.reveal() not in data and legacy.KEY.reveal().hex().encode() not in data
    assert not (plugin.directory / "hive" / "migration").exists(), "the copy is gone"


@pytest.mark.parametrize("take_key", [False, True])
async def test_a_dry_run_writes_nothing(plugin: Plugin, old: Path, take_key: bool) -> None:
    files = [plugin.path, plugin.path.with_name(plugin.path.name + "-wal")]
    before = legacy.digest(*files)
    shown = await plugin.run(old, dry_run=True, take_key=take_key)
    assert legacy.digest(*files) == before
    done = await plugin.run(old, take_key=take_key)
    assert by_table(done) == by_table(shown), "the dry run says what the real one does"
    assert legacy.digest(*files) != before


async def test_the_key_is_taken_when_asked(plugin: Plugin, old: Path) -> None:
    own = plugin.identity.pubkey
    await plugin.run(old)
    heard: list[str] = []

    async def listener() -> None:
        heard.append(plugin.identity.pubkey)

    plugin.identity.on_change(listener)
    done = await plugin.run(old, take_key=True)
    assert done.imported == 1 and heard == [xonly_pubkey(legacy.KEY)]
    assert plugin.identity.secret_of(own) is not None
    # The checkpoint was signed by the key of before; it stays one of ours.
    assert (await plugin.legacy.verify()).first_bad is None
    assert (await plugin.run(old, take_key=True)).imported == 0
    assert (await plugin.run(old)).imported == 0


async def test_a_key_of_another_seed_or_of_no_curve_is_left(plugin: Plugin, tmp_path: Path) -> None:
    foreign = legacy.filled(tmp_path / "a.db", node_id=NODE_ID, signature="another signature")
    report = by_table(await plugin.run(foreign))["nostr_state"]
    assert report["imported"] == 0 and "does not open with this node's seed" in report["reason"]
    assert report["skipped"] == 4
    plain = legacy.filled(tmp_path / "b.db", node_id=NODE_ID)
    with closing(sqlite3.connect(plain)) as connection, connection:
        connection.execute("UPDATE nostr_state SET value = ? WHERE key = 'config:pubkey'", ("ab" * 32,))
    assert "does not belong to its public key" in by_table(await plugin.run(plain))["nostr_state"]["reason"]
    empty = legacy.build(tmp_path / "c.db")
    assert (await plugin.run(empty)).imported == 0
    assert plugin.identity.ring.old == ()


async def test_later_rows_follow_in_a_segment_of_their_own(plugin: Plugin, old: Path) -> None:
    await plugin.run(old)
    legacy.insert(old, RECEIPTS, [legacy.receipt(number) for number in range(21, 26)])
    with closing(sqlite3.connect(old)) as connection, connection:
        connection.execute("UPDATE liquidity_leases SET status = 'ended'")
        connection.execute("UPDATE management_receipts SET action = 'forged' WHERE rowid = 1")
    done = by_table(await plugin.run(old))
    assert done["management_receipts"]["imported"] == 5
    assert "1 imported before with another content, which stays" in done["management_receipts"]["reason"]
    assert done["liquidity_leases"]["imported"] == 1, "a changed row is kept beside the former one"
    assert (await plugin.legacy.verify()).checked == 25
    assert len(await plugin.db.read(LegacyStore().segments)) == 2


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        (
            "UPDATE comms_legacy_receipts SET row_json = replace(row_json, '\"fee', '\"fex') WHERE seq = 7",
            "7",
        ),
        ("DELETE FROM comms_legacy_receipts WHERE seq = 20", "20 is missing"),
        ("DELETE FROM comms_legacy_receipts WHERE seq = 3", "3 is missing"),
        (
            "INSERT INTO comms_legacy_receipts SELECT 21, 'x', 0, '', digest, row_json FROM"
            " comms_legacy_receipts LIMIT 1",
            "no checkpoint covers legacy receipt 21",
        ),
        ("UPDATE comms_migrations SET last_seq = 19", "not signed by this node's keys"),
        ("DELETE FROM comms_migrations", "no checkpoint covers legacy receipt 1"),
        ("UPDATE comms_legacy_receipts SET executed_at = 5 WHERE seq = 2", "column"),
        ("UPDATE comms_legacy_receipts SET receipt_id = 'other' WHERE seq = 2", "column"),
    ],
)
async def test_a_change_is_named_by_verify(plugin: Plugin, old: Path, sql: str, says: str) -> None:
    await plugin.run(old)
    plugin.stop()
    with closing(sqlite3.connect(plugin.path)) as connection, connection:
        for name in ("comms_legacy_receipts", "comms_migrations"):
            for what, change in (
                ("update", f"UPDATE {name} SET rowid = 7"),
                ("delete", f"DELETE FROM {name}"),
            ):
                with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                    connection.execute(change)
                connection.execute(f"DROP TRIGGER {name}_no_{what}")
        connection.execute(sql)
    await plugin.start()
    verdict = await plugin.legacy.verify()
    assert verdict.first_bad is not None and says in verdict.reason, verdict


async def test_the_checkpoint_holds_when_time_passes_meanwhile(
    tmp_path: Path, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(composition, "unix_now", itertools.count(legacy.AT).__next__)
    plugin = await Plugin(tmp_path / "other").start()
    try:
        await plugin.run(old)
        assert (await plugin.legacy.verify()).first_bad is None
    finally:
        plugin.stop()


async def test_legacy_receipts_are_listed_newest_first_in_pages(plugin: Plugin, old: Path) -> None:
    legacy.insert(old, RECEIPTS, [legacy.receipt(99, executed_at=legacy.AT + 3, schema_id="hive:other/v1")])
    await plugin.run(old)
    seen: list[int] = []
    before: tuple[int, int] | None = None
    while True:
        page = await plugin.legacy.list(schema=None, since=None, until=None, before=before, limit=8)
        seen += [item["executed_at"] for item in page["items"]]
        if "next_cursor" not in page:
            break
        at, _, seq = page["next_cursor"].partition(".")
        before = int(at), int(seq)
    assert len(seen) == 21 and seen == sorted(seen, reverse=True)
    only = await plugin.legacy.list(schema="hive:other/v1", since=legacy.AT, until=None, before=None, limit=5)
    assert only["count"] == 1 and only["items"][0]["params_json"] == legacy.receipt(99)["params_json"]


async def test_a_refused_source_changes_nothing(plugin: Plugin, old: Path) -> None:
    before = legacy.digest(plugin.path, plugin.path.with_name(plugin.path.name + "-wal"))
    with pytest.raises(InvalidParams, match="own database"):
        await plugin.run(plugin.path)
    old.write_bytes(old.read_bytes()[:5000])
    with pytest.raises(InvalidParams, match="damaged"):
        await plugin.run(old)
    assert legacy.digest(plugin.path, plugin.path.with_name(plugin.path.name + "-wal")) == before
    assert (await plugin.receipts.verify()).ok, "our own database is as usable as before"


async def test_a_disk_that_fills_up_leaves_nothing(
    plugin: Plugin, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = LegacyStore.add_receipt

    def full(self: LegacyStore, tx: Tx, receipt: LegacyReceipt) -> None:
        if receipt.seq == 12:
            tx.execute("PRAGMA max_page_count = 1")
            tx.execute("INSERT INTO comms_state VALUES ('x', zeroblob(9000000), 1)")
        add(self, tx, receipt)

    monkeypatch.setattr(LegacyStore, "add_receipt", full)
    with pytest.raises((StoreError, sqlite3.IntegrityError)):
        await plugin.run(old)
    monkeypatch.setattr(LegacyStore, "add_receipt", add)
    assert [await plugin.count(name) for name in ("comms_legacy_receipts", "comms_legacy_rows")] == [0, 0]
    assert len(plugin.identity.ring.old) == 0


async def test_two_at_once_and_a_database_that_moved_on_are_refused(
    plugin: Plugin, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign = plugin.receipts.sign_root

    async def meanwhile(*args: Any) -> Any:
        with pytest.raises(Busy):
            await plugin.run(old)
        await plugin.db.write(
            lambda tx: LegacyStore().add_receipt(tx, LegacyReceipt(1, "other", 1, "", "00" * 32, "{}"))
        )
        return await sign(*args)

    monkeypatch.setattr(plugin.receipts, "sign_root", meanwhile)
    with pytest.raises(Conflict, match="changed during the migration"):
        await plugin.run(old)
    assert await plugin.count("comms_legacy_rows") == 0
    assert await plugin.count("comms_migrations") == 0


CRASH = """
import asyncio, os, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[3].split(os.pathsep)
from legacy_world import Plugin
from cl_hive_comms.storage.legacy_store import LegacyStore

point, seen = sys.argv[4], 0

def kill_at(name, nth):
    real = getattr(LegacyStore, name)
    def faulty(self, *args, **kwargs):
        global seen
        seen += 1
        if seen == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, *args, **kwargs)
    setattr(LegacyStore, name, faulty)

if point == "first":
    kill_at("add_row", 1)
elif point == "middle":
    kill_at("add_receipt", 10)
elif point == "end":
    kill_at("add_migration", 1)

async def main():
    plugin = await Plugin(Path(sys.argv[1])).start()
    if point == "signed":
        real = plugin.receipts.sign_root
        async def sign(*args):
            await real(*args)
            os.kill(os.getpid(), signal.SIGKILL)
        plugin.receipts.sign_root = sign
    if point == "committed":
        async def reload():
            os.kill(os.getpid(), signal.SIGKILL)
        plugin.identity.reload = reload
    await plugin.run(Path(sys.argv[2]))

asyncio.run(main())
"""


@pytest.mark.parametrize("point", ["signed", "first", "middle", "end", "committed"])
async def test_killed_at_any_point_it_is_nothing_or_everything(tmp_path: Path, old: Path, point: str) -> None:
    net = tmp_path / "net"
    source = legacy.digest(old)
    paths = os.pathsep.join(sys.path)
    ended = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", CRASH, str(net), str(old), paths, point],
        capture_output=True,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert legacy.digest(old) == source
    plugin = await Plugin(net).start()
    try:
        assert not (net / "hive" / "migration").exists(), "the copy with the key is removed at the next start"
        everything = point == "committed"
        assert await plugin.count("comms_legacy_receipts") == (20 if everything else 0)
        assert await plugin.count("management_receipts") == (1 if everything else 0)
        assert (plugin.identity.secret_of(xonly_pubkey(legacy.KEY)) is not None) is everything
        assert (await plugin.legacy.verify()).first_bad is None
        done = await plugin.run(old)
        assert done.imported == (0 if everything else 27)
        assert (await plugin.legacy.verify()).checked == 20
    finally:
        plugin.stop()


MEMORY = """
import asyncio, json, os, sys, time
from pathlib import Path
sys.path[:0] = sys.argv[3].split(os.pathsep)
from legacy_world import Plugin

async def main():
    plugin = await Plugin(Path(sys.argv[1])).start()
    def peak():
        text = Path("/proc/self/status").read_text()
        return int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmHWM"))) // 1024
    before, begun = peak(), time.monotonic()
    done = await plugin.run(Path(sys.argv[2]))
    verdict = await plugin.legacy.verify()
    print(json.dumps({"before": before, "peak": peak(), "imported": done.imported,
                      "checked": verdict.checked, "seconds": round(time.monotonic() - begun, 1)}))
    plugin.stop()

asyncio.run(main())
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
async def test_a_large_source_is_streamed(tmp_path: Path) -> None:
    """08 §14: at most 100 MB. HIVE_MIGRATION_MB sets the size (40 by default)."""
    size = int(os.environ.get("HIVE_MIGRATION_MB", "40"))
    path = legacy.build(tmp_path / "cl_hive.db")
    filler = json.dumps({"note": "n" * 2_000})
    rows = size * 1_000_000 // 2_500
    legacy.insert(path, RECEIPTS, [legacy.receipt(n, params_json=filler) for n in range(1, rows + 1)])
    assert path.stat().st_size > size * 900_000
    ended = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", MEMORY, str(tmp_path / "net"), str(path), os.pathsep.join(sys.path)],
        capture_output=True,
        check=True,
    )
    figures = json.loads(ended.stdout)
    assert figures["imported"] == figures["checked"] == rows
    assert figures["peak"] <= 100, figures
    sys.stdout.write(f"{size} MB: {figures}\n")
