"""What the plugin itself keeps because CLN has no setting for it: routing hints of invoices, and the largest
channel that others may open (docs/protocol/02-fleet-management.md §4 items 4 and 12).

Each is an armed timer without an end whose subject is the value: it begins with the receipt that says so, as
a ban does (docs/decisions/0433).
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from hive_shared.canonical import JsonValue
from hive_shared.errors import from_symbol

from ...domain.command_record import TimerRow
from ..ports_commands import Node
from .action import CHANNELS_ONLY, Caller, Outcome, Params, Plan
from .channels import FEE_STATES, find_channel
from .config import option_row
from .peer import WITHOUT_END

HINTS: Final = "routing_hints"
LARGEST: Final = "max_channel_size"
_MIN_SIZE: Final = "min-capacity-sat"

Kept = Callable[[str], Awaitable[str]]
"""The value of a setting as kept, "" without one."""


class _KeptSetting(ABC):
    """Replaces the value of one setting."""

    KIND: str

    def __init__(self, node: Node, kept: Kept) -> None:
        self._node, self._kept = node, kept

    @abstractmethod
    async def _value(self, params: Params) -> str:
        """The value asked for, "" for none. Raises InvalidParams, ClnError."""

    @abstractmethod
    def _shown(self, value: str) -> JsonValue:
        """A value as results show it."""

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Check the value against the node."""
        value, old = await self._value(params), await self._kept(self.KIND)
        return Plan(
            undo={"old": old, "new": value},
            basis=[old, value],
            locks=frozenset({f"setting:{self.KIND}"}),
            moves=CHANNELS_ONLY,
        )

    async def run(self, plan: Plan, caller: Caller) -> Outcome:
        """Kept with the receipt, in place of the one before."""
        old, new = str(plan.undo["old"]), str(plan.undo["new"])
        payload = {"credential_id": caller.credential_id, "advisor_id": caller.advisor_id}
        timer = TimerRow(caller.command_id, self.KIND, new, WITHOUT_END, json.dumps(payload))
        return Outcome(
            "success",
            {"old": self._shown(old), "new": self._shown(new)},
            arm=(timer,) if new else (),
            disarm=((self.KIND, old),) if old else (),
        )

    async def probe(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome | None:
        """It is kept with its receipt, so without one nothing was."""
        text = "the plugin stopped before the setting was kept; nothing was changed"
        return Outcome("error", {}, from_symbol("shutting_down", text), acted=False)


class SetRoutingHints(_KeptSetting):
    """`set_routing_hints`: the channels that invoices of this plugin name to the payer; [] leaves it to the
    node."""

    KIND = HINTS

    async def _value(self, params: Params) -> str:
        hints = params["hints"]
        assert isinstance(hints, list)
        rows = await self._node.listpeerchannels() if hints else []
        found: list[str] = []
        for number, hint in enumerate(hints):
            param = f"hints[{number}]"
            row = find_channel(rows, str(hint), param)
            scid = row.get("short_channel_id")
            if row.get("state") not in FEE_STATES or not isinstance(scid, str):
                raise from_symbol(
                    "invalid_params",
                    f"{param} {hint} is {row.get('state')}: only an open channel can be a hint",
                    param=param,
                    expected="an open channel",
                )
            if scid in found:
                raise from_symbol(
                    "invalid_params",
                    f"{param} {hint} is named twice",
                    param=param,
                    expected="another channel",
                )
            found.append(scid)
        return " ".join(found)

    def _shown(self, value: str) -> JsonValue:
        return [*hints_of(value)]


class SetMaxChannelSize(_KeptSetting):
    """`set_max_channel_size`: the largest channel that others may open with this node."""

    KIND = LARGEST

    async def _value(self, params: Params) -> str:
        sats = params["sats"]
        assert isinstance(sats, int)
        row = await option_row(self._node, _MIN_SIZE, "sats")
        least = row.get("value_int")
        if isinstance(least, int) and sats < least:
            raise from_symbol(
                "invalid_params",
                f"sats {sats} is below {_MIN_SIZE} {least}: nobody could open a channel at all",
                param="sats",
                expected=f"at least {least}",
            )
        return str(sats)

    def _shown(self, value: str) -> JsonValue:
        return int(value) if value else None


def hints_of(value: str) -> tuple[str, ...]:
    """Short channel ids of kept routing hints."""
    return tuple(value.split())
