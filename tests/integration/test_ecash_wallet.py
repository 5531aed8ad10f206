"""The wallet against a real mint: killed at every disk and mint call of every operation, answers lost before
and after the mint acted: no sat is lost or doubled, nothing stays open over two sweeps
(docs/protocol/03 §14.1, §14.12)."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from cashu_tickets import LOCK_KEY, document, item, preimage
from crash_points import Countdown
from ecash_world import EcashWorld
from hive_devnet.mint_faults import MintFault, MintFaultFront, MintFaultKind
from hive_shared.cashu import selection
from hive_shared.cashu.journal import Op, OpKind, OpState
from hive_shared.cashu.ports import MintUnavailable
from hive_shared.cashu.selection import KEEP
from hive_shared.cashu.terms import decode_terms
from hive_shared.cashu.ticket import lock_outputs
from hive_shared.cashu.token import Token, decode_token, encode_token
from hive_shared.cashu.wallet import Order, mint_keys
from hive_shared.cashu.witness import build, inputs_digest, sign
from hive_shared.crypto import Secret
from hive_shared.errors import BudgetExhausted, Conflict, EmergencyStop, PaymentFailed
from hive_shared.store import Tx
from mint_releases import each_release
from pipeline_world import Crash
from short_mint import short_mint

pytestmark = pytest.mark.asyncio(loop_scope="module")
mint_url = each_release
MONEY_CALLS = ("mint_quote", "mint", "melt_quote", "melt", "swap")
MINT_CALLS = (*MONEY_CALLS, "mint_quote_state", "melt_quote_state", "checkstate", "restore")
START, MOVED = 256, 100
_MOST_POINTS = 40

Does = Callable[[EcashWorld, str], Awaitable[object]]


async def fund(world: EcashWorld, _: str) -> object:
    return await world.service.fund(MOVED, None, None, 30)


async def send(world: EcashWorld, _: str) -> object:
    return await world.service.send(MOVED, None, None, None, 30)


async def receive(world: EcashWorld, token: str) -> object:
    return await world.service.receive(token, 30)


async def withdraw(world: EcashWorld, _: str) -> object:
    return await world.service.withdraw(MOVED, None, None, 30)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def payer(mint_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EcashWorld]:
    """Somebody else's wallet with ecash at the mint."""
    world = EcashWorld(tmp_path_factory.mktemp("payer"), mint_url)
    await world.service.fund(30_000, None, None, 30)
    yield world
    await world.close()


async def locked(world: EcashWorld, locktime: int) -> Op:
    """MOVED sat of this wallet for whoever shows the preimage with LOCK_KEY, or REFUND_KEY after a time."""
    terms = decode_terms(
        document(
            [item(0, MOVED, deadline=locktime - 3_600, locktime=locktime)],
            issued_at=locktime - 7_200,
            salt=os.urandom(16).hex(),
        )
    )
    keys = mint_keys(world.mint_url, await world.mints.keysets(world.mint_url))
    outputs = lock_outputs(terms, 0, 0, keys.active, world.keys.lock_seed())
    op = await world.wallet.lock(Order(terms.salt), keys, outputs)
    return await world.settler.advance(op.op_id)


async def claim(world: EcashWorld, token: str, kind: OpKind, key: Secret, shown: str | None) -> object:
    keys = mint_keys(world.mint_url, await world.mints.keysets(world.mint_url))
    proofs = [
        msgspec.structs.replace(
            proof, id=keys.active.id, witness=build(shown, [sign(key, inputs_digest(proof.secret))])
        )
        for proof in decode_token(token).proofs
    ]
    op = await world.wallet.receive(Order(token), keys, proofs, kind)
    return await world.settler.advance(op.op_id)


async def prepared(
    directory: Path, mint_url: str, payer: EcashWorld, kind: str, via: str = ""
) -> tuple[EcashWorld, str]:
    """A wallet that is about to do it, with a token of somebody else's when that is what it takes."""
    directory.mkdir()
    world, token = EcashWorld(directory / "own", via or mint_url), ""
    if kind in SPENDING:
        await world.service.fund(START, None, None, 30)
    if kind == "receive":
        token = await paid_by(payer)
    return world, token


async def paid_by(payer: EcashWorld, amount: int = MOVED, pubkey: str | None = None) -> str:
    return (await payer.service.send(amount, None, pubkey, None, 30)).body.token


async def balanced(world: EcashWorld, kind: str) -> bool:
    """Every sat is accounted for and what the wallet calls unspent the mint does too. Whether it was done."""
    ops = [op for op in await world.ops() if not (op.kind == "fund" and op.amount_sats == START)]
    assert all(not op.open for op in ops), ops
    assert len(ops) <= 1, ops
    done = [op for op in ops if op.state is OpState.DONE]
    start = START if kind in SPENDING else 0
    fees = sum(op.fee_sats for op in done)
    moved = sum(op.amount_sats for op in done)
    expected = start - moved - fees if kind in SPENDING else start + moved
    assert all(op.amount_sats in (MOVED, MOVED + 1, MOVED - 1) for op in done), done
    assert (await world.sats(), await world.held()) == (expected, 0), ops
    assert fees <= 3, fees
    ys = await world.unspent()
    states = await world.mints.client.checkstate(ys)
    assert all(entry.state == "UNSPENT" for entry in states) if ys else True
    assert world.alerts == []
    return bool(done)


KINDS: dict[str, Does] = {
    **{"fund": fund, "send": send, "receive": receive, "withdraw": withdraw},
}
SPENDING = ("send", "withdraw")
TAKING = ("receive",)


@pytest.mark.parametrize("kind", KINDS)
async def test_acceptance_03_12_killed_at_every_disk_and_mint_call(
    mint_url: str, payer: EcashWorld, tmp_path: Path, kind: str
) -> None:
    ends: set[bool] = set()
    # Behind one call is before the next.
    for at in (0, *range(1, _MOST_POINTS, 2)):
        world, token = await prepared(tmp_path / str(at), mint_url, payer, kind)
        countdown = Countdown(at)
        countdown.watch(world.db, "write")
        countdown.watch(world.mints.client, *MINT_CALLS)
        died = True
        try:
            await KINDS[kind](world, token)
            died = False
        except Crash:
            pass
        countdown.left = -1
        await world.restart()
        await world.sweep()
        await world.sweep()
        done = await balanced(world, kind)
        if kind in TAKING and not done:
            # What is taken is still good: nothing of it was lost.
            await KINDS[kind](world, token)
            assert await balanced(world, kind)
        ends.add(done)
        await world.close()
        if not died:
            break
    else:
        pytest.fail(f"more than {_MOST_POINTS} points")
    assert True in ends and (False in ends or kind in TAKING)


@pytest.mark.parametrize("kind", KINDS)
async def test_an_answer_lost_before_or_after_the_mint_acted_costs_nothing(
    mint_url: str, payer: EcashWorld, tmp_path: Path, kind: str
) -> None:
    async with MintFaultFront.before(mint_url) as front:
        for at in range(_MOST_POINTS):
            struck = 0
            for fault in (MintFaultKind.LOSE_BEFORE, MintFaultKind.LOSE_AFTER):
                world, token = await prepared(tmp_path / f"{at}{fault}", mint_url, payer, kind, front.url)
                front.set(MintFault(fault, skip=at, times=1))
                with suppress(PaymentFailed):
                    await KINDS[kind](world, token)
                struck += front.clear()
                await world.sweep()
                await world.sweep()
                await balanced(world, kind)
                await world.close()
            if not struck:
                return
    pytest.fail(f"more than {_MOST_POINTS} requests")


async def test_acceptance_03_13_twenty_locks_at_once_never_share_a_proof(
    mint_url: str, payer: EcashWorld, tmp_path: Path
) -> None:
    world = EcashWorld(tmp_path, mint_url)
    await world.service.fund(1_100, None, None, 30)
    later = int(time.time()) + 90_000
    ends = await asyncio.gather(*(locked(world, later) for _ in range(20)), return_exceptions=True)
    done = [end for end in ends if isinstance(end, Op)]
    failed = [end for end in ends if not isinstance(end, Op)]
    assert done and {getattr(end, "reason", end) for end in failed} == {"insufficient_ecash"}, failed
    assert all(op.state is OpState.DONE for op in done)
    used = [y for op in done for y in op.inputs]
    assert len(set(used)) == len(used)
    assert await world.sats() + sum(op.amount_sats + op.fee_sats for op in done) == 1_100
    assert await world.held() == 0
    # Once the others' change is back, those that came too early succeed.
    while await world.sats() > MOVED + 5:
        done.append(await locked(world, later))
    # Ascending as the mint sees them: which of them are change is not to be told by their place.
    made = [[(each.output.amount, each.use) for each in op.body.outputs] for op in done]
    assert all(outputs == sorted(outputs, key=lambda each: each[0]) for outputs in made)
    assert any([use for _, use in outputs] != ["lock"] * len(outputs) for outputs in made)
    assert any(
        sorted(uses, reverse=True) != uses for outputs in made if (uses := [use for _, use in outputs])
    )
    for op in done[:3]:
        await claim(payer, op.body.token, OpKind.REDEEM, LOCK_KEY, preimage(0).hex())
    assert await world.sats() + sum(op.amount_sats + op.fee_sats for op in done) == 1_100
    await world.close()


async def test_a_fresh_database_with_the_same_seed_finds_the_ecash(
    mint_url: str, payer: EcashWorld, tmp_path: Path
) -> None:
    world = EcashWorld(tmp_path / "old", mint_url)
    await world.service.fund(300, None, None, 30)
    await payer.service.receive((await world.service.send(77, None, None, None, 30)).body.token, 30)
    have = await world.sats()
    content = b"".join(file.read_bytes() for file in world.path.parent.iterdir())
    for own in await world.db.read(lambda tx: world.store.proofs(tx, [*world.store.known(tx, all_ys(tx))])):
        assert own.proof.secret.encode() not in content
    await world.close()
    fresh = EcashWorld(tmp_path / "new", mint_url, seed=world.seed)
    shown = await fresh.restore_from_seed().run(None, dry_run=True)
    assert (shown["new_sats"], await fresh.sats()) == (have, 0)
    assert await fresh.restore_from_seed().run(None, dry_run=False) == shown
    assert await fresh.sats() == have
    again = await fresh.restore_from_seed().run(None, dry_run=False)
    assert (again["new_sats"], again["unspent_sats"]) == (0, have)
    # What is made next has counters of its own: the mint signs it.
    assert (await fresh.service.send(50, None, None, None, 30)).state is OpState.DONE
    await fresh.close()


def all_ys(tx: Tx) -> list[str]:
    return [str(row[0]) for row in tx.execute("SELECT y FROM comms_cashu_proofs")]


async def test_ecash_locked_to_this_wallet_is_received_by_it_alone(
    mint_url: str, payer: EcashWorld, tmp_path: Path
) -> None:
    world, other = EcashWorld(tmp_path / "own", mint_url), EcashWorld(tmp_path / "other", mint_url)
    token = await paid_by(payer, 50, world.service.receive_pubkey)
    with pytest.raises(PaymentFailed, match="locked to other keys") as refused:
        await other.service.receive(token, 30)
    assert refused.value.reason == "token_invalid(pubkeys)" and await other.ops() == []
    op = await world.service.receive(token, 30)
    assert (op.state, await world.sats()) == (OpState.DONE, 50 - op.fee_sats)
    # Handed in again it is the same operation; taken to another wallet it is worth nothing.
    assert (await world.service.receive(token, 30)).op_id == op.op_id
    plain = await paid_by(payer)
    await world.service.receive(plain, 30)
    with pytest.raises(PaymentFailed) as spent:
        await other.service.receive(plain, 30)
    assert spent.value.reason == "token_spent" and await other.ops() == []
    await world.close()
    await other.close()


async def test_a_key_stands_for_one_operation_and_limits_refuse_before_anything_is_sent(
    mint_url: str, payer: EcashWorld, tmp_path: Path
) -> None:
    world = EcashWorld(tmp_path, mint_url)
    first = await world.service.fund(200, None, "k", 30)
    assert (await world.service.fund(200, None, "k", 30)).op_id == first.op_id
    with pytest.raises(Conflict):
        await world.service.fund(201, None, "k", 30)
    with pytest.raises(BudgetExhausted) as refused:
        await world.service.fund(49_801, None, None, 30)
    assert refused.value.reason == "exposure_limit"
    with pytest.raises(PaymentFailed) as little:
        await world.service.withdraw(200, None, None, 30)
    assert little.value.reason == "insufficient_ecash"
    # A token of what this wallet counts already (a copy of its database, say) would be counted twice.
    coins = await world.db.read(lambda tx: world.store.available(tx, mint_url, 10))
    ys = [coin.y for group in coins.values() for coin in group]
    own = [each.proof for each in await world.db.read(lambda tx: world.store.proofs(tx, ys))]
    with pytest.raises(Conflict, match="in this wallet already"):
        await world.service.receive(encode_token(Token(mint_url, tuple(own))), 30)
    assert (await world.sats(), await world.held(), len(await world.ops())) == (200, 0, 1)
    world.stopped = True
    with pytest.raises(EmergencyStop):
        await world.service.send(10, None, None, None, 30)
    assert (await world.service.receive(await paid_by(payer), 30)).state is OpState.DONE
    assert (await world.sats(), len(await world.ops())) == (299, 2)
    await world.close()


async def test_a_crowded_denomination_is_joined(
    mint_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "CONSOLIDATE_ABOVE", 5)
    world = EcashWorld(tmp_path, mint_url)
    for _ in range(6):
        await world.service.fund(8, None, None, 30)
    await world.service.tidy()
    available = await world.db.read(lambda tx: world.store.available(tx, mint_url, 500))
    assert len(available[8]) == KEEP
    (joined,) = [op for op in await world.ops() if op.kind == "consolidate"]
    assert await world.sats() == 6 * 8 - joined.fee_sats
    await world.close()


async def test_a_mint_of_short_arrays_is_paid_with_no_more_proofs_than_it_reads(
    mint_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = EcashWorld(tmp_path, mint_url)
    for _ in range(6):
        await world.service.fund(15, None, None, 30)
    seen = short_mint(world.mints, 8, monkeypatch)
    # Six each of 1, 2, 4 and 8 sat: the eight largest are worth 56.
    with pytest.raises(PaymentFailed, match="it reads 8 proofs at once") as refused:
        await world.service.send(80, None, None, None, 30)
    assert refused.value.reason == "insufficient_ecash" and refused.value.data["free_sats"] == 90
    assert seen == [] and await world.sats() == 90
    await world.service.tidy()
    assert seen and max(seen) <= 8, "more than four alike are joined"
    joined = await world.sats()
    assert 90 - joined == sum(op.fee_sats for op in await world.ops() if op.kind == "consolidate")
    sent = await world.service.send(40, None, None, None, 30)
    left = await world.sats()
    assert joined - left == 40 + sent.fee_sats
    assert sum(proof.amount for proof in decode_token(sent.body.token).proofs) == 40
    paid = await world.service.withdraw(5, None, None, 30)
    assert sent.state is paid.state is OpState.DONE and 5 <= left - await world.sats() <= 5 + paid.fee_sats
    assert max(seen) <= 8
    await world.close()


async def test_a_caller_is_told_when_the_mint_may_be_asked_again(
    mint_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = EcashWorld(tmp_path, mint_url)
    await world.service.fund(10, None, None, 30)
    why = "20 money calls were sent in a minute"

    async def used_up(*_: object) -> object:
        raise MintUnavailable(mint_url, why, sent=False, retry_after_s=36.2)

    monkeypatch.setattr(world.mints, "away_for_s", lambda url: 36.2)
    for call in ("swap", "melt_quote"):
        monkeypatch.setattr(world.mints.client, call, used_up)
    for asked in (world.service.send(3, None, None, None, 30), world.service.withdraw(5, None, None, 30)):
        with pytest.raises(PaymentFailed, match=f"{why}; try again in 37 s") as refused:
            await asked
        assert (refused.value.reason, refused.value.data["retry_after"]) == ("mint_unavailable", 37)
    (failed,) = [op for op in await world.ops() if op.state is OpState.FAILED]
    assert failed.error.endswith(why), "what is stored tells no time that has passed"
    assert await world.sats() == 10
    await world.close()
