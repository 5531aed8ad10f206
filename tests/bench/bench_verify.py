"""Events verified per second by `hive_shared.nostr`, beside bare coincurve in the same run (Protocol 04 §18).

Bare means what nobody can do without: parse the JSON, serialise and hash the fields, check the signature.
Ours adds strict decoding, field and size checks. The pool figures come through a socket from another process.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable

from coincurve import PublicKeyXOnly
from figures import Figure
from hive_shared.crypto import Secret
from hive_shared.nostr.event import Event, build, check, parse_event, to_text
from hive_shared.nostr.frames import decode_json
from hive_shared.nostr.relay import RelayPool

GOAL_RATIO = 0.7
GOAL_PER_SECOND = 3_000
GOAL_STALL_MS = 50
_EVENTS = 1_000
_ROUNDS = 5
_BURST = 5_000
_NOW = 1_700_000_000


def _events(count: int) -> list[Event]:
    secret = Secret(b"\x05" * 32)
    tags = [
        ["d", "offer-1"],
        ["t", "hive-advisor"],
        ["t", "lightning"],
        ["alt", "an offer"],
        ["p", "11" * 32],
    ]
    # 2.4 KB, the size of a real profile or offer.
    content = json.dumps({"name": "Grüße ⚡", "capabilities": ["fee-optimization"] * 20, "text": "x" * 1_300})
    return [build(secret, 38_381, tags, f"{content}{number}", _NOW) for number in range(count)]


def _bare(frame: str) -> bool:
    event = json.loads(frame)[2]
    fields = [0, event["pubkey"], event["created_at"], event["kind"], event["tags"], event["content"]]
    digest = hashlib.sha256(json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()).digest()
    key = PublicKeyXOnly(bytes.fromhex(event["pubkey"]))
    return key.verify(bytes.fromhex(event["sig"]), digest)


def _ours(frame: str) -> bool:
    return check(parse_event(decode_json(frame)[2])) is None


def _rate(verify: Callable[[str], bool], frames: list[str]) -> float:
    began = time.perf_counter()
    if not all(map(verify, frames)):
        raise AssertionError("an authentic event was refused")
    return len(frames) / (time.perf_counter() - began)


async def _burst(frames: list[Event]) -> dict[str, float]:
    """Let a pool fetch a burst from a relay process and watch how late the loop's timers fire meanwhile."""
    from hive_devnet.relay import RelayProcess

    relay = await RelayProcess.start()
    done, seen, worst = asyncio.Event(), 0, 0.0

    async def ignore(url: str, name: str, event: Event) -> None:
        """The writer does not read."""

    async def arrived(url: str, name: str, event: Event) -> None:
        nonlocal seen
        seen += 1
        if seen == len(frames):
            done.set()

    async def watch() -> None:
        nonlocal worst
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.005)
            worst = max(worst, time.perf_counter() - before - 0.005)

    writer, reader = RelayPool(on_event=ignore), RelayPool(on_event=arrived)
    try:
        await writer.set_relays([], [relay.url], [])
        await writer.start()
        for start in range(0, len(frames), 500):
            await asyncio.gather(*(writer.publish(one, [relay.url]) for one in frames[start : start + 500]))
        await reader.set_relays([relay.url], [], [])
        await reader.start()
        await reader.wait_for(lambda: reader.connected() == 1, 10)
        watcher = asyncio.create_task(watch())
        began = time.perf_counter()
        reader.subscribe("burst", [{"kinds": [38_381, 1]}], lambda url: None)
        async with asyncio.timeout(60):
            await done.wait()
        seconds = time.perf_counter() - began
        watcher.cancel()
        return {"pool_per_s": len(frames) / seconds, "worst_stall_ms": worst * 1_000}
    finally:
        await reader.stop()
        await writer.stop()
        await relay.stop()


def main(smoke: bool) -> list[Figure]:
    """Bare and own rate and their ratio, the pool's rate and its worst loop stall."""
    count, rounds = (200, 1) if smoke else (_EVENTS, _ROUNDS)
    frames = [to_text(["EVENT", "sub", event.to_json()]) for event in _events(count)]
    rates = [(_rate(_bare, frames), _rate(_ours, frames)) for _ in range(rounds)]
    # Interleaved rounds and the best of each: another process on the machine then hurts both alike.
    bare, ours = max(one for one, _ in rates), max(two for _, two in rates)
    secret = Secret(b"\x06" * 32)
    size = 300 if smoke else _BURST
    burst = [build(secret, 1, [["t", "hive"]], f"{n} " + "x" * 1_000, _NOW - n) for n in range(size)]
    pool = asyncio.run(_burst(burst))
    return [
        Figure("events verified: bare coincurve", bare, "/s"),
        Figure("events verified: hive_shared.nostr", ours, "/s"),
        Figure("  ratio to bare coincurve", ours / bare, "x", GOAL_RATIO, at_least=True),
        Figure("relay to handler, burst", pool["pool_per_s"], "/s", GOAL_PER_SECOND, at_least=True),
        Figure("worst loop stall in the burst", pool["worst_stall_ms"], "ms", GOAL_STALL_MS),
    ]
