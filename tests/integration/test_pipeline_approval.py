"""Commands that wait for people (docs/protocol/02-fleet-management.md §7.3, §15.10, §15.11; 08 §13.8)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from cl_hive_comms.domain.approval import Workflow
from cl_hive_comms.services.command_case import Judged
from cl_hive_comms.services.decision import DecisionService
from hive_shared import crypto
from hive_shared.canonical import JsonValue, decode_object
from hive_shared.crypto import Secret
from hive_shared.envelope import approve_digest, confirm_digest
from hive_shared.errors import Conflict, EmergencyStop, InvalidParams, NotFound, Unauthorized
from msgspec.structs import replace
from pipeline_world import AGENT_KEY, OTHER_KEY, View, World, issue, slug

FEES = "hive:fee-policy/v1"
CONTROL = "hive:control/v1"
CREDENTIAL = f"00000000-0000-4000-8000-{1:012x}"
ASK = {"approval_overrides": {"fee_policy_*": "always_confirm"}}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    made.policies.override("moderate", **ASK)
    yield made
    made.close()


async def held(world: World, ppm: int = 110, channel: str = "101x1x0", **options: Any) -> str:
    """A fee change that waits; its action id."""
    response = await world.set_fee(ppm, channel, **options)
    assert (response["status"], slug(response)) == (3, "confirmation_required"), response
    return str(response["error"]["data"]["action_id"])


async def final(world: World, action_id: str) -> dict[str, Any]:
    """What `command_status` says of a command."""
    answer = await world.ask(CONTROL, "command_status", {"command_id": action_id})
    return dict(answer["result"])


async def test_acceptance_02_10_approved_command_runs_once_with_one_receipt(world: World) -> None:
    action_id = await held(world)
    (item,) = (await world.pipeline.approvals.pending())["items"]  # type: ignore[misc,union-attr]
    assert (item["action_id"], item["action"], item["danger"]["total"]) == (action_id, "set_single", 3)  # type: ignore[index,call-overload]
    done = await world.pipeline.approvals.approve(action_id)
    assert (done["state"], done["approvals"]) == ("success", 1)
    assert world.node.fees("101x1x0")[1] == 110
    (receipt,) = await world.docs()
    assert (receipt["status"], receipt["approval"]["approvers"]) == ("success", ["local"])
    status = await final(world, action_id)
    assert (status["state"], status["response"]["status"]) == ("success", 0)
    with pytest.raises(Conflict):
        await world.pipeline.approvals.approve(action_id)
    assert world.setchannels == 1


async def test_acceptance_02_10_danger_5_at_a_trust_of_1_is_queued_by_itself(tmp_path: Path) -> None:
    """No rule of the operator asks for it: danger and trust do."""
    world = World(tmp_path)
    bulk: dict[str, JsonValue] = {"channels": ["101x1x0", "102x1x0"], "policy": {"fee_ppm": 110}}
    answer = await world.ask("hive:fee-policy/v1", "set_bulk", bulk)
    data = answer["error"]["data"]
    assert (answer["status"], data["danger"]["total"], data["workflow"]) == (3, 5, "queue"), answer
    assert world.setchannels == 0 and await world.docs() == []
    done = await world.pipeline.approvals.approve(data["action_id"])
    assert done["state"] == "success" and world.setchannels == 2
    (receipt,) = await world.docs()
    approval = receipt["approval"]
    assert (approval["level"], approval["workflow"], approval["approvers"]) == ("5", "queue", ["local"])
    world.close()


async def test_acceptance_02_10_rejected_command_tells_the_agent(world: World) -> None:
    action_id = await held(world)
    done = await world.pipeline.approvals.approve(action_id, reject=True, reason="not this week")
    assert (done["state"], done["slug"]) == ("rejected", "approval_rejected")
    (message,) = world.out.sent
    told = decode_object(message["content"])
    assert slug(told) == "approval_rejected"
    assert told["error"]["message"] == "not this week"  # type: ignore[index,call-overload]
    assert len(await world.docs()) == 1
    assert world.setchannels == 0


async def test_acceptance_02_10_an_edit_may_only_reduce(world: World) -> None:
    action_id = await held(world, 120)
    for bad in ({"channel_id": "101x1x0", "fee_ppm": 121}, {"channel_id": "102x1x0", "fee_ppm": 110}):
        with pytest.raises(InvalidParams):
            await world.pipeline.approvals.approve(action_id, params=bad)
    params = {"channel_id": "101x1x0", "fee_ppm": 110, "enforce_delay_s": 600}
    done = await world.pipeline.approvals.approve(action_id, params=params)
    assert done["state"] == "success"
    assert world.node.fees("101x1x0")[1] == 110
    (receipt,) = await world.docs()
    assert receipt["params"]["fee_ppm"] == 110
    assert len(receipt["approval"]["original_params_hash"]) == 64


async def test_acceptance_02_10_expiry_ends_a_waiting_command_with_one_receipt(world: World) -> None:
    action_id = await held(world)
    world.pass_time(24 * 3_600 - 1)
    assert await world.pipeline.approvals.expire() == 0
    world.pass_time(1)
    assert await world.pipeline.approvals.expire() == 1
    assert await world.state(action_id) == "expired"
    (receipt,) = await world.docs()
    assert (receipt["status"], receipt["error"]["slug"]) == ("expired", "approval_expired")
    with pytest.raises(Conflict):
        await world.pipeline.approvals.approve(action_id)


async def test_acceptance_08_08_approval_after_revocation_does_not_run(world: World) -> None:
    action_id = await held(world)
    view = next(iter(world.credentials.views.values()))
    world.credentials.add(View(view.credential, "adv-1", status="revoked"))
    done = await world.pipeline.approvals.approve(action_id)
    assert (done["state"], done["slug"]) == ("rejected", "credential_revoked")
    assert world.setchannels == 0


async def test_acceptance_08_08_approval_during_the_emergency_stop_is_refused(world: World) -> None:
    action_id = await held(world)
    world.switch.on = True
    with pytest.raises(EmergencyStop):
        await world.pipeline.approvals.approve(action_id)
    assert await world.pipeline.approvals.cancel_all("emergency_stop", "the emergency stop was engaged") == 1
    assert await world.state(action_id) == "cancelled"


async def test_acceptance_08_08_approval_after_drift_does_not_run(world: World) -> None:
    action_id = await held(world)
    world.node.rows[0]["fee_proportional_millionths"] = 105
    done = await world.pipeline.approvals.approve(action_id)
    assert (done["state"], done["slug"]) == ("rejected", "stale_state")
    assert world.setchannels == 0


async def test_a_policy_that_became_stricter_stops_an_approved_command(world: World) -> None:
    action_id = await held(world)
    world.policies.override("moderate", protected_channels=["101x1x0"], **ASK)
    done = await world.pipeline.approvals.approve(action_id)
    assert (done["state"], done["slug"]) == ("rejected", "protected_channel")


async def test_acceptance_02_11_revocation_cancels_what_waits(world: World) -> None:
    ids = [await held(world, channel=channel) for channel in ("101x1x0", "102x1x0", "103x1x0")]
    cancelled = await world.db.write(lambda tx: world.pipeline.commands.cancel_in(tx, "adv-1", "revoked"))
    assert cancelled == 3
    assert [await world.state(action_id) for action_id in ids] == ["cancelled"] * 3
    assert [doc["error"]["slug"] for doc in await world.docs()] == ["credential_revoked"] * 3


async def test_acceptance_02_11_three_wait_and_one_runs_while_the_credential_is_revoked(world: World) -> None:
    """What waits is cancelled at once; what runs is not torn off, and is on record; then nothing more."""
    ids = [await held(world, channel=channel) for channel in ("101x1x0", "102x1x0", "103x1x0")]
    world.policies.override("moderate")
    entered, leave = asyncio.Event(), asyncio.Event()
    setchannel = world.node.setchannel

    async def slow(*args: Any, **named: Any) -> Any:
        entered.set()
        await leave.wait()
        return await setchannel(*args, **named)

    world.node.setchannel = slow  # type: ignore[method-assign]
    running = asyncio.create_task(world.set_fee(110, "104x1x0"))
    async with asyncio.timeout(60):
        await entered.wait()
    world.credentials.add(replace(world.credentials.views[CREDENTIAL], status="revoked"))
    cancelled = await world.db.write(lambda tx: world.pipeline.commands.cancel_in(tx, "adv-1", "revoked"))
    assert cancelled == 3
    assert [await world.state(action_id) for action_id in ids] == ["cancelled"] * 3
    leave.set()
    answer = await running
    assert answer["status"] == 0, answer
    assert world.node.fees("104x1x0")[1] == 110
    docs = await world.docs()
    assert sorted(doc["status"] for doc in docs) == ["cancelled"] * 3 + ["success"]
    assert slug(await world.set_fee(110)) == "credential_revoked"
    assert world.setchannels == 1 and (await world.receipts.verify()).ok


async def test_an_agent_cancels_its_own_command_and_nobody_elses(world: World) -> None:
    world.credentials.add(View(issue(OTHER_KEY, number=2), "adv-2"))
    action_id = await held(world)
    theirs = await world.ask(CONTROL, "cancel", {"command_id": action_id}, agent=OTHER_KEY, credential=2)
    assert slug(theirs) == "stale_state"
    assert (await world.ask(CONTROL, "cancel", {"command_id": action_id}))["result"]["state"] == "cancelled"
    assert await world.state(action_id) == "cancelled"


async def test_twenty_commands_of_an_advisor_may_wait(world: World) -> None:
    world.policies.override("moderate", rate_limits={"fee_changes_per_hour": 100}, **ASK)
    for _ in range(20):
        await held(world)
    assert slug(await world.set_fee(110)) == "rate_limited"


async def test_a_hundred_commands_of_all_advisors_may_wait(world: World) -> None:
    world.policies.override(
        "moderate", rate_limits={"fee_changes_per_hour": 1_000, "total_actions_per_day": 1_000}, **ASK
    )
    for number in range(2, 7):
        agent = Secret((100 + number).to_bytes(32, "big"))
        world.credentials.add(View(issue(agent, number=number), f"adv-{number}"))
        for _ in range(20):
            answer = await world.set_fee(110, agent=agent, credential=number)
            assert answer["status"] == 3
    full = await world.set_fee(110)
    assert slug(full) == "rate_limited" and "100 commands wait at this node" in full["error"]["message"]


async def test_what_waits_counts_at_once_also_for_two_at_the_same_moment(world: World) -> None:
    world.policies.override("moderate", rate_limits={"total_actions_per_day": 1}, **ASK)
    world.credentials.add(View(issue(OTHER_KEY, number=2), "adv-2"))
    answers = await asyncio.gather(
        world.set_fee(110, "101x1x0"), world.set_fee(110, "102x1x0", agent=OTHER_KEY, credential=2)
    )
    assert sorted(answer["status"] for answer in answers) == [1, 3]
    (refused,) = (answer for answer in answers if answer["status"] == 1)
    assert slug(refused) == "daily_cap"
    # What is turned down gives its use back.
    (waiting,) = (answer for answer in answers if answer["status"] == 3)
    await world.pipeline.approvals.approve(waiting["command_id"], reject=True)
    assert (await world.set_fee(110, "103x1x0"))["status"] == 3


@pytest.mark.parametrize(
    ("schema", "action", "params"),
    [
        ("hive:peer/v1", "connect", {"peer_id": "02" + "aa" * 32, "host": "127.0.0.1"}),
        ("hive:peer/v1", "connect", {"peer_id": "02" + "aa" * 32, "address": "169.254.169.254"}),
        ("hive:plugin/v1", "start_arbitrary", {"path": "/opt/x.py"}),
        ("hive:plugin/v1", "start_approved", {"plugin_name": "../../x.py"}),
        ("hive:backup/v1", "restore", {"backup_id": "b", "mode": "recoverchannel"}),
        ("hive:backup/v1", "recover", {}),
        ("hive:config/v1", "emergencyrecover", {}),
        ("hive:config/v1", "set_config", {"key": "hive-comms-policy-preset", "value": "aggressive"}),
    ],
)
async def test_acceptance_02_23_closed_to_agents_whether_served_or_not(
    world: World, schema: str, action: str, params: dict[str, Any]
) -> None:
    world.credentials.add(View(issue(template="complete_management"), "adv-1"))
    answer = await world.ask(schema, action, params)
    assert (slug(answer), answer["status"]) == ("policy_blocked", 1)
    assert answer["receipt"]["status"] == "rejected" and answer["receipt"]["action"] == action
    assert world.node.calls == []


async def test_acceptance_02_23_what_is_only_not_served_says_so(world: World) -> None:
    world.credentials.add(View(issue(template="complete_management"), "adv-1"))
    connect = {"peer_id": "02" + "aa" * 32, "host": "8.8.8.8"}
    assert slug(await world.ask("hive:peer/v1", "connect", connect)) == "unsupported_action"


async def test_an_unknown_action_is_not_found(world: World) -> None:
    with pytest.raises(NotFound):
        await world.pipeline.approvals.approve("nothing")


async def test_trust_decides_who_waits(tmp_path: Path) -> None:
    world = World(tmp_path)
    half = issue(OTHER_KEY, number=2, trust=Fraction(1, 2))
    world.credentials.add(View(half, "adv-2"))
    response = await world.set_fee(110, agent=OTHER_KEY, credential=2)
    assert (response["status"], response["error"]["data"]["workflow"]) == (3, "queue")
    world.close()


async def test_an_approved_command_that_did_not_start_goes_on_after_a_restart(world: World) -> None:
    action_id = await held(world)
    world.crash_at = "after_executing"
    with pytest.raises(BaseException, match="after_executing"):
        await world.pipeline.approvals.approve(action_id)
    world.restart()
    await world.pipeline.timers.tick()
    assert await world.state(action_id) == "error"
    (receipt,) = await world.docs()
    assert receipt["result"]["reconciled"] is True
    assert world.setchannels == 0


async def test_two_advisors_with_open_requests_on_one_channel_are_both_held(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.credentials.add(View(issue(OTHER_KEY, number=2, trust=Fraction(1, 2)), "adv-2"))
    first = await world.set_fee(110, agent=OTHER_KEY, credential=2)
    assert first["status"] == 3
    second = await world.set_fee(112)
    assert (second["status"], second["error"]["data"]["workflow"]) == (3, "queue")
    (_, item) = (await world.pipeline.approvals.pending())["items"]  # type: ignore[misc]
    assert "conflict" in item["rules"]  # type: ignore[index,call-overload]
    told = [decode_object(message["content"]) for message in world.out.sent if message["kind"] == "push"]
    assert [push["schema_payload"]["action"] for push in told] == ["conflict_held"] * 2  # type: ignore[index,call-overload]
    assert {push["node"] for push in told} == {crypto.xonly_pubkey(AGENT_KEY), crypto.xonly_pubkey(OTHER_KEY)}
    world.close()


# -- confirm and multisig: no served action reaches danger 7, so the workflow is set by hand ----------------


@pytest.fixture
def as_workflow(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes every judged write ask for a given workflow."""

    def use(workflow: Workflow, needed: int = 1) -> None:
        judge = DecisionService._verdict

        def raised(self: DecisionService, *args: Any) -> Any:
            verdict = judge(self, *args)
            judged: Judged = replace(
                verdict.judged, workflow=workflow.value, needed=needed, expires_in=4 * 3_600
            )
            return replace(verdict, judged=judged)

        monkeypatch.setattr(DecisionService, "_verdict", raised)

    return use


async def test_acceptance_02_10_danger_7_needs_a_signed_challenge(world: World, as_workflow: Any) -> None:
    as_workflow(Workflow.CONFIRM)
    action_id = await held(world)
    done = await world.pipeline.approvals.approve(action_id)
    assert done["state"] == "confirm_wait"
    status = (await final(world, action_id))["response"]["error"]["data"]
    assert world.setchannels == 0
    wrong = crypto.schnorr_sign(AGENT_KEY, confirm_digest(status["command_hash"], "00" * 32))
    answer = await world.ask(CONTROL, "confirm", {"command_id": action_id, "challenge_sig": wrong})
    assert slug(answer) == "bad_signature"
    right = crypto.schnorr_sign(AGENT_KEY, confirm_digest(status["command_hash"], status["challenge"]))
    answer = await world.ask(CONTROL, "confirm", {"command_id": action_id, "challenge_sig": right})
    assert answer["result"]["state"] == "success", answer
    (receipt,) = await world.docs()
    assert receipt["confirm_signature"] == right
    assert world.setchannels == 1


async def test_an_unsigned_challenge_expires_after_half_an_hour(world: World, as_workflow: Any) -> None:
    as_workflow(Workflow.CONFIRM)
    action_id = await held(world)
    await world.pipeline.approvals.approve(action_id)
    world.pass_time(1_800)
    assert await world.pipeline.approvals.expire() == 1
    assert await world.state(action_id) == "expired"


async def test_acceptance_02_10_multisig_counts_distinct_approvers_without_the_requester(
    world: World, as_workflow: Any
) -> None:
    keys = [crypto.Secret((50 + n).to_bytes(32, "big")) for n in range(3)]
    names = [crypto.xonly_pubkey(key) for key in keys]
    world.policies.override("moderate", approvers=[*names, crypto.xonly_pubkey(AGENT_KEY)], **ASK)
    as_workflow(Workflow.MULTISIG, needed=3)
    action_id = await held(world)
    pushed = [decode_object(message["content"]) for message in world.out.sent]
    assert len(pushed) == 3
    command_hash = str(pushed[0]["schema_payload"]["params"]["command_hash"])  # type: ignore[index,call-overload]
    approve = world.pipeline.approvals.approve
    own = crypto.schnorr_sign(AGENT_KEY, approve_digest(command_hash, "approve"))
    with pytest.raises(Unauthorized):
        await approve(action_id, approver=crypto.xonly_pubkey(AGENT_KEY), signature=own)
    with pytest.raises(Unauthorized):
        await approve(action_id)
    signatures = [crypto.schnorr_sign(key, approve_digest(command_hash, "approve")) for key in keys]
    with pytest.raises(Unauthorized):
        await approve(action_id, approver=names[0], signature=signatures[1])
    for index in (0, 0, 1):
        state = await approve(action_id, approver=names[index], signature=signatures[index])
    assert (state["state"], state["approvals"], state["needed"]) == ("pending_approval", 2, 3)
    state = await approve(action_id, approver=names[2], signature=signatures[2])
    assert state["state"] == "success"
    (receipt,) = await world.docs()
    assert sorted(receipt["approval"]["approvers"]) == sorted(names)


async def test_enough_rejections_end_a_multisig_command(world: World, as_workflow: Any) -> None:
    keys = [crypto.Secret((50 + n).to_bytes(32, "big")) for n in range(2)]
    names = [crypto.xonly_pubkey(key) for key in keys]
    world.policies.override("moderate", approvers=names, **ASK)
    as_workflow(Workflow.MULTISIG, needed=2)
    action_id = await held(world)
    row_hash = str(decode_object(world.out.sent[0]["content"])["schema_payload"]["params"]["command_hash"])  # type: ignore[index,call-overload]
    signature = crypto.schnorr_sign(keys[0], approve_digest(row_hash, "reject"))
    state = await world.pipeline.approvals.approve(
        action_id, reject=True, approver=names[0], signature=signature
    )
    assert (state["state"], state["slug"]) == ("rejected", "approval_rejected")
