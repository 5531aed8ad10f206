"""An advisor's command on a node of a test network that is killed with kill -9, and what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from agent import Agent
from channel_world import plugin_again
from hive_devnet.world import World, until
from hive_shared.canonical import JsonValue


@asynccontextmanager
async def trusted_agent(world: World, approvals: Mapping[str, str]) -> AsyncIterator[Agent]:
    """An agent of highest trust whose actions of these names (approval_overrides) run by themselves."""
    async with Agent(world.alice, world.relay.url) as agent:
        issued = await world.alice.call(
            "hive-mgmt-credential-issue",
            {"agent_id": agent.npub, "tier": "admin", "allowed_schemas_json": ["*"], "trust": "2.0"},
        )
        agent.credential_id = str(issued["credential"]["credential_id"])
        overrides = {"approval_overrides": dict(approvals)}
        await world.alice.call("hive-client-policy", {"action": "set-preset", "preset": "aggressive"})
        await world.alice.call("hive-client-policy", {"action": "set", "overrides": overrides})
        yield agent


async def killed_at(
    world: World,
    agent: Agent,
    point: str,
    command: tuple[str, str],
    params: Mapping[str, JsonValue],
    while_down: Callable[[Path], None] | None = None,
    **fields: Any,
) -> str:
    """Send a command (schema, action) whose plugin is killed at a fault point; it is up again. The command's
    id. `fields` replace parts of its envelope; `while_down` gets the path of the plugin's database."""
    schema, action = command
    reached = world.arm_fault(point)
    document = agent.signed(action, dict(params), schema, **fields)
    sending = asyncio.create_task(agent.rest(document))

    async def there() -> bool:
        return reached.exists()

    await until(there, f"the plugin to reach {point}")
    await plugin_again(world, while_down)
    await asyncio.gather(sending, return_exceptions=True)
    return str(document["command_id"])


async def receipt_of(world: World, command_id: str) -> dict[str, Any]:
    """The receipt of a command, once it is written."""

    async def written() -> Any:
        items = (await world.alice.call("hive-client-receipts", {"limit": 200}))["items"]
        return next((item for item in items if item.get("command_id") == command_id), None)

    return dict(await until(written, "the receipt", 90))
