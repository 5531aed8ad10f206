"""Archiving behind checkpoints (docs/protocol/02-fleet-management.md §9.2, §15.16; 08 §13.15)."""

from __future__ import annotations

import json
import sqlite3
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cl_hive_comms.domain.command_record import CommandRow
from cl_hive_comms.domain.receipt_record import AckRow, ReceiptQuery
from cl_hive_comms.services import receipt_archive
from cl_hive_comms.services.receipt_archive import DAY_S, KEPT
from cl_hive_comms.storage.command_store import CommandStore
from hive_shared import crypto, receipts
from hive_shared.errors import Conflict, InvalidParams
from hive_shared.store import Db
from receipt_chain import MIGRATIONS, NODE_ID, START, Chain, Keys


@pytest.fixture
async def chain(tmp_path: Path) -> AsyncIterator[Chain]:
    db = Db.open(tmp_path / "comms.db", MIGRATIONS)
    yield Chain(db, tmp_path / "archive")
    db.close()


async def test_receipts_of_an_open_trial_stay(chain: Chain) -> None:
    await chain.add(20)
    began = chain.now
    await chain.add(KEPT + 30)
    chain.now += 2 * DAY_S
    chain.open_since = began
    assert (await chain.archive.prune(1)).last_id == 20
    chain.open_since = START
    assert (await chain.archive.prune(1)).count == 0
    chain.open_since = None
    # Reviewed: up to the newest 1,000.
    assert (await chain.archive.prune(1)).last_id == 51
    assert (await chain.service.verify()).ok


async def test_acceptance_08_15_after_a_prune_the_chain_still_verifies(chain: Chain) -> None:
    await chain.add(KEPT + 30)
    chain.now += 2 * DAY_S
    await chain.add(5)
    done = await chain.archive.prune(1)
    assert (done.first_id, done.last_id, done.count) == (1, 35, 35)
    # The archiving itself is on the record.
    assert await chain.ids() == (36, KEPT + 36)
    newest = await chain.service.get(KEPT + 36)
    assert newest is not None and newest["action"] == "prune"
    report = await chain.service.verify()
    assert (report.ok, report.checked, report.last_id) == (True, KEPT + 1, KEPT + 36)
    assert (await chain.service.verify(36, 40)).checked == 5
    assert (await chain.service.verify(40)).ok
    with pytest.raises(InvalidParams, match="archived"):
        await chain.service.verify(1, 20)
    # A second prune moves nothing twice and the checkpoints follow each other.
    again = await chain.archive.prune(1)
    assert (again.first_id, again.last_id) == (36, 36)
    assert (await chain.service.verify()).ok


async def test_the_archive_file_proves_itself(chain: Chain) -> None:
    await chain.add(KEPT + 7)
    await chain.db.write(lambda tx: chain.rows.add_ack(tx, AckRow(3, "ab" * 32, "cd" * 64, chain.now)))
    chain.now += DAY_S
    done = await chain.archive.prune(0)
    assert done.path is not None and done.path.name == "receipts-000000000001-000000000007.jsonl"
    assert stat.S_IMODE(done.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(done.path.parent.stat().st_mode) == 0o700
    assert crypto.sha256(done.path.read_bytes()).hex() == done.sha256
    *lines, last = [json.loads(line) for line in done.path.read_text().splitlines()]
    documents = [line["receipt"] for line in lines]
    assert lines[2]["acks"][0]["signature"] == "cd" * 64
    point = last["checkpoint"]
    report = receipts.verify_chain(documents, after_hash=point["prev_hash"], node_keys=(point["node_key"],))
    assert (report.ok, report.checked, report.last_hash) == (True, 7, point["last_hash"])
    root = receipts.merkle_root([document["receipt_hash"] for document in documents])
    assert root == point["merkle_root"]
    text = receipts.root_text("prune", point["start"], 1, 7, root)
    assert crypto.cln_recover_message(text, point["hsm_signature"]) == NODE_ID
    assert crypto.schnorr_verify(Keys.pubkey, crypto.sha256(text.encode()), point["node_signature"])


async def test_the_newest_thousand_stay_whatever_their_age(chain: Chain) -> None:
    await chain.add(KEPT)
    chain.now += 1_000 * DAY_S
    assert (await chain.archive.prune(0)).count == 0
    assert await chain.ids() == (1, KEPT)


async def test_receipts_of_unfinished_commands_stay(chain: Chain) -> None:
    await chain.add(4)
    await chain.add(1, command_id="waiting")
    await chain.add(KEPT)
    row = CommandRow(
        command_id="waiting",
        sender_key="ab" * 32,
        nonce=1,
        body_hash="",
        payload_hash="",
        credential_id="",
        advisor_id="",
        transport="local",
        envelope="{}",
        schema_id="hive:fee-policy/v1",
        action="set_single",
        danger=3,
        read_only=False,
        state="executing",
        received_at=chain.now,
        updated_at=chain.now,
    )
    await chain.db.write(lambda tx: CommandStore().insert(tx, row))
    chain.now += DAY_S
    done = await chain.archive.prune(0)
    assert done.last_id == 4


async def test_a_root_is_archived_whole_or_not_at_all(chain: Chain) -> None:
    await chain.add(10)
    chain.now += DAY_S
    await chain.add(20)
    chain.now += DAY_S
    await chain.service.hourly_roots()
    await chain.add(KEPT - 5)
    # 25 may go by number; the second day's root covers 11 to 30.
    assert (await chain.archive.prune(0)).last_id == 10
    assert (await chain.service.verify()).ok
    chain.now += DAY_S
    await chain.service.hourly_roots()
    assert (await chain.service.verify()).ok


async def test_roots_after_an_archive_cover_what_is_left(chain: Chain) -> None:
    await chain.add(KEPT + 50)
    await chain.archive.prune(0)
    chain.now += DAY_S
    await chain.service.hourly_roots()
    root = await chain.db.read(lambda tx: chain.rows.last_root(tx, "day"))
    assert root is not None and root.first_id == 51


async def test_acceptance_02_16_the_receipt_above_the_limit_archives(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receipt_archive, "LIVE_MAX", 3_000)
    monkeypatch.setattr(receipt_archive, "_SEGMENT", 300)
    await chain.add(3_000)
    assert (await chain.archive.sweep()).count == 0
    await chain.add(1)
    done = await chain.archive.sweep()
    assert (done.first_id, done.last_id) == (1, 301)
    assert (await chain.service.verify()).ok


async def test_the_retention_option_archives_by_age(chain: Chain) -> None:
    await chain.add(KEPT + 10)
    chain.now += 40 * DAY_S
    assert (await chain.archive.sweep()).count == 0
    chain.days = 30
    assert (await chain.archive.sweep()).count == 10


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM management_receipts WHERE receipt_id = 900",
        "DELETE FROM management_receipts",
        "UPDATE management_receipts SET status = 'x' WHERE receipt_id = 900",
        "DELETE FROM comms_receipt_roots",
        "UPDATE comms_receipt_roots SET last_id = 900",
    ],
)
async def test_acceptance_02_16_update_and_delete_fail_also_after_an_archive(
    chain: Chain, statement: str
) -> None:
    await chain.add(KEPT + 10)
    await chain.archive.prune(0)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        await chain.db.write(lambda tx: tx.execute(statement).rowcount)
    assert (await chain.service.verify()).ok


@pytest.mark.parametrize(
    ("sql", "bad"),
    [
        (
            "UPDATE comms_receipt_roots SET merkle_root = replace(merkle_root, substr(merkle_root,1,1), 'x')",
            1,
        ),
        ("UPDATE comms_receipt_roots SET last_id = 11, count = 11", 1),
        ("UPDATE comms_receipt_roots SET hsm_signature = 'y' || substr(hsm_signature, 2)", 1),
        ("UPDATE comms_receipt_roots SET last_hash = replace(last_hash, substr(last_hash, 1, 1), 'x')", 11),
        ("DELETE FROM comms_receipt_roots", 1),
        ("DELETE FROM management_receipts WHERE receipt_id = 11", 11),
    ],
)
async def test_a_false_checkpoint_is_named(chain: Chain, sql: str, bad: int) -> None:
    await chain.add(KEPT + 10)
    await chain.archive.prune(0)
    chain.tamper(sql)
    report = await chain.service.verify()
    assert (report.ok, report.first_bad) == (False, bad), report
    assert report.reason


async def test_a_damaged_chain_is_not_archived(chain: Chain) -> None:
    await chain.add(KEPT + 10)
    chain.tamper("UPDATE management_receipts SET status = 'error' WHERE receipt_id = 4")
    with pytest.raises(Conflict, match="receipt 4 does not verify"):
        await chain.archive.prune(0)
    assert await chain.ids() == (1, KEPT + 10)


async def test_a_directory_that_cannot_be_written_changes_nothing(chain: Chain, tmp_path: Path) -> None:
    await chain.add(KEPT + 10)
    (tmp_path / "archive").write_text("in the way")
    with pytest.raises(Conflict, match="cannot be written"):
        await chain.archive.prune(0)
    assert await chain.ids() == (1, KEPT + 10)


async def test_a_crash_after_the_file_was_written_repeats_cleanly(chain: Chain, tmp_path: Path) -> None:
    await chain.add(KEPT + 10)
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "receipts-000000000001-000000000010.jsonl").write_text("left by a crash")
    done = await chain.archive.prune(0)
    assert done.path is not None and "left by" not in done.path.read_text()
    assert (await chain.service.list(ReceiptQuery(limit=1)))["count"] == 1
