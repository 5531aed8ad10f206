"""hive:forwarding/v1, and what the config and emergency schemas offer under other names
(docs/protocol/02-fleet-management.md §4 items 4, 12 and 14).

A disabled channel offers nothing to forward out: its largest HTLC becomes its smallest. The bounds from
before are kept with the receipt that says so, and given back exactly. Bounds that somebody set by hand in
between stay (docs/decisions/0220).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from hive_shared.alerts import Level
from hive_shared.canonical import JsonValue
from hive_shared.errors import from_symbol
from msgspec.structs import replace

from ...domain.emergency import Limits, SavedChannel, frozen
from ...domain.forwarding import ALL, BY_ADVISORS, INDIVIDUAL, Hold, original
from ..ports_commands import FeeNode
from .action import CHANNELS_ONLY, Caller, Outcome, Params, Plan
from .channel_write import MAX_PARTS, ChannelWriter, LimitTarget, targets_of, undo_of
from .channels import FEE_STATES, fact_of, find_channel, limits_of, require_settable

_FIELDS: Final = frozenset({"htlc_maximum_msat"})
_ALL_CHANNELS: Final = "all channels"
# The basis of an approval: it is for all channels, whichever there are when it is given.

Row = Mapping[str, Any]
Holds = Callable[[], Awaitable[tuple[Hold, ...]]]
"""Every kept hold, also the operator's."""


class _Forwarding(ABC):
    """What disabling and enabling have in common."""

    def __init__(self, node: FeeNode, writer: ChannelWriter, holds: Holds) -> None:
        self._node, self._writer, self._holds = node, writer, holds

    async def _look(self) -> tuple[list[dict[str, Any]], dict[str, list[Hold]]]:
        """The node's channels, and the holds by channel id."""
        listing = await self._node.listpeerchannels()
        holds: dict[str, list[Hold]] = {}
        for hold in await self._holds():
            holds.setdefault(hold.channel.channel_id, []).append(hold)
        return listing, holds

    def _plan(
        self, targets: Sequence[LimitTarget], touched: Sequence[Row], listing: Sequence[Row], *, many: bool
    ) -> Plan:
        undo = undo_of(targets, 0, LimitTarget)
        undo["many"] = many
        return Plan(
            undo=undo,
            basis=_ALL_CHANNELS if many else [[t.channel_id, *t.old] for t in targets],
            channels=tuple(fact_of(row) for row in touched),
            fields=_FIELDS,
            locks=frozenset(f"channel:{row['channel_id']}" for row in touched),
            before=tuple(listing),
            moves=CHANNELS_ONLY,
        )

    async def run(self, plan: Plan, caller: Caller) -> Outcome:
        """Set, compare, and keep or end the holds together with the receipt."""
        return self._settled(await self._writer.run(plan.undo, caller), plan.undo)

    async def probe(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome | None:
        """Compare; what became of the channels decides what is held."""
        outcome = await self._writer.probe(undo, caller)
        return None if outcome is None else self._settled(outcome, undo)

    @abstractmethod
    def _settled(self, outcome: Outcome, undo: Mapping[str, JsonValue]) -> Outcome:
        """The outcome with the holds that begin or end with it."""


class _Disable(_Forwarding):
    """Freezes channels and holds them for `reason`."""

    REASON: str

    def _disabling(
        self, rows: Sequence[Row], listing: Sequence[Row], holds: Mapping[str, list[Hold]], *, many: bool
    ) -> Plan:
        first = {str(r["channel_id"]): original(limits_of(r), holds.get(r["channel_id"], ())) for r in rows}
        targets = [LimitTarget.of(row, frozen(first[str(row["channel_id"])])) for row in rows]
        plan = self._plan(targets, rows, listing, many=many)
        plan.undo["originals"] = {channel_id: list(limits) for channel_id, limits in first.items()}
        return plan

    def _settled(self, outcome: Outcome, undo: Mapping[str, JsonValue]) -> Outcome:
        originals = undo["originals"]
        assert isinstance(originals, dict)
        # Where the channels could not be read again, the history rows name those that may have changed.
        written = {write.scid for write in outcome.fee_writes}
        hold = []
        for target in targets_of(undo):
            row = outcome.after.get(target.channel_id)
            held = target.scid in written if row is None else limits_of(row) == target.new
            if held:
                limits = _limits(originals[target.channel_id])
                channel = SavedChannel(channel_id=target.channel_id, scid=target.scid, limits=limits)
                hold.append(Hold(self.REASON, channel))
        return replace(outcome, hold=tuple(hold))


class DisableChannel(_Disable):
    """`disable_channel`: one channel stops forwarding until `enable_channel`."""

    REASON = INDIVIDUAL

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Plan one channel."""
        listing, holds = await self._look()
        text = str(params["channel_id"])
        row = find_channel(listing, text)
        require_settable(row, text)
        return self._disabling([row], listing, holds, many=False)


class DisableAll(_Disable):
    """`disable_all`: every channel that forwards now stops until `enable_all`."""

    REASON = ALL

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Plan every open channel that is not held already."""
        listing, holds = await self._look()
        rows = [row for row in listing if row.get("state") in FEE_STATES]
        free = [row for row in rows if not _held(row, holds.get(str(row["channel_id"]), ()))]
        plan = self._disabling(free, listing, holds, many=True)
        plan.undo["disabled_before"] = len(rows) - len(free)
        if params.get("notify_operator") is True:
            plan.undo["notify_operator"] = True
        return plan

    def _settled(self, outcome: Outcome, undo: Mapping[str, JsonValue]) -> Outcome:
        settled = super()._settled(outcome, undo)
        result = {**settled.result, "disabled_before": undo["disabled_before"]}
        alert = Level.CRITICAL if undo.get("notify_operator") else None
        return replace(settled, result=result, alert=alert)


class _Enable(_Forwarding):
    """Gives channels their bounds back and ends their holds."""

    def _enabling(
        self, listing: Sequence[Row], ending: Iterable[tuple[Sequence[Hold], bool]], *, many: bool
    ) -> Plan:
        """`ending` are the holds of one channel that end, and whether another one keeps it disabled."""
        rows = {str(row["channel_id"]): row for row in listing if row.get("state") in FEE_STATES}
        targets: list[LimitTarget] = []
        left: list[JsonValue] = []
        ends: dict[str, JsonValue] = {}
        ended: list[JsonValue] = []
        for holds, kept in ending:
            channel = holds[0].channel
            names: list[JsonValue] = [hold.reason for hold in holds]
            row = rows.get(channel.channel_id)
            if row is None or kept or not _ours(limits_of(row), holds):
                left.append({"channel": channel.scid, "state": _left(row, kept=kept)})
                ended += [[name, channel.channel_id] for name in names]
            else:
                targets.append(LimitTarget.of(row, original(limits_of(row), holds)))
                ends[channel.channel_id] = names
        plan = self._plan(targets, [rows[t.channel_id] for t in targets], listing, many=many)
        plan.undo.update(left=left, ends=ends, ended=ended)
        return plan

    def _settled(self, outcome: Outcome, undo: Mapping[str, JsonValue]) -> Outcome:
        ends, ended, left = undo["ends"], undo["ended"], undo["left"]
        assert isinstance(ends, dict) and isinstance(ended, list) and isinstance(left, list)
        release = [_reason_and_id(item) for item in ended]
        for target in targets_of(undo):
            row = outcome.after.get(target.channel_id)
            if row is not None and limits_of(row) == target.new:
                names = ends[target.channel_id]
                assert isinstance(names, list)
                release += [(str(name), target.channel_id) for name in names]
        result = outcome.result
        if left and undo["many"]:
            result = {**result, "left": left[:MAX_PARTS]}
        elif left and isinstance(left[0], dict):
            result = dict(left[0])
        return replace(outcome, result=result, release=tuple(release))


class EnableChannel(_Enable):
    """`enable_channel`: one disabled channel gets its bounds back."""

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Plan one channel. Raises InvalidParams when no command disabled it."""
        listing, holds = await self._look()
        text = str(params["channel_id"])
        row = find_channel(listing, text)
        require_settable(row, text)
        mine = [hold for hold in holds.get(str(row["channel_id"]), ()) if hold.reason in BY_ADVISORS]
        if not mine:
            raise from_symbol(
                "invalid_params",
                f"channel {text} was not disabled by a command, so there is nothing to give back",
                param="channel_id",
                expected="a channel that disable_channel or disable_all disabled",
            )
        return self._enabling(listing, [(mine, False)], many=False)


class EnableAll(_Enable):
    """`enable_all`: what `disable_all` changed gets its bounds back."""

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Plan every channel `disable_all` holds; without `respect_individual` also those held alone."""
        listing, holds = await self._look()
        respect = params.get("respect_individual", True) is True
        ending: list[tuple[Sequence[Hold], bool]] = []
        for of_channel in holds.values():
            alone = any(hold.reason == INDIVIDUAL for hold in of_channel)
            wanted = {ALL} if respect else BY_ADVISORS
            mine = [hold for hold in of_channel if hold.reason in wanted]
            if mine:
                ending.append((mine, alone and respect))
        return self._enabling(listing, ending, many=True)


def _held(row: Row, holds: Iterable[Hold]) -> bool:
    return any(hold.reason in BY_ADVISORS and hold.stands(limits_of(row)) for hold in holds)


def _ours(shown: Limits, holds: Sequence[Hold]) -> bool:
    """Whether the channel is as a hold left it, or has its bounds back already."""
    return any(hold.stands(shown) or hold.channel.limits == shown for hold in holds)


def _left(row: Row | None, *, kept: bool) -> str:
    if kept:
        return "kept_disabled"
    return "channel_gone" if row is None else "left_alone"


def _limits(stored: JsonValue) -> Limits:
    assert isinstance(stored, list)
    low, high = stored
    assert isinstance(low, int) and isinstance(high, int)
    return Limits(low, high)


def _reason_and_id(stored: JsonValue) -> tuple[str, str]:
    assert isinstance(stored, list)
    return str(stored[0]), str(stored[1])
