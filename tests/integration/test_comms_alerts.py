"""Alerts on a running plugin: webhook, message, list, test, ack, restarts (Protocol 08 §5.2, §6 "Alerts")."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from comms_world import PLUGIN, Agent, call, refused, until, world
from hive_devnet.node import NodeHandle
from hive_shared.nostr.event import Event
from hive_shared.nostr.giftwrap import unwrap

LABEL = "hive/alert-webhook/v1"


class Phone(Agent):
    """The operator's own Nostr client, which shows text."""

    async def _on_event(self, url: str, name: str, event: Event) -> None:
        message = unwrap(self.secret, event, verified=True)
        self.received.append({"text": message.content, "from": message.sender})
        self._came.set()


class Hook:
    """A webhook server on this machine; `answer` is what it says."""

    def __init__(self) -> None:
        self.answer, self.url, self.port = "200 OK", "", 0
        self.got: list[tuple[dict[str, str], bytes]] = []

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[Hook]:
        server = await asyncio.start_server(self._one, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/hook"
        try:
            yield self
        finally:
            server.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in head[1:] if line)
        body = await reader.readexactly(int(headers["Content-Length"]))
        self.got.append((headers, body))
        writer.write(f"HTTP/1.1 {self.answer}\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        writer.close()


async def loosen(node: NodeHandle) -> None:
    """Have the node raise a warning."""
    await call(node, "hive-client-policy", action="set", overrides={"max_fee_ppm": 500})
    await call(node, "hive-client-policy", action="set", overrides={"max_fee_ppm": 5_000})


async def alerts(node: NodeHandle) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = (await call(node, "hive-client-alerts"))["items"]
    return items


async def restart(node: NodeHandle) -> None:
    await node.kill_plugin("cl-hive-comms.py")
    await node.call("plugin", {"subcommand": "start", "plugin": str(PLUGIN)})
    await until(lambda: call(node, "hive-client-status"), "the plugin answers")


async def test_a_warning_reaches_webhook_and_phone_signed_and_once(tmp_path: Path) -> None:
    async with Hook().serve() as hook, world(tmp_path, **{"hive-comms-alert-webhook": hook.url}) as net:
        _, node, relay = net
        async with Phone(relay.url) as phone:
            await node.call(
                "setconfig", {"config": "hive-comms-alert-nostr-dm", "val": phone.npub, "transient": True}
            )
            await loosen(node)
            shown = await phone.wait_for(lambda message: "[warning]" in message["text"])
            assert "max_fee_ppm" in shown["text"]
            await until(lambda: _delivered(node), "the webhook is told")
            (headers, body) = hook.got[0]
            key = bytes.fromhex((await node.call("makesecret", {"string": LABEL}))["secret"])
            assert headers["X-Hive-Signature"] == "sha256=" + hmac.new(key, body, sha256).hexdigest()
            told = json.loads(body)
            assert (told["level"], told["code"]) == ("warning", "policy_loosened")
            (row,) = await alerts(node)
            assert (row["id"], row["webhook"], row["dm"]["state"]) == (
                told["alert_id"],
                {"state": "sent", "attempts": 1},
                "queued",
            )
            await restart(node)
            tested = await call(node, "hive-client-alerts", action="test")
            assert tested["webhook"] == {"state": "sent", "attempts": 1}
            # What was sent before the restart did not come again before the test's own call.
            assert [json.loads(body)["code"] for _, body in hook.got] == ["policy_loosened", "alert_test"]


async def _delivered(node: NodeHandle) -> bool:
    return any(row["webhook"]["state"] == "sent" for row in await alerts(node))


async def test_a_webhook_that_was_down_is_tried_again_also_after_a_restart(tmp_path: Path) -> None:
    hook = Hook()
    hook.answer = "503 Not now"
    async with hook.serve(), world(tmp_path, **{"hive-comms-alert-webhook": hook.url}) as (_, node, _relay):
        tested = await call(node, "hive-client-alerts", action="test")
        assert tested["webhook"]["state"] == "waiting" and "503" in tested["webhook"]["error"]
        assert tested["dm"] == {"state": "none"}
        await restart(node)
        hook.answer = "200 OK"
        await until(lambda: _delivered(node), "the second try succeeds")
        (row,) = await alerts(node)
        assert row["webhook"]["attempts"] == 2 and len(hook.got) == 2
        assert json.loads(hook.got[0][1])["alert_id"] == json.loads(hook.got[1][1])["alert_id"]


async def test_without_channels_alerts_are_listed_and_acknowledged(tmp_path: Path) -> None:
    async with world(tmp_path) as (_, node, _relay):
        await loosen(node)
        (row,) = await alerts(node)
        assert (row["webhook"]["state"], row["dm"]["state"], row["acked_at"]) == ("none", "none", None)
        seen = await call(node, "hive-client-alerts", action="ack", id=row["id"])
        again = await call(node, "hive-client-alerts", action="ack", id=row["id"])
        assert seen["acked_at"] is not None and again["acked_at"] == seen["acked_at"]
        assert (await refused(node, "hive-client-alerts", action="ack", id=999)).code == 4001
        assert (await refused(node, "hive-client-alerts", action="ack")).code == -32602
        assert (await refused(node, "hive-client-alerts", action="list", id=1)).code == -32602


async def test_unusable_targets_are_refused_when_they_are_set(tmp_path: Path) -> None:
    async with world(tmp_path) as (_, node, _relay):
        for name, value in (
            ("alert-webhook", "http://example.com/x"),
            ("alert-webhook", "https://user:word@example.com/"),
            ("alert-webhook", "https://example.com/a b"),
            ("alert-webhook", "https://example.com:99999/"),
            ("alert-nostr-dm", "npub1nobody"),
        ):
            await refused(node, "setconfig", config=f"hive-comms-{name}", val=value, transient=True)
