"""A contract on the operator's side: its signatures, its credential, and every way in which it ends
(docs/protocol/04-marketplace-and-nostr.md §10)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cl_hive_comms.services.advisor_requests import Hire
from hive_shared.errors import (
    ConfirmationRequired,
    Conflict,
)
from hive_shared.market import contract as contracts
from hive_shared.market.contract_machine import ContractState
from hive_shared.market.messages import (
    Abort,
    ContractSigned,
    EmergencyTermination,
    TerminationAck,
    TerminationNotice,
)
from market_terms import terms
from market_world import MarketWorld

DAY = 86_400


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[MarketWorld]:
    world = await MarketWorld(tmp_path).start()
    try:
        yield world
    finally:
        world.db.close()


@pytest.mark.parametrize("wrong", ["hash", "stranger", "altered", "operator"])
async def test_a_signature_that_is_none_issues_nothing(world: MarketWorld, wrong: str) -> None:
    row = await world.agreed()
    sign = await world.advisor.reads(world, row.thread_id)
    good = world.advisor.signed(sign, terms(), world.now)
    proof = dict(good.proof)
    if wrong == "stranger":
        other = contracts.sign({**sign.contract, "proof": []}, world.identity.secret(), world.now)
        proof = other["proof"][0]
    if wrong == "operator":
        proof = sign.contract["proof"][0]
    if wrong == "altered":
        proof["proofValue"] = proof["proofValue"][:-1] + ("2" if proof["proofValue"][-1] != "2" else "3")
    hashed = "00" * 32 if wrong == "hash" else good.contract_hash
    await world.hears(world.advisor.says(world, row, ContractSigned(row.contract_id, hashed, proof)))
    await world.engagements.settle()
    assert await world.refused_as(row) in (
        "stale_terms",
        "issuer_mismatch",
        "proof_invalid",
        "proof_malformed",
    )
    assert (await world.row(row.contract_id)).status is ContractState.SIGNING
    assert await world.credentials_of_advisor() == []
    await world.hears(world.advisor.says(world, row, good))
    await world.engagements.settle()
    assert await world.credentials_of_advisor() == [row.credential_id]


async def test_what_is_not_signed_in_three_days_runs_out(world: MarketWorld) -> None:
    row = await world.agreed()
    with pytest.raises(Conflict, match="signed the contract"):
        await world.negotiations.abort(row.contract_id, "changed my mind")
    world.now += 3 * DAY + 3_600
    await world.engagements.settle()
    assert (await world.row(row.contract_id)).status is ContractState.EXPIRED
    assert await world.credentials_of_advisor() == []


async def test_an_advisor_withdraws_before_it_signs(world: MarketWorld) -> None:
    row = await world.agreed()
    await world.hears(world.advisor.says(world, row, Abort(row.contract_id, "full")))
    assert (await world.row(row.contract_id)).status is ContractState.ABORTED


async def test_notice_ends_the_credential_when_it_takes_effect(world: MarketWorld) -> None:
    row = await world.active()
    row = await world.engagements.terminate(row.contract_id, "cheaper", emergency=False, confirm=False)
    assert (row.status, row.effective_at) == (ContractState.NOTICE, world.now + 7 * DAY)
    notice = await world.advisor.reads(world, row.thread_id)
    assert notice == TerminationNotice(row.contract_id, world.now + 7 * DAY, "cheaper")
    await world.hears(world.advisor.says(world, row, TerminationAck(row.contract_id, notice.effective_at)))
    world.now += 7 * DAY - 1
    await world.engagements.settle()
    assert world.credentials.live_keys() == (world.advisor.pubkey,)
    world.now += 1
    await world.engagements.settle()
    row = await world.row(row.contract_id)
    assert (row.status, row.terminated_at) == (ContractState.TERMINATED, world.now)
    assert world.credentials.live_keys() == ()
    with pytest.raises(Conflict, match="rehire_cooldown"):
        await world.negotiations.propose(world.advisor.whom, terms())
    world.now += 30 * DAY
    await world.negotiations.propose(world.advisor.whom, terms())


async def test_an_emergency_ends_it_at_once_and_asks_first(world: MarketWorld) -> None:
    row = await world.active()
    with pytest.raises(ConfirmationRequired):
        await world.engagements.terminate(row.contract_id, "thief", emergency=True, confirm=False)
    assert world.credentials.live_keys() == (world.advisor.pubkey,)
    row = await world.engagements.terminate(row.contract_id, "thief", emergency=True, confirm=True)
    assert row.status is ContractState.TERMINATED
    assert world.credentials.live_keys() == ()
    assert await world.advisor.reads(world, row.thread_id) == EmergencyTermination(row.contract_id, "thief")


async def test_the_advisor_gives_notice_and_not_too_short(world: MarketWorld) -> None:
    row = await world.active()
    early = TerminationNotice(row.contract_id, world.now + 6 * DAY, "")
    await world.hears(world.advisor.says(world, row, early))
    assert await world.refused_as(row) == "notice_too_short"
    due = TerminationNotice(row.contract_id, world.now + 7 * DAY, "moving on")
    await world.hears(world.advisor.says(world, row, due))
    assert await world.advisor.reads(world, row.thread_id) == TerminationAck(
        row.contract_id, due.effective_at
    )
    assert (await world.row(row.contract_id)).status is ContractState.NOTICE


async def test_the_advisor_stops_at_once(world: MarketWorld) -> None:
    row = await world.active()
    await world.hears(world.advisor.says(world, row, EmergencyTermination(row.contract_id, "key lost")))
    await world.engagements.settle()
    row = await world.row(row.contract_id)
    assert (row.status, row.termination_reason) == (ContractState.TERMINATED, "key lost")
    assert world.credentials.live_keys() == ()


async def test_a_revoked_advisor_has_no_contract_and_a_renewed_one_keeps_it(world: MarketWorld) -> None:
    row = await world.active()
    await world.service.authorize(Hire(advisor="", npub=world.advisor.pubkey, access="fees"))
    await world.engagements.settle()
    assert (await world.row(row.contract_id)).status is ContractState.ACTIVE


async def test_revoking_by_hand_ends_the_contract(world: MarketWorld) -> None:
    row = await world.active()
    await world.service.revoke_credential(row.credential_id or "", "by hand")
    await world.engagements.settle()
    row = await world.row(row.contract_id)
    assert row.status is ContractState.TERMINATED
    assert isinstance(await world.advisor.reads(world, row.thread_id), EmergencyTermination)


async def test_the_term_ends(world: MarketWorld) -> None:
    row = await world.active()
    world.now = row.contract_end or 0
    await world.engagements.settle()
    assert (await world.row(row.contract_id)).status is ContractState.COMPLETED
    assert world.credentials.live_keys() == ()


async def test_a_ticket_is_of_a_contract_that_runs_with_its_advisor(world: MarketWorld) -> None:
    row = await world.propose(terms())

    async def check(contract_id: str, pubkey: str) -> None:
        await world.db.read(lambda tx: world.reading.check_pay(tx, contract_id, pubkey))

    with pytest.raises(Conflict, match="proposed"):
        await check(row.contract_id, world.advisor.pubkey)
    await world.negotiations.abort(row.contract_id, "")
    row = await world.active()
    await check(row.contract_id, world.advisor.pubkey)
    await check("a contract of somewhere else", world.advisor.pubkey)
    with pytest.raises(Conflict, match="not_theirs"):
        await check(row.contract_id, "ab" * 32)
