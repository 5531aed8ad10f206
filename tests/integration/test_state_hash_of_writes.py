"""What receipts say of the node before and after a write (docs/protocol/02-fleet-management.md §9.1, §9.3):
every action that writes, with the roots it moves, on a node whose state was read a moment before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import channel_writes as channels
import payment_world
import plugin_world
import pytest
import rebalance_world
import swap_world
import wallet_world
from channel_node import PEER as OPENED
from channel_node import channel_world
from hive_shared.registry import BACKUP, PAYMENT, PEER, PLUGIN, REBALANCE, SPLICE, WALLET
from pipeline_world import Crash, World
from splice_node import splice_world

FEES, FORWARDING, CONFIG = channels.FEES, channels.FORWARDING, channels.CONFIG
EMERGENCY, HTLC_POLICY = channels.EMERGENCY, channels.HTLC_POLICY
MONITOR, CHANNEL = "hive:monitor/v1", "hive:channel/v1"

Key = tuple[str, str]
MOVED: dict[Key, set[str]] = {
    **{(FEES, name): {"policy"} for name in ("set_single", "set_zero_fee", "set_bulk", "set_anchor")},
    (FEES, "clear_anchor"): {"policy"},
    (HTLC_POLICY, "set_htlc_limits"): {"policy"},
    (HTLC_POLICY, "set_htlc_limits_bulk"): {"policy"},
    **{(FORWARDING, f"{does}_channel"): {"policy", "config"} for does in ("disable", "enable")},
    **{(FORWARDING, f"{does}_all"): {"policy", "config"} for does in ("disable", "enable")},
    **{(CONFIG, f"{does}_forwarding"): {"policy", "config"} for does in ("disable", "enable")},
    (EMERGENCY, "disable_forwarding"): {"policy", "config"},
    (EMERGENCY, "fee_spike"): {"policy"},
    (EMERGENCY, "revoke_all_credentials"): set(),
    **{(CONFIG, name): {"config"} for name in ("set_config", "set_min_channel_size", "adjust")},
    (CONFIG, "fee_schedule"): set(),
    # Kept by the plugin itself and seen by nobody but who asks for an invoice or a channel.
    (FORWARDING, "set_routing_hints"): set(),
    (CONFIG, "set_max_channel_size"): set(),
    (CONFIG, "auto_rebalance_rules"): set(),
    (PLUGIN, "configure"): {"config"},
    **{(PLUGIN, name): {"plugins"} for name in plugin_world.CASES},
    (PEER, "ban"): {"config"},
    (PEER, "unban"): {"config"},
    (PEER, "connect"): set(),
    (PEER, "disconnect"): set(),
    **{(WALLET, name): {"wallet"} for name in ("send_onchain", "sweep", "consolidate_utxos", "bump_fee")},
    **{(WALLET, name): {"wallet"} for name in ("freeze_utxos", "unfreeze_utxos")},
    (WALLET, "generate_address"): set(),
    (PAYMENT, "create_invoice"): set(),
    (BACKUP, "trigger_backup"): set(),
    (BACKUP, "export_scb"): set(),
    (CHANNEL, "open"): {"policy", "balance", "wallet"},
    (REBALANCE, "circular_rebalance"): {"balance"},
    # What the service moves it moves later, and the peer's help too.
    **{(REBALANCE, name): set() for name in ("swap_out", "swap_in", "peer_rebalance")},
    (CHANNEL, "close_cooperative"): {"policy"},
    # Balances change when the splice is buried.
    (SPLICE, "splice_in"): {"policy", "wallet"},
    (SPLICE, "splice_out"): {"policy"},
    # The node in memory has no channel that a payment could leave by.
    **{(PAYMENT, name): set() for name in ("pay_invoice", "pay_multipath", "keysend")},
}
BY_ANOTHER = {
    *((CHANNEL, name) for name in ("close_unilateral", "close_punitive", "open_batch")),
    *(("hive:expansion/v1", name) for name in ("propose_channel_open", "propose_open_batch")),
    (CHANNEL, "close_all"),
    *((EMERGENCY, name) for name in ("force_close", "force_close_all", "stop_node")),
    (CONFIG, "restart_node"),
    ("hive:htlc-mgmt/v1", "force_resolve_expired"),
}
"""Actions whose plan is that of open or close_cooperative, or says as little about what it moves."""
BACKUPS = {"trigger_backup": {"backup_type": "full", "include_scb": True}, "export_scb": {}}
RATE = {"channels": ["101x1x0"], "fee_ppm": 120, "time": {"from": "22:00", "to": "23:00"}}
MOVE = {"from_channel": "101x1x0", "to_channel": "102x1x0", "amount_sats": 9_000, "max_fee_ppm": 500}
RULES: dict[str, Any] = {
    "fee_schedule": {"rules": [RATE]},
    "auto_rebalance_rules": {"rules": [{**MOVE, "to_permille_below": 1}], "daily_budget_sats": 50},
}
OPENING = {
    "open": {"peer_id": OPENED, "amount_sats": 250_000},
    "close_cooperative": {"channel_id": "101x1x0", "reason": "idle"},
}


def staged(key: Key, directory: Path) -> tuple[World, Any]:
    """A world for an action, and its case there."""
    if key in swap_world.CASES:
        return swap_world.swapping(directory), swap_world.CASES[key]
    if key in rebalance_world.CASES:
        return rebalance_world.ring(directory), rebalance_world.CASES[key]
    if key in payment_world.CASES:
        return payment_world.trusted(directory), payment_world.CASES[key]
    if key in wallet_world.CASES:
        return wallet_world.trusted(directory), wallet_world.CASES[key]
    if key in channels.CASES:
        return channels.trusted(directory), channels.CASES[key]
    if key[0] == PLUGIN:
        return plugin_world.plugin_world(directory), channels.Case(plugin_world.CASES[key[1]])
    if key[0] == CHANNEL:
        return channel_world(directory), channels.Case(OPENING[key[1]])
    if key[0] == SPLICE:
        return splice_world(directory), channels.Case({"channel_id": "101x1x0", "amount_sats": 100_000})
    if key[0] == CONFIG:
        return channels.trusted(directory), channels.Case(RULES[key[1]])
    world = channels.trusted(directory)
    world.policies.override("aggressive", approval_overrides={"backup_*": "auto_execute"})
    return world, channels.Case(BACKUPS[key[1]])


async def roots(world: World) -> dict[str, Any]:
    """What a read shows: `state_hash` and `roots`."""
    return dict(await world.pipeline.executors._state_hash())


def moved(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    return {name for name, root in before["roots"].items() if after["roots"][name] != root}


async def test_every_action_that_writes_says_what_it_moves(tmp_path: Path) -> None:
    world = World(tmp_path)
    writes = set(world.pipeline.executors._writes)
    world.close()
    assert writes == set(MOVED) | BY_ANOTHER | channels.PROPOSALS


@pytest.mark.parametrize("key", list(MOVED), ids="-".join)
async def test_a_receipt_shows_the_node_before_and_after_the_write(tmp_path: Path, key: Key) -> None:
    world, case = staged(key, tmp_path / "world")
    for schema, name, params in case.before:
        assert (await wallet_world.ask(world, schema, name, params))["status"] == 0
    world.pass_time(3_601)
    before = await roots(world)
    answer = await wallet_world.ask(world, *key, case.params)
    after = await roots(world)
    receipt = next(doc for doc in reversed(await world.docs()) if doc["action"] == key[1])
    assert receipt["status"] == "success", (answer, receipt)
    assert (receipt["state_hash_before"], receipt["state_hash_after"]) == (
        before["state_hash"],
        after["state_hash"],
    )
    assert moved(before, after) == MOVED[key]
    world.restart()
    assert await roots(world) == {**after, "computed_at": world.now}, "a fresh look shows the same"
    world.close()


@pytest.mark.parametrize("key", [(FORWARDING, "disable_channel"), (WALLET, "freeze_utxos")], ids="-".join)
async def test_a_receipt_written_after_a_crash_shows_what_was_done(tmp_path: Path, key: Key) -> None:
    world, case = staged(key, tmp_path / "world")
    world.pass_time(3_601)
    before = await roots(world)
    world.crash_at = "after_cln"
    with pytest.raises(Crash):
        await world.ask(*key, dict(case.params))
    world.restart()
    await roots(world)
    await world.pipeline.timers.tick()
    receipt = (await world.docs())[-1]
    after = await roots(world)
    assert receipt["status"] == "success" and receipt["result"]["reconciled"] is True
    assert (receipt["state_hash_before"], receipt["state_hash_after"]) == (
        before["state_hash"],
        after["state_hash"],
    )
    assert moved(before, after) == MOVED[key]
    world.close()


async def test_what_the_clock_ends_shows_in_the_next_read(tmp_path: Path) -> None:
    world = channels.trusted(tmp_path / "fees")
    anchor = {"channel_id": "101x1x0", "target_fee_ppm": 120, "ttl_hours": 1}
    assert (await world.ask(FEES, "set_anchor", dict(anchor)))["status"] == 0
    world.pass_time(3_599)
    anchored = await roots(world)
    world.pass_time(2)
    await world.pipeline.timers.tick()
    assert moved(anchored, await roots(world)) == {"policy"}
    world.close()
    other = wallet_world.trusted(tmp_path / "peers")
    assert (await other.ask(*wallet_world.BANNED))["status"] == 0
    assert (await other.ask(*wallet_world.FROZEN))["status"] == 0
    other.pass_time(3 * 3_600 - 1)
    banned = await roots(other)
    other.pass_time(1)
    free = await roots(other)
    assert moved(banned, free) == {"config"}
    other.pass_time(30 * 600 - 3 * 3_600)
    other.node.height += 30
    await other.pipeline.timers.tick()
    assert moved(free, await roots(other)) == {"wallet"}
    other.close()


async def test_a_fee_change_asks_the_node_no_more_than_before(tmp_path: Path) -> None:
    """Not while nothing else runs, and not after a write that read everything afresh."""
    world = channels.trusted(tmp_path)
    slow: list[str] = []
    for name in ("call", "listconfigs", "plugin_list"):
        setattr(world.node, name, noted(getattr(world.node, name), name, slow))
    fee = {"channel_id": "101x1x0", "fee_ppm": 120}
    assert (await world.ask(FEES, "set_single", dict(fee)))["status"] == 0
    assert sorted(slow) == ["call", "listconfigs", "plugin_list"], "once in a minute"
    slow.clear()
    configured = await world.ask(CONFIG, "set_config", dict(channels.CASES[CONFIG, "set_config"].params))
    assert configured["status"] == 0
    assert slow.count("plugin_list") == 2, "before and after"
    slow.clear()
    world.node.calls.clear()
    assert (await world.ask(FEES, "set_single", {**fee, "channel_id": "102x1x0"}))["status"] == 0
    assert slow == [] and world.node.calls == ["listpeerchannels", "setchannel"]
    world.close()


def noted(call: Callable[..., Any], name: str, calls: list[str]) -> Callable[..., Any]:
    async def noting(*args: Any, **named: Any) -> Any:
        calls.append(name)
        return await call(*args, **named)

    return noting
