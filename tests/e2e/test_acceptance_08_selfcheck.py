"""Sheet 08 §8.6 on a running node: every check, repairs, alerts, the time limit."""

from __future__ import annotations

import asyncio
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from agent import Agent
from hive_devnet.world import World, until
from outside import tampering

CHECKS = {
    *("cln_version", "rpc_latency", "database", "wal", "disk", "file_modes", "key", "clock", "relays"),
    *("clnrest", "siblings", "policy", "options", "mints", "proofs", "receipts", "payments", "outbox"),
    *("backup", "emergency", "runes"),
}


async def checks(world: World, **params: object) -> dict[str, dict[str, str]]:
    answer = await world.alice.call("hive-client-selfcheck", params)
    assert answer["ok"] is all(row["status"] != "fail" for row in answer["checks"])
    return {row["id"]: row for row in answer["checks"]}


async def alerts(world: World) -> list[dict[str, Any]]:
    items = (await world.alice.call("hive-client-alerts"))["items"]
    return [row for row in items if row["code"].startswith("selfcheck_")]


async def test_every_check_of_the_sheet_is_there_and_a_new_node_fails_none(world: World) -> None:
    found = await checks(world)
    assert set(found) == CHECKS
    for row in found.values():
        assert set(row) == {"id", "status", "detail", "fix"} and row["detail"], row
        assert bool(row["fix"]) is (row["status"] != "ok"), row
    # One relay, no clnrest, no backup of what is not in the seed: nothing else is to be said.
    assert {name for name, row in found.items() if row["status"] != "ok"} <= {"relays", "clnrest", "backup"}
    assert [row for row in found.values() if row["status"] == "fail"] == []
    assert await alerts(world) == []


async def test_fix_makes_files_private_again_and_says_so(world: World) -> None:
    database = world.alice.net_dir / "cl_hive_comms.db"
    database.chmod(0o644)
    assert (await checks(world))["file_modes"]["status"] == "fail"
    (alert,) = await alerts(world)
    assert alert["level"] == "warning" and "file_modes fails" in alert["text"]
    assert "repaired" not in await world.alice.call("hive-client-selfcheck")
    answer = await world.alice.call("hive-client-selfcheck", {"fix": True})
    did = {row["id"]: row["did"] for row in answer["repaired"]}
    assert did["file_modes"] == "made private: cl_hive_comms.db"
    assert stat.S_IMODE(database.stat().st_mode) == 0o600
    assert {row["id"]: row for row in answer["checks"]}["file_modes"]["status"] == "ok"
    assert [row["level"] for row in await alerts(world)] == ["info", "warning"]


async def test_a_broken_chain_is_a_critical_alert_once(world: World, agent: Agent) -> None:
    def tamper() -> None:
        with tampering(world.alice) as database:
            database.execute(
                "UPDATE management_receipts SET created_at = created_at + 1 WHERE receipt_id = 1"
            )

    await asyncio.to_thread(tamper)
    for _ in range(2):
        assert (await checks(world))["receipts"]["status"] == "fail"
    (alert,) = await alerts(world)
    assert (alert["level"], alert["count"]) == ("critical", 1)


async def test_without_relays_the_check_fails_and_fix_tries_what_waits(world: World, agent: Agent) -> None:
    await world.relay.stop()

    async def fails() -> bool:
        return (await checks(world))["relays"]["status"] == "fail"

    await until(fails, "the lost relay to be noticed")
    assert any("relays fails" in row["text"] for row in await alerts(world))
    # The news of the revocation cannot go out, is tried and waits for its next turn.
    await world.alice.call("hive-client-revoke", {"advisor": agent.npub})

    async def tried() -> bool:
        answer = await world.alice.call("hive-client-selfcheck", {"fix": True})
        return any(row["id"] == "outbox" and "are tried now" in row["did"] for row in answer["repaired"])

    await until(tried, "a message to wait for its next turn")
    await world.relay.restart()

    # By itself the plugin may wait for more than a minute by now; who asks for a repair need not.
    async def well() -> bool:
        answer = await world.alice.call("hive-client-selfcheck", {"fix": True})
        return {row["id"]: row["status"] for row in answer["checks"]}["relays"] != "fail"

    await until(well, "the relay to be dialled again")
    assert any("relays no longer fails" in row["text"] for row in await alerts(world))


async def test_a_backup_and_its_parts_are_remembered(world: World, agent: Agent, tmp_path: Path) -> None:
    word = tmp_path / "passphrase"
    word.write_text("correct horse battery staple\n")
    word.chmod(0o600)
    assert (await checks(world))["backup"]["detail"] == "never backed up: credentials, receipts"
    some = {"path": str(tmp_path / "some"), "passphrase_file": str(word), "components": ["credentials"]}
    await world.alice.call("hive-client-backup", some, timeout=120)
    assert (await checks(world))["backup"]["detail"] == "never backed up: receipts"
    whole = {"path": str(tmp_path / "whole"), "passphrase_file": str(word)}
    await world.alice.call("hive-client-backup", whole, timeout=120)
    assert (await checks(world))["backup"] == {
        "id": "backup",
        "status": "ok",
        "detail": "0 days old",
        "fix": "",
    }


async def test_a_stop_and_unserved_options_are_told(world: World) -> None:
    await world.alice.call("hive-client-emergency-stop")
    await world.alice.call(
        "setconfig",
        {"config": "hive-comms-liquidity-max-mint-exposure", "val": 1, "transient": True},
    )
    found = await checks(world)
    assert found["emergency"]["status"] == found["options"]["status"] == "warn"
    answer = await world.alice.call("hive-client-selfcheck", {"fix": True})
    # While the stop is on nothing is published.
    assert "relays" not in {row["id"] for row in answer["repaired"]}


async def test_the_answer_takes_five_seconds_at_most_with_a_node_that_hangs(world: World) -> None:
    if world.network.kind != "embedded":
        pytest.skip("holding calls of the node needs the embedded node's fault switches")
    from hive_devnet.faults import FaultKind, NodeFaults

    faults = NodeFaults(world.network, world.alice)  # type: ignore[arg-type]
    for command in ("getinfo", "plugin", "listconfigs", "help"):
        await faults.set(command, FaultKind.DELAY_BEFORE, seconds=600, times=0)
    began = time.monotonic()
    answer = await world.alice.call("hive-client-selfcheck", {"fix": True})
    assert time.monotonic() - began < 60, "5 s and the way of the call on a busy machine"
    found = {row["id"]: row for row in answer["checks"]}
    assert found["cln_version"]["status"] == found["rpc_latency"]["status"] == "warn"
    assert found["database"]["status"] == found["receipts"]["status"] == "ok"
    await faults.clear()
    await faults.release()
