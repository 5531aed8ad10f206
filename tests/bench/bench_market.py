"""The advisor market at size: adverts taken in per second, and a search over what is kept (Protocol 04 §18).

Adverts are signed profiles and offers of many keys, as after a first connection. A rate is events over the
processor time of all threads: reading the relay's frame, both signatures and the rows' writing included. A
search is what the operator's command computes for its first page, relays not asked.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import market_documents as made
from advert_world import RELAY, MarketWorld
from cl_hive_comms.commands.market_search import MarketSearchCommands
from figures import Figure, percentile
from hive_shared.nostr.event import Event, check, parse_event
from hive_shared.nostr.frames import decode_json

_PROFILES = 5_000
_SEARCHES = 25
_BATCH = 200


def main(smoke: bool) -> list[Figure]:
    """See the module's first lines."""
    return asyncio.run(_measure(120 if smoke else _PROFILES))


async def _measure(profiles: int) -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="hive-") as directory:
        world = MarketWorld(Path(directory) / "comms.db")
        try:
            world.set(subscribe=False)
            secrets = [made.key(number + 1_000) for number in range(profiles)]
            # 25 names on average have the same drawn form: a market where names are copied.
            adverts = _frames(
                [
                    made.profile_event(secret, displayName=f"Advisor {number % 200} of the fleet")
                    for number, secret in enumerate(secrets)
                ]
            )
            offers = _frames([made.offer_event(secret) for secret in secrets])
            figures = [
                Figure("profiles taken in", 1e6 / await _us_each(world, adverts), "/s", 3_000, at_least=True),
                Figure("offers taken in", 1e6 / await _us_each(world, offers), "/s", 3_000, at_least=True),
            ]
            kept = len(world.cache.profiles)
            assert kept == profiles, f"{kept} of {profiles} profiles were kept"
            figures += await _searches(world, profiles)
        finally:
            world.db.close()
    return figures


def _frames(events: Sequence[Event]) -> list[str]:
    return [json.dumps(["EVENT", "market", event.to_json()], ensure_ascii=False) for event in events]


async def _us_each(world: MarketWorld, frames: Sequence[str]) -> float:
    """Processor time per event in microseconds, from the relay's text to the row."""
    began = time.process_time()
    for first in range(0, len(frames), _BATCH):
        for frame in frames[first : first + _BATCH]:
            event = parse_event(decode_json(frame)[2])
            assert check(event) is None
            await world.cache.on_event(RELAY, event)
        await world.cache.settle()
    return (time.process_time() - began) * 1e6 / len(frames)


async def _searches(world: MarketWorld, profiles: int) -> list[Figure]:
    commands = MarketSearchCommands(lambda: world.discovery, lambda: world.now, _no_status)
    spec = next(one for one in commands.specs() if one.name == "hive-client-discover")
    asked: list[tuple[str, Mapping[str, Any]]] = [
        ("all", {}),
        ("by capability and price", {"capabilities": "fee-optimization", "max_price_sats": 9_000}),
        ("by a word", {"query": "fleet 17"}),
    ]
    figures = []
    for name, given in asked:
        params = {**{param.name: param.default for param in spec.params}, **given, "source": "local"}
        took = []
        for _ in range(_SEARCHES):
            began = time.thread_time()
            answer = await spec.handler(params)
            took.append((time.thread_time() - began) * 1_000)
            assert answer["items"]
        title = f"search of {profiles:,} profiles, {name}"
        figures += [
            Figure(f"{title}: first", took[0], "ms", 250),
            Figure(f"{title}: warm, p50", percentile(took[1:], 0.5), "ms", 25),
        ]
    return figures


async def _no_status() -> dict[str, Any]:
    raise AssertionError("a search does not ask for it")
