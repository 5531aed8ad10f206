"""`peer_rebalance`: a task of cl-hive's for a fleet peer (docs/protocol/02-fleet-management.md §4 item 5,
docs/protocol/05-coordination.md §21; docs/decisions/0413).

The tasks that cl-hive knew before are on our disk before it is asked, so that a task that was made and whose
answer was lost is found among those that came since.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError
from hive_shared.errors import Busy, HiveError, from_symbol
from hive_shared.store import StoreError

from ...domain.lightning_invoice import fee_bound_msat, refused, sats_up
from ...domain.spend import REBALANCE, Spend
from ..ports_commands import Node
from .action import CHANNELS_ONLY, Caller, Outcome, Params, Plan
from .channels import fact_of
from .moved_balance import BALANCE
from .node_errors import node_error
from .wallet_send import Keep

TASKS: Final = "hive-tasks"
_LATE_S: Final = 60
"""How long a call whose asker is gone may still make a task."""
_SAME: Final = ("target", "amount_sats", "direction", "max_fee_ppm")


class PeerRebalance:
    """The action. `engaged` is the kill switch; `now` the time in unix seconds."""

    def __init__(self, node: Node, keep: Keep, engaged: Callable[[], bool], now: Callable[[], int]) -> None:
        self._node, self._keep, self._engaged, self._now = node, keep, engaged, now

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Plan it. Raises InvalidParams for a peer without a channel that carries payments."""
        peer, amount, ppm = str(params["peer_id"]), params["amount_sats"], params["max_fee_ppm"]
        assert isinstance(amount, int) and isinstance(ppm, int)
        rows = await self._node.listpeerchannels()
        shared = [row for row in rows if row["peer_id"] == peer and row.get("state") == "CHANNELD_NORMAL"]
        if not shared:
            why = "this node has no channel with that peer that carries payments"
            raise refused(why, "a peer with a channel in state CHANNELD_NORMAL", "peer_id")
        return Plan(
            undo={
                "target": peer,
                "amount_sats": amount,
                "direction": params["direction"],
                "max_fee_ppm": ppm,
                "known": None,
                "started": None,
            },
            basis=[peer],
            channels=tuple(fact_of(row) for row in shared),
            fields=frozenset({BALANCE}),
            locks=frozenset({TASKS}),
            before=tuple(rows),
            amount_sat=amount,
            spend=Spend(REBALANCE, 0, sats_up(fee_bound_msat(amount * 1_000, ppm))),
            moves=CHANNELS_ONLY,
        )

    async def run(self, plan: Plan, caller: Caller) -> Outcome:
        """Note the tasks there are, ask for one more."""
        undo = dict(plan.undo)
        try:
            undo["known"] = [task_id for task_id, _ in await self._tasks(undo)]
        except ClnError as error:
            return _nothing_asked(node_error(error))
        undo["started"] = self._now()
        try:
            await self._keep(caller, undo)
        except (StoreError, Busy):
            text = "the node cannot write its records now, so no task was made"
            return _nothing_asked(from_symbol("receipt_store_unavailable", text))
        if self._engaged():
            return _nothing_asked(
                from_symbol("emergency_stop", "the emergency stop was engaged before a task was made")
            )
        asked = {name: undo[name] for name in _SAME}
        try:
            answer = await self._node.call(TASKS, {"action": "request", "task_type": "rebalance", **asked})
        except ClnError as error:
            if not error.outcome_unknown:
                return _nothing_asked(node_error(error))
            return await self.probe(undo, caller) or Outcome("pending_external", _result(undo, None))
        made = [task for task in _rows(answer) if _is_asked(task, undo)]
        return _requested(undo, made[0]) if len(made) == 1 else await self._found(undo, caller)

    async def probe(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome | None:
        """Look for a task that came since."""
        if undo["started"] is None:
            return _nothing_asked(from_symbol("shutting_down", "the plugin stopped before a task was made"))
        try:
            return await self._found(undo, caller)
        except ClnError:
            return None

    async def _found(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome:
        known, started = undo["known"], undo["started"]
        assert isinstance(known, list) and isinstance(started, int)
        new = [task for task_id, task in await self._tasks(undo) if task_id not in known]
        if len(new) == 1:
            return _requested(undo, new[0])
        if new:
            text = f"{len(new)} such tasks were made meanwhile; which one is this command's is not known"
            return Outcome("indeterminate", _result(undo, None), from_symbol("indeterminate", text))
        if caller.now < started + _LATE_S:
            return Outcome("pending_external", _result(undo, None))
        return _nothing_asked(from_symbol("shutting_down", "cl-hive made no task; ask again"))

    async def _tasks(self, undo: Mapping[str, JsonValue]) -> list[tuple[str, Mapping[str, Any]]]:
        """Id and row of the tasks like this one. Raises ClnError."""
        answer = await self._node.call(TASKS, {"action": "list", "task_type": "rebalance"})
        return [(str(task["request_id"]), task) for task in _rows(answer) if _is_asked(task, undo)]


def _rows(answer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    rows = answer.get("tasks")
    found = rows if isinstance(rows, list) else []
    return [row for row in found if isinstance(row, Mapping) and isinstance(row.get("request_id"), str)]


def _is_asked(task: Mapping[str, Any], undo: Mapping[str, JsonValue]) -> bool:
    return all(task.get(name) == undo[name] for name in _SAME)


def _requested(undo: Mapping[str, JsonValue], task: Mapping[str, Any]) -> Outcome:
    return Outcome("success", _result(undo, str(task["request_id"])[:80]))


def _result(undo: Mapping[str, JsonValue], request_id: str | None) -> dict[str, JsonValue]:
    found = {"peer_id": undo["target"], **{name: undo[name] for name in _SAME[1:]}}
    return found if request_id is None else {"request_id": request_id, **found}


def _nothing_asked(why: HiveError) -> Outcome:
    return Outcome("error", {}, why, acted=False)
