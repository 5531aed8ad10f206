"""The kit beside a real node: plans and the node's word on them, a wrong clock, one key on two machines, a
rotation, and commands carried by commando (11 §2, §4, §5).
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hive_advisor.advisor import Advisor
from hive_advisor.config import AdvisorConfig
from hive_advisor.domain.observed import observe
from hive_advisor.identity import Identity, create_identity
from hive_advisor.paths import ProfilePaths
from hive_devnet.world import World, until
from hive_shared.errors import Conflict, HiveError
from open_guard import open_guard

FEE = ("hive:fee-policy/v1", "set_single")
LOOK = ("hive:monitor/v1", "health_summary", dict[str, Any]())

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> AsyncIterator[World]:
    """One for all of them: every test hires an advisor of its own."""
    directory = Path(tempfile.mkdtemp(prefix="hive-"))
    made = await World.start(directory)
    yield made
    await made.close()
    shutil.rmtree(directory, ignore_errors=True)


@dataclass
class Machine:
    """A profile on some machine, whose clock may be ahead (microseconds)."""

    world: World
    directory: Path
    identity: Identity = field(default_factory=create_identity)
    ahead_us: int = 0
    clock_s: int = 0
    order: tuple[str, ...] = ("nostr", "rest", "local", "commando")

    def open(self) -> AbstractAsyncContextManager[Advisor]:
        config = AdvisorConfig((self.world.relay.url,), None, True, self.order)
        paths = ProfilePaths("test", self.directory / "config", self.directory / "data")
        open_guard(paths.config_dir)
        return Advisor.open(
            paths,
            self.identity,
            config,
            online=True,
            now=lambda: int(time.time()) + self.clock_s,
            now_us=lambda: time.time_ns() // 1_000 + self.ahead_us,
        )

    def copied(self, ahead_us: int) -> Machine:
        other = self.directory.with_name(self.directory.name + "-2")
        shutil.copytree(self.directory, other)
        return Machine(self.world, other, self.identity, ahead_us)


async def hired(world: World, kit: Advisor, key: str | None = None, access: str = "fees") -> None:
    """Alice authorises the key; its credential arrives and is taken."""
    wanted = key or kit.pubkey
    await world.alice.call("hive-client-authorize", {"advisor": wanted, "access": access})

    async def taken() -> bool:
        for client in await kit.clients.all():
            held = await kit.clients.credentials(client)
            if any(c.state == "active" and c.agent_key == wanted for c in held):
                return client.state == "active"
        return False

    await until(taken, "the credential")


async def asked(kit: Advisor, what: tuple[str, str, dict[str, Any]] = LOOK) -> Any:
    client = (await kit.clients.all())[0]
    return await kit.execute(await kit.plan(client, *what), wait_s=60)


async def test_a_plan_and_the_nodes_word_on_it_change_nothing(world: World, tmp_path: Path) -> None:
    machine = Machine(world, tmp_path / "a")
    async with machine.open() as kit:
        await hired(world, kit)
        client = (await kit.clients.all())[0]
        before = await world.channel_fees()
        await _guarded(kit, machine, world.scid, before)
        plan = await kit.plan(client, *FEE, {"channel_id": world.scid, "fee_ppm": 510})
        said = (await kit.quote(plan, 60))["result"]
        assert (said["valid"], said["workflow"], said["price_sats"]) == (True, "auto", 0), said
        assert plan.summary()["danger_at_least"] <= said["danger"]["total"]
        await world.alice.call(
            "hive-client-policy", {"action": "set", "overrides": {"protected_channels": [world.scid]}}
        )
        said = (await kit.quote(plan, 60))["result"]
        assert (said["valid"], said["reason"]) == (False, "protected_channel"), said
        await world.alice.call(
            "hive-client-policy", {"action": "set", "overrides": {"protected_channels": []}}
        )
        assert await world.channel_fees() == before
        assert await kit.capabilities(client, 60) is not None
        for row in (await kit.clients.all())[0].capabilities["unsupported_actions"]:  # type: ignore[index]
            # What the node says it does not do is refused here, before it is asked.
            with pytest.raises(HiveError):
                await kit.plan((await kit.clients.all())[0], row["schema"], row["action"], {})


async def _guarded(kit: Advisor, machine: Machine, scid: str, fees: tuple[int, int]) -> None:
    """The kit's own guard measures by what the node's reads say."""
    (machine.directory / "config" / "guard.toml").unlink()
    client, most = (await kit.clients.all())[0], fees[1] + fees[1] * 15 // 100

    async def held_for(ppm: int) -> set[str]:
        judged = await kit.guard.judged(
            await kit.plan(client, *FEE, {"channel_id": scid, "fee_ppm": ppm}), "lib"
        )
        return {reason.rule for reason in judged.judgement.reasons} - {"fee_range"}

    assert await held_for(most) == {"fee_value"}
    for action in ("fee_report", "channel_list"):
        assert str((await asked(kit, ("hive:monitor/v1", action, {}))).state) == "done"
        assert (await held_for(most), await held_for(most + 1)) == (set(), {"fee_step"})
    plan = await kit.plan(client, *FEE, {"channel_id": scid, "fee_ppm": most})
    seen = (await kit.guard.judged(plan, "lib")).before[scid]
    assert (seen["base_msat"], seen["fee_ppm"]) == fees
    # Its answer about funds is one the guard can read.
    await asked(kit, ("hive:monitor/v1", "onchain_balance", {}))
    (balance,) = [c for c in await kit.commands.listed(client, "done", 10) if c.action == "onchain_balance"]
    assert (observe([balance]).onchain(balance.created) or 0) > 0
    open_guard(machine.directory / "config")


@pytest.mark.parametrize("clock_s", [-1_000, 600])
async def test_a_wrong_clock_is_set_by_the_node_and_the_command_runs_once(
    world: World, tmp_path: Path, clock_s: int
) -> None:
    machine = Machine(world, tmp_path / "a", clock_s=clock_s)
    async with machine.open() as kit:
        await world.alice.call("hive-client-authorize", {"advisor": kit.pubkey, "access": "monitoring"})

        async def taken() -> bool:
            return any(client.state == "active" for client in await kit.clients.all())

        await until(taken, "the credential")
        first = await asked(kit)
        assert str(first.state) == "done" and first.resigned <= 1
        client = (await kit.clients.all())[0]
        assert abs(client.offset_s + clock_s) < 30
        # From then on everything has the node's time.
        second = await asked(kit)
        assert (str(second.state), second.resigned) == ("done", 0)


async def test_acceptance_11_18_one_key_on_two_machines_stops_the_one_that_notices(
    world: World, tmp_path: Path
) -> None:
    first = Machine(world, tmp_path / "a")
    async with first.open() as kit:
        await hired(world, kit, access="monitoring")
    second = first.copied(ahead_us=60_000_000)
    async with first.open() as here, second.open() as there:
        assert str((await asked(there)).state) == "done"

        async def too_low() -> Any:
            # For half a second a node takes numbers that relays swapped (02 §6.5).
            looked = await asked(here)
            return looked if looked.resigned or looked.slug == "nonce_too_low" else None

        # Once is stepped over: the same command under the number the node wants.
        stepped = await until(too_low, "a number that is too low")
        assert (str(stepped.state), stepped.resigned) == ("done", 1)
        second.ahead_us += 60_000_000
        assert str((await asked(there)).state) == "done"
        refused = await until(too_low, "the second number that is too low")
        assert (str(refused.state), refused.resigned) == ("rejected", 0)
        with pytest.raises(Conflict, match="used on another machine") as stopped:
            await asked(here)
        assert stopped.value.symbol == "identity_shared"
    async with first.open() as kit:
        with pytest.raises(Conflict, match="identity shared --clear"):
            await asked(kit)
        await kit.shared_key.clear()
        assert str((await asked(kit)).state) == "done"


async def test_a_rotated_key_takes_over_at_a_node_that_authorises_it(world: World, tmp_path: Path) -> None:
    machine = Machine(world, tmp_path / "a")
    async with machine.open() as kit:
        old = kit.pubkey
        await hired(world, kit)
        before = await asked(kit)
    machine.identity = machine.identity.rotated(int(time.time()))
    async with machine.open() as kit:
        done = await asked(kit)
        assert (str(done.state), done.sender) == ("done", old), done.response
        assert len(await kit.clients.unmoved()) == 1
        await hired(world, kit, kit.pubkey)
        assert await kit.clients.unmoved() == []
        moved = await asked(kit)
        assert (str(moved.state), moved.sender) == ("done", kit.pubkey)
        # The command of the old key is asked after by the old key; to others the node does not know it.
        assert (await kit.ask_status(before, 60))["state"] == "success"
        await world.alice.call("hive-client-revoke", {"advisor": old})
        client = (await kit.clients.all())[0]

        async def told() -> bool:
            return any(c.state == "revoked" for c in await kit.clients.credentials(client))

        await until(told, "the revocation")
        assert (await kit.clients.all())[0].state == "active"
        assert str((await asked(kit)).state) == "done"


async def test_acceptance_02_22_commando_carries_the_envelope_without_relays_or_rest(
    world: World, tmp_path: Path
) -> None:
    machine = Machine(world, tmp_path / "a")
    async with machine.open() as kit:
        await hired(world, kit)
        client = (await kit.clients.all())[0]
        credential = (await kit.clients.credentials(client))[0]
        route = {"socket_path": str(world.bob.rpc_path), "address": None}
        # No clnrest, so the offer brought no rune; the operator makes one.
        with pytest.raises(Conflict, match="--rune-file"):
            await kit.delivery.set_commando(client, credential, rune=None, **route)
        rune = {"restrictions": [["method=hive-comms-rpc"], [f"pnamesender={kit.pubkey}"], ["rate=60"]]}
        made = await world.alice.call("createrune", rune)
        await kit.delivery.set_commando(client, credential, rune=str(made["rune"]), **route)
    # From here on no relay is used.
    machine.order = ("commando",)
    async with machine.open() as kit:
        params = {"channel_id": world.scid, "fee_ppm": 530}
        done = await asked(kit, (*FEE, params))
        assert str(done.state) == "done", (done.state, done.response)
        assert done.receipt_id and (await world.channel_fees())[1] == 530
        # The same bytes once more: the node's memory answers, and it ran once.
        await kit.commands.transmit(done, client)
        assert (await kit.commands.get(done.command_id)).response == done.response
        # Not connected any more: the carrier connects first.
        port = (await world.alice.call("getinfo"))["binding"][0]["port"]
        await kit.delivery.set_commando(
            client,
            credential,
            socket_path=str(world.bob.rpc_path),
            rune=str(made["rune"]),
            address=f"127.0.0.1:{port}",
        )
        await world.bob.call("disconnect", {"id": world.alice.node_id, "force": True})
        assert str((await asked(kit)).state) == "done"
        # A rune of somebody else opens nothing; the command stays recorded, and says why.
        other = {"restrictions": [["method=hive-comms-rpc"], [f"pnamesender={'ab' * 32}"]]}
        wrong = str((await world.alice.call("createrune", other))["rune"])
        await kit.delivery.set_commando(
            client, credential, socket_path=str(world.bob.rpc_path), rune=wrong, address=None
        )
        plan = await kit.plan(client, *LOOK)
        kept = await kit.execute(plan, wait_s=1)
        assert str(kept.state) == "sent"
        # A carrier that is not there.
        await kit.delivery.set_commando(
            client, credential, socket_path=str(tmp_path / "none"), rune=wrong, address=None
        )
        kept = await kit.execute(plan, wait_s=1)
        assert str(kept.state) == "sent"
