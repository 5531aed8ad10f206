"""Closing a channel: `close_cooperative` and `close_unilateral` of hive:channel/v1
(docs/protocol/02-fleet-management.md §4 item 6; docs/decisions/0373).

`close` runs inside the node and may take as long as the peer is away. The channel's state tells how far it
is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Final

from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError
from hive_shared.errors import HiveError, from_symbol
from msgspec.structs import replace

from ...domain.json_value import whole
from ...domain.spend import ONCHAIN, Spend
from ..ports_commands import Node
from .action import Caller, Outcome, Params, Plan, WriteAction
from .channel_open import Open, OpenBatch
from .channels import channel_key, fact_of, find_channel
from .feerate import perkw
from .long_call import LongCalls
from .node_errors import node_error
from .own_address import is_own
from .pages import pick

ANSWER_S: Final = 20.0
"""How long a command waits for the node's answer before it counts as left to the node."""
AWAY_S: Final = 2.0
"""The same while the peer is not connected: it will not be quick."""
SETTLED_S: Final = 60
"""After so long a channel that shows no trace of closing was not told to."""
OPEN: Final = ("CHANNELD_NORMAL", "CHANNELD_AWAITING_LOCKIN")
CLOSING: Final = ("CHANNELD_SHUTTING_DOWN", "CLOSINGD_SIGEXCHANGE")
CLOSED: Final = ("CLOSINGD_COMPLETE", "AWAITING_UNILATERAL", "FUNDING_SPEND_SEEN", "ONCHAIN", "CLOSED")
_CLOSE_WEIGHT: Final = 724
BLOCKS_LEFT: Final = 6
"""How many blocks before its expiry an HTLC may be resolved by closing its channel."""

Row = Mapping[str, Any]


class _Close(ABC):
    """One channel, closed once."""

    STATES: tuple[str, ...] = OPEN

    def __init__(self, node: Node, calls: LongCalls) -> None:
        self._node, self._calls = node, calls

    @abstractmethod
    async def _terms(self, params: Params) -> dict[str, JsonValue]:
        """`asked`: the parameters of `close`; `wait_s`, `held_s`; `foreign`, `perkw`,
        and whether that feerate was `chosen` by the command."""

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Find the channel and what closing costs. Raises InvalidParams, ClnError."""
        text = str(params["channel_id"])
        row = find_channel(await self._node.listpeerchannels(), text)
        state = str(row["state"])
        if state not in self.STATES:
            raise from_symbol(
                "invalid_params",
                f"channel {text} is in state {state}, in which it cannot be closed this way",
                param="channel_id",
                expected=f"a channel in state {' or '.join(self.STATES)}",
            )
        terms = await self._terms(params)
        ours_sat = int(row["to_us_msat"]) // 1_000
        foreign = terms.pop("foreign") is True
        rate, chosen = whole(terms.pop("perkw")), terms.pop("chosen") is True
        undo: dict[str, JsonValue] = {
            **terms,
            "closes": {
                "channel": channel_key(row),
                "channel_id": str(row["channel_id"]),
                "peer_id": str(row["peer_id"]),
                "state": state,
                "to_us_msat": int(row["to_us_msat"]),
            },
            "peer_away": row.get("peer_connected") is False,
            "started": caller.now,
        }
        return Plan(
            undo=undo,
            # What an approval is for: this channel, as long as it can still be closed so.
            basis=[str(row["channel_id"])],
            channels=(fact_of(row),),
            locks=frozenset({f"channel:{row['channel_id']}"}),
            amount_sat=ours_sat,
            spend=Spend(ONCHAIN, ours_sat if foreign else 0, closing_fee(row, rate)),
            foreign=foreign,
            feerate_perkw=rate if chosen else 0,
        )

    async def run(self, plan: Plan, caller: Caller) -> Outcome:
        """`close`, once; what the node shows afterwards decides."""
        undo = plan.undo
        asked = undo["asked"]
        assert isinstance(asked, dict)
        try:
            answer = await self._calls.answer(
                caller.command_id,
                "close",
                {"id": _of(undo)["channel_id"], **asked},
                wait_s=_answer_s(undo, asked),
                held_s=whole(undo["held_s"]),
            )
        except ClnError as error:
            if error.outcome_unknown:
                return await self.probe(undo, caller) or _left(undo)
            return await self._after_refusal(undo, error)
        if answer is None:
            return await self.probe(undo, caller) or _left(undo)
        return _done(undo, {**txids_of(answer), "type": str(answer["type"])})

    async def probe(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome | None:
        """How far the channel is."""
        try:
            row = await self._row(undo)
        except ClnError:
            return None
        if row is None:
            self._calls.forget(caller.command_id)
            unclear = from_symbol("indeterminate", "the node does not know the channel any more; check it")
            return Outcome("indeterminate", _result(undo), unclear)
        if row["state"] in CLOSED:
            self._calls.forget(caller.command_id)
            return _done(undo, how_closed(row))
        was, age = _of(undo)["state"], caller.now - whole(undo["started"])
        if self._calls.running(caller.command_id):
            return _left(undo, row)
        if row["state"] != was:
            # It is closing, and nothing can stop that.
            return _left(undo, row)
        refusal = self._calls.refusal(caller.command_id)
        if refusal is not None:
            self._calls.forget(caller.command_id)
            return Outcome("error", _result(undo), node_error(refusal), acted=False)
        if age < SETTLED_S + whole(undo["held_s"]) * (was in CLOSING):
            return _left(undo, row)
        if was in CLOSING:
            unclear = from_symbol("indeterminate", "the channel is closing as it was before; check it")
            return Outcome("indeterminate", _result(undo), unclear)
        stopped = from_symbol("shutting_down", "the plugin stopped before the channel was told to close")
        return Outcome("error", _result(undo), stopped, acted=False)

    async def _after_refusal(self, undo: Mapping[str, JsonValue], error: ClnError) -> Outcome:
        try:
            row = await self._row(undo)
        except ClnError:
            lost = from_symbol("indeterminate", "the channel could not be read after the refusal; check it")
            return Outcome("indeterminate", _result(undo), lost)
        if row is not None and row["state"] in CLOSED:
            return _done(undo, how_closed(row))
        if row is not None and row["state"] != _of(undo)["state"]:
            return _left(undo, row)
        return Outcome("error", _result(undo), node_error(error), acted=False)

    async def _row(self, undo: Mapping[str, JsonValue]) -> Row | None:
        """The channel as the node lists it, alive or closed for good; None when it lists it nowhere."""
        wanted = _of(undo)
        for row in await self._node.listpeerchannels(str(wanted["peer_id"])):
            if row.get("channel_id") == wanted["channel_id"]:
                return row
        closed = await self._node.call("listclosedchannels", {"id": wanted["peer_id"]})
        for row in closed.get("closedchannels", ()):
            if row.get("channel_id") == wanted["channel_id"]:
                return {"state": "CLOSED", **row}
        return None


class CloseCooperative(_Close):
    """`close_cooperative`: with the peer, however long that takes."""

    async def _terms(self, params: Params) -> dict[str, JsonValue]:
        asked: dict[str, JsonValue] = {"unilateraltimeout": 0}
        destination, foreign = params.get("destination"), False
        if destination is not None:
            foreign = not await is_own(self._node, str(destination), "destination")
            asked["destination"] = destination
        feerange = params.get("feerange")
        if not isinstance(feerange, list):
            rate = await perkw(self._node, None, "feerange")
        else:
            low, high = [await perkw(self._node, str(each), "feerange") for each in feerange]
            if low > high:
                raise from_symbol(
                    "invalid_params",
                    f"feerange goes from {low} to {high} perkw",
                    param="feerange",
                    expected="the lower feerate first",
                )
            asked["feerange"] = [f"{low}perkw", f"{high}perkw"]
            rate = high
        return {
            "asked": asked,
            "wait_s": params["wait_s"],
            "held_s": params["wait_s"],
            "foreign": foreign,
            "perkw": rate,
            "chosen": feerange is not None,
        }


class CloseUnilateral(_Close):
    """`close_unilateral`: without the peer if it does not agree within `grace_s`."""

    STATES = (*OPEN, *CLOSING)

    async def _terms(self, params: Params) -> dict[str, JsonValue]:
        grace_s = whole(params["grace_s"])
        return {
            "asked": {"unilateraltimeout": grace_s},
            "wait_s": grace_s + 30,
            "held_s": grace_s + 120,
            "foreign": False,
            "perkw": await perkw(self._node, None, "feerange"),
            "chosen": False,
        }


class ForceClose(CloseUnilateral):
    """`force_close` of the emergency schema, `close_punitive`: the peer gets one second.

    What an outdated commitment of the peer costs it, CLN claims by itself.
    """

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """As `close_unilateral` with the shortest grace."""
        return await super().prepare({**params, "grace_s": 1}, caller)


class ResolveExpired(ForceClose):
    """`force_resolve_expired`: the channel of an HTLC that is about to expire or has is closed."""

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Find the HTLC. Raises InvalidParams for one that is not in flight, or has time left; ClnError."""
        scid, number, *direction = str(params["htlc_id"]).split(":")
        row = find_channel(await self._node.listpeerchannels(), scid, "htlc_id")
        found = [
            htlc
            for htlc in row.get("htlcs", ())
            if int(htlc["id"]) == int(number) and direction in ([], [htlc["direction"]])
        ]
        if len(found) != 1:
            raise _wrong(params, "one HTLC in flight, told apart by :in or :out; list_stuck shows them")
        height, expiry = int((await self._node.getinfo())["blockheight"]), int(found[0]["expiry"])
        if height < expiry - BLOCKS_LEFT:
            raise _wrong(
                params, f"at most {BLOCKS_LEFT} blocks from its expiry at {expiry}; the height is {height}"
            )
        plan = await super().prepare({"channel_id": row["channel_id"]}, caller)
        return replace(plan, basis=[str(row["channel_id"]), str(params["htlc_id"])])


def _wrong(params: Params, expected: str) -> HiveError:
    sentence = f"htlc_id {params['htlc_id']} must be {expected}"
    return from_symbol("invalid_params", sentence, param="htlc_id", expected=expected)


def _answer_s(undo: Mapping[str, JsonValue], asked: Mapping[str, JsonValue]) -> float:
    alone = whole(asked["unilateraltimeout"]) > 0
    return AWAY_S if undo["peer_away"] and not alone else min(ANSWER_S, whole(undo["wait_s"]))


def _of(undo: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
    closes = undo["closes"]
    assert isinstance(closes, dict)
    return closes


def _result(undo: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    return {name: _of(undo)[name] for name in ("channel", "channel_id", "peer_id")}


def _left(undo: Mapping[str, JsonValue], row: Row | None = None) -> Outcome:
    shown = {} if row is None else pick(row, ("state", "peer_connected"))
    if "state" in shown:
        shown["channel_state"] = shown.pop("state")
    return Outcome("pending_external", {**_result(undo), **shown})


def _done(undo: Mapping[str, JsonValue], how: Mapping[str, JsonValue]) -> Outcome:
    return Outcome("success", {**_result(undo), "to_us_msat": _of(undo)["to_us_msat"], **how})


def closing_fee(row: Row, perkw: int) -> int:
    """What closing costs us at a feerate, in sat: who opened a channel pays for its end."""
    return -(-perkw * _CLOSE_WEIGHT // 1_000) if row.get("opener") == "local" else 0


def txids_of(answer: Row) -> dict[str, JsonValue]:
    """The transactions an answer of `close` names; older nodes name one."""
    found = answer.get("txids") or [answer[name] for name in ("txid",) if name in answer]
    return {"txids": [str(each) for each in found]}


def how_closed(row: Row) -> dict[str, JsonValue]:
    """Type and transaction of a closed channel, as far as its row tells."""
    passed = {str(each.get("new_state")) for each in row.get("state_changes", ())} | {str(row["state"])}
    told: dict[str, JsonValue] = {"type": "unknown"}
    if "AWAITING_UNILATERAL" in passed:
        told["type"] = "unilateral"
    elif "CLOSINGD_COMPLETE" in passed:
        told["type"] = "mutual"
    txid = row.get("scratch_txid") or row.get("last_commitment_txid")
    if txid is not None:
        told["txids"] = [str(txid)]
    return told | pick(row, ("closer", "close_cause"))


def channel_writes(node: Node, calls: LongCalls, engaged: Callable[[], bool]) -> dict[str, WriteAction]:
    """The writes of hive:channel/v1 by action."""
    return {
        "open": Open(node, calls, engaged),
        "open_batch": OpenBatch(node, calls, engaged),
        "close_cooperative": CloseCooperative(node, calls),
        "close_unilateral": CloseUnilateral(node, calls),
        "close_punitive": ForceClose(node, calls),
    }
