"""How findings are judged, what of them is news, and the time limit (Protocol 08 §8.6)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cl_hive_comms.domain.selfcheck import Check, backup_check, clock_check, fail, news, ok, warn
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.services.selfcheck_service import SelfcheckService
from cl_hive_comms.storage.state_store import StateStore
from hive_shared.alerts import Level
from hive_shared.store import Db, Tx
from pipeline_world import MIGRATIONS, NOW

DAY = 86_400


@pytest.mark.parametrize(
    ("step", "offsets", "status", "said"),
    [
        (0, [], "ok", "steady"),
        (59, [], "ok", "steady"),
        (-61, [], "warn", "-61 s since the start"),
        (0, [3.0, -2.0], "ok", "agrees with 2 relays"),
        (0, [61.0], "warn", "61 s ahead of the only relay"),
        (0, [-400.0, -399.0, 0.0], "fail", "399 s behind 3 relays"),
        (0, [9_000.0, 1.0, 0.0], "ok", "agrees with 3 relays"),
    ],
)
def test_one_relay_alone_makes_nothing_fail(step: int, offsets: list[float], status: str, said: str) -> None:
    check = clock_check(step, offsets)
    assert check.status == status and said in check.detail, check


@pytest.mark.parametrize(
    ("taken", "at_stake", "status", "said"),
    [
        ({}, [], "ok", "nothing that is not in the node's seed"),
        ({}, ["credentials"], "warn", "never backed up: credentials"),
        ({"credentials": NOW - DAY}, ["credentials"], "ok", "1 days old"),
        ({"credentials": NOW - DAY}, ["credentials", "policy"], "warn", "never backed up: policy"),
        ({"credentials": NOW, "policy": NOW - 31 * DAY}, ["credentials", "policy"], "warn", "31 days old"),
    ],
)
def test_the_oldest_part_at_stake_counts(
    taken: dict[str, int], at_stake: list[str], status: str, said: str
) -> None:
    check = backup_check(taken, at_stake=at_stake, now=NOW)
    assert check.status == status and said in check.detail, check


def test_only_changes_to_and_from_fail_are_news() -> None:
    found = [fail("receipts", "r", ""), fail("disk", "d", ""), warn("wal", "w", ""), ok("relays", "o")]
    told = [(item.level, item.check.id) for item in news({}, found)]
    assert told == [(Level.CRITICAL, "receipts"), (Level.WARNING, "disk")]
    before = {"receipts": "fail", "disk": "ok", "wal": "fail", "relays": "warn"}
    told = [(item.level, item.check.id) for item in news(before, found)]
    assert told == [(Level.WARNING, "disk"), (Level.INFO, "wal")]


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Db]:
    opened = Db.open(tmp_path / "comms.db", MIGRATIONS)
    yield opened
    opened.close()


def quiet(level: str, event: str, /, **fields: object) -> None:
    return None


class Findings:
    """A self-check of one check whose status is set from outside."""

    def __init__(self, db: Db) -> None:
        self.status = "ok"
        facts = StateStore()
        self.db, self.now = db, NOW
        alerts = AlertService(db, facts, now=lambda: self.now, log=quiet)
        self.service = SelfcheckService(
            {"disk": self._check}, {}, db=db, facts=facts, alerts=alerts, now=lambda: self.now, log=quiet
        )

    async def _check(self) -> Check:
        return {"ok": ok("disk", "fine"), "fail": fail("disk", "12 MB free", "make room")}[self.status]

    async def alerts(self) -> list[tuple[str, str]]:
        rows = await self.db.read(lambda tx: StateStore().recent_alerts(tx, 10))
        return [(row.level.value, row.text) for row in reversed(rows)]


async def test_a_failing_check_raises_one_alert_until_it_is_well_again(db: Db) -> None:
    found = Findings(db)
    await found.service.run()
    assert await found.alerts() == []
    found.status = "fail"
    await found.service.run()
    failing = ("warning", "self-check disk fails: 12 MB free; make room")
    assert await found.alerts() == [failing]
    found.now += DAY
    # A day later, after a restart, it still fails: no news.
    again = Findings(db)
    again.status, again.now = "fail", found.now
    await again.service.run()
    assert await found.alerts() == [failing]
    found.status = "ok"
    await found.service.run()
    assert await found.alerts() == [failing, ("info", "self-check disk no longer fails: fine")]


async def test_the_answer_comes_within_five_seconds_whatever_hangs(db: Db) -> None:
    release = asyncio.Event()

    async def hangs() -> Check:
        await release.wait()
        return ok("x", "")

    async def hangs_too() -> str:
        await release.wait()
        return ""

    async def breaks() -> Check:
        raise LookupError("surprise")

    async def well() -> Check:
        return ok("well", "fine")

    facts = StateStore()
    alerts = AlertService(db, facts, now=lambda: NOW, log=quiet)
    service = SelfcheckService(
        {"hangs": hangs, "breaks": breaks, "well": well},
        {"wal": hangs_too},
        db=db,
        facts=facts,
        alerts=alerts,
        now=lambda: NOW,
        log=quiet,
    )

    free = threading.Event()

    def busy(tx: Tx) -> None:
        free.wait(60)

    writer = asyncio.create_task(db.write(busy))
    answer = await service.run(fix=True)
    assert not writer.done(), "answered before the writer was free"
    free.set()
    checks = {row["id"]: row for row in answer["checks"]}
    assert {name: row["status"] for name, row in checks.items()} == {
        "hangs": "warn",
        "breaks": "fail",
        "well": "ok",
    }
    assert checks["breaks"]["detail"] == "the check itself failed: LookupError"
    assert answer["repaired"] == [{"id": "wal", "did": "not finished in time; it may still go on"}]
    release.set()
    await writer
