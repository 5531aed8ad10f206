"""``hive-advisor command confirm`` as typed, with and without a terminal (11 §5.3, §10)."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hive_devnet.relay import RelayProcess
from hive_devnet.world import AdvisorFailed, AdvisorShell, until
from hive_shared import envelope
from hive_shared.crypto import schnorr_verify
from hive_shared.nostr.keys import parse_pubkey
from scripted_node import ScriptedNode
from terminal import at_terminal

FEE = ("hive:fee-policy/set_single", "channel_id=103x1x0", "fee_ppm=150")
CHALLENGE = "ab" * 32
PENDING, REFUSED = 5, 4


class Approving(ScriptedNode):
    """A node that holds every command, lets its operator approve, and wants the challenge signed."""

    held: envelope.Command | None = None
    confirmed = 0

    def reply(self, command: envelope.Command) -> dict[str, Any]:
        if command.action == "set_single":
            self.held = command
            return self.waiting(command, {"expires": int(time.time()) + 3_600})
        if command.action == "confirm":
            assert self.held is not None
            digest = envelope.confirm_digest(self.held.hash, CHALLENGE)
            assert schnorr_verify(command.sender, digest, str(command.params["challenge_sig"]))
            self.confirmed += 1
        return self.response(command, 0, result={"ok": True})

    def waiting(self, command: envelope.Command, data: dict[str, Any]) -> dict[str, Any]:
        error = {"code": 4005, "slug": "confirmation_required", "message": "waits", "data": data}
        return self.response(command, 3, error=error)

    async def approves(self) -> None:
        assert self.held is not None
        expires = int(time.time()) + 1_800
        data = {"challenge": CHALLENGE, "command_hash": self.held.hash, "expires": expires}
        await self.send(self.held.sender, self.waiting(self.held, data))


@pytest_asyncio.fixture
async def relay() -> AsyncIterator[RelayProcess]:
    process = await RelayProcess.start()
    yield process
    await process.stop()


@pytest_asyncio.fixture
async def node(relay: RelayProcess) -> AsyncIterator[Approving]:
    async with Approving(relay.url) as made:
        made.answer = made.reply
        yield made


@pytest_asyncio.fixture
async def shell(relay: RelayProcess, node: Approving, tmp_path: Path) -> AdvisorShell:
    made = AdvisorShell(tmp_path / "advisor", [relay.url])
    key = parse_pubkey(str((await made.run("identity", "create"))["npub"]))
    await node.send(key, node.offer(key))
    await made.run("run", "--once")
    (offered,) = (await made.run("client", "list"))["items"]
    await made.run("client", "accept", offered["alias"], "--name", "alice")
    return made


async def sent(shell: AdvisorShell, *more: str) -> str:
    with pytest.raises(AdvisorFailed) as waits:
        await shell.run("--yes", "send", "alice", *FEE, *more)
    assert waits.value.code == PENDING, waits.value
    return str(waits.value.error["command_id"])


async def danger(shell: AdvisorShell) -> str:
    return str((await shell.run("send", "alice", *FEE, "--dry-run"))["danger"]["total"])


async def test_acceptance_11_12_planned_with_its_danger_then_confirmed_by_command(
    shell: AdvisorShell, node: Approving
) -> None:
    with pytest.raises(AdvisorFailed, match="not this command's danger") as wrong:
        await shell.run("--yes", "send", "alice", *FEE, "--confirm-danger", "9")
    assert wrong.value.code == PENDING and node.held is None
    command_id = await sent(shell, "--confirm-danger", await danger(shell))
    with pytest.raises(AdvisorFailed, match="no challenge") as early:
        await shell.run("command", "confirm", command_id)
    assert early.value.code == REFUSED
    await node.approves()
    await shell.run("run", "--once")
    assert node.confirmed == 0, "never by itself"
    with pytest.raises(AdvisorFailed):
        # Confirmed, and the scripted node never says that it ran.
        await shell.run("--wait", "5", "command", "confirm", command_id)
    assert node.confirmed == 1


async def test_acceptance_11_12_what_nobody_confirmed_needs_a_terminal(
    shell: AdvisorShell, node: Approving
) -> None:
    command_id = await sent(shell)
    await node.approves()

    async def challenged() -> bool:
        await shell.run("run", "--once")
        return True

    await until(challenged, "a round")
    with pytest.raises(AdvisorFailed, match="at a terminal") as refused:
        await shell.run("--yes", "command", "confirm", command_id)
    assert refused.value.code == PENDING
    with pytest.raises(AdvisorFailed, match="nothing was signed"):
        await at_terminal(shell, "command", "confirm", command_id, answers={"to confirm": "yes"})
    assert node.confirmed == 0
    with pytest.raises(AdvisorFailed):
        await at_terminal(
            shell, "--wait", "5", "command", "confirm", command_id, answers={"to confirm": "alice set_single"}
        )
    assert node.confirmed == 1
