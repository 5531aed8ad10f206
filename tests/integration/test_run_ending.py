"""How `run` ends, what it still does, and what a command says is left to do (11 §3, §10)."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sqlite3
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hive_advisor.advisor import Advisor
from hive_advisor.cli.agent import Ending, rounds
from hive_advisor.cli.later import tell_later
from hive_advisor.cli.output import Terminal
from hive_advisor.config import AdvisorConfig
from hive_advisor.identity import create_identity, write_identity
from hive_advisor.paths import ProfilePaths
from hive_devnet.relay import RelayProcess
from hive_devnet.world import AdvisorShell
from hive_shared import envelope
from open_guard import open_guard
from plan_world import PlanWorld
from scripted_node import ScriptedNode

FEE = ("hive:fee-policy/set_single", "channel_id=103x1x0")


class Office:
    """An advisor's shell hired by a node that can keep an answer back."""

    def __init__(self, shell: AdvisorShell, node: ScriptedNode, paths: ProfilePaths) -> None:
        self.shell, self.node, self.paths = shell, node, paths
        self.identity = create_identity()
        self.kept: list[envelope.Command] = []
        self.keeps = False
        node.answer = self.answer

    def answer(self, command: envelope.Command) -> dict[str, Any] | None:
        if self.keeps and command.action == "set_single":
            self.kept.append(command)
            return None
        return self.node.honest(command)

    def open(self) -> AbstractAsyncContextManager[Advisor]:
        """The same profile in this process."""
        config = AdvisorConfig(relays=tuple(self.shell.relays), accept_offers=True)
        return Advisor.open(self.paths, self.identity, config, online=True)

    async def started(
        self, *arguments: str, stdout: int = asyncio.subprocess.PIPE
    ) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "hive_advisor", *arguments),
            env=self.shell.env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=stdout,
            stderr=asyncio.subprocess.PIPE,
        )

    async def heard(self, count: int) -> None:
        """Until the node was sent its kept command so often."""
        async with asyncio.timeout(60):
            while len(self.kept) < count:
                await asyncio.sleep(0.02)

    def due_now(self, command_id: str) -> None:
        """The bytes of a command are due again; nobody has the profile open."""
        with closing(
            sqlite3.connect(self.shell.directory / "data" / "hive-advisor" / "default" / "advisor.db")
        ) as db:
            db.execute("UPDATE adv_commands SET next_send = 0 WHERE command_id = ?", (command_id,))
            db.commit()


async def until_deadly(pid: int, signum: signal.Signals) -> None:
    """Until a process does not catch this signal any more."""
    async with asyncio.timeout(60):
        while True:
            status = Path(f"/proc/{pid}/status").read_text()
            caught = int(re.findall(r"^SigCgt:\s+(\w+)$", status, re.MULTILINE)[0], 16)
            if not caught >> (signum - 1) & 1:
                return
            await asyncio.sleep(0.01)


@pytest_asyncio.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    relay = await RelayProcess.start()
    shell = AdvisorShell(tmp_path, [relay.url])
    parts = (tmp_path / part / "hive-advisor" / "default" for part in ("config", "data"))
    paths = ProfilePaths("default", *parts)
    open_guard(paths.config_dir)
    paths.make()
    try:
        async with ScriptedNode(relay.url) as node:
            made = Office(shell, node, paths)
            write_identity(paths.identity, made.identity, "correct horse battery staple", now=1)
            async with made.open() as kit:
                await node.send(kit.pubkey, node.offer(kit.pubkey))
                await node.heard(1)
                (client,) = await kit.clients.all()
                await kit.clients.rename(client, "alice")
            yield made
    finally:
        await relay.stop()


async def test_run_ends_by_a_signal_with_the_answers_that_are_on_their_way(office: Office) -> None:
    office.keeps = True
    process = await office.started("--wait", "0", "--yes", "send", "alice", *FEE, "fee_ppm=150")
    out, err = await process.communicate()
    assert process.returncode == 11
    sent = re.findall(r"^command_id: (\S+)$", out.decode(), re.MULTILINE)[0]
    # A one-shot command says what is left, and that nobody does it now.
    assert "no agent runs now" in err.decode() and f"send the same bytes again (alice {sent})" in err.decode()
    office.due_now(sent)
    # The second signal does not wait for the answer that the first one waits for.
    agent = await office.started("--json", "run", "--interval", "1")
    await office.heard(2)
    agent.send_signal(signal.SIGTERM)
    await until_deadly(agent.pid, signal.SIGTERM)
    agent.send_signal(signal.SIGTERM)
    out, err = await agent.communicate()
    assert (agent.returncode, out) == (-signal.SIGTERM, b"") and b"Traceback" not in err
    office.due_now(sent)
    agent = await office.started("--json", "run", "--interval", "1")
    await office.heard(3)
    agent.send_signal(signal.SIGTERM)
    command = office.kept[0]
    await office.node.send(command.sender, office.node.response(command, 0))
    out, err = await agent.communicate()
    assert agent.returncode == 0, err
    assert json.loads(out)["ok"] and b"Traceback" not in err
    async with office.open() as kit:
        assert await kit.commands.open() == [] and await kit.later.due() == []
    assert {command.hash for command in office.kept} == {command.hash}


async def test_acceptance_11_12_ctrl_c_and_a_closed_pipe_leave_what_happened_on_record(
    office: Office, tmp_path: Path
) -> None:
    office.keeps = True
    process = await office.started("--json", "--yes", "send", "alice", *FEE, "fee_ppm=150")
    await office.heard(1)
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert (process.returncode, out) == (130, b"") and b"Traceback" not in err
    sent = str(office.kept[0].command_id)
    assert f"command {sent}: 'hive-advisor command wait' goes on with it" in err.decode()
    office.keeps = False
    # Nobody reads the first row of a batch: the rest is not sent, and the same file goes on.
    lines = [
        {
            "client": "alice",
            "schema": "hive:fee-policy/v1",
            "action": "set_single",
            "params": {"channel_id": "103x1x0", "fee_ppm": ppm},
        }
        for ppm in (160, 161, 162)
    ]
    file = tmp_path / "fees"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    batch = ("--json", "--yes", "send", "--batch", str(file))
    read, write = os.pipe()
    process = await office.started(*batch, stdout=write)
    os.close(write)
    os.close(read)
    _, err = await process.communicate()
    assert process.returncode == 1 and b"Traceback" not in err, err
    process = await office.started(*batch)
    out, err = await process.communicate()
    assert process.returncode == 0, err
    *rows, told = [json.loads(row) for row in out.splitlines()]
    assert told["data"]["ran"] == [1, 2, 3]
    ran = Counter(command.command_id for command in office.node.commands if command.action == "set_single")
    assert [row["ran_before"] for row in rows if "ran_before" in row] == [True]
    assert [ran[row["command_id"]] for row in rows] == [1, 1, 1]
    # What Ctrl-C broke off has the node's own word by now.
    office.due_now(sent)
    async with office.open() as kit:
        await kit.pump()
        assert str((await kit.commands.settled(sent, 30)).state) == "done"
    assert {command.hash for command in office.kept} == {office.kept[0].hash}


class SlowKit:
    """A kit whose round never ends by itself."""

    def __init__(self) -> None:
        self.begun, self.cancelled, self.flushed = asyncio.Event(), False, -1.0
        self.hooks = self.commands = self.ecash = self
        self.probing = False

    async def pump(self) -> dict[str, Any]:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return {}

    async def work(self) -> None:
        await asyncio.Event().wait()

    async def answered(self, wait_s: float) -> None:
        assert wait_s <= 0.5

    async def flush(self, wait_s: float) -> None:
        self.flushed = wait_s


async def test_a_round_that_does_not_end_is_given_its_time_and_broken_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hive_advisor.cli.agent.DRAIN_S", 0.2)
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}
    kit: Any = SlowKit()
    try:
        ending = Ending()
        running = asyncio.create_task(rounds(kit, ending, 1))
        await kit.begun.wait()
        signal.raise_signal(signal.SIGTERM)
        assert await running == {} and kit.cancelled and kit.flushed >= 0
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "the next one ends the process"
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


async def test_what_is_due_is_told_with_its_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = PlanWorld(tmp_path)
    async with world.open() as kit:
        await tell_later(Terminal(), kit)
        assert capsys.readouterr() == ("", "")
        held = await kit.execute(await world.plan(kit), wait_s=0)
        world.guard('[global]\nfee_step_pct = "off"\n')
        world.refusal = lambda command: world._stamped(command, 3, error=challenge(world))
        asked = await kit.execute(await world.plan(kit, 300), wait_s=1)
        world.refusal = lambda command: world.refused(command, "busy", retry_after=90)
        busy = await kit.execute(await world.plan(kit, 301), wait_s=0)
        world.down = True
        sent = await kit.execute(await world.plan(kit, 302), wait_s=0)
        ready = await kit.plans.issue(await world.plan(kit, 303), origin="lib")
        due = {item.ref: (item.what, item.at - world.now, item.by) for item in await kit.later.due()}
        assert due == {
            held.command_id: ("approve", 86_400, True),
            asked.command_id: ("confirm", 1_800, True),
            busy.command_id: ("retry", 90, False),
            sent.command_id: ("send_again", 20, False),
            ready.command_id: ("send", 0, False),
        }
        assert [item.at for item in await kit.later.due()] == sorted(
            at + world.now for _, at, _ in due.values()
        )
        world.now += 400
        later = {item.ref: item for item in await kit.later.due()}
        assert later[sent.command_id].what == "ask_status" and later[sent.command_id].at <= world.now
        await tell_later(Terminal(), kit)
        said = capsys.readouterr().err
        assert "ask the node what became of it (alice" in said and "UTC: confirm it" in said
        await tell_later(Terminal(quiet=True), kit)
        assert capsys.readouterr().err == ""


def challenge(world: PlanWorld) -> dict[str, Any]:
    data = {"challenge": "ab" * 32, "expires": world.now + 1_800, "command_hash": "cd" * 32}
    return {"code": 4005, "slug": "confirmation_required", "message": "waits", "data": data}
