"""The limit of live receipts as it is, 100,000, not a smaller one in its place (Protocol 02 §15.16)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cl_hive_comms.services.receipt_archive import LIVE_MAX
from hive_shared.store import Db
from receipt_chain import MIGRATIONS, Chain


@pytest.mark.timeout(1_200)
async def test_acceptance_02_16_the_100_001st_receipt_archives_and_verify_passes(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    assert LIVE_MAX == 100_000
    db = Db.open(tmp_path / "comms.db", MIGRATIONS)
    chain = Chain(db, tmp_path / "archive")
    began = time.monotonic()
    for _ in range(100):
        await chain.add(1_000)
    built = time.monotonic()
    assert (await chain.archive.sweep()).count == 0
    assert await chain.ids() == (1, 100_000)
    await chain.add(1)
    done = await chain.archive.sweep()
    archived = time.monotonic()
    assert done.first_id == 1 and done.count == done.last_id > 0 and done.path is not None
    first, last = await chain.ids()
    # The archiving is itself on the record.
    assert (first, last) == (done.last_id + 1, 100_002)
    lines = done.path.read_text().splitlines()
    assert len(lines) == done.count + 1
    assert json.loads(lines[-1])["checkpoint"]["last_id"] == done.last_id
    report = await chain.service.verify()
    assert report.ok and report.checked == 100_002 - done.count, report
    verified = time.monotonic()
    record_property(
        "figure",
        f"100,000 receipts written in {built - began:.1f} s; the next one archives {done.count:,} in"
        f" {archived - built:.1f} s; the other {report.checked:,} verify in {verified - archived:.1f} s",
    )
    assert (await chain.archive.sweep()).count == 0
    # And what is below the limit is as tamper-evident as before.
    chain.tamper("UPDATE management_receipts SET status = 'failed' WHERE receipt_id = 77777")
    report = await chain.service.verify()
    assert (report.ok, report.first_bad) == (False, 77_777)
    db.close()
