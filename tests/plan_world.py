"""The advisor's kit in one process with a node that answers as the test says; time is the test's own."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from hive_advisor.advisor import Advisor
from hive_advisor.config import AdvisorConfig
from hive_advisor.domain.rows import Client
from hive_advisor.identity import create_identity
from hive_advisor.paths import ProfilePaths
from hive_shared import envelope
from hive_shared.canonical import encode
from hive_shared.errors import TransportUnavailable
from hive_shared.nostr.giftwrap import Message
from scripted_node import ScriptedNode

SCID = "103x1x0"
FEE = ("hive:fee-policy/v1", "set_single")


class PlanWorld:
    """One profile and one node behind its RPC socket. `down`: nothing reaches it. Commands are run once by
    their id, as a node does; `runs` counts them."""

    def __init__(self, directory: Path) -> None:
        self.paths = ProfilePaths("test", directory / "config", directory / "data")
        self.identity = create_identity()
        self.node = ScriptedNode("wss://relay.invalid")
        self.node.answer = self.run
        self.now, self.down = int(time.time()), False
        self.heard: list[envelope.Command] = []
        self.runs: Counter[str] = Counter()
        self.fees = {SCID: (1_000, 200)}
        self._answers: dict[str, dict[str, Any]] = {}
        self.refusal: Callable[[envelope.Command], dict[str, Any] | None] = lambda _command: None

    def guard(self, text: str) -> None:
        """Write guard.toml."""
        self.paths.make()
        self.paths.guard.write_text(text)
        self.paths.guard.chmod(0o600)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Advisor]:
        """The kit, hired by the node as `alice`."""
        config = AdvisorConfig(relays=("wss://relay.invalid",), transport_order=("local",))
        async with Advisor.open(
            self.paths,
            self.identity,
            config,
            online=False,
            now=lambda: self.now,
            now_us=lambda: self.now * 1_000_000,
        ) as kit:
            kit.delivery._local = self
            if not await kit.clients.all():
                await self.hire(kit)
            yield kit

    async def hire(self, kit: Advisor) -> None:
        push = self.node.offer(kit.pubkey, credential=self.node.credential(kit.pubkey, "everything"))
        content = encode(push).decode()
        message = Message(self.node.key, "offer", content, self.now, (), "")
        await kit._mail.receive(message, kit.pubkey)
        client, _ = await kit.clients.accept((await kit.clients.all())[0], "alice")
        await kit.delivery.set_socket(client, "/run/lightning-rpc")

    async def alice(self, kit: Advisor) -> Client:
        return await kit.clients.named("alice")

    async def plan(self, kit: Advisor, ppm: int = 210, **params: Any) -> Any:
        given = {"channel_id": SCID, "fee_ppm": ppm, **params}
        return await kit.plan(await self.alice(kit), *FEE, given)

    async def read(self, kit: Advisor) -> None:
        """The kit asks for the node's fees."""
        plan = await kit.plan(await self.alice(kit), "hive:monitor/v1", "fee_report", {})
        done = await kit.execute(plan, wait_s=1)
        assert str(done.state) == "done", done

    # -- the node --------------------------------------------------------------------------------------

    async def call(self, socket_path: str, content: str, rune: str | None, sender: str) -> str:
        """What LocalLink does: a call of the node's RPC."""
        if self.down:
            raise TransportUnavailable("the node is away")
        command = envelope.decode_command(content)
        assert envelope.verify_signature(command)
        self.heard.append(command)
        answer = self.refusal(command) or self.run(command)
        return json.dumps(answer)

    def run(self, command: envelope.Command) -> dict[str, Any]:
        if command.schema_type == "hive:control/v1":
            return self._stamped(command, result={"state": "not_found"})
        if command.action == "fee_report":
            items = [
                {"channel": name, "fee_base_msat": base, "fee_proportional_millionths": ppm}
                for name, (base, ppm) in self.fees.items()
            ]
            return self._stamped(command, result={"items": items})
        if command.schema_type == "hive:monitor/v1":
            return self._stamped(command, result={"items": []})
        name = str(command.command_id)
        if name not in self._answers:
            self.runs[name] += 1
            old = self.fees[SCID]
            new = (old[0], int(str(dict(command.params).get("fee_ppm", old[1]))))
            self.fees[SCID] = new
            result = {"channel": SCID, "new": dict(zip(("base_msat", "fee_ppm"), new, strict=True))}
            self._answers[name] = self._stamped(command, result=result)
        return self._answers[name]

    def refused(self, command: envelope.Command, slug: str, **more: Any) -> dict[str, Any]:
        """A refusal of the node with this slug."""
        error = {"code": 4021, "slug": slug, "message": "not now", **more}
        return self._stamped(command, status=2 if slug == "busy" else 1, error=error)

    def _stamped(self, command: envelope.Command, status: int = 0, **parts: Any) -> dict[str, Any]:
        said = self.node.response(command, status, **parts)
        return envelope.sign_response(self.node.secret, {**said, "timestamp": self.now})
