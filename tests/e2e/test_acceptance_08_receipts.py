"""Sheet 08 §13.15: a changed receipt is named. Archiving ("prune -> verify ok"): test_receipt_archive.py and
test_acceptance_08_prune.py.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from typing import Any

import pytest
from agent import Agent
from hive_devnet.world import World
from hive_shared import receipts

NO_UPDATE = "management_receipts_no_update"


async def a_story(world: World, agent: Agent) -> list[dict[str, Any]]:
    """Authorised, done, refused, policy changed, revoked: receipts of several kinds, oldest first."""
    await world.alice.call("setchannel", {"id": world.scid, "feebase": 1_000, "feeppm": 1_000})
    for ppm in (1_100, 1_450):
        await agent.rest(agent.signed("set_single", {"channel_id": world.scid, "fee_ppm": ppm}))
    await world.alice.call("hive-client-policy", {"action": "set-preset", "preset": "conservative"})
    await world.alice.call("hive-client-revoke", {"advisor": agent.npub})
    items = (await world.alice.call("hive-client-receipts", {"limit": 200}))["items"]
    return sorted(items, key=lambda item: int(item["receipt_id"]))


def tamper(world: World, receipt_id: int, column: str) -> None:
    """One byte of a stored receipt, by somebody who may write the file and knows about the triggers."""
    with closing(sqlite3.connect(world.alice.net_dir / "cl_hive_comms.db", timeout=60)) as database, database:
        (trigger,) = database.execute("SELECT sql FROM sqlite_master WHERE name = ?", (NO_UPDATE,)).fetchone()
        (value,) = database.execute(
            f"SELECT {column} FROM management_receipts WHERE receipt_id = ?", (receipt_id,)
        ).fetchone()
        database.execute(f"DROP TRIGGER {NO_UPDATE}")
        database.execute(
            f"UPDATE management_receipts SET {column} = ? WHERE receipt_id = ?", (changed(value), receipt_id)
        )
        database.execute(trigger)


def changed(value: str | int) -> str | int:
    if isinstance(value, int):
        return value ^ 1
    middle = len(value) // 2
    return value[:middle] + ("1" if value[middle] != "1" else "2") + value[middle + 1 :]


async def test_acceptance_08_15_the_untouched_chain_verifies(world: World, agent: Agent) -> None:
    story = await a_story(world, agent)
    assert [item["receipt_id"] for item in story] == list(range(1, len(story) + 1))
    assert {item["action"] for item in story} >= {"authorize", "set_single", "policy_set-preset", "revoke"}
    verified = await world.alice.call("hive-client-receipts-verify")
    assert (verified["ok"], verified["checked"], verified["first_bad"]) == (True, len(story), None), verified
    # Whoever was given the receipts can do the same without the node.
    report = receipts.verify_chain(story, node_keys=(agent.node_key,))
    assert report.ok and report.checked == len(story)
    checks = {row["id"]: row for row in (await world.alice.call("hive-client-selfcheck"))["checks"]}
    assert [row for row in checks.values() if row["status"] == "fail"] == []
    assert checks["receipts"]["detail"] == f"{len(story)} verified"


async def test_receipts_as_text_are_a_line_each_with_names(world: World, agent: Agent) -> None:
    await world.alice.call(
        "hive-client-alias", {"action": "set", "alias": "fee doctor", "target": agent.npub}
    )
    story = await a_story(world, agent)
    shown = await world.alice.call("hive-client-receipts", {"format": "text"})
    assert shown["format-hint"] == "simple"
    lines = shown["text"].splitlines()
    assert len(lines) == len(story)
    asked = [line for line in lines if "hive:fee-policy/v1 set_single" in line]
    refused, done = asked
    assert "fee doctor" in done and "success" in done
    assert "fee doctor" in refused and "policy_blocked: 1450 ppm" in refused
    assert agent.key not in shown["text"]
    page = await world.alice.call("hive-client-receipts", {"format": "text", "limit": 2})
    assert page["text"].splitlines()[-1].startswith("older ones: cursor="), page


@pytest.mark.parametrize(
    "column", ["document", "receipt_hash", "node_signature", "prev_hash", "created_at", "action", "status"]
)
async def test_acceptance_08_15_a_changed_byte_is_named(world: World, agent: Agent, column: str) -> None:
    story = await a_story(world, agent)
    victim = next(item["receipt_id"] for item in story if item["action"] == "set_single")
    await asyncio.to_thread(tamper, world, victim, column)
    verified = await world.alice.call("hive-client-receipts-verify")
    assert (verified["ok"], verified["first_bad"]) == (False, victim), verified
    assert verified["reason"], "it says what is wrong with it"
    before = await world.alice.call("hive-client-receipts-verify", {"from_id": 1, "to_id": victim - 1})
    assert before["ok"] is True, before
    check = next(
        row for row in (await world.alice.call("hive-client-selfcheck"))["checks"] if row["id"] == "receipts"
    )
    assert check["status"] == "fail" and str(victim) in json.dumps(check), check


async def test_acceptance_08_15_without_tricks_the_file_refuses_changes(world: World, agent: Agent) -> None:
    await a_story(world, agent)

    def attempt(statement: str) -> str:
        with closing(sqlite3.connect(world.alice.net_dir / "cl_hive_comms.db", timeout=60)) as database:
            with pytest.raises(sqlite3.IntegrityError) as caught, database:
                database.execute(statement)
            return str(caught.value)

    for statement in (
        "UPDATE management_receipts SET status = 'success' WHERE receipt_id = 2",
        "DELETE FROM management_receipts WHERE receipt_id = 2",
        "DELETE FROM management_receipts",
    ):
        assert "append-only" in await asyncio.to_thread(attempt, statement)
    assert (await world.alice.call("hive-client-receipts-verify"))["ok"] is True
