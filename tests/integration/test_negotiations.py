"""Negotiating and contracting on the operator's side: every step with its message and receipt, or not at all
(docs/protocol/04-marketplace-and-nostr.md §9, §10)."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from cl_hive_comms.domain.engagement import MAX_THREAD_MESSAGES, Engagement
from cl_hive_comms.services.market_mail import TryAgain
from cl_hive_comms.services.negotiation_service import GRACE_S, Whom
from cl_hive_comms.services.ports_backup import Tables
from cl_hive_comms.services.restore_history import restore_contracts
from crash_points import Countdown
from hive_shared import signed_message, vc
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.errors import (
    Capacity,
    Conflict,
    EmergencyStop,
    HiveError,
    InvalidParams,
    NotFound,
)
from hive_shared.market import contract as contracts
from hive_shared.market.contract_machine import ContractState
from hive_shared.market.messages import (
    GAP_S,
    Abort,
    Accept,
    CounterOffer,
    EmergencyTermination,
    MessageError,
    Reject,
)
from hive_shared.market.negotiation import PROPOSAL_S
from hive_shared.store import Tx
from hive_shared.unreadable import Unreadable
from market_terms import terms
from market_world import MarketWorld
from pipeline_world import Crash

DAY = 86_400


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[MarketWorld]:
    world = await MarketWorld(tmp_path).start()
    try:
        yield world
    finally:
        world.db.close()


async def test_a_hire_from_proposal_to_credential(world: MarketWorld) -> None:
    row = await world.propose(terms())
    proposal = world.advisor.heard[0]
    assert proposal.sender == f"did:nostr:{world.identity.pubkey}"
    assert (proposal.recipient, proposal.proposalId) == (row.advisor_did, row.contract_id)
    assert world.negotiations.hears(world.advisor.pubkey)

    await world.hears(world.advisor.says(world, row, world.advisor.counter(world, row, 40)))
    row = await world.row(row.contract_id)
    assert (row.status, row.terms["compensation"]["perActionSats"]) == (ContractState.COUNTERED, 40)

    await world.negotiations.counter(row.contract_id, {"compensation.perActionSats": 36}, "meet halfway")
    row = await world.row(row.contract_id)
    await world.hears(world.advisor.says(world, row, world.advisor.accept(row)))
    row = await world.row(row.contract_id)
    assert row.status is ContractState.SIGNING
    assert await world.credentials_of_advisor() == []

    sign = await world.advisor.reads(world, row.thread_id)
    price = {"model": "per_action", "perActionSats": 36, "acceptedMethods": ["cashu", "bolt11"]}
    answer = world.advisor.signed(sign, terms(compensation=price), world.now)
    await world.hears(world.advisor.says(world, row, answer))
    await world.engagements.settle()
    row = await world.row(row.contract_id)
    assert row.status is ContractState.ACTIVE
    assert row.document is not None
    assert contracts.verify_contract(row.document).contract_id == row.contract_id
    assert await world.credentials_of_advisor() == [row.credential_id]
    credential = world.credentials.row(row.credential_id or "")
    assert credential is not None
    assert credential.credential.compensation["rate_sats"] == 36
    assert credential.credential.constraints == terms()["scope"]["constraints"]
    assert credential.credential.valid_until == row.contract_end
    assert await world.actions() == [
        "market_propose",
        "market_counter",
        "market_sign",
        "authorize",
        "market_active",
    ]
    row, said = await world.reading.get(row.contract_id)
    assert [(each.direction, each.verb, each.state) for each in said] == [
        ("out", "contract_proposal", "sent"),
        ("in", "counter_offer", "done"),
        ("out", "counter_offer", "sent"),
        ("in", "accept", "done"),
        ("out", "contract_sign", "sent"),
        ("in", "contract_signed", "done"),
    ]
    assert all(len(each.sig) == 128 for each in said)


async def test_the_operator_accepts_a_counter_offer(world: MarketWorld) -> None:
    row = await world.propose(terms())
    with pytest.raises(Conflict, match="own_terms"):
        await world.negotiations.accept(row.contract_id)
    await world.hears(world.advisor.says(world, row, world.advisor.counter(world, row, 40)))
    with pytest.raises(Conflict, match="stale_terms"):
        await world.negotiations.accept(row.contract_id, "00" * 32)
    row = await world.negotiations.accept(row.contract_id)
    assert row.status is ContractState.SIGNING
    letters = await world.letters_of(row.thread_id)
    assert [letter.schema.rpartition("/")[2] for letter in letters] == [
        "contract_proposal",
        "accept",
        "contract_sign",
    ]
    assert [letter.seq for letter in letters] == [1, 2, 3]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"base_terms_hash": "11" * 32}, "stale_terms"),
        ({"round": 3}, "stale_terms"),
        ({"modifications": {"scope.permissionTier": "root"}}, "invalid_params"),
        ({"modifications": {"nodeInfo.nodeCount": 2}}, "invalid_params"),
        ({"expiresAt": 1_800_000_000}, "invalid_params"),
    ],
)
async def test_a_counter_offer_that_cannot_be_changes_nothing(
    world: MarketWorld, changes: dict[str, Any], code: str
) -> None:
    row = await world.propose(terms())
    await world.hears(world.advisor.says(world, row, world.advisor.counter(world, row, 40, **changes)))
    assert await world.refused_as(row) == code
    assert (await world.row(row.contract_id)).thread == row.thread


async def test_the_same_message_twice_is_one_and_another_of_its_number_none(world: MarketWorld) -> None:
    row = await world.propose(terms())
    text = world.advisor.says(world, row, world.advisor.counter(world, row, 40))
    await world.hears(text)
    await world.hears(text)
    assert len((await world.row(row.contract_id)).thread.rounds) == 2
    with pytest.raises(Conflict, match="duplicate"):
        await world.hears(world.advisor.says(world, row, Abort(row.contract_id, ""), seq=1))


async def test_a_message_waits_for_the_one_before_it(world: MarketWorld) -> None:
    row = await world.propose(terms())
    first = world.advisor.says(world, row, world.advisor.counter(world, row, 40), seq=1)
    second = world.advisor.says(world, row, Abort(row.contract_id, "no"), seq=2)
    await world.hears(second)
    assert (await world.row(row.contract_id)).status is ContractState.PROPOSED
    await world.hears(first)
    row = await world.row(row.contract_id)
    assert (row.status, len(row.thread.rounds)) == (ContractState.ABORTED, 2)


async def test_a_conversation_of_an_old_backup_goes_on_above_what_was_said_since(
    world: MarketWorld, tmp_path: Path
) -> None:
    row = await world.propose(terms())
    kept = await world.db.read(lambda tx: list(world.rows.raw_rows(tx)))
    await world.hears(world.advisor.says(world, row, world.advisor.counter(world, row, 40)))
    said = [await says(world, row) for _ in range(3)]
    (tmp_path / "fresh").mkdir()
    fresh = await MarketWorld(tmp_path / "fresh").start()
    fresh.now = world.now + 60
    tables = SimpleNamespace(contracts=fresh.rows, facts=fresh.facts)

    def restored(tx: Tx) -> tuple[int, int]:
        rows = lambda part, name: [found for table, found in kept if table == name]  # noqa: E731
        return restore_contracts(tx, cast(Tables, tables), rows, fresh.now)

    taken, left = await fresh.db.write(restored)
    assert taken and not left and said == [2, 3, 4]
    first = await says(fresh, await fresh.row(row.contract_id))
    assert first == fresh.now > max(said)
    assert await says(fresh, row) == first + 1
    # What begins after it begins at 1.
    assert await fresh.db.read(lambda tx: fresh.letters.least_number(tx, fresh.now + 1)) == 1
    fresh.db.close()


async def says(world: MarketWorld, row: Engagement) -> int:
    """Something in a conversation; its number."""
    until = world.now + 60
    await world.db.write(lambda tx: world.mail.send(tx, row, MessageError("x", row.thread_id), until))
    return await world.db.read(lambda tx: world.rows.last_seq(tx, row.thread_id, "out"))


async def test_what_never_comes_is_not_waited_for_longer_than_ten_minutes(world: MarketWorld) -> None:
    row = await world.propose(terms())
    await world.hears(world.advisor.says(world, row, Abort(row.contract_id, "no"), seq=2))
    world.now += GAP_S - 1
    await world.negotiations.settle()
    assert (await world.row(row.contract_id)).status is ContractState.PROPOSED
    world.now += 1
    await world.negotiations.settle()
    assert (await world.row(row.contract_id)).status is ContractState.ABORTED


async def test_a_conversation_that_its_other_side_fills_ends_by_the_operator_and_holds_up_no_other(
    world: MarketWorld,
) -> None:
    row = await world.active()
    noise = Abort(row.contract_id, "noise")
    with pytest.raises(TryAgain, match="full"):
        for number in range(10, 10 + MAX_THREAD_MESSAGES):
            await world.hears(world.advisor.says(world, row, noise, seq=number))
    world.now += GAP_S
    await world.negotiations.settle()
    # Each was refused once; the answers stop where only the operator has room.
    said = await world.letters_of(row.thread_id)
    assert len(said) < MAX_THREAD_MESSAGES / 4
    row = await world.engagements.terminate(row.contract_id, "noise", emergency=True, confirm=True)
    assert row.status is ContractState.TERMINATED
    last = await world.advisor.reads(world, row.thread_id)
    assert last == EmergencyTermination(row.contract_id, "noise")


async def test_strangers_and_other_conversations_change_nothing(world: MarketWorld) -> None:
    row = await world.propose(terms())
    text = world.advisor.says(world, row, Abort(row.contract_id, ""))
    draft = signed_message.parse(text, world.advisor.pubkey, [world.identity.pubkey])
    assert isinstance(draft, signed_message.Draft)
    with pytest.raises(NotFound):
        await world.mail.take(draft, "ab" * 32)
    other = Abort("6f1d8a34-3c1f-4f0e-9b52-0d9a4a3f6c11", "")
    with pytest.raises(NotFound):
        await world.hears(world.advisor.says(world, row, other))
    assert (await world.row(row.contract_id)).status is ContractState.PROPOSED


async def test_the_sixth_round_fails_on_either_side(world: MarketWorld) -> None:
    row = await world.propose(terms())
    for number in range(1, 6):
        if number % 2:
            await world.hears(world.advisor.says(world, row, world.advisor.counter(world, row, 40 + number)))
        else:
            await world.negotiations.counter(row.contract_id, {"sla.responseTimeMinutes": 10 + number}, "")
        row = await world.row(row.contract_id)
    row = await world.negotiations.counter(row.contract_id, {"sla.responseTimeMinutes": 99}, "")
    assert row.status is ContractState.FAILED
    sixth = await world.advisor.reads(world, row.thread_id)
    assert isinstance(sixth, CounterOffer) and sixth.round == 6
    assert not world.negotiations.hears(world.advisor.pubkey)


async def test_nobody_answers_and_it_runs_out(world: MarketWorld) -> None:
    row = await world.propose(terms())
    world.now += PROPOSAL_S + GRACE_S - 1
    await world.negotiations.settle()
    assert (await world.row(row.contract_id)).status is ContractState.PROPOSED
    late = world.advisor.says(world, row, world.advisor.accept(row))
    await world.hears(late)
    assert await world.refused_as(row) == "expired"
    world.now += 1
    await world.negotiations.settle()
    assert (await world.row(row.contract_id)).status is ContractState.EXPIRED


async def test_a_negotiation_that_cannot_be_ended_holds_up_no_other(
    world: MarketWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = xonly_pubkey(Secret(b"\x31" * 32))
    whoms = world.advisor.whom, Whom(other, vc.did_of(other), "Another")
    rows = [await world.negotiations.propose(whom, terms()) for whom in whoms]
    world.now += PROPOSAL_S + GRACE_S
    save = world.rows.save

    def broken(tx: Tx, row: Engagement) -> Engagement:
        if row.contract_id == rows[0].contract_id:
            raise ValueError("a row that nobody can write")
        return save(tx, row)

    with monkeypatch.context() as patch:
        patch.setattr(world.rows, "save", broken)
        await world.negotiations.settle()
    states = [(await world.row(row.contract_id)).status for row in rows]
    assert states == [ContractState.PROPOSED, ContractState.EXPIRED]
    await world.negotiations.settle()
    assert (await world.row(rows[0].contract_id)).status is ContractState.EXPIRED


async def test_an_answer_that_was_written_in_time_counts_after_downtime(world: MarketWorld) -> None:
    row = await world.propose(terms())
    text = world.advisor.says(world, row, world.advisor.accept(row), at=world.now + PROPOSAL_S - 60)
    await world.restart(seconds=PROPOSAL_S + 2 * GRACE_S)
    await world.negotiations.settle()
    await world.hears(text)
    assert (await world.row(row.contract_id)).status is ContractState.SIGNING


async def test_reject_and_abort_by_either(world: MarketWorld) -> None:
    row = await world.propose(terms())
    with pytest.raises(Conflict, match="own_terms"):
        await world.negotiations.reject(row.contract_id, "no")
    assert (await world.negotiations.abort(row.contract_id, "found another")).status is ContractState.ABORTED
    with pytest.raises(Conflict, match="aborted already"):
        await world.negotiations.abort(row.contract_id, "")
    row = await world.propose(terms())
    await world.hears(world.advisor.says(world, row, Reject(row.contract_id, "too little")))
    row = await world.row(row.contract_id)
    assert (row.status, row.termination_reason) == (ContractState.REJECTED, "too little")
    await world.hears(world.advisor.says(world, row, Accept(row.contract_id, row.thread.last.terms_hash)))
    assert await world.refused_as(row) == "stale_state"
    row = await world.propose(terms())
    await world.hears(world.advisor.says(world, row, world.advisor.counter(world, row, 90)))
    assert (await world.negotiations.reject(row.contract_id, "too much")).status is ContractState.REJECTED


async def test_what_is_refused_before_anything_is_sent(world: MarketWorld) -> None:
    with pytest.raises(InvalidParams, match="own key"):
        await world.negotiations.propose(Whom(world.identity.pubkey, "did:nostr:x", "me"), terms())
    with pytest.raises(InvalidParams, match="trialDays"):
        await world.negotiations.propose(
            world.advisor.whom, terms(duration={"trialDays": 7, "fullTermDays": 30})
        )
    await world.propose(terms())
    with pytest.raises(Conflict, match="already_negotiating"):
        await world.negotiations.propose(world.advisor.whom, terms())
    with pytest.raises(NotFound, match="hive-marketplace-list"):
        await world.negotiations.accept("nothing")
    assert len(await world.reading.page(None, None, 10)) == 1


async def test_a_contract_that_cannot_be_read_is_named_in_the_list(world: MarketWorld) -> None:
    row = await world.propose(terms())
    await world.db.write(lambda tx: tx.execute("UPDATE marketplace_threads SET rounds_json = '['"))
    (shown,) = await world.reading.page(None, None, 10)
    assert isinstance(shown, Unreadable) and shown.name == row.contract_id
    assert shown.shown("contract_id")["contract_id"] == row.contract_id


async def test_the_emergency_stop_holds_back_what_binds(world: MarketWorld) -> None:
    row = await world.propose(terms())
    await world.hears(world.advisor.says(world, row, world.advisor.counter(world, row, 40)))
    (world.path / "hive").mkdir(exist_ok=True)
    (world.path / "hive" / "EMERGENCY_STOP").touch()
    for act in (
        world.negotiations.propose(world.advisor.whom, terms()),
        world.negotiations.accept(row.contract_id),
        world.negotiations.counter(row.contract_id, {"sla.uptimePct": 98}, ""),
    ):
        with pytest.raises(EmergencyStop):
            await act
    assert (await world.negotiations.abort(row.contract_id, "stopped")).status is ContractState.ABORTED


async def test_a_full_outbox_takes_nothing_and_the_message_comes_again(
    world: MarketWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = await world.propose(terms())
    text = world.advisor.says(world, row, world.advisor.accept(row))
    enqueue = world.messenger.enqueue

    def full(*_: Any, **__: Any) -> None:
        raise Capacity("the outbox is full")

    monkeypatch.setattr(world.messenger, "enqueue", full)
    with pytest.raises(TryAgain):
        await world.hears(text)
    assert (await world.row(row.contract_id)).status is ContractState.PROPOSED
    monkeypatch.setattr(world.messenger, "enqueue", enqueue)
    await world.hears(text)
    assert (await world.row(row.contract_id)).status is ContractState.SIGNING


async def test_killed_at_every_point_of_disk_and_node_it_comes_to_one_contract_and_one_credential(
    tmp_path: Path,
) -> None:
    """The operator repeats what it typed and the relay what the advisor wrote; a call that was carried out
    before the end is refused the second time, and changes nothing."""
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    (await MarketWorld(fresh).start()).db.close()
    at = done = 0
    while not done and at < 80:
        path = tmp_path / str(at)
        shutil.copytree(fresh, path)
        done = await _killed_at(path, at)
        at += 1
    assert 15 < at < 80


async def _killed_at(path: Path, at: int) -> bool:
    """Whether all was done before point `at` was reached."""
    world = await MarketWorld(path).start()
    countdown = Countdown(at)
    countdown.watch(world.db, "write", "read")
    killed = False
    try:
        for step in (_proposes, _is_countered, _accepts, _is_signed, _settles):
            for _ in range(2):
                try:
                    await step(world)
                except Crash:
                    killed = True
                    await world.restart()
                    continue
                except HiveError:
                    assert killed
                break
        countdown.left = -1  # below zero it never ends anything
        await world.engagements.settle()
        (row,) = await world.reading.page(None, None, 10)
        assert row.status is ContractState.ACTIVE
        assert row.document is not None
        assert contracts.verify_contract(row.document).credential_ref == row.credential_id
        assert await world.credentials_of_advisor() == [row.credential_id]
        assert [letter.schema.rpartition("/")[2] for letter in await world.letters_of(row.thread_id)] == [
            "contract_proposal",
            "accept",
            "contract_sign",
        ]
        said = await world.actions()
        assert sorted(said) == [
            "authorize",
            "market_accept",
            "market_active",
            "market_propose",
            "market_sign",
        ]
    finally:
        world.db.close()
    return not killed


_SAID: dict[int, dict[str, str]] = {}


async def _only(world: MarketWorld) -> Engagement:
    (row,) = await world.reading.page(None, None, 10)
    return row


async def _proposes(world: MarketWorld) -> None:
    _SAID[id(world)] = {}
    await world.negotiations.propose(world.advisor.whom, terms())


async def _is_countered(world: MarketWorld) -> None:
    said = _SAID[id(world)]
    if "counter" not in said:
        row = await _only(world)
        said["counter"] = world.advisor.says(world, row, world.advisor.counter(world, row, 40))
    await world.hears(said["counter"])


async def _accepts(world: MarketWorld) -> None:
    row = await _only(world)
    await world.negotiations.accept(row.contract_id)


async def _is_signed(world: MarketWorld) -> None:
    said, row = _SAID[id(world)], await _only(world)
    if "signed" not in said:
        sign = await world.advisor.reads(world, row.thread_id)
        answer = world.advisor.signed(sign, dict(row.terms), world.now)
        said["signed"] = world.advisor.says(world, row, answer)
    await world.hears(said["signed"])


async def _settles(world: MarketWorld) -> None:
    await world.engagements.settle()
