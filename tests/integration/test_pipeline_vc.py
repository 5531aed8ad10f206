"""Step 6 for a credential that cl-hive-archon issued: asked last, asked again before a waiting command runs
(docs/protocol/02 §7.1, §2.5)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cl_hive_comms.domain import vc_check
from pipeline_world import View, World, issue, slug

FEES = "hive:fee-policy/v1"
ASK = {"approval_overrides": {"fee_policy_*": "always_confirm"}}
VC = '{"type":["VerifiableCredential"],"share":0.5}'


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    made.credentials.add(View(issue(), "adv-1", vc=VC))
    yield made
    made.close()


async def test_the_issuers_side_is_asked_about_credential_and_action(world: World) -> None:
    assert (await world.set_fee(110))["status"] == 0
    assert world.archon.asked == [(issue().credential_id, FEES, "set_single")]


@pytest.mark.parametrize(
    ("refusal", "symbol", "code"),
    [
        (vc_check.never_checked("archon is not there"), "credential_unverifiable", 4019),
        (vc_check.revocation_unknown("archon is not there"), "revocation_unverifiable", 4019),
        (vc_check.revoked(), "credential_revoked", 4018),
    ],
)
async def test_acceptance_02_11_what_cannot_be_verified_does_nothing(
    world: World, refusal: Any, symbol: str, code: int
) -> None:
    world.archon.refuses = refusal
    answer = await world.set_fee(110, nonce=7)
    assert (answer["status"], answer["error"]["slug"], answer["error"]["code"]) == (1, symbol, code)
    assert world.setchannels == 0
    # Reads are refused alike, and no nonce was burned.
    assert slug(await world.ask("hive:monitor/v1", "fee_report", {}, nonce=8)) == symbol
    world.archon.refuses = None
    assert (await world.set_fee(110, nonce=7))["status"] == 0


async def test_what_is_wrong_here_needs_no_answer_from_there(world: World) -> None:
    world.archon.refuses = vc_check.never_checked("archon is not there")
    world.credentials.add(View(issue(), "adv-1", status="revoked", vc=VC))
    assert slug(await world.set_fee(110)) == "credential_revoked"
    world.credentials.add(View(issue(valid=(1, 2)), "adv-1", vc=VC))
    assert slug(await world.set_fee(110)) == "credential_expired"
    assert world.archon.asked == []


async def test_an_embedded_copy_must_be_the_one_stored_here(world: World) -> None:
    named = {"credential_id": issue().credential_id}
    same = {**named, "vc": {"share": 0.5, "type": ["VerifiableCredential"]}}
    assert (await world.set_fee(110, credential=same))["status"] == 0
    for other in ({"type": ["VerifiableCredential"]}, {}, "text", 7):
        answer = await world.set_fee(111, credential={**named, "vc": other})
        assert slug(answer) == "unauthorized", answer


async def test_acceptance_08_08_a_waiting_command_is_verified_again_before_it_runs(world: World) -> None:
    world.policies.override("moderate", **ASK)
    waits = await world.set_fee(110)
    world.archon.refuses = vc_check.revocation_unknown("archon is not there")
    done = await world.pipeline.approvals.approve(str(waits["error"]["data"]["action_id"]))
    assert (done["state"], done["slug"]) == ("rejected", "revocation_unverifiable")
    assert world.setchannels == 0
