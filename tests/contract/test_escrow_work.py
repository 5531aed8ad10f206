"""An item while its task is done: begun once, judged, revealed only when earned (03 §6.6, §6.7)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from cashu_tickets import NOW, document, item, preimage
from escrow_tables import rows_of, secret_row
from hive_shared.cashu.escrow_rows import REVEAL_S, ItemRow, TicketRow
from hive_shared.cashu.escrow_work import EscrowWork
from hive_shared.cashu.terms import decode_terms
from hive_shared.cashu.ticket_machine import PayerEvent, PayerItem
from hive_shared.crypto import Sealer, Secret, sha256
from hive_shared.errors import Conflict, PaymentFailed
from hive_shared.storage.escrow_store import EscrowStore
from hive_shared.storage.families import NODE_TICKETS
from hive_shared.store import Tx

MIGRATION = Path(__file__).parents[2] / "cl-hive-comms/cl_hive_comms/storage/migrations"
E = PayerEvent


class Told:
    """What the wallet was told of locks."""

    def __init__(self) -> None:
        self.said: list[tuple[str, tuple[str, ...]]] = []

    def held(self, tx: Tx, lock_ids: Sequence[str]) -> None:
        self.said.append(("held", tuple(lock_ids)))

    def unheld(self, tx: Tx, lock_ids: Sequence[str]) -> None:
        self.said.append(("unheld", tuple(lock_ids)))

    def tell_again(self, tx: Tx, lock_ids: Sequence[str]) -> None:
        """Nothing moves them here."""

    def released(self, tx: Tx, lock_ids: Sequence[str]) -> None:
        self.said.append(("released", tuple(lock_ids)))


class World:
    def __init__(self, tx: sqlite3.Connection) -> None:
        self.tx, self.now, self.told = tx, NOW + 10, Told()
        self.store = EscrowStore(Sealer({1: Secret(bytes(32))}, 1), NODE_TICKETS)
        self.work = EscrowWork(self.store, self.told, lambda: self.now)

    def ticket(self, amounts: Sequence[int], **changes: Any) -> TicketRow:
        """A ticket whose items the payee accepted."""
        items = [item(i, amount) for i, amount in enumerate(amounts)]
        if changes.get("mode") == "p2pk":
            items = [{name: value for name, value in each.items() if name != "hash"} for each in items]
        ticket, rows = rows_of(decode_terms(document(items, **changes)), NOW)
        self.store.add_ticket(self.tx, ticket, rows)
        if changes.get("mode") is None:
            self.store.add_secrets(self.tx, [secret_row(i=i) for i in range(len(items))])
            hashes = {i: sha256(preimage(i)).hex() for i in range(len(items))}
            self.store.bind_secrets(self.tx, ticket.ticket_id, hashes)
        for each in rows:
            row = self.store.note_item(self.tx, each, NOW, lock_ids=(f"lock{each.i}",))
            for event in (E.ON_LOCKED, E.ON_DELIVERED, E.ON_ACKNOWLEDGED):
                row = self.store.move_item(self.tx, row, event, NOW)
        return ticket

    def item(self, ticket: TicketRow, i: int = 0) -> ItemRow:
        found = self.store.item(self.tx, ticket.ticket_id, i)
        assert found is not None
        return found

    def begun(self, ticket: TicketRow, i: int = 0) -> ItemRow:
        free = self.work.check_free(self.tx, ticket, i)
        return self.work.start(self.tx, free, f"command{i}")


@pytest.fixture
def world() -> Iterator[World]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.row_factory = sqlite3.Row
    (file,) = MIGRATION.glob("*_escrow.sql")
    connection.executescript(file.read_text())
    yield World(connection)
    connection.close()


def test_a_task_that_succeeds_gives_its_preimage_again_and_again(world: World) -> None:
    ticket = world.ticket([100])
    item_ = world.begun(ticket)
    assert (item_.state, item_.command_id) == (PayerItem.EXECUTING, "command0")
    with pytest.raises(PaymentFailed, match="not released"):
        world.work.preimage(world.tx, item_)
    given = world.work.succeed(world.tx, item_, "receipt-1")
    assert given is not None and given.reveal() == preimage(0)
    assert world.told.said == [("held", ("lock0",)), ("released", ("lock0",))]
    done = world.item(ticket)
    assert (done.state, done.receipt_id, done.released_at) == (PayerItem.RELEASED, "receipt-1", world.now)
    for _ in range(2):
        assert world.work.preimage(world.tx, world.item(ticket)).reveal() == preimage(0)
    world.store.move_item(world.tx, done, E.ON_REDEEMED, world.now)
    world.now = done.locktime + REVEAL_S
    assert world.work.preimage(world.tx, world.item(ticket)).reveal() == preimage(0)
    world.now += 1
    with pytest.raises(PaymentFailed) as late:
        world.work.preimage(world.tx, world.item(ticket))
    assert late.value.symbol == "too_late"


def test_what_was_earned_and_came_back_is_told_also_while_it_is_disputed(world: World) -> None:
    ticket = world.ticket([25, 50], type="milestone")
    world.work.succeed(world.tx, world.begun(ticket), "r0")
    for event in (E.ON_REFUND_DUE, E.ON_REFUND_STARTED, E.ON_REFUNDED, E.ON_DISPUTED):
        gone = world.store.move_item(world.tx, world.item(ticket), event, NOW)
        assert world.work.preimage(world.tx, gone).reveal() == preimage(0)
    # It was reached, so what comes after it may be reached.
    given = world.work.succeed(world.tx, world.begun(ticket, 1), "r1")
    assert given is not None and given.reveal() == preimage(1)


def test_a_task_that_fails_gives_nothing(world: World) -> None:
    ticket = world.ticket([100])
    failed = world.work.fail(world.tx, world.begun(ticket), "receipt-1")
    assert failed.state is PayerItem.FAILED and world.told.said[-1] == ("unheld", ("lock0",))
    with pytest.raises(PaymentFailed, match="not released"):
        world.work.preimage(world.tx, failed)
    with pytest.raises(Conflict):
        world.work.succeed(world.tx, failed, "receipt-2")
    with pytest.raises(PaymentFailed, match="pays no new task"):
        world.work.check_free(world.tx, ticket, 0)


def test_what_nobody_knows_is_neither_given_nor_done_again(world: World) -> None:
    ticket = world.ticket([100])
    unknown = world.work.unknown(world.tx, world.begun(ticket), "receipt-1")
    assert unknown.state is PayerItem.UNKNOWN
    with pytest.raises(PaymentFailed, match="not released"):
        world.work.preimage(world.tx, unknown)
    with pytest.raises(PaymentFailed, match="pays no new task"):
        world.work.check_free(world.tx, ticket, 0)
    # What was found out later decides.
    given = world.work.succeed(world.tx, unknown, "receipt-1")
    assert given is not None and given.reveal() == preimage(0)


def test_an_item_pays_one_task_before_its_deadline(world: World) -> None:
    ticket = world.ticket([100, 100])
    taken = world.work.check_free(world.tx, ticket, 0)
    world.begun(ticket)
    with pytest.raises(Conflict):
        world.work.start(world.tx, taken, "another")
    for i, word in ((0, "pays no new task"), (2, "has no item 2")):
        with pytest.raises(PaymentFailed, match=word):
            world.work.check_free(world.tx, ticket, i)
    world.now = world.item(ticket, 1).deadline + 1
    with pytest.raises(PaymentFailed, match="deadline"):
        world.work.check_free(world.tx, ticket, 1)


@pytest.mark.parametrize(("kind", "third"), [("milestone", False), ("batch", True)])
def test_milestones_are_earned_in_their_order(world: World, kind: str, third: bool) -> None:
    ticket = world.ticket([25, 50, 100], type=kind)
    if not third:
        for i in (1, 2):
            with pytest.raises(PaymentFailed, match=f"comes after item {i - 1}"):
                world.work.check_free(world.tx, ticket, i)
    begun = world.begun(ticket)
    late = world.store.move_item(world.tx, world.item(ticket, 2), E.ON_STARTED, NOW, command_id="x")
    if third:
        assert world.work.succeed(world.tx, late, "r2") is not None
        return
    with pytest.raises(PaymentFailed, match="comes after item 1"):
        world.work.succeed(world.tx, late, "r2")
    assert world.item(ticket, 2).state is PayerItem.EXECUTING
    world.work.succeed(world.tx, begun, "r0")
    given = world.work.succeed(world.tx, world.begun(ticket, 1), "r1")
    assert given is not None and given.reveal() == preimage(1)
    assert world.work.succeed(world.tx, late, "r2") is not None


def test_nothing_is_given_out_without_a_receipt_nor_out_of_order(world: World) -> None:
    ticket = world.ticket([25, 50], type="milestone")
    last = world.store.move_item(world.tx, world.item(ticket, 1), E.ON_STARTED, NOW, command_id="x")
    last = world.store.move_item(world.tx, last, E.ON_SUCCEEDED, NOW)
    for receipt, why in ((None, "no receipt"), ("r1", "comes after item 0")):
        if receipt is not None:
            last = world.store.note_item(world.tx, last, NOW, receipt_id=receipt)
        with pytest.raises(PaymentFailed, match=why) as refused:
            world.work.release(world.tx, ticket, last)
        assert refused.value.symbol == "not_released"
    assert world.item(ticket, 1).state is PayerItem.SUCCEEDED and world.told.said == []
    world.work.succeed(world.tx, world.begun(ticket), "r0")
    given = world.work.release(world.tx, ticket, last)
    assert given is not None and given.reveal() == preimage(1)


def test_bonuses_come_after_the_base(world: World) -> None:
    items = [item(0, 50), *(item(i, 200, deadline=NOW + 3_700, locktime=NOW + 7_300) for i in (1, 2))]
    ticket, rows = rows_of(decode_terms(document(items, type="performance")), NOW)
    world.store.add_ticket(world.tx, ticket, rows)
    for each in rows:
        row = each
        for event in (E.ON_LOCKED, E.ON_DELIVERED):
            row = world.store.move_item(world.tx, row, event, NOW)
    for i in (1, 2):
        with pytest.raises(PaymentFailed, match="comes after item 0"):
            world.work.check_free(world.tx, ticket, i)


def test_a_lock_without_hash_has_no_preimage_to_give(world: World) -> None:
    ticket = world.ticket([100], mode="p2pk")
    assert world.work.succeed(world.tx, world.begun(ticket), "r") is None
    assert world.item(ticket).state is PayerItem.RELEASED
    with pytest.raises(PaymentFailed, match="not kept here"):
        world.work.preimage(world.tx, world.item(ticket))
