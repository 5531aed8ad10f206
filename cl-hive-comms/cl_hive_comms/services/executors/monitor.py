"""hive:monitor/v1: channels, peers, fees and the node itself
(docs/protocol/02-fleet-management.md §4 item 1). History and money are in monitor_history."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from pathlib import PurePath
from typing import Any, Final, Protocol

from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError

from ..node_backups import NodeBackups
from .action import Caller, Params
from .backup import backup_key
from .channels import channel_key, find_channel
from .node_errors import node_error
from .pages import clean, page_of_list, pick

LOG_LINES: Final = 200


class ReadNode(Protocol):
    """The node as reads see it."""

    async def call(
        self, method: str, params: Mapping[str, object] | None = None, *, timeout: float = 30.0
    ) -> dict[str, Any]:
        """Any read call by name."""
        ...

    async def getinfo(self) -> dict[str, Any]:
        """Identity, height, version."""
        ...

    async def listpeerchannels(
        self, peer_id: str | None = None, short_channel_id: str | None = None
    ) -> list[dict[str, Any]]:
        """Channels of the node."""
        ...

    async def plugin_list(self) -> list[dict[str, Any]]:
        """Plugins of the node."""
        ...


def limit_of(params: Params) -> int:
    """The page size asked for, 100 without."""
    limit = params.get("limit")
    return limit if isinstance(limit, int) else 100


class Monitor:
    """Reads of the node's present state. Each method is one action's `read`."""

    def __init__(
        self,
        node: ReadNode,
        state_hash: Callable[[], Awaitable[dict[str, JsonValue]]],
        forward_totals: Callable[[int, int], Awaitable[dict[str, JsonValue]]],
        backups: NodeBackups,
    ) -> None:
        self._node, self._backups = node, backups
        self._state_hash = state_hash
        self._forward_totals = forward_totals

    async def health_summary(self, params: Params, caller: Caller) -> dict[str, JsonValue]:
        """`health_summary`: version, height, counts, warnings, totals."""
        info = await self._node.getinfo()
        result = pick(
            info,
            (
                "id",
                "alias",
                "version",
                "network",
                "blockheight",
                "num_peers",
                "num_active_channels",
                "num_inactive_channels",
                "num_pending_channels",
                "fees_collected_msat",
            ),
        )
        result["warnings"] = [clean(text) for name, text in info.items() if name.startswith("warning_")]
        brief = params.get("format") == "brief"
        if params.get("include_channels") or not brief:
            result["channels"] = _channel_totals(await self._node.listpeerchannels())
        if params.get("include_forwards"):
            hours = params.get("hours")
            since = caller.now - (hours if isinstance(hours, int) else 24) * 3600
            result["forwards"] = await self._forward_totals(since, caller.now)
        return result

    async def channel_list(self, params: Params, caller: Caller) -> dict[str, JsonValue]:
        """`channel_list`: one row per channel."""
        peer = params.get("peer_id")
        rows = await self._node.listpeerchannels(str(peer) if peer else None)
        if state := params.get("state"):
            rows = [row for row in rows if row.get("state") == state]
        rows.sort(key=lambda row: str(row.get("channel_id")))
        return page_of_list([_channel(row) for row in rows], limit_of(params), params.get("cursor"))

    async def fee_report(self, params: Params, caller: Caller) -> dict[str, JsonValue]:
        """`fee_report`: fees and HTLC limits of one or all channels."""
        rows = await self._selected(params)
        names = (
            "channel_id",
            "peer_id",
            "state",
            "fee_base_msat",
            "fee_proportional_millionths",
            "minimum_htlc_out_msat",
            "maximum_htlc_out_msat",
        )
        items = [_of_channel(row, row, names) for row in rows]
        return page_of_list(items, limit_of(params), params.get("cursor"))

    async def htlc_snapshot(self, params: Params, caller: Caller) -> dict[str, JsonValue]:
        """`htlc_snapshot`: HTLCs in flight, one row each."""
        items = [
            _of_channel(row, htlc, ("direction", "id", "amount_msat", "expiry", "payment_hash", "state"))
            for row in await self._selected(params)
            for htlc in row.get("htlcs", ())
        ]
        return page_of_list(items, limit_of(params), params.get("cursor"))

    async def _selected(self, params: Params) -> list[Mapping[str, Any]]:
        rows = await self._node.listpeerchannels()
        if channel := params.get("channel_id"):
            return [find_channel(rows, str(channel))]
        return sorted(rows, key=lambda row: str(row.get("channel_id")))

    async def peer_list(self, params: Params, caller: Caller) -> dict[str, JsonValue]:
        """`peer_list`: connected peers, and peers with channels."""
        peers = (await self._node.call("listpeers", {"id": params.get("peer_id")}))["peers"]
        items = [pick(row, ("id", "connected", "num_channels", "features")) for row in peers]
        items.sort(key=lambda row: str(row.get("id")))
        return page_of_list(items, limit_of(params), params.get("cursor"))

    async def graph_query(self, params: Params, caller: Caller) -> dict[str, JsonValue]:
        """`graph_query`: one node, or the channels of one end or one scid; never the whole graph."""
        if node_id := params.get("node_id"):
            nodes = (await self._node.call("listnodes", {"id": node_id}))["nodes"]
            return page_of_list([_clean_row(row) for row in nodes], limit_of(params), params.get("cursor"))
        which = {
            "short_channel_id": params.get("scid"),
            "source": params.get("source"),
            "destination": params.get("destination"),
        }
        rows = (await self._node.call("listchannels", which))["channels"]
        return page_of_list([_clean_row(row) for row in rows], limit_of(params), params.get("cursor"))

    async def log_stream(self, params: Params, caller: Caller) -> dict[str, JsonValue]:
        """`log_stream`: the newest lines of the node's log, long opaque strings and paths blanked."""
        level = str(params.get("level") or "unusual")
        log = (await self._node.call("getlog", {"level": level}))["log"]
        lines = [row for row in log if row.get("type") != "SKIPPED" and "log" in row][-LOG_LINES:]
        items = [
            {
                "time": str(row.get("time", "")),
                "type": str(row.get("type", "")).lower(),
                "source": redacted(str(row.get("source", "")))[:80],
                "text": redacted(str(row["log"]))[:400],
            }
            for row in reversed(lines)
        ]
        return page_of_list([dict(item) for item in items], limit_of(params), params.get("cursor"))

    async def plugin_status(self, params: Params, caller: Caller) -> dict[str, JsonValue]:
        """`plugin_status`: file names and whether active; no paths."""
        items: list[dict[str, JsonValue]] = [
            {
                "name": PurePath(str(row["name"])).name,
                "active": bool(row.get("active")),
                "dynamic": bool(row.get("dynamic")),
            }
            for row in await self._node.plugin_list()
        ]
        items.sort(key=lambda row: str(row["name"]))
        return page_of_list(items, limit_of(params), params.get("cursor"))

    async def backup_status(self, params: Params, caller: Caller) -> dict[str, JsonValue]:
        """`backup_status`: the newest backup that trigger_backup made, and a digest of the emergency recovery
        data, never the data itself."""
        result = await self._triggered()
        try:
            data = await self._node.call("getemergencyrecoverdata")
        except ClnError as error:
            result["emergency_recover"] = {"available": False, "reason": node_error(error).symbol}
            return result
        digest = hashlib.sha256(str(data.get("filedata", "")).encode()).hexdigest()
        result["emergency_recover"] = {"available": True, "sha256": digest}
        return result

    async def _triggered(self) -> dict[str, JsonValue]:
        try:
            listed, damaged = await self._backups.all(await backup_key(self._node))
        except ClnError as error:
            return {"last_backup": None, "backups": 0, "reason": node_error(error).symbol}
        newest: dict[str, JsonValue] | None = listed[0].to_doc() if listed else None
        return {"last_backup": newest, "backups": len(listed), "damaged_backups": damaged}

    async def state_hash(self, params: Params, caller: Caller) -> dict[str, JsonValue]:
        """`state_hash`: the hash and its roots (02 §9.3)."""
        return await self._state_hash()


def _clean_row(row: Mapping[str, Any]) -> dict[str, JsonValue]:
    cleaned = clean(row)
    assert isinstance(cleaned, dict)
    return cleaned


def _of_channel(
    channel: Mapping[str, Any], row: Mapping[str, Any], names: tuple[str, ...]
) -> dict[str, JsonValue]:
    item: dict[str, JsonValue] = {"channel": channel_key(channel)}
    item.update(pick(row, names))
    return item


def _channel(row: Mapping[str, Any]) -> dict[str, JsonValue]:
    item = _of_channel(
        row,
        row,
        (
            "channel_id",
            "peer_id",
            "peer_connected",
            "state",
            "opener",
            "private",
            "to_us_msat",
            "total_msat",
            "spendable_msat",
            "receivable_msat",
            "fee_base_msat",
            "fee_proportional_millionths",
            "minimum_htlc_out_msat",
            "maximum_htlc_out_msat",
            "in_payments_fulfilled",
            "in_fulfilled_msat",
            "out_payments_fulfilled",
            "out_fulfilled_msat",
        ),
    )
    item["htlcs"] = len(row.get("htlcs", ()))
    return item


def _channel_totals(rows: list[dict[str, Any]]) -> dict[str, JsonValue]:
    normal = [row for row in rows if row.get("state") == "CHANNELD_NORMAL"]
    total = sum(int(row.get("total_msat", 0)) for row in normal)
    ours = sum(int(row.get("to_us_msat", 0)) for row in normal)
    states: dict[str, JsonValue] = dict(sorted(Counter(str(row.get("state")) for row in rows).items()))
    return {"count": len(rows), "states": states, "capacity_msat": clean(total), "to_us_msat": clean(ours)}


_OPAQUE: Final = re.compile(r"[A-Za-z0-9+=_-]{40,}")
_PATH: Final = re.compile(r"(?<![\w:])/[\w.+-]+(?:/[\w.+-]+)+")
_INVOICE: Final = re.compile(r"\bln(?:bc|tb|bcrt|tbs|r|i|o)[0-9a-z]{20,}", re.IGNORECASE)
_ASSIGNED: Final = re.compile(
    r"(?i)\b((?:[\w-]*(?:secret|token|rune|pass(?:word|phrase)?|nsec|macaroon|preimage|key)[\w-]*)\s*[=:]\s*)\S+"
)
_SPOKEN: Final = re.compile(r"(?i)\b((?:pass(?:word|phrase)|rune|nsec|macaroon)\s+)\S+")


def redacted(text: str) -> str:
    """A log line without what could be a secret: assignments, invoices, paths, long opaque strings.

    Node ids and transaction ids go too: telling them from keys and preimages by form is not possible.
    """
    text = "".join(c if c.isprintable() else " " for c in text)
    text = _ASSIGNED.sub(r"\1<redacted>", text)
    text = _SPOKEN.sub(r"\1<redacted>", text)
    text = _INVOICE.sub("<invoice>", text)
    text = _PATH.sub("<path>", text)
    return _OPAQUE.sub("<redacted>", text)
