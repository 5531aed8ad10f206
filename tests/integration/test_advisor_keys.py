"""Keys of the kit beside a scripted node: replaced ones, and one that a second machine uses (11 §2)."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hive_advisor.advisor import Advisor
from hive_advisor.config import AdvisorConfig
from hive_advisor.identity import Identity, create_identity
from hive_advisor.paths import ProfilePaths
from hive_devnet.relay import RelayProcess
from hive_shared import envelope
from hive_shared.errors import Conflict, CredentialInvalid, from_symbol
from open_guard import open_guard
from scripted_node import ScriptedNode

FEE = ("hive:fee-policy/v1", "set_single")
DAY = 86_400


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def relay() -> AsyncIterator[RelayProcess]:
    process = await RelayProcess.start()
    yield process
    await process.stop()


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def node(relay: RelayProcess) -> AsyncIterator[ScriptedNode]:
    async with ScriptedNode(relay.url) as scripted:
        yield scripted


class Profile:
    """One profile that is opened again and again, perhaps with another identity, perhaps later."""

    def __init__(self, relay: str, directory: Path) -> None:
        self.identity: Identity = create_identity()
        self.ahead = 0
        self._config = AdvisorConfig(relays=(relay,), accept_offers=True)
        self._paths = ProfilePaths("test", directory / "config", directory / "data")
        open_guard(self._paths.config_dir)

    def now(self) -> int:
        return int(time.time()) + self.ahead

    def open(self) -> AbstractAsyncContextManager[Advisor]:
        return Advisor.open(self._paths, self.identity, self._config, online=True, now=self.now)

    def rotate(self) -> None:
        self.identity = self.identity.rotated(self.now())


@pytest.fixture
def profile(relay: RelayProcess, tmp_path: Path) -> Profile:
    return Profile(relay.url, tmp_path)


async def until(condition: Callable[[], Awaitable[Any]], timeout: float = 60) -> Any:
    async with asyncio.timeout(timeout):
        while True:
            value = await condition()
            if value:
                return value
            await asyncio.sleep(0.02)


async def hired(kit: Advisor, node: ScriptedNode, key: str | None = None) -> Any:
    """Hired for fees: the offer, sent to this key, accepted and acknowledged."""
    key, before = key or kit.pubkey, len(node.commands)
    await node.send(key, node.offer(key))
    await node.heard(before + 1, 40)
    return await kit.clients.with_node_key(node.key)


async def set_fee(kit: Advisor, node: ScriptedNode, ppm: int, wait_s: int = 40) -> Any:
    client = await kit.clients.with_node_key(node.key)
    assert client is not None
    plan = await kit.plan(client, *FEE, {"channel_id": "103x1x0", "fee_ppm": ppm})
    return await kit.execute(plan, wait_s=wait_s)


def once(
    node: ScriptedNode, first: Callable[[envelope.Command], dict[str, Any]]
) -> Callable[[envelope.Command], dict[str, Any]]:
    """This answer to the first command, a good one to every other."""
    answers = [first]
    return lambda command: (
        answers.pop()(command) if answers else node.response(command, 0, receipt=node.receipt(command))
    )


def refusing(node: ScriptedNode, slug: str, **data: Any) -> Callable[[envelope.Command], dict[str, Any]]:
    return lambda command: node.response(
        command, 1, error=envelope.error_doc(from_symbol(slug, "no", **data))
    )


# -- one key on two machines -----------------------------------------------------------------------------


async def test_acceptance_11_18_nonce_reuse_stops_all_sending_until_a_human_clears_it(
    profile: Profile, node: ScriptedNode, relay: RelayProcess
) -> None:
    async with ScriptedNode(relay.url) as other:
        async with profile.open() as kit:
            await hired(kit, node)
            await hired(kit, other)
            # One without an answer, that would go out again.
            node.answer = lambda _command: None
            await set_fee(kit, node, 100, wait_s=0)
            await node.heard(2, 40)
            node.answer = refusing(node, "nonce_reuse")
            refused = await set_fee(kit, node, 150)
            assert str(refused.state) == "rejected"
            node.answer = lambda command: node.response(command, 0, receipt=node.receipt(command))
            with pytest.raises(Conflict, match="used on another machine") as stopped:
                await set_fee(kit, node, 160)
            assert stopped.value.symbol == "identity_shared"
            rows = await kit.commands.listed(None, None, 100)
            assert not [row for row in rows if row.params.get("fee_ppm") == 160]
            assert stopped.value.data["command_id"] == refused.command_id
            kinds = [event.kind for event in await kit.past_events(0, 500)]
            assert kinds.count("identity_shared") == 1
        heard = (len(node.commands), len(other.commands))
        # Over a restart, at every client, for every command of the kit's own, and for what waits to go again.
        async with profile.open() as kit:
            assert (await kit.brief())["identity_shared"]["slug"] == "nonce_reuse"
            assert (await kit.doctor(5))[0]["status"] == "fail"
            for client in await kit.clients.all():
                with pytest.raises(Conflict, match="identity shared --clear"):
                    await kit.capabilities(client, 0)
            with pytest.raises(Conflict, match="identity shared --clear"):
                await set_fee(kit, node, 1)
            profile.ahead = 60
            assert (await kit.pump())["sent_again"] == 0
            profile.ahead = 1_000
            assert (await kit.pump())["proven_lost"] == 0
            assert (len(node.commands), len(other.commands)) == heard
            profile.ahead = 0
            assert await kit.shared_key.clear() and not await kit.shared_key.clear()
            assert str((await set_fee(kit, node, 170)).state) == "done"
            assert "identity_shared" not in await kit.brief()


async def test_acceptance_11_18_a_nonce_too_low_is_stepped_over_once_and_an_alert_the_second_time(
    profile: Profile, node: ScriptedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with profile.open() as kit:
        client = await hired(kit, node)
        ahead = time.time_ns() // 1_000 + 3_600_000_000
        node.answer = once(node, refusing(node, "nonce_too_low", expected_min=ahead))
        done = await set_fee(kit, node, 150)
        assert str(done.state) == "done" and done.resigned == 1
        first, second = node.commands[-2:]
        assert first.command_id == second.command_id and first.nonce < second.nonce == ahead
        # Overtaken by a later command of ours: nobody else's doing, and not run after it by itself.
        node.answer = lambda _command: None
        early = await set_fee(kit, node, 155, wait_s=0)
        late = await set_fee(kit, node, 156, wait_s=0)
        await node.heard(len(node.commands), 40)
        for _ in range(2):
            refused = refusing(node, "nonce_too_low", expected_min=late.nonce + 1)
            await node.send(kit.pubkey, refused(envelope.decode_command(json.dumps(early.envelope))))
        early = await kit.commands.settled(early.command_id, 40)
        assert (str(early.state), early.slug, early.resigned) == ("rejected", "nonce_too_low", 0)
        assert await kit.shared_key.found() is None
        highest = (await kit.clients.named(client.alias)).last_nonce
        # Longer ago than a day is another story.
        node.answer = refusing(node, "nonce_too_low", expected_min=2**53 - 1)
        with monkeypatch.context() as patched:
            patched.setattr("hive_advisor.services.shared_key.TOO_LOW_S", 0)
            await set_fee(kit, node, 160)
            assert await kit.shared_key.found() is None
        # A node cannot push our nonces to the end of the numbers.
        assert (await kit.clients.named(client.alias)).last_nonce == highest + 1
        await set_fee(kit, node, 160)
        with pytest.raises(Conflict, match="answered nonce_too_low"):
            await set_fee(kit, node, 160)
        # What was before the clearing does not count again.
        await kit.shared_key.clear()
        await set_fee(kit, node, 170)
        assert await kit.shared_key.found() is None


async def test_an_answer_that_is_not_to_a_command_of_ours_alarms_nobody(
    profile: Profile, node: ScriptedNode
) -> None:
    async with profile.open() as kit:
        await hired(kit, node)
        command = node.commands[0]
        foreign = node.response(command, 1, error=envelope.error_doc(from_symbol("nonce_reuse", "no")))
        foreign = {**foreign, "request_nonce": command.nonce + 1, "command_id": str(uuid.uuid4())}
        await node.send(kit.pubkey, envelope.sign_response(node.secret, foreign))

        async def quarantined() -> Any:
            return (await kit.brief())["quarantined"]

        await until(quarantined)
        assert await kit.shared_key.found() is None


# -- rotation --------------------------------------------------------------------------------------------


async def test_after_a_rotation_each_client_moves_when_it_re_issues(
    profile: Profile, node: ScriptedNode, relay: RelayProcess
) -> None:
    async with ScriptedNode(relay.url) as other:
        async with profile.open() as kit:
            first = kit.pubkey
            await hired(kit, node)
            await hired(kit, other)
            node.answer = lambda _command: None
            unanswered = await set_fee(kit, node, 150, wait_s=0)
            await node.heard(2, 40)
        profile.rotate()
        node.answer = lambda command: node.response(command, 0, receipt=node.receipt(command))
        other.answer = lambda command: other.response(command, 0, receipt=other.receipt(command))
        async with profile.open() as kit:
            second = kit.pubkey
            assert second != first
            aliases = [client.alias for client in await kit.clients.all()]
            assert await kit.clients.unmoved() == aliases
            # Not re-issued yet: the replaced key signs, and its answers are read.
            assert str((await set_fee(kit, node, 160)).state) == "done"
            assert node.commands[-1].sender == first
            # The operator authorises the new key; from then on it signs, for that client alone.
            await hired(kit, node, second)
            assert node.commands[-1].sender == second and node.commands[-1].action == "credential_ack"
            moved = await kit.clients.with_node_key(node.key)
            assert moved is not None
            assert await kit.clients.unmoved() == [alias for alias in aliases if alias != moved.alias]
            assert str((await set_fee(kit, node, 170)).state) == "done"
            assert node.commands[-1].sender == second
            # A late offer for the replaced key takes nothing back.
            await node.send(first, node.offer(first))

            async def three() -> bool:
                client = await kit.clients.with_node_key(node.key)
                return client is not None and len(await kit.clients.credentials(client)) == 3

            await until(three)
            assert str((await set_fee(kit, node, 180)).state) == "done"
            assert node.commands[-1].sender == second
            # About a command of the replaced key only that key asks: others are told it does not exist.
            asked: list[str] = []

            def as_nodes_do(command: envelope.Command) -> dict[str, Any]:
                asked.append(command.sender)
                state = "done" if command.sender == first else "not_found"
                return node.response(command, 0, result={"state": state})

            node.answer = as_nodes_do
            profile.ahead = 1_000
            assert (await kit.ask_status(unanswered, 40))["state"] == "done"
            assert asked == [first]
            assert str((await kit.commands.get(unanswered.command_id)).state) == "sent"
            profile.ahead = 0
            # The old credential is revoked afterwards: no reason to suspect anybody.
            node.answer = refusing(node, "credential_revoked")
            await kit.ask_status(unanswered, 40)
            node.answer = lambda command: node.response(command, 0, receipt=node.receipt(command))
            assert str((await set_fee(kit, node, 190)).state) == "done"
            assert (await kit.clients.named(moved.alias)).state == "active"


async def test_a_replaced_key_is_not_used_after_thirty_days(profile: Profile, node: ScriptedNode) -> None:
    params = {"channel_id": "103x1x0", "fee_ppm": 150}
    async with profile.open() as kit:
        await hired(kit, node)
    # The credential lasts 30 days from now, the key as long from an hour ago.
    profile.ahead = -3_600
    profile.rotate()
    profile.ahead = 30 * DAY - 3_700
    async with profile.open() as kit:
        assert len(kit.keyring.pubkeys) == 2
        await kit.plan((await kit.clients.all())[0], *FEE, params)
    profile.ahead = 30 * DAY - 3_000
    async with profile.open() as kit:
        assert kit.keyring.pubkeys == (kit.pubkey,)
        with pytest.raises(CredentialInvalid, match="not in use any more"):
            await kit.plan((await kit.clients.all())[0], *FEE, params)


# -- the node's clock --------------------------------------------------------------------------------------


async def test_acceptance_11_04_a_wrong_clock_is_corrected_by_a_prompt_answer_and_the_command_goes_again(
    profile: Profile, node: ScriptedNode
) -> None:
    def stale(command: envelope.Command) -> dict[str, Any]:
        error = envelope.error_doc(from_symbol("stale_timestamp", "no"))
        answer = node.response(command, 1, error=error)
        return envelope.sign_response(node.secret, {**answer, "timestamp": answer["timestamp"] + 1_000})

    async with profile.open() as kit:
        client = await hired(kit, node)
        node.answer = once(node, stale)
        done = await set_fee(kit, node, 150)
        assert (str(done.state), done.resigned) == ("done", 1)
        first, second = node.commands[-2:]
        assert first.command_id == second.command_id
        assert 990 <= second.timestamp - first.timestamp <= 1_060
        assert (await kit.clients.named(client.alias)).offset_s in range(940, 1_061)
        # Refused again although the time is the node's: final, nothing goes round for ever.
        node.answer = stale
        refused = await set_fee(kit, node, 160)
        assert (str(refused.state), refused.slug, refused.resigned) == ("rejected", "stale_timestamp", 0)
        # Bytes that wait are judged by the node's clock: neither dropped as dead nor kept for ever.
        node.answer = lambda _command: None
        waiting = await set_fee(kit, node, 170, wait_s=0)
        profile.ahead = 50
        assert [command.command_id for command in await kit.commands.due()] == [waiting.command_id]
        assert await kit.commands.dead() == []
        profile.ahead = 400
        assert await kit.commands.due() == []
        assert [command.command_id for command, _ in await kit.commands.dead()] == [waiting.command_id]


async def test_two_commands_under_a_wrong_clock_are_both_corrected(
    profile: Profile, node: ScriptedNode
) -> None:
    async with profile.open() as kit:
        await hired(kit, node)
        node.answer = lambda _command: None
        sent = [await set_fee(kit, node, ppm, wait_s=0) for ppm in (150, 160)]
        await node.heard(3, 40)
        early = node.commands[-2:]
        node.answer = lambda command: node.response(command, 0, receipt=node.receipt(command))
        error = envelope.error_doc(from_symbol("stale_timestamp", "no"))
        for command in early:
            answer = node.response(command, 1, error=error)
            answer = {**answer, "timestamp": answer["timestamp"] + 1_000}
            await node.send(kit.pubkey, envelope.sign_response(node.secret, answer))

        async def anew() -> bool:
            rows = [await kit.commands.get(command.command_id) for command in sent]
            return all(row.resigned == 1 for row in rows)

        await until(anew)
        await kit.pump()
        for command in sent:
            assert str((await kit.commands.settled(command.command_id, 40)).state) == "done"


async def test_an_answer_that_took_long_sets_no_clock_and_sends_nothing_again(
    profile: Profile, node: ScriptedNode
) -> None:
    async with profile.open() as kit:
        client = await hired(kit, node)
        node.answer = lambda _command: None
        sent = await set_fee(kit, node, 150, wait_s=0)
        await node.heard(2, 40)
        profile.ahead = 600
        heard = len(node.commands)
        error = envelope.error_doc(from_symbol("stale_timestamp", "came late"))
        await node.send(kit.pubkey, node.response(node.commands[-1], 1, error=error))
        late = await kit.commands.settled(sent.command_id, 40)
        assert (str(late.state), late.slug, late.resigned) == ("rejected", "stale_timestamp", 0)
        assert (await kit.clients.named(client.alias)).offset_s == 0
        assert len(node.commands) == heard


async def test_a_command_signed_anew_before_a_crash_goes_out_after_it(
    profile: Profile, node: ScriptedNode
) -> None:
    async with profile.open() as kit:
        await hired(kit, node)
        node.answer = once(
            node, refusing(node, "nonce_too_low", expected_min=time.time_ns() // 1_000 + 10**7)
        )

        plan = await kit.plan((await kit.clients.all())[0], *FEE, {"channel_id": "103x1x0", "fee_ppm": 150})
        command = await kit.plans.issue(plan, origin="lib")
        await kit.send_again(command, plan.client)

        async def anew() -> bool:
            return (await kit.commands.get(command.command_id)).resigned == 1

        await until(anew)
        assert str((await kit.commands.get(command.command_id)).state) == "ready"
    async with profile.open() as kit:
        assert (await kit.pump())["sent_again"] == 1
        assert str((await kit.commands.settled(command.command_id, 40)).state) == "done"
