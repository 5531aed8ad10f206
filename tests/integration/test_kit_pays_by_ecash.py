"""Fees that the kit pays by ecash: a mint is asked once, and its word alone ends a payment
(docs/protocol/11-advisor-kit.md §8; docs/decisions/0630)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from crash_points import Countdown
from ecash_world import EcashWorld, invoice_of
from hive_advisor.config import SpendConfig
from hive_advisor.domain.outgoing import Outgoing, OutState
from hive_advisor.payments.ecash import EcashMoney
from hive_devnet.mint_faults import MintFault, MintFaultFront, MintFaultKind
from hive_shared.bolt11 import read_invoice
from hive_shared.cashu.journal import OpKind, OpState
from hive_shared.errors import HiveError, InvalidParams
from kit_ecash import KitEcash
from kit_world import KitWorld
from msgspec.structs import replace
from pipeline_world import Crash

pytestmark = pytest.mark.asyncio(loop_scope="module")
NOW, START, FEE = 1_800_000_000, 256, 100
MELT = "/v1/melt/bolt11"
_MOST_POINTS = 40


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def payer(mint_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EcashWorld]:
    world = EcashWorld(tmp_path_factory.mktemp("payer"), mint_url)
    await world.service.fund(10_000, None, None, 30)
    yield world
    await world.close()


async def filled(world: KitEcash, payer: EcashWorld) -> EcashMoney:
    await world.ecash.ready()
    token = (await payer.service.send(START, None, None, None, 30)).body.token
    await world.service.receive(token, 30)
    return money_of(world)


def money_of(world: KitEcash) -> EcashMoney:
    return EcashMoney(world.ecash, lambda: world.now)


def fee(world: KitEcash) -> Outgoing:
    invoice = invoice_of(FEE, NOW + 2 * 86_400)
    return Outgoing(
        payment_hash=read_invoice(invoice).payment_hash,
        client_id="alice",
        command_id="c1",
        method="bolt11",
        way="cashu",
        invoice=invoice,
        amount_sats=FEE,
        max_fee_msat=money_of(world).most_fee_msat(FEE),
        invoice_expires=NOW + 3 * 86_400,
        state=OutState.SENDING,
        created=world.now,
        updated=world.now,
    )


async def melts(world: KitEcash) -> list[OpState]:
    return [op.state for op in await world.ops() if op.kind is OpKind.MELT]


async def test_a_fee_is_paid_once_and_found_in_the_journal(
    mint_url: str, payer: EcashWorld, tmp_path: Path
) -> None:
    world = KitEcash(tmp_path, mint_url)
    money = await filled(world, payer)
    await money.check()
    payment, had = fee(world), await world.sats()
    first = await money.pay(payment)
    # This mint shows no preimage that counts, and nothing else makes it paid.
    assert first.preimage == "0" * 64 and not first.failed
    assert await money.pay(payment) == await money.settled(payment) == first
    left = had - await world.sats()
    assert FEE <= left <= payment.reserved_sats and await melts(world) == [OpState.DONE]
    await world.close()


async def test_what_could_not_begin_has_failed_and_nothing_else_has(
    mint_url: str, payer: EcashWorld, tmp_path: Path
) -> None:
    async with MintFaultFront.before(mint_url) as front:
        world = KitEcash(tmp_path, front.url)
        await world.ecash.ready()
        money = money_of(world)
        with pytest.raises(InvalidParams, match="no ecash at the mints"):
            await money.check()
        payment = fee(world)
        with pytest.raises(HiveError) as refused:
            await money.pay(payment)
        assert refused.value.reason == "insufficient_ecash" and await melts(world) == []
        # A kit that died here may still be at it somewhere; after all its waits it is not.
        assert not (await money.settled(payment)).failed
        world.now += 180
        assert (await money.settled(payment)).failed
        other = EcashWorld(tmp_path / "payer", front.url)
        await other.service.fund(START + 10, None, None, 30)
        money, payment = await filled(world, other), fee(world)
        have = await world.sats()
        front.set(MintFault(MintFaultKind.LOSE_BEFORE, path=MELT, times=9))
        result = await money.pay(payment)
        while await melts(world) != [OpState.FAILED]:
            assert not result.failed and "may be paid late" not in result.why
            await world.sweep()
            result = await money.settled(payment)
        assert not result.failed and "may be paid late" in result.why
        assert not (await money.pay(payment)).failed and await melts(world) == [OpState.FAILED]
        front.clear()
        world.now += 2 * 86_400
        assert (await money.settled(payment)).failed and await world.sats() == have
        await world.close()
        await other.close()


async def test_a_kit_killed_anywhere_pays_once_or_not_at_all(
    mint_url: str, payer: EcashWorld, tmp_path: Path
) -> None:
    for at in range(0, _MOST_POINTS, 2):
        world = KitEcash(tmp_path / str(at), mint_url)
        money, countdown = await filled(world, payer), Countdown(at)
        payment, had = fee(world), await world.sats()
        countdown.watch(world.db, "write")
        countdown.watch(world.mints.client, "melt_quote", "melt", "melt_quote_state")
        died = True
        try:
            await money.pay(payment)
            died = False
        except Crash:
            pass
        countdown.left = -1
        await world.restart()
        await world.sweep()
        await world.sweep()
        told, spent = await money_of(world).settled(payment), had - await world.sats()
        if told.failed:
            assert spent == 0 and OpState.DONE not in await melts(world), at
        else:
            assert told.preimage == "0" * 64 and FEE <= spent <= payment.reserved_sats, at
            assert await melts(world) == [OpState.DONE], at
        await world.close()
        if not died:
            return
    pytest.fail(f"more than {_MOST_POINTS} points")


@pytest.mark.parametrize("asked", [True, False])
async def test_a_restored_copy_says_of_no_payment_under_way_that_it_failed(
    mint_url: str, payer: EcashWorld, tmp_path: Path, asked: bool
) -> None:
    """It may have been paid since the copy was made, and another one would pay the fee twice."""
    world = KitEcash(tmp_path / "now", mint_url)
    money, payment = await filled(world, payer), fee(world)
    if asked:
        # The mint pays, and nobody has heard of it when the copy is made.
        Countdown(1).watch(world.mints.client, "melt")
        with pytest.raises(Crash):
            await money.pay(payment)
    await world.close()
    old = world.copy(tmp_path / "old")
    world.open()
    await world.ecash.ready()
    if not asked:
        await money_of(world).pay(payment)
    await world.sweep()
    await world.sweep()
    assert await melts(world) == [OpState.DONE]
    await world.close()
    await old.ecash.ready()
    await old.ecash.note_restored()
    for later in (300, 86_400, 7 * 86_400):
        old.now += later
        said = await money_of(old).settled(payment)
        assert not said.failed and not said.preimage and "older copy" in said.why
    # What is begun after that ends as ever.
    assert (
        await money_of(old).settled(replace(payment, payment_hash="ab" * 32, created=old.now - 180))
    ).failed
    await old.close()


async def test_without_a_mint_it_says_what_to_do(tmp_path: Path) -> None:
    world = KitWorld(tmp_path)
    world.settings = {"spend": SpendConfig("cashu", daily_sats=100)}
    async with world.open() as kit:
        (row,) = await kit.money.checks()
        assert row["status"] == "fail" and "wallet mint add URL" in row["detail"]
