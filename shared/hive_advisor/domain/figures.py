"""Figures made of what nodes answer (docs/protocol/11-advisor-kit.md §11.3). Integers only: millisatoshi,
parts per million, whole percent, seconds, hours. What a node did not say is left out, never guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from hive_advisor.domain.cleaning import Own

Row = Mapping[str, Any]
HOUR, DAY = 3_600, 86_400
MAX_ROWS: Final = 100
"""Rows of one list in an answer; more are counted."""
HTLC_BLOCKS: Final = 48
OPEN: Final = ("CHANNELD_NORMAL", "CHANNELD_AWAITING_SPLICE")


class Forward(msgspec.Struct, frozen=True):
    """One settled forward; times are Unix seconds."""

    at: int
    in_channel: str
    out_channel: str
    in_msat: int
    out_msat: int

    @property
    def fee_msat(self) -> int:
        return self.in_msat - self.out_msat


def settled(rows: Iterable[Row]) -> list[Forward]:
    """The settled ones of ``listforwards``. Raises KeyError, TypeError, ValueError for what is none."""
    return [
        Forward(
            int(row.get("resolved_time") or row["received_time"]),
            str(row["in_channel"]),
            str(row.get("out_channel", "")),
            int(row["in_msat"]),
            int(row["out_msat"]),
        )
        for row in rows
        if row["status"] == "settled"
    ]


def flow(forwards: Iterable[Forward], since: int, until: int) -> dict[str, int]:
    """Count, amount and fees of what was forwarded from ``since`` to before ``until``."""
    found = [each for each in forwards if since <= each.at < until]
    return {
        "forwards": len(found),
        "out_msat": sum(each.out_msat for each in found),
        "fees_msat": sum(each.fee_msat for each in found),
    }


def change_pct(before: int, after: int) -> int | None:
    """By how many whole percent; None from nothing."""
    return None if before == 0 else (after - before) * 100 // before


def compared(forwards: Sequence[Forward], now: int, days: int) -> dict[str, Any]:
    """The last ``days`` days against as many before them."""
    span = days * DAY
    recent = flow(forwards, now - span, now + 1)
    before = flow(forwards, now - 2 * span, now - span)
    change = {name: change_pct(before[name], recent[name]) for name in recent}
    return {"days": days, "recent": recent, "before": before, "change_pct": change}


def local_pct(channel: Row) -> int | None:
    """Our share of a channel in whole percent."""
    total = int(channel.get("total_msat") or 0)
    return int(channel["to_us_msat"]) * 100 // total if total and "to_us_msat" in channel else None


def is_open(channel: Row) -> bool:
    return channel.get("state") in OPEN


def named(channel: Row) -> dict[str, Any]:
    """How a channel is called in lists."""
    shown = {name: channel[name] for name in ("short_channel_id", "peer_id", "state") if name in channel}
    if "short_channel_id" not in shown and "channel_id" in channel:
        shown["channel_id"] = channel["channel_id"]
    return shown


def snapshot(info: Row, channels: Sequence[Row], funds: Row, forwards: Sequence[Forward], now: int) -> Any:
    """The node in a dozen numbers."""
    live = [channel for channel in channels if is_open(channel)]
    return {
        "id": info["id"],
        "blockheight": info["blockheight"],
        "network": info.get("network", ""),
        "channels": len(channels),
        "channels_open": len(live),
        "channels_offline": sum(1 for channel in live if not channel.get("peer_connected")),
        "capacity_msat": sum(int(channel.get("total_msat", 0)) for channel in live),
        "local_msat": sum(int(channel.get("to_us_msat", 0)) for channel in live),
        "confirmed_sats": sum(
            int(output["amount_msat"]) // 1_000
            for output in funds["outputs"]
            if output["status"] == "confirmed" and not output.get("reserved")
        ),
        "forwarded_24h": flow(forwards, now - DAY, now + 1),
    }


def totals(parts: Sequence[Row]) -> dict[str, int]:
    """Sums over the snapshots of several nodes."""
    names = ("channels_open", "channels_offline", "capacity_msat", "local_msat", "confirmed_sats")
    summed = {name: sum(int(part[name]) for part in parts) for name in names}
    for name in ("forwards", "fees_msat"):
        summed[f"{name}_24h"] = sum(int(part["forwarded_24h"][name]) for part in parts)
    return summed


def stagnant(channels: Sequence[Row], forwards: Sequence[Forward], now: int, days: int) -> list[Any]:
    """Open channels that forwarded nothing, either way, in so many days."""
    used = {
        name
        for each in forwards
        if each.at >= now - days * DAY
        for name in (each.in_channel, each.out_channel)
    }
    found = [
        {
            **named(channel),
            "capacity_msat": int(channel.get("total_msat", 0)),
            "local_pct": local_pct(channel),
            "peer_connected": bool(channel.get("peer_connected")),
        }
        for channel in channels
        if is_open(channel) and channel.get("short_channel_id") not in used
    ]
    return sorted(found, key=lambda row: -int(row["capacity_msat"]))


def velocity(channels: Sequence[Row], forwards: Sequence[Forward], now: int, hours: int) -> list[Any]:
    """Channels that run empty or full within a day if they go on as they did in the last ``hours`` hours, by
    what was forwarded through them; the most urgent first."""
    since, found = now - hours * HOUR, []
    for channel in channels:
        scid = channel.get("short_channel_id")
        flows = [f for f in forwards if f.at >= since and scid in (f.in_channel, f.out_channel)]
        if not is_open(channel) or len(flows) < 3:
            continue
        net = sum(f.in_msat for f in flows if f.in_channel == scid)
        net -= sum(f.out_msat for f in flows if f.out_channel == scid)
        local = int(channel["to_us_msat"])
        room = int(channel["total_msat"]) - local if net > 0 else local
        if net == 0 or (left := room * hours // abs(net)) >= 24:
            continue
        found.append(
            {
                **named(channel),
                "local_pct": local_pct(channel),
                "net_msat_per_hour": net // hours,
                "runs": Own("full" if net > 0 else "empty"),
                "in_hours": left,
                "level": Own("critical" if left < 4 else "high" if left < 12 else "medium"),
            }
        )
    return sorted(found, key=lambda row: int(row["in_hours"]))


def deep_dive(channel: Row, forwards: Sequence[Forward], height: int, now: int) -> dict[str, Any]:
    """One channel: what went through in 1, 7 and 30 days by direction, and the HTLCs in it now."""
    scid = channel.get("short_channel_id")
    periods = []
    for days in (1, 7, 30):
        recent = [each for each in forwards if each.at >= now - days * DAY]
        came = [each for each in recent if each.in_channel == scid]
        left = [each for each in recent if each.out_channel == scid]
        periods.append(
            {
                "days": days,
                "in_count": len(came),
                "in_msat": sum(each.in_msat for each in came),
                "out_count": len(left),
                "out_msat": sum(each.out_msat for each in left),
                "fees_earned_msat": sum(each.fee_msat for each in left),
                "fees_helped_msat": sum(each.fee_msat for each in came),
            }
        )
    htlcs = [
        {
            "direction": Own("in" if htlc.get("direction") == "in" else "out"),
            "amount_msat": htlc["amount_msat"],
            "blocks_left": int(htlc["expiry"]) - height,
        }
        for htlc in channel.get("htlcs", ())
    ]
    return {"local_pct": local_pct(channel), "periods": periods, "htlcs_now": htlcs[:MAX_ROWS]}


def anomalies(
    info: Row, channels: Sequence[Row], forwards: Sequence[Forward], now: int
) -> list[dict[str, Any]]:
    """What the node's own answers show to be out of the ordinary."""
    found: list[dict[str, Any]] = [
        {"kind": Own("sync_warning"), "which": Own(name)} for name in sorted(info) if name in _SYNC_WARNINGS
    ]
    height = int(info["blockheight"])
    for channel in channels:
        seen = channel.get("last_stable_connection")
        if is_open(channel) and not channel.get("peer_connected") and (seen is None or now - seen > HOUR):
            away = {} if seen is None else {"offline_at_most_s": now - int(seen)}
            found.append({"kind": Own("channel_offline"), **named(channel), **away})
        near = [
            int(htlc["expiry"]) - height
            for htlc in channel.get("htlcs", ())
            if int(htlc["expiry"]) - height < HTLC_BLOCKS
        ]
        if near:
            found.append(
                {
                    "kind": Own("htlc_expires"),
                    **named(channel),
                    "htlcs": len(near),
                    "blocks_left": min(near),
                }
            )
        share = local_pct(channel)
        if is_open(channel) and share is not None and not 5 <= share <= 95:
            found.append({"kind": Own("one_sided"), **named(channel), "local_pct": share})
    return [*found, *_less_revenue(forwards, now)]


_SYNC_WARNINGS: Final = ("warning_bitcoind_sync", "warning_lightningd_sync")


def _less_revenue(forwards: Sequence[Forward], now: int) -> list[dict[str, Any]]:
    day = flow(forwards, now - DAY, now + 1)["fees_msat"]
    week = flow(forwards, now - 7 * DAY, now + 1)["fees_msat"]
    if day * 14 >= week:
        return []
    return [{"kind": Own("less_revenue"), "fees_24h_msat": day, "fees_7d_mean_msat": week // 7}]


def waiting_long(items: Iterable[Row], now: int) -> list[dict[str, Any]]:
    """Actions that have waited for more than half of their time."""
    return [
        {
            "kind": Own("pending_half_over"),
            "action_id": item["action_id"],
            "expires_at": int(item["expires_at"]),
        }
        for item in items
        if int(item["expires_at"]) - now < now - int(item["created_at"])
    ]


def failed_checks(checks: Iterable[Row]) -> list[dict[str, Any]]:
    """What a self-check found wrong: relays, siblings, mints, the receipt chain and the rest."""
    return [
        {"kind": Own("selfcheck"), "id": check["id"], "status": check["status"], "detail": check["detail"]}
        for check in checks
        if check["status"] in ("warn", "fail")
    ]


def income(events: Iterable[Row]) -> dict[str, dict[str, int]]:
    """Sums of ``bkpr-listincome`` by its tag."""
    sums: dict[str, dict[str, int]] = {}
    for event in events:
        row = sums.setdefault(str(event["tag"]), {"events": 0, "credit_msat": 0, "debit_msat": 0})
        row["events"] += 1
        row["credit_msat"] += int(event["credit_msat"])
        row["debit_msat"] += int(event["debit_msat"])
    return sums


def graph_peer(nodes: Sequence[Row], channels: Sequence[Row]) -> dict[str, Any]:
    """What gossip says of a node, and the channels it announced from its side."""
    known = [node for node in nodes if "last_timestamp" in node]
    rates = sorted(int(each["fee_per_millionth"]) for each in channels)
    return {
        "announced": bool(known),
        **({"alias": known[0].get("alias", ""), "last_update": known[0]["last_timestamp"]} if known else {}),
        "channels": len(channels),
        "channels_active": sum(1 for each in channels if each.get("active")),
        "capacity_msat": sum(int(each["amount_msat"]) for each in channels),
        "fee_ppm": {"least": rates[0], "median": rates[len(rates) // 2], "most": rates[-1]}
        if rates
        else None,
    }
