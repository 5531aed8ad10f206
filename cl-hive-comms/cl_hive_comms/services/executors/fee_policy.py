"""hive:fee-policy/v1 (docs/protocol/02-fleet-management.md §4 item 2)."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, cast

from hive_shared.canonical import JsonValue
from hive_shared.errors import from_symbol
from msgspec.structs import replace

from ...domain.command_record import FeeWrite, TimerRow
from ..ports_commands import FeeNode
from .action import CHANNELS_ONLY, Caller, FeePair, Outcome, Params, Plan
from .channel_write import ChannelWriter, FeeTarget, targets_of, undo_of
from .channels import channel_key, fact_of, find_channel, require_settable

ANCHOR: Final = "fee_anchor"
"""Kind of the timer that puts an anchored fee back."""
_ENFORCE_DELAY_S: Final = 600
DAY: Final = 86_400

FeeHistory = Callable[[Sequence[str], int], Awaitable[tuple[FeeWrite, ...]]]
"""Fee changes of these channels at or after a time, oldest first."""
Timers = Callable[[], Awaitable[tuple[TimerRow, ...]]]
"""Armed timers of one kind."""
Spiked = Callable[[], Awaitable[tuple[FeeTarget, ...]]]
"""What a running fee spike will put back (executors.emergency)."""


class FeeAction:
    """Plans fee changes of known channels; the actions below differ only in the targets they choose."""

    def __init__(self, node: FeeNode, writer: ChannelWriter, history: FeeHistory) -> None:
        self._node = node
        self._writer = writer
        self._history = history

    async def plan(
        self, wanted: Mapping[str, Callable[[Mapping[str, Any]], FeePair]], caller: Caller, *, delay: int
    ) -> tuple[Plan, tuple[FeeTarget, ...]]:
        """Targets of the named channels, with what policy must know of them."""
        listing = await self._node.listpeerchannels()
        chosen: list[tuple[Mapping[str, Any], FeePair]] = []
        for text, choose in wanted.items():
            row = find_channel(listing, text)
            require_settable(row, text)
            chosen.append((row, choose(row)))
        return await self.plan_rows(listing, chosen, caller, delay=delay)

    async def plan_rows(
        self,
        listing: Sequence[Mapping[str, Any]],
        chosen: Sequence[tuple[Mapping[str, Any], FeePair]],
        caller: Caller,
        *,
        delay: int,
    ) -> tuple[Plan, tuple[FeeTarget, ...]]:
        """Targets of the chosen rows of a listing."""
        rows = {channel_key(row): row for row, _ in chosen}
        fees = {channel_key(row): pair for row, pair in chosen}
        if len(rows) < len(chosen):
            raise from_symbol(
                "invalid_params",
                "the list names one channel twice",
                param="channels",
                expected="distinct channels",
            )
        day_ago = await self.fees_day_ago(rows, caller.now)
        targets = tuple(FeeTarget.of(row, fees[key]) for key, row in rows.items())
        changed = {
            name
            for target in targets
            for name, i in (("base_msat", 0), ("fee_ppm", 1))
            if fees[target.scid][i] is not None
        }
        plan = Plan(
            undo=undo_of(targets, delay),
            basis=[[target.channel_id, *target.old] for target in targets],
            channels=tuple(fact_of(row, day_ago.get(key)) for key, row in rows.items()),
            new_fees=fees,
            fields=frozenset(changed),
            locks=frozenset(f"channel:{row['channel_id']}" for row in rows.values()),
            before=tuple(listing),
            moves=CHANNELS_ONLY,
        )
        return plan, targets

    async def fees_day_ago(
        self, rows: Mapping[str, Mapping[str, Any]], now: int
    ) -> dict[str, tuple[int, int]]:
        """(base msat, ppm) of each channel 24 h ago, where our history knows of a change since."""
        found: dict[str, tuple[int, int]] = {}
        for write in await self._history(tuple(rows), now - DAY):
            # The oldest change inside the window holds the value from before it.
            found.setdefault(write.scid, (write.old_base, write.old_ppm))
        return found

    async def run(self, plan: Plan, caller: Caller) -> Outcome:
        """Set and compare."""
        return await self._writer.run(plan.undo, caller)

    async def probe(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome | None:
        """Compare only."""
        return await self._writer.probe(undo, caller)


def _integer(params: Params, name: str) -> int | None:
    value = params.get(name)
    return value if isinstance(value, int) else None


class SetSingle(FeeAction):
    """`set_single`: base fee, rate or both of one channel."""

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Plan one channel."""
        fees = (_integer(params, "base_msat"), _integer(params, "fee_ppm"))
        if fees == (None, None):
            raise from_symbol(
                "invalid_params",
                "give base_msat, fee_ppm or both",
                param="fee_ppm",
                expected="at least one of base_msat, fee_ppm",
            )
        delay = _integer(params, "enforce_delay_s")
        plan, _ = await self.plan(
            {str(params["channel_id"]): lambda _: fees},
            caller,
            delay=_ENFORCE_DELAY_S if delay is None else delay,
        )
        return plan


class SetZeroFee(FeeAction):
    """`set_zero_fee`: base fee and rate of one channel to 0."""

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Plan one channel."""
        plan, _ = await self.plan(
            {str(params["channel_id"]): lambda _: (0, 0)}, caller, delay=_ENFORCE_DELAY_S
        )
        return plan


class SetBulk(FeeAction):
    """`set_bulk`: one rule for up to 200 channels, each set on its own, never `id=all`."""

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Plan every named channel; one that cannot be set refuses the whole command."""
        policy = cast("Mapping[str, JsonValue]", params["policy"])
        base, ppm = _integer(policy, "base_msat"), _integer(policy, "fee_ppm")
        delta = _integer(policy, "fee_delta_pct")
        if (base, ppm, delta) == (None, None, None) or (ppm is not None and delta is not None):
            raise from_symbol(
                "invalid_params",
                "policy needs base_msat, and at most one of fee_ppm and fee_delta_pct",
                param="policy",
                expected="base_msat and/or one of fee_ppm, fee_delta_pct",
            )

        def choose(row: Mapping[str, Any]) -> FeePair:
            if delta is None:
                return base, ppm
            # Half up, in integers: the policy engine judges exactly this value.
            return base, (int(row["fee_proportional_millionths"]) * (100 + delta) + 50) // 100

        channels = cast("Sequence[str]", params["channels"])
        wanted = dict.fromkeys(channels, choose)
        if len(wanted) < len(channels):
            raise from_symbol(
                "invalid_params",
                "the list names one channel twice",
                param="channels",
                expected="distinct channels",
            )
        plan, _ = await self.plan(wanted, caller, delay=_ENFORCE_DELAY_S)
        return plan


class SetAnchor(FeeAction):
    """`set_anchor`: hold one channel at a rate for some hours, then put the former fee back."""

    def __init__(
        self, node: FeeNode, writer: ChannelWriter, history: FeeHistory, anchors: Timers, spiked: Spiked
    ) -> None:
        super().__init__(node, writer, history)
        self._anchors, self._spiked = anchors, spiked

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Plan one channel and note when the anchor ends."""
        target_ppm = _integer(params, "target_fee_ppm")
        plan, _ = await self.plan(
            {str(params["channel_id"]): lambda _: (None, target_ppm)}, caller, delay=_ENFORCE_DELAY_S
        )
        # An anchor on top of an anchor ends where the first one would have: at the fee before both.
        (target,) = targets_of(plan.undo)
        for held in await self._spiked():
            if held.channel_id == target.channel_id and held.new[1] == target.old[1]:
                plan.undo["former_ppm"] = held.old[1]
        for timer in await self._anchors():
            first = FeeTarget.from_json(json.loads(timer.payload_json)["target"])
            if timer.subject == target.channel_id and first.new[1] == target.old[1]:
                plan.undo["former_ppm"] = first.old[1]
        hours = _integer(params, "ttl_hours") or 24
        plan.undo["anchor_until"] = caller.now + hours * 3600
        if "rule" in params:
            # Of a fee schedule (services.fee_rules); no agent can give these two.
            plan.undo["anchor_until"] = params["until"]
            plan.undo["rule"] = {"index": params["rule"], "since": caller.now}
        return plan

    async def run(self, plan: Plan, caller: Caller) -> Outcome:
        """Set, compare, and arm the revert together with the receipt."""
        return _armed(await super().run(plan, caller), plan.undo, caller)

    async def probe(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome | None:
        """Compare; an anchor that holds still needs its revert."""
        outcome = await super().probe(undo, caller)
        return None if outcome is None else _armed(outcome, undo, caller)


def _armed(outcome: Outcome, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome:
    if outcome.state != "success":
        return outcome
    until = undo["anchor_until"]
    assert isinstance(until, int)
    target = targets_of(undo)[0]
    former = undo.get("former_ppm")
    if isinstance(former, int):
        target = replace(target, old=(target.old[0], former))
    timer = TimerRow(
        timer_id=caller.command_id,
        kind=ANCHOR,
        subject=target.channel_id,
        due=until,
        payload_json=json.dumps(
            {
                "target": target.to_json(),
                "credential_id": caller.credential_id,
                "advisor_id": caller.advisor_id,
                **({"rule": undo["rule"]} if "rule" in undo else {}),
            }
        ),
    )
    result: dict[str, JsonValue] = {**outcome.result, "anchored_until": until}
    return Outcome("success", result, fee_writes=outcome.fee_writes, arm=(timer,), after=outcome.after)


class ClearAnchor(FeeAction):
    """`clear_anchor`: end an anchor now and put the fee back that was there before it."""

    def __init__(self, node: FeeNode, writer: ChannelWriter, history: FeeHistory, anchors: Timers) -> None:
        super().__init__(node, writer, history)
        self._anchors = anchors

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Plan the way back. Raises InvalidParams when the channel has no anchor."""
        text = str(params["channel_id"])
        row = find_channel(await self._node.listpeerchannels(), text)
        timer = next((t for t in await self._anchors() if t.subject == row["channel_id"]), None)
        if timer is None:
            raise from_symbol(
                "invalid_params",
                f"channel {text} has no anchor; list_anchors shows them",
                param="channel_id",
                expected="a channel with an anchor",
            )
        former = FeeTarget.from_json(json.loads(timer.payload_json)["target"]).old
        plan, _ = await self.plan({text: lambda _: (None, former[1])}, caller, delay=_ENFORCE_DELAY_S)
        plan.undo["clear_anchor"] = str(row["channel_id"])
        return plan

    async def run(self, plan: Plan, caller: Caller) -> Outcome:
        """Put the fee back and disarm the timer with the receipt."""
        return _disarmed(await super().run(plan, caller), plan.undo)

    async def probe(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome | None:
        """Compare; a fee that is back needs no timer any more."""
        outcome = await super().probe(undo, caller)
        return None if outcome is None else _disarmed(outcome, undo)


def _disarmed(outcome: Outcome, undo: Mapping[str, JsonValue]) -> Outcome:
    if outcome.state != "success":
        return outcome
    return Outcome(
        "success",
        outcome.result,
        fee_writes=outcome.fee_writes,
        disarm=((ANCHOR, str(undo["clear_anchor"])),),
        after=outcome.after,
    )


class ListAnchors:
    """`list_anchors`: channels held at a rate, and until when."""

    def __init__(self, anchors: Timers) -> None:
        self._anchors = anchors

    async def read(self, params: Params, caller: Caller) -> dict[str, JsonValue]:
        """All armed anchors, the one that ends first on top."""
        items: list[JsonValue] = []
        for timer in await self._anchors():
            target = FeeTarget.from_json(json.loads(timer.payload_json)["target"])
            items.append(
                {
                    "channel": target.scid,
                    "channel_id": target.channel_id,
                    "target_fee_ppm": target.new[1],
                    "former_fee_ppm": target.old[1],
                    "until": timer.due,
                    "command_id": timer.timer_id,
                }
            )
        return {"count": len(items), "items": items}
