"""Ecash for sibling plugins: locks of several signers, co-signing, tokens looked at before they are believed
(docs/protocol/03 §2.3, §9)."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from cashu_tickets import PAYEE, STRANGER, preimage
from cl_hive_comms.services.sibling_locks import Conditions, Package, SiblingLocks, SignInput, SignOutput
from hive_devnet.mint import MintProcess, mint_environment, mint_installed
from hive_shared.cashu.derive import public_key
from hive_shared.cashu.keysets import fee_sats, split
from hive_shared.cashu.lock_machine import LockState
from hive_shared.cashu.outputs import Output, finish, output
from hive_shared.cashu.reasons import TokenInvalid
from hive_shared.cashu.terms import lock_key_text, signed_by
from hive_shared.cashu.token import Token, decode_token, encode_token
from hive_shared.cashu.wire import Proof
from hive_shared.cashu.witness import build
from hive_shared.crypto import xonly_pubkey
from hive_shared.errors import InvalidParams, NotFound, PaymentFailed
from lock_world import LockWorld

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Node:
    """A node and what its siblings may ask of it."""

    world: LockWorld
    siblings: SiblingLocks


async def nodes(directory: Path, mint_url: str) -> tuple[Node, Node]:
    """Two nodes at a mint, the first with ecash."""
    made = []
    for name in ("a", "b"):
        world = LockWorld(directory / name, mint_url)
        world.now = int(time.time())
        siblings = SiblingLocks(
            *(world.db, world.rows, world.locks, world.book, world.keys),
            nostr_key=lambda: PAYEE,
            read_op=world.store.op,
            answers=world.rows.answers,
        )
        made.append(Node(world, siblings))
    await made[0].world.service.fund(1_000, None, None, 30)
    return made[0], made[1]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(mint_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Node, Node]]:
    made = await nodes(tmp_path_factory.mktemp("usual"), mint_url)
    yield made
    for node in made:
        await node.world.close()


@pytest_asyncio.fixture(loop_scope="module")
async def binding_pair(tmp_path: Path) -> AsyncIterator[tuple[Node, Node]]:
    """At a mint that reads SIG_ALL as it is written today."""
    if not mint_installed("0.21"):
        pytest.skip(f"no mint in {mint_environment('0.21')}: `make setup-mints` puts it there")
    process = await MintProcess.start(tmp_path / "mint", release="0.21")
    made = await nodes(tmp_path, process.url)
    yield made
    for node in made:
        await node.world.close()
    await process.stop()


def bond(first: Node, second: Node, **changes: Any) -> Conditions:
    """60 sat that both must sign for, or the first after its locktime."""
    ref = os.urandom(8).hex()
    fields: dict[str, Any] = {
        "ref": ref,
        "amount_sats": 60,
        "keys": [node.siblings.pubkey("bond", refund=False)[0] for node in (first, second)],
        "n_sigs": 2,
        "refund_pubkey": first.siblings.pubkey(ref, refund=True)[0],
        "locktime": int(time.time()) + 90_000,
        "sigflag": "SIG_ALL",
        **changes,
    }
    return msgspec.convert(fields, Conditions)


async def test_a_key_is_bound_to_its_context(pair: tuple[Node, Node]) -> None:
    pubkey, binding = pair[0].siblings.pubkey("fleet", refund=False)
    assert pubkey == public_key(pair[0].world.keys.lock("fleet"))
    assert signed_by(xonly_pubkey(PAYEE), lock_key_text("fleet", pubkey), binding)
    assert not signed_by(xonly_pubkey(PAYEE), lock_key_text("other", pubkey), binding)


async def test_several_sign_one_swap_and_nothing_else(binding_pair: tuple[Node, Node]) -> None:
    first, second = binding_pair
    mint_url = first.world.mint_url
    wanted = bond(first, second)
    row = await first.siblings.lock_multisig("bond", "fleet", wanted, mint_url, 30)
    assert (row.state, row.owner, row.budget) == (LockState.LOCKED, "hive", "fleet")
    assert await first.siblings.lock_multisig("bond", "fleet", wanted, mint_url, 30) == row
    keysets = await first.world.mints.keysets(mint_url)
    proofs = [msgspec.structs.replace(each, id=row.keyset_id) for each in decode_token(row.token).proofs]
    net = row.face_sats - fee_sats(keysets[each.id].input_fee_ppk for each in proofs)
    outputs = made(net, row.keyset_id, keysets[row.keyset_id].denominations)
    package = packed(proofs, outputs)
    signatures = [await node.siblings.sign(package, "bond", mint_url) for node in (first, second)]
    # One signature, or one on other outputs, does not move it.
    stolen = packed(proofs, made(net, row.keyset_id, keysets[row.keyset_id].denominations))
    other = await second.siblings.sign(stolen, "bond", mint_url)
    mint = first.world.mints.client
    for given in ([signatures[0]], [signatures[0], other], [signatures[0], signatures[0]]):
        with pytest.raises(PaymentFailed):
            await mint.swap(witnessed(proofs, given), [each.message for each in outputs])
    answer = await mint.swap(witnessed(proofs, signatures), [each.message for each in outputs])
    assert sum(each.amount for each in finish(outputs, answer, keysets)) == net
    for wrong, why in (
        (msgspec.structs.replace(package, outputs=package.outputs[:-1]), "amount"),
        (packed(proofs, [outputs[0], *outputs]), "amount"),
        (packed([msgspec.structs.replace(proofs[0], id="00" * 8), *proofs[1:]], outputs), "keyset"),
    ):
        with pytest.raises(TokenInvalid) as refused:
            await first.siblings.sign(wrong, "bond", mint_url)
        assert refused.value.check == why
    with pytest.raises(TokenInvalid) as foreign:
        await first.siblings.sign(package, "another", mint_url)
    assert foreign.value.check == "pubkeys"
    late = bond(first, second, locktime=int(time.time()) - 120)
    row = await first.siblings.lock_multisig("late", "fleet", late, mint_url, 30)
    (back,) = await first.siblings.refund([row.lock_id], 30)
    assert back.state is LockState.REFUNDED


async def test_a_bond_comes_back_after_its_locktime_when_it_is_asked_for(pair: tuple[Node, Node]) -> None:
    first, second = pair
    start = await first.world.sats()
    wanted = bond(first, second, locktime=int(time.time()) - 120, sigflag="SIG_INPUTS")
    row = await first.siblings.lock_multisig("back", "fleet", wanted, first.world.mint_url, 30)
    await first.world.locks.tick()
    assert (await first.world.locks.rows([row.lock_id]))[0].state is LockState.LOCKED
    (back,) = await first.siblings.refund([row.lock_id], 30)
    assert back.state is LockState.REFUNDED
    net = await first.siblings.net_sats([back])
    locked = next(op for op in await first.world.ops() if op.op_id == row.op_id)
    assert await first.world.sats() == start - row.face_sats - locked.fee_sats + net
    # Asked again when the journal has long forgotten the swap.
    await first.world.db.write(lambda tx: tx.execute("DELETE FROM comms_cashu_ops"))
    assert await first.siblings.net_sats(await first.siblings.refund([row.lock_id], 30)) == net
    with pytest.raises(PaymentFailed) as not_ours:
        mine = bond(first, second, refund_pubkey=STRANGER)
        other = await first.siblings.lock_multisig("foreign", "fleet", mine, first.world.mint_url, 30)
        await first.siblings.refund([other.lock_id], 30)
    assert not_ours.value.reason == "lock_mismatch"
    with pytest.raises(InvalidParams, match="conditions"):
        twice = bond(first, second, keys=[STRANGER, STRANGER])
        await first.siblings.lock_multisig("twice", "fleet", twice, first.world.mint_url, 30)


async def test_a_token_is_looked_at_before_it_is_believed(pair: tuple[Node, Node]) -> None:
    first, second = pair
    terms = first.world.terms(second.world, (40, 8))
    one, other = await first.siblings.lock_ticket("t", "fleet", terms, None, 30)
    seen = await second.siblings.inspect(one.token, terms, 0, None, save=False)
    assert (seen.state, seen.dleq_ok, seen.problems) == ("unspent", True, ())
    assert set(seen.locks) == {one.lock}
    wrong = await second.siblings.inspect(other.token, terms, 0, None, save=False)
    assert wrong.problems and wrong.problems[0].startswith("hash")
    proofs = decode_token(one.token).proofs
    false = encode_token(
        Token(first.world.mint_url, (msgspec.structs.replace(proofs[0], C=proofs[-1].C), *proofs[1:]))
    )
    bad = await second.siblings.inspect(false, terms, 0, None, save=False)
    assert not bad.dleq_ok and bad.problems[0].startswith("dleq_invalid")
    with pytest.raises(PaymentFailed) as refused:
        await second.siblings.inspect(false, terms, 0, "t", save=True)
    assert refused.value.reason == "lock_mismatch" and await second.world.every() == []
    with pytest.raises(PaymentFailed, match="not to this node's key"):
        await second.siblings.inspect(one.token, terms, 0, "u", save=True)
    saved = await second.siblings.inspect(one.token, terms, 0, "t", save=True)
    assert saved.lock_id is not None
    with pytest.raises(NotFound):
        await second.siblings.look([one.lock_id])
    (got,) = await second.siblings.redeem({saved.lock_id: preimage(0).hex()}, 30)
    assert (
        got.state is LockState.REDEEMED and await second.siblings.net_sats([got]) == await second.world.sats()
    )
    (gone,) = await first.siblings.look([one.lock_id])
    assert (gone.state, gone.preimage) == (LockState.REDEEMED, preimage(0).hex())
    spent = await second.siblings.inspect(one.token, terms, 0, None, save=False)
    assert spent.state == "spent" and spent.problems[0].startswith("token_spent")
    # What the operator locked is nothing for a sibling.
    (own,) = await first.world.locked(first.world.terms(second.world, (5,)), "operator's")
    for ask in (first.siblings.look([own.lock_id]), first.siblings.refund([own.lock_id], 1)):
        with pytest.raises(NotFound, match="of a sibling"):
            await ask
    with pytest.raises(NotFound):
        await first.siblings.op(own.op_id)
    assert (await first.siblings.op(one.op_id)).op_id == one.op_id


def made(sats: int, keyset_id: str, denominations: tuple[int, ...]) -> list[Output]:
    return [
        output(each, keyset_id, os.urandom(32).hex(), b"\x01" + os.urandom(31))
        for each in split(sats, denominations)
    ]


def packed(proofs: list[Proof], outputs: list[Output]) -> Package:
    return Package(
        [SignInput(each.amount, each.id, each.secret, each.C) for each in proofs],
        [SignOutput(each.amount, each.keyset_id, each.secret, each.r.hex()) for each in outputs],
    )


def witnessed(proofs: list[Proof], signatures: list[str]) -> list[Proof]:
    first = msgspec.structs.replace(proofs[0], witness=build(None, signatures), dleq=None)
    return [first, *(msgspec.structs.replace(each, dleq=None) for each in proofs[1:])]
