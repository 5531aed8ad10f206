"""The state hash of a node as a service (docs/protocol/02-fleet-management.md §9.3, §16)."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from cl_hive_comms.domain import state_hash
from cl_hive_comms.services.executors.action import CHANNELS_ONLY, Outcome, Plan
from cl_hive_comms.services.state_hash_service import StateHashService
from hive_shared.cln import ClnError
from pipeline_world import NodeFake

KEY = b"k" * 32
LEAVES = {"policy": state_hash.policy_leaf, "balance": lambda row: state_hash.balance_leaf(row, KEY)}


class Clock:
    now = 1_000


def service(node: NodeFake, clock: Clock | None = None) -> StateHashService:
    clock = clock or Clock()
    return StateHashService(
        node,
        key=KEY,
        policy_version=lambda: 1,
        holds=frozenset,
        banned=frozenset,
        armed=tuple,
        now=lambda: clock.now,
    )


@pytest.mark.parametrize(
    ("field", "value", "root"),
    [
        ("fee_base_msat", 7, "policy"),
        ("fee_proportional_millionths", 7, "policy"),
        ("minimum_htlc_out_msat", 7, "policy"),
        ("maximum_htlc_out_msat", 7, "policy"),
        ("state", "CHANNELD_SHUTTING_DOWN", "policy"),
        ("short_channel_id", "1x1x1", "policy"),
        ("to_us_msat", 7, "balance"),
        ("total_msat", 7, "balance"),
    ],
)
async def test_a_changed_field_moves_its_root_as_a_fresh_computation_does(
    field: str, value: Any, root: str
) -> None:
    node = NodeFake()
    hashes = service(node)
    before = await hashes.of_plan(Plan({}, before=tuple(node.rows)))
    node.rows[1] = {**node.rows[1], field: value}
    after = await hashes.of_plan(Plan({}, before=tuple(node.rows)))
    assert after != before
    assert after == await service(node).of_plan(Plan({}, before=tuple(node.rows)))
    fresh = {name: state_hash.channels_root(node.rows, leaf) for name, leaf in LEAVES.items()}
    old = {name: state_hash.channels_root(NodeFake().rows, leaf) for name, leaf in LEAVES.items()}
    assert [name for name in LEAVES if fresh[name] != old[name]] == [root]


async def test_reads_are_at_most_a_minute_old() -> None:
    node, clock = NodeFake(), Clock()
    hashes = service(node, clock)
    first = await hashes.describe()
    node.rows[0]["fee_base_msat"] = 5
    assert await hashes.describe() == first
    clock.now += 60
    assert (await hashes.describe())["roots"] != first["roots"]


async def test_the_hash_after_a_write_comes_from_the_re_read_channels() -> None:
    node = NodeFake()
    hashes = service(node)
    plan = Plan({}, before=tuple(dict(row) for row in node.rows))
    node.rows[2]["fee_proportional_millionths"] = 250
    calls = len(node.calls)
    outcome = Outcome("success", {}, after={node.rows[2]["channel_id"]: node.rows[2]})
    after = await hashes.after(plan, outcome)
    assert "listpeerchannels" not in node.calls[calls:]
    assert after == (await service(node).describe())["state_hash"]


async def test_a_node_that_does_not_answer_leaves_the_hash_out() -> None:
    node = NodeFake()
    node.fail["listfunds"] = -1
    hashes = service(node)
    assert await hashes.found(Outcome("success", {})) is None
    assert await hashes.after(Plan({}, before=tuple(node.rows)), Outcome("success", {})) is None
    with pytest.raises(ClnError):
        await hashes.of_plan(Plan({}, before=tuple(node.rows)))


async def test_many_channels_are_hashed_like_few() -> None:
    node = NodeFake(channels=300)
    assert await service(node).found(Outcome("success", {})) is not None


async def test_channels_without_an_id_and_channels_that_went_count_as_they_are() -> None:
    node = NodeFake()
    young = {"peer_id": "02" + "aa" * 32, "state": "OPENINGD"}
    hashes = service(node)
    seen = set()
    for rows in ([young], [young, young], [young, {**young, "state": "CHANNELD_AWAITING_LOCKIN"}], []):
        given = await hashes.of_plan(Plan({}, before=(*node.rows, *rows)))
        assert given == await service(node).of_plan(Plan({}, before=(*node.rows, *rows)))
        seen.add(given)
    assert len(seen) == 4


def with_coins(node: NodeFake, amounts: list[int]) -> None:
    """The wallet shows these amounts, also when they change later."""
    node.answers["listfunds"] = lambda _: {
        "outputs": [{"txid": "aa" * 32, "output": n, "amount_msat": a} for n, a in enumerate(amounts)]
    }


async def test_a_write_that_runs_beside_is_seen_and_nothing_read_meanwhile_is_kept() -> None:
    node, amounts = NodeFake(), [5_000]
    with_coins(node, amounts)
    hashes = service(node)
    fees = Plan({}, before=tuple(node.rows), moves=CHANNELS_ONLY)
    first = await hashes.of_plan(fees)
    sends = Plan({}, before=tuple(node.rows))
    with hashes.moving(sends):
        assert await hashes.of_plan(sends) == first
        amounts[0] = 4_000
        seen = await hashes.of_plan(fees)
        amounts[0] = 3_000
        after = await hashes.after(sends, Outcome("success", {}))
    assert len({first, seen, after}) == 3
    calls = len(node.calls)
    assert await hashes.of_plan(fees) == after and len(node.calls) == calls


async def test_a_read_that_a_write_overtook_is_not_kept() -> None:
    node, amounts = NodeFake(), [5_000]
    with_coins(node, amounts)
    hashes, waiting, go = service(node), asyncio.Event(), asyncio.Event()
    plugins = node.plugin_list

    async def held_up() -> list[dict[str, Any]]:
        waiting.set()
        await go.wait()
        return await plugins()

    node.plugin_list = held_up  # type: ignore[method-assign]
    slow = asyncio.create_task(hashes.describe())
    await waiting.wait()
    node.plugin_list = plugins  # type: ignore[method-assign]
    sends = Plan({}, before=tuple(node.rows))
    with hashes.moving(sends):
        await hashes.of_plan(sends)
        amounts[0] = 4_000
        after = await hashes.after(sends, Outcome("success", {}))
    go.set()
    assert (await slow)["state_hash"] != after
    assert (await hashes.describe())["state_hash"] == after


@pytest.mark.parametrize("raises", [True, False])
async def test_a_write_that_nobody_could_look_at_afterwards_leaves_nothing_kept(raises: bool) -> None:
    node, amounts = NodeFake(), [5_000]
    with_coins(node, amounts)
    hashes, sends = service(node), Plan({}, before=tuple(node.rows))
    first = (await hashes.describe())["state_hash"]
    with contextlib.suppress(RuntimeError), hashes.moving(sends):
        assert await hashes.of_plan(sends) == first
        amounts[0] = 4_000
        if raises:
            raise RuntimeError
        node.fail["listfunds"] = -1
        assert await hashes.after(sends, Outcome("success", {})) is None
        node.fail.clear()
    assert (await hashes.describe())["state_hash"] != first
