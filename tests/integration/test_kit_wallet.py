"""The kit's wallet at a real mint: killed at every disk and mint call, an invoice paid once, an old copy
restored: no sat is lost or doubled (docs/protocol/11-advisor-kit.md §8, §12, §18.7; 03 §5)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from crash_points import Countdown
from ecash_world import EcashWorld
from ecash_world import invoice_of as invoice_at
from hive_devnet.mint_faults import MintFault, MintFaultFront, MintFaultKind
from hive_shared.cashu.journal import OpKind, OpState, OwnProof
from hive_shared.errors import EmergencyStop, InvalidParams, PaymentFailed, Unsupported
from hive_shared.store import Tx
from kit_ecash import KitEcash
from pipeline_world import Crash

pytestmark = pytest.mark.asyncio(loop_scope="module")
MINT_CALLS = ("melt_quote", "melt", "swap", "melt_quote_state", "checkstate", "restore")
START, MOVED, NOW = 256, 100, 1_800_000_000
_MOST_POINTS = 40


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def payer(mint_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EcashWorld]:
    """A node's wallet with ecash at the mint."""
    world = EcashWorld(tmp_path_factory.mktemp("payer"), mint_url)
    await world.service.fund(30_000, None, None, 30)
    yield world
    await world.close()


def invoice_of(amount: int, days: int = 0) -> str:
    """A stranger's, made so many days after the tests' own beginning of time."""
    return invoice_at(amount, NOW + days * 86_400)


async def token(payer: EcashWorld, amount: int = START) -> str:
    return (await payer.service.send(amount, None, None, None, 30)).body.token


async def paid(world: KitEcash, payer: EcashWorld, amount: int = START) -> int:
    """What came in of a token over `amount`, less what the mint takes."""
    return (await world.service.receive(await token(payer, amount), 30)).amount_sats


async def send(world: KitEcash, _: str) -> object:
    return await world.service.send(MOVED, None, world.service.receive_pubkey, "mine", 30)


async def receive(world: KitEcash, given: str) -> object:
    return await world.service.receive(given, 30)


async def melt(world: KitEcash, invoice: str) -> object:
    return await world.service.pay(invoice, None, 30)


KINDS: dict[str, Callable[[KitEcash, str], Awaitable[object]]] = {
    "send": send,
    "receive": receive,
    "melt": melt,
}


@pytest.mark.parametrize("kind", KINDS)
async def test_killed_at_every_disk_and_mint_call(
    mint_url: str, payer: EcashWorld, tmp_path: Path, kind: str
) -> None:
    for at in (0, *range(1, _MOST_POINTS, 2)):
        world = KitEcash(tmp_path / str(at), mint_url)
        await world.ecash.ready()
        start = 0 if kind == "receive" else await paid(world, payer)
        given = await token(payer, MOVED) if kind == "receive" else invoice_of(MOVED)
        countdown = Countdown(at)
        countdown.watch(world.db, "write")
        countdown.watch(world.mints.client, *MINT_CALLS)
        died = True
        try:
            await KINDS[kind](world, given)
            died = False
        except Crash:
            pass
        countdown.left = -1
        await world.restart()
        await world.sweep()
        await world.sweep()
        # The same call again ends what is not done, and does nothing twice.
        try:
            await KINDS[kind](world, given)
        except PaymentFailed as error:
            assert (kind, error.reason) == ("send", "interrupted")
            await world.service.send(MOVED, None, world.service.receive_pubkey, "another", 30)
        (op,) = [op for op in await world.ops() if op.kind.value == kind and op.state is OpState.DONE
                 and (kind != "receive" or start == 0)]  # fmt: skip
        assert all(not each.open for each in await world.ops())
        moved = op.amount_sats if kind == "receive" else -op.amount_sats - op.fee_sats
        assert (await world.sats(), await world.held()) == (start + moved, 0), at
        states = await world.mints.client.checkstate(await world.unspent())
        assert all(entry.state == "UNSPENT" for entry in states)
        await world.close()
        if not died:
            return
    pytest.fail(f"more than {_MOST_POINTS} points")


async def test_an_invoice_is_paid_once_and_refused_before_anything_moves(
    mint_url: str, payer: EcashWorld, tmp_path: Path
) -> None:
    world = KitEcash(tmp_path, mint_url)
    await world.ecash.ready()
    have = await paid(world, payer)
    invoice = invoice_of(MOVED)
    ends = await asyncio.gather(*(world.service.pay(invoice, None, 30) for _ in range(3)))
    assert len({op.op_id for op in ends}) == 1 and ends[0].state is OpState.DONE
    left = have - MOVED - ends[0].fee_sats
    assert await world.sats() == left
    for text, error in (
        ("lnbc1nonsense", InvalidParams),
        (invoice_of(0), InvalidParams),
        (invoice_of(START), PaymentFailed),
    ):
        with pytest.raises(error):
            await world.service.pay(text, None, 30)
    with pytest.raises(Unsupported):
        await world.service.withdraw(10, None, None, 30)
    world.stopped = True
    with pytest.raises(EmergencyStop):
        await world.service.pay(invoice_of(10), None, 30)
    with pytest.raises(EmergencyStop):
        await world.service.send(10, None, None, None, 30)
    # What is being paid stays known, and money still comes in.
    assert (await world.service.pay(invoice, None, 30)).op_id == ends[0].op_id
    assert await world.sats() == left
    assert await paid(world, payer, 20) > 0
    await world.close()


async def test_an_invoice_given_up_is_not_paid_again_while_the_mint_may_still_pay_it(
    mint_url: str, payer: EcashWorld, tmp_path: Path
) -> None:
    async with MintFaultFront.before(mint_url) as front:
        world = KitEcash(tmp_path, front.url)
        await world.ecash.ready()
        other = EcashWorld(tmp_path / "payer", front.url)
        await other.service.fund(START + 10, None, None, 30)
        have = await paid(world, other)
        invoice = invoice_of(MOVED, days=2)
        front.set(MintFault(MintFaultKind.LOSE_BEFORE, path="/v1/melt/bolt11", times=9))
        with pytest.raises(PaymentFailed):
            await world.service.pay(invoice, None, 600)
        assert front.clear()
        (op,) = [op for op in await world.ops() if op.kind is OpKind.MELT]
        assert op.state is OpState.FAILED and op.watch_until > world.now
        with pytest.raises(PaymentFailed, match="paying again could pay twice") as refused:
            await world.service.pay(invoice, None, 30)
        assert refused.value.reason == "unknown_state" and await world.sats() == have
        world.now = op.watch_until
        assert (await world.service.pay(invoice, None, 30)).state is OpState.DONE
        await world.close()
        await other.close()


async def test_acceptance_11_07_a_week_old_copy_drops_what_was_spent_and_uses_no_counter_again(
    mint_url: str, payer: EcashWorld, tmp_path: Path
) -> None:
    world = KitEcash(tmp_path / "own", mint_url)
    await world.ecash.ready()
    await paid(world, payer)
    # A melt is under way when the copy is made: prepared, its request not sent.
    halfway = Countdown(-1)
    halfway.watch(world.mints.client, "melt")
    halfway.left = 0
    with pytest.raises(Crash):
        await world.service.pay(invoice_of(10), None, 30)
    halfway.left = -1
    await world.ecash.stop()
    world.db.close()
    old = world.copy(tmp_path / "old")
    world.open()
    await world.ecash.ready()
    await world.sweep()
    await world.sweep()
    sent = await world.service.send(MOVED, None, None, None, 30)
    await payer.service.receive(sent.body.token, 30)
    await paid(world, payer, 40)
    have = await world.sats()
    signed = {own.proof.secret for own in await proofs_of(world)}
    await world.close()
    await old.ecash.note_restored()
    await old.restart()
    assert await old.sats() == 0, "nothing counts before the mint was asked"
    old.now = world.now + 7 * 86_400
    await old.sweep()
    await old.sweep()
    # All that is there now, also what came after the copy; what was spent since is not.
    assert (await old.sats(), await old.held()) == (have, 0)
    assert all(not op.open for op in await old.ops())
    known = {own.proof.secret for own in await proofs_of(old)}
    # Change of our own is made for this one.
    op = await old.service.send(30, None, payer.service.receive_pubkey, None, 30)
    assert op.state is OpState.DONE
    fresh = {own.proof.secret for own in await proofs_of(old)} - known
    assert fresh and not fresh & signed
    await old.close()


async def test_what_is_not_settled_is_said_until_it_is(
    mint_url: str, payer: EcashWorld, tmp_path: Path
) -> None:
    world = KitEcash(tmp_path, mint_url)
    await world.ecash.ready()
    given = await token(payer)
    (mint,) = await world.ecash.checks(30)
    assert "clock" in mint["detail"], "the tests' own time is not the mint's"
    assert await world.ecash.under_way() == []
    dying = Countdown(-1)
    dying.watch(world.mints.client, "swap")
    dying.left = 1
    with pytest.raises(Crash):
        await world.service.receive(given, 30)
    dying.left = -1
    await world.restart()
    ((op_id, at),) = await world.ecash.under_way()
    world.now += 3_700
    assert at <= world.now
    (_, stuck) = await world.ecash.checks(30)
    assert (stuck["id"], stuck["status"]) == ("wallet", "warn") and op_id in stuck["detail"]
    await world.sweep()
    assert await world.ecash.under_way() == [] and len(await world.ecash.checks(30)) == 1
    await world.close()


async def test_nothing_of_ecash_is_readable_in_the_profile(
    mint_url: str, payer: EcashWorld, tmp_path: Path
) -> None:
    world = KitEcash(tmp_path, mint_url)
    await world.ecash.ready()
    await paid(world, payer)
    op = await world.service.send(MOVED, None, None, None, 30)
    content = b"".join(file.read_bytes() for file in tmp_path.iterdir() if file.is_file())
    for own in await proofs_of(world):
        assert own.proof.secret.encode() not in content and own.proof.C.encode() not in content
    assert op.body.token.encode() not in content
    await world.close()


async def proofs_of(world: KitEcash) -> tuple[OwnProof, ...]:
    """Every proof that the profile knows."""

    def body(tx: Tx) -> tuple[OwnProof, ...]:
        ys = [str(row[0]) for row in tx.execute("SELECT y FROM adv_cashu_proofs")]
        return world.store.proofs(tx, ys)

    return await world.db.read(body)
