"""A paid command killed wherever it touches disk or node: it ran once, or its fee is still good
(docs/protocol/02-fleet-management.md §7.1, §8; 03 §7.5)."""

from __future__ import annotations

from pathlib import Path

import pytest
from access_world import Selling, preimage_of
from crash_points import killed_everywhere
from hive_shared.canonical import JsonValue
from pipeline_world import World

LOGS = ("hive:monitor/v1", "log_stream", {})


def conserved(world: Selling) -> tuple[int, int]:
    """(uses that are taken, commands that took them); a use belongs to exactly one command."""
    taken = int(world.row("SELECT COALESCE(SUM(uses), 0) FROM comms_l402_tokens")[0])
    rows = int(world.row("SELECT COUNT(*) FROM comms_access_uses WHERE state <> 'returned'")[0])
    assert taken == rows
    return taken, rows


@pytest.mark.parametrize("method", ["bolt11", "l402"])
async def test_a_paid_write_killed_anywhere_runs_once_or_its_fee_is_still_good(
    tmp_path: Path, method: str
) -> None:
    proofs: dict[int, dict[str, JsonValue]] = {}

    async def before(world: World) -> None:
        assert isinstance(world, Selling)
        proofs[id(world)] = await (world.one_fee() if method == "bolt11" else world.token())

    async def order(world: World) -> None:
        await world.set_fee(102, payment_proof=proofs[id(world)])

    seen: set[tuple[bool, bool]] = set()
    async for at, world, died in killed_everywhere(tmp_path, order, Selling, before):
        assert isinstance(world, Selling)
        ran = world.node.fees("101x1x0")[1] == 102
        taken, _ = conserved(world)
        assert world.setchannels <= 1 and taken == int(ran), (at, ran, taken)
        again = await world.set_fee(103, "102x1x0", payment_proof=proofs[id(world)])
        good = again["status"] == 0
        # A token of many actions stays good in any case; the fee of one only if that one did not run.
        assert good == (method == "l402" or not ran), (at, again)
        conserved(world)
        seen.add((died, ran))
    assert {(True, False), (True, True), (False, True)} <= seen


async def test_a_paid_read_killed_anywhere_is_answered_or_its_fee_is_still_good(tmp_path: Path) -> None:
    proofs: dict[int, dict[str, JsonValue]] = {}

    async def before(world: World) -> None:
        assert isinstance(world, Selling)
        proofs[id(world)] = await world.one_fee()

    async def order(world: World) -> None:
        await world.ask(*LOGS, payment_proof=proofs[id(world)])

    async for at, world, died in killed_everywhere(tmp_path, order, Selling, before):
        assert isinstance(world, Selling)
        answered = int(world.row("SELECT COUNT(*) FROM comms_commands WHERE state = 'success'")[0])
        assert conserved(world)[0] == answered, at
        assert died or answered


async def test_a_paid_command_that_waits_killed_anywhere_keeps_or_returns_its_fee(tmp_path: Path) -> None:
    def waiting(directory: Path) -> World:
        world = Selling(directory)
        world.policies.override("moderate", approval_overrides={"fee_policy_*": "always_confirm"})
        return world

    ids: dict[int, str] = {}

    async def before(world: World) -> None:
        assert isinstance(world, Selling)
        held = await world.set_fee(102, payment_proof=await world.one_fee())
        ids[id(world)] = held["command_id"]

    async def order(world: World) -> None:
        await world.pipeline.approvals.approve(ids[id(world)])

    seen: set[tuple[str, int]] = set()
    async for at, world, _died in killed_everywhere(tmp_path, order, waiting, before):
        assert isinstance(world, Selling)
        state, taken = await world.state(ids[id(world)]), conserved(world)[0]
        ran = world.node.fees("101x1x0")[1] == 102
        assert taken == int(ran or state == "pending_approval"), (at, state)
        assert ran == (state == "success"), (at, state)
        seen.add((state, taken))
    assert {("pending_approval", 1), ("success", 1)} <= seen


async def test_the_way_to_a_token_killed_anywhere_sells_nothing_that_cannot_be_redeemed(
    tmp_path: Path,
) -> None:
    async def order(world: World) -> None:
        await world.set_fee(102)

    async for at, world, _died in killed_everywhere(tmp_path, order, Selling):
        assert isinstance(world, Selling)
        # Whoever pays an invoice that the node knows of, has something for it.
        kept = world.db.peek(
            lambda tx: [row[0] for row in tx.execute("SELECT payment_hash FROM comms_l402_tokens")]
        )
        known = {row["payment_hash"]: label for label, row in world.invoices.items()}
        assert set(kept) <= set(known), at
        # One that was made and is on no record was never handed out.
        answered = world.row("SELECT COUNT(*) FROM comms_responses WHERE response_json LIKE '%macaroon%'")[0]
        assert answered == 0 or len(kept) == len(known), at
        for digest in kept:
            world.pay(world.invoices[known[digest]]["bolt11"])
        first = next((d for d in kept if _service(world, d) == "action"), None)
        if first is not None:
            proof: dict[str, JsonValue] = {"method": "bolt11", "preimage": preimage_of(known[first]).hex()}
            assert (await world.set_fee(103, "102x1x0", payment_proof=proof))["status"] == 0, at


def _service(world: Selling, payment_hash: str) -> str:
    return str(world.row("SELECT service FROM comms_l402_tokens WHERE payment_hash = ?", payment_hash)[0])
