"""A trial as operator and advisor see it (Protocol 08 §5.2 -trial, §7 Authorize; 04 §10)."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from typing import Any

import pytest
from agent import Agent
from hive_devnet.node import DevnetRpcError
from hive_devnet.world import PLUGINS, World, until
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.nostr.keys import npub_encode

DAY = 86_400


def somebody() -> str:
    """A new npub."""
    return npub_encode(xonly_pubkey(Secret(os.urandom(32))))


async def refused(world: World, method: str, **parameters: object) -> DevnetRpcError:
    with pytest.raises(DevnetRpcError) as caught:
        await world.alice.call(method, parameters)
    return caught.value


async def offered_trial(agent: Agent) -> str:
    """The trial that the credential offer names."""

    async def offers() -> list[dict[str, Any]]:
        payloads = [message.get("schema_payload", {}) for message in agent.inbox]
        return [each["params"] for each in payloads if each.get("action") == "credential_offer"]

    return str((await until(offers, "the offer"))[0]["trial_id"])


async def restart(world: World, change: str, *values: object) -> None:
    """Kill the plugin, change its database, start it again."""
    path = world.alice.net_dir / "cl_hive_comms.db"
    await world.alice.kill_plugin("cl-hive-comms.py")

    def write() -> None:
        with sqlite3.connect(path, timeout=60) as database:
            database.execute(change, values)
        database.close()

    if change:
        await asyncio.to_thread(write)
    await world.alice.call(
        "plugin",
        {
            "subcommand": "start",
            "plugin": str(PLUGINS["cl-hive-comms"]),
            "hive-comms-nostr-relays": world.relay.url,
            "hive-comms-nostr-profile-relays": "",
        },
    )


async def test_a_trial_from_start_to_stop(world: World) -> None:
    async with Agent(world.alice, world.relay.url) as agent:
        await agent.hired("routing", trial=14)
        listed = await world.alice.call("hive-client-trial")
        (row,) = listed["items"]
        assert await offered_trial(agent) == row["trial_id"]
        assert (row["state"], row["days_left"], row["scope"]) == ("running", 14, "monitor,fee-policy")
        status = await world.alice.call("hive-client-status")
        assert [trial["days_left"] for trial in status["trials"]] == [14]

        # Fees may be set, nothing beyond although routing was asked for.
        answer = await agent.rest(agent.signed("set_single", {"channel_id": world.scid, "fee_ppm": 510}))
        assert answer["status"] == 0, answer
        granted = await world.alice.call("hive-client-credential", {"advisor": "advisor-1"})
        assert granted["tier"] == "standard" and granted["permissions"] == ["fee_policy", "monitor"]
        assert granted["schemas"] == ["hive:monitor/*", "hive:fee-policy/*"]

        review = await world.alice.call("hive-client-trial", {"advisor": "advisor-1", "action": "review"})
        assert review["review"]["actions_taken"] == 1 and review["stored"] is False
        assert "uptime_pct" not in review["review"]["not_measured"], "the one hour there was is an hour heard"
        (shown,) = (await world.alice.call("hive-client-status"))["advisors"]
        assert (shown["access"], shown["taken"], shown["spent_24h_sats"]) == ("trial", 1, 0)

        decide = {"advisor": "advisor-1", "action": "decide"}
        for wrong, code, why in (
            (decide, -32602, "needs outcome="),
            ({**decide, "outcome": "good"}, -32602, "renew"),
            ({**decide, "outcome": "renew", "reason": "x" * 501}, -32602, "at most 500"),
            ({**decide, "outcome": "renew"}, 4015, "trial_running"),
            ({**decide, "outcome": "renew", "advisor": somebody()}, 4001, "no advisor"),
            ({"outcome": "renew"}, -32602, "belong to action=decide"),
        ):
            error = await refused(world, "hive-client-trial", **wrong)
            assert error.code == code and why in error.message, error
        stopped = await world.alice.call("hive-client-trial", {"advisor": "advisor-1", "action": "stop"})
        assert (stopped["state"], stopped["stored"], stopped["revoked"]) == ("stopped", True, True)
        after = await agent.rest(agent.signed("health_summary", {}, "hive:monitor/v1"))
        assert after["error"]["slug"] == "credential_revoked", after
        error = await refused(world, "hive-client-trial", advisor="advisor-1", action="stop")
        assert error.code == 4001 and "no trial" in error.message
        again = await world.alice.call("hive-client-trial", {"advisor": "advisor-1", "action": "review"})
        assert again["stored"] is True and again["review"]["actions_taken"] == 1
        assert again["suggestion"]["outcome"] == "neutral" and again["decision"] is None
        word = {**decide, "outcome": "revoke"}
        assert (await refused(world, "hive-client-trial", **word)).code == 4005
        await world.alice.call("setconfig", {"config": "hive-comms-private-relationships", "val": "true"})
        decided = await world.alice.call(
            "hive-client-trial", {**word, "outcome": "neutral", "reason": "moved"}
        )
        assert (decided["outcome"], decided["by"], decided["published"]) == ("neutral", "operator", "private")
        assert decided["summary"]["metrics"]["actions_taken"] == 1
        again = await world.alice.call("hive-client-trial", {"advisor": "advisor-1", "action": "review"})
        assert again["decision"]["outcome"] == "neutral"
        error = await refused(world, "hive-client-trial", **word, confirm=True)
        assert error.code == 4015 and "already_decided" in error.message, error
        assert (await world.alice.call("hive-client-receipts-verify"))["ok"] is True


@pytest.mark.parametrize(
    ("parameters", "code", "why"),
    [
        ({"action": "start"}, -32602, "needs advisor="),
        ({"action": "start", "advisor": "nobody at all"}, 4001, "no advisor is called"),
        ({"action": "start", "advisor": "npub1xyz"}, -32602, "npub"),
        ({"action": "start", "advisor": "KEY", "days": 6}, -32602, "7 to 30 days, not 6"),
        ({"action": "start", "advisor": "KEY", "days": 31}, -32602, "duration_out_of_range"),
        ({"action": "start", "advisor": "KEY", "days": "soon"}, -32602, "from 7 to 30"),
        ({"action": "start", "advisor": "KEY", "days": False}, -32602, "from 7 to 30"),
        ({"action": "stop", "advisor": "KEY"}, 4001, ""),
        ({"action": "review", "advisor": "KEY"}, 4001, ""),
        ({"action": "extend", "advisor": "KEY"}, -32602, "list, start, stop, review"),
        ({"days": 14}, -32602, "belongs to action=start"),
        ({"until": 14}, -32602, "unknown parameter"),
    ],
)
async def test_acceptance_08_what_is_no_trial_is_refused(
    world: World, parameters: dict[str, Any], code: int, why: str
) -> None:
    given = {key: somebody() if value == "KEY" else value for key, value in parameters.items()}
    error = await refused(world, "hive-client-trial", **given)
    assert error.code == code and why in error.message, error
    assert (await world.alice.call("hive-client-trial"))["count"] == 0
    assert (await world.alice.call("hive-mgmt-credential-list"))["count"] == 0


async def test_acceptance_04_11_the_guards_hold_on_a_node(world: World) -> None:
    first = await world.alice.call("hive-client-trial", {"advisor": somebody(), "action": "start"})
    assert first["trial_id"] and first["access"] == "trial"
    assert first["schemas"] == ["hive:monitor/*", "hive:fee-policy/*"]
    error = await refused(world, "hive-client-trial", advisor=somebody(), action="start", days=7)
    assert error.code == 4015 and error.data == {"reason": "trial_cooldown"}, error
    assert error.message.startswith("conflict: trial_cooldown: ")
    await world.alice.call(
        "hive-client-authorize", {"advisor": somebody(), "access": "monitoring", "trial": True}
    )
    error = await refused(world, "hive-client-trial", advisor=somebody(), action="start")
    assert error.data == {"reason": "max_active_trials"}, error
    text = await world.alice.call("hive-client-trial", {"format": "text"})
    assert text["format-hint"] == "simple" and "state: running" in text["text"]


async def test_a_trial_that_ran_out_while_the_plugin_was_down_is_reviewed_at_the_next_start(
    world: World,
) -> None:
    async with Agent(world.alice, world.relay.url) as agent:
        await agent.hired("fees", trial=7)
        rows = (await world.alice.call("hive-mgmt-credential-list"))["items"]
        credential_id = rows[0]["credential_id"]
        # As if all of it lay eight days back.
        await restart(
            world,
            "UPDATE marketplace_trials SET start_at = start_at - ?, end_at = end_at - ?",
            8 * DAY,
            8 * DAY,
        )

        async def reviewed() -> dict[str, Any] | None:
            (row,) = (await world.alice.call("hive-client-trial"))["items"]
            return row if row["state"] == "review" else None

        row = await until(reviewed, "the review")
        assert row["days_left"] == 0 and "ends" not in row
        alerts = (await world.alice.call("hive-client-alerts"))["items"]
        assert "trial_ended" in [alert["code"] for alert in alerts]
        (receipt,) = [
            each
            for each in (await world.alice.call("hive-client-receipts"))["items"]
            if each["action"] == "trial_end"
        ]
        assert receipt["credential_id"] == credential_id
        assert json.dumps(receipt["result"]["review"]["criteria"])
        assert (await world.alice.call("hive-client-receipts-verify"))["ok"] is True
