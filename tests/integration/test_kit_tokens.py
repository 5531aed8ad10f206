"""Ecash that a node sends the kit for its commands: kept first, its own at once, counted then
(docs/protocol/11-advisor-kit.md §8; docs/decisions/0600)."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from cashu_tickets import item
from crash_points import Countdown
from ecash_world import EcashWorld, at_once
from hive_advisor.advisor import Advisor
from hive_advisor.config import ReceiveConfig
from hive_shared import envelope
from hive_shared.cashu.derive import public_key
from hive_shared.cashu.ports import MintUnavailable
from hive_shared.cashu.token import Token, decode_token, encode_token
from hive_shared.cashu.wire import ProofState
from hive_shared.errors import HiveError
from kit_tickets import HOUR, PaidKit
from kit_world import FEE, PARAMS, KitWorld, run_fee
from msgspec.structs import replace

pytestmark = pytest.mark.asyncio(loop_scope="module")
PRICE = 5
FACE = PRICE + 1
"""What a node locks for it: the mint takes a sat for the swap."""
MINT_CALLS = ("keysets", "swap", "checkstate", "restore")


class PaidByEcash(KitWorld):
    """The node pays what succeeded by ecash that `payer` locks to the key of the command's credential."""

    def __init__(self, directory: Path, mint_url: str, payer: EcashWorld) -> None:
        super().__init__(directory)
        self.mint_url, self.payer = mint_url, payer
        self.settings = {"mints": (mint_url,)}
        self.methods = ["bolt11", "cashu"]
        self.claims: list[dict[str, Any]] = []
        self.node.answer = self.answer

    def answer(self, command: envelope.Command) -> dict[str, Any]:
        if command.action == "quote":
            said = {"price_sats": PRICE, "direction": "compensation", "methods": self.methods}
            return self.node.response(command, 0, result=said)
        if command.schema_type != "hive:control/v1":
            self.claims.append(dict(command.payment_proof))
        return self.node.honest(command)

    async def token(self, kit: Advisor, sats: int = FACE, key: str = "") -> str:
        """Ecash for the key that the kit announces for its credential."""
        (credential,) = await kit.clients.credentials(await kit.clients.named("alice"))
        key = key or public_key(kit.ecash.keys.lock(credential.credential_id))
        return (await self.payer.service.send(sats, None, key, os.urandom(8).hex(), 30)).body.token


async def pays(world: KitWorld, kit: Advisor, command_id: str, token: str | None, **changes: Any) -> None:
    """The node's notice."""
    notice = {
        "payment_id": uuid.uuid4().hex,
        "purpose": "action",
        "command_id": command_id,
        "method": "cashu",
        "amount_sats": PRICE,
        "state": "sending",
        **({} if token is None else {"token": token}),
        **changes,
    }
    await world.push(kit, world.node.push(kit.pubkey, "payment_notice", notice))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def payer(mint_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EcashWorld]:
    world = EcashWorld(tmp_path_factory.mktemp("payer"), mint_url)
    await world.service.fund(2_000, None, None, 30)
    yield world
    await world.close()


@pytest.fixture
def world(tmp_path: Path, mint_url: str, payer: EcashWorld) -> PaidByEcash:
    return PaidByEcash(tmp_path, mint_url, payer)


async def work(kit: Advisor, fee: int = 150) -> str:
    """`send --pay`; the command's id."""
    client, command_id = await kit.clients.named("alice"), str(uuid.uuid4())
    plan = await kit.plan(client, *FEE, {**PARAMS, "fee_ppm": fee})
    plan = await kit.money.claim(plan, await kit.quote(plan, 5), command_id)
    await kit.execute(plan, wait_s=60, human=True, command_id=command_id, again=True)
    return command_id


async def settled(kit: Advisor) -> None:
    """What the kit does beside is done."""
    while tasks := [task for task in kit._tasks if not task.done()]:
        await asyncio.wait_for(asyncio.gather(*tasks), 60)


async def free(kit: Advisor) -> int:
    return sum(int(row["free_sats"]) for row in await kit.ecash.balances())


async def test_ecash_for_a_command_is_our_own_at_once_and_pays_what_was_owed(world: PaidByEcash) -> None:
    async with world.open() as kit:
        await world.hired(kit)
        command_id = await work(kit)
        assert world.claims == [{"method": "cashu"}]
        (owed,) = await kit.money.earnings.listed(5)
        assert (owed.state, owed.amount_sats) == ("due", PRICE)
        token = await world.token(kit)
        await pays(world, kit, command_id, token)
        await settled(kit)
        (owed,) = await kit.money.earnings.listed(5)
        assert (owed.state, owed.evidence, owed.way) == ("paid", "wallet", "cashu")
        assert await free(kit) == PRICE
        # Sent again, or named by another notice, it is the same token; its text is nowhere in clear.
        await pays(world, kit, command_id, token)
        await settled(kit)
        assert await free(kit) == PRICE and len(await kit.money.tokens.listed(9)) == 1
        events = [event.kind for event in await kit.past_events(0, 500)]
        assert events.count("earning_paid") == 1
    secret = token[20:60].encode()
    for path in world.paths.data_dir.rglob("*"):
        assert not path.is_file() or secret not in path.read_bytes(), path


async def test_ecash_that_is_not_for_us_is_told_and_counts_nothing(
    world: PaidByEcash, payer: EcashWorld
) -> None:
    async with world.open() as kit:
        await world.hired(kit)
        command_id = await work(kit)
        await pays(world, kit, command_id, await world.token(kit, key=payer.service.receive_pubkey))
        await settled(kit)
        (token,) = await kit.money.tokens.listed(5)
        assert token.state == "held" and "locked to other keys" in token.why
        (owed,) = await kit.money.earnings.listed(5)
        assert owed.state == "due" and await free(kit) == 0
        assert [e.kind for e in await kit.past_events(0, 500)].count("ecash_waits") == 1
        # Of another command, of no command, without a token: not kept at all.
        for name, text in ((str(uuid.uuid4()), token.token), (command_id, None), (command_id, "cashuBxx")):
            await pays(world, kit, name, text)
        await settled(kit)
        assert len(await kit.money.tokens.listed(5)) == 1
        # Less than was owed is ours and does not pay the debt.
        await pays(world, kit, command_id, await world.token(kit, FACE - 1))
        await settled(kit)
        assert await free(kit) == PRICE - 1
        assert (await kit.money.earnings.listed(5))[0].state == "due"
        # Nor are many for one command kept while none of them can be taken.
        for _ in range(5):
            await pays(world, kit, command_id, await world.token(kit, 1, key=payer.service.receive_pubkey))
        await settled(kit)
        assert len(await kit.money.tokens.listed(9)) == 5
        world.ahead += 31 * 86_400
        await kit.money.tokens.tick()
        states = sorted(str(each.state) for each in await kit.money.tokens.listed(5))
        assert states == ["lost", "lost", "lost", "lost", "taken"]


async def test_a_mint_that_is_away_delays_and_what_pays_is_what_we_can_take(world: PaidByEcash) -> None:
    async with world.open() as kit:
        await world.hired(kit)
        command_id, token = await work(kit), await world.token(kit)
        mint = kit.ecash.book.at(world.mint_url)
        swap = type(mint).swap

        async def away(*_: object, **__: object) -> None:
            raise MintUnavailable(world.mint_url, "no answer", sent=False)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(mint), "swap", away)
            await pays(world, kit, command_id, token)
            await settled(kit)
        assert type(mint).swap is swap and await free(kit) == 0
        world.ahead += 600
        await kit.money.tokens.tick()
        assert await free(kit) == PRICE
        world.methods = ["cashu_escrow"]
        with pytest.raises(HiveError, match="not by bolt11 or cashu"):
            await work(kit, 151)
    world.settings, world.methods = {"receive": ReceiveConfig("manual")}, ["bolt11", "cashu"]
    async with world.open() as kit:
        with pytest.raises(HiveError, match="--invoice"):
            await work(kit, 152)


async def test_ecash_that_paid_one_command_pays_no_other_in_another_text(world: PaidByEcash) -> None:
    async with world.open() as kit:
        await world.hired(kit)
        first, second, token = await work(kit), await work(kit, 151), await world.token(kit)
        await pays(world, kit, first, token)
        await settled(kit)
        await pays(world, kit, second, encode_token(replace(decode_token(token), memo="again")))
        await settled(kit)
        assert await free(kit) == PRICE
        owed = {each.command_id: str(each.state) for each in await kit.money.earnings.listed(5)}
        assert owed == {first: "paid", second: "due"}


@pytest.mark.parametrize("first", ["ticket", "token"])
async def test_one_lock_pays_as_a_ticket_or_as_a_token_and_not_as_both(
    tmp_path: Path, mint_url: str, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    there = PaidKit(tmp_path, mint_url)
    async with there.open() as kit:
        await there.hired(kit)
        other = (await run_fee(kit, 151)).command_id
        now = there.now()
        part = item(0, 8, deadline=now + HOUR, locktime=now + 2 * HOUR)
        del part["hash"]
        terms = await there.terms(kit, items=[part], mode="p2pk")
        proofs = await there.lock(await there.outputs(terms))
        ticket, token = there.ticket(terms, proofs), encode_token(Token(mint_url, tuple(proofs), "again"))
        mint = type(kit.ecash.book.at(mint_url))

        async def away(*_: object, **__: object) -> None:
            raise MintUnavailable(mint_url, "no answer", sent=False)

        if first == "ticket":
            await there.say(kit, ticket)
            await kit.tickets.tend()
            await pays(there, kit, other, token)
            assert await kit.money.tokens.listed(5) == []
        else:
            # The token waits for its mint, which still holds the proofs.
            with monkeypatch.context() as patch:
                patch.setattr(mint, "swap", away)
                await pays(there, kit, other, token)
                await settled(kit)
                await there.say(kit, ticket)
                await kit.tickets.tend()
            assert (await kit.tickets.view(terms.ticket_id)).ticket.reason == "token_invalid(repeated_secret)"
        there.ahead += 60
        await run_fee(kit)
        await kit.money.tokens.tick()
        await kit.tickets.redeem_now(None)
        assert await free(kit) > 0
        taken = [each for each in await kit.money.tokens.listed(5) if each.state == "taken"]
        redeemed = (await kit.tickets.view(terms.ticket_id)).shares
        assert (len(taken), len(redeemed)) == ((0, 1) if first == "ticket" else (1, 0))
    await there.close()


@pytest.mark.parametrize("shown", [True, False])
async def test_a_token_of_an_old_copy_that_was_taken_since_is_found_out_by_its_mint(
    world: PaidByEcash, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: bool
) -> None:
    async def away(*_: object, **__: object) -> None:
        raise MintUnavailable(world.mint_url, "no answer", sent=False)

    async with world.open() as kit:
        await world.hired(kit)
        command_id, token = await work(kit), await world.token(kit)
        mint = type(kit.ecash.book.at(world.mint_url))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(mint, "swap", away)
            await pays(world, kit, command_id, token)
            await settled(kit)
        assert [each.state for each in await kit.money.tokens.listed(5)] == ["held"]
    old = world.copy(tmp_path / "old")
    async with world.open() as kit:
        world.ahead += 600
        await kit.money.tokens.tick()
        assert await free(kit) == PRICE
    if not shown:
        real = mint.checkstate

        async def silent(self: object, ys: Sequence[str]) -> list[ProofState]:
            return [msgspec.structs.replace(told, witness=None) for told in await real(self, ys)]

        monkeypatch.setattr(mint, "checkstate", silent)
    old.ahead = world.ahead
    async with old.open() as kit:
        await kit.ecash.note_restored()
        await kit.ecash.tick()
        await kit.money.tokens.tick()
        # The wallet has the sats from its seed; what they were for the mint's witness says.
        assert await free(kit) == PRICE
        (held,) = await kit.money.tokens.listed(5)
        assert (held.state, held.net_sats) == (("taken", PRICE) if shown else ("lost", 0))
        (owed,) = await kit.money.earnings.listed(5)
        assert owed.state == ("paid" if shown else "due")
        kinds = [event.kind for event in await kit.past_events(0, 500)]
        assert kinds.count("ecash_taken_before" if shown else "ecash_lost") == 1
        await kit.money.tokens.tick()
        assert await free(kit) == PRICE


async def test_killed_at_every_disk_and_mint_call_the_token_is_ours_once(
    world: PaidByEcash, tmp_path: Path, mint_url: str, payer: EcashWorld
) -> None:
    async with world.open() as kit:
        await world.hired(kit)
        command_id = await work(kit)
        tokens = [await world.token(kit) for _ in range(30)]
    deaths = 0
    for at, token in enumerate(tokens):
        there = world.copy(tmp_path / str(at))

        async def day(kit: Advisor, there: KitWorld = there, token: str = token) -> None:
            class Points(Countdown):
                def point(self) -> None:
                    there.point()

            await kit.ecash.ready()
            kit.ecash.service._beyond_signed = at_once_of
            Points(0).watch(kit.ecash.book.at(mint_url), *MINT_CALLS)
            await pays(there, kit, command_id, token)
            await settled(kit)

        died = await there.killed(at, day)
        deaths += died
        async with there.open() as kit:
            kit.ecash.service._beyond_signed = at_once_of
            # Relays bring again what was not taken.
            await pays(there, kit, command_id, token)
            there.ahead += 700
            await kit.ecash.tick()
            await kit.money.tokens.tick()
            there.ahead += 700
            await kit.money.tokens.tick()
            assert await free(kit) == PRICE, at
            assert [owed.state for owed in await kit.money.earnings.listed(5)] == ["paid"], at
            assert [e.kind for e in await kit.past_events(0, 500)].count("earning_paid") == 1, at
        if not died:
            break
    assert not died and deaths > 4


async def at_once_of(_mint_url: str, _keyset: object) -> None:
    """Used counters are looked for in other tests."""
    await at_once(0)
