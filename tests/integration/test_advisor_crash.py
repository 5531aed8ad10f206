"""The kit killed at every step of sending, and at every step of the round after it (11 §18.3)."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hive_advisor.advisor import Advisor
from hive_advisor.config import AdvisorConfig
from hive_advisor.domain import pace
from hive_advisor.identity import Identity, create_identity
from hive_advisor.paths import ProfilePaths
from hive_devnet.relay import RelayProcess
from hive_shared import envelope
from open_guard import open_guard
from scripted_node import ScriptedNode

CRASHER = Path(__file__).resolve().parents[1] / "advisor_crasher.py"
FINAL = {"done", "lost", "draft"}
STEPS_OF_ONE = 12
"""Every kit that is opened reads all that lies at the relay: with one world it gets ever slower."""


@dataclass
class Ledger:
    """What an honest node does: each command once, by its id; the same bytes get the same answer."""

    node: ScriptedNode
    runs: Counter[str] = field(default_factory=Counter)
    hears: bool = True
    answers: bool = True
    ahead: int = 0
    _answers: dict[str, dict[str, Any]] = field(default_factory=dict)

    def answer(self, command: envelope.Command) -> dict[str, Any] | None:
        asked_by_itself = command.schema_type in ("hive:control/v1", "hive:monitor/v1")
        if not asked_by_itself and not self.hears:
            return None
        if command.action == "command_status":
            asked = str(command.params["command_id"])  # type: ignore[index,call-overload]
            known = {"state": "success", "response": self._answers[asked]} if asked in self._answers else None
            said = self.node.response(command, 0, result=known or {"state": "not_found"})
            later = {**said, "timestamp": said["timestamp"] + self.ahead}
            return envelope.sign_response(self.node.secret, later)
        name = str(command.command_id)
        if asked_by_itself:
            return self.node.response(command, 0, result={})
        if name not in self._answers:
            self.runs[name] += 1
            self._answers[name] = self.node.response(command, 0, receipt=self.node.receipt(command))
        return self._answers[name] if self.answers else None


@dataclass
class World:
    directory: Path
    relay: RelayProcess
    node: ScriptedNode
    ledger: Ledger
    identity: Identity
    crasher: asyncio.subprocess.Process
    fee: int = 100

    def open(self, ahead: int = 0) -> AbstractAsyncContextManager[Advisor]:
        paths = ProfilePaths("test", self.directory / "config", self.directory / "data")
        open_guard(paths.config_dir)
        config = AdvisorConfig(relays=(self.relay.url,), accept_offers=True)
        return Advisor.open(paths, self.identity, config, online=True, now=lambda: int(time.time()) + ahead)

    async def killed(self, last: int, kind: str, wait_s: int = 60) -> bool:
        """Run a kit until step `last`; False when it ended before."""
        self.fee += kind == "send"
        params = json.dumps({"channel_id": "103x1x0", "fee_ppm": self.fee, "wait_s": wait_s})
        assert self.crasher.stdin is not None and self.crasher.stdout is not None
        self.crasher.stdin.write(f"{last} {kind} {params}\n".encode())
        await self.crasher.stdin.drain()
        async with asyncio.timeout(120):
            said = (await self.crasher.stdout.readline()).decode().strip()
        assert said == "killed" or said.startswith("ended "), said
        return said == "killed"

    async def true_state(self, ahead: int = 120) -> str:
        """Open again, let it do its rounds: the state of the newest command, which has to be the truth."""
        async with self.open(ahead=ahead) as kit:
            rows = await kit.commands.listed(None, None, 1_000)
            row = next((row for row in rows if row.params.get("fee_ppm") == self.fee), None)
            if row is None:
                return "never"
            await kit.pump()
            row = await kit.commands.settled(row.command_id, 60)
            assert str(row.state) in FINAL, row.state
            assert self.ledger.runs[row.command_id] == (1 if str(row.state) == "done" else 0)
            return str(row.state)


@asynccontextmanager
async def hired(directory: Path) -> AsyncIterator[World]:
    relay = await RelayProcess.start()
    identity = create_identity()
    async with ScriptedNode(relay.url) as node:
        ledger = Ledger(node)
        node.answer = ledger.answer
        crasher = await asyncio.create_subprocess_exec(
            sys.executable,
            str(CRASHER),
            str(directory),
            relay.url,
            identity.root.reveal().hex(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        world = World(directory, relay, node, ledger, identity, crasher)
        try:
            async with world.open() as kit:
                await node.send(kit.pubkey, node.offer(kit.pubkey))
                await node.heard(1, 40)
            yield world
        finally:
            crasher.terminate()
            await crasher.wait()
            await relay.stop()


class Worlds:
    """A world for every so many steps, one at a time; `runs` are the commands that their nodes ran."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._stack = directory, AsyncExitStack()
        self._ledgers: list[Ledger] = []

    async def __aenter__(self) -> Worlds:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def of(self, step: int) -> World:
        """The one of a step; steps come one after the other."""
        if (step - 1) % STEPS_OF_ONE == 0:
            await self._stack.aclose()
            self.world = await self._stack.enter_async_context(hired(self._directory / str(step)))
            self._ledgers.append(self.world.ledger)
        return self.world

    def runs(self) -> list[int]:
        """How often each command was run."""
        return [count for ledger in self._ledgers for count in ledger.runs.values()]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kit's own pace has tests of its own; here more goes out in a minute than it allows."""
    monkeypatch.setattr(pace, "wait_until", lambda *_: None)


async def test_acceptance_11_03_killed_at_every_step_of_send_a_command_runs_once_or_never(
    tmp_path: Path,
) -> None:
    ends: Counter[str] = Counter()
    async with Worlds(tmp_path) as worlds:
        for step in range(1, 200):
            world = await worlds.of(step)
            if not await world.killed(step, "send"):
                break
            ends[await world.true_state()] += 1
        else:
            pytest.fail("it never came to its end")
        assert await world.true_state() == "done"
        # Every command of the node's was run once, however often it came.
        assert worlds.runs() == [1] * (ends["done"] + 1)
    assert ends.total() >= 15 and ends["never"] >= 1 and ends["done"] >= 5, ends


async def test_acceptance_11_03_killed_again_at_every_step_of_the_round_that_mends_it(tmp_path: Path) -> None:
    steps = 0
    async with Worlds(tmp_path) as worlds:
        for step in range(1, 200):
            world = await worlds.of(step)
            # Sent, and killed before any answer was taken in: step 9 is after the publication.
            assert await world.killed(9, "send")
            if not await world.killed(step, "pump"):
                break
            steps += 1
            await world.true_state()
        else:
            pytest.fail("it never came to its end")
        assert set(worlds.runs()) == {1}
    assert steps >= 12, steps


async def test_acceptance_11_03_killed_while_it_asks_after_a_dead_command_it_ends_with_the_truth(
    tmp_path: Path,
) -> None:
    """A node that never heard the command, or ran it and lost its answer, by turns: lost, or done."""
    ends: Counter[str] = Counter()
    async with Worlds(tmp_path) as worlds:
        for step in range(1, 200):
            world = await worlds.of(step)
            ledger = world.ledger
            ledger.hears, ledger.answers, ledger.ahead = step % 2 == 0, False, 0
            assert not await world.killed(0, "send", wait_s=0)
            ledger.answers, ledger.ahead = True, 1_000
            ledger.hears = True if step % 2 == 0 else ledger.hears
            if not await world.killed(step, "late"):
                break
            state = await world.true_state(ahead=1_000)
            assert state == ("done" if step % 2 == 0 else "lost")
            ends[state] += 1
        else:
            pytest.fail("it never came to its end")
        assert set(worlds.runs()) == {1}
    assert ends.total() >= 15 and ends["done"] and ends["lost"], ends
