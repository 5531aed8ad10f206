"""Figures of the operator's own nodes: asked in parallel, partial where a node does not answer
(docs/protocol/11-advisor-kit.md §11.3)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from hive_shared.errors import HiveError, Internal, InvalidParams, NotFound, TransportUnavailable

from hive_advisor.domain import figures
from hive_advisor.domain.cleaning import Own
from hive_advisor.domain.figure_tools import FIGURE_TOOLS, PENDING
from hive_advisor.domain.methods import method_table
from hive_advisor.domain.node_reads import channel_row
from hive_advisor.domain.tool_output import Outside
from hive_advisor.services.ports import NodeRefused, OwnNodeCalls

FIRST_ANSWER_S: Final = 5
"""A node that has not said by then what it is counts as away, and the others are not kept waiting."""
TOTAL_S: Final = 25
_PAGE: Final = 1_000
_PAGES: Final = 20
_UNKNOWN_COMMAND: Final = -32601
_KEY: Final = re.compile("0[23][0-9a-f]{64}")
Given = Mapping[str, Any]


@dataclass
class _Node:
    """One node within one call of a tool. ``missing`` names what the node does not have."""

    name: str
    nodes: OwnNodeCalls
    now: int
    info: Mapping[str, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    async def call(self, method: str, **params: object) -> dict[str, Any]:
        """Raises TransportUnavailable, Unauthorized, NotFound (no such method), Internal."""
        try:
            return await self.nodes.call(self.name, method, params)
        except NodeRefused as refused:
            if refused.code == _UNKNOWN_COMMAND:
                raise NotFound(f"node {self.name} has no {method}: its plugin is not running there") from None
            raise Internal(f"node {self.name} refused {method} (code {refused.code})") from refused

    async def call_if_there(self, method: str, **params: object) -> dict[str, Any] | None:
        """The same; None from a node without the method, which the answer then says."""
        try:
            return await self.call(method, **params)
        except NotFound:
            self.missing.append(method)
            return None

    async def channels(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = (await self.call("listpeerchannels"))["channels"]
        return rows

    async def newest(self, subsystem: str) -> int:
        """Index of the newest row."""
        return int(
            (await self.call("wait", subsystem=subsystem, indexname="created", nextvalue=0))["created"]
        )

    async def forwards(self, since: int) -> list[figures.Forward]:
        """The settled ones since then; that there were too many to read is said in ``missing``."""
        rows: list[dict[str, Any]] = []
        top = await self.newest("forwards")
        for _ in range(_PAGES):
            if top < 1:
                break
            start = max(1, top - _PAGE + 1)
            page = await self.call("listforwards", index="created", start=start, limit=top - start + 1)
            rows += page["forwards"]
            top = start - 1
            if page["forwards"] and min(int(row["received_time"]) for row in page["forwards"]) < since:
                break
        else:
            self.missing.append(f"forwards before the newest {_PAGE * _PAGES}")
        return [each for each in figures.settled(rows) if each.at >= since]


class FigureService:
    """Answers the tools of ``FIGURE_TOOLS``."""

    def __init__(self, nodes: OwnNodeCalls, names: tuple[str, ...], *, now: Callable[[], int]) -> None:
        self._nodes, self._names, self._now = nodes, names, now
        self._made: Mapping[str, Callable[[_Node, Given], Awaitable[dict[str, Any]]]] = {
            "fleet_snapshot": _snapshot,
            "fleet_health": _health,
            "anomalies": _anomalies,
            "compare_periods": _compared,
            "critical_velocity": _velocity,
            "stagnant_channels": _stagnant,
            "earnings": _earnings,
            "pending": _pending,
            "channel_deep_dive": _deep_dive,
            "forwards": _forwards,
            "payments": _payments,
            "graph_peer": _graph_peer,
        }

    async def answer(self, name: str, given: Given) -> object:
        """The figures; a node that does not answer is in ``errors`` by its slug.

        Raises the error of a node that was asked for alone; InvalidParams, NotFound for the arguments.
        """
        filled = {param.name: param.default for param in FIGURE_TOOLS[name].params} | dict(given)
        alone = given.get("node") if "node" in given or FIGURE_TOOLS[name].fleet else self._names[0]
        if alone is not None:
            return _from(str(alone), await self._of(str(alone), name, filled))
        made = await asyncio.gather(
            *(self._of(node, name, filled) for node in self._names), return_exceptions=True
        )
        parts: dict[str, dict[str, Any]] = {}
        errors = {}
        for node, part in zip(self._names, made, strict=True):
            if isinstance(part, HiveError):
                errors[Own(node)] = Own(part.symbol)
            elif isinstance(part, BaseException):
                raise part
            else:
                parts[node] = part
        found = {"nodes": [_from(node, part) for node, part in parts.items()], "errors": errors}
        sums = {"totals": figures.totals([*parts.values()])} if name == "fleet_snapshot" else {}
        return {**found, **sums}

    async def _of(self, name: str, tool: str, given: Given) -> dict[str, Any]:
        node = _Node(name, self._nodes, self._now())
        try:
            async with asyncio.timeout(TOTAL_S):
                try:
                    async with asyncio.timeout(FIRST_ANSWER_S):
                        node.info = await node.call("getinfo")
                except TimeoutError as error:
                    raise TransportUnavailable(
                        f"node {name} gave no answer within {FIRST_ANSWER_S} s", reason="timeout"
                    ) from error
                data = await self._made[tool](node, given)
        except TimeoutError as error:
            raise TransportUnavailable(
                f"node {name} did not answer all within {TOTAL_S} s", reason="timeout"
            ) from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Internal(f"node {name} answered in a form that is not known here") from error
        said = {"node": Own(name), **data}
        if node.missing:
            said["missing"] = [Own(text) for text in node.missing]
        return said


def _from(node: str, value: object) -> object:
    return Outside(f"node {node}", value)


def _first(rows: list[Any], limit: int) -> dict[str, Any]:
    return {"total": len(rows), "items": rows[:limit]}


async def _snapshot(node: _Node, given: Given) -> dict[str, Any]:
    channels, funds = await node.channels(), await node.call("listfunds")
    forwards = await node.forwards(node.now - figures.DAY)
    made: dict[str, Any] = figures.snapshot(node.info, channels, funds, forwards, node.now)
    return made


async def _health(node: _Node, given: Given) -> dict[str, Any]:
    rows = figures.anomalies(node.info, await node.channels(), (), node.now)
    checked = await node.call_if_there("hive-client-selfcheck", fix=False)
    kinds = [str(row["kind"]) for row in rows]
    return {
        "answers": True,
        "blockheight": node.info["blockheight"],
        "in_sync": "sync_warning" not in kinds,
        "channels_offline": kinds.count("channel_offline"),
        **({} if checked is None else {"selfcheck": figures.failed_checks(checked["checks"])}),
    }


async def _anomalies(node: _Node, given: Given) -> dict[str, Any]:
    forwards = await node.forwards(node.now - 7 * figures.DAY)
    rows = figures.anomalies(node.info, await node.channels(), forwards, node.now)
    waiting = await node.call_if_there("hive-client-pending", limit=500)
    rows += figures.waiting_long([] if waiting is None else waiting["items"], node.now)
    checked = await node.call_if_there("hive-client-selfcheck", fix=False)
    rows += figures.failed_checks([] if checked is None else checked["checks"])
    return _first(rows, figures.MAX_ROWS)


async def _compared(node: _Node, given: Given) -> dict[str, Any]:
    days = int(given["days"])
    return figures.compared(await node.forwards(node.now - 2 * days * figures.DAY), node.now, days)


async def _velocity(node: _Node, given: Given) -> dict[str, Any]:
    hours = int(given["hours"])
    forwards = await node.forwards(node.now - hours * figures.HOUR)
    rows = figures.velocity(await node.channels(), forwards, node.now, hours)
    return {"hours": hours, **_first(rows, figures.MAX_ROWS)}


async def _stagnant(node: _Node, given: Given) -> dict[str, Any]:
    days = int(given["days"])
    forwards = await node.forwards(node.now - days * figures.DAY)
    rows = figures.stagnant(await node.channels(), forwards, node.now, days)
    return {"days": days, **_first(rows, int(given["limit"]))}


async def _earnings(node: _Node, given: Given) -> dict[str, Any]:
    start = node.now - int(given["days"]) * figures.DAY
    said = await node.call("bkpr-listincome", start_time=max(0, start), consolidate_fees=True)
    return {"days": given["days"], "income": figures.income(said["income_events"])}


async def _pending(node: _Node, given: Given) -> dict[str, Any]:
    queues: dict[str, Any] = {}
    for method in PENDING:
        if method not in method_table():
            node.missing.append(method)
        elif (said := await node.call_if_there(method, limit=given["limit"])) is not None:
            queues[method] = said["items"]
    return {"queues": queues}


async def _deep_dive(node: _Node, given: Given) -> dict[str, Any]:
    wanted = str(given["channel"])
    channels = await node.channels()
    channel = next(
        (row for row in channels if wanted in (row.get("short_channel_id"), row.get("channel_id"))), None
    )
    if channel is None:
        raise NotFound(f"node {node.name} has no channel {wanted!a}: name it as `channels` does")
    forwards = await node.forwards(node.now - 30 * figures.DAY)
    height = int(node.info["blockheight"])
    return {"channel": channel_row(channel), **figures.deep_dive(channel, forwards, height, node.now)}


async def _forwards(node: _Node, given: Given) -> dict[str, Any]:
    before, limit = given["before"], int(given["limit"])
    top = await node.newest("forwards") if before is None else int(before) - 1
    start = max(1, top - limit + 1)
    rows = []
    if top >= 1:
        page = await node.call("listforwards", index="created", start=start, limit=top - start + 1)
        kept = ("in_channel", "out_channel", "in_msat", "out_msat", "fee_msat", "status")
        rows = [
            {**{name: row[name] for name in kept if name in row}, "at": int(row["received_time"])}
            for row in reversed(page["forwards"])
        ]
    return {"items": rows, **({"next_before": start} if start > 1 else {})}


async def _payments(node: _Node, given: Given) -> dict[str, Any]:
    top = await node.newest("sendpays")
    rows = []
    if top >= 1:
        start = max(1, top - 5 * int(given["limit"]) + 1)
        said = await node.call("listpays", index="created", start=start)
        kept = ("payment_hash", "status", "created_at", "completed_at", "destination", "amount_msat")
        rows = [
            {name: row[name] for name in (*kept, "amount_sent_msat", "number_of_parts") if name in row}
            for row in sorted(said["pays"], key=lambda row: -int(row["created_at"]))
        ]
    return {"items": rows[: int(given["limit"])]}


async def _graph_peer(node: _Node, given: Given) -> dict[str, Any]:
    peer = str(given["peer_id"])
    if not _KEY.fullmatch(peer):
        raise InvalidParams("peer_id takes the 66 hex digits of a node id", data={"param": "peer_id"})
    nodes = (await node.call("listnodes", id=peer))["nodes"]
    channels = (await node.call("listchannels", source=peer))["channels"]
    return {"peer_id": peer, **figures.graph_peer(nodes, channels)}
