"""The shape of an action (docs/protocol/02-fleet-management.md §4, §7.1 steps 10 to 20).

A read answers at once. A write first *prepares*: it asks the node what is and works out what would be,
without changing anything; policy, conflict and approval judge that plan. Then it *runs* once, after the
`executing` row is on disk. After a crash it is never run again: *probe* asks the node what happened.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Literal, Protocol

import msgspec
from hive_shared.alerts import Level
from hive_shared.canonical import JsonValue
from hive_shared.errors import HiveError

from ...domain.command_record import FeeWrite, TimerRow
from ...domain.config_history import ConfigChange
from ...domain.forwarding import Hold
from ...domain.policy import ChannelFact
from ...domain.spend import Spend

Params = Mapping[str, JsonValue]
FeePair = tuple[int | None, int | None]
"""Base fee (msat) and rate (ppm); None leaves the value alone."""

NODE_ROOTS: Final = frozenset({"wallet", "config", "plugins"})
"""Roots of the state hash (02 §9.3) that take a call of their own to read."""
CHANNELS_ONLY: Final = frozenset[str]()
"""What of NODE_ROOTS a change of channels' fees and bounds can move."""


class Caller(msgspec.Struct, frozen=True):
    """On whose behalf an action runs, and when (unix seconds)."""

    command_id: str
    sender_key: str
    advisor_id: str
    credential_id: str
    now: int


class Plan(msgspec.Struct, frozen=True):
    """What a write would do. `undo` is stored before the first change and is all that `probe` gets.

    `basis` is what the node showed: an approval holds only while it stays the same. `fields` names what
    changes on each channel (conflict rule of 02 §7.5); `before` holds the node's channel rows as read, for
    the state hash. `amount_sat` is what rules on amounts compare; `spend` what leaves the node's hands, None
    when nothing does; `foreign` whether an on-chain destination is (or may be) somebody else's;
    `peer_channels` how many channels the named peer has with us, None where that is not asked;
    `feerate_perkw` the on-chain rate it would pay, also where the node chose it, 0 where the peer has a say;
    `peers` whom it concerns beside the channels' peers and those the parameters name. `proposal`
    says that the run only tells the operator what they could do themselves, so that it needs no approval
    before (docs/decisions/0370). `option` is the node's option that the run sets without naming it, for
    `allowed_config`; `held_back` is a waiting time of the action's own, told at step 14; `later` are the
    actions that the run has the node do by itself, which the credential has to allow as well. `moves` are the
    NODE_ROOTS that the run can move, read afresh for its two state hashes; a plan that does not say so may
    move each (docs/decisions/0395).
    """

    undo: dict[str, JsonValue]
    basis: JsonValue = None
    channels: tuple[ChannelFact, ...] = ()
    new_fees: Mapping[str, FeePair] = msgspec.field(default_factory=dict)
    fields: frozenset[str] = frozenset()
    locks: frozenset[str] = frozenset()
    before: tuple[Mapping[str, Any], ...] = ()
    amount_sat: int = 0
    spend: Spend | None = None
    foreign: bool = True
    peer_channels: int | None = None
    feerate_perkw: int = 0
    peers: frozenset[str] = frozenset()
    proposal: bool = False
    later: tuple[tuple[str, str], ...] = ()
    option: str = ""
    held_back: HiveError | None = None
    moves: frozenset[str] = NODE_ROOTS


class Outcome(msgspec.Struct, frozen=True):
    """How a run ended. `acted` False: nothing changed, counters are given back.

    `after` holds re-read channel rows by channel id, so that the state hash afterwards costs no second
    full listing. `hold` and `release` (reason, channel id) are the channels this run disabled and enabled;
    `alert` raises the operator's alert at least to that level. `spent` is what the reserved spend came to,
    None for as much as was reserved. `pending_external`: the node has begun and is not done; the same
    action's `probe` is asked again by the clock until it knows. `proposal` is what the operator is told they
    could do; it takes the place of the alert about the command. `config_changes` are settings it changed.
    `recorded` gives what is left to the node (`pending_external`) a receipt of its own before its end;
    `then` is what is done once the outcome is on disk, by an action that nothing could be recorded after.
    """

    state: Literal["success", "error", "partial", "indeterminate", "pending_external"]
    result: dict[str, JsonValue]
    error: HiveError | None = None
    acted: bool = True
    fee_writes: tuple[FeeWrite, ...] = ()
    arm: tuple[TimerRow, ...] = ()
    disarm: tuple[tuple[str, str], ...] = ()
    after: Mapping[str, Mapping[str, Any]] = msgspec.field(default_factory=dict)
    hold: tuple[Hold, ...] = ()
    release: tuple[tuple[str, str], ...] = ()
    alert: Level | None = None
    spent: Spend | None = None
    proposal: str = ""
    config_changes: tuple[ConfigChange, ...] = ()
    recorded: bool = False
    then: Callable[[], Awaitable[None]] | None = None


class ReadAction(Protocol):
    """An action that changes nothing."""

    async def read(self, params: Params, caller: Caller) -> dict[str, JsonValue]:
        """The result. Raises HiveError; node errors pass as ClnError."""
        ...


class WriteAction(Protocol):
    """An action that changes the node."""

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Ask the node and plan. Raises HiveError when it cannot be done as asked. Changes nothing."""
        ...

    async def run(self, plan: Plan, caller: Caller) -> Outcome:
        """Do it once. Never raises for what the node refuses: that is an outcome."""
        ...

    async def probe(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome | None:
        """What became of a run whose end we did not see; None when the node cannot be asked now."""
        ...


Action = ReadAction | WriteAction
