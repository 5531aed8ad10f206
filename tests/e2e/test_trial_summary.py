"""The end of a trial on a real plugin: it runs out by the clock, the operator decides, and anybody can fetch
and check the signed summary (docs/protocol/02-fleet-management.md §10 "Period end", 04 §4.3, §10)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from agent import Agent
from channel_world import plugin_again
from clock_world import DAY, ROUND_S, world_at
from hive_devnet.clock import PluginClock
from hive_devnet.node import DevnetRpcError
from hive_devnet.world import World, until
from hive_shared.canonical import encode
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.nostr.event import Event
from hive_shared.nostr.keys import npub_encode
from hive_shared.nostr.relay import RelayPool
from hive_shared.receipts import merkle_root

SUMMARY = 38385


async def on_the_relay(world: World, clock: PluginClock, author: str) -> list[Event]:
    """The summaries that a stranger's client finds on the relay; it checks ids and signatures itself."""

    async def nothing(_relay: str, _name: str, _event: Event) -> None:
        return

    pool = RelayPool(on_event=nothing, private_relays=True, now=clock.now)
    await pool.set_relays([world.relay.url], [world.relay.url], [])
    await pool.start()
    try:
        assert await pool.wait_for(lambda: pool.connected() == 1, 60)
        return list((await pool.query([{"kinds": [SUMMARY], "authors": [author]}])).events)
    finally:
        await pool.stop()


async def test_a_trial_runs_out_and_what_the_operator_says_of_it_is_found_signed_on_a_relay(
    tmp_path: Path,
) -> None:
    async with (
        world_at(tmp_path, lambda now: now) as (world, clock),
        Agent(world.alice, world.relay.url, now=clock.now) as agent,
    ):
        await agent.hired("fees", trial=7)
        done = await agent.rest(agent.signed("set_single", {"channel_id": world.scid, "fee_ppm": 510}))
        assert done["status"] == 0, done
        (trial,) = (await world.alice.call("hive-client-trial"))["items"]
        clock.wait(7 * DAY + ROUND_S)

        async def reviewed() -> dict[str, Any] | None:
            (row,) = (await world.alice.call("hive-client-trial"))["items"]
            return row if row["state"] == "review" else None

        await until(reviewed, "the review")
        after = await agent.rest(agent.signed("set_single", {"channel_id": world.scid, "fee_ppm": 520}))
        assert after["error"]["slug"] == "credential_expired", after
        said = {"advisor": agent.npub, "action": "decide", "outcome": "renew", "reason": "it worked"}
        decided = await world.alice.call("hive-client-trial", said)
        assert decided["outcome"] == "renew" and decided["published"] == "queued", decided

        async def found() -> list[Event]:
            return await on_the_relay(world, clock, agent.node_key)

        # Killed with the summary on its way or out already: the same event, once.
        await plugin_again(world)
        (event,) = await until(found, "the summary on the relay")
        assert event.id == decided["event_id"] and event.created_at == decided["decided_at"]
        summary = decided["summary"]
        assert event.content == encode(summary).decode() and json.loads(event.content) == summary
        assert ["d", f"did:nostr:{agent.key}"] in [list(tag) for tag in event.tags]
        assert summary["issuer"] == f"did:nostr:{agent.node_key}" and summary["outcome"] == "renew"
        assert summary["period"] == {"start": trial["started"], "end": trial["ends"]}
        assert summary["metrics"] == {"actions_taken": 1, "channels_managed": 1}
        assert summary["not_measured"] == ["revenue_delta_pct", "uptime_pct"]
        # Its evidence is the receipts that the operator can show.
        shown = (await world.alice.call("hive-client-receipts", {"limit": 100}))["items"]
        evidence, hashes = summary["evidence"], {row["receipt_id"]: row["receipt_hash"] for row in shown}
        ids = [row["receipt_id"] for row in shown if row.get("credential_id") == agent.credential_id]
        mine = [hashes[each] for each in sorted(ids) if each <= evidence["last_id"]]
        assert (evidence["merkle_root"], evidence["count"]) == (merkle_root(mine), len(mine))
        assert (await world.alice.call("hive-client-receipts-verify"))["ok"] is True
        await only_the_same_advisor_may_try_again(world, agent)


async def only_the_same_advisor_may_try_again(world: World, agent: Agent) -> None:
    """A direct hire has no extension: the same advisor gets a further trial, another one has to wait."""
    other = npub_encode(xonly_pubkey(Secret(b"\7" * 32)))
    with pytest.raises(DevnetRpcError) as refused:
        await world.alice.call("hive-client-trial", {"advisor": other, "action": "start", "days": 7})
    assert refused.value.data == {"reason": "trial_cooldown"}, refused.value
    further = {"advisor": agent.npub, "action": "start", "days": 7}
    assert (await world.alice.call("hive-client-trial", further))["trial_id"]
    states = [row["state"] for row in (await world.alice.call("hive-client-trial"))["items"]]
    assert sorted(states) == ["review", "running"]
