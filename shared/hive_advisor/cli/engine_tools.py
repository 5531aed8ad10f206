"""``mcp.sock``: tool calls of programs, of other users too, answered by the engine under its own guard, list
and rates (docs/protocol/11-advisor-kit.md §3, §11). Nothing but tools goes over it."""

from __future__ import annotations

import asyncio
import grp
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hive_shared.errors import Busy, InvalidParams, Unauthorized

from hive_advisor.domain.engine_frames import Call, Called, Open, PromptRow, ToolRow, Tools
from hive_advisor.domain.node_tool_sets import check_sets
from hive_advisor.local_socket import Channel, Peer, check_directory
from hive_advisor.services.tool_calls import ToolCallService, refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hive_advisor.advisor import Advisor
    from hive_advisor.config import McpConfig
    from hive_advisor.domain.engine_frames import AnyFrame
    from hive_advisor.paths import ProfilePaths

_AT_ONCE: Final = 16


class ToolDoor:
    """Who may call tools, and what they get. ``uid`` is the engine's own user."""

    def __init__(self, paths: ProfilePaths, kit: Advisor, config: McpConfig, uid: int) -> None:
        self._paths, self._kit, self._config, self._uid = paths, kit, config, uid
        self._allowed = frozenset((uid,) if config.uids is None else config.uids)

    def place(self) -> tuple[Path | None, int, int | None]:
        """Where the socket is wanted, its mode and its group. Raises InvalidParams."""
        config = self._config
        if config.socket is not None:
            check_directory(config.socket.parent, "mcp.socket")
        if config.group is None:
            return config.socket, 0o600, None
        if isinstance(config.group, int):
            return config.socket, 0o660, config.group
        try:
            return config.socket, 0o660, grp.getgrnam(config.group).gr_gid
        except KeyError as error:
            raise InvalidParams(f"mcp.group: there is no group {config.group!a}") from error

    @property
    def out_of_reach(self) -> str:
        """Why a user of the list cannot come in; empty when nothing speaks against it."""
        others = sorted(self._allowed - {self._uid, 0})
        if not others or (self._config.socket is not None and self._config.group is not None):
            return ""
        return (
            f"mcp.uids names {', '.join(map(str, others))}, who cannot reach mcp.sock: that takes mcp.socket,"
            " a path they can get at, and mcp.group, a group they are in"
        )

    async def serve(
        self, channel: Channel, peer: Peer, first: Callable[[Channel], Awaitable[AnyFrame | None]]
    ) -> None:
        """One program until it leaves; what it asked for ends with it. Raises Unauthorized, InvalidParams."""
        if peer.uid not in self._allowed:
            raise Unauthorized(f"uid {peer.uid} is not in mcp.uids of config.toml")
        wanted = await first(channel)
        if wanted is None:
            return
        if not isinstance(wanted, Open):
            raise Unauthorized("tool calls go over this socket, and nothing else")
        service = await self._opened(channel, wanted)
        calls: set[asyncio.Task[None]] = set()
        try:
            while (frame := await channel.receive()) is not None:
                if not isinstance(frame, Call):
                    raise Unauthorized("tool calls go over this socket, and nothing else")
                if len(calls) >= _AT_ONCE:
                    busy = refusal(Busy(f"{_AT_ONCE} calls are being answered; wait for one of them"))
                    await channel.send(Called(frame.number, busy.body, True))
                    continue
                task = asyncio.create_task(self._answer(channel, service, frame, peer))
                calls.add(task)
                task.add_done_callback(calls.discard)
        finally:
            for task in (*calls,):
                task.cancel()
            await asyncio.gather(*calls, return_exceptions=True)

    async def _opened(self, channel: Channel, wanted: Open) -> ToolCallService:
        # Not with the module: most engines never see a program.
        from hive_advisor.cli.tool_sets import ROLES, own_prompts, rates, toolbox_of

        role = ROLES[wanted.role or self._config.role]
        sets = self._config.toolsets if wanted.toolsets is None else check_sets(wanted.toolsets)
        service = self._kit.tool_calls(
            toolbox_of(role.name, self._paths, self._kit, sets), rates(self._paths)
        )
        prompts, warnings = own_prompts(self._paths, role)
        await channel.send(
            Tools(
                role="operator" if role.name == "operator" else "advisor",
                tools={
                    name: ToolRow(tool.description, tool.acts, dict(tool.schema))
                    for name, tool in service.tools.items()
                },
                prompts={
                    name: PromptRow(prompt.description, prompt.text, [*prompt.arguments])
                    for name, prompt in prompts.items()
                },
                warnings=warnings,
            )
        )
        return service

    async def _answer(self, channel: Channel, service: ToolCallService, call: Call, peer: Peer) -> None:
        # The audit tells another user's program from one of ours, whatever it calls itself.
        client = call.client if peer.uid == self._uid else f"uid {peer.uid} {call.client}"
        said = await service.call(call.name, call.arguments, client)
        try:
            await channel.send(Called(call.number, said.body, said.failed))
        except InvalidParams as error:
            await channel.send(Called(call.number, refusal(error).body, True))
