"""A command paid by a ticket, killed wherever it touches disk or node: the preimage is told exactly for what
succeeded, the item is never left behind (docs/protocol/02-fleet-management.md §7.1; 03 §6.7)."""

from __future__ import annotations

from pathlib import Path

import pytest
from crash_points import killed_everywhere
from hive_shared.cashu.ticket_machine import PayerItem
from pipeline_world import World
from ticket_world import Ticketed, secret_of

ENDS = {"success": PayerItem.RELEASED, "error": PayerItem.FAILED}


@pytest.mark.parametrize("ends", ENDS)
async def test_a_command_killed_anywhere_tells_its_preimage_if_it_succeeded_and_never_else(
    tmp_path: Path, ends: str
) -> None:
    answers: dict[int, str] = {}

    async def before(world: World) -> None:
        assert isinstance(world, Ticketed)
        await world.ticket()

    async def order(world: World) -> None:
        assert isinstance(world, Ticketed)
        if ends == "error":
            world.node.fail["setchannel"] = 313
        answers[id(world)] = str((await world.work()).get("preimage"))

    seen: set[tuple[bool, PayerItem]] = set()
    async for at, world, died in killed_everywhere(tmp_path, order, Ticketed, before):
        assert isinstance(world, Ticketed)
        ran = world.node.fees("101x1x0")[1] == 102
        found = world.db.peek(lambda tx: tx.execute("SELECT command_id FROM comms_commands").fetchone())
        item, state = world.item(), "" if found is None else await world.state(found[0])
        assert isinstance(item.state, PayerItem)
        assert (item.state is PayerItem.RELEASED) == ran == (state == "success"), (at, state, item.state)
        if ran:
            assert answers.get(id(world), secret_of()) == secret_of()
            status = await world.ask("hive:control/v1", "command_status", {"command_id": found[0]})
            assert status["result"]["response"]["preimage"] == secret_of(), at
            assert [doc["escrow"]["preimage_released"] for doc in await world.docs() if "escrow" in doc] == [
                True
            ]
        else:
            # Begun and not done: over. Never begun: free for the next command.
            assert answers.get(id(world), "None") == "None"
            begun = item.command_id is not None
            assert item.state is (PayerItem.FAILED if begun else PayerItem.ACCEPTED), (at, state)
            world.node.fail.clear()
            again = await world.work(102)
            assert (again.get("preimage") == secret_of()) == (not begun), (at, again)
        seen.add((died, item.state))
    assert {(True, PayerItem.ACCEPTED), (True, ENDS[ends]), (False, ENDS[ends])} <= seen
