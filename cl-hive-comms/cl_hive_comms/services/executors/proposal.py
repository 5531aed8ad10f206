"""Options of the node that only its operator can change: what an advisor asks for becomes a proposal
(docs/protocol/02-fleet-management.md §4 "static -> proposal", §15.19; docs/decisions/0370).

A proposal changes nothing. The operator gets the line for the configuration file with an alert, the agent
`requires_restart` with the same line, and the receipt says both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from hive_shared.canonical import JsonValue
from hive_shared.errors import from_symbol

from ...domain.node_option import same, shown, value_of
from ..ports_commands import Node
from .action import Caller, Outcome, Params, Plan


class Proposal(ABC):
    """An action on static options. `_options` says which and to what."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Compare what is asked with what is set. Raises ClnError for an option the node does not know."""
        options: list[JsonValue] = []
        for name, wanted in (await self._options(params)).items():
            present = await self._present(name)
            if not same(present, wanted):
                options.append({"option": name, "now": present, "proposed": wanted})
        note = self._note(params)
        undo: dict[str, JsonValue] = {"options": options, **({"note": note} if note else {})}
        return Plan(undo=undo, basis=options, proposal=True)

    async def _present(self, name: str) -> JsonValue:
        return value_of((await self._node.listconfigs(name)).get("configs", {}).get(name, {}))

    @abstractmethod
    async def _options(self, params: Params) -> Mapping[str, str]:
        """Option name and the value its line would have."""

    def _note(self, params: Params) -> str:
        """What the operator has to know besides the lines; "" for nothing."""
        return ""

    async def run(self, plan: Plan, caller: Caller) -> Outcome:
        """Nothing is called: the proposal goes out with the receipt."""
        return proposed(plan.undo)

    async def probe(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome | None:
        """The same: without a receipt nobody was told yet."""
        return proposed(undo)


def proposed(undo: Mapping[str, JsonValue]) -> Outcome:
    """What the operator is told of `undo["options"]`; success when all of them are set already."""
    options = undo["options"]
    assert isinstance(options, list)
    if not options:
        return Outcome("success", {"state": "already_set"}, acted=False)
    told_of = [each for each in options if isinstance(each, dict)]
    lines = [f"{each['option']}={each['proposed']}" for each in told_of]
    visible: list[JsonValue] = [{**each, "now": shown(each["now"])} for each in told_of]
    result: dict[str, JsonValue] = {"state": "proposed", "options": visible, "config_lines": [*lines]}
    told = f"put {' and '.join(lines)} into the node's configuration and restart it"
    if note := undo.get("note"):
        result["note"] = note
        told += f" ({note})"
    waits = from_symbol(
        "requires_restart",
        "CLN reads this at its start only; the operator was told, who may set it and restart the node",
        options=[str(each["option"]) for each in told_of],
    )
    return Outcome("error", result, waits, proposal=told)


class SetCltvDelta(Proposal):
    """`set_cltv_delta`: blocks between an incoming and an outgoing HTLC; one value for the whole node."""

    async def _options(self, params: Params) -> Mapping[str, str]:
        return {"cltv-delta": str(params["cltv_expiry_delta"])}

    def _note(self, params: Params) -> str:
        if "channel_id" not in params:
            return ""
        return f"asked for channel {params['channel_id']}; CLN has one value for all channels"


class SetAlias(Proposal):
    """`set_alias`: name and colour of the node in the graph."""

    async def _options(self, params: Params) -> Mapping[str, str]:
        given = {"alias": params.get("alias"), "rgb": params.get("color")}
        return {name: str(value) for name, value in given.items() if value is not None}


class SetNetworkAddress(Proposal):
    """`set_network_address`: an address to announce."""

    async def _options(self, params: Params) -> Mapping[str, str]:
        return {"announce-addr": str(params["address"])}


class SetTor(Proposal):
    """`set_tor`: whether every connection goes through the proxy."""

    async def _options(self, params: Params) -> Mapping[str, str]:
        if params["enabled"] is not True:
            return {"always-use-proxy": "false"}
        present = await self._present("proxy")
        # Where Tor listens unless it was told otherwise.
        return {"proxy": str(present or "127.0.0.1:9050"), "always-use-proxy": "true"}


class SetDustLimit(Proposal):
    """`set_dust_limit`: how much may be in HTLCs too small for the chain."""

    async def _options(self, params: Params) -> Mapping[str, str]:
        return {"max-dust-htlc-exposure-msat": str(params["max_dust_exposure_msat"])}
