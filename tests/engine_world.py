"""A kit that takes commands and tool calls of other processes, with a node that answers as the test says."""

from __future__ import annotations

import asyncio
import functools
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from approver_shell import PIN
from hive_advisor.advisor import Advisor
from hive_advisor.cli.context import Settings, file_mark
from hive_advisor.cli.engine import Engine
from hive_advisor.cli.output import Terminal
from hive_advisor.domain.engine_frames import AnyFrame, Frame, Invoke, Welcome
from hive_advisor.local_socket import Channel, Peer, connect, peer_of
from hive_advisor.paths import ProfilePaths
from hive_advisor.pin import pin_verifier
from hive_devnet.world import AdvisorShell
from msgspec.structs import replace
from plan_world import SCID, PlanWorld

FEE = ("hive:fee-policy/set_single", f"channel_id={SCID}")
RELAY = "wss://relay.invalid"
COMMAND_LINE = (sys.executable, "-m", "hive_advisor")


@functools.cache
def verifier() -> str:
    """Of PIN; making one takes its time."""
    return pin_verifier(PIN, "no passphrase")


class EngineWorld(PlanWorld):
    """One profile as the command line finds it, opened in this process; ``shell`` is another one's, which has
    no passphrase."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        parts = ("hive-advisor", "default")
        self.paths = ProfilePaths(
            "default", directory.joinpath("config", *parts), directory.joinpath("data", *parts)
        )
        self.identity = replace(self.identity, pin_verifier=verifier())
        self.shell = AdvisorShell(directory, [RELAY])
        for name in ("HIVE_ADVISOR_PASSPHRASE_FILE", "HIVE_ADVISOR_RELAYS", "XDG_RUNTIME_DIR"):
            self.shell.env.pop(name, None)

    @asynccontextmanager
    async def serving(self, *, peer: Callable[[Any], Peer] = peer_of) -> AsyncIterator[Advisor]:
        """The kit, taking what others send."""
        async with self.open() as kit, self.engine(kit, peer=peer):
            yield kit

    @asynccontextmanager
    async def engine(self, kit: Advisor, *, peer: Callable[[Any], Peer] = peer_of) -> AsyncIterator[Engine]:
        settings = Settings(self.paths, Terminal(quiet=True), 5, 5, False, False, None, None)
        mark = file_mark(self.paths.identity)
        made = Engine(settings, kit, "run", mark, peer=peer, drain_s=0.2)
        try:
            await made.start()
            yield made
        finally:
            await made.stop()

    async def channel(self, path: Path | None = None) -> Channel:
        """A connection that has been welcomed."""
        channel = await connect(path or self.paths.control)
        assert channel is not None
        welcome = await channel.receive()
        assert isinstance(welcome, Welcome) and welcome.pid == os.getpid()
        return channel

    async def told(self, first: Frame | bytes, path: Path | None = None) -> AnyFrame | None:
        """What comes back on a fresh connection for this; bytes go out as they are."""
        channel = await self.channel(path)
        try:
            if isinstance(first, bytes):
                channel._writer.write(first)
            else:
                await channel.send(first)
            return await asyncio.wait_for(channel.receive(), 60)
        finally:
            channel.abort()

    def invoke(self, *command: str, interactive: bool = False, **params: Any) -> Invoke:
        return Invoke(
            command=list(command),
            params=params,
            as_json=True,
            quiet=True,
            verbose=False,
            yes=False,
            wait=1,
            timeout=1,
            interactive=interactive,
            config=str(self.paths.config_dir.resolve()),
            relays=None,
        )

    async def started(self, *words: str, **how: Any) -> asyncio.subprocess.Process:
        """Another process with this command, not waited for."""
        streams = dict.fromkeys(("stdout", "stderr"), asyncio.subprocess.PIPE)
        return await asyncio.create_subprocess_exec(
            *COMMAND_LINE,
            *words,
            **{"env": self.shell.env, "stdin": asyncio.subprocess.DEVNULL, **streams, **how},
        )
