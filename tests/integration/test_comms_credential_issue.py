"""hive-mgmt-credential-issue, -list, -revoke and hive-client-credential on a running plugin
(Protocol 02 §2.1 to §2.5, §11; 08 §5.2)."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path

from comms_world import PLUGIN, Agent, call, refused, until, world
from hive_devnet.node import NodeHandle
from hive_shared import credential
from hive_shared.nostr.keys import npub_encode

FEES = ["hive:monitor/*", "hive:fee-policy/*"]
SPELT_OUT: dict[str, object] = {
    "tier": "standard",
    "allowed_schemas_json": json.dumps(FEES),
    "constraints_json": {"max_fee_change_pct": 20, "max_daily_actions": 5},
}


async def issue(node: NodeHandle, agent_id: str, **changes: object) -> dict[str, object]:
    return await call(node, "hive-mgmt-credential-issue", **{"agent_id": agent_id, **SPELT_OUT, **changes})


async def test_a_credential_as_spelt_out_reaches_its_agent_and_works(tmp_path: Path) -> None:
    async with world(tmp_path) as (_, node, relay), Agent(relay.url) as agent:
        made = await issue(node, f"did:nostr:{agent.pubkey}", trust=0.75, action_cooldown_s=900)
        offer = (await agent.push("credential_offer"))["schema_payload"]["params"]
        document = credential.parse(offer["credential"])
        node_id = (await call(node, "getinfo"))["id"]
        assert offer["credential"] == made["credential"] and made["hash"] == credential.doc_hash(document)
        assert credential.is_signed_by(document, node_id)
        assert document.valid_until - document.valid_from == 90 * 86_400
        assert (document.tier.word, list(document.allowed_schemas)) == ("standard", FEES)
        assert document.constraints == {"max_fee_change_pct": 20, "max_daily_actions": 5}
        assert document.permissions == {"monitor": True, "fee_policy": True}
        assert made["credential"]["trust"] == 0.75 and "warning_out_of_reach" not in made
        (row,) = (await call(node, "hive-mgmt-credential-list"))["items"]
        assert (row["status"], row["trust"], row["trust_pinned"]) == ("active", "0.75", True)
        agent.credential_id, agent.node_key = document.credential_id, offer["node"]["node_key"]
        assert (await agent.run("hive:monitor/v1", "onchain_balance"))["status"] == 0
        shown = await call(node, "hive-client-credential", advisor=made["name"])
        assert shown["constraints"]["max_fee_change_pct"] == 20
        assert sorted(shown["permissions"]) == ["fee_policy", "monitor"]
        raw = await call(node, "hive-client-credential", advisor=made["name"], raw=True)
        assert raw == {"credential": made["credential"], "hash": made["hash"]}
        (receipt, *_rest) = (await call(node, "hive-client-receipts", schema="hive:operator/v1"))["items"]
        assert receipt["params"]["tier"] == "standard" and receipt["params"]["allowed_schemas"] == FEES
        assert document.coordination["action_cooldown_s"] == receipt["params"]["action_cooldown_s"] == 900
        assert document.coordination["shared_state"] == "receipts_readonly"


async def test_issuing_again_renews_and_the_former_one_is_refused_at_once(tmp_path: Path) -> None:
    async with world(tmp_path) as (_, node, relay), Agent(relay.url) as agent:
        await agent.hired(node, daily_limit_sats=1_000)
        first = agent.credential_id
        second = await issue(node, agent.npub, valid_days=730)
        answer = await agent.run("hive:monitor/v1", "onchain_balance")
        assert answer["error"]["slug"] == "credential_superseded"
        assert answer["error"]["data"]["by"] == second["credential_id"]
        rows = {
            row["credential_id"]: row
            for row in (await call(node, "hive-mgmt-credential-list", agent_id=agent.npub))["items"]
        }
        assert rows[first]["status"] == "superseded"
        assert rows[first]["superseded_by"] == second["credential_id"]
        done = await call(
            node, "hive-mgmt-credential-revoke", credential_id=second["credential_id"], reason="enough"
        )
        assert done == {"credential_id": second["credential_id"], "revoked": True, "cancelled": 0}
        again = await refused(node, "hive-mgmt-credential-revoke", credential_id=second["credential_id"])
        assert again.code == 4001
        agent.credential_id = str(second["credential_id"])
        told = await agent.run("hive:monitor/v1", "onchain_balance")
        assert told["error"]["slug"] == "credential_revoked"
        listed = await call(node, "hive-mgmt-credential-list", agent_id=f"did:nostr:{agent.pubkey}")
        (row,) = (row for row in listed["items"] if row["status"] != "superseded")
        assert (row["status"], row["reason"]) == ("revoked", "enough")
        # Whom the operator dismissed comes back by hiring, not by a document.
        error = await refused(node, "hive-mgmt-credential-issue", agent_id=agent.npub, **SPELT_OUT)
        assert error.code == 4005 and "hive-client-authorize" in error.message


async def test_acceptance_02_06_what_cannot_be_issued_is_refused_and_nothing_is_stored(
    tmp_path: Path,
) -> None:
    long = [f"hive:monitor/{'x' * 60}{n}*" for n in range(80)]
    cases: list[tuple[dict[str, object], int, str]] = [
        ({"agent_id": "nobody"}, -32602, "agent_id"),
        ({"agent_id": "did:cid:bagaaiera"}, 4010, "cl-hive-archon"),
        ({"agent_id": "02" + "00" * 32}, -32602, "secp256k1"),
        ({"tier": "root"}, -32602, "tier"),
        ({"allowed_schemas_json": ["hive:fee/*"]}, -32602, "hive:fee/*"),
        ({"allowed_schemas_json": []}, -32602, "allowed_schemas_json"),
        ({"allowed_schemas_json": "hive:monitor/*"}, -32602, "allowed_schemas_json"),
        ({"allowed_schemas_json": {"a": 1}}, -32602, "allowed_schemas_json"),
        ({"allowed_schemas_json": [1]}, -32602, "allowed_schemas_json"),
        ({"allowed_schemas_json": long}, -32602, "4096 bytes"),
        ({"allowed_schemas_json": ["!hive:fee-policy/*"]}, -32602, "allow nothing"),
        ({"allowed_schemas_json": ["monitor"]}, -32602, "monitor"),
        ({"constraints_json": {"max_fee_chnge_pct": 5}}, -32602, "max_fee_chnge_pct"),
        ({"constraints_json": {"max_fee_change_pct": 101}}, -32602, "max_fee_change_pct"),
        ({"constraints_json": {"max_fee_change_pct": True}}, -32602, "max_fee_change_pct"),
        ({"constraints_json": {"max_rebalance_fee_ppm": 1_001}}, -32602, "max_rebalance_fee_ppm"),
        ({"constraints_json": {"grants_critical": ["hive:channel/v1#close"]}}, -32602, "grants_critical"),
        ({"constraints_json": {"forbidden_providers": ["x" * 190] * 30}}, -32602, "4096 bytes"),
        ({"constraints_json": ["max_fee_ppm"]}, -32602, "constraints_json"),
        ({"permissions_json": {"root": True}}, -32602, "root"),
        ({"permissions_json": {"monitor": 1}}, -32602, "monitor"),
        ({"permissions_json": "all"}, -32602, "permissions_json"),
        ({"access_json": "per_action"}, -32602, "access_json"),
        ({"access_json": {"model": "monthly"}}, -32602, "none, per_action or subscription"),
        (
            {"access_json": {"model": "subscription", "accepted_methods": ["bolt11"]}},
            -32602,
            "the list holds bolt12",
        ),
        ({"access_json": {"model": "per_action", "accepted_methods": ["bolt12"]}}, -32602, "bolt12"),
        ({"access_json": {"model": "per_action", "accepted_methods": 7}}, -32602, "accepted_methods"),
        ({"access_json": {"model": "per_action", "price_table": [0, 5]}}, -32602, "10 entries"),
        ({"access_json": {"model": "per_action", "price_table": [9] * 10}}, -32602, "danger 1"),
        ({"access_json": {"model": "per_action", "price_table": [True] * 10}}, -32602, "whole numbers"),
        ({"access_json": {"model": "per_action", "discount": 5}}, -32602, "discount"),
        ({"compensation_json": "per_action"}, -32602, "compensation_json"),
        ({"compensation_json": {"model": "performance"}}, -32602, "performance is not served"),
        ({"compensation_json": {"model": ["per_action"]}}, -32602, "compensation_json"),
        ({"compensation_json": {"model": "subscription"}}, -32602, "base_monthly_sats must be"),
        ({"compensation_json": {"model": "subscription", "rate_sats": 5}}, -32602, "unknown key 'rate_sats'"),
        ({"compensation_json": {"model": "per_action", "rate_sats": 0}}, -32602, "rate_sats"),
        ({"compensation_json": {"model": "per_action", "rate_sats": True}}, -32602, "rate_sats"),
        ({"compensation_json": {"model": "per_action", "bonus": 5}}, -32602, "unknown key 'bonus'"),
        ({"compensation_json": {"model": "per_action", "accepted_methods": ["l402"]}}, -32602, "l402"),
        ({"compensation_json": {"model": "per_action", "accepted_methods": 7}}, -32602, "accepted_methods"),
        (
            {"compensation_json": {"model": "per_action"}, "access_json": {"model": "per_action"}},
            -32602,
            "leave one of them out",
        ),
        ({"valid_days": 0}, -32602, "valid_days"),
        ({"valid_days": 731}, -32602, "valid_days"),
        ({"trust": 0.4}, -32602, "trust"),
        ({"trust": 2.5}, -32602, "trust"),
        ({"trust": True}, -32602, "trust"),
        ({"trust": "much"}, -32602, "trust"),
        ({"trust": 0.12345}, -32602, "trust"),
        ({"action_cooldown_s": 86_401}, -32602, "action_cooldown_s"),
        ({"action_cooldown_s": -1}, -32602, "action_cooldown_s"),
        ({"gossip": True}, 4010, "cl-hive"),
        ({"node_id": "02" + "aa" * 32}, -32602, "node_id"),
    ]
    async with world(tmp_path) as (_, node, relay), Agent(relay.url) as agent:
        for params, code, word in cases:
            error = await refused(
                node, "hive-mgmt-credential-issue", **{"agent_id": agent.npub, **SPELT_OUT, **params}
            )
            assert (error.code, word in error.message) == (code, True), (params, error.message)
        own = (await call(node, "hive-client-identity"))["npub"]
        for key in (own, (await call(node, "getinfo"))["id"]):
            error = await refused(node, "hive-mgmt-credential-issue", agent_id=key, **SPELT_OUT)
            assert error.code == -32602 and "own" in error.message
        assert (await call(node, "hive-mgmt-credential-list"))["count"] == 0
        assert (await call(node, "hive-client-status"))["advisors"] == []


async def test_what_a_credential_admits_in_vain_is_pointed_out(tmp_path: Path) -> None:
    async with world(tmp_path) as (_, node, relay), Agent(relay.url) as agent:
        made = await issue(
            node,
            agent.npub,
            allowed_schemas_json=["hive:fee-policy/*", "hive:rebalance/swap_in", "hive:channel/close_all"],
            constraints_json=None,
            permissions_json={"fee_policy": True, "rebalance": True},
        )
        warned = "; ".join(made["warning_out_of_reach"])
        assert "swap_in needs tier advanced or constraint max_swap_sats" in warned
        assert "close_all needs tier admin and permission channel_close" in warned
        assert "grants_critical with hive:channel/v1#close_all" in warned and "set_single" not in warned


async def test_a_lightning_key_can_be_an_agent_and_gets_its_credential_by_hand(tmp_path: Path) -> None:
    async with world(tmp_path) as (_, node, relay), Agent(relay.url) as agent:
        made = await issue(node, "03" + agent.pubkey)
        assert made["delivery"] == "by hand"
        document = credential.parse(made["credential"])
        assert (document.agent_id, document.agent_key) == ("03" + agent.pubkey, agent.pubkey)
        assert npub_encode(document.agent_key) == agent.npub


async def test_no_more_than_a_thousand_credentials_live_and_ended_ones_do_not_count(tmp_path: Path) -> None:
    async with (
        world(tmp_path) as (_, node, relay),
        Agent(relay.url) as one,
        Agent(relay.url) as two,
        Agent(relay.url) as three,
    ):
        await one.hired(node)
        path = Path((await call(node, "getinfo"))["lightning-dir"]) / "cl_hive_comms.db"
        await node.kill_plugin("cl-hive-comms.py")
        db = sqlite3.connect(path, timeout=60)
        columns = [row[1] for row in db.execute("PRAGMA table_info(comms_credentials)")]
        kept = ", ".join(name for name in columns if name != "credential_id")
        fill = (
            f"INSERT INTO comms_credentials (credential_id, {kept}) WITH RECURSIVE n(i) AS (SELECT 1"
            f" UNION ALL SELECT i + 1 FROM n WHERE i < 1000) SELECT 'x' || i, {kept}"
            " FROM comms_credentials, n"
        )
        db.execute(fill)
        # 1,001 rows: one of them expired, one revoked.
        db.execute(
            "UPDATE comms_credentials SET valid_until = ? WHERE credential_id = 'x1'", (int(time.time()) - 5,)
        )
        db.execute("UPDATE comms_credentials SET status = 'revoked' WHERE credential_id = 'x2'")
        db.commit()
        db.close()
        await node.call("plugin", {"subcommand": "start", "plugin": str(PLUGIN)})
        await until(lambda: call(node, "hive-client-status"), "the plugin answers")
        await issue(node, two.npub)
        # A renewal needs no further place.
        made = await issue(node, two.npub)
        error = await refused(node, "hive-mgmt-credential-issue", agent_id=three.npub, **SPELT_OUT)
        assert error.code == 4016 and "1000" in error.message
        await call(node, "hive-mgmt-credential-revoke", credential_id=made["credential_id"])
        assert (await issue(node, three.npub))["valid_until"] > time.time()


async def test_nothing_is_issued_under_the_emergency_stop(tmp_path: Path) -> None:
    async with world(tmp_path) as (_, node, relay), Agent(relay.url) as agent:
        await call(node, "hive-client-emergency-stop", action="engage", reason="test")
        error = await refused(node, "hive-mgmt-credential-issue", agent_id=agent.npub, **SPELT_OUT)
        assert error.code == 4012
