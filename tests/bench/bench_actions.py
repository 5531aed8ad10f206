"""Actions and messages at size: a state hash over 1,000 channels, 200 fees in one command, a wrapped message
of full size (docs/protocol/02-fleet-management.md §16). The node is in memory, the database is a file: what
lightningd takes is not in these figures.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from fractions import Fraction
from pathlib import Path

from figures import Figure, cpu_ms, percentile
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.nostr import nip44
from hive_shared.nostr.giftwrap import unwrap, wrap
from hive_shared.registry import Tier
from pipeline_world import NOW, View, World, issue

_BULK = 200
_CHANNELS = 1_000
# The most that one wrap holds; longer messages go in several.
_TEXT = "x" * 28_000


def main(smoke: bool) -> list[Figure]:
    """See the module's first lines."""
    times = 3 if smoke else 30
    with tempfile.TemporaryDirectory() as directory:
        figures = asyncio.run(_state_hash(Path(directory) / "state", times))
        figures += asyncio.run(_bulk(Path(directory) / "bulk", 2 if smoke else 10))
    return figures + _wraps(10 if smoke else 200)


async def _state_hash(directory: Path, times: int) -> list[Figure]:
    world = World(directory, channels=_CHANNELS)
    took = []
    try:
        for _ in range(times):
            # The hash of a read is kept for a minute.
            world.pass_time(61)
            calls = world.node.calls.count("listpeerchannels")
            began = time.perf_counter()
            answer = await world.ask("hive:monitor/v1", "state_hash", {})
            took.append((time.perf_counter() - began) * 1_000)
            assert answer["status"] == 0, answer
            assert world.node.calls.count("listpeerchannels") == calls + 1
    finally:
        world.close()
    return [Figure(f"state hash of {_CHANNELS:,} channels, p50", percentile(took, 0.5), "ms", 150)]


async def _bulk(directory: Path, times: int) -> list[Figure]:
    world = World(directory, channels=_BULK)
    took = []
    try:
        # Trusted most, so that a change of every channel runs by itself.
        world.credentials.add(View(issue(trust=Fraction(2), tier=Tier.ADMIN), "adv-1"))
        limits = {"fee_changes_per_hour": 10_000, "total_actions_per_day": 10_000}
        world.policies.override("aggressive", rate_limits=limits, approval_overrides={"*": "auto_execute"})
        channels = [row["short_channel_id"] for row in world.node.rows]
        for number in range(times):
            world.pass_time(3 * 86_400)
            params = {"channels": channels, "policy": {"fee_ppm": 101 + number}}
            began = time.perf_counter()
            answer = await world.ask("hive:fee-policy/v1", "set_bulk", params)
            took.append(time.perf_counter() - began)
            assert answer["status"] == 0, answer
    finally:
        world.close()
    return [Figure(f"{_BULK} fees in one command, p50", percentile(took, 0.5), "s", 5)]


def _wraps(times: int) -> list[Figure]:
    sender, recipient = Secret(b"\x03" * 32), Secret(b"\x05" * 32)
    keys = nip44.ConversationKeys()
    to = xonly_pubkey(recipient)
    event, _ = wrap(sender, to, _TEXT, tags=(), now=NOW, rng=os.urandom, expiration=NOW + 3_600, keys=keys)

    def made() -> None:
        wrap(sender, to, _TEXT, tags=(), now=NOW, rng=os.urandom, expiration=NOW + 3_600, keys=keys)

    def opened() -> None:
        unwrap(recipient, event, keys=keys)

    return [
        Figure("NIP-44 and gift wrap of 28 kB, p50", percentile(cpu_ms(made, times), 0.5), "ms", 8),
        Figure("unwrapping it, signatures checked, p50", percentile(cpu_ms(opened, times), 0.5), "ms", 8),
    ]
