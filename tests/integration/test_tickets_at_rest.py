"""Tickets that only wait cost nothing by the clock: none is opened, nothing is written
(docs/protocol/03-escrow-and-payments.md §6.6, §6.7)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from escrow_world import EscrowWorld
from hive_shared.crypto import Sealer
from hive_shared.store import Tx
from msgspec.structs import replace
from payee_world import PayeeWorld

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def world(tmp_path: Path, mint_url: str) -> AsyncIterator[PayeeWorld]:
    opened = PayeeWorld(tmp_path, mint_url)
    yield opened
    await opened.close()


async def test_a_ticket_in_our_favour_is_opened_when_its_locktime_is_past(
    world: PayeeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    terms = world.terms(10, 7)
    await world.hand_over(terms)
    assert await world.states(terms.ticket_id) == ["accepted", "accepted"]
    opened, decrypt = [0], Sealer.open

    def counted(self: Sealer, *args: object) -> bytes:
        opened[0] += 1
        return decrypt(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Sealer, "open", counted)

    async def look() -> tuple[int, int]:
        """How many seals one round opens, and how often it writes."""
        writes, opened[0] = world.db.stats.writes, 0
        await world.engine.look()
        await world.redeemer.redeem()
        await world.redeemer.look_back()
        return opened[0], world.db.stats.writes - writes

    assert await look() == (0, 0)
    world.now = max(each.locktime for each in terms.items) + 120
    # The mint is asked who has it, and again a quarter of an hour later.
    assert await look() == (4, 1)
    assert await look() == (0, 0)
    world.now += 900
    assert (await look())[0] == 4
    world.now += 7 * 86_400
    assert await look() == (0, 0)


async def test_what_is_late_is_found_by_an_index(world: PayeeWorld) -> None:
    asked: list[str] = []

    def body(tx: Tx) -> list[str]:
        tx.set_trace_callback(asked.append)
        world.rows.late_shares(tx, (1, 2), 3)
        tx.set_trace_callback(None)
        return [row["detail"] for row in tx.execute(f"EXPLAIN QUERY PLAN {asked[0]}")]

    plan = await world.db.write(body)
    assert any("adv_cashu_locks_late" in step for step in plan), plan


async def test_a_mint_is_waited_for_while_a_command_runs_for_an_item_there(world: PayeeWorld) -> None:
    terms = world.terms(10)
    await world.hand_over(terms)

    async def at_work(now: int) -> frozenset[str]:
        return await world.db.read(lambda tx: world.rows.mints_at_work(tx, now))

    assert await at_work(world.now) == frozenset()
    (item,) = await world.items(terms.ticket_id)
    await world.db.write(
        lambda tx: world.rows.put_item(tx, replace(item, command_id="a command"), item.state)
    )
    end = item.locktime
    assert (await at_work(end - 1), await at_work(end)) == ({world.mint_url}, frozenset())


async def test_a_payer_forgets_what_is_old_once_an_hour(tmp_path: Path, mint_url: str) -> None:
    payer = EscrowWorld(tmp_path, mint_url)
    await payer.engine.tick()
    writes = payer.db.stats.writes
    await payer.engine.tick()
    payer.now += 3_599
    await payer.engine.tick()
    assert payer.db.stats.writes == writes
    payer.now += 1
    await payer.engine.tick()
    assert payer.db.stats.writes == writes + 1
    await payer.close()
