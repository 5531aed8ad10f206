"""Changing the fees of one or many channels, and telling afterwards what happened
(docs/protocol/02-fleet-management.md §4 item 2, §5.3; 08 §5.4 "bulk").

Every fee action is the same change with different targets: set each channel to known fees, read it again,
compare. So there is one way to run it and one way to probe it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError
from hive_shared.errors import HiveError, from_symbol

from ...domain.command_record import FeeWrite
from ..ports_commands import FeeNode
from .action import Caller, FeePair, Outcome
from .channels import channel_key, fees_of
from .node_errors import node_error


@dataclass(frozen=True, slots=True)
class Target:
    """One channel and what its fees were (base msat, ppm) and shall be."""

    scid: str
    channel_id: str
    peer_id: str
    old: tuple[int, int]
    new: tuple[int, int]

    def to_json(self) -> dict[str, JsonValue]:
        """The stored form, read back by `from_json` after a crash."""
        return {
            "channel": self.scid,
            "channel_id": self.channel_id,
            "peer_id": self.peer_id,
            "old": {"base_msat": self.old[0], "fee_ppm": self.old[1]},
            "new": {"base_msat": self.new[0], "fee_ppm": self.new[1]},
        }

    @classmethod
    def from_json(cls, doc: Mapping[str, Any]) -> Target:
        """Inverse of `to_json`."""
        old, new = doc["old"], doc["new"]
        return cls(
            scid=str(doc["channel"]),
            channel_id=str(doc["channel_id"]),
            peer_id=str(doc["peer_id"]),
            old=(int(old["base_msat"]), int(old["fee_ppm"])),
            new=(int(new["base_msat"]), int(new["fee_ppm"])),
        )

    def write_by(self, caller: Caller) -> FeeWrite:
        """The history row of this change."""
        return FeeWrite(
            scid=self.scid,
            ts=caller.now,
            old_ppm=self.old[1],
            new_ppm=self.new[1],
            old_base=self.old[0],
            new_base=self.new[0],
            advisor_id=caller.advisor_id,
            credential_id=caller.credential_id,
            command_id=caller.command_id,
        )

    @classmethod
    def of(cls, row: Mapping[str, Any], fees: FeePair) -> Target:
        """The target for a channel row; None in `fees` keeps the present value."""
        base, ppm = fees_of(row)
        new = (base if fees[0] is None else fees[0], ppm if fees[1] is None else fees[1])
        return cls(channel_key(row), str(row["channel_id"]), str(row["peer_id"]), (base, ppm), new)


def undo_of(targets: Sequence[Target], enforce_delay_s: int) -> dict[str, JsonValue]:
    """What is stored before the first `setchannel`: enough to probe and to put back by hand."""
    return {"fees": [target.to_json() for target in targets], "enforce_delay_s": enforce_delay_s}


def targets_of(undo: Mapping[str, JsonValue]) -> tuple[Target, ...]:
    """Inverse of `undo_of`."""
    fees = undo["fees"]
    assert isinstance(fees, list)
    return tuple(Target.from_json(item) for item in fees if isinstance(item, dict))


class FeeWriter:
    """Applies targets channel by channel. `engaged` is the kill switch: it stops a bulk change midway."""

    def __init__(self, node: FeeNode, engaged: Callable[[], bool]) -> None:
        self._node = node
        self._engaged = engaged

    async def run(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome:
        """Set every target once, read all again, compare."""
        delay = undo["enforce_delay_s"]
        assert isinstance(delay, int)
        targets = targets_of(undo)
        warnings: dict[str, list[JsonValue]] = {}
        refused: dict[str, HiveError] = {}
        lost: set[str] = set()
        for target in targets:
            if self._engaged():
                refused[target.channel_id] = from_symbol(
                    "emergency_stop", "the emergency stop was engaged before this channel was reached"
                )
                continue
            try:
                rows = await self._node.setchannel(
                    target.channel_id, feebase=target.new[0], feeppm=target.new[1], enforcedelay=delay
                )
                warnings[target.channel_id] = [
                    str(text) for row in rows for name, text in row.items() if name.startswith("warning_")
                ]
            except ClnError as error:
                # Also after a lost answer we go on to the comparison: the node may have acted.
                refused[target.channel_id] = node_error(error)
                if error.outcome_unknown:
                    lost.add(target.channel_id)
        return await self._compare(targets, caller, _Calls(refused, warnings, lost))

    async def probe(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome | None:
        """Compare the node with the targets; None when it cannot be asked."""
        try:
            rows = await self._read(targets_of(undo))
        except ClnError:
            return None
        stopped = from_symbol(
            "shutting_down", "the plugin stopped before this change was made; nothing was changed"
        )
        return _verdict(targets_of(undo), rows, caller, _Calls({}, {}, set()), stopped)

    async def _compare(self, targets: Sequence[Target], caller: Caller, calls: _Calls) -> Outcome:
        try:
            rows = await self._read(targets)
        except ClnError as error:
            lost = from_symbol(
                "indeterminate", "the fees could not be read again; whether the change was made is not known"
            )
            # Unknown counts as done: limits and cooldowns must not be freed by what we could not see.
            writes = tuple(t.write_by(caller) for t in targets if calls.may_have_acted(t) and t.old != t.new)
            return Outcome("indeterminate", {"cause": node_error(error).detail}, lost, fee_writes=writes)
        other = from_symbol("node_error", "the node shows other fees than were set", rpc="setchannel", code=0)
        return _verdict(targets, rows, caller, calls, other)

    async def _read(self, targets: Sequence[Target]) -> dict[str, Mapping[str, Any]]:
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


@dataclass(frozen=True, slots=True)
class _Calls:
    """What the calls said, by channel id; `lost` ones got no answer."""

    refused: Mapping[str, HiveError]
    warnings: Mapping[str, list[JsonValue]]
    lost: Collection[str]

    def may_have_acted(self, target: Target) -> bool:
        """Whether the node may have changed this channel."""
        return target.channel_id not in self.refused or target.channel_id in self.lost


def _part(target: Target, state: str, *, bulk: bool) -> dict[str, JsonValue]:
    part: dict[str, JsonValue] = {**target.to_json(), "state": state}
    del part["peer_id"]
    if bulk:
        # 200 of these have to fit a page of 24 KB.
        del part["channel_id"]
    return part


def _verdict(
    targets: Sequence[Target],
    rows: Mapping[str, Mapping[str, Any]],
    caller: Caller,
    calls: _Calls,
    otherwise: HiveError,
) -> Outcome:
    parts: list[JsonValue] = []
    writes: list[FeeWrite] = []
    states: list[str] = []
    first_error: HiveError | None = None
    for target in targets:
        row = rows.get(target.channel_id)
        now = None if row is None else fees_of(row)
        state = _state(target, now)
        if state == "unchanged" and target.channel_id in calls.lost:
            # The call may still act after we looked.
            state = "unknown"
        part = _part(target, state, bulk=len(targets) > 1)
        if texts := calls.warnings.get(target.channel_id):
            part["warnings"] = texts
        if state != "applied":
            error = calls.refused.get(target.channel_id, otherwise)
            first_error = first_error or error
            part["error"] = error.symbol
            if now is not None:
                part["now"] = {"base_msat": now[0], "fee_ppm": now[1]}
            unclear = state in ("unknown", "different") and target.old != target.new
            if unclear and calls.may_have_acted(target):
                writes.append(target.write_by(caller))
        elif target.old != target.new:
            writes.append(target.write_by(caller))
        states.append(state)
        parts.append(part)
    return _outcome(states, parts, writes, first_error, rows)


def _state(target: Target, now: tuple[int, int] | None) -> str:
    if now is None:
        return "unknown"
    if now == target.new:
        return "applied"
    return "unchanged" if now == target.old else "different"


def _outcome(
    states: Sequence[str],
    parts: list[JsonValue],
    writes: Sequence[FeeWrite],
    error: HiveError | None,
    rows: Mapping[str, Mapping[str, Any]],
) -> Outcome:
    result: dict[str, JsonValue] = {
        "channels": parts,
        "applied": states.count("applied"),
        "count": len(states),
    }
    if len(parts) == 1 and isinstance(parts[0], dict):
        result = dict(parts[0])
    if all(state == "applied" for state in states):
        return Outcome("success", result, fee_writes=tuple(writes), after=rows)
    if "different" in states or "unknown" in states:
        # Neither the old nor the new fee: somebody else wrote, or the channel is gone. We cannot tell.
        unclear = from_symbol("indeterminate", "the channel shows neither the old nor the new fees; check it")
        return Outcome("indeterminate", result, unclear, fee_writes=tuple(writes), after=rows)
    state = "partial" if "applied" in states else "error"
    return Outcome(
        "partial" if state == "partial" else "error",
        result,
        error,
        acted=state == "partial",
        fee_writes=tuple(writes),
        after=rows,
    )
