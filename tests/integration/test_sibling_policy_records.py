"""What a sibling leaves with comms, and what it asks of the policy (Protocol 08 §3.4)."""

from __future__ import annotations

import json
import os
from pathlib import Path

from comms_world import call, refused, world
from hive_shared.canonical import encode
from hive_shared.crypto import schnorr_verify, sha256
from hive_shared.nostr.keys import parse_pubkey
from sibling_caller import Sibling


async def test_alerts_of_siblings_reach_the_operator_sixty_an_hour(tmp_path: Path) -> None:
    async with world(tmp_path) as (_, node, _relay):
        sibling = await Sibling.of(node)
        alert = {"level": "warning", "code": "peer_lost", "text": "a\n peer\x00 is lost", "dedup_key": "p"}
        assert await sibling.call("hive-comms-alert", **alert) == {"result": "raised"}
        await sibling.call("hive-comms-alert", **alert)
        rows = (await call(node, "hive-client-alerts"))["items"]
        found = [row for row in rows if row["code"] == "peer_lost"]
        assert [(row["level"], row["text"], row["count"]) for row in found] == [
            ("warning", "a peer is lost", 2)
        ]
        for bad in ({"level": "loud"}, {"code": "Bad Code"}, {"code": "alert_test"}, {"text": "\x01"}):
            assert (await sibling.refused("hive-comms-alert", **{**alert, **bad})).code == -32602
        for number in range(58):
            await sibling.call("hive-comms-alert", level="info", code="many", text=f"number {number}")
        error = await sibling.refused("hive-comms-alert", level="info", code="many", text="one more")
        assert error.code == 4007 and 0 < error.data["retry_after"] <= 3_600
        assert (await refused(node, "hive-comms-alert", **alert)).code == 4003


async def test_receipts_of_siblings_join_the_chain_once(tmp_path: Path) -> None:
    async with world(tmp_path) as (_, node, _relay):
        sibling = await Sibling.of(node)
        receipt = {
            "schema": "hive:settlement/v1",
            "action": "netted",
            "status": "success",
            "params": {"window": "w-1"},
            "result": {"sats": 5},
            "command_id": "w-1",
        }
        first = await sibling.call("hive-comms-append-receipt", **receipt)
        assert await sibling.call("hive-comms-append-receipt", **receipt) == first
        other = await sibling.call("hive-comms-append-receipt", **{**receipt, "status": "error"})
        assert other["receipt_id"] == first["receipt_id"] + 1
        rows = (await call(node, "hive-client-receipts", schema="hive:settlement/v1"))["items"]
        assert [row["receipt_hash"] for row in rows] == [other["receipt_hash"], first["receipt_hash"]]
        assert (await call(node, "hive-client-receipts-verify"))["ok"]
        long = await sibling.call(
            "hive-comms-append-receipt", **{**receipt, "command_id": "w-2", "params": {"x": "y" * 40_000}}
        )
        rows = (await call(node, "hive-client-receipts", schema="hive:settlement/v1"))["items"]
        assert rows[0]["receipt_hash"] == long["receipt_hash"] and rows[0]["params"]["bytes"] > 40_000
        for schema in ("hive:operator/v1", "hive:fee-policy/v1", "hive:control/v1", "settlement"):
            error = await sibling.refused("hive-comms-append-receipt", **{**receipt, "schema": schema})
            assert error.code == -32602, schema
        for bad in ({"status": "fine"}, {"action": "A B"}, {"command_id": "a b"}, {"danger": 11}):
            assert (await sibling.refused("hive-comms-append-receipt", **{**receipt, **bad})).code == -32602


async def test_bindings_are_signed_over_the_statement_comms_builds(tmp_path: Path) -> None:
    async with world(tmp_path) as (_, node, _relay):
        sibling = await Sibling.of(node)
        npub = (await call(node, "hive-client-identity"))["npub"]
        asked = {"did": "did:cid:b" + "a" * 58, "nonce": "0f" * 16, "valid_from": "2026-01-31T00:00:00Z"}
        signed = await sibling.call("hive-comms-sign-binding", **asked)
        assert signed["pubkey"] == parse_pubkey(npub)
        bound = {
            "bindingType": "nostr",
            "did": asked["did"],
            "key": signed["pubkey"],
            "nonce": asked["nonce"],
            "validFrom": asked["valid_from"],
        }
        text = "hive-bind-v1:" + sha256(encode(bound)).hex()
        assert schnorr_verify(signed["pubkey"], sha256(text.encode()), signed["sig"])
        # The nonce is also the call's own: a second binding takes another.
        assert (await sibling.refused("hive-comms-sign-binding", **asked)).code == 4003
        for bad in (
            {"did": "did:web:example"},
            {"did": "did:nostr:" + "0" * 64},
            {"valid_from": "tomorrow"},
            {"valid_from": "2026-02-31T00:00:00Z"},
        ):
            asked["nonce"] = os.urandom(16).hex()
            assert (await sibling.refused("hive-comms-sign-binding", **{**asked, **bad})).code == -32602, bad
        asked["nonce"] = os.urandom(16).hex()
        foreign = "did:key:zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme"
        error = await sibling.refused("hive-comms-sign-binding", **{**asked, "did": foreign})
        assert error.code == 4003 and "did:key:zQ3s" in error.message
        own = error.message.rsplit(" ", 1)[1]
        asked["nonce"] = os.urandom(16).hex()
        await sibling.call("hive-comms-sign-binding", **{**asked, "did": own})
        asked["nonce"] = os.urandom(16).hex()
        await call(node, "hive-client-emergency-stop", action="engage", reason="test")
        assert (await sibling.refused("hive-comms-sign-binding", **asked)).code == 4012


async def test_siblings_ask_the_policy_and_may_only_tighten_it(tmp_path: Path) -> None:
    async with world(tmp_path) as (network, node, _relay):
        await network.fund(node, 1_000_000)
        sibling = await Sibling.of(node)
        foreign = "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080"
        sent = {"destination": foreign, "amount_sats": 50_000}
        send = {"schema": "hive:wallet/v1", "action": "send_onchain", "params": sent}
        told = await sibling.call("hive-comms-policy-check", **send)
        assert told["decision"] in ("confirm", "deny") and told["danger"] >= 6, told
        assert "budget" not in str(told["reasons"])
        await call(node, "hive-client-policy", action="set", overrides={"daily_budget_sats": 50_000})
        told = await sibling.call("hive-comms-policy-check", **send)
        assert told["decision"] == "deny" and "daily budget" in str(told["reasons"]), told
        # What no service here can do is judged all the same.
        for amount, rules in ((500_001, ["max_rebalance_sats"]), (500_000, [])):
            swap = {"amount_sats": amount, "max_fee_sats": 900}
            told = await sibling.call(
                "hive-comms-policy-check", schema="hive:rebalance/v1", action="swap_in", params=swap
            )
            assert [each for each in told["rule_ids"] if each == "max_rebalance_sats"] == rules, told
        read = await sibling.call("hive-comms-policy-check", schema="hive:monitor/v1", action="get_info")
        assert read["decision"] == "allow" and read["danger"] == 1
        for unknown in (
            {"schema": "hive:wallet/v1", "action": "nonsense"},
            {"schema": "hive:nothing/v1", "action": "send_onchain"},
            {"schema": "hive:channel/v1", "action": "close_cooperative", "params": {"channel_id": "1x1x1"}},
        ):
            told = await sibling.call("hive-comms-policy-check", **unknown)
            assert told["decision"] == "deny" and told["reason"] and told["reasons"], unknown
        raised = await sibling.call(
            "hive-comms-policy-check", schema="hive:peer/v1", action="connect", params={}, danger=10
        )
        assert raised["danger"] == 10 and raised["decision"] == "deny"
        # A rule of the sibling denies; the operator sees it, another sibling cannot take it away.
        peer = "02" + "ab" * 32
        rule = {"id": "ban-1", "match": {"peers": [peer]}, "effect": "deny", "note": "banned by the fleet"}
        assert (await sibling.call("hive-comms-policy-add-rule", rule=rule))["rule_id"] == "ban-1"
        assert (await sibling.call("hive-comms-policy-add-rule", rule=json.dumps(rule)))["rule_id"] == "ban-1"
        changed = {**rule, "effect": "confirm"}
        assert (await sibling.refused("hive-comms-policy-add-rule", rule=changed)).code == 4015
        told = await sibling.call(
            "hive-comms-policy-check", schema="hive:peer/v1", action="connect", params={"peer_id": peer}
        )
        assert told["decision"] == "deny" and told["rule_ids"] == ["ban-1"]
        shown = await call(node, "hive-client-policy")
        assert "ban-1" in json.dumps(shown)
        error = await sibling.refused(
            "hive-comms-policy-remove-rule", rule_id="ban-1", actor="cl-hive-archon"
        )
        assert error.code == 4001
        await sibling.call("hive-comms-policy-remove-rule", rule_id="ban-1")
        assert (await sibling.refused("hive-comms-policy-remove-rule", rule_id="ban-1")).code == 4001
        # One of the operator's stays whatever a sibling says.
        await call(node, "hive-client-policy", action="add-rule", rule={**rule, "id": "mine"})
        assert (await sibling.refused("hive-comms-policy-remove-rule", rule_id="mine")).code == 4001
        assert (await sibling.refused("hive-comms-policy-add-rule", rule={"effect": "allow"})).code == -32602
        await call(node, "hive-client-emergency-stop", action="engage", reason="test")
        told = await sibling.call("hive-comms-policy-check", **send)
        assert (told["decision"], told["reason"]) == ("deny", "emergency_stop")
