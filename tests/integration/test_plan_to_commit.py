"""From a plan to its answer in the kit: guard, held plans, commits, bytes that cannot leave, passing refusals
(11 §5.2, §6, §18.11, §18.15, §18.21).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hive_advisor.advisor import Advisor
from hive_advisor.domain.command_machine import CommandState
from hive_advisor.guard_files import HaltFile
from hive_shared import envelope
from hive_shared.canonical import encode
from hive_shared.errors import Conflict, CredentialInvalid, HiveError, NotFound, PolicyDenied
from hive_shared.nostr.giftwrap import Message
from plan_world import FEE, SCID, PlanWorld

DAY = 86_400


@pytest.fixture
def world(tmp_path: Path) -> PlanWorld:
    return PlanWorld(tmp_path)


async def state_of(kit: Advisor, command: Any) -> str:
    return str((await kit.commands.get(command.command_id)).state)


async def test_acceptance_11_11_what_a_script_may_and_what_is_held(world: PlanWorld) -> None:
    async with world.open() as kit:
        blind = await kit.execute(await world.plan(kit), wait_s=1)
        assert str(blind.state) == "held", "nobody read the fees"
        await world.read(kit)
        done = await kit.execute(await world.plan(kit, 230), wait_s=1, again=True)
        assert (str(done.state), done.passed) == ("done", "guard")
        # The next step is measured by what the last one left, not by the read before it.
        far = await kit.execute(await world.plan(kit, 267), wait_s=1)
        near = await kit.execute(await world.plan(kit, 264), wait_s=1)
        assert (str(far.state), str(near.state)) == ("held", "done")
        world.now += 601
        stale = await kit.execute(await world.plan(kit, 265), wait_s=1)
        assert str(stale.state) == "held"
        waiting = await kit.questions.listed(expired=False, limit=10)
        assert (await kit.brief())["waiting_for_you"] == [item.approval_id for item in waiting]
        assert {item.command_id for item in waiting} == {row.command_id for row in (blind, far, stale)}
        assert "were not read in the last 10 minutes" in waiting[-1].reason
        spike = await kit.plan(await world.alice(kit), "hive:emergency/v1", "fee_spike", {"reason": "x"})
        assert spike.danger.total == 5
        assert str((await kit.execute(spike, wait_s=1)).state) == "held"
        assert world.runs.total() == 2 and world.fees[SCID] == (1_000, 264)


async def test_acceptance_11_11_the_21st_write_of_a_day_is_held_also_after_a_restart(
    world: PlanWorld,
) -> None:
    world.guard('[global]\nfee_step_pct = "off"\n')
    for number in range(20):
        async with world.open() as kit:
            done = await kit.execute(await world.plan(kit, 100 + number), wait_s=1)
            assert str(done.state) == "done", number
        # Ten in three hours, and ten more in the next three.
        world.now += 3 * 3_600 if number == 9 else 1
    async with world.open() as kit:
        held = await kit.execute(await world.plan(kit, 130), wait_s=1)
        assert str(held.state) == "held"
        reason = (await kit.questions.of_command(held.command_id)).reason
        assert "fee writes in 24 hours: 20 and 1 more are above 20" in reason
        used = await kit.guard.used((await world.alice(kit)).client_id)
        assert used["24h"] == {"fee_writes": 21}, "what waits is reserved"
        await kit.plans.reject(await kit.questions.of_command(held.command_id))
        assert (await kit.guard.used((await world.alice(kit)).client_id))["24h"] == {"fee_writes": 20}
        world.now += DAY
        assert str((await kit.execute(await world.plan(kit, 130), wait_s=1)).state) == "done"


async def test_acceptance_11_11_a_halt_in_the_middle_stops_the_rest(world: PlanWorld) -> None:
    world.guard('[global]\nfee_step_pct = "off"\n')
    async with world.open() as kit:
        first = await kit.execute(await world.plan(kit, 300), wait_s=1)
        world.refusal = lambda command: _pending(world, command)
        waits = await kit.execute(await world.plan(kit, 301), wait_s=1)
        world.down = True
        ready = await kit.execute(await world.plan(kit, 302), wait_s=0)
        unsent = await kit.plans.issue(await world.plan(kit, 303), origin="lib")
        assert [str(row.state) for row in (first, waits, ready, unsent)] == [
            "done",
            "pending",
            "sent",
            "ready",
        ]
        assert kit.guard.halt("the figures look odd") and not kit.guard.halt("again")
        world.down, world.refusal = False, lambda _command: None
        heard = len(world.heard)
        alice = await world.alice(kit)
        look = await kit.plan(alice, "hive:monitor/v1", "fee_report", {})
        for plan in (look, await world.plan(kit, 304)):
            with pytest.raises(PolicyDenied, match="the guard is halted"):
                await kit.execute(plan, wait_s=1, human=True)
        await kit.send_again(await kit.commands.get(ready.command_id), alice)
        await kit.send_again(unsent, alice)
        await kit.pump()
        told = [command.action for command in world.heard[heard:]]
        assert set(told) <= {"receipts_list", "receipt_ack"}, "not even bytes that left before"
        heard = len(world.heard)
        # Withdrawing and asking go on.
        await kit.cancel(waits, 1)
        await kit.ask_status(waits, 1)
        assert [command.action for command in world.heard[heard:]] == ["cancel", "command_status"]
        with pytest.raises(PolicyDenied, match="halted"):
            await kit.control(alice.client_id, "confirm", _confirm(waits), 1)
        assert HaltFile(world.paths.halt).reason() == "the figures look odd"
        HaltFile(world.paths.halt).release()
        await kit.send_again(unsent, alice)
        assert await state_of(kit, unsent) == "done"


def _pending(world: PlanWorld, command: envelope.Command) -> dict[str, Any] | None:
    if command.schema_type == "hive:control/v1":
        return None
    error = {"code": 4005, "slug": "confirmation_required", "message": "waits"}
    return world._stamped(command, 3, error=error)


def _confirm(command: Any) -> dict[str, Any]:
    return {"command_id": command.command_id, "challenge_sig": "ab" * 64}


async def test_any_file_of_that_name_halts_and_what_cannot_be_read_denies(world: PlanWorld) -> None:
    async with world.open() as kit:
        world.paths.halt.touch()
        assert kit.guard.halted and HaltFile(world.paths.halt).reason() == ""
        world.paths.halt.unlink()
        await world.read(kit)
        for text, said in (
            ("[global]\nfee_step = 3", "unknown key 'fee_step'"),
            ("[global", "not valid TOML"),
            ("[client.bob]\nmax_danger = 1", "names no client"),
        ):
            world.guard(text)
            with pytest.raises(PolicyDenied, match=said) as denied:
                await kit.execute(await world.plan(kit), wait_s=1, human=True)
            assert denied.value.symbol == "guard_denied"
        detail = next(row["detail"] for row in await kit.doctor(0) if row["id"] == "guard")
        assert detail.startswith("everything is refused") and "names no client" in detail
        world.guard("[client.Alice]\nmax_danger = 2")
        assert next(row["status"] for row in await kit.doctor(0) if row["id"] == "guard") == "ok"
        assert str((await kit.execute(await world.plan(kit), wait_s=1)).state) == "held"
        world.paths.guard.chmod(0o666)
        with pytest.raises(PolicyDenied, match="written by others"):
            await kit.execute(await world.plan(kit), wait_s=1, again=True)
    assert not world.runs


async def test_acceptance_11_15_a_plan_is_sent_once_as_it_was_planned(world: PlanWorld) -> None:
    async with world.open() as kit:
        await world.read(kit)
        plan = await kit.plans.draft(await world.plan(kit), "mcp")
        assert (str(plan.state), plan.nonce, plan.envelope) == ("draft", 0, {})
        for origin in ("cli", "lib", "auto"):
            with pytest.raises(NotFound, match=f"of {origin}"):
                await kit.plans.commit(plan.command_id, origin)
        with pytest.raises(NotFound):
            await kit.plans.commit("00000000-0000-4000-8000-000000000000", "mcp")
        sent = await kit.follow(await kit.plans.commit(plan.command_id, "mcp"), 1)
        assert (str(sent.state), sent.command_id, sent.plan_hash) == ("done", plan.command_id, plan.plan_hash)
        with pytest.raises(Conflict, match="used before: it is done"):
            await kit.plans.commit(plan.command_id, "mcp")
        old = await kit.plans.draft(await world.plan(kit, 215), "mcp")
        world.now += 600
        with pytest.raises(PolicyDenied, match="older than 10 minutes"):
            await kit.plans.commit(old.command_id, "mcp")
        await kit.plans.expire()
        late = await kit.commands.get(old.command_id)
        assert (str(late.state), late.slug) == ("expired", "plan_expired")
        world.now += DAY + 1
        await kit.plans.expire()
        with pytest.raises(NotFound):
            await kit.commands.get(old.command_id)
    assert world.runs.total() == 1


@pytest.mark.parametrize(
    "change",
    [
        'params_json = \'{"channel_id": "103x1x0", "fee_ppm": 5000}\'',
        "action = 'set_zero_fee'",
        "credential_id = 'another'",
    ],
)
@pytest.mark.parametrize("held", [False, True])
async def test_acceptance_11_15_an_edited_plan_is_refused(world: PlanWorld, change: str, held: bool) -> None:
    async with world.open() as kit:
        if not held:
            await world.read(kit)
        plan = await kit.plans.draft(await world.plan(kit), "mcp")
        if held:
            plan = await kit.plans.commit(plan.command_id, "mcp")
            assert str(plan.state) == "held"
        await kit._db.write(lambda tx: tx.execute(f"UPDATE adv_commands SET {change}"))
        with pytest.raises(Conflict, match="not what was planned"):
            if held:
                await kit.plans.approve(await kit.questions.of_command(plan.command_id))
            else:
                await kit.plans.commit(plan.command_id, "mcp")
        assert await state_of(kit, plan) == str(plan.state)
    assert not world.runs


async def test_a_held_plan_waits_a_day_for_a_human(world: PlanWorld) -> None:
    async with world.open() as kit:
        held = await kit.execute(await world.plan(kit), wait_s=1)
        question = await kit.questions.of_command(held.command_id)
        assert (question.plan_hash, question.expires) == (held.plan_hash, world.now + DAY)
        with pytest.raises(Conflict, match="same command is open"):
            await kit.execute(await world.plan(kit), wait_s=1)
    world.now += 3_600
    async with world.open() as kit:
        done = await kit.follow(await kit.plans.approve(question), 1)
        assert (str(done.state), done.passed, done.confirmed_danger) == ("done", "pin", 3)
        for again in (kit.plans.approve, kit.plans.reject):
            with pytest.raises(Conflict, match="nothing waits any more"):
                await again(question)
        other = await kit.execute(await world.plan(kit, 999), wait_s=1)
        no = await kit.plans.reject(await kit.questions.of_command(other.command_id))
        assert (str(no.state), no.slug) == ("rejected", "rejected_here")
        late = await kit.execute(await world.plan(kit, 998), wait_s=1)
        over = await kit.questions.of_command(late.command_id)
        world.now += DAY
        with pytest.raises(PolicyDenied, match="waited a day"):
            await kit.plans.approve(over)
        await kit.pump()
        assert await state_of(kit, late) == "expired"
        assert (await kit.questions.of_command(late.command_id)).state == "expired"
        assert not await kit.questions.listed(expired=False, limit=10)
    assert world.runs == {held.command_id: 1}


async def test_a_halt_or_a_denied_action_stops_a_held_plan_too(world: PlanWorld) -> None:
    async with world.open() as kit:
        held = await kit.execute(await world.plan(kit), wait_s=1)
        question = await kit.questions.of_command(held.command_id)
        world.guard('[global]\ndenied = ["hive:fee-policy/v1#*"]')
        with pytest.raises(PolicyDenied, match="list of denied actions"):
            await kit.plans.approve(question)
        assert await state_of(kit, held) == "held"
        withdrawn = await kit.plans.withdraw(held)
        assert (str(withdrawn.state), withdrawn.slug) == ("cancelled", "withdrawn")
        assert (await kit.questions.of_command(held.command_id)).state == "rejected"
        with pytest.raises(Conflict, match="past withdrawing"):
            await kit.plans.withdraw(held)


async def test_bytes_that_could_not_leave_in_time_are_a_draft_again(world: PlanWorld) -> None:
    async with world.open() as kit:
        await world.read(kit)
        ready = await kit.plans.issue(await world.plan(kit), origin="cli", human=True)
        world.now += 239
        assert await kit.plans.expire() == 0
        world.now += 1
        assert await kit.plans.expire() == 1
        draft = await kit.commands.get(ready.command_id)
        assert (str(draft.state), draft.envelope, draft.nonce) == ("draft", {}, 0)
        await kit.pump()
        assert not world.runs
        anew = await kit.plans.commit(draft.command_id, "cli")
        assert anew.nonce > ready.nonce and anew.command_id == ready.command_id
        assert str((await kit.follow(anew, 1)).state) == "done"
        # What a human said yes to is the same plan.
        assert (await kit.commands.get(anew.command_id)).passed == "human"
        left = await kit.plans.issue(await world.plan(kit, 215), origin="cli", human=True)
        world.now += 240
        await kit.plans.expire()
        world.now += 600
        await kit.plans.expire()
        over = await kit.commands.get(left.command_id)
        assert (str(over.state), over.slug) == ("expired", "plan_expired")
    assert world.runs == {ready.command_id: 1}


async def test_what_left_is_never_a_draft_again_and_is_lost_only_when_proven(world: PlanWorld) -> None:
    async with world.open() as kit:
        await world.read(kit)
        world.down = True
        sent = await kit.execute(await world.plan(kit), wait_s=0)
        assert str(sent.state) == "sent"
        for ahead in (240, 400, 3_600, DAY):
            world.now += ahead
            await kit.plans.expire()
            assert await state_of(kit, sent) == "sent", "a node that nobody reaches proves nothing"
        assert (await kit.commands.get(sent.command_id)).envelope == sent.envelope
        world.down = False
        await kit.pump()
        assert await state_of(kit, sent) == "lost"
        assert (await kit.guard.used(sent.client_id))["24h"].get("fee_writes") is None
    assert not world.runs


async def test_acceptance_11_21_a_revoked_credential_keeps_signed_bytes_from_leaving(
    world: PlanWorld,
) -> None:
    async with world.open() as kit:
        await world.read(kit)
        alice = await world.alice(kit)
        draft = await kit.plans.draft(await world.plan(kit), "lib")
        ready = await kit.plans.issue(await world.plan(kit, 215), origin="lib")
        world.down = True
        sent = await kit.execute(await world.plan(kit, 220), wait_s=0)
        world.down = False
        body = {"credential_id": draft.credential_id, "reason": "dismissed"}
        push = envelope.build_push(
            "credential_revoked",
            body,
            node_key=world.node.key,
            agent_key=kit.pubkey,
            seq=90,
            timestamp=world.now,
        )
        content = encode(envelope.sign_push(world.node.secret, push)).decode()
        await kit._mail.receive(Message(world.node.key, "revoked", content, world.now, (), ""), kit.pubkey)
        heard = len(world.heard)
        for command in (ready, sent):
            await kit.send_again(await kit.commands.get(command.command_id), alice)
        await kit.pump()
        assert len(world.heard) == heard
        with pytest.raises(HiveError) as refused:
            await kit.plans.commit(draft.command_id, "lib")
        assert isinstance(refused.value, Conflict | CredentialInvalid)
        with pytest.raises(Conflict, match="is ended"):
            await kit.plan(await world.alice(kit), *FEE, {"channel_id": SCID, "fee_ppm": 1})
    assert not world.runs


async def test_a_node_that_is_busy_is_asked_three_more_times_each_time_anew(world: PlanWorld) -> None:
    world.refusal = lambda c: None if c.schema_type != FEE[0] else world.refused(c, "busy", retry_after=1)
    async with world.open() as kit:
        await world.read(kit)
        first = await kit.execute(await world.plan(kit), wait_s=0)
        assert (str(first.state), first.slug) == ("error", "busy")
        for _ in range(6):
            world.now += 5
            await kit.pump()
        rows = sorted(
            await kit.commands.listed(await world.alice(kit), "error", 20), key=lambda row: row.nonce
        )
        assert [row.retry_of for row in rows] == [None, *(row.command_id for row in rows[:3])]
        assert len({row.command_id for row in rows}) == len({row.nonce for row in rows}) == 4
        assert (await kit.guard.used(first.client_id))["24h"] == {}, "nothing was changed"
    assert not world.runs


async def test_a_cooldown_is_waited_for_only_when_asked_to_also_over_a_restart(world: PlanWorld) -> None:
    world.refusal = lambda c: (
        None if c.schema_type != FEE[0] else world.refused(c, "cooldown", retry_after=100)
    )
    async with world.open() as kit:
        await world.read(kit)
        once = await kit.execute(await world.plan(kit), wait_s=0)
        await kit.plans.issue(await world.plan(kit, 211), origin="lib", retry_until=world.now + 300)
        await kit.pump()
        assert (str(once.state), once.slug) == ("rejected", "cooldown")
    world.now += 99
    async with world.open() as kit:
        await kit.pump()
        assert len([c for c in world.heard if c.schema_type == FEE[0]]) == 2
        world.refusal = lambda _command: None
        world.now += 1
        await kit.pump()
        rows = await kit.commands.listed(await world.alice(kit), "done", 20)
        assert [row.params["fee_ppm"] for row in rows if row.schema == FEE[0]] == [211]
        assert await state_of(kit, once) == "rejected"


async def test_the_clock_of_a_node_is_the_median_of_its_last_five_answers(world: PlanWorld) -> None:
    ahead: list[int] = []

    def answer(command: envelope.Command) -> dict[str, Any] | None:
        if command.action != "capabilities":
            return None
        return world._stamped(command, result={"server_time": world.now + ahead[-1]})

    world.refusal = answer
    async with world.open() as kit:
        seen = []
        for skew in (200, 200, 9_000, 190, 210, 0, 0, 0):
            ahead.append(skew)
            assert await kit.capabilities(await world.alice(kit), 1) is not None
            seen.append((await world.alice(kit)).offset_s)
        assert seen == [200, 200, 200, 200, 200, 200, 190, 0]


async def test_commands_leave_in_the_order_of_their_numbers_and_at_our_pace(world: PlanWorld) -> None:
    world.guard('[global]\nfee_step_pct = "off"\nfee_writes_3h = "off"\nfee_writes_24h = "off"\n')
    async with world.open() as kit:
        alice = await world.alice(kit)
        made = [await kit.plans.issue(await world.plan(kit, 300 + n), origin="lib") for n in range(4)]
        await kit.send_again(made[3], alice)
        assert [dict(command.params)["fee_ppm"] for command in world.heard] == [300, 301, 302, 303]
        world.down = True
        flying = [await kit.plans.issue(await world.plan(kit, 400 + n), origin="lib") for n in range(9)]
        for command in flying:
            await kit.send_again(command, alice)
        assert [await state_of(kit, row) for row in flying] == ["sent"] * 8 + ["ready"]
        world.down = False
        await kit.send_again(await kit.commands.get(flying[0].command_id), alice)
        await kit.send_again(flying[8], alice)
        assert await state_of(kit, flying[8]) == "done"
        # 13 of 50 in this minute.
        for n in range(37):
            await kit.execute(await world.plan(kit, 500 + n), wait_s=0)
        over = await kit.execute(await world.plan(kit, 600), wait_s=0)
        assert over.state == CommandState.READY
        world.now += 60
        await kit.pump()
        assert await state_of(kit, over) == "done"
