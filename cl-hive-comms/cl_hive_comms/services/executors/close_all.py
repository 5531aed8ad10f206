"""Closing every channel: `close_all` of hive:channel/v1 and `force_close_all` of hive:emergency/v1
(docs/protocol/02-fleet-management.md §4 items 6 and 14; docs/decisions/0420).

One `close` for each channel, each told once. What became of a channel is read from its state, as for a single
close; what the node refused is noted on disk before the command is answered, because no state shows it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError
from hive_shared.errors import HiveError, from_symbol
from hive_shared.store import StoreError

from ...domain.json_value import whole
from ...domain.spend import ONCHAIN, Spend
from ..ports_commands import Node
from .action import Caller, Outcome, Params, Plan
from .channel_close import CLOSED, CLOSING, SETTLED_S, closing_fee, how_closed
from .channels import channel_key, fact_of
from .feerate import perkw
from .node_errors import node_error
from .own_address import is_own
from .wallet_send import Keep

GRACE_S: Final = 172_800
"""How long `close_all` waits for each peer before the channel is closed without it: what CLN does unasked."""
ANSWER_S: Final = 5.0
"""How long one `close` is waited for. The node goes on with it when nobody listens any more."""
LISTED: Final = 100
"""Channels a result lists, those that are not closed first; a receipt has room for so many."""
_AT_ONCE: Final = 8
# Of the 32 connections to the node: what else the plugin does goes on meanwhile.
_OPEN: Final = (
    "CHANNELD_NORMAL",
    "CHANNELD_AWAITING_LOCKIN",
    "CHANNELD_AWAITING_SPLICE",
    "DUALOPEND_AWAITING_LOCKIN",
)
_ALL_CHANNELS: Final = "all channels"
# The basis of an approval: it is for all channels, whichever there are when it is given.

Row = Mapping[str, Any]


class _Part(msgspec.Struct, frozen=True):
    """What became of one channel: `closed`, `closing`, `open` or `unknown`, and what is told of it."""

    state: str
    doc: dict[str, JsonValue]
    error: HiveError | None = None
    fee_sat: int = 0


class CloseAll:
    """`close_all`: every open channel, with its peer if that agrees within two days, else without."""

    GRACE_S: int = GRACE_S
    STATES: tuple[str, ...] = _OPEN

    def __init__(self, node: Node, engaged: Callable[[], bool], keep: Keep) -> None:
        self._node, self._engaged, self._keep = node, engaged, keep

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Take in every channel. Raises InvalidParams for a destination that is not the node's own,
        ClnError."""
        destination = params.get("destination")
        if destination is not None and not await is_own(self._node, str(destination), "destination"):
            raise from_symbol(
                "invalid_params",
                "destination is no address of this node's wallet; all channels close to the own wallet only",
                param="destination",
                expected="an own address, or none",
            )
        listing = await self._node.listpeerchannels()
        rows = [row for row in listing if row["state"] in self.STATES]
        rate = await perkw(self._node, None, "feerange")
        wanted = [_wanted(row, closing_fee(row, rate)) for row in rows]
        left: list[JsonValue] = [
            {"channel": channel_key(row), "channel_state": str(row["state"])}
            for row in listing
            if row["state"] not in (*self.STATES, *CLOSED)
        ]
        undo: dict[str, JsonValue] = {
            "closes_all": [*wanted],
            "left": left,
            "destination": destination,
            "open": {},
            "started": caller.now,
        }
        return Plan(
            undo=undo,
            basis=_ALL_CHANNELS,
            channels=tuple(fact_of(row) for row in rows),
            locks=frozenset(f"channel:{row['channel_id']}" for row in rows),
            amount_sat=sum(int(row["to_us_msat"]) for row in rows) // 1_000,
            spend=Spend(ONCHAIN, 0, sum(whole(each["fee_sat"]) for each in wanted)),
            foreign=False,
        )

    async def run(self, plan: Plan, caller: Caller) -> Outcome:
        """`close` for each channel, once; what the node shows afterwards decides."""
        slots = asyncio.Semaphore(_AT_ONCE)
        refused: dict[str, JsonValue] = {}

        async def tell(each: Mapping[str, JsonValue]) -> None:
            async with slots:
                reason = await self._tell(each, plan.undo["destination"])
            if reason is not None:
                refused[str(each["channel_id"])] = reason

        await asyncio.gather(*(tell(each) for each in _all(plan.undo)))
        undo = {**plan.undo, "open": refused}
        outcome = await self.probe(undo, caller)
        if outcome is None:
            unclear = from_symbol("indeterminate", "the channels could not be read afterwards; check them")
            return Outcome("indeterminate", {"count": len(_all(undo))}, unclear)
        if refused and outcome.state == "pending_external":
            try:
                await self._keep(caller, undo)
            except StoreError:
                # Without the note these channels count as not told later on: open, for another reason.
                pass
        return outcome

    async def _tell(self, each: Mapping[str, JsonValue], destination: JsonValue) -> JsonValue:
        """Why a channel stays open, as far as the answer says; None when its state will tell."""
        if self._engaged():
            return {"slug": "emergency_stop"}
        asked: dict[str, object] = {"id": each["channel_id"], "unilateraltimeout": self.GRACE_S}
        if destination is not None and each["state"] not in CLOSING:
            # One that is closing has told its peer where to already.
            asked["destination"] = destination
        try:
            await self._node.call("close", asked, timeout=ANSWER_S)
        except ClnError as error:
            return None if error.outcome_unknown else {"slug": node_error(error).symbol, "code": error.code}
        return None

    async def probe(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome | None:
        """How far each channel is; over when none of them is closing any more."""
        wanted = _all(undo)
        try:
            rows = await self._rows({str(each["channel_id"]) for each in wanted})
        except ClnError:
            return None
        refused = undo["open"]
        assert isinstance(refused, dict)
        age = caller.now - whole(undo["started"])
        parts = [
            _part(each, rows.get(str(each["channel_id"])), refused.get(str(each["channel_id"])), age)
            for each in wanted
        ]
        return _outcome(parts, undo["left"])

    async def _rows(self, ids: set[str]) -> dict[str, Row]:
        """The channels as the node lists them, alive or closed for good."""
        listed = await self._node.listpeerchannels()
        rows: dict[str, Row] = {str(row["channel_id"]): row for row in listed if row.get("channel_id") in ids}
        if len(rows) < len(ids):
            answer = await self._node.call("listclosedchannels")
            for row in answer.get("closedchannels", ()):
                if row.get("channel_id") in ids:
                    rows.setdefault(str(row["channel_id"]), {"state": "CLOSED", **row})
        return rows


class ForceCloseAll(CloseAll):
    """`force_close_all`: every channel that is not closed yet; the peers get one second."""

    GRACE_S = 1
    STATES = (*_OPEN, *CLOSING)


def _wanted(row: Row, fee_sat: int) -> dict[str, JsonValue]:
    return {
        "channel": channel_key(row),
        "channel_id": str(row["channel_id"]),
        "state": str(row["state"]),
        "fee_sat": fee_sat,
    }


def _part(each: Mapping[str, JsonValue], row: Row | None, refused: JsonValue, age: int) -> _Part:
    """What the node shows of one channel. A channel's state tells more than an answer did."""
    doc: dict[str, JsonValue] = {"channel": each["channel"]}
    fee_sat = whole(each["fee_sat"])
    if row is None:
        unclear = from_symbol("indeterminate", "the node does not know a channel any more; check it")
        return _Part("unknown", {**doc, "state": "unknown"}, unclear, fee_sat)
    if row["state"] in CLOSED:
        return _Part("closed", {**doc, "state": "closed", **how_closed(row)}, fee_sat=fee_sat)
    doc["channel_state"] = str(row["state"])
    begun = row["state"] != each["state"]
    if isinstance(refused, dict) and not begun:
        told = {**doc, "state": "open", "reason": refused["slug"]}
        return _Part("open", told | {k: v for k, v in refused.items() if k == "code"}, _why(refused))
    if begun or age < SETTLED_S or each["state"] in CLOSING:
        return _Part("closing", {**doc, "state": "closing"}, fee_sat=fee_sat)
    stopped = from_symbol("shutting_down", "the plugin stopped before every channel was told to close")
    return _Part("open", {**doc, "state": "open", "reason": stopped.symbol}, stopped)


def _why(refused: Mapping[str, JsonValue]) -> HiveError:
    if refused["slug"] == "emergency_stop":
        return from_symbol(
            "emergency_stop", "the emergency stop was engaged before every channel was told to close"
        )
    return from_symbol(
        "node_error",
        f"the node refused to close a channel with code {refused.get('code')}",
        rpc="close",
        code=refused.get("code"),
    )


def _outcome(parts: Sequence[_Part], left: JsonValue) -> Outcome:
    states = Counter(part.state for part in parts)
    told = sorted(parts, key=lambda part: part.state == "closed")
    result: dict[str, JsonValue] = {
        "channels": [part.doc for part in told[:LISTED]],
        "count": len(parts),
        **{name: states[name] for name in ("closed", "closing", "open")},
    }
    if isinstance(left, list) and left:
        result["left"] = left[:LISTED]
    if states["closing"]:
        return Outcome("pending_external", result)
    if not parts:
        return Outcome("success", result, acted=False)
    error = _first(part.error for part in parts)
    if states["unknown"]:
        unclear = from_symbol("indeterminate", "the node does not know every channel any more; check them")
        return Outcome("indeterminate", result, unclear)
    if error is None:
        return Outcome("success", result)
    if not states["closed"]:
        return Outcome("error", result, error, acted=False)
    spent = Spend(ONCHAIN, 0, sum(part.fee_sat for part in parts if part.state == "closed"))
    return Outcome("partial", result, error, spent=spent)


def _first(errors: Iterable[HiveError | None]) -> HiveError | None:
    return next((error for error in errors if error is not None), None)


def _all(undo: Mapping[str, JsonValue]) -> list[Mapping[str, JsonValue]]:
    wanted = undo["closes_all"]
    assert isinstance(wanted, list)
    return [each for each in wanted if isinstance(each, dict)]
