"""A real mint in trouble, or lying, as the operator's book of mints sees it (docs/protocol/03 §14.14)."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.storage import state_store
from cl_hive_comms.storage.state_store import StateStore
from hive_devnet.mint_faults import MintFault, MintFaultFront, MintFaultKind
from hive_shared.cashu.mint_book import MintBookService
from hive_shared.cashu.mint_caps import Caps
from hive_shared.cashu.mint_ports import MintSettings
from hive_shared.cashu.mints import MintStatus, Wish
from hive_shared.cashu.ports import MintRefused, MintUnavailable
from hive_shared.errors import PaymentFailed
from hive_shared.mint_http import MintHttp, Mints
from hive_shared.storage.families import NODE_ECASH
from hive_shared.storage.mint_store import MintStore
from hive_shared.store import Db

MIGRATIONS = Path(state_store.__file__).parent / "migrations"
QUOTE = "/v1/mint/quote/bolt11"


class Clock:
    """The breaker's, not the mint's."""

    passed = 0.0

    def monotonic(self) -> float:
        return self.passed

    async def sleep(self, seconds: float) -> None:
        self.passed += seconds


@dataclass
class Desk:
    """One trusted mint behind the front."""

    front: MintFaultFront
    book: MintBookService
    mint: MintHttp
    clock: Clock

    def objection(self) -> str | None:
        """Why the mint takes no new lock now."""
        try:
            url, keyset = self.book.for_lock(Wish(100), _now() + 86_400, {}, 250_000)
        except PaymentFailed as refusal:
            assert refusal.reason == "mint_unavailable"
            return refusal.detail.removeprefix(f"no mint takes a lock of 100 sat: {self.front.url}: ")
        assert url == self.front.url and keyset.active
        return None


@pytest_asyncio.fixture
async def desk(tmp_path: Path, mint_url: str) -> AsyncIterator[Desk]:
    db = Db.open(tmp_path / "comms.db", MIGRATIONS)
    async with MintFaultFront.before(mint_url) as front:
        clock = Clock()
        mints = Mints(jitter=lambda: 0.0, monotonic=clock.monotonic, sleep=clock.sleep)
        book = MintBookService(
            db,
            MintStore(NODE_ECASH),
            mints,
            settings=lambda: MintSettings(front.url, (), 3_600),
            alerts=AlertService(db, StateStore(), now=_now, log=lambda *_, **__: None),
            now=_now,
            log=lambda *_, **__: None,
        )
        made = Desk(front, book, mints.at(front.url), clock)
        await book.load()
        row = await book.check(front.url)
        await book.probed(front.url, Caps(htlc=True, restore=True), row.version)
        assert made.objection() is None
        front.requests.clear()
        yield made
        await mints.close()
    db.close()


def _now() -> int:
    return int(time.time())


@pytest.mark.parametrize("kind", [MintFaultKind.STATUS_BEFORE, MintFaultKind.HOLD_BEFORE])
async def test_acceptance_03_14_five_failures_open_the_breaker(
    desk: Desk, kind: MintFaultKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hive_shared.mint_http.request_seconds", lambda elements: 0.2)
    desk.front.set(MintFault(kind, path=QUOTE, times=5))
    for _ in range(5):
        with pytest.raises(MintUnavailable):
            await desk.mint.mint_quote(8)
    for second in range(0, 60, 10):
        desk.clock.passed += 10 if second else 9
        with pytest.raises(MintUnavailable, match="failed 5 times in a row"):
            await desk.mint.mint_quote(8)
        left = 51 - second
        assert desk.objection() == f"not answering: its breaker is open; try again in {left} s"
    monkeypatch.undo()
    # Those held are written down when they are let go: five either way, and none after them.
    desk.front.release()
    desk.clock.passed += 1
    for state in ("half-open", "half-open", "half-open", "closed"):
        assert desk.mint.traffic.breaker == state
        await desk.mint.mint_quote(8)
    assert desk.objection() is None
    reached = [request for request in desk.front.seen(QUOTE) if request.forwarded]
    assert len(reached) == 4


async def test_acceptance_03_14_refusals_do_not_open_it(desk: Desk) -> None:
    desk.front.set(MintFault(MintFaultKind.STATUS_BEFORE, path=QUOTE, times=12, status=400))
    for _ in range(12):
        with pytest.raises(MintRefused):
            await desk.mint.mint_quote(8)
    assert desk.mint.traffic.breaker == "closed" and desk.objection() is None


@pytest.mark.parametrize(
    ("kind", "path", "why"),
    [
        (MintFaultKind.HUGE, "/v1/info", "more than 4194304 bytes"),
        (MintFaultKind.REDIRECT, "/v1/info", "redirects are not followed"),
        (MintFaultKind.WRONG_KEYSET, "/v1/keysets", "refused (HTTP 4"),
        (MintFaultKind.CLOCK_AHEAD, "/v1/info", "s ahead, allowed are 60"),
        (MintFaultKind.GARBAGE, "/v1/keysets", "not JSON"),
    ],
)
async def test_acceptance_03_14_an_answer_no_mint_gives_ends_new_locks(
    desk: Desk, kind: MintFaultKind, path: str, why: str
) -> None:
    desk.front.set(MintFault(kind, path=path))
    row = await desk.book.check(desk.front.url)
    assert row.status is MintStatus.DISABLED and why in row.last_error
    assert desk.objection() == f"disabled: {row.last_error}"
    assert (await desk.book.check(desk.front.url)).status is MintStatus.TRUSTED
    assert desk.objection() is None
