"""Telemetry: what is subscribed to, and its figures (docs/protocol/02-fleet-management.md §10).

The figures are computed from rows as the node gives them; amounts in msat, spans back from `now` (unix s).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import msgspec
from hive_shared.canonical import JsonValue
from hive_shared.registry.control import ACTION_LOG, REPORT_DAILY, REPORT_WEEKLY, TELEMETRY_STREAMS

DAY_S: Final = 86_400
WEEK_S: Final = 7 * DAY_S
STAGNANT_S: Final = 30 * DAY_S
"""A channel without a settled forward for so long is stagnant (docs/protocol/04 §10)."""
MAX_PER_CREDENTIAL: Final = 3

READ_OF: Final[Mapping[str, str]] = MappingProxyType(
    {
        "health": "health_summary",
        "revenue": "forward_history",
        "forwards": "forward_history",
        "stagnant": "channel_list",
        "liquidity": "channel_list",
        "rebalance_cost": "earnings",
        "actions": "health_summary",
        "spend": "health_summary",
        "pending": "health_summary",
        "receipt_head": "health_summary",
        ACTION_LOG: "health_summary",
        REPORT_DAILY: "forward_history",
        REPORT_WEEKLY: "forward_history",
    }
)
"""The read of hive:monitor/v1 that a credential must have for each metric: telemetry shows nothing more."""

OF_NODE: Final = frozenset({"health", "revenue", "forwards", "stagnant", "liquidity", "rebalance_cost"})
"""Metrics that are the same for everybody; the others are the subscriber's own."""


class Subscription(msgspec.Struct, frozen=True):
    """Figures for one agent. `seq` is that of the last push, `dropped` how many of them were not sent,
    `told_to` the last receipt that an action log has told of."""

    sub_id: str
    credential_id: str
    advisor_id: str
    recipient: str
    metrics: tuple[str, ...]
    interval_s: int
    until: int
    seq: int
    dropped: int
    next_at: int
    created_at: int
    told_to: int = 0

    @property
    def stream(self) -> str | None:
        """The stream this is, None for figures at an interval."""
        return self.metrics[0] if self.metrics[0] in TELEMETRY_STREAMS else None

    def same_as(self, other: Subscription) -> bool:
        """Whether a subscription like `other` only prolongs this one."""
        if self.stream is not None:
            return self.metrics == other.metrics
        return (self.metrics, self.interval_s) == (other.metrics, other.interval_s)

    def due(self, now: int) -> bool:
        """Whether it is time; a clock that was set back holds nothing up."""
        return self.next_at <= now or self.next_at - now > self.interval_s

    def after(self, now: int) -> int:
        """When the push after the one at `now` is due: in step, and once after a standstill."""
        in_step = self.next_at + self.interval_s
        return in_step if now < in_step <= now + self.interval_s else now + self.interval_s


def health(info: Mapping[str, Any]) -> dict[str, JsonValue]:
    """`health`, from getinfo."""
    return {
        "blockheight": int(info.get("blockheight", 0)),
        "peers": int(info.get("num_peers", 0)),
        "channels_active": int(info.get("num_active_channels", 0)),
        "channels_inactive": int(info.get("num_inactive_channels", 0)),
        "channels_pending": int(info.get("num_pending_channels", 0)),
        "synced": not any(name in info for name in ("warning_bitcoind_sync", "warning_lightningd_sync")),
    }


def liquidity(channels: Iterable[Mapping[str, Any]]) -> dict[str, JsonValue]:
    """`liquidity`, from listpeerchannels: what usable channels hold, and our share in thousandths."""
    usable = [row for row in channels if row.get("state") == "CHANNELD_NORMAL"]
    total = sum(int(row.get("total_msat", 0)) for row in usable)
    ours = sum(int(row.get("to_us_msat", 0)) for row in usable)
    return {
        "channels": len(usable),
        "capacity_msat": total,
        "local_msat": ours,
        "local_permille": None if total == 0 else ours * 1_000 // total,
    }


def stagnant(
    channels: Iterable[Mapping[str, Any]], last_forward: Mapping[str, int], now: int
) -> dict[str, JsonValue]:
    """`stagnant`: usable channels without a settled forward, in or out, for 30 days."""
    usable = [row for row in channels if row.get("state") == "CHANNELD_NORMAL"]
    still = sum(_last_use(row, last_forward) <= now - STAGNANT_S for row in usable)
    pct = None if not usable else still * 100 // len(usable)
    return {"channels": len(usable), "stagnant": still, "stagnant_pct": pct}


def _last_use(channel: Mapping[str, Any], last_forward: Mapping[str, int]) -> int:
    alias = channel.get("alias")
    local = alias.get("local") if isinstance(alias, Mapping) else None
    names = (channel.get("short_channel_id"), local)
    return max(last_forward.get(str(name), 0) for name in names)


def rebalance_cost(events: Iterable[Mapping[str, Any]], now: int) -> dict[str, JsonValue]:
    """`rebalance_cost`, from bkpr-listincome."""
    paid = [
        (int(row.get("timestamp", 0)), int(row.get("debit_msat", 0)))
        for row in events
        if row.get("tag") == "rebalance_fee"
    ]
    return {
        "cost_24h_msat": sum(debit for at, debit in paid if at > now - DAY_S),
        "cost_7d_msat": sum(debit for at, debit in paid if at > now - WEEK_S),
    }


@dataclass(slots=True)
class Totals:
    """Forwards of a span."""

    settled: int = 0
    failed: int = 0
    volume_msat: int = 0
    fees_msat: int = 0

    def add(self, row: Mapping[str, Any]) -> None:
        """Count a forward that has ended."""
        if row.get("status") == "settled":
            self.settled += 1
            self.volume_msat += int(row.get("out_msat", 0))
            self.fees_msat += int(row.get("fee_msat", 0))
        else:
            self.failed += 1

    def join(self, other: Totals) -> None:
        """Count those of another span too."""
        self.settled += other.settled
        self.failed += other.failed
        self.volume_msat += other.volume_msat
        self.fees_msat += other.fees_msat


class ForwardLedger:
    """Forwards by five minutes of their arrival, kept by reading each row once, in order of created_index.

    A forward under way is read again until it has ended. `next_index` is where new rows begin. Taking a row
    a second time changes nothing.
    """

    STEP_S: Final = 300

    def __init__(self, first_index: int, reach_s: int) -> None:
        self.next_index, self.reach_s = first_index, reach_s
        self.last: dict[str, int] = {}
        self._steps: dict[int, Totals] = {}
        self._open: set[int] = set()

    def take(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Count rows as listforwards gives them."""
        for row in rows:
            index = int(row["created_index"])
            if index < self.next_index and index not in self._open:
                continue
            self.next_index = max(self.next_index, index + 1)
            if row.get("status") == "offered":
                self._open.add(index)
                continue
            self._open.discard(index)
            at = int(row.get("received_time", 0))
            self._steps.setdefault(at // self.STEP_S, Totals()).add(row)
            if row.get("status") == "settled":
                for name in ("in_channel", "out_channel"):
                    scid = str(row.get(name))
                    self.last[scid] = max(at, self.last.get(scid, 0))

    def open_between(self, first: int) -> tuple[int, int] | None:
        """First and last index, from `first` on, of forwards under way; None without any."""
        after = [index for index in self._open if index >= first]
        return (min(after), max(after)) if after else None

    def gone(self, first: int, last: int, there: Iterable[int]) -> None:
        """Forget forwards under way that the node does not list any more."""
        kept = set(there)
        self._open = {index for index in self._open if not first <= index <= last or index in kept}

    def forget_before(self, at: int) -> None:
        """Drop what no span reaches any more."""
        self._steps = {step: totals for step, totals in self._steps.items() if step >= at // self.STEP_S}
        self.last = {scid: last for scid, last in self.last.items() if last >= at}

    def totals(self, now: int, span_s: int) -> Totals:
        """Those that arrived in the span before `now`, its begin rounded up to whole five minutes."""
        first = -(-(now - span_s) // self.STEP_S)
        found = Totals()
        for step, totals in self._steps.items():
            if step >= first:
                found.join(totals)
        return found


def revenue(ledger: ForwardLedger, now: int, complete: bool) -> dict[str, JsonValue]:
    """`revenue`: routing fees."""
    return {
        "fees_24h_msat": ledger.totals(now, DAY_S).fees_msat,
        "fees_7d_msat": ledger.totals(now, WEEK_S).fees_msat,
        "complete": complete,
    }


def forwards(ledger: ForwardLedger, now: int, complete: bool) -> dict[str, JsonValue]:
    """`forwards`: how many ended how, and what they moved."""
    result: dict[str, JsonValue] = {"complete": complete}
    for name, span in (("24h", DAY_S), ("7d", WEEK_S)):
        found = ledger.totals(now, span)
        result |= {
            f"settled_{name}": found.settled,
            f"failed_{name}": found.failed,
            f"volume_{name}_msat": found.volume_msat,
        }
    return result
