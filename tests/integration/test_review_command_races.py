"""What may change between a command's admission and its run, and what must not be said about it
(docs/protocol/02-fleet-management.md §7.1, §7.3, §12; 08 §5.4)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hive_shared import crypto
from hive_shared.credential_scope import TEMPLATES
from hive_shared.envelope import approve_digest
from hive_shared.errors import Conflict, InvalidParams, PolicyDenied
from hive_shared.store import StoreError
from msgspec.structs import replace
from pipeline_world import Crash, View, World, issue, slug

FEES = "hive:fee-policy/v1"
CONTROL = "hive:control/v1"
ASK = {"approval_overrides": {"fee_policy_*": "always_confirm"}}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def during_the_first_listing(world: World, happen: Callable[[], None]) -> None:
    """Let something happen while the node answers the command's first question."""
    listing = world.node.listpeerchannels

    async def once(*args: Any) -> list[dict[str, Any]]:
        world.node.listpeerchannels = listing  # type: ignore[method-assign]
        rows = await listing(*args)
        happen()
        return rows

    world.node.listpeerchannels = once  # type: ignore[method-assign]


def end_credential(world: World, status: str) -> None:
    (key, view), *_ = world.credentials.views.items()
    world.credentials.views[key] = replace(view, status=status)


@pytest.mark.parametrize(
    ("status", "symbol"), [("revoked", "credential_revoked"), ("superseded", "credential_superseded")]
)
async def test_an_admitted_command_does_not_run_after_its_credential_ended(
    world: World, status: str, symbol: str
) -> None:
    during_the_first_listing(world, lambda: end_credential(world, status))
    assert slug(await world.set_fee(120)) == symbol
    assert world.setchannels == 0
    (receipt,) = await world.docs()
    assert receipt["status"] == "rejected"


async def test_an_admitted_command_does_not_run_after_its_credential_expired(world: World) -> None:
    during_the_first_listing(world, lambda: world.pass_time(31 * 86_400))
    assert slug(await world.set_fee(120)) == "credential_expired"
    assert world.setchannels == 0


async def test_an_admitted_command_does_not_start_under_the_emergency_stop(world: World) -> None:
    during_the_first_listing(world, lambda: setattr(world.switch, "on", True))
    response = await world.set_fee(120)
    assert (response["status"], slug(response)) == (1, "emergency_stop")
    assert (world.setchannels, (await world.docs())[0]["status"]) == (0, "rejected")


async def test_no_second_change_before_a_crashed_one_is_resolved(world: World) -> None:
    doc = world.envelope(FEES, "set_single", {"channel_id": "101x1x0", "fee_ppm": 125})
    world.crash_at = "after_cln"
    with pytest.raises(Crash):
        await world.handle(doc)
    world.restart()
    # The node has 125 ppm, but no history says so yet: from 125 another step would pass the 30 % limit.
    assert slug(await world.set_fee(160)) == "busy"
    assert slug(await world.set_fee(110, "102x1x0")) is None
    await world.pipeline.timers.tick()
    assert slug(await world.set_fee(160)) in ("constraint_violated", "policy_blocked")
    assert world.node.fees("101x1x0")[1] == 125


class Disk:
    """Refuses writes from the n-th on."""

    def __init__(self, world: World) -> None:
        self._real: Callable[..., Awaitable[Any]] = world.db.write
        self.left: int | None = None

    async def write(self, body: Any, *, durable: bool = True) -> Any:
        if self.left is not None:
            if self.left == 0:
                raise StoreError("disk full")
            self.left -= 1
        return await self._real(body, durable=durable)


async def test_a_change_whose_outcome_cannot_be_stored_is_not_denied(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(world)
    monkeypatch.setattr(world.db, "write", disk.write)
    disk.left = 2
    response = await world.set_fee(120)
    assert slug(response) == "receipt_store_unavailable"
    assert world.node.fees("101x1x0")[1] == 120
    assert "changes nothing" not in response["error"]["message"]
    assert "the command ran" in response["error"]["message"]


async def held(world: World, ppm: int = 110, channel: str = "101x1x0", **options: Any) -> str:
    response = await world.set_fee(ppm, channel, **options)
    assert slug(response) == "confirmation_required", response
    return str(response["error"]["data"]["action_id"])


async def test_an_approved_command_that_the_disk_stopped_runs_when_it_can(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.policies.override("moderate", **ASK)
    action_id = await held(world)
    await world.pipeline.timers.tick()
    disk = Disk(world)
    monkeypatch.setattr(world.db, "write", disk.write)
    disk.left = 1
    assert (await world.pipeline.approvals.approve(action_id))["state"] == "approved"
    assert world.setchannels == 0
    disk.left = None
    await world.pipeline.timers.tick()
    assert (await world.state(action_id), world.setchannels) == ("success", 1)


async def test_a_permission_does_not_outlive_its_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.policies.override("moderate", **ASK)
    action_id = await held(world)
    disk = Disk(world)
    monkeypatch.setattr(world.db, "write", disk.write)
    disk.left = 1
    await world.pipeline.approvals.approve(action_id)
    disk.left = None
    world.pass_time(3 * 86_400)
    await world.pipeline.timers.tick()
    assert (await world.state(action_id), world.setchannels) == ("expired", 0)


async def test_nobody_approves_what_expired_between_two_sweeps(world: World) -> None:
    world.policies.override("moderate", **ASK)
    action_id = await held(world)
    world.pass_time(24 * 3_600)
    with pytest.raises((Conflict, PolicyDenied), match="expired"):
        await world.pipeline.approvals.approve(action_id)
    assert world.setchannels == 0


async def test_an_edit_may_drop_channels_of_a_bulk(world: World) -> None:
    params = {"channels": ["101x1x0", "102x1x0"], "policy": {"fee_ppm": 110}}
    world.policies.override("moderate", **ASK)
    response = await world.ask(FEES, "set_bulk", params)
    assert slug(response) == "confirmation_required", response
    action_id = response["error"]["data"]["action_id"]
    fewer = {"channels": ["102x1x0"], "policy": {"fee_ppm": 110}}
    done = await world.pipeline.approvals.approve(action_id, params=fewer)
    assert done["state"] == "success", done
    assert [world.node.fees(f"10{n}x1x0")[1] for n in (1, 2)] == [100, 110]


def voters(world: World, count: int) -> list[crypto.Secret]:
    return [crypto.Secret((50 + n).to_bytes(32, "big")) for n in range(count)]


def approvers(world: World, secrets: list[crypto.Secret], needed: int) -> None:
    keys = [crypto.xonly_pubkey(secret) for secret in secrets]
    word = f"multi_sig_{needed}_of_{len(keys) + 1}"
    world.policies.override("moderate", approvers=[*keys, "local"], approval_overrides={"fee_policy_*": word})


async def vote(world: World, action_id: str, secret: crypto.Secret) -> dict[str, Any]:
    row = await world.db.read(
        lambda tx: tx.execute(
            "SELECT body_hash FROM comms_commands WHERE command_id = ?", (action_id,)
        ).fetchone()
    )
    signature = crypto.schnorr_sign(secret, approve_digest(row["body_hash"], "approve"))
    return dict(
        await world.pipeline.approvals.approve(
            action_id, approver=crypto.xonly_pubkey(secret), signature=signature
        )
    )


async def test_an_edit_of_a_multisig_command_is_refused_and_not_forgotten(world: World) -> None:
    secrets = voters(world, 2)
    approvers(world, secrets, 2)
    action_id = await held(world, 120)
    with pytest.raises(InvalidParams, match="cannot be edited"):
        await world.pipeline.approvals.approve(action_id, params={"channel_id": "101x1x0", "fee_ppm": 105})
    await vote(world, action_id, secrets[0])
    assert (await world.state(action_id), world.setchannels) == ("pending_approval", 0)


async def test_votes_counted_under_an_older_policy_do_not_satisfy_a_stricter_one(world: World) -> None:
    secrets = voters(world, 3)
    approvers(world, secrets, 2)
    action_id = await held(world, 120)
    await vote(world, action_id, secrets[0])
    approvers(world, secrets, 3)
    done = await vote(world, action_id, secrets[1])
    assert (done["state"], done["slug"]) == ("rejected", "policy_blocked")
    assert world.setchannels == 0


async def test_a_bulk_that_ends_at_zero_needs_what_set_zero_fee_needs(world: World) -> None:
    for row in world.node.rows:
        row["fee_proportional_millionths"] = 0
    template = replace(
        TEMPLATES["fee_optimization"],
        schemas=(*TEMPLATES["fee_optimization"].schemas, "!hive:fee-policy/set_zero_fee"),
    )
    view = View(issue(), "adv-1")
    denied = replace_patterns(view, template.schemas)
    world.credentials.add(denied)
    single = await world.ask(FEES, "set_single", {"channel_id": "101x1x0", "base_msat": 0})
    bulk = await world.ask(FEES, "set_bulk", {"channels": ["102x1x0"], "policy": {"base_msat": 0}})
    assert (slug(single), slug(bulk)) == ("schema_not_allowed", "schema_not_allowed")


def replace_patterns(view: View, patterns: tuple[str, ...]) -> View:
    import msgspec

    return View(msgspec.structs.replace(view.credential, allowed_schemas=patterns), view.advisor_id)


async def test_a_fault_of_ours_is_answered_and_ends_the_command(world: World) -> None:
    del world.node.rows[0]["fee_base_msat"]
    response = await world.set_fee(120)
    assert (response["status"], slug(response)) == (2, "internal")
    assert "fee_base_msat" not in response["error"]["message"]
    assert await world.state(response["command_id"]) == "rejected"
    assert slug(await world.set_fee(120, "102x1x0")) is None


async def test_one_unreadable_row_does_not_keep_others_from_expiring(world: World) -> None:
    world.policies.override("moderate", **ASK)
    broken, fine = await held(world), await held(world, 110, "102x1x0")
    await world.db.write(
        lambda tx: tx.execute("UPDATE comms_commands SET hold_json = '{' WHERE command_id = ?", (broken,))
    )
    await world.db.write(
        lambda tx: tx.execute("UPDATE comms_commands SET state = 'executing' WHERE command_id = ?", (broken,))
    )
    world.pass_time(2 * 86_400)
    await world.pipeline.timers.tick()
    assert await world.state(fine) == "expired"
    assert any(event == "not_reconciled" for _, event, _ in world.log)


async def test_two_ticks_at_once_run_an_approved_command_once(world: World) -> None:
    world.policies.override("moderate", **ASK)
    action_id = await held(world)
    await asyncio.gather(
        world.pipeline.approvals.approve(action_id),
        world.pipeline.timers.tick(),
        world.pipeline.timers.tick(),
    )
    assert (await world.state(action_id), world.setchannels) == ("success", 1)
    assert len(await world.docs()) == 1


async def test_a_row_that_a_fault_left_executing_is_resolved_without_a_restart(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.pipeline.timers.tick()
    real = world.db.write
    done = 0

    async def faulty(body: Any, **how: Any) -> Any:
        nonlocal done
        done += 1
        if done in (3, 4):
            raise KeyError("a fault of ours")
        return await real(body, **how)

    monkeypatch.setattr(world.db, "write", faulty)
    response = await world.set_fee(120)
    assert slug(response) == "internal"
    assert await world.state(response["command_id"]) == "executing"
    assert slug(await world.set_fee(125)) == "busy"
    await world.pipeline.timers.tick()
    assert await world.state(response["command_id"]) == "success"
    assert (world.setchannels, (await world.docs())[-1]["result"]["reconciled"]) == (1, True)
