"""comms_commands and its neighbours on a real SQLite file (docs/protocol/02 §6.5, §11)."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from cl_hive_comms.domain.command_record import (
    CommandRow,
    FeeWrite,
    PendingRow,
    StoredResponse,
    TimerRow,
    Use,
    Vote,
)
from cl_hive_comms.storage import command_store
from cl_hive_comms.storage.command_store import CommandStore
from cl_hive_comms.storage.fee_store import FeeStore
from hive_shared.store import Db
from msgspec.structs import replace

MIGRATIONS = Path(command_store.__file__).parent / "migrations"
AGENT = "aa" * 32


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Db]:
    opened = Db.open(tmp_path / "comms.db", MIGRATIONS)
    yield opened
    opened.close()


def row(nonce: int = 1, **changes: object) -> CommandRow:
    base = CommandRow(
        command_id=f"cmd-{nonce}",
        sender_key=AGENT,
        nonce=nonce,
        body_hash="bb" * 32,
        payload_hash="cc" * 32,
        credential_id="cred",
        advisor_id="adv",
        transport="nostr_dm",
        envelope="{}",
        schema_id="hive:fee-policy/v1",
        action="set_single",
        danger=0,
        read_only=False,
        state="received",
        received_at=1_000,
        updated_at=1_000,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def pending(action_id: str = "cmd-1", advisor: str = "adv", expires: int = 5_000) -> PendingRow:
    return PendingRow(action_id, advisor, "{}", 4, 1, "queue", 1_000, expires, "pending")


async def test_a_burned_nonce_never_goes_down(db: Db) -> None:
    store = CommandStore()
    assert await db.read(lambda tx: store.last_nonce(tx, AGENT)) == 0
    await db.write(lambda tx: store.burn(tx, AGENT, 2**63 - 1))
    await db.write(lambda tx: store.burn(tx, AGENT, 5))
    assert await db.read(lambda tx: store.last_nonce(tx, AGENT)) == 2**63 - 1


async def test_sequence_numbers_have_no_gaps_and_leave_the_nonce_alone(db: Db) -> None:
    store = CommandStore()
    await db.write(lambda tx: store.burn(tx, AGENT, 7))
    taken = [await db.write(lambda tx: store.next_seq(tx, AGENT)) for _ in range(3)]
    assert taken == [1, 2, 3]
    assert await db.read(lambda tx: store.last_nonce(tx, AGENT)) == 7
    assert await db.write(lambda tx: store.next_seq(tx, "dd" * 32)) == 1


async def test_command_rows_come_back_as_they_were(db: Db) -> None:
    store = CommandStore()
    stored = row(read_only=True, slug="cooldown", hold_json="{}", receipt_id=4, deadline=9)
    await db.write(lambda tx: store.insert(tx, stored))
    assert await db.read(lambda tx: store.get(tx, "cmd-1")) == stored
    assert await db.read(lambda tx: store.by_nonce(tx, AGENT, 1)) == stored
    assert await db.read(lambda tx: store.get(tx, "cmd-2")) is None


async def test_one_nonce_of_a_key_and_one_command_id_are_stored_once(db: Db) -> None:
    store = CommandStore()
    await db.write(lambda tx: store.insert(tx, row(1)))
    with pytest.raises(sqlite3.IntegrityError):
        await db.write(lambda tx: store.insert(tx, row(1, command_id="other")))
    with pytest.raises(sqlite3.IntegrityError):
        await db.write(lambda tx: store.insert(tx, row(2, command_id="cmd-1")))


async def test_a_command_moves_only_from_the_state_it_is_in(db: Db) -> None:
    store = CommandStore()
    await db.write(lambda tx: store.insert(tx, row()))
    moved = await db.write(
        lambda tx: store.move(tx, "cmd-1", "received", "executing", 1_001, danger=3, undo_json='{"a":1}')
    )
    again = await db.write(lambda tx: store.move(tx, "cmd-1", "received", "rejected", 1_002))
    assert (moved, again) == (True, False)
    found = await db.read(lambda tx: store.get(tx, "cmd-1"))
    assert found == row(state="executing", updated_at=1_001, danger=3, undo_json='{"a":1}')


async def test_states_and_deadlines_select_rows(db: Db) -> None:
    store = CommandStore()
    for nonce, state, deadline in (
        (1, "pending_approval", 50),
        (2, "pending_approval", 500),
        (3, "success", None),
    ):
        await db.write(lambda tx, n=nonce, s=state, d=deadline: store.insert(tx, row(n, state=s, deadline=d)))
    due = await db.read(lambda tx: store.in_states(tx, ("pending_approval",), due=100))
    assert [r.nonce for r in due] == [1]
    assert [
        r.nonce for r in await db.read(lambda tx: store.in_states(tx, ("success", "pending_approval")))
    ] == [1, 2, 3]
    assert len(await db.read(lambda tx: store.open_of_advisor(tx, "adv", ("pending_approval",)))) == 2
    assert await db.read(lambda tx: store.open_of_advisor(tx, "other", ("pending_approval",))) == ()


async def test_refusals_of_one_minute_share_a_receipt_and_reads_an_hourly_one(db: Db) -> None:
    store = CommandStore()
    refused = {"state": "rejected", "slug": "cooldown", "updated_at": 1_030}
    await db.write(lambda tx: store.insert(tx, row(1, **refused, receipt_id=9)))
    for nonce in (2, 3):
        await db.write(lambda tx, n=nonce: store.insert(tx, row(n, **refused)))
    await db.write(lambda tx: store.insert(tx, row(4, **{**refused, "updated_at": 1_081})))
    for nonce in (5, 6):
        await db.write(lambda tx, n=nonce: store.insert(tx, row(n, read_only=True, state="success")))
    assert await db.read(lambda tx: store.refusal_receipt(tx, AGENT, "cooldown", 1_030 // 60)) == 9
    assert await db.read(lambda tx: store.refusal_receipt(tx, AGENT, "cooldown", 1_081 // 60)) is None
    groups = await db.read(lambda tx: store.refusals_without_receipt(tx, 1_081 // 60))
    assert [(g.minute, g.count, g.slug) for g in groups] == [(17, 2, "cooldown")]
    await db.write(lambda tx: store.cover_refusals(tx, groups[0], 10))
    assert await db.read(lambda tx: store.refusals_without_receipt(tx, 18)) == ()
    reads = await db.read(lambda tx: store.reads_without_receipt(tx, 3_600))
    assert [(g.count, g.action) for g in reads] == [(2, "set_single")]
    await db.write(lambda tx: store.cover_reads(tx, "adv", "cred", 3_600, 11))
    assert await db.read(lambda tx: store.reads_without_receipt(tx, 3_600)) == ()


async def test_finished_commands_are_pruned_only_with_a_receipt(db: Db) -> None:
    store = CommandStore()
    await db.write(lambda tx: store.insert(tx, row(1, state="success", receipt_id=1)))
    await db.write(lambda tx: store.insert(tx, row(2, state="success")))
    await db.write(lambda tx: store.insert(tx, row(3, state="executing", receipt_id=1)))
    await db.write(lambda tx: store.add_pending(tx, pending("cmd-1")))
    await db.write(lambda tx: store.vote(tx, Vote("cmd-1", "local", "approve", None, 1)))
    assert await db.write(lambda tx: store.prune(tx, ("success",), 2_000)) == 1
    assert await db.read(lambda tx: store.get(tx, "cmd-1")) is None
    assert await db.read(lambda tx: store.get(tx, "cmd-2")) is not None


async def test_a_final_response_replaces_the_first_and_pushes_stand_apart(db: Db) -> None:
    store = CommandStore()
    first = StoredResponse(AGENT, 5, "bb" * 32, '{"status":3}', 1_000)
    await db.write(lambda tx: store.put_response(tx, first))
    final = replace(first, response_json='{"status":0}', created_at=1_500)
    await db.write(lambda tx: store.put_response(tx, final))
    for seq in (1, 2, 3):
        await db.write(
            lambda tx, s=seq: store.put_response(tx, StoredResponse(AGENT, -s, "", f"push{s}", 1_000))
        )
    assert await db.read(lambda tx: store.response(tx, AGENT, 5)) == final
    assert await db.read(lambda tx: store.pushes(tx, AGENT, 1, 10)) == ("push2", "push3")
    assert await db.read(lambda tx: store.pushes(tx, AGENT, 0, 1)) == ("push1",)
    assert await db.write(lambda tx: store.prune_responses(tx, 1_200)) == 3
    assert await db.read(lambda tx: store.response(tx, AGENT, 5)) == final


async def test_pending_actions_move_once_and_votes_count_once(db: Db) -> None:
    store = CommandStore()
    for nonce in (1, 2):
        await db.write(lambda tx, n=nonce: store.insert(tx, row(n)))
    await db.write(lambda tx: store.add_pending(tx, pending("cmd-1", expires=9_000)))
    await db.write(lambda tx: store.add_pending(tx, pending("cmd-2", expires=8_000)))
    assert [p.action_id for p in await db.read(lambda tx: store.list_pending(tx, 10))] == ["cmd-2", "cmd-1"]
    assert await db.read(lambda tx: store.count_pending(tx, "adv")) == 2
    assert await db.write(
        lambda tx: store.move_pending(tx, "cmd-1", ("pending",), "approved", challenge="ab")
    )
    assert not await db.write(lambda tx: store.move_pending(tx, "cmd-1", ("pending",), "rejected"))
    found = await db.read(lambda tx: store.pending(tx, "cmd-1"))
    assert found is not None and (found.state, found.challenge) == ("approved", "ab")
    vote = Vote("cmd-1", AGENT, "approve", "ee" * 64, 1)
    assert await db.write(lambda tx: store.vote(tx, vote))
    assert not await db.write(lambda tx: store.vote(tx, replace(vote, decision="reject")))
    assert await db.read(lambda tx: store.votes(tx, "cmd-1")) == (vote,)


async def test_a_timer_is_armed_once_per_subject_and_fires_once(db: Db) -> None:
    store = CommandStore()
    await db.write(lambda tx: store.set_timer(tx, TimerRow("t1", "fee_anchor", "chan", 100, "{}")))
    await db.write(lambda tx: store.set_timer(tx, TimerRow("t2", "fee_anchor", "chan", 200, "{}")))
    assert [t.timer_id for t in await db.read(store.timers)] == ["t2"]
    assert await db.read(lambda tx: store.timers(tx, "fee_anchor", 150)) == ()
    await db.write(lambda tx: store.set_timer(tx, TimerRow("t3", "peer_ban", "node", 100, "{}")))
    assert await db.read(lambda tx: store.armed(tx, "fee_anchor")) == (("chan", 200),)
    assert await db.read(lambda tx: store.armed(tx, "peer_ban")) == (("node", 100),)
    assert await db.write(lambda tx: store.timer_done(tx, "t3", 210))
    assert await db.read(lambda tx: store.armed(tx, "peer_ban")) == ()
    assert await db.write(lambda tx: store.timer_done(tx, "t2", 210))
    assert not await db.write(lambda tx: store.timer_done(tx, "t2", 211))
    assert not await db.write(lambda tx: store.disarm(tx, "fee_anchor", "chan"))


async def test_fee_history_keeps_the_order_of_changes(db: Db) -> None:
    store = FeeStore()
    writes = [FeeWrite("1x1x1", ts, ts, ts + 1, 0, 0, "adv", "cred", f"c{ts}") for ts in (10, 30, 20)]
    await db.write(lambda tx: store.add(tx, writes))
    found = await db.read(lambda tx: store.since(tx, ["1x1x1", "2x2x2"], 15))
    assert [w.ts for w in found] == [20, 30]
    assert await db.write(lambda tx: store.prune(tx, 25)) == 2


async def test_counters_slide_and_are_given_back(db: Db) -> None:
    store = FeeStore()
    fees, all_actions = Use("fee_changes", "node"), Use("actions", "cred")
    await db.write(lambda tx: store.reserve(tx, (fees, all_actions), "c1", 100))
    await db.write(lambda tx: store.reserve(tx, (fees, fees), "c2", 200))
    await db.write(lambda tx: store.reserve(tx, (fees,), "c2", 200))
    assert await db.read(lambda tx: store.count(tx, fees, 0)) == 2
    assert await db.read(lambda tx: store.count(tx, fees, 100)) == 1
    await db.write(lambda tx: store.release(tx, "c1"))
    assert await db.read(lambda tx: store.count(tx, all_actions, 0)) == 0
    assert await db.write(lambda tx: store.prune_counters(tx, 201)) == 1


async def test_rebalances_of_before_are_told_from_new_bounds(tmp_path: Path) -> None:
    """Migration 0028 says which field was changed where the fees stayed."""
    before = tmp_path / "before"
    before.mkdir()
    for file in MIGRATIONS.glob("*.sql"):
        if int(file.name[:4]) < 28:
            shutil.copy(file, before)
    old = Db.open(tmp_path / "old.db", before)

    def fill(tx: sqlite3.Connection) -> None:
        CommandStore().insert(tx, row(1, schema_id="hive:rebalance/v1"))
        CommandStore().insert(tx, row(2, schema_id="hive:htlc-policy/v1"))
        for nonce in (1, 2):
            values = ("1x1x1", nonce, f"cmd-{nonce}", 5, 5, 0, 0, "adv", "cred")
            tx.execute("INSERT INTO comms_fee_history VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)

    await old.write(fill)
    old.close()
    new = Db.open(tmp_path / "old.db", MIGRATIONS)
    found = await new.read(lambda tx: FeeStore().since(tx, ["1x1x1"], 0))
    assert [write.field for write in found] == ["balance", "htlc_maximum_msat"]
    new.close()


async def test_what_is_put_back_within_the_same_second_is_one_change(db: Db) -> None:
    store = FeeStore()
    there = FeeWrite("1x1x1", 10, 100, 50_000, 1, 1, "adv", "cred", "c1")
    back = FeeWrite("1x1x1", 10, 50_000, 100, 1, 2, "adv", "cred", "c1")
    await db.write(lambda tx: store.add(tx, [there]))
    await db.write(lambda tx: store.add(tx, [back]))
    (kept,) = await db.read(lambda tx: store.since(tx, ["1x1x1"], 0))
    assert (kept.old_ppm, kept.new_ppm, kept.old_base, kept.new_base) == (100, 100, 1, 2)
