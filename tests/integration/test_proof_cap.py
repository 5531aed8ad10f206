"""The cap of a wallet's proofs, the node's and the kit's (docs/protocol/03 §8), lowered, at a real mint."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from ecash_world import EcashWorld, invoice_of
from hive_shared.cashu.advice import NODE
from hive_shared.cashu.journal import Op, OpKind, OpState, OwnProof, ProofStatus
from hive_shared.cashu.proof_cap import MAX_PROOFS, ProofCap
from hive_shared.cashu.token import decode_token
from hive_shared.cashu.wire import Proof
from hive_shared.errors import Capacity
from hive_shared.store import Tx
from kit_ecash import KitEcash

pytestmark = pytest.mark.asyncio(loop_scope="module")
CAP = 12


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def payer(mint_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EcashWorld]:
    """Somebody else's wallet with ecash at the mint."""
    world = EcashWorld(tmp_path_factory.mktemp("payer"), mint_url)
    await world.service.fund(4_000, None, None, 30)
    yield world
    await world.close()


@pytest_asyncio.fixture(params=[EcashWorld, KitEcash], ids=["node", "kit"], loop_scope="module")
async def wallet(request: pytest.FixtureRequest, mint_url: str, tmp_path: Path) -> AsyncIterator[EcashWorld]:
    """An empty wallet that keeps twelve proofs."""
    world: EcashWorld = request.param(tmp_path / "own", mint_url, most_proofs=CAP)
    await ready(world)
    yield world
    await world.close()


async def ready(world: EcashWorld) -> None:
    if isinstance(world, KitEcash):
        await world.ecash.ready()


async def token(payer: EcashWorld, amount: int) -> str:
    """Worth `amount` to whoever takes it in: a sat more, which the mint keeps."""
    return (await payer.service.send(amount + 1, None, None, None, 30)).body.token


def states(wallet: EcashWorld) -> dict[str, str]:
    """Every proof's state, as the file has it."""
    family = "adv" if isinstance(wallet, KitEcash) else "comms"
    with sqlite3.connect(wallet.path) as file:
        return dict(file.execute(f"SELECT y, state FROM {family}_cashu_proofs"))


async def counters(wallet: EcashWorld) -> list[tuple[str, str, int]]:
    return await wallet.db.read(wallet.store.counters)


async def test_a_full_wallet_begins_nothing_new_and_gives_everything_back(
    wallet: EcashWorld, payer: EcashWorld, mint_url: str, tmp_path: Path
) -> None:
    for amount in (255, 15):
        assert (await wallet.service.receive(await token(payer, amount), 30)).amount_sats == amount
    before = states(wallet)
    assert len(before) == CAP and set(before.values()) == {"unspent"}
    # Refused before anything is written or sent: what it would have been made of is as good as before.
    later, counted = await token(payer, 31), await counters(wallet)
    with pytest.raises(Capacity, match=r"at most 12 proofs .* no room for 5 more.*takes some out") as refused:
        await wallet.service.receive(later, 30)
    assert (refused.value.code, refused.value.reason) == (4016, "too_many_proofs")
    assert (states(wallet), await counters(wallet), len(await wallet.ops())) == (before, counted, 2)
    await _found_by_its_seed(wallet, mint_url, tmp_path)
    # Money with a deadline comes in; it goes beyond the cap rather than be lost.
    keys = await wallet.service.ready(mint_url)
    given = decode_token(await token(payer, 3)).proofs
    proofs = [msgspec.structs.replace(proof, id=keys.active.id) for proof in given]
    redeemed = await wallet.service.swap_in(mint_url, "redeem", proofs, OpKind.REDEEM, 30)
    assert (redeemed.state, await wallet.sats()) == (OpState.DONE, 273)
    assert len(states(wallet)) == CAP + 2 and set(before) <= set(states(wallet))
    # It goes out too, and what went makes room: what was spent is forgotten, nothing that is worth something.
    paid = await wallet.service.pay(invoice_of(260, wallet.now), None, 30)
    assert paid.state is OpState.DONE
    left, have = set(await wallet.unspent()), await wallet.sats()
    assert (await wallet.service.receive(later, 30)).state is OpState.DONE
    assert await wallet.sats() == have + 31 and left <= set(await wallet.unspent())
    assert len(states(wallet)) <= CAP


async def _found_by_its_seed(wallet: EcashWorld, mint_url: str, tmp_path: Path) -> None:
    """What a search by the seed finds is not taken in in part."""
    fresh = type(wallet)(tmp_path / "fresh", mint_url, seed=wallet.seed, most_proofs=CAP - 1)
    await ready(fresh)
    with pytest.raises(Capacity, match="no room for 12 more"):
        await fresh.restore_from_seed().run(None, dry_run=False)
    assert (states(fresh), await counters(fresh)) == ({}, [])
    assert (await fresh.restore_from_seed().run(None, dry_run=True))["new_sats"] == 270
    await fresh.close()


async def test_what_is_under_way_counts(wallet: EcashWorld, payer: EcashWorld) -> None:
    tokens = [await token(payer, 31) for _ in range(3)]
    ends = await asyncio.gather(
        *(wallet.service.receive(each, 30) for each in tokens), return_exceptions=True
    )
    assert sorted(type(end) for end in ends if not isinstance(end, Op)) == [Capacity]
    assert (len(states(wallet)), await wallet.sats()) == (10, 62)


async def test_spent_proofs_are_forgotten_oldest_first_and_no_live_one_ever(wallet: EcashWorld) -> None:
    def proof(number: int) -> OwnProof:
        made = Proof(1, "00" * 8, f"secret {number}", "02" * 33)
        return OwnProof(f"02{number:064x}", made)

    async def add(numbers: range, state: ProofStatus, at: int) -> set[str]:
        some = [proof(number) for number in numbers]
        await wallet.db.write(lambda tx: wallet.store.add_proofs(tx, wallet.mint_url, some, state, "op", at))
        return {each.y for each in some}

    alive = {
        *await add(range(0, 3), ProofStatus.UNSPENT, 1),
        *await add(range(3, 5), ProofStatus.PENDING, 1),
        *await add(range(5, 7), ProofStatus.QUARANTINED, 1),
    }
    young = await add(range(7, 9), ProofStatus.SPENT, 30)
    middle = await add(range(9, 10), ProofStatus.SPENT, 20)
    old = await add(range(10, 12), ProofStatus.SPENT, 10)
    cap = ProofCap(wallet.store, NODE, CAP)

    async def room(coming: int) -> bool:
        def body(tx: Tx) -> bool:
            return cap.make_room(tx, coming)

        return await wallet.db.write(body)

    assert await room(0) and set(states(wallet)) == alive | young | middle | old
    assert await room(2) and set(states(wallet)) == alive | young | middle
    assert await room(3) and set(states(wallet)) == alive | young
    assert await room(5) and set(states(wallet)) == alive
    assert not await room(6) and set(states(wallet)) == alive


async def test_the_cap_is_that_of_the_sheet(tmp_path: Path, mint_url: str) -> None:
    assert MAX_PROOFS == 200_000
    for world in (EcashWorld(tmp_path / "node", mint_url), KitEcash(tmp_path / "kit", mint_url)):
        assert world.wallet.cap.most == MAX_PROOFS
        await world.close()
