"""A wallet at its cap of proofs, killed at every disk call: while spent ones are forgotten, while it refuses,
while it gives back beyond the cap. No sat is lost or doubled, no live proof is forgotten
(docs/protocol/03-escrow-and-payments.md §8 "Caps"; docs/decisions/0580-a-full-wallet.md)."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from crash_points import Countdown
from ecash_world import EcashWorld, invoice_of
from hive_shared.cashu import proof_cap
from hive_shared.cashu.advice import NODE
from hive_shared.cashu.journal import OpKind, OpState, OwnProof, ProofStatus
from hive_shared.cashu.proof_cap import ProofCap
from hive_shared.cashu.token import decode_token
from hive_shared.cashu.wire import Proof
from hive_shared.errors import Capacity, PaymentFailed
from hive_shared.store import Tx
from kit_ecash import KitEcash
from pipeline_world import Crash

pytestmark = pytest.mark.asyncio(loop_scope="module")
START, START_PROOFS, MOVED = 255, 8, 15
"""What is in the wallet at first, in how many proofs; 15 sat are four proofs more."""
_MOST_POINTS = 30

Does = Callable[[EcashWorld, str], Awaitable[object]]


async def receive(world: EcashWorld, token: str) -> object:
    return await world.service.receive(token, 30)


async def redeem(world: EcashWorld, token: str) -> object:
    keys = await world.service.ready(world.mint_url)
    proofs = [msgspec.structs.replace(each, id=keys.active.id) for each in decode_token(token).proofs]
    return await world.service.swap_in(world.mint_url, "redeem", proofs, OpKind.REDEEM, 30)


async def pay(world: EcashWorld, _: str) -> object:
    return await world.service.pay(invoice_of(100, 1_800_000_000), None, 30)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def payer(mint_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EcashWorld]:
    """Somebody else's wallet with ecash at the mint."""
    world = EcashWorld(tmp_path_factory.mktemp("payer"), mint_url)
    await world.service.fund(30_000, None, None, 30)
    yield world
    await world.close()


def proof_states(world: EcashWorld) -> dict[str, str]:
    """Every proof's state, as the file has it."""
    family = "adv" if isinstance(world, KitEcash) else "comms"
    with sqlite3.connect(world.path) as file:
        return dict(file.execute(f"SELECT y, state FROM {family}_cashu_proofs"))


async def given(payer: EcashWorld, amount: int) -> str:
    """A token worth `amount` to whoever takes it in: a sat more, which the mint keeps."""
    return (await payer.service.send(amount + 1, None, None, None, 30)).body.token


async def spent(world: EcashWorld, count: int) -> set[str]:
    """Rows of proofs that were spent at some time."""
    made = [
        OwnProof(f"02{number:064x}", Proof(1, "00" * 8, f"spent {number}", "02" * 33))
        for number in range(count)
    ]
    await world.db.write(
        lambda tx: world.store.add_proofs(tx, world.mint_url, made, ProofStatus.SPENT, "op", world.now)
    )
    return {each.y for each in made}


async def full(make: type[EcashWorld], directory: Path, payer: EcashWorld, old: int) -> EcashWorld:
    """A wallet at its cap: eight live proofs and `old` spent ones."""
    world = make(directory, payer.mint_url, most_proofs=START_PROOFS + old)
    if isinstance(world, KitEcash):
        await world.ecash.ready()
    await world.service.receive(await given(payer, START), 30)
    await spent(world, old)
    assert len(proof_states(world)) == START_PROOFS + old
    return world


async def killed(world: EcashWorld, act: Does, token: str, at: int) -> bool:
    """Whether the process died at a point of it; it is up again and its loop went round."""
    countdown = Countdown(at)
    countdown.watch(world.db, "write")
    died = True
    try:
        await act(world, token)
        died = False
    except Crash:
        pass
    except Capacity as refused:
        assert refused.reason == "too_many_proofs"
        died = False
    countdown.left = -1
    await world.restart()
    await world.sweep()
    await world.sweep()
    return died


async def balanced(world: EcashWorld, kind: str) -> int:
    """What it has is what its books say, and the mint says it of each proof; the sats."""
    ops = [op for op in await world.ops() if op.amount_sats != START]
    assert not any(op.open for op in ops), ops
    done = [op for op in ops if op.state is OpState.DONE]
    assert len(done) <= 1, ops
    got = sum(op.amount_sats for op in done) if kind != "pay" else -sum(op.amount_sats for op in done)
    fees = sum(op.fee_sats for op in done) if kind == "pay" else 0
    assert (await world.sats(), await world.held()) == (START + got - fees, 0), ops
    told = await world.mints.client.checkstate(await world.unspent())
    assert {each.state for each in told} == {"UNSPENT"}
    assert world.alerts == []
    return START + got - fees


CASES: dict[str, tuple[Does, int, int]] = {
    # What is done, how many spent proofs there are, the sats at the end.
    "forgets": (receive, 4, START + MOVED),
    "refuses": (receive, 3, START),
    "redeems": (redeem, 0, START + MOVED),
    "pay": (pay, 0, START - 100),
}


@pytest.mark.parametrize(
    ("kind", "make"), [*((kind, EcashWorld) for kind in CASES), ("forgets", KitEcash)], ids=[*CASES, "kit"]
)
async def test_killed_at_every_disk_call_at_the_cap_no_sat_is_lost_and_no_live_proof_forgotten(
    payer: EcashWorld, tmp_path: Path, kind: str, make: type[EcashWorld]
) -> None:
    act, old, ends_at = CASES[kind]
    ends = set()
    # Behind one call is before the next.
    for at in (0, *range(1, _MOST_POINTS, 2)):
        token = "" if act is pay else await given(payer, MOVED)
        world = await full(make, tmp_path / str(at), payer, old)
        alive = set(await world.unspent())
        died = await killed(world, act, token, at)
        have, rows = await balanced(world, kind), proof_states(world)
        if kind == "pay":
            assert alive <= set(rows)
        else:
            assert {y for y in alive if rows.get(y) == "unspent"} == alive
        if kind == "forgets":
            # Forgotten with what it was for, or not at all.
            assert list(rows.values()).count("spent") == (0 if have == ends_at else old)
        elif kind == "refuses":
            assert len(rows) == START_PROOFS + old and len(await world.ops()) == 1
            # Whoever gave the token has it still.
            assert (await payer.service.receive(token, 30)).state is OpState.DONE
        elif have != ends_at and abs(have - ends_at) > 5:
            await act(world, token)
            have = await balanced(world, kind)
        ends.add(have)
        await world.close()
        if not died:
            break
    else:
        pytest.fail(f"more than {_MOST_POINTS} points")
    assert any(abs(end - ends_at) <= 5 for end in ends) and len(ends) <= 2, ends


async def test_a_wallet_far_above_its_cap_comes_down_in_portions(
    mint_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other write waits for thousands of rows to go; what is new is refused only where all that is spent
    would not make room."""
    monkeypatch.setattr(proof_cap, "DROPPED_AT_ONCE", 2)
    world = EcashWorld(tmp_path, mint_url)
    await spent(world, 9)
    left = []

    async def room(most: int, coming: int) -> bool:
        def body(tx: Tx) -> bool:
            return ProofCap(world.store, NODE, most).make_room(tx, coming)

        fits = await world.db.write(body)
        left.append(len(proof_states(world)))
        return fits

    assert [await room(5, 1) for _ in range(4)] == [True] * 4
    assert left == [7, 5, 4, 4]
    assert not await room(5, 6) and left[-1] == 2
    await world.close()


async def test_what_was_spent_a_month_ago_goes_in_portions_too(
    mint_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hive_shared.cashu.wallet_service.DROPPED_AT_ONCE", 2)
    world = EcashWorld(tmp_path, mint_url)
    await spent(world, 5)
    world.now += 31 * 86_400
    writes = world.db.stats.writes
    await world.service.tidy()
    assert proof_states(world) == {} and world.db.stats.writes - writes == 4
    await world.close()


async def test_a_payment_that_a_full_wallet_cannot_cover_forgets_nothing(
    payer: EcashWorld, tmp_path: Path
) -> None:
    world = await full(EcashWorld, tmp_path, payer, 3)
    before = proof_states(world)
    with pytest.raises(PaymentFailed):
        await world.service.pay(invoice_of(10_000, world.now), None, 30)
    assert proof_states(world) == before
    await world.close()
