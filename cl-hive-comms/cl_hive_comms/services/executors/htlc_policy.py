"""hive:htlc-policy/v1 (docs/protocol/02-fleet-management.md §4 item 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from hive_shared.canonical import JsonValue
from hive_shared.errors import HiveError, from_symbol

from ...domain.emergency import Limits
from ..ports_commands import FeeNode
from .action import CHANNELS_ONLY, Caller, Outcome, Params, Plan
from .channel_write import ChannelWriter, LimitTarget, undo_of
from .channels import channel_key, fact_of, find_channel, limits_of, require_settable
from .forwarding import Holds

# One name for both bounds: the history of a channel tells of new bounds, not of which one (0371).
_FIELDS: Final = frozenset({"htlc_maximum_msat"})
_ENFORCE_DELAY_S: Final = 600

Row = Mapping[str, Any]


class _SetLimits:
    """Gives channels new bounds; a bound that is not named keeps its value."""

    def __init__(self, node: FeeNode, writer: ChannelWriter, holds: Holds) -> None:
        self._node, self._writer, self._holds = node, writer, holds

    async def _planned(self, names: Sequence[str], params: Params, *, param: str) -> Plan:
        listing = await self._node.listpeerchannels()
        holds = await self._holds()
        rows: list[Row] = []
        for text in names:
            row = find_channel(listing, text, param)
            require_settable(row, text)
            mine = (hold for hold in holds if hold.channel.channel_id == row["channel_id"])
            if any(hold.stands(limits_of(row)) for hold in mine):
                raise _disabled(text, param)
            rows.append(row)
        if len({row["channel_id"] for row in rows}) < len(rows):
            raise from_symbol(
                "invalid_params",
                "the list names one channel twice",
                param=param,
                expected="distinct channels",
            )
        targets = [LimitTarget.of(row, _new_limits(row, params)) for row in rows]
        undo = undo_of(targets, _ENFORCE_DELAY_S, LimitTarget)
        undo["warnings"] = _lowered(targets, params)
        return Plan(
            undo=undo,
            basis=[[target.channel_id, *target.old] for target in targets],
            channels=tuple(fact_of(row) for row in rows),
            fields=_FIELDS,
            locks=frozenset(f"channel:{row['channel_id']}" for row in rows),
            before=tuple(listing),
            moves=CHANNELS_ONLY,
        )

    async def run(self, plan: Plan, caller: Caller) -> Outcome:
        """Set and compare."""
        return await self._writer.run(plan.undo, caller)

    async def probe(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome | None:
        """Compare."""
        return await self._writer.probe(undo, caller)


class SetHtlcLimits(_SetLimits):
    """`set_htlc_limits`: the bounds of one channel."""

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Plan one channel. Raises InvalidParams unless minimum <= maximum <= capacity results."""
        return await self._planned([str(params["channel_id"])], params, param="channel_id")


class SetHtlcLimitsBulk(_SetLimits):
    """`set_htlc_limits_bulk`: the same bounds for several channels; one that cannot have them fails all."""

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Plan every channel named."""
        names = params["channels"]
        assert isinstance(names, list)
        plan = await self._planned([str(name) for name in names], params, param="channels")
        plan.undo["many"] = True
        return plan


def _new_limits(row: Row, params: Params) -> Limits:
    low, high = limits_of(row)
    minimum, maximum = params.get("htlc_minimum_msat"), params.get("htlc_maximum_msat")
    wanted = Limits(
        minimum if isinstance(minimum, int) else low, maximum if isinstance(maximum, int) else high
    )
    name = channel_key(row)
    # Judged only where the command says something: what the node shows by itself is not the agent's error.
    if wanted[0] > wanted[1]:
        which = "htlc_minimum_msat" if isinstance(minimum, int) else "htlc_maximum_msat"
        raise from_symbol(
            "invalid_params",
            f"channel {name} would forward nothing: its smallest HTLC of {wanted[0]} msat would be above its"
            f" largest of {wanted[1]} msat; use hive:forwarding/v1 disable_channel to stop forwards",
            param=which,
            expected="htlc_minimum_msat at most htlc_maximum_msat",
        )
    capacity = int(row["total_msat"])
    if isinstance(maximum, int) and maximum > capacity:
        raise from_symbol(
            "invalid_params",
            f"{maximum} msat is above the capacity of channel {name}, {capacity} msat",
            param="htlc_maximum_msat",
            expected=f"at most {capacity}",
        )
    return Limits(wanted[0], min(wanted[1], max(wanted[0], _most(row))))


def _most(row: Row) -> int:
    """The largest HTLC (msat) we can ever offer there: the node lowers what is above (CLN `setchannel`), and
    only a bound that will show as it was set can be proved after a crash."""
    in_flight = int(row.get("their_max_htlc_value_in_flight_msat", row["total_msat"]))
    return min(int(row["total_msat"]) - int(row.get("our_reserve_msat", 0)), in_flight)


def _lowered(targets: Sequence[LimitTarget], params: Params) -> dict[str, JsonValue]:
    asked = params.get("htlc_maximum_msat")
    if not isinstance(asked, int):
        return {}
    return {
        target.channel_id: [f"htlc_maximum_msat is {target.new[1]}, the most this channel can carry"]
        for target in targets
        if target.new[1] < asked
    }


def _disabled(text: str, param: str) -> HiveError:
    return from_symbol(
        "invalid_params",
        f"channel {text} is disabled; its bounds come back when it is enabled again, which has to be first",
        param=param,
        expected="a channel that forwards",
    )
