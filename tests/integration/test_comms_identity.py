"""The Nostr identity of a running plugin (Protocol 08 §6 Identity, §13.1)."""

import os
from pathlib import Path

import pytest
from comms_world import PLUGIN, Agent, call, refused, relay_options, until, world
from hive_devnet.network import open_network
from hive_devnet.node import NodeHandle
from hive_devnet.relay import RelayProcess
from hive_shared.canonical import encode
from hive_shared.crypto import Secret, schnorr_verify, tagged
from hive_shared.nostr.keys import nsec_encode


async def npub(node: NodeHandle) -> str:
    found = await until(lambda: call(node, "hive-client-identity"), "the identity")
    return str(found["npub"])


async def test_acceptance_08_01_a_fresh_node_has_a_key_and_no_did(tmp_path: Path) -> None:
    # Within which time: tests/e2e/test_acceptance_08_first_start.py.
    relay = await RelayProcess.start()
    network = await open_network(tmp_path)
    try:
        node = await network.add_node("alice")
        await node.call("plugin", {"subcommand": "start", "plugin": str(PLUGIN), **relay_options(relay)})
        status = await until(lambda: call(node, "hive-client-status"), "the plugin answers")
        assert status["identity"]["npub"].startswith("npub1")
        assert status["identity"]["has_did"] is False
        assert "did:" not in str(status)
        rows = await until(lambda: connected(node), "the relay is connected")
        assert [row["url"] for row in rows] == [relay.url]
    finally:
        await network.close()
        await relay.stop()


async def connected(node: NodeHandle) -> list[dict[str, object]]:
    rows = (await call(node, "hive-comms-transports"))["items"][0]["relays"]
    return rows if any(row["connected"] for row in rows) else []


async def test_the_key_survives_restart_and_a_lost_database(tmp_path: Path) -> None:
    async with world(tmp_path) as (_, node, _relay):
        before = await npub(node)
        await node.stop()
        await node.start()
        assert await npub(node) == before
        await node.stop()
        for file in node.net_dir.glob("cl_hive_comms.db*"):
            file.unlink()
        await node.start()
        # Derived from hsm_secret: a node restored from its seed is the same on Nostr.
        assert await npub(node) == before


async def test_a_key_given_by_option_is_imported_once_and_a_different_one_is_not_used(tmp_path: Path) -> None:
    first, second = Secret(os.urandom(32)), Secret(os.urandom(32))
    async with world(tmp_path, **{"hive-comms-nsec": nsec_encode(first)}) as (_, node, _relay):
        identity = await call(node, "hive-client-identity")
        assert identity["origin"] == "imported"
        plugin = {"plugin": str(PLUGIN)}
        await node.call("plugin", {"subcommand": "stop", **plugin})
        await node.call("plugin", {"subcommand": "start", **plugin, "hive-comms-nsec": nsec_encode(second)})
        assert await npub(node) == identity["npub"]
        status = await call(node, "hive-client-status")
        assert any("differs from the stored one" in sentence for sentence in status["warnings"])
        shown = node.log_text() + str(await call(node, "listconfigs")) + str(status)
        assert nsec_encode(first) not in shown and nsec_encode(second) not in shown


async def test_a_broken_key_file_disables_the_plugin_with_the_reason(tmp_path: Path) -> None:
    relay = await RelayProcess.start()
    network = await open_network(tmp_path)
    exposed = tmp_path / "key"
    exposed.write_text("11" * 32)
    exposed.chmod(0o644)
    try:
        node = await network.add_node("alice")
        start = {"subcommand": "start", "plugin": str(PLUGIN), "hive-comms-nsec-file": str(exposed)}
        error = await refused(node, "plugin", **start, **relay_options(relay))
        assert "chmod 600" in error.message
    finally:
        await network.close()
        await relay.stop()


async def test_rotation_tells_advisors_by_both_keys_and_offers_their_credential_again(tmp_path: Path) -> None:
    async with world(tmp_path) as (_, node, relay), Agent(relay.url) as agent:
        await call(node, "hive-client-authorize", advisor=agent.npub, access="fees")
        offer = await agent.push("credential_offer")
        assert (await refused(node, "hive-client-identity", action="rotate")).code == 4005
        seen = len(agent.received)
        rotated = await call(node, "hive-client-identity", action="rotate", confirm=True)
        assert rotated["previous"] != rotated["npub"] and rotated["origin"] == "derived:1"
        notice = await agent.wait_for(lambda message: message.get("schema") == "hive:identity/rotated")
        again = await agent.push("credential_offer", after=seen)
    old = offer["schema_payload"]["params"]["node"]["node_key"]
    new = again["schema_payload"]["params"]["node"]["node_key"]
    body = notice["body"]
    assert (body["old_key"], body["new_key"]) == (old, new)
    unsigned = {key: value for key, value in notice.items() if key != "sig"}
    assert schnorr_verify(
        old, tagged("hive-mkt-msg:v1:", encode(unsigned) + agent.pubkey.encode()), notice["sig"]
    )
    claim = {key: value for key, value in body.items() if key != "new_sig"}
    assert schnorr_verify(new, tagged("hive-key-change:v1:", encode(claim)), body["new_sig"])
    assert again["schema_payload"]["params"]["credential"] == offer["schema_payload"]["params"]["credential"]


@pytest.mark.parametrize(
    ("params", "word"),
    [
        ({"action": "set-relays"}, "relays="),
        ({"action": "set-relays", "relays": "http://x"}, "relay"),
        ({"action": "get", "relays": "wss://x.example"}, "set-relays"),
        ({"action": "burn"}, "action"),
    ],
)
async def test_bad_identity_calls_are_refused(tmp_path: Path, params: dict[str, object], word: str) -> None:
    async with world(tmp_path) as (_, node, _relay):
        error = await refused(node, "hive-client-identity", **params)
        assert error.code == -32602 and word in error.message


async def test_relays_change_at_run_time_and_the_option_follows(tmp_path: Path) -> None:
    other = await RelayProcess.start()
    try:
        async with world(tmp_path) as (_, node, _relay):
            shown = await call(node, "hive-client-identity", action="set-relays", relays=other.url)
            assert shown["relays"] == [other.url]
            rows = await until(lambda: connected(node), "the new relay is connected")
            assert [row["url"] for row in rows] == [other.url]
            configs = (await call(node, "listconfigs"))["configs"]
            assert configs["hive-comms-nostr-relays"]["value_str"] == other.url
    finally:
        await other.stop()
