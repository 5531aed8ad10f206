"""Confirm and multisig as the policy and an advisor's trust bring them about (02 §7.3, §13.10, §13.20)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from cl_hive_comms.commands.approvals import _approver
from hive_shared import crypto
from hive_shared.canonical import JsonValue, decode_object
from hive_shared.envelope import approve_digest, confirm_digest
from hive_shared.errors import HiveError, Unauthorized
from pipeline_world import AGENT_KEY, OTHER_KEY, View, World, issue, slug

CONTROL = "hive:control/v1"
FEES = "hive:fee-policy/v1"
BULK: JsonValue = {"channels": ["101x1x0"], "policy": {"fee_ppm": 110}}
KEYS = [crypto.Secret((50 + n).to_bytes(32, "big")) for n in range(3)]
NAMES: list[JsonValue] = [crypto.xonly_pubkey(key) for key in KEYS]
SEVERAL: dict[str, JsonValue] = {"fee_policy_*": "multi_sig_2_of_3"}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    made.credentials.approvers.update(crypto.xonly_pubkey(key) for key in KEYS)
    yield made
    made.close()


async def voted(world: World, key: crypto.Secret, action_id: str, vote: Any, **options: Any) -> Any:
    """An approver's vote by a command of the control schema, without a credential."""
    signature = crypto.schnorr_sign(key, approve_digest(await hash_of(world, action_id), vote))
    params = {"command_id": action_id, "sig": options.pop("signature", signature)}
    return await world.ask(CONTROL, vote, params, agent=key, credential=None)


async def hash_of(world: World, action_id: str) -> str:
    """Hash of the waiting command, as an approver finds it in its push."""
    for message in world.out.sent:
        body = decode_object(message["content"]).get("schema_payload")
        if isinstance(body, dict) and body.get("action") == "approval_request":
            params: Any = body["params"]
            if params["command_id"] == action_id:
                return str(params["command_hash"])
    raise AssertionError("no approver was asked")


async def held(world: World, ppm: int = 110) -> str:
    response = await world.set_fee(ppm)
    assert (response["status"], response["error"]["data"]["workflow"]) == (3, "multisig"), response
    assert response["error"]["data"]["needed"] == 2
    return str(response["error"]["data"]["action_id"])


async def test_acceptance_02_10_two_approvers_vote_by_command_and_it_runs_once(world: World) -> None:
    world.policies.override("moderate", approvers=NAMES, approval_overrides=SEVERAL)
    action_id = await held(world)
    for _ in range(2):
        assert (await voted(world, KEYS[0], action_id, "approve"))["status"] == 0
        assert await world.state(action_id) == "pending_approval"
    assert (await voted(world, KEYS[2], action_id, "approve"))["status"] == 0
    assert await world.state(action_id) == "success"
    assert world.setchannels == 1
    (receipt,) = [each for each in await world.docs() if each.get("command_id") == action_id]
    assert receipt["approval"]["workflow"] == "multisig"
    assert sorted(receipt["approval"]["approvers"]) == sorted(str(NAMES[n]) for n in (0, 2))
    assert slug(await voted(world, KEYS[1], action_id, "approve")) == "stale_state"


async def test_acceptance_02_10_a_key_written_twice_is_one_approver(world: World) -> None:
    names: list[JsonValue] = [NAMES[0], f"did:nostr:{NAMES[0]}", f"did:nostr:{NAMES[1]}"]
    world.policies.override("moderate", approvers=names, approval_overrides=SEVERAL)
    action_id = await held(world)
    await voted(world, KEYS[0], action_id, "approve")
    assert await world.state(action_id) == "pending_approval"
    await voted(world, KEYS[1], action_id, "approve")
    assert await world.state(action_id) == "success"


async def test_acceptance_02_10_the_requester_has_no_vote_in_any_form(world: World) -> None:
    own = crypto.xonly_pubkey(AGENT_KEY)
    world.policies.override(
        "moderate", approvers=[*NAMES[:2], f"did:nostr:{own}"], approval_overrides=SEVERAL
    )
    action_id = await held(world)
    params = {
        "command_id": action_id,
        "sig": crypto.schnorr_sign(AGENT_KEY, approve_digest(await hash_of(world, action_id), "approve")),
    }
    assert slug(await world.ask(CONTROL, "approve", params)) == "unauthorized"
    assert slug(await world.ask(CONTROL, "approve", params, credential=None)) == "unauthorized"
    await voted(world, KEYS[0], action_id, "approve")
    assert await world.state(action_id) == "pending_approval"


async def test_acceptance_02_10_a_strangers_vote_and_a_borrowed_signature_count_nothing(world: World) -> None:
    world.policies.override("moderate", approvers=NAMES[:2], approval_overrides=SEVERAL)
    action_id = await held(world)
    assert slug(await voted(world, KEYS[2], action_id, "approve")) == "unauthorized"
    digest = approve_digest(await hash_of(world, action_id), "reject")
    wrong = crypto.schnorr_sign(KEYS[0], digest)
    assert slug(await voted(world, KEYS[0], action_id, "approve", signature=wrong)) == "bad_signature"
    with pytest.raises(Unauthorized):
        await world.pipeline.approvals.approve(action_id)
    assert await world.state(action_id) == "pending_approval"


async def test_acceptance_02_10_local_counts_where_it_is_listed(world: World) -> None:
    world.policies.override("moderate", approvers=["local", *NAMES[:2]], approval_overrides=SEVERAL)
    action_id = await held(world)
    first = await world.pipeline.approvals.approve(action_id)
    assert (first["state"], first["approvals"], first["needed"]) == ("pending_approval", 1, 2)
    again = await world.pipeline.approvals.approve(action_id)
    assert (again["state"], again["approvals"]) == ("pending_approval", 1)
    await voted(world, KEYS[1], action_id, "approve")
    assert await world.state(action_id) == "success"


async def test_acceptance_02_10_the_operators_no_cancels_what_others_approved(world: World) -> None:
    world.policies.override("moderate", approvers=NAMES, approval_overrides=SEVERAL)
    action_id = await held(world)
    await voted(world, KEYS[0], action_id, "approve")
    done = await world.pipeline.approvals.approve(action_id, reject=True, reason="no")
    assert (done["state"], done["slug"]) == ("rejected", "approval_rejected")
    assert world.setchannels == 0


@pytest.mark.parametrize("did", ["did:cid:bagaaiera", "did:web:example.com"])
async def test_acceptance_02_10_a_dids_vote_is_refused_with_the_reason(world: World, did: str) -> None:
    world.policies.override("moderate", approvers=[*NAMES[:2], did], approval_overrides=SEVERAL)
    action_id = await held(world)
    signature = crypto.schnorr_sign(KEYS[0], approve_digest(await hash_of(world, action_id), "approve"))
    with pytest.raises(Unauthorized, match=r"nothing on this node verifies signatures of DIDs.*Nostr key"):
        await world.pipeline.approvals.approve(action_id, approver=_approver(did), signature=signature)
    assert await world.state(action_id) == "pending_approval"
    world.policies.override("moderate", approvers=[NAMES[0], did], approval_overrides=SEVERAL)
    refused = await world.set_fee(110, "102x1x0")
    assert slug(refused) == "multisig_not_configured"
    assert "DIDs cannot be checked" in refused["error"]["message"]


async def test_acceptance_02_10_unset_or_too_few_approvers_refuse_at_once(world: World) -> None:
    own = crypto.xonly_pubkey(AGENT_KEY)
    cases: list[list[JsonValue]] = [[], ["local"], ["local", own], [NAMES[0], "did:cid:bagaaiera"]]
    for names in cases:
        world.policies.override("moderate", approvers=names, approval_overrides=SEVERAL)
        assert slug(await world.set_fee(110)) == "multisig_not_configured", names
    assert (await world.pipeline.approvals.pending())["count"] == 0
    assert world.setchannels == 0


async def test_acceptance_02_10_an_approver_who_was_removed_no_longer_counts(world: World) -> None:
    world.policies.override("moderate", approvers=NAMES, approval_overrides=SEVERAL)
    action_id = await held(world)
    await voted(world, KEYS[0], action_id, "approve")
    world.policies.override("moderate", approvers=NAMES[1:], approval_overrides=SEVERAL)
    await voted(world, KEYS[1], action_id, "approve")
    assert await world.state(action_id) == "pending_approval"


async def test_acceptance_02_10_votes_are_taken_for_seven_days(world: World) -> None:
    world.policies.override("moderate", approvers=NAMES, approval_overrides=SEVERAL)
    action_id = await held(world)
    world.pass_time(7 * 86_400 - 1)
    assert await world.pipeline.approvals.expire() == 0
    world.pass_time(1)
    assert slug(await voted(world, KEYS[0], action_id, "approve")) == "stale_state"
    assert await world.state(action_id) == "expired"


async def confirmable(world: World) -> tuple[str, dict[str, Any]]:
    """Danger 5 at trust 0.7 is level 7.14: the operator, then the agent's own signature."""
    world.credentials.add(View(issue(OTHER_KEY, number=2, trust=Fraction(7, 10)), "adv-2"))
    asked = await world.ask(FEES, "set_bulk", BULK, agent=OTHER_KEY, credential=2)
    assert (asked["status"], asked["error"]["data"]["workflow"]) == (3, "confirm"), asked
    action_id = str(asked["error"]["data"]["action_id"])
    assert (await world.pipeline.approvals.approve(action_id))["state"] == "confirm_wait"
    sent = [decode_object(message["content"]) for message in world.out.sent]
    (push,) = [each for each in sent if "schema_payload" in each]
    payload: Any = push["schema_payload"]
    assert payload["action"] == "confirm_challenge"
    return action_id, payload["params"]


async def test_acceptance_02_10_low_trust_needs_the_agents_own_confirmation(world: World) -> None:
    action_id, told = await confirmable(world)
    assert told["expires"] == world.now + 1_800
    digest = confirm_digest(told["command_hash"], told["challenge"])
    other = {"command_id": action_id, "challenge_sig": crypto.schnorr_sign(AGENT_KEY, digest)}
    assert slug(await world.ask(CONTROL, "confirm", other)) == "stale_state"
    right = {"command_id": action_id, "challenge_sig": crypto.schnorr_sign(OTHER_KEY, digest)}
    answer = await world.ask(CONTROL, "confirm", right, agent=OTHER_KEY, credential=2)
    assert answer["result"] == {"command_id": action_id, "state": "success"}
    assert world.node.fees("101x1x0")[1] == 110
    (receipt,) = [each for each in await world.docs() if each.get("command_id") == action_id]
    assert (receipt["approval"]["workflow"], receipt["approval"]["approvers"]) == ("confirm", ["local"])
    again = await world.ask(CONTROL, "confirm", right, agent=OTHER_KEY, credential=2)
    assert slug(again) == "stale_state"
    assert world.setchannels == 1


async def test_acceptance_02_10_a_late_confirmation_does_not_run(world: World) -> None:
    action_id, told = await confirmable(world)
    world.pass_time(1_800)
    signature = crypto.schnorr_sign(OTHER_KEY, confirm_digest(told["command_hash"], told["challenge"]))
    params = {"command_id": action_id, "challenge_sig": signature}
    late = await world.ask(CONTROL, "confirm", params, agent=OTHER_KEY, credential=2)
    assert slug(late) == "approval_expired"
    assert world.setchannels == 0
    with pytest.raises(HiveError):
        await world.pipeline.approvals.approve(action_id)
    assert await world.state(action_id) == "expired"


@pytest.mark.parametrize(
    ("wall", "quiet"),
    [
        ("2026-02-01T21:59:59", False),
        ("2026-02-01T22:00:00", True),
        ("2026-02-02T06:59:59", True),
        ("2026-02-02T07:00:00", False),
        ("2026-03-29T01:30:00", True),
        ("2026-03-29T07:00:00", False),
        ("2026-10-25T06:59:59", True),
        ("2026-10-25T07:00:00", False),
    ],
)
async def test_acceptance_02_20_a_command_in_quiet_hours(world: World, wall: str, quiet: bool) -> None:
    at = int(datetime.fromisoformat(wall).replace(tzinfo=ZoneInfo("Europe/Berlin")).timestamp())
    hours = {"start": "22:00", "end": "07:00", "timezone": "Europe/Berlin"}
    world.policies.override("moderate", time_restrictions={"quiet_hours": hours, "quiet_hour_max_danger": 2})
    world.pass_time(at - world.now)
    world.credentials.add(View(issue(number=3, valid=(at - 10, at + 1_000)), "adv-1"))
    answer = await world.set_fee(110, credential=3)
    assert (slug(answer) == "quiet_hours") is quiet, answer
    assert world.setchannels == (0 if quiet else 1)
