"""The kit is hired: terms, contract, credential, end (docs/protocol/04-marketplace-and-nostr.md §9, §10;
docs/protocol/11-advisor-kit.md §4, §7)."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hire_world import DAY, Operator, hire_world
from hive_advisor.advisor import Advisor
from hive_advisor.domain.auto_hire import AutoHire
from hive_advisor.storage.engagement_store import EngagementStore
from hive_shared import vc
from hive_shared.errors import Conflict, CredentialInvalid, PolicyDenied
from hive_shared.market import contract as contracts
from hive_shared.market import messages
from hive_shared.market.contract_machine import ContractState
from hive_shared.market.negotiation_machine import ThreadState
from kit_world import FEE, PARAMS, KitWorld
from market_terms import terms

LIMITS = AutoHire(min_monthly_sats=0, max_nodes=1, tiers=("standard",), capabilities=("fee-optimization",))


@pytest.fixture
def world(tmp_path: Path) -> KitWorld:
    return hire_world(tmp_path)


@pytest_asyncio.fixture
async def kit(world: KitWorld) -> AsyncIterator[Advisor]:
    async with world.open() as opened:
        yield opened


async def proposed(world: KitWorld, kit: Advisor, **parts: Any) -> Operator:
    operator = Operator(world, **parts)
    await operator.say(kit, operator.proposal(kit))
    return operator


async def to_sign(world: KitWorld, kit: Advisor, **parts: Any) -> Operator:
    """Agreed, and signed by the operator."""
    operator = await proposed(world, kit, **parts)
    await kit.market.negotiations.accept(operator.contract_id, sign=False)
    await operator.say(kit, operator.sign(kit))
    return operator


async def running(world: KitWorld, kit: Advisor, **credential: Any) -> Operator:
    operator = await to_sign(world, kit)
    await kit.market.contracts.sign(operator.contract_id)
    await operator.authorise(kit, **credential)
    return operator


async def state(kit: Advisor, operator: Operator) -> ThreadState:
    return (await kit.market.negotiations.view(operator.contract_id)).thread.negotiation.state


async def contract_state(kit: Advisor, operator: Operator) -> ContractState | None:
    found = (await kit.market.negotiations.view(operator.contract_id)).engagement
    return None if found is None else found.state


async def events(kit: Advisor) -> list[str]:
    return [each.kind for each in await kit.past_events(0, 500)]


# -- the whole way ---------------------------------------------------------------------------------------


async def test_a_conversation_of_an_old_copy_goes_on_above_what_was_said_since(
    world: KitWorld, kit: Advisor
) -> None:
    operator = await proposed(world, kit)
    expires = world.now() + DAY
    changes = {"compensation.perActionSats": 40}
    await kit.market.negotiations.counter(
        operator.contract_id, changes, "nights", expires_at=expires, sign=False
    )
    operator.counter(1, **changes)
    await operator.say(kit, operator.counter(2, **{"compensation.perActionSats": 36}))
    # The profile is put back from a copy: what was said since it was made nobody here knows.
    before = world.now()
    await kit.market.contracts.note_restored()
    after = world.now()
    await kit.market.negotiations.accept(operator.contract_id, sign=False)
    await operator.say(kit, operator.sign(kit))
    await kit.market.contracts.sign(operator.contract_id)
    first, above, following = [number for number, _ in await operator.heard(kit)]
    assert first == 1 and before <= above <= after and following == above + 1


async def test_two_rounds_both_signatures_and_a_credential_make_a_client(
    world: KitWorld, kit: Advisor
) -> None:
    operator = await proposed(world, kit)
    waits = {"contract_id": operator.contract_id, "waits_for": "your answer"}
    assert (await kit.brief())["hires_waiting"] == [waits]
    expires = world.now() + DAY
    changes = {"compensation.perActionSats": 40, "sla.responseTimeMinutes": 30}
    await kit.market.negotiations.counter(
        operator.contract_id, changes, "nights", expires_at=expires, sign=False
    )
    operator.counter(1, **changes)
    await operator.say(kit, operator.counter(2, **{"compensation.perActionSats": 36}))
    await kit.market.negotiations.accept(operator.contract_id, sign=False)
    await operator.say(kit, operator.sign(kit))
    assert await contract_state(kit, operator) is ContractState.SIGNING
    waits = {"contract_id": operator.contract_id, "waits_for": "your signature"}
    assert (await kit.brief())["hires_waiting"] == [waits]
    signed = await kit.market.contracts.sign(operator.contract_id)
    assert contracts.verify_contract(signed.document).operator_key == world.node.key
    said = await operator.heard(kit)
    assert [number for number, _ in said] == [1, 2, 3]
    _, _, (_, answer) = said
    assert isinstance(answer, messages.ContractSigned)
    whole = {**operator.contract, "proof": [*operator.contract["proof"], answer.proof]}
    assert contracts.verify_contract(whole).advisor_key == kit.pubkey
    assert answer.contract_hash == contracts.contract_hash(operator.contract)
    await operator.authorise(kit)
    (client,) = await kit.clients.all()
    assert (client.state, client.node_key) == ("active", world.node.key)
    credential = await kit.clients.usable_credential(client)
    assert credential.contract_id == operator.contract_id
    assert await contract_state(kit, operator) is ContractState.ACTIVE
    assert "hires_waiting" not in await kit.brief()


async def test_the_operator_may_accept_what_we_offered_and_signing_may_be_agreed_with_it(
    world: KitWorld, kit: Advisor
) -> None:
    operator = await proposed(world, kit)
    changes = {"compensation.perActionSats": 40}
    await kit.market.negotiations.counter(
        operator.contract_id, changes, "", expires_at=world.now() + DAY, sign=True
    )
    operator.counter(1, **changes)
    await operator.say(kit, operator.accept())
    await operator.say(kit, operator.sign(kit))
    assert await contract_state(kit, operator) is ContractState.SIGNED


async def test_a_trial_comes_first_where_there_is_one(world: KitWorld, kit: Advisor) -> None:
    operator = await to_sign(world, kit, duration={"trialDays": 14, "fullTermDays": 90})
    await kit.market.contracts.sign(operator.contract_id)
    await operator.authorise(kit)
    assert await contract_state(kit, operator) is ContractState.TRIAL


# -- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"sender": vc.did_of("11" * 32)},
        {"sender": "did:cid:abc"},
        {"recipient": vc.did_of("11" * 32)},
        {"terms": {"scope": {}}},
        {"terms": terms(duration={"trialDays": 3, "fullTermDays": 90})},
        {"expiresAt": 1_000_000_000},
    ],
)
async def test_a_proposal_that_is_none_leaves_nothing(
    world: KitWorld, kit: Advisor, changes: dict[str, Any]
) -> None:
    operator = Operator(world)
    await operator.say(kit, operator.proposal(kit, **changes))
    assert not await kit.market.negotiations.listed(10)
    assert not await operator.told(kit), "a stranger is told nothing"


async def test_a_stranger_has_three_open_negotiations(world: KitWorld, kit: Advisor) -> None:
    for _ in range(4):
        await proposed(world, kit)
    assert len(await kit.market.negotiations.listed(10)) == 3


async def test_another_contract_of_the_same_id_is_refused(world: KitWorld, kit: Advisor) -> None:
    first, second = await proposed(world, kit), Operator(world)
    second.contract_id = first.contract_id
    await second.say(kit, second.proposal(kit))
    assert len(await kit.market.negotiations.listed(10)) == 1


def _signed(
    operator: Operator, kit: Advisor, change: Callable[[dict[str, Any]], dict[str, Any]]
) -> messages.ContractSign:
    operator.sign(kit)
    operator.contract = change(operator.contract)
    return operator.sign(kit)


def _by(document: dict[str, Any], kit: Advisor) -> dict[str, Any]:
    proof = vc.prove(document, kit.keyring.secret(kit.pubkey), vc.unix(document["validFrom"], "validFrom"))
    return {**document, "proof": [proof]}


def _other_terms(operator: Operator, kit: Advisor) -> messages.ContractSign:
    agreed = operator.hash
    operator.terms = terms(compensation={**operator.terms["compensation"], "perActionSats": 1})
    return messages.ContractSign(operator.contract_id, agreed, operator.sign(kit).contract)


FORGED: dict[str, Callable[[Operator, Advisor], messages.ContractSign]] = {
    "unsigned": lambda o, k: _signed(o, k, lambda d: {**d, "proof": []}),
    "another's proof": lambda o, k: _signed(o, k, lambda d: _by(d, k)),
    "changed after it was signed": lambda o, k: _signed(o, k, lambda d: {**d, "id": "urn:uuid:x"}),
    "other terms": _other_terms,
    "another advisor": lambda o, k: o.sign(k, advisor_key="11" * 32),
    "another contract": lambda o, k: o.sign(k, contract_id=str(uuid.uuid4())),
    "long ago": lambda o, k: o.sign(k, valid_from=o.world.now() - 4 * DAY),
}


@pytest.mark.parametrize("what", FORGED)
async def test_a_contract_that_is_not_what_was_agreed_is_never_signed(
    world: KitWorld, kit: Advisor, what: str
) -> None:
    operator = await proposed(world, kit)
    await kit.market.negotiations.accept(operator.contract_id, sign=True)
    await operator.say(kit, FORGED[what](operator, kit))
    assert await contract_state(kit, operator) is None
    assert [type(each) for _, each in await operator.heard(kit)] == [messages.Accept]
    assert len(await operator.told(kit)) == 1 and "message_refused" in await events(kit)


async def test_our_own_terms_are_not_ours_to_accept_and_old_ones_nobodys(
    world: KitWorld, kit: Advisor
) -> None:
    operator = await proposed(world, kit)
    changes = {"compensation.perActionSats": 40}
    await kit.market.negotiations.counter(
        operator.contract_id, changes, "", expires_at=world.now() + DAY, sign=False
    )
    with pytest.raises(Conflict, match="own"):
        await kit.market.negotiations.accept(operator.contract_id, sign=False)
    await operator.say(kit, operator.accept())  # of the terms before ours
    assert await state(kit, operator) is ThreadState.OPERATORS_TURN
    assert await operator.told(kit) == ["stale_terms"]


async def test_a_sixth_round_is_not_offered_and_one_that_comes_ends_it(world: KitWorld, kit: Advisor) -> None:
    operator = await proposed(world, kit)
    for number in range(1, 6):
        changes = {"compensation.perActionSats": 40 + number}
        if number % 2:
            await kit.market.negotiations.counter(
                operator.contract_id, changes, "", expires_at=world.now() + DAY, sign=False
            )
            operator.counter(number, **changes)
        else:
            await operator.say(kit, operator.counter(number, **changes))
    await operator.say(kit, operator.counter(6, **{"compensation.perActionSats": 50}))
    assert await state(kit, operator) is ThreadState.FAILED


async def test_nothing_is_agreed_to_while_everything_is_halted(world: KitWorld, kit: Advisor) -> None:
    operator = await to_sign(world, kit)
    other = await proposed(world, kit)
    world.paths.halt.touch()
    for act in (
        kit.market.negotiations.accept(other.contract_id, sign=False),
        kit.market.contracts.sign(operator.contract_id),
    ):
        with pytest.raises(PolicyDenied):
            await act
    await kit.market.negotiations.abort(operator.contract_id, "no")
    assert await contract_state(kit, operator) is ContractState.ABORTED


# -- order and time --------------------------------------------------------------------------------------


async def test_messages_are_taken_in_their_order_and_a_gap_waits_ten_minutes(
    world: KitWorld, kit: Advisor
) -> None:
    operator = await proposed(world, kit)
    changes = {"compensation.perActionSats": 40}
    await kit.market.negotiations.counter(
        operator.contract_id, changes, "", expires_at=world.now() + DAY, sign=False
    )
    operator.counter(1, **changes)
    _, accept = operator.signed(kit, operator.accept())
    _, sign = operator.signed(kit, operator.sign(kit))
    await operator.carry(kit, sign)
    assert await contract_state(kit, operator) is None
    await operator.carry(kit, accept)
    assert await contract_state(kit, operator) is ContractState.SIGNING
    operator.seq += 1
    await operator.say(kit, messages.Abort(operator.contract_id, "changed my mind"))
    assert await state(kit, operator) is ThreadState.AGREED
    world.ahead += 601
    await kit.market.tick()
    assert await state(kit, operator) is ThreadState.ABORTED


async def test_a_repeated_message_changes_nothing(world: KitWorld, kit: Advisor) -> None:
    operator = await to_sign(world, kit)
    before = await kit.market.negotiations.view(operator.contract_id)
    for _, text in operator.sent:
        await operator.carry(kit, text)
    assert await kit.market.negotiations.view(operator.contract_id) == before


async def test_what_nobody_goes_on_with_expires_but_not_what_was_said_in_time(
    world: KitWorld, kit: Advisor
) -> None:
    late, silent = await proposed(world, kit), await proposed(world, kit)
    changes = {"compensation.perActionSats": 40}
    for each in (late, silent):
        await kit.market.negotiations.counter(
            each.contract_id, changes, "", expires_at=world.now() + DAY, sign=False
        )
    late.counter(1, **changes)
    _, text = late.signed(kit, late.accept(), expires_at=world.now() + 14 * DAY)
    world.ahead += 7 * DAY + 3_600
    await kit.market.tick()
    await late.carry(kit, text)
    assert await state(kit, late) is ThreadState.AGREED
    world.ahead += DAY
    await kit.market.tick()
    assert await state(kit, silent) is ThreadState.EXPIRED


async def test_what_cannot_be_ended_holds_up_no_other_and_is_said(
    world: KitWorld, kit: Advisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = [await proposed(world, kit), await proposed(world, kit)]
    signing = [await to_sign(world, kit), await to_sign(world, kit)]
    world.ahead += 10 * DAY
    bad, store = {threads[0].contract_id, signing[0].contract_id}, EngagementStore
    put_thread, put_contract = store.put_thread, store.put_contract

    def thread(self: Any, tx: Any, row: Any) -> None:
        assert row.contract_id not in bad
        put_thread(self, tx, row)

    def contract(self: Any, tx: Any, row: Any) -> None:
        assert row.contract_id not in bad
        put_contract(self, tx, row)

    with monkeypatch.context() as patch:
        patch.setattr(store, "put_thread", thread)
        patch.setattr(store, "put_contract", contract)
        await kit.market.tick()
        assert [await state(kit, each) for each in threads] == [
            ThreadState.ADVISORS_TURN,
            ThreadState.EXPIRED,
        ]
        assert [await contract_state(kit, each) for each in signing] == [
            ContractState.SIGNING,
            ContractState.EXPIRED,
        ]
    assert len([line for line in world.said if line.startswith("row failed")]) == 2
    await kit.market.tick()
    assert await state(kit, threads[0]) is ThreadState.EXPIRED
    assert await contract_state(kit, signing[0]) is ContractState.EXPIRED


async def test_a_contract_is_signed_within_72_hours_or_not_at_all(world: KitWorld, kit: Advisor) -> None:
    operator = await to_sign(world, kit)
    world.ahead += 3 * DAY + 10
    with pytest.raises(Conflict, match="72 hours"):
        await kit.market.contracts.sign(operator.contract_id)
    await kit.market.tick()
    assert await contract_state(kit, operator) is ContractState.EXPIRED


# -- credentials -----------------------------------------------------------------------------------------


async def test_acceptance_11_21_of_a_credential_wider_than_its_contract_the_common_part_is_used(
    world: KitWorld, kit: Advisor
) -> None:
    await running(
        world,
        kit,
        schemas=("hive:monitor/*", "hive:fee-policy/*", "hive:forwarding/*"),
        constraints={"max_fee_change_pct": 100},
    )
    assert "wider_than_contract" in await events(kit)
    (client,) = await kit.clients.all()
    await kit.plan(client, *FEE, PARAMS)
    with pytest.raises(CredentialInvalid) as refused:
        await kit.plan(client, "hive:forwarding/v1", "enable_channel", {"channel_id": "103x1x0"})
    assert refused.value.reason == "wider_than_contract"


async def test_a_narrower_credential_is_used_with_a_warning(world: KitWorld, kit: Advisor) -> None:
    await running(world, kit, schemas=("hive:monitor/*",), tier="monitor")
    found = await events(kit)
    assert "narrower_than_contract" in found and "wider_than_contract" not in found


@pytest.mark.parametrize("signed", [True, False])
async def test_a_credential_for_a_contract_we_did_not_sign_waits_for_a_human(
    world: KitWorld, kit: Advisor, signed: bool
) -> None:
    operator = await to_sign(world, kit)
    await operator.authorise(kit, **({"contract_id": str(uuid.uuid4())} if signed else {}))
    (client,) = await kit.clients.all()
    assert client.state == "offered" and "unknown_contract" in await events(kit)


# -- the end ---------------------------------------------------------------------------------------------


async def test_notice_of_the_operator_is_acknowledged_and_takes_effect(world: KitWorld, kit: Advisor) -> None:
    operator = await running(world, kit)
    at = world.now() + 7 * DAY
    await operator.say(kit, messages.TerminationNotice(operator.contract_id, at, "enough"))
    assert await contract_state(kit, operator) is ContractState.NOTICE
    assert (await operator.heard(kit))[-1][1] == messages.TerminationAck(operator.contract_id, at)
    (client,) = await kit.clients.all()
    await kit.plan(client, *FEE, PARAMS)
    world.ahead += 7 * DAY + 1
    await kit.market.tick()
    assert await contract_state(kit, operator) is ContractState.TERMINATED
    (client,) = await kit.clients.all()
    assert client.state == "ended"


async def test_our_notice_names_the_end_of_the_notice_period(world: KitWorld, kit: Advisor) -> None:
    operator = await running(world, kit)
    moved = await kit.market.contracts.terminate(operator.contract_id, "moving on")
    last = (await operator.heard(kit))[-1][1]
    assert isinstance(last, messages.TerminationNotice)
    assert last.effective_at == moved.effective_at
    assert abs(last.effective_at - world.now() - 7 * DAY) < 60
    with pytest.raises(Conflict):
        await kit.market.contracts.terminate(operator.contract_id, "again")


@pytest.mark.parametrize("ours", [True, False])
async def test_an_emergency_ends_it_at_once(world: KitWorld, kit: Advisor, ours: bool) -> None:
    operator = await running(world, kit)
    if ours:
        await kit.market.contracts.stop(operator.contract_id, "seized")
        assert isinstance((await operator.heard(kit))[-1][1], messages.EmergencyTermination)
    else:
        await operator.say(kit, messages.EmergencyTermination(operator.contract_id, "seized"))
    (client,) = await kit.clients.all()
    assert client.state == "ended" and await contract_state(kit, operator) is ContractState.TERMINATED
    with pytest.raises(Conflict):
        await kit.plan(client, *FEE, PARAMS)


async def test_a_contract_that_runs_is_not_read_before_its_notice_or_term_is_over(
    world: KitWorld, kit: Advisor
) -> None:
    rows, db = EngagementStore(), kit._db
    operator = await to_sign(world, kit)

    async def due(at: int) -> list[ContractState]:
        return [each.state for each in await db.read(lambda tx: rows.due(tx, at))]

    assert await due(0) == [ContractState.SIGNING]
    await kit.market.contracts.sign(operator.contract_id)
    await operator.authorise(kit)
    engagement = (await kit.market.negotiations.view(operator.contract_id)).engagement
    assert engagement is not None and await db.read(rows.running) == 1
    end = engagement.ends_at
    assert (await due(end - 1), await due(end)) == ([], [ContractState.ACTIVE])
    moved = await kit.market.contracts.terminate(operator.contract_id, "moving on")
    notice = moved.effective_at or 0
    assert notice < end and (await due(notice - 1), await due(notice)) == ([], [ContractState.NOTICE])
    world.ahead += 7 * DAY + 60
    await kit.market.tick()
    assert (await due(1 << 40), await db.read(rows.running)) == ([], 0)


# -- unasked ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "agreed"),
    [
        (LIMITS, True),
        (None, False),
        (AutoHire(5_000, 1, LIMITS.tiers, LIMITS.capabilities), False),
        (AutoHire(0, 0, LIMITS.tiers, LIMITS.capabilities), False),
        (AutoHire(0, 1, ("monitor",), LIMITS.capabilities), False),
        (AutoHire(0, 1, LIMITS.tiers, ("rebalancing",)), False),
    ],
)
async def test_hires_are_agreed_to_unasked_only_within_all_limits(
    tmp_path: Path, limits: AutoHire | None, agreed: bool
) -> None:
    world = hire_world(tmp_path, auto_hire=limits)
    async with world.open() as kit:
        operator = await proposed(world, kit)
        assert (await state(kit, operator) is ThreadState.AGREED) is agreed
        if agreed:
            await operator.say(kit, operator.sign(kit))
            assert await contract_state(kit, operator) is ContractState.SIGNED


# -- death -----------------------------------------------------------------------------------------------


async def _hire(operator: Operator, kit: Advisor) -> None:
    """Every step of a hire, done as far as it is not; what was sent is sent again."""
    for _, text in operator.sent:
        await operator.carry(kit, text)
    if not operator.sent:
        await operator.say(kit, operator.proposal(kit))
    view = await kit.market.negotiations.view(operator.contract_id)
    if view.thread.negotiation.open:
        await kit.market.negotiations.accept(operator.contract_id, sign=False)
    if len(operator.sent) == 1:
        await operator.say(kit, operator.sign(kit))
    if await contract_state(kit, operator) is ContractState.SIGNING:
        await kit.market.contracts.sign(operator.contract_id)
    await operator.authorise(kit)


async def test_a_kill_at_every_write_of_a_hire_ends_in_one_contract_and_one_credential(
    tmp_path: Path,
) -> None:
    at, ended = 0, False
    while not ended:
        world = hire_world(tmp_path / str(at))
        operator = Operator(world)
        ended = not await world.killed(at, lambda kit, o=operator: _hire(o, kit))
        async with world.open() as kit:
            await _hire(operator, kit)
            said = await operator.heard(kit)
            assert [number for number, _ in said] == [1, 2], at
            assert not await operator.told(kit), at
            assert [type(each) for _, each in said] == [messages.Accept, messages.ContractSigned], at
            assert await contract_state(kit, operator) is ContractState.ACTIVE, at
            (client,) = await kit.clients.all()
            assert [each.state for each in await kit.clients.credentials(client)] == ["active"], at
            (number, _), (_, signed) = said
            assert isinstance(signed, messages.ContractSigned) and number == 1
            held = (await kit.market.contracts.view(operator.contract_id))[1]
            assert signed.proof == held.document["proof"][-1], at
        at += 1
    assert at > 8, "the points were not met"
