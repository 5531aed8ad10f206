"""Starting a plugin that the operator approved, and stopping one: `start_approved` and `stop` of
hive:plugin/v1 (docs/protocol/02-fleet-management.md §4 item 11; docs/decisions/0421).

What came of it is what `plugin list` shows. A start may take the node two minutes, a stop half a minute.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from hive_shared.alerts import Level
from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError
from hive_shared.errors import HiveError, from_symbol

from ...domain.json_value import whole
from ...domain.plugin_rules import base_name, named, untouchable
from ..approved_file import ApprovedFile, FileRefused, look_at
from ..ports_commands import Node
from .action import Caller, Outcome, Params, Plan, WriteAction
from .long_call import LongCalls
from .node_errors import node_error

ANSWER_S: Final = 20.0
"""How long a command waits for the node's answer before it counts as left to the node."""
START_S: Final = 130
"""The node gives a plugin 120 s from its start to the answer to `init`."""
STOP_S: Final = 45
"""The node gives a plugin 30 s to end by itself."""
_MOVES: Final = frozenset({"plugins", "config"})
_LOCK: Final = frozenset({"plugins"})
# How CLN ends the sentence of a start that failed, and what an agent is told of it.
_FAILED: Final = (
    ("not a dynamic plugin", "requires_restart", "it can only be started together with the node"),
    ("timed out before replying to init", "node_error", "it did not answer init in time and was killed"),
    ("timed out", "node_error", "it did not answer the node in time and was killed"),
    ("disabled itself", "node_error", "it disabled itself"),
    ("exited before", "node_error", "it ended while it was being started"),
)

Approved = Callable[[], Mapping[str, str]]
"""The operator's `approved_plugins` as they are now: SHA-256 by path."""


class StartApproved:
    """`start_approved`: a plugin that the operator listed with its path and hash, and that is still that."""

    def __init__(self, node: Node, calls: LongCalls, engaged: Callable[[], bool], approved: Approved) -> None:
        self._node, self._calls, self._engaged, self._approved = node, calls, engaged, approved

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Find the one listed path of that name and hash its file. Raises PolicyBlocked when it is not
        listed, not the approved file, or not safe from others; InvalidParams when another plugin of that
        name runs; ClnError."""
        name = str(params["plugin_name"])
        listed = [path for path in self._approved() if base_name(path) == name]
        if len(listed) != 1:
            why = "is not on the operator's list" if not listed else "stands on the operator's list twice"
            raise _blocked(f"plugin {name} {why}")
        found = await self._looked_at(name, listed[0])
        rows = await self._node.plugin_list()
        runs = any(row["name"] == found.path for row in rows)
        if not runs and (named(rows, name) or named(rows, base_name(found.path))):
            raise from_symbol(
                "invalid_params",
                f"another plugin with the name {name} runs already",
                param="plugin_name",
                expected="a plugin that does not run",
            )
        undo: dict[str, JsonValue] = {
            "plugin": name,
            "listed": listed[0],
            "path": found.path,
            "sha256": found.sha256,
            "already": runs,
            "started": caller.now,
        }
        return Plan(undo=undo, basis=[found.path, found.sha256], locks=_LOCK, moves=_MOVES)

    async def run(self, plan: Plan, caller: Caller) -> Outcome:
        """Hash it again, `plugin start` once, hash it once more; `plugin list` decides."""
        undo = plan.undo
        if undo["already"]:
            return Outcome(
                "success", {"plugin": undo["plugin"], "plugin_state": "already_running"}, acted=False
            )
        try:
            await self._looked_at(str(undo["plugin"]), str(undo["listed"]), str(undo["path"]))
        except HiveError as error:
            return Outcome("error", _told(undo, "not_running"), error, acted=False)
        if self._engaged():
            return _stopped_by_operator(undo, "not_running")
        answered = False
        refused: ClnError | None = None
        try:
            call = self._node.plugin_start(str(undo["path"]), timeout=START_S)
            answered = await self._calls.result(caller.command_id, call, wait_s=ANSWER_S) is not None
        except ClnError as error:
            refused = error
        outcome = await self._seen(undo, caller, refused, answered=answered)
        if outcome is None:
            return _unread(undo)
        if outcome.state == "success" and (changed := await self._changed(undo)) is not None:
            return await self._taken_back(undo, changed)
        return outcome

    async def probe(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome | None:
        """Whether it runs, and its file is the approved one still."""
        outcome = await self._seen(undo, caller, self._calls.refusal(caller.command_id))
        if outcome is None or outcome.state == "pending_external":
            return outcome
        self._calls.forget(caller.command_id)
        if outcome.state == "success" and await self._changed(undo) is not None:
            unclear = from_symbol(
                "indeterminate",
                "the plugin runs, but its file is not the approved one any more; stop it and look",
            )
            return Outcome("indeterminate", _told(undo, "running"), unclear)
        return outcome

    async def _looked_at(self, name: str, listed: str, path: str = "") -> ApprovedFile:
        """The file behind a listed path. Raises PolicyBlocked when it is not what was approved, or, with
        `path`, not where it was."""
        try:
            found = await asyncio.to_thread(look_at, listed)
        except FileRefused as error:
            raise _blocked(f"plugin {name} is not started: {error}") from error
        if found.sha256 != self._approved().get(listed) or path not in ("", found.path):
            raise _blocked(
                f"the file of plugin {name} is not the one that the operator approved;"
                " it has to be approved again"
            )
        return found

    async def _changed(self, undo: Mapping[str, JsonValue]) -> str | None:
        """Why what was started may not be what was approved."""
        try:
            found = await asyncio.to_thread(look_at, str(undo["path"]))
        except FileRefused as error:
            return str(error)
        return None if found.sha256 == undo["sha256"] else "its file was changed meanwhile"

    async def _taken_back(self, undo: Mapping[str, JsonValue], why: str) -> Outcome:
        """Stop what should not have been started."""
        try:
            await self._node.call("plugin", _stop(undo["path"]), timeout=STOP_S)
            gone = not _runs(await self._node.plugin_list(), undo)
        except ClnError:
            gone = False
        if not gone:
            unclear = from_symbol("indeterminate", f"the plugin was started and {why}; stop it and look")
            return Outcome("indeterminate", _told(undo, "running"), unclear)
        taken_back = _blocked(f"the plugin was started, {why}, and it was stopped again")
        return Outcome("error", _told(undo, "stopped"), taken_back, alert=Level.CRITICAL)

    async def _seen(
        self,
        undo: Mapping[str, JsonValue],
        caller: Caller,
        refused: ClnError | None,
        *,
        answered: bool = False,
    ) -> Outcome | None:
        try:
            rows = await self._node.plugin_list()
        except ClnError:
            return None
        active = [row["active"] is True for row in rows if row["name"] == undo["path"]]
        if any(active):
            return Outcome("success", _told(undo, "running"))
        if active or _waits(self._calls, caller, refused, answered, whole(undo["started"]) + START_S):
            return Outcome("pending_external", _told(undo, "starting"))
        error = from_symbol("shutting_down", "the plugin does not run: it was not started, or ended at once")
        if refused is not None:
            error = _why_not(refused)
        return Outcome("error", _told(undo, "not_running"), error, acted=False)


class StopPlugin:
    """`stop`: a plugin that is neither the node's, nor ours, nor protected."""

    def __init__(self, node: Node, calls: LongCalls, engaged: Callable[[], bool]) -> None:
        self._node, self._calls, self._engaged = node, calls, engaged

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Find it and judge what it is. Raises InvalidParams when none of that name runs, or two do;
        PolicyBlocked, Unsupported (requires_restart) when it has to be left alone; ClnError."""
        name = str(params["plugin_name"])
        rows = await self._node.plugin_list()
        found = named(rows, name)
        if len(found) != 1:
            raise from_symbol(
                "invalid_params",
                f"{'no plugin' if not found else 'more than one plugin'} with the name {name} runs;"
                " hive:plugin/v1 list shows them",
                param="plugin_name",
                expected="the name of one plugin that runs",
            )
        configs = (await self._node.listconfigs()).get("configs", {})
        version = str((await self._node.getinfo()).get("version"))
        why = untouchable(found[0], rows, configs, version)
        if why is not None:
            more = {"rule": why.rule} if why.rule else {}
            raise from_symbol(why.symbol, why.sentence, **more)
        path = str(found[0]["name"])
        undo: dict[str, JsonValue] = {"plugin": name, "path": path, "started": caller.now}
        return Plan(undo=undo, basis=[path], locks=_LOCK, moves=_MOVES)

    async def run(self, plan: Plan, caller: Caller) -> Outcome:
        """`plugin stop` once; `plugin list` decides."""
        undo = plan.undo
        if self._engaged():
            return _stopped_by_operator(undo, "running")
        answered = False
        refused: ClnError | None = None
        try:
            call = self._node.call("plugin", _stop(undo["path"]), timeout=STOP_S)
            answered = await self._calls.result(caller.command_id, call, wait_s=ANSWER_S) is not None
        except ClnError as error:
            refused = error
        return await self._seen(undo, caller, refused, answered=answered) or _unread(undo)

    async def probe(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome | None:
        """Whether it runs still."""
        outcome = await self._seen(undo, caller, self._calls.refusal(caller.command_id))
        if outcome is not None and outcome.state != "pending_external":
            self._calls.forget(caller.command_id)
        return outcome

    async def _seen(
        self,
        undo: Mapping[str, JsonValue],
        caller: Caller,
        refused: ClnError | None,
        *,
        answered: bool = False,
    ) -> Outcome | None:
        try:
            rows = await self._node.plugin_list()
        except ClnError:
            return None
        if not _runs(rows, undo):
            return Outcome("success", _told(undo, "stopped"))
        if _waits(self._calls, caller, refused, answered, whole(undo["started"]) + STOP_S):
            return Outcome("pending_external", _told(undo, "stopping"))
        error = from_symbol("shutting_down", "the plugin runs: the node was not told to stop it")
        return Outcome(
            "error", _told(undo, "running"), node_error(refused) if refused else error, acted=False
        )


def _waits(calls: LongCalls, caller: Caller, refused: ClnError | None, answered: bool, until: int) -> bool:
    """Whether the node may still act on what it was told."""
    if calls.running(caller.command_id):
        return True
    unknown = not answered and (refused is None or refused.outcome_unknown)
    return unknown and caller.now < until


def _stop(path: JsonValue) -> dict[str, object]:
    return {"subcommand": "stop", "plugin": path}


def _runs(rows: list[dict[str, Any]], undo: Mapping[str, JsonValue]) -> bool:
    return any(row["name"] == undo["path"] for row in rows)


def _told(undo: Mapping[str, JsonValue], state: str) -> dict[str, JsonValue]:
    told: dict[str, JsonValue] = {"plugin": undo["plugin"], "plugin_state": state}
    return told | ({"sha256": undo["sha256"]} if "sha256" in undo else {})


def _why_not(refused: ClnError) -> HiveError:
    said = refused.message.casefold()
    for words, symbol, sentence in _FAILED:
        if words in said:
            data: dict[str, JsonValue] = {"rpc": "plugin", "code": refused.code}
            return from_symbol(symbol, f"the plugin does not run: {sentence}", **data)
    return node_error(refused)


def _unread(undo: Mapping[str, JsonValue]) -> Outcome:
    lost = from_symbol("indeterminate", "the plugins could not be listed afterwards; check them")
    return Outcome("indeterminate", _told(undo, "unknown"), lost)


def _stopped_by_operator(undo: Mapping[str, JsonValue], state: str) -> Outcome:
    text = "the emergency stop was engaged before the node was told; nothing was started or stopped"
    return Outcome("error", _told(undo, state), from_symbol("emergency_stop", text), acted=False)


def _blocked(sentence: str) -> HiveError:
    return from_symbol("policy_blocked", sentence, rule="approved_plugins")


def plugin_writes(
    node: Node, calls: LongCalls, engaged: Callable[[], bool], approved: Approved
) -> dict[str, WriteAction]:
    """The writes of hive:plugin/v1 about plugins themselves, by action."""
    return {
        "start_approved": StartApproved(node, calls, engaged, approved),
        "stop": StopPlugin(node, calls, engaged),
    }
