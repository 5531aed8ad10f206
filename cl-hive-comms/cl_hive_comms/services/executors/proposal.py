"""Options of the node that only its operator can change: what an advisor asks for becomes a proposal
(docs/protocol/02-fleet-management.md §4 "static -> proposal", §15.19; docs/decisions/0370).

A proposal changes nothing. The operator gets the line for the configuration file with an alert, the agent
`requires_restart` with the same line, and the receipt says both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from hive_shared.canonical import JsonValue
from hive_shared.errors import from_symbol

from ..ports_commands import Node
from .action import Caller, Outcome, Params, Plan


class Proposal(ABC):
    """An action on static options. `_options` says which and to what."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Compare what is asked with what is set. Raises ClnError for an option the node does not know."""
        options: list[JsonValue] = []
        for name, wanted in self._options(params).items():
            present = _value((await self._node.listconfigs(name)).get("configs", {}).get(name, {}))
            if wanted not in _as_texts(present):
                options.append({"option": name, "now": present, "proposed": wanted})
        note = self._note(params)
        undo: dict[str, JsonValue] = {"options": options, **({"note": note} if note else {})}
        return Plan(undo=undo, basis=options, proposal=True)

    @abstractmethod
    def _options(self, params: Params) -> Mapping[str, str]:
        """Option name and the value its line would have."""

    def _note(self, params: Params) -> str:
        """What the operator has to know besides the lines; "" for nothing."""
        return ""

    async def run(self, plan: Plan, caller: Caller) -> Outcome:
        """Nothing is called: the proposal goes out with the receipt."""
        return _proposed(plan.undo)

    async def probe(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome | None:
        """The same: without a receipt nobody was told yet."""
        return _proposed(undo)


def _proposed(undo: Mapping[str, JsonValue]) -> Outcome:
    options = undo["options"]
    assert isinstance(options, list)
    if not options:
        return Outcome("success", {"state": "already_set"}, acted=False)
    lines = [f"{each['option']}={each['proposed']}" for each in options if isinstance(each, dict)]
    result: dict[str, JsonValue] = {"state": "proposed", "options": options, "config_lines": [*lines]}
    told = f"put {' and '.join(lines)} into the node's configuration and restart it"
    if note := undo.get("note"):
        result["note"] = note
        told += f" ({note})"
    waits = from_symbol(
        "requires_restart",
        "CLN reads this at its start only; the operator was told, who may set it and restart the node",
        options=[str(each["option"]) for each in options if isinstance(each, dict)],
    )
    return Outcome("error", result, waits, proposal=told)


def _value(config: Mapping[str, Any]) -> JsonValue:
    for name in ("value_str", "value_int", "value_msat", "value_bool", "values_str"):
        if name in config:
            value: JsonValue = config[name]
            return value
    # A flag without value is set when the node lists it.
    return bool(config.get("set", False))


def _as_texts(present: JsonValue) -> list[str]:
    items = present if isinstance(present, list) else [present]
    return [str(item).lower() if isinstance(item, bool) else str(item) for item in items]


class SetCltvDelta(Proposal):
    """`set_cltv_delta`: blocks between an incoming and an outgoing HTLC; one value for the whole node."""

    def _options(self, params: Params) -> Mapping[str, str]:
        return {"cltv-delta": str(params["cltv_expiry_delta"])}

    def _note(self, params: Params) -> str:
        if "channel_id" not in params:
            return ""
        return f"asked for channel {params['channel_id']}; CLN has one value for all channels"
