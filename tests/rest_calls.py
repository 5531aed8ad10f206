"""Calls of a node's clnrest as any HTTP client makes them, and the runes that advisors were offered."""

from __future__ import annotations

import json
import ssl
from typing import Any

import httpx
from agent import Agent
from hive_devnet.world import World, until


async def send(
    world: World,
    path: str,
    *,
    rune: str | None = None,
    content: bytes | None = None,
    method: str = "POST",
    headers: dict[str, str] | None = None,
) -> httpx.Response:
    """One request with these bytes."""
    context = ssl.create_default_context(cafile=str(world.rest_ca))
    fields = {"Content-Type": "application/json", **(headers or {})}
    if rune is not None:
        fields["Rune"] = rune
    async with httpx.AsyncClient(verify=context, timeout=60) as client:
        return await client.request(method, f"{world.rest_url}{path}", headers=fields, content=content)


async def post(world: World, method: str, rune: str | None, body: dict[str, Any]) -> httpx.Response:
    """One call of a method."""
    return await send(world, f"/v1/{method}", rune=rune, content=json.dumps(body).encode())


async def post_in_turn(world: World, path: str, rune: str, body: dict[str, Any]) -> httpx.Response:
    """One call as soon as the rune, good for one use a second, allows it."""

    async def answered() -> httpx.Response | None:
        response = await send(world, path, rune=rune, content=json.dumps(body).encode())
        return None if "too soon" in response.text else response

    found: httpx.Response = await until(answered, "the rune's next use")
    return found


async def rune_of(agent: Agent) -> dict[str, Any]:
    """The rest part of the newest credential offer that came by direct message."""

    async def offered() -> dict[str, Any] | None:
        for document in reversed(agent.inbox):
            payload = document.get("schema_payload", {})
            if payload.get("action") == "credential_offer" and "rest" in payload["params"]:
                rest: dict[str, Any] = payload["params"]["rest"]
                return rest
        return None

    found: dict[str, Any] = await until(offered, "the credential offer")
    return found
