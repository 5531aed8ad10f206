"""Asks the node for the figures of telemetry (docs/protocol/02-fleet-management.md §10)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any, Final

from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError

from ..domain import telemetry
from ..domain.telemetry import STAGNANT_S, WEEK_S, ForwardLedger
from .executors.monitor import ReadNode
from .executors.monitor_history import History
from .executors.node_errors import node_error
from .executors.pages import clean

FRESH_S: Final = 60
"""Figures so young serve other subscribers too."""
_BATCH: Final = 1_000
_MAX_BATCHES: Final = 200
_SOURCES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "health": ("info",),
        "revenue": ("forwards",),
        "forwards": ("forwards",),
        "stagnant": ("channels", "forwards"),
        "liquidity": ("channels",),
        "rebalance_cost": ("income",),
    }
)


class TelemetryMeasure:
    """Figures that are the same for all subscribers; each source is asked once, whoever wants it."""

    def __init__(self, node: ReadNode) -> None:
        self._node, self._history = node, History(node)
        self._taken: dict[str, tuple[int, JsonValue]] = {}
        self._ledger: ForwardLedger | None = None
        self._complete = False

    def forget(self) -> None:
        """Nobody is subscribed: keep nothing in memory."""
        self._taken, self._ledger = {}, None

    async def take(self, wanted: Collection[str], now: int) -> dict[str, JsonValue]:
        """The wanted metrics (of `_SOURCES`); one the node does not answer is {available: false, reason}."""
        old = [name for name in wanted if not self._fresh(name, now)]
        reach = STAGNANT_S if "stagnant" in wanted else WEEK_S
        got: dict[str, Any] = {}
        for source in dict.fromkeys(source for name in old for source in _SOURCES[name]):
            try:
                got[source] = await self._ask(source, now, reach)
            except ClnError as error:
                got[source] = error
        for name in old:
            failed = [got[each] for each in _SOURCES[name] if isinstance(got[each], ClnError)]
            figure: JsonValue = (
                {"available": False, "reason": node_error(failed[0]).symbol}
                if failed
                else clean(self._figure(name, got, now))
            )
            self._taken[name] = (now, figure)
        return {name: self._taken[name][1] for name in wanted}

    def _fresh(self, name: str, now: int) -> bool:
        taken = self._taken.get(name)
        return taken is not None and 0 <= now - taken[0] < FRESH_S

    async def _ask(self, source: str, now: int, reach: int) -> Any:
        asks: dict[str, Callable[[], Awaitable[Any]]] = {
            "info": self._node.getinfo,
            "channels": self._node.listpeerchannels,
            "forwards": lambda: self._follow(now, reach),
            "income": lambda: self._income(now),
        }
        return await asks[source]()

    def _figure(self, name: str, got: Mapping[str, Any], now: int) -> dict[str, JsonValue]:
        figures: dict[str, Callable[[], dict[str, JsonValue]]] = {
            "health": lambda: telemetry.health(got["info"]),
            "liquidity": lambda: telemetry.liquidity(got["channels"]),
            "stagnant": lambda: telemetry.stagnant(got["channels"], got["forwards"].last, now),
            "revenue": lambda: telemetry.revenue(got["forwards"], now, self._complete),
            "forwards": lambda: telemetry.forwards(got["forwards"], now, self._complete),
            "rebalance_cost": lambda: telemetry.rebalance_cost(got["income"], now),
        }
        return figures[name]()

    async def _income(self, now: int) -> list[dict[str, Any]]:
        span = {"start_time": now - WEEK_S, "end_time": now}
        return list((await self._node.call("bkpr-listincome", span)).get("income_events", ()))

    async def _follow(self, now: int, reach: int) -> ForwardLedger:
        """The ledger, brought up to the node's last forward, or as far as one turn goes."""
        ledger = self._ledger
        if ledger is None or ledger.reach_s < reach:
            ledger = ForwardLedger(await self._history.first_forward(now - reach), reach)
            self._ledger = ledger
        left = await self._settle(ledger)
        self._complete = False
        while left > 0 and not self._complete:
            rows = await self._history.forwards(ledger.next_index, _BATCH)
            ledger.take(rows)
            self._complete = len(rows) < _BATCH
            left -= 1
        ledger.forget_before(now - reach)
        return ledger

    async def _settle(self, ledger: ForwardLedger) -> int:
        """Read forwards under way again; how many batches are left for new ones."""
        left, first = _MAX_BATCHES, 0
        while left > 1 and (span := ledger.open_between(first)) is not None:
            first, last = span
            rows = await self._history.forwards(first, min(_BATCH, last - first + 1))
            until = int(rows[-1]["created_index"]) if rows else last
            ledger.take(rows)
            ledger.gone(first, until, (int(row["created_index"]) for row in rows))
            first, left = until + 1, left - 1
        return left
