"""What another plugin on the node hears of cl-hive-comms (Protocol 00 §6, 08 §3.4 "Notifications")."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from comms_world import PLUGIN, Agent, call, relay_options, until, world
from json_lines import lines_of

PROBE = Path(__file__).parents[1] / "contract" / "probe_plugin.py"
TOPICS = (
    "hive_comms_ready",
    "hive_policy_changed",
    "hive_emergency",
    "hive_identity_changed",
    "hive_credential_revoked",
    "hive_receipt",
)


async def test_every_notification_is_declared_and_sent_to_a_subscriber(tmp_path: Path) -> None:
    probe = tmp_path / "listener.py"
    shutil.copy(PROBE, probe)
    probe.chmod(0o755)
    Path(f"{probe}.json").write_text(json.dumps({"manifest": {"subscriptions": list(TOPICS)}}))
    record = Path(f"{probe}.jsonl")

    async def heard(topic: str, wanted: dict[str, Any]) -> bool:
        messages = [message for message in lines_of(record) if message.get("method") == topic]
        bodies = [message["params"].get("payload", message["params"]) for message in messages]
        return any(wanted.items() <= body.get(topic, body).items() for body in bodies)

    async def hear(topic: str, **wanted: Any) -> None:
        await until(lambda: heard(topic, wanted), f"{topic} {wanted}")

    async with world(tmp_path) as (_, node, relay), Agent(relay.url) as agent:
        await node.call("plugin", {"subcommand": "start", "plugin": str(probe)})
        await node.kill_plugin(PLUGIN.name)
        await node.call("plugin", {"subcommand": "start", "plugin": str(PLUGIN), **relay_options(relay)})
        npub = (await until(lambda: call(node, "hive-client-identity"), "the plugin is back"))["npub"]
        await hear("hive_comms_ready", npub=npub)
        await agent.hired(node)
        assert (await agent.run("hive:monitor/v1", "channel_list"))["status"] == 0
        refused = await agent.run("hive:fee-policy/v1", "set_single", {"channel_id": "1x1x1", "fee_ppm": 5})
        await hear("hive_receipt", receipt_id=refused["receipt"]["receipt_id"], status="rejected")
        await call(node, "hive-client-policy", action="set-preset", preset="conservative")
        await hear("hive_policy_changed", preset="conservative")
        rotated = await call(node, "hive-client-identity", action="rotate", confirm=True)
        await hear("hive_identity_changed", npub=rotated["npub"])
        await call(node, "hive-client-revoke", advisor="advisor-1")
        await hear("hive_credential_revoked", credential_id=agent.credential_id)
        await call(node, "hive-client-emergency-stop", action="engage")
        await hear("hive_emergency", engaged=True, by="operator")
        # Hints: nothing in them that is not public or of use to a stranger.
        assert agent.npub not in record.read_text()
