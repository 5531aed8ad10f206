"""A pipeline whose agent may close every channel, once people have signed it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from channel_node import ChannelNode, channel_world, everything
from cl_hive_comms.domain.policy_rules import Override
from hive_shared import crypto
from hive_shared.canonical import JsonValue
from hive_shared.envelope import approve_digest, command_digest
from msgspec.structs import replace
from pipeline_world import NOW, View, World
from wallet_world import APPROVER, ask

CHANNEL = "hive:channel/v1"
EMERGENCY = "hive:emergency/v1"
ALL = ((CHANNEL, "close_all"), (EMERGENCY, "force_close_all"))
REASON: Mapping[str, JsonValue] = {"reason": "the machine is sold"}


def closing_world(directory: Path, channels: int = 4, **overrides: Any) -> World:
    """Channels that may all be closed: named in the credential and by the operator, two people sign."""
    world = channel_world(directory)
    world.node = ChannelNode(channels)
    world.restart()
    world.credentials.add(View(everything(grants_critical=[f"{s}#{a}" for s, a in ALL]), "adv-1"))
    allow(world, **overrides)
    approver = crypto.xonly_pubkey(APPROVER)
    world.credentials.approvers.add(approver)
    return world


def allow(world: World, **overrides: Any) -> None:
    """The policy under which both actions wait for two signatures."""
    named = {"channel_close_all": "multi_sig_2_of_2", "emergency_force_close_all": "multi_sig_2_of_2"}
    settings = {
        "approvers": ["local", crypto.xonly_pubkey(APPROVER)],
        "approval_overrides": {"channel_*": "auto_execute", **named},
        **overrides,
    }
    world.policies.override("aggressive", **settings)
    raised = Override("raised", {"max_danger": 10}, NOW - 1, NOW + 7 * 86_400)
    world.policies.now = replace(world.policies.now, override=raised)


def node(world: World) -> ChannelNode:
    """The world's node."""
    assert isinstance(world.node, ChannelNode)
    return world.node


async def signed_once(world: World, schema: str, action: str) -> None:
    """Ask, and give the first of the two signatures."""
    command = world.envelope(schema, action, dict(REASON))
    answer = await world.handle(command)
    assert answer is not None and answer["status"] == 3, answer
    signature = crypto.schnorr_sign(APPROVER, approve_digest(command_digest(command).hex(), "approve"))
    name = crypto.xonly_pubkey(APPROVER)
    action_id = answer["error"]["data"]["action_id"]
    await world.pipeline.approvals.approve(action_id, approver=name, signature=signature)


async def signed_by_operator(world: World) -> None:
    """The second signature, which starts what waits."""
    for item in await pending(world):
        await world.pipeline.approvals.approve(str(item["action_id"]))


async def pending(world: World) -> list[Mapping[str, JsonValue]]:
    """What waits for a signature."""
    items = (await world.pipeline.approvals.pending())["items"]
    assert isinstance(items, list)
    return [item for item in items if isinstance(item, dict)]


async def close_all(world: World, action: str = "close_all", **params: JsonValue) -> dict[str, Any]:
    """Ask, let both people sign, and return the answer of what ran, or the refusal."""
    schema = next(schema for schema, name in ALL if name == action)
    answer: dict[str, Any] = await ask(world, schema, action, {**REASON, **params})
    return answer
