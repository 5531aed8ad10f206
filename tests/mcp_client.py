"""A program that speaks MCP to ``hive-advisor mcp serve``: the official client over stdio."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hive_devnet.world import AdvisorShell
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client


@dataclass
class McpProgram:
    """A running server and the session of a program with it; ``errors`` is what the server wrote to
    stderr."""

    session: ClientSession
    errors: Path

    async def tools(self) -> dict[str, Any]:
        """Every tool by name."""
        return {tool.name: tool for tool in (await self.session.list_tools()).tools}

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """The answer's document; both of its forms have to say the same."""
        result = await self.session.call_tool(tool, arguments)
        (content,) = result.content
        body = json.loads(content.text)
        assert body == result.structured_content
        assert result.is_error is not body["ok"]
        return dict(body)

    async def refused(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """The error of a call that must fail, with what came from others beside it."""
        body = await self.call(tool, **arguments)
        assert body["ok"] is False, body
        return {**body["error"], "untrusted": body.get("untrusted", {})}


def config_dir(shell: AdvisorShell) -> Path:
    """Where the shell's profile keeps nodes.toml and mcp-allow.json."""
    directory = Path(shell.env["XDG_CONFIG_HOME"]) / "hive-advisor" / "default"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return directory


def allow(shell: AdvisorShell, text: str, mode: int = 0o600) -> None:
    """Write the operator's list as it is."""
    path = config_dir(shell) / "mcp-allow.json"
    path.write_text(text)
    path.chmod(mode)


@asynccontextmanager
async def mcp_program(shell: AdvisorShell, *options: str) -> AsyncIterator[McpProgram]:
    """Start a server with these options of ``mcp serve`` (without any: every set of tools) and connect."""
    given = options or ("--toolsets", "core,hive,archon")
    server = StdioServerParameters(
        command=sys.executable, args=["-m", "hive_advisor", "mcp", "serve", *given], env=shell.env
    )
    errors = shell.directory / "mcp-stderr.txt"
    with errors.open("w+") as log:
        async with stdio_client(server, errlog=log) as (read, write), ClientSession(read, write) as session:
            await session.initialize()
            yield McpProgram(session, errors)
