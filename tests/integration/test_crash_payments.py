"""The writes of hive:payment/v1, killed wherever they touch disk or node: paid once or not at all, and the
receipt says which (02 §7.1, §15.12)."""

from __future__ import annotations

from pathlib import Path

import pytest
from crash_points import killed_everywhere
from hive_shared.registry import PAYMENT
from payment_world import CASES, OVER_S, Paying, trusted
from pipeline_world import World

RUNS = [
    *((schema, action, "complete") for schema, action in CASES),
    *((PAYMENT, action, ends) for action in ("pay_invoice", "keysend") for ends in ("pending", "failed")),
]
"""`ends`: how the payment's part stands when the node is asked; a pending one completes later."""


@pytest.mark.parametrize(("schema", "action", "ends"), RUNS, ids=lambda name: name.split("/")[0])
async def test_acceptance_02_12_a_payment_killed_anywhere_is_made_once_or_not_at_all(
    tmp_path: Path, schema: str, action: str, ends: str
) -> None:
    case = CASES[schema, action]

    async def before(world: World) -> None:
        assert isinstance(world, Paying)
        world.node.ends = ends

    async def order(world: World) -> None:
        await world.ask(schema, action, dict(case.params))

    seen: set[str] = set()
    async for at, world, died in killed_everywhere(tmp_path, order, trusted, before):
        assert isinstance(world, Paying)
        asked = world.node.calls.count(str(case.effect))
        world.node.end("complete")
        world.pass_time(OVER_S)
        await world.pipeline.timers.tick()
        await world.pipeline.timers.tick()
        docs, done = await world.docs(), world.shown() != ([], [])
        assert world.node.calls.count(str(case.effect)) == asked <= 1, (at, "asked for twice")
        status = docs[0]["status"] if docs else "none"
        seen.add(status)
        assert len(docs) <= 1 and (status == "success") == done, (at, docs)
        assert docs or died
        spent = world.db.peek(lambda tx: tx.execute("SELECT COUNT(*) FROM comms_spend").fetchone()[0])
        assert spent == (1 if done and action != "create_invoice" else 0), (at, docs)
    assert {"none", "error"} <= seen, seen
    assert ("success" in seen) == (ends != "failed"), seen
