"""The writes of hive:peer/v1 and hive:wallet/v1, killed wherever they touch disk or node: done once or not at
all, and the receipt says which (02 §7.1 "Crash", §15.12)."""

from __future__ import annotations

from pathlib import Path

import pytest
from crash_points import killed_everywhere
from pipeline_world import World
from wallet_world import CASES, Richer, ask, trusted

NO_TRACE = {"generate_address"}
"""Of an address that nobody was told there is nothing to see."""


@pytest.mark.parametrize(("schema", "action"), list(CASES), ids=lambda name: name.split("/")[0])
async def test_acceptance_02_12_killed_anywhere_it_is_done_once_or_not_at_all(
    tmp_path: Path, schema: str, action: str
) -> None:
    case = CASES[schema, action]

    async def before(world: World) -> None:
        for one, name, params in case.before:
            answer = await world.ask(one, name, dict(params))
            assert answer["status"] == 0, answer

    async def order(world: World) -> None:
        await ask(world, schema, action, case.params)

    calm = trusted(tmp_path / "calm")
    await before(calm)
    untouched, receipts_before = calm.shown(), len(await calm.docs())
    calls_before = calm.node.calls.count(case.effect) if case.effect else 0
    await order(calm)
    done = calm.shown()
    assert (await calm.docs())[-1]["status"] == "success"
    assert done != untouched or action in NO_TRACE
    calm.close()
    seen: set[str] = set()
    async for at, world, died in killed_everywhere(tmp_path, order, trusted, before):
        assert isinstance(world, Richer)
        if (await world.pipeline.approvals.pending())["count"]:
            assert died and world.shown() == untouched
            continue
        docs, now = (await world.docs())[receipts_before:], world.shown()
        assert len(docs) <= 1, (at, docs)
        if case.effect:
            assert world.node.calls.count(case.effect) <= calls_before + 1, (at, "asked for twice")
        status = docs[0]["status"] if docs else "none"
        seen.add(status)
        if status == "success":
            assert now == done, (at, docs)
        else:
            # A ban that was not kept may have cut the connection, which harms nobody.
            assert now == untouched or (action == "ban" and now[1] == untouched[1]), (at, docs)
            assert docs or died
    assert {"none", "error", "success"} <= seen, seen
