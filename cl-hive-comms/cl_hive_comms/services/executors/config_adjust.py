"""config `adjust`: one parameter of the fee and rebalance engines, isolated from its group
(docs/protocol/02-fleet-management.md §4 item 12, §5.4; docs/decisions/0425).

Nothing in this plugin reads these parameters. They belong to cl-revenue-ops (`revenue-config`), or to
whatever plugin offers a dynamic option of the name; a parameter that neither has is refused, since setting it
would change nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import msgspec
from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError
from hive_shared.errors import HiveError, from_symbol
from hive_shared.registry import ADJUST_GROUP, ADJUST_LOWER_OF, CONFIG
from hive_shared.store import Tx

from ...domain.command_machine import State
from ...domain.config_history import (
    DAY_S,
    QUIET_ISOLATION_S,
    QUIET_REVENUE_MSAT,
    ChangeRow,
    ConfigChange,
    isolated_by,
)
from ...domain.node_option import same, text_of, to_doc, value_of
from ..ports_commands import CommandRows, Database, Node
from .action import Caller, Params, Plan
from .config import LOCK, Change, Setting, option_row, set_option
from .fee_schedule import SCHEDULE
from .monitor import limit_of
from .monitor_history import History
from .pages import page_of_list
from .rebalance_rules import RULES

TOOL: Final = "revenue-config"
"""The call of cl-revenue-ops that reads and sets its parameters."""
_NO_CALL: Final = -32601
_REFUSED: Final = -32602
_NOTHING: Final = "neither cl-revenue-ops (revenue-config) nor a dynamic option of this node has it"


class ConfigRows(Protocol):
    """What was changed (storage.config_store.ConfigStore, where the methods are described)."""

    def add(self, tx: Tx, changes: tuple[ConfigChange, ...], command_id: str, at: int) -> None: ...
    def of_group(self, tx: Tx, group: str, since: int) -> tuple[ChangeRow, ...]: ...
    def last(self, tx: Tx) -> dict[str, ChangeRow]: ...
    def prune(self, tx: Tx, before: int) -> int: ...


class Found(msgspec.Struct, frozen=True):
    """Where a parameter lives and what it is now; `option` names the node's option, "" in the tool."""

    value: JsonValue
    option: str = ""


class Parameters:
    """The parameters that something on this node reads. `offers` says whether the node has a call."""

    def __init__(self, node: Node, offers: Callable[[str], bool]) -> None:
        self._node, self._offers = node, offers
        self._known: frozenset[str] | None = None

    async def probe(self) -> None:
        """Look which there are; at start and whenever a plugin starts or stops."""
        self._known = None
        try:
            options = (await self._node.listconfigs()).get("configs", {})
            tool = await self._ask(action="list-mutable") or {}
        except ClnError:
            # Unknown: each is looked for when it is asked for.
            return
        dynamic = {name for name, row in options.items() if row.get("dynamic") is True}
        mutable = tool.get("mutable_keys", ())
        self._known = frozenset(
            name for name in ADJUST_GROUP if name in mutable or not dynamic.isdisjoint(_spellings(name))
        )

    def missing(self) -> list[dict[str, JsonValue]]:
        """Rows of `unsupported_actions`: `parameters` names those that are missing, absent when all are."""
        if self._known is None:
            return []
        absent: list[JsonValue] = [name for name in ADJUST_GROUP if name not in self._known]
        row: dict[str, JsonValue] = {"schema": CONFIG, "action": "adjust", "reason": _NOTHING}
        if not absent:
            return []
        return [row if len(absent) == len(ADJUST_GROUP) else {**row, "parameters": absent}]

    async def find(self, name: str) -> Found | None:
        """Where a parameter lives; None when nothing has it. Raises ClnError."""
        value = (await self._ask(action="get", key=name) or {}).get("value")
        if value is not None:
            return Found(value)
        for option in _spellings(name):
            try:
                row = await option_row(self._node, option, "parameter")
            except HiveError:
                continue
            if row.get("dynamic") is True:
                return Found(value_of(row), option)
        return None

    async def values(self) -> dict[str, JsonValue]:
        """The parameters that the tool has, with their values. Raises ClnError."""
        shown = (await self._ask(action="get") or {}).get("config", {})
        return {name: shown[name] for name in ADJUST_GROUP if name in shown}

    async def set(self, name: str, value: JsonValue, option: str) -> JsonValue:
        """Set a parameter where it lives, once; what the answer says it is now. Raises ClnError."""
        if option:
            return await set_option(self._node, option, value)
        answer = await self._node.call(TOOL, {"action": "set", "key": name, "value": text_of(value)})
        if "error" in answer:
            raise ClnError(TOOL, _REFUSED, str(answer["error"]))
        told: JsonValue = answer.get("new_value")
        return told

    async def _ask(self, **asked: str) -> Mapping[str, Any] | None:
        if not self._offers(TOOL):
            return None
        try:
            answer = await self._node.call(TOOL, asked)
        except ClnError as error:
            if error.code == _NO_CALL:
                return None
            raise
        # The tool answers instead of failing.
        return None if "error" in answer else answer


def _spellings(name: str) -> tuple[str, str]:
    """How an option of that name may be written."""
    return name, name.replace("_", "-")


class Adjust(Setting):
    """`adjust`: one parameter, where nothing else of its group was changed within the day."""

    def __init__(
        self,
        node: Node,
        parameters: Parameters,
        db: Database,
        history: ConfigRows,
        commands: CommandRows,
    ) -> None:
        super().__init__(node)
        self._parameters, self._db, self._history, self._commands = parameters, db, history, commands
        self._forwards = History(node)

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Find the parameter. Raises Unsupported when nothing has it, InvalidParams for a value that does
        not fit its counterpart, ClnError."""
        name, wanted = str(params["parameter"]), params["value"]
        found = await self._parameters.find(name)
        if found is None:
            raise from_symbol(
                "unsupported_action", f"{name} cannot be adjusted here: {_NOTHING}", parameter=name
            )
        await self._check_order(name, wanted)
        group = ADJUST_GROUP[name]
        change: dict[str, JsonValue] = {"parameter": name, "group": group, "now": found.value}
        change |= {"proposed": wanted, "reason": params["trigger_reason"]}
        if found.option:
            change["option"] = found.option
        return Plan(
            undo={"options": [] if same(found.value, wanted) else [change], "static": False},
            basis=[name, found.value],
            locks=frozenset({LOCK}),
            option=found.option,
            held_back=await self._isolation(name, group, caller),
        )

    async def set(self, undo: Mapping[str, JsonValue], change: Change) -> JsonValue:
        """`revenue-config action=set`, or `setconfig` of the option."""
        name, option = str(change["parameter"]), str(change.get("option", ""))
        return await self._parameters.set(name, change["proposed"], option)

    async def present(self, undo: Mapping[str, JsonValue], change: Change) -> JsonValue:
        """The value where the parameter lives now."""
        found = await self._parameters.find(str(change["parameter"]))
        if found is None:
            raise from_symbol("unsupported_action", _NOTHING)
        return found.value

    async def _check_order(self, name: str, wanted: JsonValue) -> None:
        for lower, upper in ADJUST_LOWER_OF.items():
            if name not in (lower, upper):
                continue
            other = upper if name == lower else lower
            found = await self._parameters.find(other)
            bound = None if found is None else found.value
            if not isinstance(bound, int | float) or not isinstance(wanted, int | float):
                return
            if (wanted > bound) if name == lower else (wanted < bound):
                side = "above" if name == lower else "below"
                raise from_symbol(
                    "invalid_params",
                    f"{name} {wanted} would be {side} {other}, which is {bound}",
                    param="value",
                    expected=f"at most {bound}" if name == lower else f"at least {bound}",
                )

    async def _isolation(self, name: str, group: str, caller: Caller) -> HiveError | None:
        """Why the parameter has to wait, None when it need not."""
        if not group:
            return None
        rows, open_ = await self._db.read(lambda tx: self._of_group(tx, group, caller))
        if open_:
            return from_symbol(
                "busy", f"an earlier change of group {group} is not resolved yet; try again in a minute"
            )
        by = isolated_by(rows, name, group, caller.now, DAY_S)
        if by is None:
            return None
        window = QUIET_ISOLATION_S if await self._quiet(caller.now) else DAY_S
        left = by.at + window - caller.now
        if left <= 0:
            return None
        return from_symbol(
            "cooldown",
            f"{by.change.parameter} of group {group} was changed {caller.now - by.at} s ago; what one change"
            f" does shows only while nothing else of the group moves, so try again in {left} s",
            retry_after=left,
        )

    def _of_group(self, tx: Tx, group: str, caller: Caller) -> tuple[tuple[ChangeRow, ...], bool]:
        """Changes of the group within a day, and whether one of it was cut off and is not looked into yet."""
        cut_off = False
        for row in self._commands.in_states(tx, (State.EXECUTING,)):
            if (row.schema_id, row.action) == (CONFIG, "adjust") and row.command_id != caller.command_id:
                options = json.loads(row.undo_json or "{}").get("options", [])
                cut_off = cut_off or any(each.get("group") == group for each in options)
        return self._history.of_group(tx, group, caller.now - DAY_S), cut_off

    async def _quiet(self, now: int) -> bool:
        """Whether the node is known to have earned next to nothing in the last 24 hours."""
        try:
            totals = await self._forwards.forward_totals(now - DAY_S, now)
        except ClnError:
            return False
        fees = totals["fees_msat"]
        return totals["complete"] is True and isinstance(fees, int) and fees < QUIET_REVENUE_MSAT


class GetConfig:
    """`get_config`: one option or all, and what the fee tool has of the parameters of `adjust`; secrets,
    logins and paths left out."""

    def __init__(
        self,
        node: Node,
        parameters: Parameters,
        db: Database,
        history: ConfigRows,
        commands: CommandRows,
    ) -> None:
        self._node, self._parameters, self._db, self._history = node, parameters, db, history
        self._commands = commands

    async def read(self, params: Params, caller: Caller) -> dict[str, JsonValue]:
        """A page of options. Raises InvalidParams for one the node does not know."""
        key = str(params.get("key") or "")
        ruled = key in (SCHEDULE, RULES)
        items = [await self._rules(key, caller)] if ruled else await self._items(key)
        changed = await self._db.read(self._history.last)
        for item in items:
            if row := changed.get(str(item["option"])):
                item["changed"] = _changed_doc(row)
        listed = sorted(items, key=lambda item: str(item["option"]))
        return page_of_list(listed, limit_of(params), params.get("cursor"))

    async def _rules(self, kind: str, caller: Caller) -> dict[str, JsonValue]:
        """The rules that the caller's credential has set."""
        timers = await self._db.read(lambda tx: self._commands.timers(tx, kind))
        mine = (json.loads(row.payload_json) for row in timers if row.subject == caller.credential_id)
        rules: JsonValue = next((payload["rules"] for payload in mine), [])
        return {"option": kind, "value": rules, "source": "rules", "dynamic": True}

    async def _items(self, key: str) -> list[dict[str, JsonValue]]:
        if key in ADJUST_GROUP and (found := await self._parameters.find(key)) is not None:
            return [_parameter_doc(key, found)]
        if key:
            return [to_doc(key, await option_row(self._node, key, "key"))]
        rows = (await self._node.listconfigs()).get("configs", {})
        items = [to_doc(name, row) for name, row in rows.items()]
        tool = await self._parameters.values()
        return items + [_parameter_doc(name, Found(value)) for name, value in tool.items()]


def _parameter_doc(name: str, found: Found) -> dict[str, JsonValue]:
    source = found.option or TOOL
    doc: dict[str, JsonValue] = {"option": name, "value": found.value, "source": source, "dynamic": True}
    return {**doc, "group": ADJUST_GROUP[name]} if ADJUST_GROUP[name] else doc


def _changed_doc(row: ChangeRow) -> dict[str, JsonValue]:
    """A change for an agent; whose command it was stays in the receipts."""
    change = row.change
    doc: dict[str, JsonValue] = {"at": row.at, "old": change.old, "new": change.new}
    return {**doc, "reason": change.reason} if change.reason else doc
