"""What the kit knows of a node's state, from answers that it verified (docs/protocol/11-advisor-kit.md §5.1).

Only what the node said counts, and only as of the moment it was asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec
from hive_shared.registry import CONTROL, FEE_POLICY, MONITOR

from hive_advisor.domain.command_machine import FINAL, UNSIGNED, CommandState, did_nothing
from hive_advisor.domain.rows import StoredCommand

FRESH_S: Final = 600
"""How old a read may be that a write is measured by."""

_FEE_READS: Final = ("fee_report", "channel_list")


class FeeSeen(msgspec.Struct, frozen=True):
    """Fees of a channel as its node told them, asked at `at` (our clock, unix seconds)."""

    base_msat: int
    ppm: int
    at: int


class Observed(msgspec.Struct, frozen=True):
    """`fees` by short channel id and by channel id; `onchain_sats` is confirmed and not reserved.

    What is not there is not known.
    """

    fees: Mapping[str, FeeSeen] = msgspec.field(default_factory=lambda: MappingProxyType({}))
    onchain_sats: int | None = None
    onchain_at: int | None = None

    def fee(self, channel: str, now: int) -> FeeSeen | None:
        """The fees of a channel if they were read in the last ten minutes."""
        seen = self.fees.get(channel)
        return seen if seen is not None and now - FRESH_S <= seen.at <= now else None

    def onchain(self, now: int) -> int | None:
        """The on-chain funds if they were read in the last ten minutes."""
        at = self.onchain_at
        return self.onchain_sats if at is not None and now - FRESH_S <= at <= now else None


def observe(commands: Iterable[StoredCommand]) -> Observed:
    """What the latest commands to one client, and all that are open, tell about it.

    A read counts from when it was asked. A fee change that may have run since makes what was read unknown,
    unless its own answer says what the fees are now.
    """
    fees: dict[str, FeeSeen] = {}
    same: dict[str, tuple[str, ...]] = {}
    sats: int | None = None
    at: int | None = None
    for command in sorted(commands, key=_moment):
        if command.schema == MONITOR:
            result = _result(command)
            if command.action in _FEE_READS:
                _take_fees(fees, same, result, command.created)
            elif command.action == "onchain_balance" and (found := _confirmed(result)) is not None:
                sats, at = found, command.created
            continue
        if command.schema == CONTROL or command.state in UNSIGNED:
            continue
        if did_nothing(command.state, command.slug):
            continue
        if command.schema != FEE_POLICY or command.action == "list_anchors":
            # Whatever else wrote may have spent; a splice, an opening, a send.
            if not command.schema.startswith(("hive:htlc-", "hive:peer/", "hive:backup/")):
                sats, at = None, None
            if command.schema.startswith(("hive:emergency/", "hive:config/")):
                fees.clear()
            continue
        _forget(fees, same, command)
        _take_written(fees, same, command)
    return Observed(MappingProxyType(fees), sats, at)


def _moment(command: StoredCommand) -> tuple[bool, int, int]:
    """Reads by when they were asked, writes by when they ended; what is open may still run."""
    if command.schema == MONITOR:
        return False, command.created, command.nonce
    return command.state not in FINAL, command.updated, command.nonce


def _result(command: StoredCommand) -> Mapping[str, Any]:
    done = command.state in (CommandState.DONE, CommandState.PARTIAL)
    result = (command.response or {}).get("result") if done else None
    return result if isinstance(result, dict) else {}


def _take_fees(
    fees: dict[str, FeeSeen], same: dict[str, tuple[str, ...]], result: Mapping[str, Any], at: int
) -> None:
    items = result.get("items")
    for item in items if isinstance(items, list) else ():
        if not isinstance(item, dict):
            continue
        base, ppm = _count(item.get("fee_base_msat")), _count(item.get("fee_proportional_millionths"))
        names = tuple(str(item[key]) for key in ("channel", "channel_id") if isinstance(item.get(key), str))
        if base is None or ppm is None:
            continue
        for name in names:
            fees[name] = FeeSeen(base, ppm, at)
            same[name] = names


def _named(command: StoredCommand) -> tuple[str, ...]:
    given = command.params.get("channels")
    named = [*given] if isinstance(given, list) else [command.params.get("channel_id")]
    return tuple(str(name) for name in named)


def _forget(fees: dict[str, FeeSeen], same: dict[str, tuple[str, ...]], command: StoredCommand) -> None:
    for name in _named(command):
        for other in same.get(name, (name,)):
            fees.pop(other, None)


def _take_written(fees: dict[str, FeeSeen], same: dict[str, tuple[str, ...]], command: StoredCommand) -> None:
    """The fees that a single change says it left; an anchor runs out by itself, so it says nothing."""
    named, result = _named(command), _result(command)
    new = result.get("new")
    if command.action not in ("set_single", "set_zero_fee") or len(named) != 1 or not isinstance(new, dict):
        return
    if "now" in result:
        return  # the node found other fees than it had set
    base, ppm = _count(new.get("base_msat")), _count(new.get("fee_ppm"))
    if base is not None and ppm is not None:
        for other in same.get(named[0], named):
            fees[other] = FeeSeen(base, ppm, command.created)


def _confirmed(result: Mapping[str, Any]) -> int | None:
    status = result.get("by_status")
    total = _count(status.get("confirmed", 0)) if isinstance(status, dict) else None
    reserved = _count(result.get("reserved_msat"))
    return None if total is None or reserved is None else max(0, total - reserved) // 1_000


def _count(value: object) -> int | None:
    """An amount as the node writes it: a number, or its digits where it is too large for one."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 19:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
