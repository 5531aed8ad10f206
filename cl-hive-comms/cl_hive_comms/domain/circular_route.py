"""The way of a circular rebalance: out by one channel, home by another (docs/protocol/02 §5.2).

The node finds the way from the peer of the first channel to us; the hop to that peer is put in front. What
it found is checked again before anything is sent: it must come home by the channel that was asked for, cost
no more than allowed and be one route.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from hive_shared.canonical import JsonValue

_NOW: Final = ("short_channel_id_dir", "node_id_out", "amount_out_msat", "cltv_out")
_BEFORE: Final = ("channel", "id", "amount_msat", "delay")
"""What `sendpay` calls the four members of a hop: as of CLN v26.06, and before."""


class End(msgspec.Struct, frozen=True):
    """A channel of ours, as the node lists it: its ids, and our direction in it (0 or 1, BOLT 7)."""

    scid: str
    channel_id: str
    peer_id: str
    direction: int

    @property
    def outwards(self) -> str:
        """The direction in which we send, as `scid/direction`."""
        return f"{self.scid}/{self.direction}"

    @property
    def homewards(self) -> str:
        """The direction in which the peer sends to us."""
        return f"{self.scid}/{1 - self.direction}"

    def to_json(self) -> dict[str, JsonValue]:
        """The stored form, read back by `from_json`."""
        return {
            "scid": self.scid,
            "channel_id": self.channel_id,
            "peer_id": self.peer_id,
            "direction": self.direction,
        }

    @classmethod
    def from_json(cls, doc: JsonValue) -> End:
        """Inverse of `to_json`."""
        assert isinstance(doc, dict)
        direction = doc["direction"]
        assert isinstance(direction, int)
        return cls(str(doc["scid"]), str(doc["channel_id"]), str(doc["peer_id"]), direction)

    @classmethod
    def of_row(cls, row: Mapping[str, Any], own_id: str) -> End | None:
        """The end for a row of listpeerchannels; None for a channel that no route can name yet."""
        # A channel that carries payments before it confirms goes by its alias.
        scid = row.get("short_channel_id") or (row.get("alias") or {}).get("local")
        if scid is None:
            return None
        peer = str(row["peer_id"])
        return cls(str(scid), str(row["channel_id"]), peer, 0 if own_id < peer else 1)


class Way(msgspec.Struct, frozen=True):
    """A route as `sendpay` takes it. `hops` are `scid/direction` from our own first channel on, `amounts`
    what arrives at the end of each, msat."""

    hops: tuple[str, ...]
    amounts: tuple[int, ...]
    route: tuple[Mapping[str, JsonValue], ...]

    @property
    def fee_msat(self) -> int:
        """What is sent more than arrives."""
        return self.amounts[0] - self.amounts[-1]

    def carried(self, hop: str) -> int | None:
        """The msat that a hop was to carry; None when it is none of this way."""
        return self.amounts[self.hops.index(hop)] if hop in self.hops else None


def way_of(
    answer: Mapping[str, Any], out: End, home: End, own_id: str, amount_msat: int, maxfee_msat: int
) -> Way:
    """The way that an answer of `getroutes` (from the peer of `out` to us) makes.

    Raises ValueError, with what is wrong, for an answer that is not one route as it was asked for.
    """
    routes = answer["routes"]
    if len(routes) != 1:
        raise ValueError(f"{len(routes)} routes in place of one")
    (found,) = routes
    path = found["path"]
    modern = all(name in hop for hop in path for name in (*_NOW, "amount_in_msat", "cltv_in"))
    due = [(int(hop["amount_in_msat"]), int(hop["cltv_in"])) for hop in path] if modern else []
    if not modern:
        due = [(int(hop["amount_msat"]), int(hop["delay"])) for hop in path]
    ends = [*due[1:], (int(found["amount_msat"]), int(found["final_cltv"]))]
    nodes = [str(hop["node_id_out" if modern else "next_node_id"]) for hop in path]
    hops = (out.outwards, *(str(hop["short_channel_id_dir"]) for hop in path))
    came = (due[0], *ends)
    targets = (out.peer_id, *nodes)
    way = Way(hops, tuple(amount for amount, _ in came), tuple(_named(hops, targets, came, modern=modern)))
    _check(way, targets, home, own_id, amount_msat, maxfee_msat)
    return way


def _named(
    hops: tuple[str, ...], targets: tuple[str, ...], came: tuple[tuple[int, int], ...], *, modern: bool
) -> list[dict[str, JsonValue]]:
    names = _NOW if modern else _BEFORE
    rows: list[dict[str, JsonValue]] = []
    for hop, target, (amount, delay) in zip(hops, targets, came, strict=True):
        channel = hop if modern else hop.partition("/")[0]
        values: tuple[JsonValue, ...] = (channel, target, amount, delay)
        rows.append(dict(zip(names, values, strict=True)))
    return rows


def _check(
    way: Way, targets: tuple[str, ...], home: End, own_id: str, amount_msat: int, maxfee_msat: int
) -> None:
    if way.hops[-1] != home.homewards or targets[-1] != own_id or own_id in targets[:-1]:
        raise ValueError("a route that does not come home by to_channel")
    if way.amounts[-1] != amount_msat:
        raise ValueError(f"a route that delivers {way.amounts[-1]} msat")
    if way.fee_msat > maxfee_msat:
        raise ValueError(f"a route for {way.fee_msat} msat")
