"""hive:config/v1: reading the node's options, setting dynamic ones
(docs/protocol/02-fleet-management.md §4 item 12)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Final

from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError
from hive_shared.errors import HiveError, from_symbol

from ...domain.node_option import is_secret, same, shown, to_doc, value_of
from ..ports_commands import Node
from .action import Caller, Outcome, Params, Plan, WriteAction
from .monitor import limit_of
from .node_errors import node_error
from .pages import page_of_list
from .proposal import SetAlias, SetDustLimit, SetNetworkAddress, SetTor, proposed

LOCK: Final = "config"
"""The lock of whoever sets an option (02 §7.1: one writer)."""
_UNKNOWN: Final = -32602


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


class GetConfig:
    """`get_config`: one option or all, secrets, logins and paths left out."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def read(self, params: Params, caller: Caller) -> dict[str, JsonValue]:
        """A page of options. Raises InvalidParams for one the node does not know."""
        if key := params.get("key"):
            rows = {str(key): await option_row(self._node, str(key), "key")}
        else:
            rows = (await self._node.listconfigs()).get("configs", {})
        items = [to_doc(name, row) for name, row in sorted(rows.items())]
        return page_of_list(items, limit_of(params), params.get("cursor"))


class _SetOption(ABC):
    """Sets one dynamic option and reads it again."""

    def __init__(self, node: Node) -> None:
        self._node = node

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

    async def run(self, plan: Plan, caller: Caller) -> Outcome:
        """`setconfig`, once; then what the node shows decides."""
        change = _change(plan.undo)
        if change is None or plan.undo["static"]:
            return proposed(plan.undo)
        name, wanted = str(change["option"]), change["proposed"]
        asked: dict[str, object] = {"config": name, "val": wanted}
        if plan.undo["transient"]:
            asked["transient"] = True
        answered: JsonValue = None
        refused: ClnError | None = None
        try:
            answered = value_of((await self._node.call("setconfig", asked)).get("config", {}))
        except ClnError as error:
            refused = error
        return await self._verdict(change, answered, refused)

    async def probe(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome | None:
        """Compare the option with what it was and what it should be."""
        change = _change(undo)
        if change is None or undo["static"]:
            return proposed(undo)
        try:
            row = await option_row(self._node, str(change["option"]), "key")
        except (ClnError, HiveError):
            return None
        return _compared(change, value_of(row), None, _stopped())

    async def _verdict(
        self, change: Mapping[str, JsonValue], answered: JsonValue, refused: ClnError | None
    ) -> Outcome:
        try:
            row = await option_row(self._node, str(change["option"]), "key")
        except (ClnError, HiveError):
            lost = from_symbol(
                "indeterminate", "the option could not be read again; whether it is set is unknown"
            )
            return Outcome("indeterminate", {}, lost)
        if refused is not None and refused.outcome_unknown and not same(value_of(row), change["proposed"]):
            # The call may still act after we looked.
            lost = from_symbol("indeterminate", "the node did not answer; the option may still change")
            return Outcome("indeterminate", _result(change, value_of(row), "unknown"), lost)
        if refused is not None:
            why = node_error(refused)
        else:
            why = from_symbol(
                "node_error", "the node shows another value than was set", rpc="setconfig", code=0
            )
        return _compared(change, value_of(row), answered, why)


def _change(undo: Mapping[str, JsonValue]) -> Mapping[str, JsonValue] | None:
    options = undo["options"]
    assert isinstance(options, list)
    return options[0] if options and isinstance(options[0], dict) else None


def _stopped() -> HiveError:
    return from_symbol("shutting_down", "the plugin stopped before this change was made; nothing was changed")


def _result(change: Mapping[str, JsonValue], present: JsonValue, state: str) -> dict[str, JsonValue]:
    return {"option": change["option"], "old": shown(change["now"]), "new": shown(present), "state": state}


def _compared(
    change: Mapping[str, JsonValue], present: JsonValue, answered: JsonValue, why: HiveError
) -> Outcome:
    # The node may write a value in its own way: what it answered to the change counts as well.
    if same(present, change["proposed"]) or (answered is not None and present == answered):
        return Outcome("success", _result(change, present, "applied"))
    if present == change["now"]:
        return Outcome("error", _result(change, present, "unchanged"), why, acted=False)
    unclear = from_symbol("indeterminate", "the option shows neither the old nor the new value; check it")
    return Outcome("indeterminate", _result(change, present, "different"), unclear)


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
        return await super().prepare(params, caller)


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
