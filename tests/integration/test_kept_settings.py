"""Routing hints and the largest channel of others: kept by the plugin, over restarts
(docs/protocol/02-fleet-management.md §4 items 4, 9 and 12)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hive_shared.cln import ClnError
from hive_shared.registry import CONFIG, FORWARDING, PAYMENT, Tier
from payment_world import trusted as paying
from pipeline_world import OTHER_KEY, NodeFake, View, World, issue, slug

HINTS = (FORWARDING, "set_routing_hints")
SIZE = (CONFIG, "set_max_channel_size")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = paying(tmp_path / "world")
    made.node.rows[:] = [NodeFake._row(number) for number in (1, 2)]
    for key in ("forwarding_*", "config_*"):
        made.policies.override("aggressive", approval_overrides={key: "auto_execute"})
    made.credentials.add(
        View(issue(OTHER_KEY, template="complete_management", tier=Tier.ADMIN, number=2), "adv-2")
    )
    yield made
    made.close()


async def ok(world: World, key: tuple[str, str], params: dict[str, Any], **more: Any) -> dict[str, Any]:
    answer = await world.ask(*key, params, **more)
    assert answer["status"] == 0, answer
    result: dict[str, Any] = answer["result"]
    return result


async def invoice(world: World) -> object:
    """The hints that the node was asked to put into a new invoice."""
    asked: list[dict[str, Any]] = []
    call = world.node.call

    async def noting(method: str, params: Any = None, **more: Any) -> Any:
        if method == "invoice":
            asked.append(dict(params))
        return await call(method, params, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.node, "call", noting)
        await ok(world, (PAYMENT, "create_invoice"), {"amount_msat": 1_000, "description": "tea"})
    (one,) = asked
    return one.get("exposeprivatechannels")


async def test_invoices_name_the_kept_channels_that_are_open_also_after_a_restart(world: World) -> None:
    assert await invoice(world) is None
    by_id = world.node.rows[1]["channel_id"]
    kept = ["101x1x0", "102x1x0"]
    assert await ok(world, HINTS, {"hints": ["101x1x0", by_id]}) == {"old": [], "new": kept}
    world.restart()
    assert await invoice(world) == kept
    world.node.rows[0]["state"] = "CHANNELD_SHUTTING_DOWN"
    assert await invoice(world) == kept[1:]
    del world.node.rows[1]
    assert await invoice(world) is None, "none is left: the node chooses"
    # Whoever asks next replaces it.
    assert await ok(world, HINTS, {"hints": []}, agent=OTHER_KEY, credential=2) == {"old": kept, "new": []}
    assert await ok(world, HINTS, {"hints": []}) == {"old": [], "new": []}
    assert [doc["action"] for doc in await world.docs()].count("set_routing_hints") == 3


@pytest.mark.parametrize(
    ("hints", "param"),
    [
        (["9x9x9"], "hints[0]"),
        (["101x1x0", "103x1x0"], "hints[1]"),
        (["101x1x0", "101x1x0"], "hints[1]"),
        (["101x1x0", f"{1:064x}"], "hints[1]"),
        (["101x1x0"] * 21, "hints"),
        ("101x1x0", "hints"),
        ([7.5], "hints[0]"),
    ],
)
async def test_what_is_no_open_channel_is_no_hint(world: World, hints: object, param: str) -> None:
    world.node.rows.append({**NodeFake._row(3), "state": "ONCHAIN"})
    await ok(world, HINTS, {"hints": ["102x1x0"]})
    answer = await world.ask(*HINTS, {"hints": hints})
    assert slug(answer) == "invalid_params" and answer["error"]["data"]["param"] == param, answer
    assert await invoice(world) == ["102x1x0"]


async def test_hints_that_the_node_finds_unsuitable_cost_no_invoice(world: World) -> None:
    await ok(world, HINTS, {"hints": ["102x1x0"]})
    call = world.node.call

    async def unsuitable(method: str, params: Any = None, **more: Any) -> Any:
        if method == "invoice" and "exposeprivatechannels" in params:
            raise ClnError("invoice", 902, "None of those hints were suitable local channels")
        return await call(method, params, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.node, "call", unsuitable)
        made = await ok(world, (PAYMENT, "create_invoice"), {"amount_msat": 1_000, "description": "tea"})
    assert made["bolt11"].startswith("lnbcrt")


async def test_the_limit_is_asked_by_the_hooks_and_survives_a_restart(world: World) -> None:
    assert world.pipeline.settings.largest_channel_sat() is None
    assert await ok(world, SIZE, {"sats": 2_000_000}) == {"old": None, "new": 2_000_000}
    assert world.pipeline.settings.largest_channel_sat() == 2_000_000
    assert await ok(world, SIZE, {"sats": 3_000_000}) == {"old": 2_000_000, "new": 3_000_000}
    world.restart()
    assert world.pipeline.settings.largest_channel_sat() == 3_000_000
    too_small = await world.ask(*SIZE, {"sats": 9_999})
    assert slug(too_small) == "invalid_params" and "nobody could open" in too_small["error"]["message"]
    for wrong in (0, -1, True, "2000000", 1.5):
        assert slug(await world.ask(*SIZE, {"sats": wrong})) == "invalid_params"
    assert world.pipeline.settings.largest_channel_sat() == 3_000_000
