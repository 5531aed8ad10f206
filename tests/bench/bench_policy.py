"""The policy's decision, an envelope's way to it, and the early refusals (Protocol 08 §14).

Decisions and refusals are judged by the processor time they take, which other programs on the machine do not
change; the way of an envelope is judged by the clock, with a flood of 1,000 messages a second from strangers
beside it. It ends where the decision is made: what follows waits for the disk and the node. The node is in
memory, the database is a file; a plan asks the node for its channels as always.
"""

from __future__ import annotations

import asyncio
import gc
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cl_hive_comms.domain.advisor import Advisor, CredentialRow
from cl_hive_comms.domain.policy import ActionRequest, ChannelFact, PolicySnapshot, decide
from cl_hive_comms.domain.policy_document import parse_document
from cl_hive_comms.domain.policy_limits import COUNTERS
from cl_hive_comms.domain.policy_rules import Override, parse_rule
from cl_hive_comms.services.credential_service import CredentialService
from cl_hive_comms.services.intake import Ingress
from cl_hive_comms.storage.advisor_store import AdvisorStore
from figures import Figure, cpu_ms, percentile
from hive_shared.crypto import Secret
from pipeline_world import NOW, World, issue

GOAL_DECISION_MS = 1
GOAL_WAY_MS = 15
GOAL_EARLY_MS = 0.5
_IDS = 10_000
_RULES = 200
_ADVISORS = 100
_FLOOD_PER_S = 1_000

CHANNELS = [f"{1_000 + n}x1x0" for n in range(_IDS)]
PEERS = [f"02{n:064x}" for n in range(_IDS)]


def main(smoke: bool) -> list[Figure]:
    """See the module's first lines."""
    times = 50 if smoke else 2_000
    figures = []
    for name, snapshot in _snapshots().items():
        for what, channels in (("one channel", 1), ("200 channels", 200)):
            request = _request(channels)
            assert decide(snapshot, request).decision == "confirm"
            took = cpu_ms(lambda s=snapshot, r=request: decide(s, r), times if channels == 1 else times // 4)
            title = f"decision, {_RULES} rules, {_IDS:,} ids{name}, {what}"
            goal = GOAL_DECISION_MS if channels == 1 else None
            figures.append(Figure(f"{title}, p50", percentile(took, 0.5), "ms", goal))
            figures.append(Figure(f"{title}, p99", percentile(took, 0.99), "ms"))
    with tempfile.TemporaryDirectory() as directory:
        figures += asyncio.run(_envelopes(Path(directory), 2 if smoke else 10))
    return figures


def _figures(name: str, samples: list[float], goal: float | None) -> list[Figure]:
    return [
        Figure(f"{name}, p50", percentile(samples, 0.5), "ms"),
        Figure(f"{name}, p99", percentile(samples, 0.99), "ms", goal),
    ]


def _snapshots() -> dict[str, PolicySnapshot]:
    """Every list full, every rule asked to its last criterion, with and without a timed override."""
    overrides: dict[str, Any] = {
        "protected_channels": CHANNELS,
        "forbidden_peers": PEERS,
        "approval_overrides": {"channel_close_*": "always_confirm"},
    }
    document = parse_document({"policy_version": 1, "preset": "moderate", "overrides": overrides})
    rules = tuple(
        parse_rule(
            {
                "match": {
                    "schema": f"hive:*{'fee-policy'[: 1 + n % 10]}*",
                    "action": f"set_*{'*' * (n % 3)}",
                    "danger_gte": 1,
                    "channels": [*CHANNELS[n * 40 : n * 40 + 50], "900x1x0"],
                    "peers": [*PEERS[n * 40 : n * 40 + 50], f"03{0:064x}"],
                    "days": ["mon", "tue", "wed", "thu", "fri", "sat", "sun"],
                    "hours": "00:00-23:59",
                },
                "effect": "confirm",
            },
            rule_id=f"rule-{n}",
        )
        for n in range(_RULES)
    )
    timed = Override("o", {"protected_channels": CHANNELS[:-1]}, NOW - 1, NOW + 3_600)
    return {
        "": PolicySnapshot(1, "moderate", document, rules),
        " and a timed override of them": PolicySnapshot(1, "moderate", document, rules, timed),
    }


def _request(channels: int) -> ActionRequest:
    facts = tuple(
        ChannelFact(
            f"{900 + n}x1x0" if n < 100 else f"{800_000 + n}x1x0",
            f"{n:064x}",
            f"03{n:064x}",
            1_000,
            100,
            0,
            10**9,
            "CHANNELD_NORMAL",
        )
        for n in range(channels)
    )
    return ActionRequest(
        schema="hive:fee-policy/v1",
        action="set_single" if channels == 1 else "set_bulk",
        params={"channels": [fact.scid for fact in facts], "policy": {"fee_ppm": 110}},
        danger=3,
        read_only=False,
        advisor_id="a",
        trust=Fraction(1),
        channels=facts,
        new_fees={fact.scid: (None, 110) for fact in facts},
        now=NOW,
        counts=dict.fromkeys(COUNTERS, 0),
    )


# -- envelopes ---------------------------------------------------------------------------------------------


async def _envelopes(directory: Path, rounds: int) -> list[Figure]:
    world = World(directory, channels=_ADVISORS)
    try:
        agents = [Secret((1_000 + n).to_bytes(32, "big")) for n in range(_ADVISORS)]
        await _hire(world, agents)
        world.policies.override(
            "moderate", rate_limits={"fee_changes_per_hour": 100_000, "total_actions_per_day": 100_000}
        )
        ways, busy = await _ways(world, agents, rounds)
        hops = await _hops(world, rounds * 100)
        early = await _early(world, agents[0], rounds * 100)
    finally:
        world.close()
    figures = _figures(
        f"envelope to decision, {_ADVISORS} advisors, flood {_FLOOD_PER_S}/s", ways, GOAL_WAY_MS
    )
    figures += _figures("  of that, processor time of the whole process", busy, None)
    figures += _figures("  beside it: one unsynced commit in another thread", hops, None)
    for name, samples in early.items():
        figures += _figures(f"early refusal: {name}", samples, GOAL_EARLY_MS)
    return figures


class _Table(CredentialService):
    """The plugin's own table of credentials, in place of the fake of the test's world."""

    since: Mapping[str, int] = MappingProxyType({})


async def _hire(world: World, agents: list[Secret]) -> None:
    """Advisors in the tables the plugin reads them from."""
    store = AdvisorStore()

    def body(tx: Any) -> None:
        for n, agent in enumerate(agents, 1):
            advisor_id = f"adv-{n}"
            store.add(tx, Advisor(advisor_id, n, None, None, advisor_id, "active", "fees", NOW, NOW))
            credential = issue(agent, number=n)
            store.add_credential(tx, CredentialRow(credential, advisor_id, "native", "active", "o", NOW))

    await world.db.write(body)
    service = _Table(world.db, store, now=lambda: world.now)
    await service.load()
    world.credentials = service  # type: ignore[assignment]
    world.pipeline = world._build()


async def _ways(world: World, agents: list[Secret], rounds: int) -> tuple[list[float], list[float]]:
    """Milliseconds from the bytes to the decision by the clock, and how long processors worked meanwhile: one
    command after another, strangers beside."""
    decided: list[tuple[float, float]] = []
    original = world.pipeline.decision._judge

    async def timed(*given: Any) -> Any:
        verdict = await original(*given)
        decided.append((time.perf_counter(), time.process_time()))
        return verdict

    world.pipeline.decision._judge = timed  # type: ignore[method-assign]
    flood = asyncio.create_task(_strangers(world))
    clock: list[float] = []
    busy: list[float] = []
    gc.collect()
    try:
        for round_ in range(1, rounds + 1):
            # Past the hour in which a channel takes one change of an advisor.
            world.pass_time(90_000)
            for n, agent in enumerate(agents):
                document = world.envelope(
                    "hive:fee-policy/v1",
                    "set_single",
                    {"channel_id": f"{101 + n}x1x0", "fee_ppm": 100 + 2 * round_},
                    agent=agent,
                    credential=n + 1,
                    # As the advisor's kit numbers its commands.
                    nonce=time.time_ns() // 1_000,
                )
                data, key = json.dumps(document), str(document["sender"])
                began, worked = time.perf_counter(), time.process_time()
                response = await world.pipeline.commands.handle(
                    data, Ingress("local", key, f"m{n}", world.now)
                )
                assert response is not None and response["status"] == 0, response
                when, used = decided.pop()
                clock.append((when - began) * 1_000)
                busy.append((used - worked) * 1_000)
    finally:
        flood.cancel()
    return clock, busy


async def _hops(world: World, times: int) -> list[float]:
    """Milliseconds of the one commit on the way, alone: what machine and disk are doing just now."""
    samples = []
    for n in range(times):
        began = time.perf_counter()
        await world.db.write(
            lambda tx, n=n: tx.execute("UPDATE comms_replay SET last_nonce = last_nonce + ?", (n % 2,)),
            durable=False,
        )
        samples.append((time.perf_counter() - began) * 1_000)
    return samples


async def _strangers(world: World) -> None:
    """A flood that does not wait for answers."""
    key = "ee" * 32
    stranger = json.dumps(world.envelope("hive:monitor/v1", "fee_report", {}))
    due, sent = time.perf_counter(), 0
    while True:
        while (time.perf_counter() - due) * _FLOOD_PER_S > sent:
            sent += 1
            assert await world.pipeline.commands.handle(stranger, Ingress("nostr_dm", key, "s", 0)) is None
        await asyncio.sleep(0.001)


async def _early(world: World, agent: Secret, times: int) -> dict[str, list[float]]:
    """Processor milliseconds of refusals before the first database access."""

    def text(**changes: Any) -> dict[str, Any]:
        return world.envelope("hive:monitor/v1", "fee_report", {}, agent=agent, **changes)

    key = str(text()["sender"])
    cases: dict[str, Callable[[], tuple[str, str]]] = {
        "a stranger": lambda: (json.dumps(text()), "ee" * 32),
        "no JSON": lambda: ("{" * 60_000, key),
        "stale timestamp": lambda: (json.dumps(text(timestamp=world.now - 4_000)), key),
        "another node": lambda: (json.dumps(text(node="ab" * 32)), key),
        "wrong signature": lambda: (json.dumps({**text(), "timestamp": world.now + 1}), key),
    }
    found: dict[str, list[float]] = {}
    for name, made in cases.items():
        for _ in range(times):
            # A minute later: or the limit of messages a minute answers in place of the check.
            world.pass_time(61)
            data, sender = made()
            ingress = Ingress("local", sender, "m", world.now)
            began = time.thread_time_ns()
            await world.pipeline.commands.handle(data, ingress)
            found.setdefault(name, []).append((time.thread_time_ns() - began) / 1e6)
    return found
