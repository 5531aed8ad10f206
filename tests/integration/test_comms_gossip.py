"""hive-comms-mgmt-credential-ingest on a running plugin (Protocol 02 §2.5, §11, §15.5)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from comms_world import PLUGIN, Agent, call, refused, until, world
from gossip_messages import Issuer
from hive_devnet.node import NodeHandle
from hive_shared.nostr.keys import parse_pubkey
from sibling_caller import Sibling

INGEST = "hive-comms-mgmt-credential-ingest"
MONITOR = "hive:monitor/v1"
TRUSTED, STRANGER = Issuer(101), Issuer(102)


async def by_gossip(agent: Agent, node: NodeHandle, event: dict[str, Any]) -> Agent:
    """The agent as its own node would leave it: it knows the credential and the managed node's key."""
    agent.credential_id = event["credential"]["credential_id"]
    agent.node_key = parse_pubkey((await call(node, "hive-client-identity"))["npub"])
    return agent


async def listed(node: NodeHandle, credential_id: str) -> list[dict[str, Any]]:
    items = (await call(node, "hive-mgmt-credential-list"))["items"]
    return [item for item in items if item["credential_id"] == credential_id]


async def test_acceptance_02_05_gossip_authorises_by_a_trusted_issuer_and_by_nobody_else(
    tmp_path: Path,
) -> None:
    options = {"hive-comms-trusted-issuers": TRUSTED.node_id}
    async with (
        world(tmp_path, **options) as (_, node, relay),
        Agent(relay.url) as agent,
        Agent(relay.url) as forger,
    ):
        sibling = await Sibling.of(node)
        node_id, now = (await call(node, "getinfo"))["id"], int(time.time())
        # A stranger names our node, and then embeds what it issued.
        forged = STRANGER.present(node_id, forger.pubkey, now)
        answer = await sibling.call(INGEST, event=forged, kind="present")
        assert answer == {"status": "rejected", "relay": False, "reason": "issuer_untrusted"}
        # What it issued for its own node is kept, and shown as what it is.
        own = STRANGER.present(STRANGER.node_id, forger.pubkey, now)
        assert await sibling.call(INGEST, event=own, kind="present") == {"status": "stored", "relay": True}
        (row,) = await listed(node, own["credential"]["credential_id"])
        assert (row["status"], row["source"], row["name"]) == ("known", "gossip", None)
        assert await listed(node, forged["credential"]["credential_id"]) == []
        for event in (forged, own):
            await by_gossip(forger, node, event)
            reference = {"credential_id": forger.credential_id, "vc": event["credential"]}
            for named in ({"credential_id": forger.credential_id}, reference):
                text = forger.command(MONITOR, "onchain_balance", credential=named)
                error = await refused(node, "hive-comms-rpc", request=text, sender=forger.pubkey)
                assert error.code == 4003, error
        # A trusted issuer's comes into force.
        event = TRUSTED.present(node_id, agent.pubkey, now, template="monitor_only")
        assert await sibling.call(INGEST, event=event, kind="present") == {"status": "stored", "relay": True}
        await by_gossip(agent, node, event)
        assert (await agent.run(MONITOR, "onchain_balance"))["status"] == 0
        (row,) = await listed(node, agent.credential_id)
        assert (row["status"], row["source"], row["issuer_id"]) == ("active", "gossip", TRUSTED.node_id)
        assert (row["trust"], row["name"]) == ("0.5", "advisor-1")
        # It lasts as long as the trust, which can be withdrawn at any time.
        await call(node, "setconfig", config="hive-comms-trusted-issuers", val="")
        told = await agent.run(MONITOR, "onchain_balance")
        assert told["error"]["slug"] == "issuer_untrusted"
        await call(node, "setconfig", config="hive-comms-trusted-issuers", val=TRUSTED.node_id)
        assert (await agent.run(MONITOR, "onchain_balance"))["status"] == 0
        # The issuer's word ends it at once; a replay brings it back neither now nor after a crash.
        for issuer, status in ((STRANGER, "rejected"), (TRUSTED, "stored"), (TRUSTED, "duplicate")):
            end = issuer.revoke(agent.credential_id)
            assert (await sibling.call(INGEST, event=end, kind="revoke"))["status"] == status
        told = await agent.run(MONITOR, "onchain_balance")
        assert told["error"]["slug"] == "credential_revoked"
        await node.kill_plugin("cl-hive-comms.py")
        await restarted(node)
        answer = await sibling.call(INGEST, event=event, kind="present")
        assert answer == {"status": "rejected", "relay": False, "reason": "credential_revoked"}
        for wrong in ({"kind": "gossip"}, {"event": "[]"}, {"event": 5}, {"issuer": "x"}):
            params = {"event": event, "kind": "present", **wrong}
            assert (await sibling.refused(INGEST, **params)).code == -32602, wrong
        assert (await refused(node, INGEST, event=event, kind="present")).code == 4003


async def restarted(node: NodeHandle) -> None:
    await node.call("plugin", {"subcommand": "start", "plugin": str(PLUGIN)})
    await until(lambda: call(node, "hive-client-status"), "the plugin answers")
