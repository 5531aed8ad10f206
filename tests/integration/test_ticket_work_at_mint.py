"""A command paid by a ticket whose ecash is locked at a real mint (docs/protocol/02 §15.15)."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from cashu_tickets import PAYEE, preimage
from escrow_tables import rows_of, secret_row
from hive_shared.cashu.lock_machine import LockState
from hive_shared.cashu.terms import task_params_hash
from hive_shared.cashu.ticket_machine import PayerItem
from hive_shared.errors import PaymentFailed
from hive_shared.storage.escrow_store import EscrowStore
from hive_shared.storage.families import NODE_TICKETS
from hive_shared.store import Tx
from lock_world import LockWorld, taken_in
from msgspec.structs import replace
from pipeline_world import NODE_ID, SEALER
from ticket_node import TicketNode
from ticket_world import ACTION, SCHEMA, params_of

pytestmark = pytest.mark.asyncio(loop_scope="module")
TASKS = (params_of(102), params_of(103, "102x1x0"))


@pytest_asyncio.fixture(loop_scope="module")
async def sides(mint_url: str, tmp_path: Path) -> AsyncIterator[tuple[LockWorld, LockWorld]]:
    made = LockWorld(tmp_path / "payer", mint_url), LockWorld(tmp_path / "payee", mint_url)
    for world in made:
        world.now = int(time.time())
    await made[0].service.fund(1_000, None, None, 30)
    yield made
    for world in made:
        await world.close()


async def test_acceptance_02_15_success_carries_the_preimage_of_the_lock_and_an_error_of_the_node_none(
    tmp_path: Path, sides: tuple[LockWorld, LockWorld]
) -> None:
    payer, payee = sides
    hashes = [task_params_hash(SCHEMA, ACTION, task) for task in TASKS]
    made: dict[str, Any] = {"schema": SCHEMA, "task_params_hash": hashes[0], "danger": 4, "node_id": NODE_ID}
    terms = payer.terms(payee, (100, 50), **made)
    terms = payer.terms(
        payee,
        (100, 50),
        **made,
        **{"ticket_id": terms.ticket_id, "payer": vars_of(terms.payer)},
        items=[{**vars_of(each), "cond": {"task_params_hash": hashes[each.i]}} for each in terms.items],
    )
    locks = await payer.locked(terms)
    mine = {row.item: row for row in await taken_in(terms, locks, payee)}
    node = TicketNode(tmp_path / "payer", payer, EscrowStore(SEALER, NODE_TICKETS), NODE_ID)
    ticket, items = rows_of(terms, node.now)
    there = [replace(each, state=PayerItem.ACCEPTED, lock_ids=(locks[each.i].lock_id,)) for each in items]

    def store(tx: Tx) -> None:
        node.escrow.add_ticket(tx, ticket, there)
        kept = [secret_row(node.now, each.i, ticket_id=terms.ticket_id) for each in items]
        node.escrow.add_secrets(tx, [replace(each, i=number) for number, each in enumerate(kept)])

    await node.db.write(store)

    async def work(number: int) -> dict[str, Any]:
        proof = {"method": "cashu_escrow", "ticket_id": terms.ticket_id, "item": number}
        channel = ("101x1x0", "102x1x0")[number]
        return await node.set_fee(102 + number, channel, agent=PAYEE, payment_proof=proof)

    done = await work(0)
    assert done["status"] == 0 and done["receipt"]["escrow"]["hash"] == locks[0].lock.hash
    (redeemed,) = await payee.locks.redeem({mine[0].lock_id: done["preimage"]})
    assert redeemed.state is LockState.REDEEMED and await payee.sats() >= 100
    # The node refuses: no preimage, and what else the payee has opens nothing.
    node.node.fail["setchannel"] = 313
    failed = await work(1)
    assert failed["status"] == 2 and failed["error"]["slug"] == "node_error" and "preimage" not in failed
    assert failed["receipt"]["escrow"]["preimage_released"] is False
    with pytest.raises(PaymentFailed) as wrong:
        await payee.locks.redeem({mine[1].lock_id: done["preimage"]})
    assert wrong.value.reason == "preimage_mismatch"
    assert preimage(1).hex() not in str(failed) + str(await node.docs())
    # Each side's books say what is true at the mint; the failed item comes back at its time.
    await payer.sweep()
    assert await payer.states() == [LockState.REDEEMED, LockState.LOCKED]
    failed_lock = (await payer.locks.rows([locks[1].lock_id]))[0]
    assert failed_lock.refund_hold_until == 0


def vars_of(part: Any) -> dict[str, Any]:
    """A part of the terms as the document has it."""
    found: dict[str, Any] = msgspec.to_builtins(part)
    return found
