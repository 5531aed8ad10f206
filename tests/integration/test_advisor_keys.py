"""Keys of the kit beside a scripted node: replaced ones, and one that a second machine uses (11 §2)."""

from __future__ import annotations

import asyncio
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

    def now(self) -> int:
        return int(time.time()) + self.ahead

    def open(self) -> AbstractAsyncContextManager[Advisor]:
        return Advisor.open(self._paths, self.identity, self._config, online=True, now=self.now)

    def rotate(self) -> None:
        self.identity = self.identity.rotated(self.now())


@pytest.fixture
def profile(relay: RelayProcess, tmp_path: Path) -> Profile:
    return Profile(relay.url, tmp_path)


async def until(condition: Callable[[], Awaitable[Any]], timeout: float = 40) -> Any:
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
            waiting = await set_fee(kit, node, 100, wait_s=0)
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
            kinds = [event.kind for event in await kit.events(0, 500)]
            assert kinds.count("identity_shared") == 1
            assert waiting.command_id
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
        node.answer = refusing(node, "nonce_too_low", expected_min=ahead)
        await set_fee(kit, node, 150)
        node.answer = lambda command: node.response(command, 0, receipt=node.receipt(command))
        assert str((await set_fee(kit, node, 150)).state) == "done"
        assert node.commands[-1].nonce == ahead
        # Longer ago than a day is another story.
        node.answer = refusing(node, "nonce_too_low", expected_min=2**53 - 1)
        with monkeypatch.context() as patched:
            patched.setattr("hive_advisor.services.shared_key.TOO_LOW_S", 0)
            await set_fee(kit, node, 160)
            assert await kit.shared_key.found() is None
        # A node cannot push our nonces to the end of the numbers.
        assert (await kit.clients.named(client.alias)).last_nonce == ahead + 1
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
