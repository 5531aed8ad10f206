"""A node that always uses its proxy: no socket of the plugin goes anywhere else (Protocol 04 §7.2, 08 §2)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from comms_world import PLUGIN, Agent, call, until
from hive_devnet.certificates import make_certificates
from hive_devnet.network import open_network
from hive_devnet.relay import RelayProcess
from hive_shared.nostr.event import build
from json_lines import lines_of
from local_tls import LocalTls
from mail_server import MailServer
from socks_proxy import SocksServer

# Runs in every Python of the node; only the plugin's notes are kept. Audit hooks see each socket call.
WATCHER = """
import json, os, sys
if any("cl-hive-comms.py" in word for word in sys.orig_argv):
    def seen(event, args):
        if event == "socket.connect" and isinstance(args[1], tuple):
            note = ["connect", str(args[1][0]), args[1][1]]
        elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
            note = ["resolve", args[0].decode() if isinstance(args[0], bytes) else str(args[0]), 0]
        elif event == "socket.sendto":
            note = ["sendto", str(args[1]), 0]
        else:
            return
        file = os.open(os.environ["HIVE_WATCH_FILE"], os.O_WRONLY | os.O_APPEND)
        os.write(file, (json.dumps(note) + "\\n").encode())
        os.close(file)
    sys.addaudithook(seen)
"""


@asynccontextmanager
async def webhook(tls: LocalTls) -> AsyncIterator[tuple[int, list[bytes]]]:
    """An https server that takes every POST."""
    posts: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        posts.append(await reader.readuntil(b"\r\n"))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls.server())
    try:
        yield server.sockets[0].getsockname()[1], posts
    finally:
        server.close()


def certificates(directory: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> list[LocalTls]:
    """A server certificate for each name; the plugin trusts them all."""
    made = []
    for name in names:
        make_certificates(directory / name, name)
        made.append(LocalTls(directory / name))
    bundle = directory / "authorities.pem"
    bundle.write_text("".join(one.authority.read_text() for one in made))
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    return made


def watched(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have the plugin's sockets noted; the file of the notes."""
    (directory / "site").mkdir()
    (directory / "site" / "sitecustomize.py").write_text(WATCHER)
    notes = directory / "sockets.jsonl"
    notes.touch()
    monkeypatch.setenv("PYTHONPATH", str(directory / "site"))
    monkeypatch.setenv("HIVE_WATCH_FILE", str(notes))
    return notes


def read(notes: Path) -> list[list[Any]]:
    return lines_of(notes)


async def test_every_socket_goes_through_the_proxy_and_no_name_is_resolved_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    hook_tls, mail_tls = certificates(tmp_path, monkeypatch, "hook.example", "mail.example")
    notes = watched(tmp_path, monkeypatch)
    relay = await RelayProcess.start()
    port = int(relay.url.rsplit(":", 1)[1])
    targets = {"relay.onion": port, "7f000001": port}
    async with (
        webhook(hook_tls) as (hook_port, posts),
        MailServer().serve(implicit=mail_tls.server(), login=("u", "pw")) as mail,
        Agent(relay.url) as agent,
        SocksServer(targets | {"hook.example": hook_port, "mail.example": mail.port}).running() as socks,
    ):
        network = await open_network(tmp_path / "net")
        try:
            options: dict[str, object] = {
                "proxy": f"127.0.0.1:{socks.port}",
                "always-use-proxy": True,
                "hive-comms-nostr-relays": "ws://relay.onion:7777",
                "hive-comms-nostr-profile-relays": relay.url,
                "hive-comms-nostr-search-relays": "wss://search.example",
                "hive-comms-alert-webhook": "https://hook.example/alerts",
                "hive-comms-alert-email": "me@example.org",
                "hive-comms-alert-smtp": "smtps://u:pw@mail.example:465",
                "hive-comms-alert-nostr-dm": agent.npub,
            }
            node = await network.add_node("alice", options, [PLUGIN])
            await until(lambda: call(node, "hive-client-status"), "the plugin answers")
            await agent.hired(node)
            assert (await agent.run("hive:monitor/v1", "health_summary"))["status"] == 0
            await call(node, "hive-client-alerts", action="test")
            async with asyncio.timeout(60):
                while not (posts and mail.letters):
                    await asyncio.sleep(0.05)
            assert posts[0].startswith(b"POST /alerts ")
            # The relay's own page, the relay lists, a relay that a peer named: all the same way.
            inbox = build(agent.secret, 10050, [["relay", "wss://inbox.example"]], "", int(time.time()))
            await agent.publish(inbox)
            await node.kill_plugin("cl-hive-comms.py")
            await node.call("plugin", {"subcommand": "start", "plugin": str(PLUGIN), **keep(options)})
            await until(lambda: call(node, "hive-client-status"), "the plugin answers again")
            await call(node, "hive-client-authorize", advisor=agent.npub, access="fees")
            await until(lambda: asked(socks, "inbox.example"), "the peer's own relay is tried")
            assert ("relay.onion", 7777) in socks.asked and ("7f000001", port) in socks.asked
            assert {("hook.example", 443), ("mail.example", 465), ("inbox.example", 443)} <= set(socks.asked)
            assert socks.asked.count(("relay.onion", 7777)) >= 3
        finally:
            await network.close()
            await relay.stop()
        seen = read(notes)
        assert {(host, at) for what, host, at in seen if what == "connect"} == {("127.0.0.1", socks.port)}
        assert {host for what, host, _ in seen if what != "connect"} <= {"127.0.0.1"}


def keep(options: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in options.items() if name.startswith("hive-")}


async def asked(socks: SocksServer, name: str) -> bool:
    return name in socks.names()


async def test_strict_privacy_uses_the_proxy_for_relays_though_the_node_does_not_always(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = watched(tmp_path, monkeypatch)
    relay = await RelayProcess.start()
    port = int(relay.url.rsplit(":", 1)[1])
    async with Agent(relay.url) as agent, SocksServer({"7f000001": port}).running() as socks:
        network = await open_network(tmp_path / "net")
        try:
            options: dict[str, object] = {
                "proxy": f"127.0.0.1:{socks.port}",
                "hive-comms-nostr-relays": relay.url,
                "hive-comms-nostr-profile-relays": "",
                "hive-comms-nostr-search-relays": "",
                "hive-comms-nostr-privacy": "strict",
            }
            node = await network.add_node("alice", options, [PLUGIN])
            await until(lambda: call(node, "hive-client-status"), "the plugin answers")
            await agent.hired(node)
            assert (await agent.run("hive:monitor/v1", "health_summary"))["status"] == 0
            connects = [note for note in read(notes) if note[0] == "connect"]
            assert {(host, at) for _, host, at in connects} == {("127.0.0.1", socks.port)}
            # Standard again: the relay is asked directly, and only the way changed.
            await call(node, "setconfig", config="hive-comms-nostr-privacy", val="standard")
            assert (await agent.run("hive:monitor/v1", "health_summary"))["status"] == 0
            assert ["connect", "127.0.0.1", port] in read(notes)
        finally:
            await network.close()
            await relay.stop()
