"""The operator's policy on a running plugin (Protocol 08 §5.4, §13.22)."""

import json
from pathlib import Path

from cl_hive_comms.domain.policy_reach import idle_keys
from comms_world import PLUGIN, Agent, call, refused, until, world
from hive_devnet.node import NodeHandle


async def policy(node: NodeHandle, action: str = "get", **params: object) -> dict[str, object]:
    return await call(node, "hive-client-policy", action=action, **params)


async def test_changes_are_kept_over_a_kill_and_each_leaves_a_receipt(tmp_path: Path) -> None:
    async with world(tmp_path) as (_, node, _relay):
        await policy(node, "set-preset", preset="conservative")
        await policy(node, "set", overrides={"max_fee_ppm": 900})
        await policy(node, "add-rule", rule={"id": "no-sunday", "match": {"days": ["sun"]}, "effect": "deny"})
        await policy(node, "forbid", peers="02" + "ab" * 32)
        before = await policy(node, "override", overrides={"max_danger": 6}, duration="2h")
        await node.kill_plugin("cl-hive-comms.py")
        await node.call("plugin", {"subcommand": "start", "plugin": str(PLUGIN)})
        after = await until(lambda: policy(node), "the plugin answers")
        assert after == before
        assert after["preset"] == "conservative" and after["version"] == 6
        receipts = (await call(node, "hive-client-receipts", schema="hive:operator/v1"))["items"]
        assert [row["action"] for row in receipts][:2] == ["policy_override", "policy_forbid"]


async def test_loosening_raises_an_alert_and_tightening_does_not(tmp_path: Path) -> None:
    async with world(tmp_path) as (_, node, _relay):
        await policy(node, "set", overrides={"max_fee_ppm": 500})
        assert (await call(node, "hive-client-status"))["alerts"] == []
        await policy(node, "set", overrides={"max_fee_ppm": 5_000})
        (alert,) = (await call(node, "hive-client-status"))["alerts"]
        assert alert["code"] == "policy_loosened" and "max_fee_ppm" in alert["text"]
        # An approver who can never vote is said to be one, now and each time it is looked at.
        shown = await policy(node, "set", overrides={"approvers": ["local", "did:cid:bagaaiera"]})
        assert "did:cid:bagaaiera" in str(shown["warning_approvers"])
        assert "warning_approvers" in await policy(node)
        shown = await policy(node, "set", overrides={"approvers": ["local", "ab" * 32]})
        assert "warning_approvers" not in shown


async def test_what_does_not_parse_is_refused_whole_with_the_reason(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, object], int, str]] = [
        ({"action": "set", "overrides": {"max_dangerr": 3}}, -32602, "max_dangerr"),
        ({"action": "set", "overrides": {"max_danger": 11}}, -32602, "max_danger"),
        ({"action": "set", "overrides": {}}, -32602, "overrides"),
        ({"action": "set", "overrides": {"max_danger": 3}, "preset": "moderate"}, -32602, "preset"),
        ({"action": "set-preset", "preset": "reckless"}, -32602, "preset"),
        ({"action": "override", "overrides": {"max_danger": 7}, "duration": "8d"}, -32602, "7d"),
        ({"action": "override", "overrides": {"max_danger": 7}}, -32602, "duration"),
        ({"action": "clear"}, 4001, "override"),
        ({"action": "remove-rule", "rule_id": "x"}, 4001, "rule"),
        ({"action": "unprotect", "channels": "1x2x3"}, 4001, "1x2x3"),
        ({"action": "protect", "channels": "channel seven"}, -32602, "protected_channels"),
        ({"action": "add-rule", "rule": {"effect": "allow", "match": {}}}, -32602, "effect"),
    ]
    async with world(tmp_path) as (_, node, _relay):
        before = await policy(node)
        for params, code, word in cases:
            error = await refused(node, "hive-client-policy", **params)
            assert (error.code, word in error.message) == (code, True), error.message
        assert await policy(node) == before


async def test_reset_goes_back_to_the_bare_preset(tmp_path: Path) -> None:
    async with world(tmp_path) as (_, node, _relay):
        await policy(node, "protect", channels=["1x2x3", "4x5x6"])
        await policy(node, "add-rule", rule={"match": {}, "effect": "confirm"})
        # A key that bears on nothing this version runs is kept, and the answer says so.
        given = {"max_danger": 5, "protected_plugins": ["summary"], "max_rebalance_sats": 7}
        shown = await policy(node, "set", overrides=given)
        assert shown["effective"]["max_rebalance_sats"] == 7
        idle = idle_keys(given)
        assert "max_danger" not in shown.get("warning_keys", "")
        assert all(key in shown["warning_keys"] for key in idle)
        reset = await policy(node, "reset")
        assert "warning_keys" not in reset
        assert reset["document"] == {"policy_version": 1, "preset": "moderate", "overrides": {}}
        assert reset["rules"] == [] and reset["override"] is None


async def test_acceptance_08_22_a_bad_policy_file_keeps_the_last_good_one(tmp_path: Path) -> None:
    file = tmp_path / "policy.json"
    file.write_text(json.dumps({"policy_version": 1, "preset": "conservative", "overrides": {}}))
    node_dir = tmp_path / "net"
    node_dir.mkdir()
    async with world(node_dir, **{"hive-comms-policy-file": str(file)}) as (_, node, _relay):
        shown = await policy(node)
        assert (shown["preset"], shown["source"]) == ("conservative", "file")
        assert (
            await refused(node, "hive-client-policy", action="set-preset", preset="moderate")
        ).code == 4015
        file.write_text('{"policy_version": 1, "preset": "aggressive", "overides": {}}')
        warned = await until(lambda: warning(node), "the bad file is noticed")
        assert "overides" in warned
        assert (await policy(node))["preset"] == "conservative"
        file.write_text(json.dumps({"policy_version": 1, "preset": "aggressive"}))
        await until(lambda: preset_is(node, "aggressive"), "the good file is noticed")
        other = await refused(node, "setconfig", config="hive-comms-policy-file", val=str(tmp_path / "none"))
        assert "none" in other.message
        assert (await policy(node))["preset"] == "aggressive"
        await call(node, "setconfig", config="hive-comms-policy-file", val="")
        assert (await policy(node))["source"] == "stored"


async def test_a_file_edited_while_the_plugin_was_down_is_on_record(tmp_path: Path) -> None:
    file = tmp_path / "policy.json"
    file.write_text(json.dumps({"policy_version": 1, "preset": "conservative"}))
    node_dir = tmp_path / "net"
    node_dir.mkdir()
    async with world(node_dir, **{"hive-comms-policy-file": str(file)}) as (_, node, _relay):
        before = await policy(node)
        for preset in ("aggressive", "aggressive"):
            await node.kill_plugin("cl-hive-comms.py")
            file.write_text(json.dumps({"policy_version": 1, "preset": preset}))
            await node.call("plugin", {"subcommand": "start", "plugin": str(PLUGIN)})
            after = await until(lambda: policy(node), "the plugin answers")
            assert after["preset"] == "aggressive" and after["version"] == int(str(before["version"])) + 1
            (receipt,) = (await call(node, "hive-client-receipts", schema="hive:operator/v1"))["items"]
            assert receipt["action"] == "policy_followed" and receipt["params"]["source"] == "file"
            (alert,) = (await call(node, "hive-client-status"))["alerts"]
            assert alert["code"] == "policy_loosened" and "the policy file" in alert["text"]


async def warning(node: NodeHandle) -> str:
    return str((await policy(node)).get("warning_policy_file", ""))


async def preset_is(node: NodeHandle, name: str) -> bool:
    return (await policy(node))["preset"] == name


async def test_an_unreadable_policy_at_start_leaves_monitor_reads_only_until_repaired(tmp_path: Path) -> None:
    file = tmp_path / "policy.json"
    file.write_text("{")
    node_dir = tmp_path / "net"
    node_dir.mkdir()
    async with (
        world(node_dir, **{"hive-comms-policy-file": str(file)}) as (_, node, relay),
        Agent(relay.url) as agent,
    ):
        await agent.hired(node)
        assert "locked" in (await call(node, "hive-client-status"))["policy"]
        checks = {row["id"]: row["status"] for row in (await call(node, "hive-client-selfcheck"))["checks"]}
        assert checks["policy"] == "fail"
        assert (await agent.run("hive:monitor/v1", "health_summary"))["status"] == 0
        params = {"channel_id": "1x1x1", "fee_ppm": 10}
        assert (await agent.run("hive:fee-policy/v1", "set_single", params))["status"] == 1
        file.write_text(json.dumps({"policy_version": 1}))
        await until(lambda: unlocked(node), "the repaired file is noticed")


async def unlocked(node: NodeHandle) -> bool:
    return "locked" not in await policy(node)


async def test_acceptance_08_22_options_are_applied_or_refused_with_the_reason(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as (_, node, _relay):
        await call(node, "setconfig", config="hive-comms-policy-preset", val="conservative")
        assert (await policy(node))["preset"] == "conservative"
        bad: list[tuple[str, str, str]] = [
            ("hive-comms-policy-preset", "reckless", "conservative"),
            ("hive-comms-transport-max-skew-seconds", "29", "30..900"),
            ("hive-comms-nostr-relays", "http://relay.example", "relay"),
            ("hive-comms-daily-limit", "-1", "0"),
        ]
        for name, value, word in bad:
            before = (await call(node, "listconfigs", config=name))["configs"][name]
            error = await refused(node, "setconfig", config=name, val=value)
            assert word in error.message, error.message
            assert (await call(node, "listconfigs", config=name))["configs"][name] == before
        await call(node, "setconfig", config="hive-comms-marketplace-provider", val="true")
        warnings = (await call(node, "hive-client-status"))["warnings"]
        assert any("hive-comms-marketplace-provider" in text for text in warnings)


async def test_explain_says_where_each_value_comes_from(tmp_path: Path) -> None:
    async with world(tmp_path) as (_, node, _relay):
        await policy(node, "set", overrides={"min_fee_ppm": 5})
        await policy(node, "override", overrides={"max_danger": 7}, duration="1h")
        await policy(node, "add-rule", rule={"id": "a", "match": {"danger_gte": 9}, "effect": "deny"})
        shown = await policy(node, "explain")
        sources = shown["sources"]
        assert isinstance(sources, dict)
        assert sources["min_fee_ppm"] == {"value": 5, "source": "stored", "preset_value": 0}
        assert sources["max_danger"] == {"value": 7, "source": "override", "preset_value": 6}
        assert sources["allow_push"]["source"] == "preset"
        assert shown["conflicts"]


async def test_a_rule_names_its_advisor_as_the_operator_does_and_holds(tmp_path: Path) -> None:
    async with world(tmp_path) as (_, node, relay), Agent(relay.url) as agent, Agent(relay.url) as other:
        await agent.hired(node, advisor="Fleet", advisor_npub=agent.npub)
        await other.hired(node)
        rule = {"id": "r", "match": {"advisor": "nobody"}, "effect": "deny"}
        error = await refused(node, "hive-client-policy", action="add-rule", rule=rule)
        assert error.code == 4001 and "nobody" in error.message
        for name in ("FLEET", agent.npub):
            rule = {"id": "r", "match": {"advisor": name, "schema": "hive:monitor/*"}, "effect": "deny"}
            shown = await policy(node, "add-rule", rule=rule)
            (kept,) = shown["rules"]
            assert kept["advisor_name"] == "Fleet" and kept["match"]["advisor"] != name
            answer = await agent.run("hive:monitor/v1", "onchain_balance")
            assert answer["error"]["slug"] == "policy_blocked" and answer["error"]["data"]["rule"] == "r"
            assert (await other.run("hive:monitor/v1", "onchain_balance"))["status"] == 0
            await policy(node, "remove-rule", rule_id="r")
