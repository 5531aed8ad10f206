"""hive:emergency/v1 as far as it is served: `fee_spike` and `revoke_all_credentials`; its
`disable_forwarding` is `forwarding.DisableAll` (docs/protocol/02-fleet-management.md §4 item 14, §5.5).

A spike holds all channels at a rate that nobody pays, for some hours. What was there before is put back by
one timer, also after a restart and also where only some channels were reached (docs/decisions/0221).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from hive_shared.alerts import Level
from hive_shared.canonical import JsonValue
from hive_shared.errors import from_symbol
from msgspec.structs import replace

from ...domain.command_record import TimerRow
from ..ports_commands import FeeNode, Revoking
from .action import Caller, Outcome, Params, Plan
from .channel_write import ChannelWriter, FeeTarget, targets_of
from .channels import FEE_STATES
from .fee_policy import FeeAction, FeeHistory, Timers

SPIKE: Final = "fee_spike"
"""Kind of the timer that ends a spike."""
_NODE: Final = "node"
# Of all channels there can be one spike at a time: a second one takes over what the first has to put back.


def spiked(timer: TimerRow) -> tuple[FeeTarget, ...]:
    """What a spike's timer puts back: `old` were the fees before, `new` those of the spike."""
    payload: Mapping[str, Any] = json.loads(timer.payload_json)
    return tuple(FeeTarget.from_json(doc) for doc in payload["targets"])


class FeeSpike(FeeAction):
    """`fee_spike`: one rate for every open channel, for some hours."""

    def __init__(self, node: FeeNode, writer: ChannelWriter, history: FeeHistory, spikes: Timers) -> None:
        super().__init__(node, writer, history)
        self._spikes = spikes

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Plan every open channel and note when the spike ends."""
        ppm, hours = params["fee_ppm"], params["hours"]
        assert isinstance(ppm, int) and isinstance(hours, int)
        listing = await self._node.listpeerchannels()
        rows = [row for row in listing if row.get("state") in FEE_STATES]
        plan, targets = await self.plan_rows(listing, [(row, (None, ppm)) for row in rows], caller, delay=0)
        reached = {target.channel_id: target for target in targets}
        former: dict[str, FeeTarget] = {}
        for timer in await self._spikes():
            for first in spiked(timer):
                target = reached.get(first.channel_id)
                if target is None or target.old[1] == first.new[1]:
                    former[first.channel_id] = first
        back = [
            replace(target, old=(target.old[0], former[target.channel_id].old[1]))
            if target.channel_id in former
            else target
            for target in targets
        ]
        back += [first for channel_id, first in former.items() if channel_id not in reached]
        plan.undo.update(
            many=True,
            spike_until=caller.now + hours * 3_600,
            back=[target.to_json() for target in back],
        )
        # An approval is for all channels, whichever there are when it is given.
        return replace(plan, basis=f"all channels at {ppm} ppm")

    async def run(self, plan: Plan, caller: Caller) -> Outcome:
        """Set, compare, and arm the end together with the receipt."""
        return _armed(await super().run(plan, caller), plan.undo, caller)

    async def probe(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome | None:
        """Compare; whatever was reached needs its end."""
        outcome = await super().probe(undo, caller)
        return None if outcome is None else _armed(outcome, undo, caller)


def _armed(outcome: Outcome, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome:
    if outcome.state == "error" or not targets_of(undo):
        return outcome
    until = undo["spike_until"]
    assert isinstance(until, int)
    payload = {
        "targets": undo["back"],
        "credential_id": caller.credential_id,
        "advisor_id": caller.advisor_id,
    }
    timer = TimerRow(
        timer_id=caller.command_id,
        kind=SPIKE,
        subject=_NODE,
        due=until,
        payload_json=json.dumps(payload),
    )
    result: dict[str, JsonValue] = {**outcome.result, "until": until}
    return replace(outcome, result=result, arm=(timer,), alert=Level.CRITICAL)


class RevokeAll:
    """`revoke_all_credentials`: every credential of this node ends, the caller's too."""

    def __init__(self, revoking: Revoking) -> None:
        self._revoking = revoking

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Note which credentials stand now."""
        active: list[JsonValue] = list(self._revoking.active())
        return Plan(
            undo={"active": active, "reason": params["reason"]},
            basis="all credentials",
            locks=frozenset({"credentials"}),
        )

    async def run(self, plan: Plan, caller: Caller) -> Outcome:
        """End them; the receipt of this command follows although its credential has ended with them."""
        return _revoked(
            await self._revoking.revoke_all(f"asked by agent {caller.sender_key}: {plan.undo['reason']}")
        )

    async def probe(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome | None:
        """They end in one transaction: those that stood then stand still, or none of them does."""
        then = undo["active"]
        assert isinstance(then, list)
        if not set(then).intersection(self._revoking.active()):
            return _revoked(len(then))
        stopped = from_symbol("shutting_down", "the plugin stopped before a credential was revoked")
        return Outcome("error", {}, stopped, acted=False)


def _revoked(count: int) -> Outcome:
    return Outcome("success", {"revoked": count}, alert=Level.CRITICAL)
