"""Payments to this node by ecash that was asked for, at the real mint: for one request, for who presents it
first, killed at every disk and mint call (docs/protocol/03-escrow-and-payments.md §4.2, §9)."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cl_hive_comms.domain.payment import Payment
from cl_hive_comms.services.ecash_requests import EcashRequests
from cl_hive_comms.services.payer_book import LockKey
from cl_hive_comms.services.payment_requests import PaymentRequests
from cl_hive_comms.storage.payment_store import PaymentStore
from crash_points import Countdown
from ecash_world import EcashWorld
from hive_shared.cashu.derive import public_key
from hive_shared.cashu.journal import OpKind, OpState
from hive_shared.cashu.ports import MintUnavailable
from hive_shared.cashu.terms import lock_key_text, signed_by
from hive_shared.crypto import Sealer, Secret
from hive_shared.errors import Busy, EmergencyStop, PaymentFailed
from hive_shared.store import Tx
from pipeline_world import Crash, Stops
from receiving_world import THEM, US, Ourselves

pytestmark = pytest.mark.asyncio(loop_scope="module")
_MINT_CALLS = ("swap", "checkstate", "restore")
_MOST_POINTS = 40
PRICE = 40


class Asking(EcashWorld, Stops):
    """A node that asks for ecash. `told` are the payers that were told a key."""

    most = 50_000

    def open(self) -> None:
        super().open()
        self.told: list[LockKey] = []
        self.let = set[str]()
        self.payments = PaymentStore(Sealer({1: Secret(b"k" * 32)}, 1))
        self.requests = PaymentRequests(
            db=self.db,
            rows=self.payments,
            node=None,
            kill_switch=self,
            random_bytes=os.urandom,
            now=lambda: self.now,
            fault=self._fault,
            key=Secret(b"\x4c" * 32),
            node_id="02" + "ab" * 32,
            log=lambda *_, **__: None,
        )
        self.requests.ecash = EcashRequests(
            self.db,
            self.payments,
            self.service,
            self.keys,
            Ourselves(),
            self,
            mints=self.mints.accepted,
            most_sat=lambda: self.most,
            now=lambda: self.now,
        )

    async def _fault(self, point: str) -> None:
        return

    def engaged(self) -> bool:
        return self.stopped

    def draining(self) -> bool:
        return False

    def keep(self, tx: Tx, key: LockKey) -> None:
        self.told.append(key)

    def let_in(self, payer: str) -> None:
        self.let.add(payer)

    async def ask(
        self, sats: int = PRICE, payer: str | None = None, expiry_s: int = 600
    ) -> tuple[Payment, dict[str, Any]]:
        row = await self.requests.request(sats, "lease:7", None, expiry_s, "cashu", payer=payer)
        return row, self.requests.told(row, payer)

    async def row(self, payment_id: str) -> Payment:
        found = await self.db.read(lambda tx: self.payments.get(tx, payment_id))
        assert found is not None
        return found

    async def sats(self) -> int:
        return sum(row["unspent"] for row in (await self.service.balance()).values())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def payer(mint_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EcashWorld]:
    world = EcashWorld(tmp_path_factory.mktemp("payer"), mint_url)
    world.now = int(time.time())
    await world.service.fund(5_000, None, None, 30)
    yield world
    await world.close()


@pytest_asyncio.fixture(loop_scope="module")
async def shop(mint_url: str, tmp_path: Path) -> AsyncIterator[Asking]:
    world = Asking(tmp_path, mint_url)
    world.now = int(time.time())
    yield world
    await world.close()


async def token(payer: EcashWorld, sats: int, pubkey: str | None) -> str:
    return (await payer.service.send(sats, None, pubkey, None, 30)).body.token


async def test_ecash_locked_to_a_requests_key_pays_it_once_and_for_who_came_first(
    payer: EcashWorld, shop: Asking
) -> None:
    row, told = await shop.ask(payer=THEM)
    assert told["lock_pubkey"] == public_key(shop.keys.lock(row.payment_id)) == row.offer_id
    assert signed_by(US, lock_key_text(told["context"], told["lock_pubkey"]), told["binding"])
    assert told["mints"] == [shop.mint_url] and shop.let == {THEM}
    assert [(key.payer, key.context) for key in shop.told] == [(THEM, row.payment_id)]
    other, _ = await shop.ask()
    short = await token(payer, PRICE - 1, told["lock_pubkey"])
    good = await token(payer, PRICE + 1, told["lock_pubkey"])
    for given, price, reason in (
        (short, PRICE, "too_little"),
        (good, PRICE + 1, "too_little"),
        (await token(payer, PRICE + 1, None), PRICE, "token_invalid(kind)"),
        (await token(payer, PRICE + 1, shop.service.receive_pubkey), PRICE, "not_found"),
        ("cashuBgarbage", PRICE, "token_invalid(token_form)"),
    ):
        with pytest.raises(PaymentFailed) as refused:
            await shop.requests.verify_token(given, price, "ada")
        assert refused.value.symbol == reason, refused.value
    assert await shop.ops() == [] and await shop.sats() == 0
    ends = await asyncio.gather(
        *(shop.requests.verify_token(good, PRICE, who) for who in ("ada", "bob")), return_exceptions=True
    )
    assert ends.count(row.payment_id) == 1
    assert [end.symbol for end in ends if isinstance(end, PaymentFailed)] == ["payment_replayed"]
    winner = "ada" if ends[0] == row.payment_id else "bob"
    assert await shop.requests.verify_token(good, PRICE, winner) == row.payment_id
    assert ((await shop.row(row.payment_id)).state, await shop.sats()) == ("settled", PRICE)
    again = await token(payer, PRICE + 1, told["lock_pubkey"])
    with pytest.raises(PaymentFailed, match="payment_replayed"):
        await shop.requests.verify_token(again, PRICE, winner)
    # What waits runs out, and takes nothing then.
    late = await token(payer, PRICE + 1, other.offer_id)
    shop.now += 601
    await shop.requests.settle()
    assert (await shop.row(other.payment_id)).state == "expired"
    with pytest.raises(PaymentFailed, match="invoice_expired"):
        await shop.requests.verify_token(late, PRICE, "ada")
    assert len([op for op in await shop.ops() if op.kind is OpKind.RECEIVE]) == 1


async def test_no_more_than_may_lie_at_a_mint_is_asked_for_or_taken(payer: EcashWorld, shop: Asking) -> None:
    with pytest.raises(PaymentFailed, match="exposure_limit"):
        await shop.ask(50_001)
    assert await shop.db.read(shop.payments.awaited) == 0
    row, told = await shop.ask()
    given = await token(payer, PRICE + 1, told["lock_pubkey"])
    await shop.service.fund(49_990, None, None, 30)
    with pytest.raises(PaymentFailed, match=r"exposure_limit.*was not touched"):
        await shop.requests.verify_token(given, PRICE, "ada")
    with pytest.raises(PaymentFailed, match="exposure_limit"):
        await shop.service.looked_at(await token(payer, 30, None), 30)
    assert (await shop.row(row.payment_id)).state == "awaiting" and await shop.sats() == 49_990
    shop.stopped = True
    with pytest.raises(EmergencyStop):
        await shop.ask()


class Slow:
    """A mint that answers no swap; `carry_out` has it do what it was asked first."""

    def __init__(self, shop: Asking) -> None:
        self.shop, self.swap = shop, shop.mints.client.swap
        self.first: tuple[Any, ...] | None = None
        shop.mints.client.swap = self.silent  # type: ignore[method-assign]

    async def silent(self, *asked: Any) -> Any:
        self.first = self.first or asked
        raise MintUnavailable(self.shop.mint_url, "no answer", sent=True)

    async def given_up(self, given: str) -> None:
        """A token is presented, and its swap given up."""
        with pytest.raises((Busy, PaymentFailed)):
            await self.shop.requests.verify_token(given, PRICE, "ada")
        while any(op.open for op in await self.shop.ops()):
            await self.shop.sweep()
        (op,) = await self.shop.ops()
        assert op.state is OpState.FAILED and op.watch_until > self.shop.now

    async def carry_out(self) -> None:
        """The mint does it late, and is as others are from then on."""
        assert self.first is not None
        await self.swap(*self.first)
        self.shop.mints.client.swap = self.swap  # type: ignore[method-assign]


async def test_a_token_that_is_exchanged_late_pays_its_request(payer: EcashWorld, shop: Asking) -> None:
    row, told = await shop.ask(expiry_s=604_800)
    given = await token(payer, PRICE + 1, told["lock_pubkey"])
    mint = Slow(shop)
    await mint.given_up(given)
    # It is presented again: its second swap begins while the mint carries out the first one.
    checkstate = shop.mints.client.checkstate

    async def then(*asked: Any) -> Any:
        answer = await checkstate(*asked)
        shop.mints.client.checkstate = checkstate  # type: ignore[method-assign]
        await mint.carry_out()
        return answer

    shop.mints.client.checkstate = then  # type: ignore[method-assign]
    with pytest.raises(Busy):
        await shop.requests.verify_token(given, PRICE, "ada")
    with pytest.raises(PaymentFailed, match="payment_replayed"):
        await shop.requests.verify_token(given, PRICE, "bob")
    await shop.sweep()
    assert await shop.sats() == PRICE
    assert await shop.requests.verify_token(given, PRICE, "ada") == row.payment_id
    assert ((await shop.row(row.payment_id)).state, await shop.sats()) == ("settled", PRICE)


async def test_while_one_token_may_still_be_exchanged_no_other_is_taken(
    payer: EcashWorld, shop: Asking
) -> None:
    row, told = await shop.ask(expiry_s=7_200)
    first, second = [await token(payer, PRICE + 1, told["lock_pubkey"]) for _ in range(2)]
    mint = Slow(shop)
    await mint.given_up(first)
    with pytest.raises(Busy, match="present that one again"):
        await shop.requests.verify_token(second, PRICE, "ada")
    with pytest.raises(PaymentFailed, match="payment_replayed"):
        await shop.requests.verify_token(second, PRICE, "bob")
    # Its time ran out meanwhile: that changes nothing about what is under way.
    shop.now = row.expires_at or 0
    shop.now += 1
    await shop.requests.settle()
    with pytest.raises(Busy, match="the same token"):
        await shop.requests.verify_token(first, PRICE, "ada")
    await mint.carry_out()
    await shop.sweep()
    with pytest.raises(PaymentFailed, match="payment_replayed"):
        await shop.requests.verify_token(second, PRICE, "ada")
    assert await shop.requests.verify_token(first, PRICE, "ada") == row.payment_id
    assert await shop.sats() == PRICE


async def test_killed_at_every_disk_and_mint_call_a_payment_is_taken_once(
    payer: EcashWorld, mint_url: str, tmp_path: Path
) -> None:
    for at in range(_MOST_POINTS):
        shop = Asking(tmp_path / str(at), mint_url)
        shop.now = int(time.time())
        row, told = await shop.ask(expiry_s=604_800)
        given = await token(payer, PRICE + 1, told["lock_pubkey"])
        countdown = Countdown(at)
        countdown.watch(shop.db, "write")
        countdown.watch(shop.mints.client, *_MINT_CALLS)
        died = True
        try:
            await shop.requests.verify_token(given, PRICE, "ada")
            died = False
        except Crash:
            pass
        countdown.left = -1
        await shop.restart()
        await shop.sweep()
        await shop.requests.settle()
        if (await shop.row(row.payment_id)).bound_to is not None:
            with pytest.raises((PaymentFailed, Busy)):
                await shop.requests.verify_token(given, PRICE, "bob")
        assert await shop.requests.verify_token(given, PRICE, "ada") == row.payment_id, at
        paid = await shop.row(row.payment_id)
        assert (paid.state, paid.bound_to) == ("settled", "ada")
        assert await shop.sats() == PRICE
        ops = [op for op in await shop.ops() if op.state is OpState.DONE]
        assert len(ops) == 1 and all(not op.open for op in await shop.ops())
        await shop.close()
        if not died:
            break
    else:
        pytest.fail(f"more than {_MOST_POINTS} points")
    assert at > 3
