"""Changing the fees or the HTLC bounds of one or many channels, and telling afterwards what happened
(docs/protocol/02-fleet-management.md §4 items 2, 4 and 14, §5.3; 08 §5.4 "bulk").

Every such action is the same change with different targets: set each channel to known values, look what
it has now, compare. So there is one way to run it and one way to probe it. What a channel has now is said
by the answer of `setchannel` itself; without one it is listed again (docs/decisions/0350).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final, Self

import msgspec
from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError
from hive_shared.errors import HiveError, from_symbol
from msgspec.structs import replace

from ...domain.command_record import FeeWrite
from ..ports_commands import Fault, FeeNode, no_fault
from .action import Caller, FeePair, Outcome
from .channels import channel_key, fees_of, limits_of
from .node_errors import node_error

MAX_PARTS: Final = 200
"""Channels a result lists one by one; of more, those that were not changed come first."""

_SETTINGS: Final = frozenset(
    {
        "fee_base_msat",
        "fee_proportional_millionths",
        "minimum_htlc_out_msat",
        "maximum_htlc_out_msat",
    }
)

Rows = Mapping[str, Mapping[str, Any]]
Pair = tuple[int, int]


class Target(msgspec.Struct, frozen=True):
    """One channel and what a pair of its values was and shall be."""

    scid: str
    channel_id: str
    peer_id: str
    old: Pair
    new: Pair

    KEY: ClassVar[str]
    """Where the undo row holds targets of this kind."""
    NAMES: ClassVar[tuple[str, str]]
    """What the two values are called in documents."""

    @staticmethod
    @abstractmethod
    def shown(row: Mapping[str, Any]) -> Pair:
        """The two values in a channel row."""

    @abstractmethod
    async def set(self, node: FeeNode, delay: int) -> list[dict[str, Any]]:
        """Ask the node for the new values; `delay` seconds the old ones are still honoured."""

    @abstractmethod
    def write_by(self, caller: Caller) -> FeeWrite | None:
        """The history row of this change; None when it changes nothing."""

    def pair_doc(self, pair: Pair) -> dict[str, JsonValue]:
        """Two values under their names."""
        return dict(zip(self.NAMES, pair, strict=True))

    def to_json(self) -> dict[str, JsonValue]:
        """The stored form, read back by `from_json` after a crash."""
        return {
            "channel": self.scid,
            "channel_id": self.channel_id,
            "peer_id": self.peer_id,
            "old": self.pair_doc(self.old),
            "new": self.pair_doc(self.new),
        }

    @classmethod
    def from_json(cls, doc: Mapping[str, Any]) -> Self:
        """Inverse of `to_json`."""
        return cls(**cls._stored(doc))

    @classmethod
    def _stored(cls, doc: Mapping[str, Any]) -> dict[str, Any]:
        first, second = cls.NAMES
        return {
            "scid": str(doc["channel"]),
            "channel_id": str(doc["channel_id"]),
            "peer_id": str(doc["peer_id"]),
            **{name: (int(doc[name][first]), int(doc[name][second])) for name in ("old", "new")},
        }


class FeeTarget(Target, frozen=True):
    """Base fee (msat) and rate (ppm)."""

    KEY: ClassVar[str] = "fees"
    NAMES: ClassVar[tuple[str, str]] = ("base_msat", "fee_ppm")

    @staticmethod
    def shown(row: Mapping[str, Any]) -> Pair:
        """The fees in a channel row."""
        return fees_of(row)

    async def set(self, node: FeeNode, delay: int) -> list[dict[str, Any]]:
        """`setchannel` of the fees."""
        base, ppm = self.new
        return await node.setchannel(self.channel_id, feebase=base, feeppm=ppm, enforcedelay=delay)

    def write_by(self, caller: Caller) -> FeeWrite | None:
        """The history row of this change."""
        return None if self.old == self.new else _history_row(self, caller, self.old, self.new)

    @classmethod
    def of(cls, row: Mapping[str, Any], fees: FeePair) -> FeeTarget:
        """The target for a channel row; None in `fees` keeps the present value."""
        base, ppm = fees_of(row)
        new = (base if fees[0] is None else fees[0], ppm if fees[1] is None else fees[1])
        return cls(channel_key(row), str(row["channel_id"]), str(row["peer_id"]), (base, ppm), new)


class LimitTarget(Target, frozen=True):
    """Smallest and largest HTLC (msat) of our side. `fees` are those of the channel at that time."""

    fees: Pair

    KEY: ClassVar[str] = "limits"
    NAMES: ClassVar[tuple[str, str]] = ("htlc_minimum_msat", "htlc_maximum_msat")

    @staticmethod
    def shown(row: Mapping[str, Any]) -> Pair:
        """The bounds in a channel row."""
        return limits_of(row)

    async def set(self, node: FeeNode, delay: int) -> list[dict[str, Any]]:
        """`setchannel` of the bounds; no call for a channel that has them."""
        if self.old == self.new:
            return []
        low, high = self.new
        return await node.setchannel(self.channel_id, htlcmin=low, htlcmax=high, enforcedelay=delay)

    def write_by(self, caller: Caller) -> FeeWrite | None:
        """A history row whose fees stay the same: it says who wrote to the channel, and when."""
        return None if self.old == self.new else _history_row(self, caller, self.fees, self.fees)

    def to_json(self) -> dict[str, JsonValue]:
        """The stored form."""
        # Not `super()`: a dataclass with slots is another class than the one this method was written in.
        return {**Target.to_json(self), "fees": list(self.fees)}

    @classmethod
    def from_json(cls, doc: Mapping[str, Any]) -> Self:
        """Inverse of `to_json`."""
        base, ppm = doc["fees"]
        return cls(**cls._stored(doc), fees=(int(base), int(ppm)))

    @classmethod
    def of(cls, row: Mapping[str, Any], new: Pair) -> LimitTarget:
        """The target for a channel row."""
        ids = channel_key(row), str(row["channel_id"]), str(row["peer_id"])
        return cls(*ids, limits_of(row), new, fees_of(row))


def _history_row(target: Target, caller: Caller, old: Pair, new: Pair) -> FeeWrite:
    return FeeWrite(
        scid=target.scid,
        ts=caller.now,
        old_ppm=old[1],
        new_ppm=new[1],
        old_base=old[0],
        new_base=new[0],
        advisor_id=caller.advisor_id,
        credential_id=caller.credential_id,
        command_id=caller.command_id,
    )


def undo_of(
    targets: Sequence[Target], enforce_delay_s: int, kind: type[Target] = FeeTarget
) -> dict[str, JsonValue]:
    """What is stored before the first `setchannel`: enough to probe and to put back by hand."""
    return {kind.KEY: [target.to_json() for target in targets], "enforce_delay_s": enforce_delay_s}


def _many(undo: Mapping[str, JsonValue]) -> bool:
    """Whether the result lists channels, as that of a bulk change does, or is that of one channel."""
    return undo.get("many") is True or len(targets_of(undo)) != 1


def targets_of(undo: Mapping[str, JsonValue]) -> tuple[Target, ...]:
    """Inverse of `undo_of`."""
    kinds: tuple[type[Target], ...] = (FeeTarget, LimitTarget)
    kind = next(kind for kind in kinds if kind.KEY in undo)
    stored = undo[kind.KEY]
    assert isinstance(stored, list)
    return tuple(kind.from_json(item) for item in stored if isinstance(item, dict))


def _foreseen(undo: Mapping[str, JsonValue]) -> dict[str, list[JsonValue]]:
    """What the plan warned of, by channel id."""
    stored = undo.get("warnings")
    found = stored.items() if isinstance(stored, dict) else ()
    return {channel_id: list(texts) for channel_id, texts in found if isinstance(texts, list)}


class ChannelWriter:
    """Applies targets channel by channel. `engaged` is the kill switch: it stops a bulk change midway.

    Crash points: `channel_set_<scid>` after each channel.
    """

    def __init__(self, node: FeeNode, engaged: Callable[[], bool], fault: Fault = no_fault) -> None:
        self._node = node
        self._engaged = engaged
        self._fault = fault

    async def run(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome:
        """Set every target once, look what each has now, compare."""
        delay = undo["enforce_delay_s"]
        assert isinstance(delay, int)
        targets, many = targets_of(undo), _many(undo)
        warnings = _foreseen(undo)
        refused: dict[str, HiveError] = {}
        lost: set[str] = set()
        bent: dict[str, Pair] = {}
        now: dict[str, Mapping[str, Any]] = {}
        for target in targets:
            if self._engaged():
                refused[target.channel_id] = from_symbol(
                    "emergency_stop", "the emergency stop was engaged before this channel was reached"
                )
                continue
            try:
                rows = await target.set(self._node, delay)
                told = [text for row in rows for name, text in row.items() if name.startswith("warning_")]
                if told:
                    warnings.setdefault(target.channel_id, []).extend(map(str, told))
                    bent[target.channel_id] = target.shown(rows[0])
                now.update(_resulting(target, rows))
            except ClnError as error:
                # Also after a lost answer we go on to the comparison: the node may have acted.
                refused[target.channel_id] = node_error(error)
                if error.outcome_unknown:
                    lost.add(target.channel_id)
            await self._fault(f"channel_set_{target.scid}")
        return await self._compare(targets, now, caller, _Calls(refused, warnings, lost, many, bent))

    async def probe(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome | None:
        """Compare the node with the targets; None when it cannot be asked."""
        try:
            rows = await self._read(targets_of(undo))
        except ClnError:
            return None
        stopped = from_symbol(
            "shutting_down", "the plugin stopped before this change was made; nothing was changed"
        )
        calls = _Calls({}, _foreseen(undo), set(), _many(undo))
        return _verdict(targets_of(undo), rows, caller, calls, stopped)

    async def _compare(self, targets: Sequence[Target], told: Rows, caller: Caller, calls: _Calls) -> Outcome:
        untold = [target for target in targets if target.channel_id not in told]
        try:
            rows = {**told, **await self._read(untold)}
        except ClnError as error:
            lost = from_symbol(
                "indeterminate", "the channels could not be read again; whether they changed is not known"
            )
            # Unknown counts as done: limits and cooldowns must not be freed by what we could not see.
            writes = _writes(caller, (target for target in targets if calls.may_have_acted(target)))
            return Outcome("indeterminate", {"cause": node_error(error).detail}, lost, fee_writes=writes)
        other = from_symbol(
            "node_error", "the node shows other values than were set", rpc="setchannel", code=0
        )
        return _verdict(targets, rows, caller, calls, other)

    async def _read(self, targets: Sequence[Target]) -> dict[str, Mapping[str, Any]]:
        if not targets:
            return {}
        if len(targets) == 1:
            target = targets[0]
            confirmed = "x" in target.scid
            rows = await self._node.listpeerchannels(
                None if confirmed else target.peer_id, target.scid if confirmed else None
            )
        else:
            rows = await self._node.listpeerchannels()
        wanted = {target.channel_id for target in targets}
        return {str(row["channel_id"]): row for row in rows if row.get("channel_id") in wanted}


class _Calls(msgspec.Struct, frozen=True):
    """What the calls said, by channel id; `lost` ones got no answer. `bent` are the values the node warned
    that it set instead: bounds it raised to the peer's smallest or lowered to what the channel can carry."""

    refused: Mapping[str, HiveError]
    warnings: Mapping[str, list[JsonValue]]
    lost: Collection[str]
    many: bool
    bent: Mapping[str, Pair] = msgspec.field(default_factory=dict)

    def may_have_acted(self, target: Target) -> bool:
        """Whether the node may have changed this channel."""
        return target.channel_id not in self.refused or target.channel_id in self.lost


def _resulting(target: Target, rows: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The channel as `setchannel` says it left it, by its id; nothing where the answer does not tell."""
    # CLN writes the answer after the change, from the fields of the channel that listpeerchannels shows.
    ours = (row for row in rows if row.get("channel_id") == target.channel_id)
    row = next(ours, None)
    return {} if row is None or not row.keys() >= _SETTINGS else {target.channel_id: row}


def _part(target: Target, state: str, *, bulk: bool) -> dict[str, JsonValue]:
    part: dict[str, JsonValue] = {**Target.to_json(target), "state": state}
    del part["peer_id"]
    if bulk:
        # 200 of these have to fit a page of 24 KB.
        del part["channel_id"]
    return part


def _verdict(
    targets: Sequence[Target],
    rows: Rows,
    caller: Caller,
    calls: _Calls,
    otherwise: HiveError,
) -> Outcome:
    parts: list[JsonValue] = []
    written: list[Target] = []
    states: list[str] = []
    first_error: HiveError | None = None
    for target in targets:
        row = rows.get(target.channel_id)
        now = None if row is None else target.shown(row)
        state = _state(target, now)
        if now is not None and now == calls.bent.get(target.channel_id):
            state = "applied"
        if state == "unchanged" and target.channel_id in calls.lost:
            # The call may still act after we looked.
            state = "unknown"
        part = _part(target, state, bulk=calls.many)
        if texts := calls.warnings.get(target.channel_id):
            part["warnings"] = texts
        if state != "applied":
            error = calls.refused.get(target.channel_id, otherwise)
            first_error = first_error or error
            part["error"] = error.symbol
            if now is not None:
                part["now"] = target.pair_doc(now)
            if state in ("unknown", "different") and calls.may_have_acted(target):
                written.append(target)
        else:
            if now is not None and now != target.new:
                part["now"] = target.pair_doc(now)
            written.append(target)
        states.append(state)
        parts.append(part)
    outcome = _outcome(states, parts, _writes(caller, written), first_error, rows)
    if calls.many or not isinstance(parts[0], dict):
        return outcome
    return replace(outcome, result=dict(parts[0]))


def _writes(caller: Caller, targets: Iterable[Target]) -> tuple[FeeWrite, ...]:
    rows = (target.write_by(caller) for target in targets)
    return tuple(row for row in rows if row is not None)


def _state(target: Target, now: tuple[int, int] | None) -> str:
    if now is None:
        return "unknown"
    if now == target.new:
        return "applied"
    return "unchanged" if now == target.old else "different"


def _outcome(
    states: Sequence[str],
    parts: list[JsonValue],
    writes: tuple[FeeWrite, ...],
    error: HiveError | None,
    rows: Rows,
) -> Outcome:
    listed = parts
    if len(parts) > MAX_PARTS:
        order = sorted(range(len(parts)), key=lambda i: (states[i] == "applied", i))
        listed = [parts[i] for i in order[:MAX_PARTS]]
    result: dict[str, JsonValue] = {
        "channels": listed,
        "applied": states.count("applied"),
        "count": len(states),
    }
    if all(state == "applied" for state in states):
        return Outcome("success", result, fee_writes=writes, after=rows)
    if "different" in states or "unknown" in states:
        # Neither the old nor the new fee: somebody else wrote, or the channel is gone. We cannot tell.
        unclear = from_symbol(
            "indeterminate", "the channel shows neither the old nor the new values; check it"
        )
        return Outcome("indeterminate", result, unclear, fee_writes=writes, after=rows)
    state = "partial" if "applied" in states else "error"
    return Outcome(
        "partial" if state == "partial" else "error",
        result,
        error,
        acted=state == "partial",
        fee_writes=writes,
        after=rows,
    )
