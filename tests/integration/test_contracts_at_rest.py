"""Contracts that only run cost nothing by the clock (docs/protocol/04-marketplace-and-nostr.md §10): neither
rows nor writes, until one is due or a credential changed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cl_hive_comms.domain.engagement import Engagement
from cl_hive_comms.storage import contract_store
from hive_shared.errors import PaymentFailed
from hive_shared.market import contract as contracts
from hive_shared.market.contract_machine import RUNNING, ContractState
from hive_shared.store import Tx
from market_terms import terms
from market_world import MarketWorld

DAY = 86_400
MANY = 1_000
GRACE_S = 3_600


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[MarketWorld]:
    world = await MarketWorld(tmp_path).start()
    try:
        yield world
    finally:
        world.db.close()


async def due(world: MarketWorld, at: int) -> list[str]:
    rows = await world.db.read(lambda tx: world.rows.due(tx, at, 10))
    return [row.status.value for row in rows]


def copies(tx: Tx, table: str, count: int) -> None:
    """The one row of a table, again under other names."""
    names = [row[1] for row in tx.execute(f"PRAGMA table_info({table})")]
    own = {"contract_id", "thread_id", "credential_id"}
    values = ", ".join(f"{name} || '-' || n" if name in own else name for name in names)
    tx.execute(
        f"WITH RECURSIVE more(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM more WHERE n < {count})"
        f" INSERT INTO {table} ({', '.join(names)}) SELECT {values} FROM {table}, more"
    )


async def test_a_thousand_contracts_that_run_are_not_read_and_nothing_is_written(
    world: MarketWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = await world.active()
    await world.db.write(lambda tx: [copies(tx, f"marketplace_{name}", MANY) for name in NAMES])
    await world.engagements.settle()
    read, decode = [0], contract_store._engagement

    def counted(found: Any) -> Engagement:
        read[0] += 1
        return decode(found)

    monkeypatch.setattr(contract_store, "_engagement", counted)
    writes = world.db.stats.writes
    for _ in range(3):
        await world.engagements.settle()
        await world.negotiations.settle()
    assert (read[0], world.db.stats.writes - writes) == (0, 0)
    # One that gives notice is looked at alone.
    await world.engagements.terminate(row.contract_id, "cheaper", emergency=False, confirm=False)
    world.now += 7 * DAY
    read[0] = 0
    await world.engagements.settle()
    assert (await world.row(row.contract_id)).status is ContractState.TERMINATED
    assert read[0] < 20


NAMES = ("threads", "contracts")


async def test_a_contract_is_due_when_it_is_to_be_signed_issued_or_ended(world: MarketWorld) -> None:
    row = await world.agreed()
    late = (row.contract_start or 0) + contracts.SIGNING_S + GRACE_S
    assert (await due(world, late - 1), await due(world, late)) == ([], ["signing"])
    sign = await world.advisor.reads(world, row.thread_id)
    await world.hears(world.advisor.says(world, row, world.advisor.signed(sign, terms(), world.now)))
    assert await due(world, 0) == ["signed"]
    await world.engagements.settle()
    end = (await world.row(row.contract_id)).contract_end or 0
    assert (await due(world, end - 1), await due(world, end)) == ([], ["active"])
    row = await world.engagements.terminate(row.contract_id, "cheaper", emergency=False, confirm=False)
    effective = row.effective_at or 0
    assert (await due(world, effective - 1), await due(world, effective)) == ([], ["notice"])
    world.now = effective
    await world.engagements.settle()
    assert await due(world, 1 << 40) == []


async def test_every_state_in_which_a_contract_runs_ends_by_the_clock(world: MarketWorld) -> None:
    """The column names states as the machine does."""
    row = await world.active()
    for state in RUNNING:
        sql = "UPDATE marketplace_contracts SET status = ?, effective_at = 5 WHERE contract_id = ?"
        await world.db.write(
            lambda tx, sql=sql, state=state: tx.execute(sql, (state.value, row.contract_id)) and None
        )
        assert await due(world, 5) == [state.value] and await due(world, 4) == []


async def test_a_revocation_that_could_not_be_followed_is_followed_later(
    world: MarketWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = await world.active()
    await world.service.revoke_credential(row.credential_id or "", "by hand")
    revoke = world.service.revoke_credential

    async def fails(*_: Any, **__: Any) -> Any:
        raise PaymentFailed("not now")

    monkeypatch.setattr(world.service, "revoke_credential", fails)
    await world.engagements.settle()
    assert (await world.row(row.contract_id)).status is ContractState.ACTIVE
    monkeypatch.setattr(world.service, "revoke_credential", revoke)
    await world.engagements.settle()
    assert (await world.row(row.contract_id)).status is ContractState.TERMINATED
