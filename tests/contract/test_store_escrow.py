"""The rows of tickets: states step by step, a hash of one item for good, preimages sealed (03 §6.6, §8)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cashu_tickets import NOW, STRANGER, document, item
from escrow_tables import TASK, rows_of, secret_row, ticket_rows
from hive_shared.cashu import escrow_rows
from hive_shared.cashu.escrow_rows import (
    DisputeRow,
    DisputeState,
    ItemRow,
    SecretRow,
    SecretSource,
    Side,
    TicketQuery,
)
from hive_shared.cashu.terms import decode_terms
from hive_shared.cashu.ticket_machine import PayeeEvent, PayeeItem, PayerEvent, PayerItem, TicketStatus
from hive_shared.crypto import Sealer, Secret, sha256
from hive_shared.errors import Capacity, Conflict
from hive_shared.storage.escrow_store import EscrowStore
from hive_shared.storage.families import NODE_TICKETS
from msgspec.structs import replace

E = PayerEvent
MIGRATION = Path(__file__).parents[2] / "cl-hive-comms/cl_hive_comms/storage/migrations"
SEALER = Sealer({1: Secret(bytes(32))}, 1)


@pytest.fixture
def tx() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA foreign_keys = ON")
    (file,) = MIGRATION.glob("*_escrow.sql")
    connection.executescript(file.read_text())
    yield connection
    connection.close()


@pytest.fixture
def store() -> EscrowStore:
    return EscrowStore(SEALER, NODE_TICKETS)


def batch(count: int, **changes: Any) -> tuple[Any, list[ItemRow]]:
    return rows_of(decode_terms(document([item(i, 10) for i in range(count)], **changes)), NOW)


def status(store: EscrowStore, tx: sqlite3.Connection, ticket_id: str) -> TicketStatus:
    found = store.ticket(tx, ticket_id)
    assert found is not None
    return found.status


def test_a_ticket_comes_back_as_it_was_written(store: EscrowStore, tx: sqlite3.Connection) -> None:
    ticket, items = batch(3, contract_id="c1", replaces="cd" * 16, credential_ref="cred")
    store.add_ticket(tx, ticket, items)
    assert store.ticket(tx, ticket.ticket_id) == ticket
    assert store.by_key(tx, ticket.key) == ticket
    assert store.items(tx, ticket.ticket_id) == items
    assert store.item(tx, ticket.ticket_id, 2) == items[2]
    assert store.ticket(tx, "00" * 16) is store.item(tx, ticket.ticket_id, 3) is None
    with pytest.raises(Conflict):
        store.add_ticket(tx, ticket, items)


def test_items_move_by_the_table_and_the_ticket_follows(store: EscrowStore, tx: sqlite3.Connection) -> None:
    ticket, (one, two) = batch(2)
    store.add_ticket(tx, ticket, [one, two])
    for event in (
        E.ON_LOCKED,
        E.ON_DELIVERED,
        E.ON_ACKNOWLEDGED,
        E.ON_STARTED,
        E.ON_SUCCEEDED,
        E.ON_RELEASED,
    ):
        one = store.move_item(tx, one, event, NOW + 1)
    assert status(store, tx, ticket.ticket_id) is TicketStatus.ACTIVE
    one = store.move_item(tx, one, E.ON_REDEEMED, NOW + 2, redeemed_at=NOW + 2)
    two = store.move_item(tx, two, E.ON_CANCELLED, NOW + 2)
    assert status(store, tx, ticket.ticket_id) is TicketStatus.REDEEMED
    assert store.items(tx, ticket.ticket_id) == [one, two] and one.redeemed_at == NOW + 2
    with pytest.raises(Conflict, match="does not take"):
        store.move_item(tx, one, E.ON_RELEASED, NOW)
    with pytest.raises(Conflict, match="does not take"):
        store.move_item(tx, two, PayeeEvent.ON_RELEASED, NOW)


def test_who_comes_second_moves_nothing(store: EscrowStore, tx: sqlite3.Connection) -> None:
    ticket, (one,) = ticket_rows()
    store.add_ticket(tx, ticket, [one])
    store.move_item(tx, one, E.ON_LOCKED, NOW)
    for again in (
        lambda: store.move_item(tx, one, E.ON_CANCELLED, NOW),
        lambda: store.note_item(tx, one, NOW, command_id="c"),
    ):
        with pytest.raises(Conflict, match="moved meanwhile"):
            again()
    (stored,) = store.items(tx, ticket.ticket_id)
    assert stored.state is PayerItem.LOCKED and stored.command_id is None


def test_one_item_pays_one_task(store: EscrowStore, tx: sqlite3.Connection) -> None:
    ticket, (one, two) = batch(2)
    store.add_ticket(tx, ticket, [one, two])
    one = store.note_item(tx, one, NOW, command_id="c1", lock_ids=("l1", "l2"), metric={"value": 5})
    assert store.of_command(tx, "c1") == one == store.item(tx, ticket.ticket_id, 0)
    assert store.of_command(tx, "c2") is None
    with pytest.raises(sqlite3.IntegrityError):
        store.note_item(tx, two, NOW, command_id="c1")


def test_lists_and_what_is_due(store: EscrowStore, tx: sqlite3.Connection) -> None:
    for number in range(5):
        terms = decode_terms(document([item(0, 10)], ticket_id=f"{number:032x}", issued_at=NOW - number))
        ticket, items = rows_of(terms, NOW + number, advisor_id=f"a{number % 2}")
        store.add_ticket(tx, ticket, items)
        if number == 3:
            store.move_item(tx, items[0], E.ON_LOCKED, NOW)
            store.note_item(tx, store.items(tx, ticket.ticket_id)[0], NOW, owed_sats=7)
    page = store.tickets(tx, TicketQuery(limit=2))
    assert [row.created_at for row in page] == [NOW + 4, NOW + 3]
    rest = store.tickets(tx, TicketQuery(limit=9, before=(page[-1].created_at, page[-1].ticket_id)))
    assert [row.created_at for row in rest] == [NOW + 2, NOW + 1, NOW]
    assert len(store.tickets(tx, TicketQuery(status=TicketStatus.PENDING, advisor_id="a0"))) == 3
    assert store.tickets(tx, TicketQuery(role=Side.PAYEE)) == []
    (locked,) = store.items_in(tx, [PayerItem.LOCKED, PayerItem.DELIVERED], 9)
    assert locked.ticket_id == f"{3:032x}"
    assert store.owed(tx) == [locked] and store.active(tx, Side.PAYER) == 5
    store.note_item(tx, locked, NOW, owed_by="replacement")
    assert store.owed(tx) == []


def test_a_hash_is_of_one_item_for_good(store: EscrowStore, tx: sqlite3.Connection) -> None:
    secrets = [secret_row(i=number) for number in range(3)]
    store.add_secrets(tx, secrets)
    assert sorted(row.hash for row in store.free_secrets(tx, TASK, "", NOW)) == sorted(
        row.hash for row in secrets
    )
    assert store.free_secrets(tx, TASK, "agent", NOW) == store.free_secrets(tx, "other", "", NOW) == []
    store.bind_secrets(tx, "ab" * 16, {0: secrets[0].hash})
    for ticket_id in ("ab" * 16, "cd" * 16):
        with pytest.raises(Conflict, match="another ticket"):
            store.bind_secrets(tx, ticket_id, {1: secrets[0].hash})
    with pytest.raises(Conflict, match="used before"):
        store.add_secrets(tx, secrets[:1])
    bound = store.secret(tx, secrets[0].hash)
    assert bound is not None and (bound.ticket_id, bound.i, bound.expires_at) == ("ab" * 16, 0, None)
    assert bound.preimage.reveal() == secrets[0].preimage.reveal()
    store.note_secret(tx, secrets[0].hash, released_at=NOW + 5)
    assert store.free_secrets(tx, TASK, "", NOW + 86_400) == []
    assert store.prune(tx, NOW + 86_400) == 2
    assert store.secret(tx, secrets[1].hash) is None and store.secret(tx, secrets[0].hash) is not None


def test_one_agent_takes_neither_all_hashes_nor_the_operators(
    store: EscrowStore, tx: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = iter(range(10_000))

    def drawn(count: int, asked_by: str, now: int = NOW) -> list[SecretRow]:
        found = []
        for _ in range(count):
            plain = next(numbers).to_bytes(32, "big")
            row = SecretRow(sha256(plain).hex(), Secret(plain), TASK, SecretSource.GENERATED, now, now + 60)
            found.append(replace(row, asked_by=asked_by))
        return found

    for _ in range(2):
        store.add_secrets(tx, drawn(512, "aa" * 32))
    with pytest.raises(Capacity, match="1024 hashes that you were told"):
        store.add_secrets(tx, drawn(1, "aa" * 32))
    store.add_secrets(tx, drawn(1, "bb" * 32))
    # Run out they count no more, also before they are cleared away.
    store.add_secrets(tx, drawn(1, "aa" * 32, NOW + 60))
    monkeypatch.setattr("hive_shared.storage.escrow_store.MAX_SECRET_ROWS", 1_026 + 5_000)
    with pytest.raises(Capacity, match="at most 1026"):
        store.add_secrets(tx, drawn(1, "cc" * 32))
    store.add_secrets(tx, drawn(1, ""))


def test_preimages_are_sealed_and_kept_until_nobody_may_ask(
    store: EscrowStore, tx: sqlite3.Connection
) -> None:
    ticket, items = ticket_rows()
    secret = secret_row()
    store.add_secrets(tx, [secret])
    store.add_ticket(tx, ticket, items)
    store.bind_secrets(tx, ticket.ticket_id, {0: secret.hash})
    dump = "\n".join(tx.iterdump())
    assert secret.preimage.reveal().hex() not in dump.lower() and secret.hash in dump
    over = items[0].locktime + escrow_rows.REVEAL_S
    assert store.prune(tx, over) == 0, "the ticket is live"
    store.move_item(tx, items[0], E.ON_CANCELLED, NOW)
    assert store.prune(tx, over - 1) == 0
    assert store.prune(tx, over) == 1 and store.secret(tx, secret.hash) is None


def test_caps_refuse_what_is_new_and_drop_what_is_over(
    store: EscrowStore, tx: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hive_shared.storage import escrow_store

    for name, value in (("MAX_ACTIVE_TICKETS", 2), ("MAX_TICKET_ROWS", 3), ("MAX_SECRET_ROWS", 2)):
        monkeypatch.setattr(escrow_store, name, value)
    made = [ticket_rows(NOW + number, ticket_id=f"{number:032x}") for number in range(5)]
    for ticket, items in made[:2]:
        store.add_ticket(tx, ticket, items)
    with pytest.raises(Capacity, match="under way"):
        store.add_ticket(tx, *made[2])
    for number in (0, 1):
        store.move_item(tx, made[number][1][0], E.ON_CANCELLED, NOW)
        store.add_ticket(tx, *made[number + 2])
    kept = [row.ticket_id for row in store.tickets(tx, TicketQuery())]
    assert kept == [made[number][0].ticket_id for number in (3, 2, 1)], "the oldest that was over went"
    store.add_secrets(tx, [secret_row(i=0), secret_row(i=1)])
    with pytest.raises(Capacity):
        store.add_secrets(tx, [secret_row(i=2)])


def test_tickets_in_our_favour_are_counted_payer_by_payer(store: EscrowStore, tx: sqlite3.Connection) -> None:
    other = {"id": STRANGER[2:], "refund_pubkey": STRANGER}
    everyone: tuple[dict[str, Any], ...] = ({}, {}, {"payer": other})
    for number, changes in enumerate(everyone):
        ticket, items = ticket_rows(NOW + number, ticket_id=f"{number:032x}", **changes)
        taken = [replace(each, state=PayeeItem.ACCEPTED) for each in items]
        store.add_ticket(tx, replace(ticket, role=Side.PAYEE), taken)
    ours, _ = ticket_rows(NOW + 9, ticket_id=f"{9:032x}")
    store.add_ticket(tx, *ticket_rows(NOW + 9, ticket_id=f"{9:032x}"))
    payer = ours.terms.payer.id
    assert (store.active_of_payer(tx, payer), store.active_of_payer(tx, other["id"])) == (2, 1)
    item = store.item(tx, f"{0:032x}", 0)
    assert item is not None
    store.put_item(tx, item, replace(item, state=PayeeItem.REDEEMED), NOW)
    assert (store.active_of_payer(tx, payer), store.active_of_payer(tx, "01" * 32)) == (1, 0)


def test_one_dispute_of_an_item_at_a_time(store: EscrowStore, tx: sqlite3.Connection) -> None:
    ticket, items = ticket_rows()
    store.add_ticket(tx, ticket, items)
    told = DisputeRow(
        *("ef" * 16, ticket.ticket_id, 0, Side.PAYEE, "done", {"receipt": {"a": 1}}, DisputeState.OPEN),
        *(NOW + 9, NOW),
    )
    store.add_dispute(tx, told)
    with pytest.raises(Conflict, match="disputed already"):
        store.add_dispute(tx, replace(told, dispute_id="cc" * 16))
    assert store.dispute(tx, told.dispute_id) == told and store.disputes(tx, ticket.ticket_id) == [told]
    assert store.disputes_due(tx, NOW + 8) == [] and store.disputes_due(tx, NOW + 9) == [told]
    ended = store.end_dispute(tx, told, DisputeState.REJECTED, {"answer": "no"}, NOW + 9)
    assert store.dispute(tx, told.dispute_id) == ended and store.disputes_due(tx, NOW + 99) == []
    with pytest.raises(Conflict, match="closed"):
        store.end_dispute(tx, told, DisputeState.PAID, {}, NOW)


def test_rows_of_a_backup_are_taken_once_and_only_whole(store: EscrowStore, tx: sqlite3.Connection) -> None:
    ticket, items = ticket_rows()
    store.add_secrets(tx, [secret_row()])
    store.add_ticket(tx, ticket, items)
    rows = list(store.raw_rows(tx))
    assert [table for table, _ in rows] == [
        *("comms_escrow_tickets", "comms_escrow_items", "comms_escrow_secrets"),
    ]
    assert not any(store.put_raw_row(tx, table, row) for table, row in rows)
    for table in ("comms_escrow_secrets", "comms_escrow_items", "comms_escrow_tickets"):
        tx.execute(f"DELETE FROM {table}")
    assert all(store.put_raw_row(tx, table, row) for table, row in rows)
    assert list(store.raw_rows(tx)) == rows
    # The task of an item ran on the node that is lost: nobody here knows what came of it.
    tx.execute("DELETE FROM comms_escrow_items")
    assert store.put_raw_row(tx, "comms_escrow_items", {**rows[1][1], "state": "executing"})
    assert store.states(tx, ticket.ticket_id) == {PayerItem.UNKNOWN}
    for table, row in ((rows[0][0], {"x": 1}), ("sqlite_schema", rows[0][1])):
        with pytest.raises(ValueError, match="other columns"):
            store.put_raw_row(tx, table, row)
