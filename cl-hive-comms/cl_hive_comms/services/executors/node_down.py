"""Taking the whole node down: `stop_node` of hive:emergency/v1 and `restart_node` of hive:config/v1
(docs/protocol/02-fleet-management.md §4 items 12 and 14; docs/decisions/0422).

The plugin goes down with the node, so the command is on record and answered before the node is told anything.
That the node went down shows when it is up again: it began another log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError
from hive_shared.errors import HiveError, from_symbol

from ...domain.json_value import whole
from ...domain.plugin_rules import not_startable
from ..ports_commands import Node
from .action import Caller, Outcome, Params, Plan
from .node_errors import node_error

ANSWER_OUT_S: Final = 2.0
"""How long the answer has to leave, over a relay or back through the node. It is kept in any case."""
SETTLED_S: Final = 120
"""A node that has not gone down so long after its time for payments was not stopped."""
_STOP_S: Final = 60.0
_MORE_S: Final = 30


async def node_start(node: Node) -> str:
    """What tells one run of the node from another: when it began its log. Raises ClnError."""
    return str((await node.call("getlog", {"level": "broken"}))["created_at"])


class StopNode:
    """`stop_node`: the node ends its payments as far as it gets in the time given, and stops."""

    def __init__(self, node: Node, engaged: Callable[[], bool], offers: Callable[[str], bool]) -> None:
        self._node, self._engaged, self._offers = node, engaged, offers
        self._under_way: set[str] = set()
        self._refused: dict[str, HiveError] = {}

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Note which run of the node is meant: an approval is for no other. Raises ClnError."""
        started = await node_start(self._node)
        undo: dict[str, JsonValue] = {
            "node_start": started,
            "graceful_s": whole(params["graceful_timeout_s"]) * self._offers("graceful"),
            "started": caller.now,
        }
        return Plan(undo=undo, basis=[started], locks=frozenset({"node"}))

    async def run(self, plan: Plan, caller: Caller) -> Outcome:
        """Nothing is called yet: the node is told once this outcome is on disk."""
        self._under_way.add(caller.command_id)
        result: dict[str, JsonValue] = {
            "node_state": "going_down",
            "graceful_timeout_s": plan.undo["graceful_s"],
        }
        return Outcome(
            "pending_external", result, recorded=True, then=partial(self._go_down, plan.undo, caller)
        )

    async def _go_down(self, undo: Mapping[str, JsonValue], caller: Caller) -> None:
        try:
            await asyncio.sleep(ANSWER_OUT_S)
            if whole(undo["graceful_s"]) and not self._engaged():
                await self._graceful(whole(undo["graceful_s"]))
            if self._engaged():
                self._refused[caller.command_id] = from_symbol(
                    "emergency_stop", f"the emergency stop was engaged before the node stopped{_grace(undo)}"
                )
                return
            await self._node.call("stop", timeout=_STOP_S)
        except ClnError as error:
            if not error.outcome_unknown:
                self._refused[caller.command_id] = node_error(error)
        finally:
            self._under_way.discard(caller.command_id)

    async def _graceful(self, seconds: int) -> None:
        try:
            await self._node.call("graceful", {"timeout": seconds}, timeout=seconds + _MORE_S)
        except ClnError:
            # Payments that are not over are taken up after the start, as after any stop.
            return

    async def probe(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome | None:
        """Whether the node is in another run than it was."""
        try:
            started = await node_start(self._node)
        except ClnError:
            return None
        if started != undo["node_start"]:
            self._refused.pop(caller.command_id, None)
            since = started.partition(".")[0]
            return Outcome(
                "success",
                {"node_state": "up_again", "up_since": int(since) if since.isdecimal() else None},
            )
        refused = self._refused.get(caller.command_id)
        waits = caller.now < whole(undo["started"]) + whole(undo["graceful_s"]) + SETTLED_S
        if refused is None and (caller.command_id in self._under_way or waits):
            return Outcome("pending_external", {"node_state": "going_down"})
        self._refused.pop(caller.command_id, None)
        why = f"the plugin stopped before the node was told to{_grace(undo)}"
        stopped = from_symbol("shutting_down", why)
        return Outcome("error", {"node_state": "up"}, refused or stopped, acted=bool(undo["graceful_s"]))


class RestartNode(StopNode):
    """`restart_node`: the same where a supervisor starts the node again, if it would start."""

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """As `stop_node`. Raises Unsupported when the configuration holds options that would keep the node
        from starting."""
        names = not_startable((await self._node.listconfigs()).get("configs", {}))
        if names:
            raise from_symbol(
                "unsupported_action",
                f"the node would not start again: {', '.join(names[:5])} stand in its configuration, which"
                " does not start the plugin they belong to; the operator has to take them out of it",
            )
        return await super().prepare(params, caller)


NOT_SUPERVISED: Final = (
    "nothing would start the node again: its operator has not set hive-comms-supervised, which says that a"
    " supervisor does"
)


def _grace(undo: Mapping[str, JsonValue]) -> str:
    """What a node that was prepared for its stop and goes on running needs."""
    if not undo["graceful_s"]:
        return ""
    return "; it may have begun to let its peers go (graceful), which only a restart ends"
