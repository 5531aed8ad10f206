"""The kit against a scripted node over a real relay: honest, silent, and lying (11 §4, §5)."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hive_advisor.advisor import Advisor
from hive_advisor.config import AdvisorConfig
from hive_advisor.identity import create_identity
from hive_advisor.paths import ProfilePaths
from hive_advisor.services.asking import AskService
from hive_devnet.relay import RelayProcess
from hive_shared import envelope
from hive_shared.crypto import Secret, cln_sign_message
from hive_shared.errors import (
    Conflict,
    CredentialInvalid,
    CredentialUnverifiable,
    InvalidParams,
    Unsupported,
    envelope_status,
    from_symbol,
)
from open_guard import open_guard
from scripted_node import ScriptedNode

PARAMS = {"channel_id": "103x1x0", "fee_ppm": 150}
FEE = ("hive:fee-policy/v1", "set_single")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def relay() -> AsyncIterator[RelayProcess]:
    process = await RelayProcess.start()
    yield process
    await process.stop()


pytestmark = pytest.mark.asyncio(loop_scope="module")
Opener = Callable[..., AbstractAsyncContextManager[Advisor]]


class Clock:
    """Seconds added to the real time, so that a test can let an envelope die."""

    def __init__(self) -> None:
        self.ahead = 0

    def __call__(self) -> int:
        return int(time.time()) + self.ahead


@pytest_asyncio.fixture(loop_scope="module")
async def node(relay: RelayProcess) -> AsyncIterator[ScriptedNode]:
    async with ScriptedNode(relay.url) as scripted:
        yield scripted


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opener(relay: RelayProcess, tmp_path: Path, clock: Clock) -> Opener:
    identity = create_identity()
    paths = ProfilePaths("test", tmp_path / "config", tmp_path / "data")
    open_guard(paths.config_dir)

    def open_(accept: bool = True) -> AbstractAsyncContextManager[Advisor]:
        config = AdvisorConfig(relays=(relay.url,), accept_offers=accept)
        return Advisor.open(paths, identity, config, online=True, now=clock)

    return open_


async def until(condition: Callable[[], Any], timeout: float = 60) -> Any:
    async with asyncio.timeout(timeout):
        while True:
            value = await condition()
            if value:
                return value
            await asyncio.sleep(0.02)


async def hired(kit: Advisor, node: ScriptedNode, access: str = "fees") -> Any:
    """Offer sent, accepted automatically, acknowledged."""
    key = kit.pubkey
    await node.send(key, node.offer(key, credential=node.credential(key, access)))
    client = await until(lambda: kit.clients.with_node_key(node.key))
    await node.heard(1)
    assert node.commands[0].action == "credential_ack"
    return client


async def test_an_offer_is_checked_accepted_and_acknowledged(opener: Opener, node: ScriptedNode) -> None:
    async with opener() as kit:
        client = await hired(kit, node)
        assert client.state == "active"
        assert client.alias.startswith("node-")
        params = node.commands[0].params
        assert isinstance(params, dict) and params["accepted"] is True


async def test_an_acknowledgement_that_was_never_said_is_said_by_the_next_round(
    opener: Opener, node: ScriptedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ended between taking the credential and saying so."""

    async def ended(*_: Any, **__: Any) -> str:
        return "not sent yet"

    with monkeypatch.context() as dying:
        dying.setattr(AskService, "acknowledge", ended)
        async with opener() as kit:
            key = kit.pubkey
            await node.send(key, node.offer(key, credential=node.credential(key, "fees")))
            await until(lambda: kit.clients.with_node_key(node.key))
    async with opener() as kit:
        await kit.pump()
        await node.heard(1)
        await kit.pump()
        await kit.pump()
    assert [command.action for command in node.commands].count("credential_ack") == 1


async def test_an_acknowledgement_that_is_on_its_way_leaves_before_the_process_ends(
    opener: Opener, node: ScriptedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opener() as kit:
        key, deliver, begun = kit.pubkey, kit.delivery.deliver, asyncio.Event()

        async def slow(*given: Any, **named: Any) -> str | None:
            begun.set()
            await asyncio.sleep(0.2)
            return await deliver(*given, **named)

        monkeypatch.setattr(kit.delivery, "deliver", slow)
        await node.send(key, node.offer(key, credential=node.credential(key, "fees")))
        async with asyncio.timeout(60):
            await begun.wait()
    await node.heard(1)
    assert [command.action for command in node.commands] == ["credential_ack"]


async def test_an_acknowledgement_that_later_commands_overtook_is_said_again(
    opener: Opener, node: ScriptedNode, clock: Clock
) -> None:
    def said() -> list[envelope.Command]:
        return [command for command in node.commands if command.action == "credential_ack"]

    async def twice() -> bool:
        return len(said()) == 2

    honest, node.answer = node.answer, lambda _command: None
    async with opener() as kit:
        client, ack = await hired(kit, node), node.commands[0]
        node.answer = honest
        await kit.control(client.client_id, "capabilities", {}, 60)
        # Lost at first: its repeat is refused for its number.
        error = from_symbol("nonce_too_low", "late", expected_min=node.commands[-1].nonce + 1)
        await node.send(ack.sender, node.response(ack, 1, error=envelope.error_doc(error)))
        await until(lambda: kit.commands.listed(None, "rejected", 1))
        await kit.pump()
        assert len(said()) == 1, "not before a minute has passed"
        clock.ahead = 61
        await kit.pump()
        await until(twice)
        await kit.pump()
    first, again = said()
    assert again.nonce > first.nonce and again.params == first.params


@pytest.mark.parametrize(("slug", "again"), [("busy", True), ("permission_denied", False)])
async def test_an_acknowledgement_that_came_at_a_bad_time_is_said_again(
    opener: Opener, node: ScriptedNode, clock: Clock, slug: str, again: bool
) -> None:
    def said() -> int:
        return [command.action for command in node.commands].count("credential_ack")

    async with opener() as kit:
        honest = node.answer
        node.answer = lambda c: node.response(c, 2, error=envelope.error_doc(from_symbol(slug, "not now")))
        await hired(kit, node)
        await until(lambda: refused(kit))
        node.answer = honest
        clock.ahead = 300
        await kit.pump()
        assert said() == 1
        clock.ahead = 3_600
        await kit.pump()
        await kit.pump()
        assert said() == 1 + again


async def refused(kit: Advisor) -> bool:
    return any([await kit.commands.listed(None, state, 1) for state in ("rejected", "error")])


async def test_a_command_is_sent_answered_and_its_receipt_kept(opener: Opener, node: ScriptedNode) -> None:
    async with opener() as kit:
        client = await hired(kit, node)
        new = {"new": 150}
        node.answer = lambda c: node.response(c, 0, result=new, receipt=node.receipt(c, result=new))
        done = await kit.execute(await kit.plan(client, *FEE, PARAMS), wait_s=60)
        assert (str(done.state), done.receipt_id) == ("done", 1)
        stored = await kit.receipts.get(client, 1)
        assert stored is not None and stored.level == "chained"
        assert (await kit.receipts.verify(client))["ok"]


HOSTILE: dict[str, Callable[[ScriptedNode, str], dict[str, Any]]] = {
    "binding by another key": lambda n, a: n.offer(
        a, binding=cln_sign_message(Secret(os.urandom(32)), f"hive-mkt/v1/bind:{n.key}:{n.node_id}")
    ),
    "credential of another agent": lambda n, a: n.offer(a, credential=n.credential("ab" * 32)),
    "credential with one changed byte": lambda n, a: n.offer(
        a, credential={**n.credential(a), "valid_until": n.credential(a)["valid_until"] + 1}
    ),
    "another node key than the seal": lambda n, a: n.offer(
        a, node={"node_key": "cd" * 32, "node_id": n.node_id, "network": "regtest"}
    ),
    "another node id than the credential": lambda n, a: n.offer(
        a, node={"node_key": n.key, "node_id": "02" + "cd" * 32, "network": "regtest"}
    ),
    "expired credential": lambda n, a: n.offer(a, credential=_expired(n, a)),
    "push signed by a stranger": lambda n, a: {**n.offer(a), "signature": "00" * 64},
}


def _expired(node: ScriptedNode, agent: str) -> dict[str, Any]:
    from hive_shared import credential as credentials

    made = credentials.parse(node.credential(agent))
    import msgspec

    old = msgspec.structs.replace(made, valid_from=1_000, valid_until=2_000)
    return dict(
        credentials.to_doc(
            credentials.with_signature(old, cln_sign_message(node.hsm, credentials.signing_text(old)))
        )
    )


@pytest.mark.parametrize("what", HOSTILE)
async def test_acceptance_11_05_a_false_offer_is_quarantined(
    opener: Opener, node: ScriptedNode, what: str
) -> None:
    async with opener() as kit:
        await node.send(kit.pubkey, HOSTILE[what](node, kit.pubkey))
        brief = await until(lambda: _quarantined(kit))
        assert len(brief) == 1, brief
        assert await kit.clients.all() == []


async def _quarantined(kit: Advisor) -> list[dict[str, Any]]:
    return list((await kit.brief())["quarantined"])


async def test_acceptance_11_05_forged_and_foreign_answers_change_nothing(
    opener: Opener, node: ScriptedNode, relay: RelayProcess
) -> None:
    async with opener() as kit, ScriptedNode(relay.url) as stranger:
        client = await hired(kit, node)
        node.answer = lambda _c: None
        sent = await kit.execute(await kit.plan(client, *FEE, PARAMS), wait_s=0)
        await node.heard(2)
        command = node.commands[1]
        await stranger.send(kit.pubkey, stranger.response(command, 0))
        forged = {**node.response(command, 0), "signature": stranger.response(command, 0)["signature"]}
        await node.send(kit.pubkey, forged)
        other = node.response(command, 0)
        other = envelope.sign_response(node.secret, {**other, "request_nonce": command.nonce + 1})
        await node.send(kit.pubkey, other)
        await until(lambda: _count(kit, 3))
        assert str((await kit.commands.get(sent.command_id)).state) == "sent"


async def _count(kit: Advisor, wanted: int) -> bool:
    return len(await _quarantined(kit)) >= wanted


async def test_acceptance_11_04_no_answer_sends_the_same_bytes_again(
    opener: Opener, node: ScriptedNode, clock: Clock
) -> None:
    async with opener() as kit:
        client = await hired(kit, node)
        node.answer = lambda _c: None
        sent = await kit.execute(await kit.plan(client, *FEE, PARAMS), wait_s=0)
        await node.heard(2)
        clock.ahead = 50
        node.answer = lambda c: node.response(c, 0, receipt=node.receipt(c))
        await kit.pump()
        await node.heard(3)
        assert node.commands[1].raw == node.commands[2].raw
        done = await kit.commands.settled(sent.command_id, 10)
        assert str(done.state) == "done"


async def test_acceptance_11_04_a_dead_command_the_node_never_saw_is_lost(
    opener: Opener, node: ScriptedNode, clock: Clock
) -> None:
    async with opener() as kit:
        client = await hired(kit, node)
        node.answer = lambda _c: None
        sent = await kit.execute(await kit.plan(client, *FEE, PARAMS), wait_s=0)
        await node.heard(2)
        # Not dead yet: "not_found" proves nothing while the bytes could still arrive.
        node.answer = lambda c: node.response(c, 0, result={"state": "not_found"})
        await kit.ask_status(sent, 10)
        assert str((await kit.commands.get(sent.command_id)).state) == "sent"
        clock.ahead = 400

        def late(command: envelope.Command) -> dict[str, Any]:
            answer = node.response(command, 0, result={"state": "not_found"})
            return envelope.sign_response(node.secret, {**answer, "timestamp": answer["timestamp"] + 400})

        node.answer = late
        summary = await kit.pump()
        assert summary["proven_lost"] == 1
        assert str((await kit.commands.get(sent.command_id)).state) == "lost"


async def test_acceptance_11_06_two_receipts_for_one_id_make_the_client_suspect(
    opener: Opener, node: ScriptedNode
) -> None:
    async with opener() as kit:
        client = await hired(kit, node)
        node.answer = lambda c: node.response(c, 0, receipt=node.receipt(c))
        await kit.execute(await kit.plan(client, *FEE, PARAMS), wait_s=60)
        node.head = (0, "0" * 64)
        await kit.execute(await kit.plan(client, *FEE, {**PARAMS, "fee_ppm": 160}), wait_s=2)
        suspect = await kit.clients.named(client.alias)
        assert suspect.state == "suspect" and "receipt 1" in suspect.suspect_why
        with pytest.raises(Conflict, match="suspect"):
            await kit.plan(suspect, *FEE, {**PARAMS, "fee_ppm": 170})


async def test_what_the_credential_forbids_is_never_sent(opener: Opener, node: ScriptedNode) -> None:
    async with opener() as kit:
        client = await hired(kit, node, "monitoring")
        with pytest.raises(CredentialInvalid, match="does not allow"):
            await kit.plan(client, *FEE, PARAMS)
        assert len(node.commands) == 1


async def test_the_state_a_command_was_decided_by_goes_with_it(opener: Opener, node: ScriptedNode) -> None:
    async with opener() as kit:
        client = await hired(kit, node)
        plan = await kit.plan(client, *FEE, PARAMS, expected_policy_root="ab" * 32)
        assert plan.summary()["expected_policy_root"] == "ab" * 32
        await kit.execute(plan, wait_s=0)
        await node.heard(2)
        assert node.commands[1].expected_policy_root == "ab" * 32
        with pytest.raises(InvalidParams, match="no policy root"):
            await kit.plan(client, *FEE, PARAMS, expected_policy_root="AB" * 32)
        with pytest.raises(InvalidParams, match="changes nothing"):
            await kit.plan(client, "hive:monitor/v1", "fee_report", {}, expected_policy_root="ab" * 32)


async def test_the_same_open_command_needs_to_be_asked_for_again(opener: Opener, node: ScriptedNode) -> None:
    async with opener() as kit:
        client = await hired(kit, node)
        node.answer = lambda _c: None
        plan = await kit.plan(client, *FEE, PARAMS)
        await kit.execute(plan, wait_s=0)
        with pytest.raises(Conflict, match="--again"):
            await kit.execute(plan, wait_s=0)
        await kit.execute(plan, wait_s=0, again=True)


async def test_acceptance_11_18_a_second_engine_on_a_profile_is_refused(opener: Opener) -> None:
    async with opener():
        with pytest.raises(Conflict, match="in use"):
            async with opener():
                pass


async def test_acceptance_11_21_a_revoked_credential_stops_sending(
    opener: Opener, node: ScriptedNode
) -> None:
    async with opener() as kit:
        client = await hired(kit, node)
        credential = (await kit.clients.credentials(client))[0]
        node.seq += 1
        import time

        push = envelope.build_push(
            "credential_revoked",
            {"credential_id": credential.credential_id, "reason": "done"},
            node_key=node.key,
            agent_key=kit.pubkey,
            seq=node.seq,
            timestamp=int(time.time()),
        )
        await node.send(kit.pubkey, envelope.sign_push(node.secret, push))
        await until(lambda: _ended(kit, client.alias))
        with pytest.raises(Conflict, match="ended"):
            await kit.plan(await kit.clients.named(client.alias), *FEE, PARAMS)


async def _ended(kit: Advisor, alias: str) -> bool:
    return (await kit.clients.named(alias)).state == "ended"


def refusing(node: ScriptedNode, slug: str) -> Callable[[envelope.Command], dict[str, Any]]:
    error = CredentialUnverifiable("no") if slug == "credential_unverifiable" else from_symbol(slug, "no")
    status = envelope_status(error)
    return lambda command: node.response(command, status, error=envelope.error_doc(error))


@pytest.mark.parametrize(
    ("slug", "state"),
    [
        ("credential_expired", "suspect"),
        ("credential_not_yet_valid", "suspect"),
        ("issuer_untrusted", "suspect"),
        ("credential_unverifiable", "active"),
        ("policy_blocked", "active"),
        ("rate_limited", "active"),
        ("emergency_stop", "paused"),
    ],
)
async def test_what_a_refusal_says_about_the_client(
    opener: Opener, node: ScriptedNode, slug: str, state: str
) -> None:
    async with opener() as kit:
        client = await hired(kit, node)
        node.answer = refusing(node, slug)
        await kit.execute(await kit.plan(client, *FEE, PARAMS), wait_s=30)

        async def settled() -> bool:
            return (await kit.clients.named(client.alias)).state == state

        await until(settled)


async def test_after_an_emergency_stop_the_client_goes_on_when_the_node_answers_again(
    opener: Opener, node: ScriptedNode, clock: Clock
) -> None:
    async with opener() as kit:
        client = await hired(kit, node)
        node.answer = refusing(node, "emergency_stop")
        await kit.execute(await kit.plan(client, *FEE, PARAMS), wait_s=30)

        async def stopped() -> bool:
            return (await kit.clients.named(client.alias)).stopped

        await until(stopped)
        with pytest.raises(Conflict, match="its operator stopped all commands"):
            await kit.plan(await kit.clients.named(client.alias), *FEE, PARAMS)
    # Over a restart, and still on: asked every few minutes, not in every round.
    async with opener() as kit:
        heard = len(node.commands)
        await kit.pump()
        assert len(node.commands) == heard
        clock.ahead = 301
        await kit.pump()
        assert [command.action for command in node.commands[heard:]] == ["capabilities"]
        assert await stopped()
        # Released: the answer ends the pause.
        node.answer = lambda command: node.response(command, 0, result={"server_time": int(clock())})
        clock.ahead = 700
        await kit.pump()
        assert (await kit.clients.named(client.alias)).state == "active"
        # What a human paused stays paused.
        await kit.clients.pause(await kit.clients.named(client.alias))
        with pytest.raises(Conflict, match="client resume"):
            await kit.capabilities(await kit.clients.named(client.alias), 0)


async def test_an_unsupported_action_makes_the_capabilities_old(opener: Opener, node: ScriptedNode) -> None:
    async with opener() as kit:
        client = await hired(kit, node)
        row = {"schema": FEE[0], "action": FEE[1], "reason": "no such call here"}
        told = {"server_time": int(time.time()), "unsupported_actions": [row]}
        node.answer = lambda command: node.response(command, 0, result=told)
        assert await kit.capabilities(client, 30) is not None
        with pytest.raises(Unsupported, match="no such call here"):
            await kit.plan(await kit.clients.named(client.alias), *FEE, PARAMS)
        node.answer = refusing(node, "unsupported_action")
        look = await kit.plan(await kit.clients.named(client.alias), "hive:monitor/v1", "health_summary", {})
        await kit.execute(look, wait_s=30)

        async def forgotten() -> bool:
            return (await kit.clients.named(client.alias)).capabilities_at is None

        await until(forgotten)
        await kit.plan(await kit.clients.named(client.alias), *FEE, PARAMS)


async def test_questions_of_the_kit_that_died_unanswered_do_not_stay_open(
    opener: Opener, node: ScriptedNode, clock: Clock
) -> None:
    async with opener() as kit:
        client = await hired(kit, node)
        node.answer = lambda _c: None
        assert await kit.capabilities(client, 0) is None
        waiting = await kit.execute(await kit.plan(client, *FEE, PARAMS), wait_s=0)
        before = {row.command_id for row in await kit.commands.open()}
        assert len(before) == 2
        await kit.pump()
        assert before <= {row.command_id for row in await kit.commands.open()}
        clock.ahead = 400
        # Asking after the command is a question too; it is young, the old one has ended.
        node.answer = lambda c: node.response(c, 0, result={"state": "executing"})
        await kit.pump()
        assert [row.command_id for row in await kit.commands.open()] == [waiting.command_id]
