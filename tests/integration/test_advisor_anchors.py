"""Receipts under roots that the node's Lightning key signed (docs/protocol/11-advisor-kit.md §5.4, §15.7). No
relay, one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hive_shared import envelope, receipts
from hive_shared.crypto import Secret, cln_sign_message
from kit_world import KitWorld, run_fee

HOUR = 1_770_000_000 // 3_600 * 3_600


def root(world: KitWorld, first: int, last: int, **changes: Any) -> dict[str, Any]:
    """A root over receipts of the node's chain; `hsm` signs it, `over` are other hashes, what else changes
    does so after signing."""
    hsm = changes.pop("hsm", world.node.hsm)
    hashes = [str(each["receipt_hash"]) for each in world.node.chain[first - 1 : last]]
    merkle = receipts.merkle_root(changes.pop("over", hashes))
    text = receipts.root_text("hour", HOUR, first, last, merkle)
    made = {"kind": "hour", "start": HOUR, "first_id": first, "last_id": last, "merkle_root": merkle}
    return {**made, "zbase": cln_sign_message(hsm, text), **changes}


async def test_acceptance_11_01_06_only_a_root_of_the_pinned_node_over_our_own_hashes_anchors(
    tmp_path: Path,
) -> None:
    world = KitWorld(tmp_path)
    told: list[object] = []

    def answer(command: envelope.Command) -> dict[str, Any]:
        if command.action == "receipts_list":
            return world.node.response(command, 0, result=world.node.listed(command, roots=told))
        return world.node.honest(command)

    async with world.open() as kit:
        client = await world.hired(kit)
        await run_fee(kit)
        world.node.stub()
        await run_fee(kit, 160)
        world.node.answer = answer

        async def levels() -> dict[int, str]:
            await kit.sync_receipts(client, 5)
            return {each.receipt_id: each.level for each in await kit.receipts.every(client)}

        linked = {1: "chained", 2: "stub", 3: "chained"}
        stranger = Secret(b"\x77" * 32)
        for wrong in (
            {"hsm": stranger},
            {"over": ["ab" * 32, "cd" * 32, "ef" * 32]},
            {"merkle_root": "ab" * 32},
            {"kind": "day"},
            {"start": HOUR + 3_600},
            {"first_id": 2},
            {"last_id": 2},
            {"first_id": True},
            {"first_id": 0},
            {"last_id": "3"},
            {"zbase": "y" * 104},
            {"zbase": None},
        ):
            told[:] = [root(world, 1, 3, **wrong)]
            assert await levels() == linked, wrong
        # It goes beyond what is known here: not one of them is taken on the root's word.
        told[:] = [root(world, 1, 3, over=["ab" * 32] * 4, last_id=4), "no root"]
        assert await levels() == linked
        told[:] = [root(world, 1, 2)]
        assert await levels() == {**linked, 1: "anchored"}
        told[:] = [root(world, 1, 2), root(world, 3, 3)]
        # Another's receipt stays what it is: its place, on the node's word.
        assert await levels() == {1: "anchored", 2: "stub", 3: "anchored"}
        assert (await kit.receipts.verify(client))["ok"]
