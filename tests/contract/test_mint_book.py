"""The operator's mints on a real database: followed from the options, checked, judged, and no other contacted
(docs/protocol/03-escrow-and-payments.md §4.2)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import msgspec
import pytest
import pytest_asyncio
from cashu_mint import PaperMint
from cl_hive_comms.domain.alert import Alert
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.storage import state_store
from cl_hive_comms.storage.state_store import StateStore
from hive_devnet.mint_faults import MintFaultFront
from hive_shared.cashu.keysets import Keyset, listed
from hive_shared.cashu.mint_book import MintBookService
from hive_shared.cashu.mint_caps import PROBE_VALID_S, Caps
from hive_shared.cashu.mint_health import EXPIRY_MARGIN_S, lockable_keyset
from hive_shared.cashu.mint_ports import MintSettings, WatchedMint
from hive_shared.cashu.mints import MintRole, MintStatus, Offer, Wish, in_order, objection
from hive_shared.cashu.ports import MintUnavailable
from hive_shared.cashu.reasons import MintNonconformant
from hive_shared.cashu.wire import KeysetInfo, MintInfo, NutSetting
from hive_shared.errors import InvalidParams, PaymentFailed
from hive_shared.mint_http import Mints
from hive_shared.mint_lane import MintTraffic
from hive_shared.storage import mint_store
from hive_shared.storage.families import NODE_ECASH
from hive_shared.storage.mint_store import MintStore
from hive_shared.store import Db, Tx
from msgspec.structs import replace

MIGRATIONS = Path(state_store.__file__).parent / "migrations"
NOW = 1_800_000_000
MAIN, SPARE = "https://main.example", "https://spare.example"
SAT = NutSetting(methods=[{"method": "bolt11", "unit": "sat"}])
YES = NutSetting(supported=True)
GOOD = MintInfo(
    version="Nutshell/0.19.2",
    time=NOW,
    nuts={"4": SAT, "5": SAT, **{str(nut): YES for nut in (7, 8, 9, 10, 11, 12, 14, 20)}},
)
ABLE = Caps(htlc=True, multisig=True, sigall=False, late_redeem=True, restore=True, n_sigs_refund=True)


@dataclass
class Told:
    """A mint that answers health checks as the test says."""

    url: str
    paper: PaperMint = field(default_factory=PaperMint)
    info_answer: MintInfo = GOOD
    now: Callable[[], int] = lambda: NOW
    failure: Exception | None = None
    listed: list[KeysetInfo] | None = None
    traffic: MintTraffic = field(default_factory=lambda: MintTraffic("closed", 0.0, 0, 0, 0.0))
    keys_asked: list[str] = field(default_factory=list)

    async def info(self) -> MintInfo:
        if self.failure is not None:
            raise self.failure
        answer = self.info_answer
        return msgspec.structs.replace(answer, time=self.now()) if answer.time == NOW else answer

    async def keysets(self) -> Sequence[KeysetInfo]:
        key = self.paper.keyset
        own = [KeysetInfo(key.id, "sat", True, key.input_fee_ppk), KeysetInfo("I2yN+iRYfkzT", "sat", False)]
        return own if self.listed is None else self.listed

    async def keyset(self, listed: KeysetInfo) -> Keyset:
        self.keys_asked.append(listed.id)
        return self.paper.keyset


@dataclass
class Desk:
    """The book with its mints, its clock and the operator's options."""

    db: Db
    now: int = NOW
    primary: str = MAIN
    backups: tuple[str, ...] = (SPARE,)
    mints: dict[str, Told] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.alerts = AlertService(self.db, StateStore(), now=lambda: self.now, log=_no_log)
        self.book = self.opened()

    def opened(self) -> MintBookService:
        return MintBookService(
            self.db,
            MintStore(NODE_ECASH),
            self,
            settings=lambda: MintSettings(self.primary, self.backups, 3_600),
            alerts=self.alerts,
            now=lambda: self.now,
            log=_no_log,
        )

    def at(self, url: str) -> WatchedMint:
        self.asked.append(url)
        return cast(
            WatchedMint, self.mints.setdefault(url, Told(url, PaperMint(seed=url), now=lambda: self.now))
        )

    def told(self, url: str) -> Told:
        return cast(Told, self.at(url))

    async def alerted(self) -> list[Alert]:
        return await self.alerts.recent()


def _no_log(level: str, event: str, /, **fields: object) -> None:
    pass


@pytest_asyncio.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    db = Db.open(tmp_path / "comms.db", MIGRATIONS)
    made = Desk(db)
    await made.book.load()
    yield made
    db.close()


async def test_a_mint_is_on_probation_until_it_was_probed(desk: Desk) -> None:
    await desk.book.tick()
    row = desk.book.row(MAIN)
    assert row is not None
    assert (row.status, row.role) == (MintStatus.PROBATION, MintRole.PRIMARY)
    assert (row.version, row.skew_s) == ("Nutshell/0.19.2", 0)
    row = await desk.book.probed(MAIN, ABLE, row.version)
    assert (row.status, row.probe_at, row.probe_due(NOW)) == (MintStatus.TRUSTED, NOW, False)
    desk.now += 3_600
    await desk.book.tick()
    again = desk.opened()
    await again.load()
    kept = again.row(MAIN)
    assert kept is not None and kept.status is MintStatus.TRUSTED and kept.caps == ABLE
    assert kept.checked_at == desk.now
    assert dict(again.known_keysets(MAIN)) == desk.told(MAIN).paper.keysets
    assert await desk.alerted() == []


async def test_checks_come_by_the_interval_and_keys_are_read_once(desk: Desk) -> None:
    await desk.book.tick()
    first = len(desk.asked)
    desk.now += 3_599
    await desk.book.tick()
    assert len(desk.asked) == first
    desk.now += 1
    await desk.book.tick()
    assert len(desk.asked) == first + 2
    assert desk.told(MAIN).keys_asked == [desk.told(MAIN).paper.keyset.id]


@pytest.mark.parametrize(
    ("info", "why"),
    [
        ({"14": None}, "does not say that it does NUT-14"),
        ({"4": NutSetting(methods=SAT.methods, disabled=True), "12": None}, "NUT-4, NUT-12"),
    ],
)
async def test_a_mint_without_what_is_needed_takes_no_locks(
    desk: Desk, info: dict[str, NutSetting | None], why: str
) -> None:
    nuts = {key: value for key, value in {**GOOD.nuts, **info}.items() if value is not None}
    desk.told(MAIN).info_answer = MintInfo(version="x", time=NOW, nuts=nuts)
    row = await desk.book.check(MAIN)
    assert row.status is MintStatus.DISABLED and why in row.last_error
    (alert,) = await desk.alerted()
    assert (alert.level, alert.code) == ("critical", "mint_disabled") and MAIN in alert.text
    await desk.book.check(MAIN)
    assert len(await desk.alerted()) == 1


@pytest.mark.parametrize(
    ("off", "why"), [(61, "61 s ahead"), (-61, "61 s behind"), (60, ""), (None, "shows no time")]
)
async def test_a_mint_with_another_clock_takes_no_locks(desk: Desk, off: int | None, why: str) -> None:
    time = None if off is None else NOW + off
    desk.told(MAIN).info_answer = MintInfo(version="x", time=time, nuts=GOOD.nuts)
    row = await desk.book.check(MAIN)
    assert (row.status is MintStatus.DISABLED) == bool(why)
    assert why in row.last_error and row.skew_s == off


async def test_a_keyset_that_changed_or_is_listed_twice_disables_the_mint(desk: Desk) -> None:
    main = desk.told(MAIN)
    await desk.book.check(MAIN)
    key = main.paper.keyset
    main.listed = [KeysetInfo(key.id, "sat", True), KeysetInfo(key.id, "sat", False)]
    assert "lists a keyset twice" in (await desk.book.check(MAIN)).last_error
    v2 = Told(SPARE, PaperMint(seed="v2", version=2, input_fee_ppk=100))
    desk.mints[SPARE] = v2
    assert (await desk.book.check(SPARE)).status is MintStatus.PROBATION
    v2.listed = [KeysetInfo(v2.paper.keyset.id, "sat", True, input_fee_ppk=200)]
    row = await desk.book.check(SPARE)
    assert row.status is MintStatus.DISABLED and "changed a keyset" in row.last_error
    main.listed = []
    assert "no active keyset in sat" in (await desk.book.check(MAIN)).last_error


async def test_a_keyset_that_is_listed_no_more_is_kept_for_what_is_locked_of_it(desk: Desk) -> None:
    await desk.book.check(MAIN)
    main = desk.told(MAIN)
    old, new = main.paper.keyset, PaperMint(seed="new").keyset
    main.listed = [KeysetInfo(new.id, "sat", True)]
    main.paper = PaperMint(seed="new")
    await desk.book.check(MAIN)
    again = desk.opened()
    await again.load()
    for book in (desk.book, again):
        known = book.known_keysets(MAIN)
        assert known == {old.id: replace(old, active=False, listed=False), new.id: new}
        assert listed(known) == {new.id: new}
    # One that comes back is the same one.
    main.listed = [KeysetInfo(old.id, "sat", True)]
    main.paper = PaperMint(seed=MAIN)
    await desk.book.check(MAIN)
    assert main.keys_asked == [old.id, new.id] and listed(desk.book.known_keysets(MAIN)) == {old.id: old}


async def test_a_mint_that_makes_ever_new_keysets_is_not_remembered_without_end(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mint_store, "MAX_UNLISTED", 2)
    store, made = MintStore(NODE_ECASH), [PaperMint(seed=str(number)).keyset for number in range(4)]

    def listing(tx: Tx) -> list[str]:
        for at, each in enumerate(made):
            store.unlist_keysets(tx, MAIN, [each.id], NOW + at)
            store.put_keyset(tx, MAIN, each, NOW + at)
        return list(store.keysets(tx, MAIN))

    # The two that were listed last, and the one that is.
    assert set(await desk.db.write(listing)) == {each.id for each in made[1:]}


async def test_one_keyset_id_with_two_sets_of_keys_flags_both_mints(desk: Desk) -> None:
    await desk.book.check(MAIN)
    await desk.book.probed(MAIN, ABLE, "Nutshell/0.19.2")
    mine = desk.told(MAIN).paper.keyset
    other = PaperMint(seed="other").keyset
    # A collision of two 56-bit ids cannot be made here: the row is written as if there were one.
    await desk.db.write(
        lambda tx: MintStore(NODE_ECASH).put_keyset(tx, SPARE, replace(other, id=mine.id), NOW)
    )
    row = await desk.book.check(MAIN)
    assert (
        row.status is MintStatus.DISABLED and row.last_error == f"keyset {mine.id} has other keys at {SPARE}"
    )
    spare = desk.book.row(SPARE)
    assert spare is not None and spare.status is MintStatus.DISABLED
    assert spare.last_error == f"keyset {mine.id} has other keys at {MAIN}"


async def test_three_checks_without_an_answer_and_a_backup_takes_new_locks(desk: Desk) -> None:
    await desk.book.tick()
    for url in (MAIN, SPARE):
        await desk.book.probed(url, ABLE, "Nutshell/0.19.2")
    desk.told(MAIN).failure = MintUnavailable(MAIN, "it answered HTTP 503", sent=True)
    desk.now += 3_600
    for wait, failures in ((0, 1), (59, 1), (1, 2), (60, 3)):
        desk.now += wait
        await desk.book.tick()
        row = desk.book.row(MAIN)
        assert row is not None and (row.failures, row.status) == (failures, MintStatus.TRUSTED)
    assert [alert.code for alert in await desk.alerted()] == ["mint_silent"]
    offers = [Offer(row, 100, True, 0) for row in desk.book.every()]
    assert _chosen(offers, Wish(100), now=desk.now) == SPARE
    desk.told(MAIN).failure = None
    desk.now += 60
    await desk.book.tick()
    offers = [Offer(row, 100, True, 0) for row in desk.book.every()]
    assert _chosen(offers, Wish(100), now=desk.now) == MAIN


async def test_a_mint_that_answered_falsely_is_probed_again_before_it_is_trusted(desk: Desk) -> None:
    await desk.book.check(MAIN)
    await desk.book.probed(MAIN, ABLE, "Nutshell/0.19.2")
    await desk.book.nonconformant(MAIN, "signature 0 was not made with the published key")
    row = desk.book.row(MAIN)
    assert row is not None and row.status is MintStatus.DISABLED
    assert (await desk.book.check(MAIN)).status is MintStatus.PROBATION
    row = await desk.book.probed(MAIN, Caps(htlc=True), "Nutshell/0.19.2")
    assert row.status is MintStatus.DISABLED and row.last_error == "its probe failed: restore"
    assert (await desk.book.check(MAIN)).status is MintStatus.PROBATION


async def test_a_new_version_and_thirty_days_ask_for_a_probe(desk: Desk) -> None:
    await desk.book.check(MAIN)
    await desk.book.probed(MAIN, ABLE, "Nutshell/0.19.2")
    desk.told(MAIN).info_answer = MintInfo(version="Nutshell/0.21.0", time=NOW, nuts=GOOD.nuts)
    row = await desk.book.check(MAIN)
    assert row.status is MintStatus.PROBATION and row.probe_due(NOW)
    row = await desk.book.probed(MAIN, ABLE, "Nutshell/0.21.0")
    assert not row.probe_due(NOW + PROBE_VALID_S - 1) and row.probe_due(NOW + PROBE_VALID_S)


async def test_garbage_disables_and_the_next_good_answer_enables(desk: Desk) -> None:
    await desk.book.check(MAIN)
    await desk.book.probed(MAIN, ABLE, "Nutshell/0.19.2")
    desk.told(MAIN).failure = MintNonconformant("the mint's answer is not JSON")
    assert (await desk.book.check(MAIN)).status is MintStatus.DISABLED
    desk.told(MAIN).failure = None
    assert (await desk.book.check(MAIN)).status is MintStatus.TRUSTED


async def test_options_are_followed_and_a_mint_no_longer_named_is_not_contacted(desk: Desk) -> None:
    await desk.book.tick()
    desk.primary, desk.backups = SPARE, ()
    desk.now += 7_200
    desk.asked.clear()
    await desk.book.tick()
    assert desk.asked == [SPARE]
    assert [(row.url, row.role) for row in desk.book.every()] == [
        (SPARE, MintRole.PRIMARY),
        (MAIN, MintRole.FORMER),
    ]
    with pytest.raises(PaymentFailed, match=f"{MAIN} is none of your mints") as caught:
        desk.book.at(MAIN)
    assert caught.value.reason == "mint_not_allowed"
    with pytest.raises(InvalidParams, match="must use https://"):
        desk.book.at("http://mint.example.com")
    desk.primary = ""
    with pytest.raises(PaymentFailed, match="there are none"):
        await desk.book.keysets(MAIN)
    assert desk.asked == [SPARE]


def _chosen(offers: Sequence[Offer], wish: Wish, *, now: int = NOW) -> str | None:
    fit = [o for o in in_order(offers, wish) if objection(o, wish, max_locked_sats=250_000, now=now) is None]
    return fit[0].row.url if fit else None


async def test_the_choice_for_a_lock(desk: Desk) -> None:
    await desk.book.tick()
    rows = {}
    for url in (MAIN, SPARE):
        rows[url] = await desk.book.probed(url, ABLE, "Nutshell/0.19.2")
    main, spare = Offer(rows[MAIN], 100, True, 0), Offer(rows[SPARE], 0, True, 0)
    assert _chosen([spare, main], Wish(100)) == MAIN
    assert _chosen([main, spare], Wish(100, preferred=SPARE)) == SPARE
    assert _chosen([main, spare], Wish(100, accepted=frozenset({SPARE}))) == SPARE
    assert _chosen([replace(main, open=False), spare], Wish(100)) == SPARE
    assert _chosen([replace(main, locked_sats=249_901), spare], Wish(100)) == SPARE
    assert _chosen([replace(main, fee_ppk=None), spare], Wish(100)) == SPARE
    assert _chosen([main, spare], Wish(100, multisig=True)) == MAIN
    assert _chosen([main, spare], Wish(100, sigall=True)) is None
    assert _chosen([main, spare], Wish(100), now=NOW + PROBE_VALID_S) is None
    # What speaks against a mint does so by itself, whatever else is well with it.
    for against in (
        {"status": MintStatus.DISABLED, "last_error": "its clock is 3600 s ahead"},
        {"status": MintStatus.PROBATION},
        {"failures": 3},
        {"version": "Nutshell/0.21.0"},
        {"caps": replace(ABLE, htlc=False)},
        {"caps": replace(ABLE, restore=False)},
    ):
        worse = replace(main, row=replace(rows[MAIN], **against))
        assert _chosen([worse, spare], Wish(100)) == SPARE, against
    assert _chosen([replace(main, row=replace(rows[MAIN], failures=2)), spare], Wish(100)) == MAIN
    both = replace(rows[MAIN], caps=replace(ABLE, sigall=True, multisig=False))
    assert _chosen([replace(main, row=both)], Wish(100, multisig=True, sigall=True)) is None
    twin = replace(spare, row=replace(rows[SPARE], url="https://a.example"), fee_ppk=500)
    assert [offer.row.url for offer in in_order([twin, spare], Wish(1))] == [SPARE, "https://a.example"]


async def test_a_lock_that_no_mint_takes_says_what_speaks_against_each(desk: Desk) -> None:
    with pytest.raises(PaymentFailed, match=f"{MAIN}: not probed; {SPARE}: not probed") as caught:
        desk.book.for_lock(Wish(100), NOW + 60, {}, 250_000)
    assert caught.value.reason == "mint_unavailable"
    await desk.book.tick()
    for url in (MAIN, SPARE):
        await desk.book.probed(url, ABLE, "Nutshell/0.19.2")
    assert desk.book.for_lock(Wish(100), NOW + 60, {}, 250_000) == (MAIN, desk.told(MAIN).paper.keyset)
    url, _ = desk.book.for_lock(Wish(100), NOW + 60, {MAIN: 249_901}, 250_000)
    assert url == SPARE
    with pytest.raises(PaymentFailed, match="249901 sat are locked there, at most 250000 may be"):
        desk.book.for_lock(Wish(100, accepted=frozenset({MAIN})), NOW + 60, {MAIN: 249_901}, 250_000)
    desk.primary, desk.backups = "", ()
    with pytest.raises(PaymentFailed, match="you named none"):
        desk.book.for_lock(Wish(100), NOW + 60, {}, 250_000)


def test_the_keyset_of_a_lock_outlives_it() -> None:
    paper = PaperMint()
    cheap = replace(paper.keyset, id="a", input_fee_ppk=1, final_expiry=NOW + EXPIRY_MARGIN_S)
    dear = replace(paper.keyset, id="b", input_fee_ppk=2)
    idle = replace(paper.keyset, id="c", active=False)
    assert lockable_keyset([idle, dear, cheap], NOW - 1) == cheap
    assert lockable_keyset([idle, dear, cheap], NOW) == dear
    assert lockable_keyset([idle], NOW) is None


async def test_a_mint_nobody_named_sees_no_connection(desk: Desk, mint_url: str) -> None:
    async with MintFaultFront.before(mint_url) as front:
        connections = Mints(jitter=lambda: 0.0)
        book = MintBookService(
            desk.db,
            MintStore(NODE_ECASH),
            connections,
            settings=lambda: MintSettings(mint_url, (), 3_600),
            alerts=desk.alerts,
            now=lambda: desk.now,
            log=_no_log,
        )
        for call in (book.keysets(front.url), book.check(front.url), book.nonconformant(front.url, "x")):
            with pytest.raises(PaymentFailed, match="is none of your mints"):
                await call
        assert front.connections == 0
        await connections.close()
