"""Fees for access that the kit pays by a wallet: once or never, and never again what nobody knows the end of
(docs/protocol/11-advisor-kit.md §8)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hive_advisor.advisor import Advisor
from hive_advisor.config import SpendConfig
from hive_advisor.storage.counter_store import CounterStore
from hive_shared.bolt11 import read_invoice
from hive_shared.errors import HiveError, TransportUnavailable
from kit_world import KitWorld
from kit_world import run_fee as run
from pocket_wallet import PocketWallet
from selling_node import PaidNode, hire

SPEND = SpendConfig("cln", "pocket", 5_000)


class Wallet(PocketWallet):
    """The kit's wallet, which can pay what the node sells."""

    def __init__(self, world: KitWorld, node: PaidNode) -> None:
        super().__init__(world.now, world.point)
        self.node = node

    def pay_out(self, text: str) -> str:
        payment_hash = read_invoice(text).payment_hash
        for number in range(1, self.node.made + 1):
            preimage = self.node.preimage(number)
            self.knows[self.node.hash_of(number)] = preimage.hex()
        assert payment_hash in self.knows
        return super().pay_out(text)


@pytest.fixture
def world(tmp_path: Path) -> KitWorld:
    made = KitWorld(tmp_path)
    made.settings = {"spend": SPEND}
    return made


@pytest.fixture
def node(world: KitWorld) -> PaidNode:
    made = PaidNode(world)
    world.node.answer = made.answer
    return made


@pytest.fixture
def wallet(world: KitWorld, node: PaidNode) -> Wallet:
    return Wallet(world, node)


@pytest_asyncio.fixture
async def kit(world: KitWorld, node: PaidNode, wallet: Wallet) -> AsyncIterator[Advisor]:
    async with world.open() as opened:
        opened.money._nodes = wallet
        await hire(world, opened)
        yield opened


async def paid(kit: Advisor, command: Any, which: int = 0) -> Any:
    """Pay what the node of a refused command demands."""
    return await kit.money.spending.pay((await kit.fees.demands(command))[which])


async def test_a_fee_is_paid_once_and_goes_with_the_next_commands(
    kit: Advisor, node: PaidNode, wallet: Wallet
) -> None:
    refused = await run(kit)
    payment = await paid(kit, refused)
    assert (payment.state, payment.amount_sats, payment.method) == ("paid", 1_000, "l402")
    assert (await paid(kit, refused)).state == "paid" and len(wallet.sent) == 1
    assert [(await run(kit, fee)).slug for fee in (151, 152, 153)] == [None, None, "payment_required"]
    assert [how for _, how in await kit.fees.listed(10)] == ["used"]


async def test_a_preimage_in_capitals_is_the_same_preimage(kit: Advisor, wallet: Wallet) -> None:
    spelled = wallet.call

    async def loud(name: str, method: str, params: Any) -> dict[str, Any]:
        said = await spelled(name, method, params)
        return {key: value.upper() if key == "payment_preimage" else value for key, value in said.items()}

    wallet.call = loud
    payment = await paid(kit, await run(kit))
    assert payment.state == "paid" and [how for _, how in await kit.fees.listed(10)] == ["good"]
    assert (await run(kit, 151)).state == "done"


async def test_what_nobody_knows_the_end_of_is_never_sent_again_and_found_by_the_wallets_list(
    world: KitWorld, kit: Advisor, wallet: Wallet
) -> None:
    refused = await run(kit)
    wallet.lost = True

    whole = wallet.call

    async def deaf(name: str, method: str, params: Any) -> dict[str, Any]:
        if method == "listpays":
            raise TransportUnavailable("node pocket did not answer in 30 s")
        return await whole(name, method, params)

    # It pays, and neither answer arrives.
    wallet.call = deaf
    assert (await paid(kit, refused)).state == "unknown"
    assert (await paid(kit, refused)).state == "unknown" and len(wallet.sent) == 1
    with pytest.raises(HiveError, match="nobody knows yet"):
        await paid(kit, refused, 1)
    again = await run(kit, 151)
    with pytest.raises(HiveError, match="nobody knows yet"):
        await paid(kit, again)
    wallet.call = whole
    await kit.money.tick()
    assert [each.state for each in await kit.money.spending.listed(10)] == ["paid"]
    assert [how for _, how in await kit.fees.listed(10)] == ["good"] and len(wallet.sent) == 1


async def test_a_wallet_that_is_set_up_no_more_ends_no_round_and_decides_nothing(
    world: KitWorld, kit: Advisor, wallet: Wallet
) -> None:
    wallet.lost = True
    refused = await run(kit)
    whole = wallet.call

    async def deaf(name: str, method: str, params: Any) -> dict[str, Any]:
        if method == "listpays":
            raise TransportUnavailable("node pocket did not answer in 30 s")
        return await whole(name, method, params)

    wallet.call = deaf
    assert (await paid(kit, refused)).state == "unknown"
    kit.money._nodes = None  # its node is no more in the file of nodes
    await kit.pump()
    assert [each.state for each in await kit.money.spending.listed(10)] == ["unknown"]
    wallet.call, kit.money._nodes, world.ahead = whole, wallet, 100
    await kit.pump()
    assert [each.state for each in await kit.money.spending.listed(10)] == ["paid"]


async def test_a_refusal_alone_fails_nothing_the_list_without_it_does_later(
    world: KitWorld, kit: Advisor, wallet: Wallet
) -> None:
    refused = await run(kit)
    wallet.failing = True
    assert (await paid(kit, refused)).state == "unknown"
    await kit.money.tick()
    assert [each.state for each in await kit.money.spending.listed(10)] == ["unknown"]
    world.ahead += 200
    await kit.money.tick()
    (payment,) = await kit.money.spending.listed(10)
    assert payment.state == "failed" and not wallet.sent
    wallet.failing = False
    assert (await paid(kit, refused)).state == "failed", "the same demand is not sent twice"
    assert (await paid(kit, await run(kit, 151))).state == "paid"


async def test_a_preimage_of_a_human_ends_an_unknown_payment(kit: Advisor, wallet: Wallet) -> None:
    refused = await run(kit)
    wallet.failing = True
    payment = await paid(kit, refused)
    preimage = wallet.node.preimage(wallet.node.made).hex()
    fee, new = await kit.fees.attach(refused, preimage)
    assert new and fee.payment_hash == payment.payment_hash
    await kit.money.spending.attached(preimage, fee.payment_hash)
    assert [each.state for each in await kit.money.spending.listed(10)] == ["paid"]


async def test_the_daily_limit_counts_what_is_under_way_with_its_fees(
    world: KitWorld, kit: Advisor, wallet: Wallet
) -> None:
    for fee in range(150, 154):
        node_uses = wallet.node.uses
        assert (await paid(kit, await run(kit, fee))).state == "paid"
        node_uses.clear()
        await kit._db.write(lambda tx: tx.execute("DELETE FROM adv_l402"))
    last = await run(kit, 160)
    with pytest.raises(HiveError, match=r"spend\.daily_sats in config\.toml is 5000") as refused:
        await paid(kit, last)
    assert refused.value.reason == "budget_exhausted" and len(wallet.sent) == 4
    world.ahead += 86_401
    assert (await paid(kit, await run(kit, 161))).state == "paid"


async def test_a_forgotten_client_takes_neither_the_days_sum_nor_the_guards_with_it(
    world: KitWorld, kit: Advisor, wallet: Wallet
) -> None:
    for fee in range(150, 154):
        assert (await paid(kit, await run(kit, fee))).state == "paid"
        assert (await run(kit, fee + 50)).state == "done"
        wallet.node.uses.clear()
        await kit._db.write(lambda tx: tx.execute("DELETE FROM adv_l402"))
    client = await kit.clients.named("alice")
    used = await kit._db.read(lambda tx: CounterStore().used(tx, client.client_id, 0, ""))
    assert used
    await kit._db.write(lambda tx: tx.execute("UPDATE adv_credentials SET state = 'revoked'"))
    await kit.forgetting.forget(client)
    assert used == await kit._db.read(lambda tx: CounterStore().used(tx, client.client_id, 0, ""))
    await kit.money.tick()
    left = await kit.money.spending.listed(10)
    assert [(each.state, each.command_id) for each in left] == [("paid", "")] * 4
    await kit._db.write(lambda tx: tx.execute("UPDATE adv_credentials SET state = 'offered'"))
    await hire(world, kit)
    refused = await run(kit, 160)
    with pytest.raises(HiveError, match=r"spend\.daily_sats in config\.toml is 5000"):
        await paid(kit, refused)
    # When the day is over nothing of them is left, and the limit is free.
    world.ahead += 86_401
    await kit.money.tick()
    assert await kit.money.spending.listed(10) == []
    assert (await paid(kit, await run(kit, 161))).state == "paid"


async def test_what_may_leave_us_yet_outlasts_its_client(
    world: KitWorld, kit: Advisor, wallet: Wallet
) -> None:
    async def deaf(name: str, method: str, params: Any) -> dict[str, Any]:
        raise TransportUnavailable("node pocket did not answer in 30 s")

    wallet.call = deaf
    payment = await paid(kit, await run(kit))
    client = await kit.clients.named("alice")
    await kit._db.write(lambda tx: tx.execute("UPDATE adv_credentials SET state = 'revoked'"))
    await kit.forgetting.forget(client)
    world.ahead += 86_401
    await kit.money.tick()
    assert [each.state for each in await kit.money.spending.listed(10)] == ["unknown"]
    world.ahead = payment.invoice_expires + 86_400 - world.now() + world.ahead
    await kit.money.tick()
    assert await kit.money.spending.listed(10) == []


async def test_nothing_is_spent_without_a_limit_a_way_or_while_halted(
    world: KitWorld, node: PaidNode, wallet: Wallet
) -> None:
    world.settings = {}
    async with world.open() as kit:
        await hire(world, kit)
        refused = await run(kit)
        with pytest.raises(HiveError, match=r"spend\.method"):
            await paid(kit, refused)
    world.settings = {"spend": SpendConfig("cln", "pocket")}
    async with world.open() as kit:
        kit.money._nodes = wallet
        with pytest.raises(HiveError, match=r"daily_sats in config\.toml is 0"):
            await paid(kit, refused)
    world.settings = {"spend": SPEND}
    async with world.open() as kit:
        kit.money._nodes = wallet
        kit.guard.halt("stop")
        with pytest.raises(HiveError, match="halted"):
            await paid(kit, refused)
    assert not wallet.sent


async def test_an_invoice_about_to_run_out_is_not_paid(world: KitWorld, kit: Advisor, wallet: Wallet) -> None:
    refused = await run(kit)
    world.ahead += 3_590
    with pytest.raises(HiveError, match="run out"):
        await paid(kit, refused)
    assert not wallet.sent


async def test_killed_anywhere_a_fee_is_paid_once_or_never_and_not_lost(
    world: KitWorld, node: PaidNode, tmp_path: Path
) -> None:
    async with world.open() as kit:
        await hire(world, kit)
        node.sells = ("bolt11",)
        refused = await run(kit)
    for at in range(20):
        copy = world.copy(tmp_path / str(at))
        there = PaidNode(copy)
        there.made, there.sells = node.made, ("bolt11",)
        copy.node.answer = there.answer
        wallet = Wallet(copy, there)

        async def pay(kit: Advisor, wallet: Wallet = wallet) -> None:
            kit.money._nodes = wallet
            await paid(kit, refused)

        died = await copy.killed(at, pay)
        async with copy.open() as kit:
            kit.money._nodes = wallet
            copy.ahead += 200
            await kit.money.tick()
            states = [each.state for each in await kit.money.spending.listed(10)]
            assert states in ([], ["paid"], ["failed"]), at
            assert len(wallet.sent) == (states == ["paid"]), at
            good = [how for _, how in await kit.fees.listed(10)]
            assert good == ["good"] * len(wallet.sent), at
        if not died:
            assert at >= 3 and states == ["paid"]
            return
    pytest.fail("paying has more than 20 points")
