"""What the rules look at besides the command itself: facts of the plan, past writes, what is under
way (docs/protocol/02-fleet-management.md §3, §7.5)."""

from __future__ import annotations

import json
from typing import Final

from hive_shared.registry import FEE_POLICY, ActionSpec, DangerFacts, find, scored_as
from msgspec.structs import replace

from ..domain.command_record import CommandRow, FeeWrite
from ..domain.conflict import PastWrite
from .executors.action import Params, Plan

_CHANGED: Final = ("fees", "limits", "closes_all", "moves")
"""Where the notes of commands keep the channels that they change, one entry each."""


def facts_of_plan(params: Params, plan: Plan) -> DangerFacts:
    """What the plan knows: the channels it touches, whom it goes to, what leaves the node's hands."""
    fees = {
        name: (fact.fee_base_msat, fact.fee_ppm)
        for fact in plan.channels
        for name in (fact.scid, fact.channel_id)
    }
    named = params.get("channel_id")
    if isinstance(named, str) and len(plan.channels) == 1:
        fees[named] = (plan.channels[0].fee_base_msat, plan.channels[0].fee_ppm)
    facts = DangerFacts(
        channels_total=len(plan.before),
        fees=fees,
        foreign_destination=plan.foreign,
        peer_channels=plan.peer_channels,
    )
    if plan.spend is None:
        return facts
    return replace(facts, amount_sat=plan.spend.amount_sat, fee_sat=plan.spend.fee_sat)


def changed_fees(write: FeeWrite) -> bool:
    """False for a row that tells of something else than fees: HTLC bounds, a moved balance."""
    return (write.old_ppm, write.old_base) != (write.new_ppm, write.new_base)


def past_write(write: FeeWrite) -> PastWrite:
    """A finished change as the conflict rules see it."""
    fields = {write.field}
    if changed_fees(write):
        fields = {
            name
            for name, old, new in (
                ("fee_ppm", write.old_ppm, write.new_ppm),
                ("base_msat", write.old_base, write.new_base),
            )
            if old != new
        }
    return PastWrite(
        write.advisor_id, "hive:fee-policy/v1", frozenset({write.scid}), frozenset(fields), write.ts
    )


def channels_of(row: CommandRow) -> frozenset[str]:
    """The channels a command under way changes."""
    undo = json.loads(row.undo_json or "{}")
    targets = [item for name in _CHANGED for item in undo.get(name, ()) if isinstance(item, dict)]
    whole = [undo[name] for name in ("closes", "splices") if undo.get(name)]
    return frozenset(str(item["channel"]) for item in (*targets, *whole))


def under_way(row: CommandRow) -> PastWrite:
    """A command under way as the conflict rules see it."""
    return PastWrite(row.advisor_id, row.schema_id, channels_of(row), frozenset(), row.received_at)


def amounts_to(spec: ActionSpec, params: Params, facts: DangerFacts, plan: Plan) -> ActionSpec:
    """What a command amounts to. The plan knows more than the parameters: a bulk that leaves one channel at
    0/0 is a `set_zero_fee`, which patterns, policy and overrides may deny by that name."""
    scored = scored_as(spec, params, facts)
    if scored is not spec or (spec.schema, spec.name) != (FEE_POLICY, "set_bulk"):
        return scored
    present = {fact.scid: (fact.fee_base_msat, fact.fee_ppm) for fact in plan.channels}
    for scid, new in plan.new_fees.items():
        ends_at = [now if wanted is None else wanted for wanted, now in zip(new, present[scid], strict=True)]
        if ends_at == [0, 0] and present[scid] != (0, 0):
            return find(FEE_POLICY, "set_zero_fee")
    return spec
