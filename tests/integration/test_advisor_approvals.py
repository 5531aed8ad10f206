"""The kit as approver and confirmer against a scripted node over a real relay (11 §5.3, §7, §15.5-6)."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hive_advisor.advisor import Advisor
from hive_advisor.config import AdvisorConfig
from hive_advisor.domain.command_machine import CommandState
from hive_advisor.identity import create_identity
from hive_advisor.paths import ProfilePaths
from hive_devnet.relay import RelayProcess
from hive_shared import envelope
from hive_shared.crypto import Secret, schnorr_verify, xonly_pubkey
from hive_shared.errors import Conflict, PolicyDenied
from open_guard import open_guard
from scripted_node import ScriptedNode

pytestmark = pytest.mark.asyncio(loop_scope="module")

FEE = ("hive:fee-policy/v1", "set_single", {"channel_id": "103x1x0", "fee_ppm": 150})
ASKER = Secret(os.urandom(32))


class Clock:
    def __init__(self) -> None:
        self.ahead = 0

    def __call__(self) -> int:
        return int(time.time()) + self.ahead


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def relay() -> AsyncIterator[RelayProcess]:
    process = await RelayProcess.start()
    yield process
    await process.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def node(relay: RelayProcess) -> AsyncIterator[ScriptedNode]:
    async with ScriptedNode(relay.url) as scripted:
        yield scripted


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest_asyncio.fixture(loop_scope="module")
async def kit(relay: RelayProcess, tmp_path: Path, clock: Clock) -> AsyncIterator[Advisor]:
    paths = ProfilePaths("test", tmp_path / "config", tmp_path / "data")
    open_guard(paths.config_dir)
    config = AdvisorConfig(relays=(relay.url,), accept_offers=True)
    async with Advisor.open(paths, create_identity(), config, online=True, now=clock) as made:
        yield made


async def until(condition: Callable[[], Awaitable[Any]], timeout: float = 60) -> Any:
    async with asyncio.timeout(timeout):
        while not (value := await condition()):
            await asyncio.sleep(0.02)
        return value


def command(node_key: str, **changes: Any) -> dict[str, Any]:
    document = {
        "v": 1,
        "command_id": str(uuid.uuid4()),
        "schema_type": FEE[0],
        "schema_payload": {"action": FEE[1], "params": FEE[2]},
        "credential": {"credential_id": "c1"},
        "payment_proof": {"method": "none"},
        "nonce": time.time_ns() // 1_000,
        "timestamp": int(time.time()),
        "node": node_key,
        "sender": xonly_pubkey(ASKER),
        **changes,
    }
    return dict(envelope.sign_command(ASKER, document))


def push(node: ScriptedNode, agent: str, action: str, body: dict[str, Any]) -> dict[str, Any]:
    node.seq += 1
    built = envelope.build_push(
        action, body, node_key=node.key, agent_key=agent, seq=node.seq, timestamp=int(time.time())
    )
    return dict(envelope.sign_push(node.secret, built))


def request(document: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "command_hash": envelope.command_digest(document).hex(),
        "envelope": document,
        "danger": {"r": 9, "f": 9, "t": 9, "b": 9, "d": 9, "total": 9},
        "expires": int(time.time()) + 3_600,
        **changes,
    }


async def asked(kit: Advisor, node: ScriptedNode) -> Any:
    """One request that reached the kit."""
    document = command(node.key)
    await node.send(kit.pubkey, push(node, kit.pubkey, "approval_request", request(document)))

    async def came() -> Any:
        found = await kit.approvals.listed(expired=False, limit=100)
        return next((item for item in found if item.envelope == document), None)

    return await until(came)


async def quarantined(kit: Advisor) -> list[dict[str, Any]]:
    return list((await kit.brief())["quarantined"])


async def test_a_vote_is_signed_over_what_was_shown_and_counted(kit: Advisor, node: ScriptedNode) -> None:
    item = await asked(kit, node)
    assert await kit.approvals.node_of(item) == (f"node-{node.key[:12]}", False)
    voted = await kit.approvals.vote(item, "approve", 10)
    assert (voted.state, voted.decision) == ("counted", "approve")
    (vote,) = node.commands
    assert (vote.action, vote.credential, vote.params["command_id"]) == ("approve", None, item.command_id)
    digest = envelope.approve_digest(item.command_hash, "approve")
    assert schnorr_verify(kit.pubkey, digest, str(vote.params["sig"]))
    assert (await kit.approvals.node_of(item))[1] is True
    again = await kit.approvals.vote(item, "approve", 0)
    assert again.state == "counted" and len(node.commands) == 1
    with pytest.raises(Conflict, match="first vote"):
        await kit.approvals.vote(item, "reject", 0)


async def test_a_vote_without_an_answer_is_sent_again_as_the_same_bytes(
    kit: Advisor, node: ScriptedNode, clock: Clock
) -> None:
    item = await asked(kit, node)
    node.answer = lambda _c: None
    assert (await kit.approvals.vote(item, "reject", 0)).state == "sent"
    await node.heard(1)
    with pytest.raises(Conflict):
        await kit.approvals.vote(item, "approve", 0)
    node.answer = lambda c: node.response(c, 0, result={"vote": "reject"})
    await kit.pump()
    await node.heard(2)
    assert node.commands[0].raw == node.commands[1].raw

    async def counted() -> bool:
        return (await kit.approvals.get(item.approval_id)).state == "counted"

    await until(counted)


async def test_dead_bytes_are_signed_anew_and_a_refused_vote_may_be_given_again(
    kit: Advisor, node: ScriptedNode, clock: Clock
) -> None:
    item = await asked(kit, node)
    node.answer = lambda _c: None
    await kit.approvals.vote(item, "approve", 0)
    await node.heard(1)
    clock.ahead = 400
    node.answer = lambda c: node.response(
        c, 1, error={"code": 4012, "slug": "emergency_stop", "message": "stopped"}
    )
    refused = await kit.approvals.vote(item, "approve", 10)
    assert (refused.state, refused.slug) == ("refused", "emergency_stop")
    assert node.commands[1].nonce > node.commands[0].nonce
    node.answer = lambda c: node.response(c, 0, result={"vote": "reject"})
    assert (await kit.approvals.vote(item, "reject", 10)).state == "counted"


async def test_after_the_deadline_nothing_is_signed(kit: Advisor, node: ScriptedNode, clock: Clock) -> None:
    item = await asked(kit, node)
    clock.ahead = 3_700
    with pytest.raises(PolicyDenied, match="stopped waiting"):
        await kit.approvals.vote(item, "approve", 0)
    assert node.commands == []
    assert await kit.approvals.listed(expired=False, limit=10) == []


HOSTILE: dict[str, Callable[[ScriptedNode, str], dict[str, Any]]] = {
    "changed parameters": lambda n, _a: {
        **request(document := command(n.key)),
        "envelope": {**document, "schema_payload": {"action": FEE[1], "params": {**FEE[2], "fee_ppm": 9}}},
    },
    "a command for another node": lambda _n, _a: request(command("ab" * 32)),
    "expired": lambda n, _a: request(command(n.key), expires=int(time.time()) - 1),
    "a forged command": lambda n, _a: request({**command(n.key), "signature": "00" * 64}),
}


@pytest.mark.parametrize("what", HOSTILE)
async def test_acceptance_11_05_a_false_request_is_quarantined(
    kit: Advisor, node: ScriptedNode, what: str
) -> None:
    await node.send(kit.pubkey, push(node, kit.pubkey, "approval_request", HOSTILE[what](node, kit.pubkey)))
    await until(lambda: quarantined(kit))
    assert await kit.approvals.listed(expired=True, limit=10) == []


async def test_acceptance_11_05_forged_pushes_and_answers_change_nothing(
    kit: Advisor, node: ScriptedNode, relay: RelayProcess
) -> None:
    item = await asked(kit, node)
    node.answer = lambda _c: None
    await kit.approvals.vote(item, "approve", 0)
    await node.heard(1)
    async with ScriptedNode(relay.url) as stranger:
        forged = push(node, kit.pubkey, "approval_request", request(command(node.key)))
        # Sealed by a stranger; then with the stranger's key inside; then an answer in the node's name.
        await stranger.send(kit.pubkey, forged)
        await stranger.send(kit.pubkey, {**forged, "signature": "00" * 64})
        await stranger.send(kit.pubkey, stranger.response(node.commands[0], 0))
        await node.send(
            kit.pubkey,
            {**node.response(node.commands[0], 0), "signature": "00" * 64},
        )

        async def four() -> bool:
            return len(await quarantined(kit)) == 4

        await until(four)
    assert (await kit.approvals.get(item.approval_id)).state == "sent"
    assert len(await kit.approvals.listed(expired=True, limit=10)) == 1


async def test_a_request_that_comes_twice_is_one_and_another_content_is_refused(
    kit: Advisor, node: ScriptedNode
) -> None:
    item = await asked(kit, node)
    await node.send(kit.pubkey, push(node, kit.pubkey, "approval_request", request(item.envelope)))
    other = command(node.key, command_id=item.command_id)
    await node.send(kit.pubkey, push(node, kit.pubkey, "approval_request", request(other)))
    (bad,) = await until(lambda: quarantined(kit))
    assert "another command under the same command id" in bad["why"]
    assert len(await kit.approvals.listed(expired=False, limit=10)) == 1


async def test_strangers_cannot_fill_the_list(kit: Advisor, relay: RelayProcess) -> None:
    async with ScriptedNode(relay.url) as first, ScriptedNode(relay.url) as flood:
        known = await asked(kit, first)
        await kit.approvals.vote(known, "approve", 10)
        for _ in range(25):
            await asked(kit, flood)
        found = await kit.approvals.listed(expired=False, limit=100)
        assert len(found) == 21
        assert known.approval_id in {item.approval_id for item in found}


# Confirmation ------------------------------------------------------------------------------------


async def waiting(kit: Advisor, node: ScriptedNode, confirmed: int | None = None) -> Any:
    """A command of ours that waits at the node."""
    await node.send(kit.pubkey, node.offer(kit.pubkey))
    client = await until(lambda: kit.clients.with_node_key(node.key))
    await node.heard(1)
    pending = {"code": 4005, "slug": "confirmation_required", "message": "waits", "data": {"expires": 1}}
    node.answer = lambda c: node.response(c, 3, error=pending)
    plan = await kit.plan(client, *FEE)
    sent = await kit.execute(plan, wait_s=60, confirmed_danger=confirmed)
    assert sent.state == CommandState.PENDING and sent.confirmed_danger == confirmed
    return sent


def challenge(command_: Any, **changes: Any) -> dict[str, Any]:
    return {
        "command_id": command_.command_id,
        "command_hash": command_.command_hash,
        "challenge": "ab" * 32,
        "expires": int(time.time()) + 1_800,
        **changes,
    }


async def test_a_pushed_challenge_is_kept_but_nothing_is_signed(kit: Advisor, node: ScriptedNode) -> None:
    sent = await waiting(kit, node, confirmed=4)
    with pytest.raises(Conflict, match="no challenge"):
        await kit.confirm(sent, 1)
    await node.send(kit.pubkey, push(node, kit.pubkey, "confirm_challenge", challenge(sent)))

    async def challenged() -> Any:
        found = await kit.commands.get(sent.command_id)
        return found if found.challenge else None

    found = await until(challenged)
    await kit.pump()
    heard = [c.action for c in node.commands if c.schema_type != "hive:monitor/v1"]
    assert heard == ["credential_ack", "set_single"], "never by itself"
    node.answer = lambda c: node.response(c, 0, result={"state": "success"})
    await kit.confirm(found, 10)
    word = node.commands[-1]
    digest = envelope.confirm_digest(sent.command_hash, "ab" * 32)
    assert word.action == "confirm" and schnorr_verify(kit.pubkey, digest, str(word.params["challenge_sig"]))


@pytest.mark.parametrize(
    "changes",
    [{"command_hash": "cd" * 32}, {"command_id": str(uuid.uuid4())}, {"expires": 1}],
    ids=["another content", "no command of ours", "expired"],
)
async def test_a_false_challenge_is_quarantined(
    kit: Advisor, node: ScriptedNode, changes: dict[str, Any]
) -> None:
    sent = await waiting(kit, node)
    await node.send(kit.pubkey, push(node, kit.pubkey, "confirm_challenge", challenge(sent, **changes)))
    await until(lambda: quarantined(kit))
    assert (await kit.commands.get(sent.command_id)).challenge is None


async def test_an_expired_challenge_is_not_signed(kit: Advisor, node: ScriptedNode, clock: Clock) -> None:
    sent = await waiting(kit, node)
    await node.send(kit.pubkey, push(node, kit.pubkey, "confirm_challenge", challenge(sent)))

    async def challenged() -> Any:
        found = await kit.commands.get(sent.command_id)
        return found if found.challenge else None

    found = await until(challenged)
    clock.ahead = 1_900
    with pytest.raises(PolicyDenied, match="expired"):
        await kit.confirm(found, 1)
