"""The kit beside a scripted node, in one process and without a relay: commands go by the way `local`, pushes
are handed over. It can die at any write of its database and any call of the node.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
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

FEE = ("hive:fee-policy/v1", "set_single")
PARAMS = {"channel_id": "103x1x0", "fee_ppm": 150}


class Death(BaseException):
    """The process ends here."""


class KitWorld:
    """One profile, one node; both live on when the kit is opened again."""

    def __init__(self, directory: Path) -> None:
        self.paths = ProfilePaths("test", directory / "config", directory / "data")
        self.identity = create_identity()
        self.node = ScriptedNode("ws://127.0.0.1:1")
        self.node.answer = self.node.honest
        self.ahead = 0
        self.left: int | None = None
        self.points = 0
        self.settings: dict[str, Any] = {}
        self.said: list[str] = []

    def now(self) -> int:
        return int(time.time()) + self.ahead

    @asynccontextmanager
    async def open(self, *, order: tuple[str, ...] = ("local",)) -> AsyncIterator[Advisor]:
        """The kit, its calls to the node's socket answered by the script."""
        config = AdvisorConfig(relays=("ws://127.0.0.1:1",), transport_order=order, **self.settings)
        async with Advisor.open(
            self.paths, self.identity, config, online=False, now=self.now, say=self.said.append
        ) as kit:
            kit.delivery._local = self

            write = kit._db.write

            async def watched(body: Callable[[Any], Any], **options: Any) -> Any:
                result = await write(body, **options)
                self.point()
                return result

            kit._db.write = watched
            yield kit

    async def call(self, _socket: str, text: str, _rune: str | None, _sender: str) -> str:
        """The node's RPC socket."""
        command = envelope.decode_command(text)
        assert envelope.verify_signature(command)
        self.node.commands.append(command)
        answer = self.node.answer(command)
        self.point()
        if answer is None:
            raise TransportUnavailable("no answer")
        return encode(answer).decode()

    def point(self) -> None:
        """Dying before a write, or in it, leaves what dying after the one before leaves: these are all points
        that differ."""
        if self.left is None:
            return
        self.points += 1
        if self.left == 0:
            raise Death
        self.left -= 1

    async def push(self, kit: Advisor, document: dict[str, Any]) -> None:
        """A push that came by a relay."""
        text = encode(document).decode()
        name = hashlib.sha256(text.encode()).hexdigest()
        await kit._mail.receive(Message(self.node.key, name, text, self.now(), (), ""), kit.pubkey)

    async def hired(self, kit: Advisor) -> Client:
        """The node offered a credential, it was accepted, its socket is set."""
        await self.push(kit, self.node.offer(kit.pubkey))
        (client,) = await kit.clients.all()
        client, _ = await kit.clients.accept(client, "alice")
        await kit.delivery.set_socket(client, "/nowhere")
        return client

    def copy(self, directory: Path) -> KitWorld:
        """The same profile and node as they are now, to go on with separately. Nothing may be open."""
        made = KitWorld(directory)
        shutil.copytree(self.paths.data_dir, made.paths.data_dir)
        made.identity, made.ahead, made.settings = self.identity, self.ahead, self.settings
        for name in ("secret", "key", "hsm", "node_id", "seq", "head"):
            setattr(made.node, name, getattr(self.node, name))
        made.node.chain, made.node.commands = list(self.node.chain), list(self.node.commands)
        return made

    async def killed(self, at: int, what: Callable[[Advisor], Awaitable[Any]]) -> bool:
        """Run `what` until point `at`; False when it ended before."""
        self.left, self.points = at, 0
        try:
            async with self.open() as kit:
                await what(kit)
        except Death:
            return True
        finally:
            self.left = None
        return False


async def run_fee(kit: Advisor, fee: int = 150, *, wait_s: int = 5) -> Any:
    """A fee change, executed."""
    client = await kit.clients.named("alice")
    plan = await kit.plan(client, *FEE, {**PARAMS, "fee_ppm": fee})
    return await kit.execute(plan, wait_s=wait_s, human=True)
