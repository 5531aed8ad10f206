"""hive:peer/v1 (docs/protocol/02-fleet-management.md §4 item 8).

CLN has no call for a ban: it is an armed timer of this plugin, which the peer gate and the policy read as a
forbidden peer, and which ends by the clock (docs/decisions/0362).
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError
from hive_shared.errors import HiveError, from_symbol
from msgspec.structs import replace

from ...domain.command_record import TimerRow
from ..ports_commands import Node
from .action import Caller, Outcome, Params, Plan, WriteAction
from .channels import fact_of
from .node_errors import node_error
from .pages import pick

BAN: Final = "ban"
"""Kind of the timer that is a ban."""
WITHOUT_END: Final = 253_402_300_799
"""Due time of a ban without hours: the end of the year 9999."""
_CONNECT_S: Final = 90.0
_WHY: Final = {
    400: "the node knows no address of this peer; give host and port",
    401: "none of the peer's addresses answered",
    402: "the peer hung up during the handshake",
}

Bans = Callable[[], Awaitable[tuple[TimerRow, ...]]]
"""Armed bans."""


class _PeerAction:
    """What the node knows of the named peer."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def _peer(self, peer_id: str) -> Mapping[str, Any] | None:
        peers = (await self._node.call("listpeers", {"id": peer_id}))["peers"]
        return next((row for row in peers if row.get("id") == peer_id), None)

    async def _connected(self, undo: Mapping[str, JsonValue]) -> bool | None:
        """Whether the peer is connected; None when the node cannot be asked."""
        try:
            row = await self._peer(str(undo["peer_id"]))
        except ClnError:
            return None
        return row is not None and row.get("connected") is True

    async def _plan(self, peer_id: str, undo: dict[str, JsonValue], basis: JsonValue) -> Plan:
        rows = await self._node.listpeerchannels(peer_id)
        return Plan(
            undo={"peer_id": peer_id, **undo},
            basis=basis,
            channels=tuple(fact_of(row) for row in rows if row.get("state") in _LIVE),
            locks=frozenset({f"peer:{peer_id}"}),
            peer_channels=len(rows),
        )


_LIVE: Final = frozenset({"CHANNELD_NORMAL", "CHANNELD_AWAITING_SPLICE"})


class Connect(_PeerAction):
    """`connect`: to a peer, at the address given or one that the node knows."""

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Plan the call. Raises InvalidParams for a port without a host."""
        host, port = params.get("host"), params.get("port")
        if port is not None and host is None:
            raise from_symbol(
                "invalid_params", "port needs host", param="port", expected="given together with host"
            )
        peer_id = str(params["peer_id"])
        # Its channels are not touched by connecting.
        return replace(await self._plan(peer_id, {"host": host, "port": port}, [host, port]), channels=())

    async def run(self, plan: Plan, caller: Caller) -> Outcome:
        """Connect; a peer that is connected already is fine."""
        asked = {"id": plan.undo["peer_id"], "host": plan.undo["host"], "port": plan.undo["port"]}
        try:
            answer = await self._node.call("connect", asked, timeout=_CONNECT_S)
        except ClnError as error:
            if error.outcome_unknown and await self._connected(plan.undo):
                return _connected(plan.undo, {})
            return _failed(error)
        return _connected(plan.undo, answer)

    async def probe(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome | None:
        """Whether it is connected now."""
        there = await self._connected(undo)
        if there is None:
            return None
        return _connected(undo, {}) if there else _stopped("the plugin stopped before the peer was connected")


def _connected(undo: Mapping[str, JsonValue], answer: Mapping[str, Any]) -> Outcome:
    return Outcome("success", {"peer_id": undo["peer_id"], **pick(answer, ("direction", "address"))})


def _failed(error: ClnError) -> Outcome:
    told = node_error(error)
    if error.code in _WHY:
        told = from_symbol("node_error", _WHY[error.code], rpc=error.method, code=error.code)
    return Outcome("error", {}, told, acted=False)


def _stopped(sentence: str) -> Outcome:
    return Outcome("error", {}, from_symbol("shutting_down", sentence), acted=False)


class Disconnect(_PeerAction):
    """`disconnect`: hang up on a peer; by force if it has channels."""

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Plan the call. Raises InvalidParams when the peer is not connected."""
        peer_id = str(params["peer_id"])
        row = await self._peer(peer_id)
        if row is None or row.get("connected") is not True:
            raise _not_connected(peer_id)
        plan = await self._plan(peer_id, {}, None)
        plan.undo["force"] = bool(plan.peer_channels)
        return replace(plan, basis=[plan.peer_channels])

    async def run(self, plan: Plan, caller: Caller) -> Outcome:
        """Hang up."""
        asked = {"id": plan.undo["peer_id"], "force": plan.undo["force"]}
        try:
            await self._node.call("disconnect", asked)
        except ClnError as error:
            if error.outcome_unknown:
                return await self.probe(plan.undo, caller) or _unclear(plan.undo)
            return _failed(error)
        return _hung_up(plan.undo)

    async def probe(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome | None:
        """Whether it is gone. One with channels comes back by itself, so being there proves nothing."""
        there = await self._connected(undo)
        if there is None:
            return None
        if not there:
            return _hung_up(undo)
        return _unclear(undo) if undo["force"] else _stopped("the plugin stopped before the peer was cut off")


def _not_connected(peer_id: str) -> HiveError:
    return from_symbol(
        "invalid_params",
        f"peer {peer_id} is not connected; hive:monitor/v1 peer_list shows who is",
        param="peer_id",
        expected="a connected peer",
    )


def _hung_up(undo: Mapping[str, JsonValue]) -> Outcome:
    result: dict[str, JsonValue] = {"peer_id": undo["peer_id"], "had_channels": undo["force"]}
    return Outcome("success", result)


def _unclear(undo: Mapping[str, JsonValue]) -> Outcome:
    text = "the peer is connected; whether it was cut off and came back is not known"
    return Outcome("indeterminate", {"peer_id": undo["peer_id"]}, from_symbol("indeterminate", text))


class Ban(_PeerAction):
    """`ban`: no connection and no channel for a peer, for some hours or until `unban`. `engaged` is the kill
    switch."""

    def __init__(self, node: Node, engaged: Callable[[], bool]) -> None:
        super().__init__(node)
        self._engaged = engaged

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Plan the ban and note when it ends."""
        hours, peer_id = params.get("hours"), str(params["peer_id"])
        until = WITHOUT_END if not isinstance(hours, int) else caller.now + hours * 3_600
        return await self._plan(peer_id, {"reason": params["reason"], "until": until}, [hours])

    async def run(self, plan: Plan, caller: Caller) -> Outcome:
        """Cut the peer off unless it has channels, which could not settle; keep the ban with the receipt."""
        undo, kept = plan.undo, bool(plan.peer_channels)
        there = not kept and await self._connected(undo)
        if self._engaged():
            stop = from_symbol(
                "emergency_stop", "the emergency stop was engaged before the ban; the peer is not banned"
            )
            return Outcome("error", {}, stop, acted=False)
        if there:
            try:
                await self._node.call("disconnect", {"id": undo["peer_id"]})
            except ClnError:
                # The gate looks again every minute; a ban does not fail for that.
                kept = False
        timer = TimerRow(
            timer_id=caller.command_id,
            kind=BAN,
            subject=str(undo["peer_id"]),
            due=int(str(undo["until"])),
            payload_json=json.dumps(
                {
                    "reason": undo["reason"],
                    "credential_id": caller.credential_id,
                    "advisor_id": caller.advisor_id,
                }
            ),
        )
        result: dict[str, JsonValue] = {"peer_id": undo["peer_id"], "stays_connected": kept}
        if undo["until"] != WITHOUT_END:
            result["until"] = undo["until"]
        return Outcome("success", result, arm=(timer,))

    async def probe(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome | None:
        """A ban is kept with its receipt, so without one there is none."""
        return _stopped("the plugin stopped before the ban was kept; the peer is not banned")


class Unban(_PeerAction):
    """`unban`: end a ban."""

    def __init__(self, node: Node, bans: Bans) -> None:
        super().__init__(node)
        self._bans = bans

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Plan it. Raises InvalidParams when the peer is not banned by a command."""
        peer_id = str(params["peer_id"])
        if not any(timer.subject == peer_id and timer.due > caller.now for timer in await self._bans()):
            raise from_symbol(
                "invalid_params",
                f"peer {peer_id} is not banned by a command; peers that the operator forbade stay forbidden",
                param="peer_id",
                expected="a peer that ban banned",
            )
        return Plan(undo={"peer_id": peer_id}, basis=[peer_id], locks=frozenset({f"peer:{peer_id}"}))

    async def run(self, plan: Plan, caller: Caller) -> Outcome:
        """The ban ends with the receipt."""
        peer_id = str(plan.undo["peer_id"])
        return Outcome("success", {"peer_id": peer_id}, disarm=((BAN, peer_id),))

    async def probe(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome | None:
        """It ends with its receipt, so without one it stands."""
        return _stopped("the plugin stopped before the ban was ended; it stands")


def peer_writes(node: Node, bans: Bans, engaged: Callable[[], bool]) -> dict[str, WriteAction]:
    """The actions of the schema by name."""
    return {
        "connect": Connect(node),
        "disconnect": Disconnect(node),
        "ban": Ban(node, engaged),
        "unban": Unban(node, bans),
    }
