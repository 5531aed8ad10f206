"""hive:config/v1: reading the node's options, setting dynamic ones
(docs/protocol/02-fleet-management.md §4 item 12)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Final

from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError
from hive_shared.errors import HiveError, from_symbol
from msgspec.structs import replace

from ...domain.config_history import ConfigChange
from ...domain.node_option import is_secret, same, shown, text_of, value_of
from ...domain.plugin_rules import starts_with_node
from ..ports_commands import Node
from .action import Caller, Outcome, Params, Plan, WriteAction
from .node_errors import node_error
from .proposal import SetAlias, SetDustLimit, SetNetworkAddress, SetTor, proposed

LOCK: Final = "config"
"""The lock of whoever sets an option (02 §7.1: one writer)."""
_UNKNOWN: Final = -32602

Change = Mapping[str, JsonValue]
"""A value that shall be changed, as the undo row has it."""


async def option_row(node: Node, name: str, param: str) -> Mapping[str, Any]:
    """What `listconfigs` shows of an option, nothing for one that is known and not set.

    Raises InvalidParams for an option the node does not know, else ClnError.
    """
    try:
        configs = (await node.listconfigs(name)).get("configs", {})
    except ClnError as error:
        if error.code != _UNKNOWN:
            raise
        raise from_symbol(
            "invalid_params",
            f"{param} {name[:100]!a} is no option of this node; get_config lists them",
            param=param,
            expected="an option of this node",
        ) from error
    row: Mapping[str, Any] = configs.get(name, {})
    return row


class Setting(ABC):
    """Sets one value of the node or of a plugin by one call, and reads it again.

    The undo row holds the change in `options`: {option or parameter, now, proposed}; it is empty when the
    value stands already.
    """

    def __init__(self, node: Node) -> None:
        self._node = node

    @abstractmethod
    async def set(self, undo: Mapping[str, JsonValue], change: Change) -> JsonValue:
        """Ask for the new value; what the answer says it is. Raises ClnError."""

    @abstractmethod
    async def present(self, undo: Mapping[str, JsonValue], change: Change) -> JsonValue:
        """The value now. Raises ClnError, HiveError."""

    async def run(self, plan: Plan, caller: Caller) -> Outcome:
        """The call, once; then what is shown decides."""
        change = _change(plan.undo)
        if change is None or plan.undo["static"]:
            return proposed(plan.undo)
        answered: JsonValue = None
        refused: ClnError | None = None
        try:
            answered = await self.set(plan.undo, change)
        except ClnError as error:
            refused = error
        try:
            present = await self.present(plan.undo, change)
        except (ClnError, HiveError):
            lost = from_symbol(
                "indeterminate", "the option could not be read again; whether it is set is unknown"
            )
            return Outcome("indeterminate", {}, lost, config_changes=(_row(change, change["proposed"]),))
        if refused is not None and refused.outcome_unknown and not same(present, change["proposed"]):
            # The call may still act after we looked.
            lost = from_symbol("indeterminate", "the node did not answer; the option may still change")
            result = _result(change, present, "unknown")
            return Outcome("indeterminate", result, lost, config_changes=(_row(change, change["proposed"]),))
        if refused is not None:
            why = node_error(refused)
        else:
            why = from_symbol(
                "node_error", "the node shows another value than was set", rpc="setconfig", code=0
            )
        return _compared(change, present, answered, why)

    async def probe(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome | None:
        """Compare the value with what it was and what it should be."""
        change = _change(undo)
        if change is None or undo["static"]:
            return proposed(undo)
        try:
            present = await self.present(undo, change)
        except (ClnError, HiveError):
            return None
        return _compared(change, present, None, _stopped())


async def set_option(node: Node, name: str, value: JsonValue, *, transient: bool = False) -> JsonValue:
    """`setconfig`, once; the value it answers with. Raises ClnError."""
    asked: dict[str, object] = {"config": name, "val": value}
    if transient:
        asked["transient"] = True
    return value_of((await node.call("setconfig", asked)).get("config", {}))


class _SetOption(Setting):
    """Sets one dynamic option of the node."""

    @abstractmethod
    def _wanted(self, params: Params) -> tuple[str, str, JsonValue]:
        """Option, the parameter that names it, and the value it shall have."""

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Read the option; a static one becomes a proposal. Raises InvalidParams, ClnError."""
        name, param, wanted = self._wanted(params)
        row = await option_row(self._node, name, param)
        present = value_of(row)
        static = row.get("dynamic") is not True
        change: dict[str, JsonValue] = {"option": name, "now": present, "proposed": wanted}
        undo: dict[str, JsonValue] = {"options": [] if same(present, wanted) else [change]}
        undo["transient"] = params.get("transient") is True
        undo["static"] = static
        return Plan(undo=undo, basis=[name, present], proposal=static, locks=frozenset({LOCK}))

    async def set(self, undo: Mapping[str, JsonValue], change: Change) -> JsonValue:
        """`setconfig`."""
        return await set_option(
            self._node, str(change["option"]), change["proposed"], transient=undo["transient"] is True
        )

    async def present(self, undo: Mapping[str, JsonValue], change: Change) -> JsonValue:
        """As `listconfigs` shows it."""
        return value_of(await option_row(self._node, str(change["option"]), "key"))


def _change(undo: Mapping[str, JsonValue]) -> Change | None:
    options = undo["options"]
    assert isinstance(options, list)
    return options[0] if options and isinstance(options[0], dict) else None


def _stopped() -> HiveError:
    return from_symbol("shutting_down", "the plugin stopped before this change was made; nothing was changed")


def _result(change: Change, present: JsonValue, state: str) -> dict[str, JsonValue]:
    named = {name: change[name] for name in ("parameter", "group", "option") if name in change}
    return {**named, "old": shown(change["now"]), "new": shown(present), "state": state}


def _row(change: Change, new: JsonValue) -> ConfigChange:
    name = change.get("parameter", change.get("option"))
    old, after = (text_of(shown(value)) for value in (change["now"], new))
    return ConfigChange(str(name), str(change.get("group", "")), old, after, str(change.get("reason", "")))


def _compared(change: Change, present: JsonValue, answered: JsonValue, why: HiveError) -> Outcome:
    # The node may write a value in its own way: what it answered to the change counts as well.
    if same(present, change["proposed"]) or (answered is not None and present == answered):
        result = _result(change, present, "applied")
        return Outcome("success", result, config_changes=(_row(change, present),))
    if present == change["now"]:
        return Outcome("error", _result(change, present, "unchanged"), why, acted=False)
    unclear = from_symbol("indeterminate", "the option shows neither the old nor the new value; check it")
    result = _result(change, present, "different")
    return Outcome("indeterminate", result, unclear, config_changes=(_row(change, present),))


class SetConfig(_SetOption):
    """`set_config`: an option that the operator put into allowed_config."""

    def _wanted(self, params: Params) -> tuple[str, str, JsonValue]:
        return _open_name(params["key"]), "key", params["value"]


class Configure(_SetOption):
    """`configure` of hive:plugin/v1: an option of a plugin that the operator put into allowed_config."""

    def _wanted(self, params: Params) -> tuple[str, str, JsonValue]:
        return _open_name(params["option"]), "option", params["value"]

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Read the option. Raises InvalidParams for one of the node's own, ClnError."""
        name, param, _ = self._wanted(params)
        if "plugin" not in await option_row(self._node, name, param):
            raise from_symbol(
                "invalid_params",
                f"option {name!a} is the node's own or not set; hive:config/v1 set_config sets the node's",
                param="option",
                expected="an option of a plugin",
            )
        configs = (await self._node.listconfigs()).get("configs", {})
        if not starts_with_node(str(configs.get(name, {}).get("plugin", "")), configs):
            # Written down, it would keep the node from starting again (docs/decisions/0423).
            params = {**params, "transient": True}
        return await super().prepare(params, caller)

    async def run(self, plan: Plan, caller: Caller) -> Outcome:
        """As for any option; says when the value does not outlive the node's run."""
        return _until_the_end(await super().run(plan, caller), plan.undo)

    async def probe(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome | None:
        """As for any option."""
        outcome = await super().probe(undo, caller)
        return None if outcome is None else _until_the_end(outcome, undo)


def _until_the_end(outcome: Outcome, undo: Mapping[str, JsonValue]) -> Outcome:
    if not undo["transient"] or outcome.state != "success":
        return outcome
    return replace(outcome, result={**outcome.result, "transient": True})


def _open_name(value: JsonValue) -> str:
    name = str(value)
    if is_secret(name):
        raise from_symbol(
            "policy_blocked",
            f"option {name!a} may hold a secret, which only the operator sets",
            rule="floor",
        )
    return name


class SetMinChannelSize(_SetOption):
    """`set_min_channel_size`: the smallest channel others may open with us."""

    def _wanted(self, params: Params) -> tuple[str, str, JsonValue]:
        return "min-capacity-sat", "sats", params["sats"]


def config_writes(node: Node) -> dict[str, WriteAction]:
    """The writes of hive:config/v1 about options, by action."""
    return {
        "set_config": SetConfig(node),
        "set_min_channel_size": SetMinChannelSize(node),
        "set_alias": SetAlias(node),
        "set_network_address": SetNetworkAddress(node),
        "set_tor": SetTor(node),
        "set_dust_limit": SetDustLimit(node),
    }
