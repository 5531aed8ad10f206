"""Two hubs on one node: a real socket routes their calls as lightningd does."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hive_shared import siblings
from hive_shared.cln import ClnClient
from hive_shared.errors import (
    Busy,
    Conflict,
    HiveError,
    SiblingUnavailable,
    Unauthorized,
    VersionIncompatible,
)
from hive_shared.runtime_spec import MethodSpec, parse_params
from hive_shared.siblings import HELLO, Sibling, SiblingHub

KEY = bytes(range(32))
Method = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class Clock:
    def __init__(self) -> None:
        self.offset = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.offset


class Node:
    """The methods of all plugins of a node behind one RPC socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.methods: dict[str, Method] = {}
        self.hubs: list[SiblingHub] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.calls: list[str] = []
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, str(self.path))

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                request = json.loads(await reader.readuntil(b"\n\n"))
                writer.write(json.dumps({"id": request["id"], **await self._run(request)}).encode() + b"\n\n")
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    async def _run(self, request: dict[str, Any]) -> dict[str, Any]:
        method = self.methods.get(request["method"])
        self.calls.append(request["method"])
        if method is None:
            return {"error": {"code": -32601, "message": "Unknown command"}}
        try:
            return {"result": await method(request["params"])}
        except HiveError as error:
            return {"error": {"code": error.code, "message": str(error), "data": error.data}}
        except ConnectionError:
            return {"error": {"code": -4, "message": "Plugin terminated before replying to RPC call."}}

    def serve(self, hub: SiblingHub, spec: MethodSpec) -> None:
        """Offer a class S method as the runtime does: authenticated, then strictly parsed."""

        async def run(raw: dict[str, Any]) -> dict[str, Any]:
            params = hub.verify(spec.name, raw)
            declared = {p.name for p in spec.params}
            kept = {k: v for k, v in params.items() if k in declared or k not in ("nonce", "ts")}
            return await spec.handler(parse_params(spec, kept))

        self.methods[spec.name] = run

    def plugin(self, me: Sibling, clock: Clock, *, key: bytes = KEY, running: bool = True) -> SiblingHub:
        hub = SiblingHub(
            me=me,
            version="0.1.0",
            capabilities=[f"{me}-thing.v1"],
            cln=ClnClient(self.path),
            key=key,
            now=lambda: 1_700_000_000,
            random_bytes=os.urandom,
            identity=lambda: {"node_id": "02" * 33},
            db_schema=1,
            log=lambda level, event, **fields: None,
            monotonic=clock.monotonic,
        )
        self.serve(hub, hub.hello_method())
        if running:
            self.tasks.append(asyncio.create_task(hub.run()))
        return hub


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    node = Node(tmp_path / "rpc")
    await node.start()
    yield node
    await node.stop()


async def until(ready: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.01)


async def test_two_plugins_find_each_other_by_handshake(node: Node) -> None:
    clock = Clock()
    comms, hive = node.plugin("comms", clock), node.plugin("hive", clock)
    assert comms.combo() == "comms"
    await until(lambda: comms.present("hive") and hive.present("comms"))
    assert comms.combo() == "comms+hive" == hive.combo()
    assert hive.has("comms", "comms-thing") and not hive.has("comms", "comms-thing", 2)
    assert not hive.has("archon", "vc") and hive.has("hive", "hive-thing")
    row = next(r for r in hive.status() if r["plugin"] == "cl-hive-comms")
    assert row["present"] and row["version"] == "0.1.0" and row["proto"] == 1 and row["breaker"] == "closed"
    assert row["last_ok"] == 1_700_000_000 and "error" not in row


async def test_three_make_all_and_a_newcomer_is_found_at_once(node: Node) -> None:
    clock = Clock()
    comms, hive = node.plugin("comms", clock), node.plugin("hive", clock)
    await until(lambda: comms.present("hive") and hive.present("comms"))
    clock.offset += 30  # the first probes are over: only plugin_started can bring it in soon
    archon = node.plugin("archon", clock)
    for hub in (comms, hive):
        await hub.on_plugin_started({"plugin_name": "renamed.py", "methods": ["x", "hive-archon-hello"]})
    await until(lambda: {comms.combo(), hive.combo(), archon.combo()} == {"all"}, 20)


async def test_a_greeting_is_answered_by_a_greeting(node: Node) -> None:
    clock = Clock()
    comms = node.plugin("comms", clock)
    await until(lambda: node.calls.count(HELLO["hive"]) >= 1)
    clock.offset += 30
    hive = node.plugin("hive", clock)
    await until(lambda: comms.present("hive") and hive.present("comms"), 20)


async def test_leaving_ends_the_session_and_tells_listeners(node: Node) -> None:
    clock = Clock()
    comms, hive = node.plugin("comms", clock), node.plugin("hive", clock)
    changes: list[tuple[str, bool]] = []
    hive.on_change(lambda who, present: changes.append((who, present)))
    await until(lambda: hive.present("comms") and comms.present("hive"))
    del node.methods[HELLO["comms"]]
    await hive.on_plugin_stopped({"methods": ["hive-comms-hello"]})
    assert not hive.present("comms") and changes == [("comms", True), ("comms", False)]
    with pytest.raises(
        SiblingUnavailable, match="hive-comms-pay needs cl-hive-comms: it is not running; start it"
    ):
        await hive.call("comms", "hive-comms-pay", {})


async def test_calls_are_authenticated_and_refusals_come_through(node: Node) -> None:
    clock = Clock()
    comms, hive = node.plugin("comms", clock), node.plugin("hive", clock)

    async def handler(params: dict[str, Any]) -> dict[str, Any]:
        if params["text"] == "no":
            raise Conflict("already sent", reason="duplicate", data={"id": "7"})
        return {"echo": params}

    node.serve(comms, MethodSpec("hive-comms-x", "S", (siblings.Param("text", "str"),), handler, ""))
    await until(lambda: hive.present("comms"))
    assert await hive.call("comms", "hive-comms-x", {"text": "hi"}) == {"echo": {"text": "hi"}}
    with pytest.raises(Conflict) as caught:
        await hive.call("comms", "hive-comms-x", {"text": "no"})
    assert caught.value.detail == "already sent" and caught.value.reason == "duplicate"
    assert caught.value.data == {"id": "7", "reason": "duplicate"}
    with pytest.raises(SiblingUnavailable, match="too old"):
        await hive.call("comms", "hive-comms-later", {})
    with pytest.raises(Unauthorized):
        await node.methods["hive-comms-x"]({"text": "hi"})


async def test_siblings_may_call_each_other_while_they_wait(node: Node) -> None:
    clock = Clock()
    comms, hive = node.plugin("comms", clock), node.plugin("hive", clock)

    async def there(params: dict[str, Any]) -> dict[str, Any]:
        return await comms.call("hive", "hive-back", {}, timeout=5)

    async def back(params: dict[str, Any]) -> dict[str, Any]:
        return {"deep": True}

    node.serve(comms, MethodSpec("hive-comms-there", "S", (), there, ""))
    node.serve(hive, MethodSpec("hive-back", "S", (), back, ""))
    await until(lambda: hive.present("comms") and comms.present("hive"))
    answers = await asyncio.gather(
        *(hive.call("comms", "hive-comms-there", {}, timeout=10) for _ in range(8))
    )
    assert answers == [{"deep": True}] * 8


async def test_another_key_is_not_a_sibling(node: Node) -> None:
    clock = Clock()
    hive = node.plugin("hive", clock)
    node.plugin("comms", clock, key=bytes(32), running=False)
    await until(lambda: "error" in hive.status()[0])
    assert not hive.present("comms") and hive.status()[0]["error"].startswith("unauthorized")


async def test_an_impostor_that_accepts_everything_lacks_the_proof(node: Node) -> None:
    hive = node.plugin("hive", Clock())

    async def impostor(params: dict[str, Any]) -> dict[str, Any]:
        return {"plugin": "cl-hive-comms", "version": "9", "proto": 1, "capabilities": [], "proof": "00" * 32}

    node.methods[HELLO["comms"]] = impostor
    await until(lambda: "error" in hive.status()[0])
    assert not hive.present("comms") and "sibling key" in hive.status()[0]["error"]


async def test_no_common_protocol_is_absent_with_the_reason(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    hive = node.plugin("hive", clock)
    comms = node.plugin("comms", clock, running=False)
    call = {"plugin": "cl-hive", "version": "9", "proto_min": 2, "proto_max": 3, "nonce": "00" * 16, "ts": 0}
    with pytest.raises(VersionIncompatible, match="same release"):
        await comms.hello(call)
    assert (await comms.hello({**call, "proto_min": 1}))["proto"] == 1

    async def refuse(params: dict[str, Any]) -> dict[str, Any]:
        raise VersionIncompatible("speaks 2 to 2")

    node.methods[HELLO["comms"]] = refuse
    await until(lambda: "error" in hive.status()[0])
    assert not hive.present("comms") and hive.status()[0]["error"] == "version_incompatible: speaks 2 to 2"


async def test_a_sibling_that_is_still_starting_is_asked_again_soon(node: Node) -> None:
    clock = Clock()
    clock.offset = 0.0
    hive = node.plugin("hive", clock)
    comms = node.plugin("comms", clock, running=False)
    real = node.methods[HELLO["comms"]]
    attempts = itertools.count()

    async def starting(params: dict[str, Any]) -> dict[str, Any]:
        if next(attempts) < 1:
            clock.offset += 30
            raise Busy("starting")
        return await real(params)

    node.methods[HELLO["comms"]] = starting
    await until(lambda: hive.present("comms"))
    assert comms.state == "local_ready"


async def test_failing_sibling_opens_the_breaker_and_recovers(node: Node) -> None:
    clock = Clock()
    comms, hive = node.plugin("comms", clock), node.plugin("hive", clock)
    await until(lambda: hive.present("comms") and comms.present("hive"))
    real = node.methods[HELLO["comms"]]

    async def broken(params: dict[str, Any]) -> dict[str, Any]:
        raise ConnectionError

    node.methods["hive-comms-x"] = node.methods[HELLO["comms"]] = broken
    with pytest.raises(SiblingUnavailable, match="terminated"):
        await hive.call("comms", "hive-comms-x", {})
    await until(lambda: hive.status()[0]["breaker"] == "open")
    called = len(node.calls)
    with pytest.raises(SiblingUnavailable, match="failed repeatedly") as caught:
        await hive.call("comms", "hive-comms-x", {})
    assert 30 < caught.value.data["retry_after"] <= 61, "a minute, less what the machine took"
    assert len(node.calls) == called, "refused without asking"
    assert hive.status()[0]["present"] and "error" in hive.status()[0]
    node.methods[HELLO["comms"]] = real
    clock.offset += 60
    await hive.on_plugin_started({"methods": []})
    hive._peers["comms"].wake.set()
    await until(lambda: hive.status()[0]["breaker"] == "closed")
    assert "error" not in hive.status()[0]


async def test_acceptance_08_24_hung_sibling_costs_nobody_else_time_and_recovers(node: Node) -> None:
    clock = Clock()
    comms, hive = node.plugin("comms", clock), node.plugin("hive", clock)
    archon = node.plugin("archon", clock)
    await until(lambda: {comms.combo(), hive.combo(), archon.combo()} == {"all"})
    release = asyncio.Event()
    real = node.methods[HELLO["comms"]]

    async def hang(params: dict[str, Any]) -> dict[str, Any]:
        await release.wait()
        return await real(params)

    node.methods["hive-comms-x"] = node.methods[HELLO["comms"]] = hang
    node.serve(archon, MethodSpec("hive-archon-y", "S", (), lambda params: quick(), ""))
    hung = [asyncio.create_task(hive.call("comms", "hive-comms-x", {}, timeout=0.3)) for _ in range(3)]
    took = []
    for _ in range(20):
        began = time.monotonic()
        assert await hive.call("archon", "hive-archon-y", {}) == {"ok": True}
        took.append(time.monotonic() - began)
    # The middle one: what else the machine does slows a few down.
    assert sorted(took)[10] < 0.1
    outcomes = await asyncio.gather(*hung, return_exceptions=True)
    assert all(isinstance(outcome, SiblingUnavailable) for outcome in outcomes)
    assert comms_row(hive)["breaker"] == "open"
    release.set()
    node.methods[HELLO["comms"]] = real
    clock.offset += 60
    hive._peers["comms"].wake.set()
    await until(lambda: comms_row(hive)["breaker"] == "closed")
    assert hive.combo() == "all" and "error" not in comms_row(hive)


async def quick() -> dict[str, Any]:
    return {"ok": True}


def comms_row(hub: SiblingHub) -> dict[str, Any]:
    return next(row for row in hub.status() if row["plugin"] == "cl-hive-comms")
