"""Both kinds of node: how they are prepared for a stop, stop, and start again."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from cln_contract import CheckedNode, Probe, Trio
from hive_devnet.world import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def _began(node: CheckedNode) -> str:
    return str((await node.call("getlog", {"level": "broken"}))["created_at"])


async def _down_and_up(node: CheckedNode) -> None:
    """`stop`, and a start as a supervisor makes it."""
    assert await node.call("stop") == {"result": "Shutdown complete"}
    await asyncio.wait_for(node.handle.ended(), 60)
    await node.handle.start()


async def _connected(node: CheckedNode) -> list[str]:
    return [str(peer["id"]) for peer in (await node.call("listpeers"))["peers"] if peer["connected"]]


async def test_a_node_lets_its_peers_go_before_it_stops_and_begins_a_new_log(trio: Trio) -> None:
    before = await _began(trio.alice)
    assert await _began(trio.alice) == before
    assert await trio.alice.call("graceful", {"timeout": 30}) == {}
    assert await _connected(trio.alice) == []
    await _down_and_up(trio.alice)
    assert await _began(trio.alice) != before

    async def back() -> bool:
        return trio.bob.id in await _connected(trio.alice)

    await until(back, "the channel's peer to be back")


async def test_what_is_not_over_in_time_is_named(trio: Trio, tmp_path: Path) -> None:
    holder = Probe(
        tmp_path,
        "holder.py",
        manifest={"hooks": ["htlc_accepted"]},
        answers={"htlc_accepted": {"__hold__": True}},
    )
    await trio.carol.handle.call("plugin", ["start", str(holder.path)])
    made = await trio.carol.call("invoice", {"amount_msat": 1_000, "label": "held", "description": "d"})
    paying = asyncio.create_task(trio.bob.handle.call("xpay", [made["bolt11"]]))

    async def held() -> list[dict[str, Any]]:
        rows = (await trio.bob.call("listpeerchannels"))["channels"]
        return [htlc for row in rows for htlc in row["htlcs"]]

    (htlc,) = await until(held, "an HTLC in flight")
    left = await trio.bob.call("graceful", {"timeout": 1})
    # A peer whose channel is just being taken up again stays as well.
    assert left["pending_htlc_expiries"] == [htlc["expiry"]] and trio.carol.id in left["pending_peers"]
    await _down_and_up(trio.bob)
    await trio.carol.handle.call("plugin", {"subcommand": "stop", "plugin": holder.name})
    await asyncio.gather(paying, return_exceptions=True)


@pytest.mark.parametrize("timeout", ["soon", 1.5])
async def test_a_time_that_is_none_is_refused(trio: Trio, timeout: object) -> None:
    error = await trio.carol.error("graceful", {"timeout": timeout})
    assert error.code == -32602 and "unsigned 64 bit integer" in error.message
