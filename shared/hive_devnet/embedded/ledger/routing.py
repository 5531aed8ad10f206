"""Routes over the network's channels: cheapest first, by capacity, limits and fees."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hive_devnet.embedded.ledger.channel import Channel

MAX_HOPS = 20
NO_CHANNEL = 0
"""The channel number of a hop whose channel does not exist or is not one of its source."""


@dataclass(frozen=True)
class Hop:
    """One channel of a route: from whom to whom, what is sent there (msat) and when it expires (blocks)."""

    channel: int
    scid: str
    source: str
    target: str
    amount_msat: int
    delay: int


@dataclass(frozen=True)
class Limits:
    """What a search may use: final CLTV delta, and directed channels to leave out. `source_free`: the source
    pays itself nothing, as a payer does."""

    final_cltv: int
    excluded: frozenset[tuple[int, str]] = frozenset()
    excluded_nodes: frozenset[str] = frozenset()
    max_hops: int = MAX_HOPS
    source_free: bool = True


def find_route(
    channels: Iterable[Channel],
    source: str,
    target: str,
    amount_msat: int,
    limits: Limits,
    spendable: Mapping[tuple[int, str], int] | None = None,
) -> list[Hop] | None:
    """The cheapest route that can carry `amount_msat`, None if there is none.

    `spendable` gives what a side can send per (channel number, node); None means up to the advertised
    limit, as a node knows the graph. Private channels serve as first and last hop only.
    """
    incoming: dict[str, list[Channel]] = {}
    for channel in channels:
        for node in (channel.opener, channel.acceptor):
            incoming.setdefault(node, []).append(channel)
    heap: list[tuple[int, int, int, str, tuple[Hop, ...]]] = [(amount_msat, 0, 0, target, ())]
    done: set[str] = set()
    counter = 0
    while heap:
        amount, hops, _, node, route = heapq.heappop(heap)
        if node == source and route:
            return list(route)
        if node in done or hops >= limits.max_hops:
            continue
        done.add(node)
        delay = limits.final_cltv if not route else _delay_at(route, node, incoming)
        for channel in incoming.get(node, ()):
            previous = channel.peer_of(node)
            if previous in done or not _usable(channel, previous, node, (source, target), limits):
                continue
            if not _carries(channel, previous, amount, spendable):
                continue
            hop = Hop(channel.id, str(channel.scid), previous, node, amount, delay)
            counter += 1
            free = previous == source and limits.source_free
            carried = amount if free else amount + hop_fee(channel, previous, amount)
            heapq.heappush(heap, (carried, hops + 1, counter, previous, (hop, *route)))
    return None


def _delay_at(route: tuple[Hop, ...], node: str, incoming: Mapping[str, list[Channel]]) -> int:
    """Blocks an HTLC to `node` needs: those of the next hop plus the delta `node` asks for there."""
    following = route[0]
    for channel in incoming[node]:
        if channel.id == following.channel:
            return following.delay + channel.side(node).policy.cltv_delta
    raise LookupError(f"channel {following.scid} is not one of {node}")


def _usable(channel: Channel, previous: str, node: str, ends: tuple[str, str], limits: Limits) -> bool:
    source, target = ends
    if channel.scid is None or (channel.id, previous) in limits.excluded:
        return False
    if previous != source and previous in limits.excluded_nodes:
        return False
    return channel.announce or previous == source or node == target


def _carries(
    channel: Channel, sender: str, amount: int, spendable: Mapping[tuple[int, str], int] | None
) -> bool:
    policy = channel.side(sender).policy
    if not policy.htlc_min_msat <= amount <= policy.htlc_max_msat:
        return False
    return spendable is None or spendable.get((channel.id, sender), 0) >= amount


def hop_fee(channel: Channel, forwarder: str, amount: int) -> int:
    """What a forwarder takes, in msat, for passing `amount` msat on over a channel."""
    policy = channel.side(forwarder).policy
    return policy.fee_base_msat + amount * policy.fee_ppm // 1_000_000
