"""What anybody on the network can throw at clnrest's door: precise refusals, nothing stored, the plugin lives
(sheet 02 §6.3, §15.9; sheet 08 §13.20)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import ssl
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

from agent import Agent
from hive_devnet.world import World, until
from rest_calls import post, rune_of, send

RPC = "/v1/hive-comms-rpc"
STORES = ("comms_commands", "comms_responses", "comms_replay", "comms_pending", "comms_inbox", "comms_outbox")


def stored(world: World) -> dict[str, int]:
    """Rows of the tables that a command leaves a trace in."""
    file = world.alice.net_dir / "cl_hive_comms.db"
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        return {
            table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in (*STORES, "management_receipts")
        }


async def rune(world: World, *restrictions: list[str]) -> str:
    """A rune of alice's without a rate, so that a test need not wait for its next second."""
    made = await world.alice.call("createrune", {"restrictions": [*restrictions]})
    return str(made["rune"])


async def connected(world: World) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(str(world.rest_url))
    context = ssl.create_default_context(cafile=str(world.rest_ca))
    return await asyncio.open_connection(parts.hostname, parts.port, ssl=context)


async def raw(world: World, text: str) -> int:
    """The status of an answer to bytes that no client library would send."""
    reader, writer = await connected(world)
    writer.write(text.encode("latin-1"))
    line = await asyncio.wait_for(reader.readline(), 60)
    writer.close()
    return int(line.split()[1])


async def idle_outbox(world: World) -> bool:
    rows = (await world.alice.call("hive-comms-transports"))["items"]
    return all(row.get("queue", 0) == 0 for row in rows)


async def test_acceptance_02_09_a_wrong_rune_or_path_is_refused_before_the_plugin_hears_of_it(
    rest_world: World,
) -> None:
    world = rest_world
    async with Agent(world.alice, world.relay.url) as agent, Agent(world.alice, world.relay.url) as gone:
        await agent.hired("fees")
        await gone.hired("fees")
        revoked = (await rune_of(gone))["rune"]
        await world.alice.call("hive-client-revoke", {"advisor": gone.npub, "reason": "test"})
        own = await rune(world, ["method=hive-comms-rpc"], [f"pnamesender={agent.key}"])
        foreign = (await world.bob.call("createrune"))["rune"]
        document = agent.signed("set_single", {"channel_id": world.scid, "fee_ppm": 510})
        body = {"request": json.dumps(document), "sender": agent.key}
        as_gone = {**body, "sender": gone.key}
        await until(lambda: idle_outbox(world), "the messages of the hires to be out")
        before = stored(world)

        async def refusal(
            given: str | None, fields: dict[str, Any], path: str = RPC
        ) -> tuple[int, int | None]:
            answer = await send(world, path, rune=given, content=json.dumps(fields).encode())
            return answer.status_code, answer.json()["code"]

        assert await refusal(None, body) == (403, 1501)
        # What is no rune at all gets the code that checkrune has for it.
        for nonsense in ("", "x", "AAAA" * 12, own[:-4] + "AAAA", own[::-1], "a" * 8_000):
            status, code = await refusal(nonsense, body)
            assert status == 401 and code in (1501, -32602), (nonsense[:20], status, code)
        assert await refusal(foreign, body) == (401, 1501)
        assert await refusal(revoked, as_gone) == (401, 1503)
        assert await refusal(own, as_gone) == (401, 1502)
        assert await refusal(own, {"request": body["request"]}) == (401, 1502)
        assert await refusal(await rune(world, ["method=getinfo"]), body) == (401, 1502)

        for path in (
            "/v1/getinfo",
            "/v1/hive-client-authorize",
            "/v1/hive-client-policy",
            "/v1/hive-comms-send-dm",
            "/v1/hive-comms-rpc/",
            "/v1//hive-comms-rpc",
            "/v1/hive-comms-rpc%00",
            "/v1/hive-comms-rpc%20",
            "/v1/Hive-Comms-Rpc",
            "/v1/hive%2Fcomms-rpc",
            "/v1/",
        ):
            status, _ = await refusal(own, body, path)
            assert status in (401, 404), (path, status)
        assert [(await refusal(own, body, path))[0] for path in ("/", "/V1/hive-comms-rpc", "/rpc")] == [
            404
        ] * 3
        for method in ("GET", "PUT", "DELETE", "PATCH"):
            answer = await send(world, RPC, rune=own, content=b"", method=method)
            assert answer.status_code == 405, method
        # Climbing in the path, as only a client that does not tidy it up would.
        text = json.dumps(body)
        for path in ("/v1/../v1/hive-comms-rpc", "/v1/./hive-comms-rpc", "/v1/..%2f..%2fgetinfo"):
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nRune: {own}\r\nContent-Length: {len(text)}\r\n\r\n"
            assert await raw(world, head + text) in (401, 404), path
        assert stored(world) == before
        # The same letters, percent-encoded, are the same method: the rune holds, the envelope decides.
        good = await send(world, "/v1/hive%2Dcomms%2Drpc", rune=own, content=text.encode())
        assert (good.status_code, good.json()["status"]) == (201, 0), good.text
        assert (await world.channel_fees())[1] == 510


async def test_acceptance_02_09_bodies_that_are_broken_deep_huge_or_slow_change_nothing(
    rest_world: World,
) -> None:
    world = rest_world
    async with Agent(world.alice, world.relay.url) as agent:
        await agent.hired("fees")
        own = await rune(world, ["method=hive-comms-rpc"], [f"pnamesender={agent.key}"])
        document = agent.signed("set_single", {"channel_id": world.scid, "fee_ppm": 520})
        body = {"request": json.dumps(document), "sender": agent.key}
        await until(lambda: idle_outbox(world), "the messages of the hire to be out")
        before = stored(world)

        async def answer(content: bytes, kind: str = "application/json") -> tuple[int, Any]:
            found = await send(world, RPC, rune=own, content=content, headers={"Content-Type": kind})
            return found.status_code, found.json()

        for kind in ("text/plain", "image/png", "application/octet-stream"):
            assert (await answer(json.dumps(body).encode(), kind))[0] == 406, kind
        for broken in (b"{", b"[]", b'"text"', b"null", b"\xff\xfe", b'{"sender":NaN}', b"[" * 100_000):
            assert (await answer(broken))[0] == 500, broken[:20]

        async def refused(**fields: Any) -> int:
            status, said = await answer(json.dumps({"sender": agent.key, **fields}).encode())
            assert status == 500 and said["message"], said
            return int(said["code"])

        assert await refused() == -32602
        assert await refused(request=5) == -32602
        assert await refused(request=[[[]]]) == -32602
        assert await refused(request=body["request"], method="getinfo") == -32602
        assert await refused(request=body["request"], rune="A" * 48) == 4003

        async def slug(request: object) -> str:
            """Of an envelope that got through the door: the refusal stands inside the answer."""
            status, said = await answer(json.dumps({"request": request, "sender": agent.key}).encode())
            assert status == 201 and said["status"] in (1, 2), said
            return str(said["error"]["slug"])

        deep: dict[str, Any] = {}
        for _ in range(200):
            deep = {"a": deep}
        too_deep = {"action": "set_single", "params": deep}
        assert await slug({**document, "schema_payload": too_deep}) == "too_large"
        assert await slug("{" * 5_000) in ("malformed", "too_large")
        assert await slug("") == "malformed"
        assert await slug({**document, "signature": "00" * 64}) == "bad_signature"
        assert await slug({**document, "extra": "x" * 70_000}) == "too_large"
        assert await slug("x" * 4_000_000) == "too_large"
        # More than the front takes is refused before it is sent.
        head = f"POST {RPC} HTTP/1.1\r\nHost: x\r\nRune: {own}\r\n"
        assert await raw(world, f"{head}Content-Length: {2**40}\r\n\r\n") == 413
        for odd in ("Content-Length: -5", "Content-Length: x", "Transfer-Encoding: chunked"):
            assert await raw(world, f"{head}{odd}\r\n\r\n") == 400, odd
        assert stored(world) == before

        # Forty who send half a request and wait: the forty-first is served.
        async with contextlib.AsyncExitStack() as stack:
            for number in range(40):
                _, writer = await connected(world)
                stack.callback(writer.transport.abort)
                half = head if number % 2 else f"{head}Content-Length: 500\r\n\r\n{{"
                writer.write(half.encode())
                await writer.drain()
            done = await post(world, "hive-comms-rpc", own, body)
            assert (done.status_code, done.json()["status"]) == (201, 0), done.text
        assert (await world.channel_fees())[1] == 520
        again = await post(world, "hive-comms-rpc", own, body)
        assert again.json() == done.json()
        assert "Traceback" not in world.alice.log_text()
