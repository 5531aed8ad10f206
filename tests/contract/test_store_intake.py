"""The rows of tickets that were handed over, in the tables of node and kit: decided once, tokens sealed
(docs/protocol/03-escrow-and-payments.md §6.6, §8)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from cashu_tickets import document, item
from hive_shared.cashu.payee_rows import HeldTicket, Intake, Part
from hive_shared.cashu.terms import decode_terms
from hive_shared.crypto import SealBroken, Sealer, Secret
from hive_shared.errors import Conflict
from hive_shared.storage import intake_store
from hive_shared.storage.families import KIT_INTAKE, NODE_INTAKE, IntakeTables
from hive_shared.storage.intake_store import IntakeStore
from msgspec.structs import replace

ROOT = Path(__file__).parents[2]
SCHEMAS = {
    NODE_INTAKE.received: ROOT / "cl-hive-comms/cl_hive_comms/storage/migrations/0036_escrow_received.sql",
    KIT_INTAKE.received: ROOT / "shared/hive_advisor/storage/migrations/0018_tickets.sql",
}
PEER = "ab" * 32


@pytest.fixture(params=[NODE_INTAKE, KIT_INTAKE], ids=["node", "kit"])
def tables(request: pytest.FixtureRequest) -> IntakeTables:
    found: IntakeTables = request.param
    return found


@pytest.fixture
def tx(tables: IntakeTables) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.row_factory = sqlite3.Row
    connection.executescript(SCHEMAS[tables.received].read_text())
    yield connection
    connection.close()


@pytest.fixture
def store(tables: IntakeTables) -> IntakeStore:
    return IntakeStore(Sealer({1: Secret(bytes(32))}, 1), tables)


def ticket(name: str, at: int = 5) -> HeldTicket:
    return HeldTicket(name, PEER, Intake.COLLECTING, at, at, next_at=at)


def test_a_ticket_is_kept_whole_and_decided_once(
    tx: sqlite3.Connection, store: IntakeStore, tables: IntakeTables
) -> None:
    terms = decode_terms(document([item(0, 10)]))
    # Two of which nothing is known yet stand beside each other.
    for name in ("a", "b"):
        store.put_ticket(tx, ticket(name))
    assert (store.ticket(tx, "a"), store.open_of_peer(tx, PEER)) == (ticket("a"), 2)
    full = replace(
        ticket("a"),
        intake=Intake.CHECKING,
        terms=terms,
        terms_hash="c" * 64,
        payer_sig="d",
        tries=2,
        next_at=9,
    )
    full = replace(full, context="lock:1") if tables.keeps_accepted else full
    store.put_ticket(tx, full)
    assert store.ticket(tx, "a") == full
    assert [each.ticket_id for each in store.waiting(tx, 8)] == ["b"]
    assert [each.ticket_id for each in store.waiting(tx, 9)] == ["b", "a"]
    refused = replace(full, intake=Intake.REFUSED, reason="terms_hash", detail="of another", updated_at=7)
    store.put_ticket(tx, refused)
    with pytest.raises(Conflict, match="decided before"):
        store.put_ticket(tx, full)
    assert (store.ticket(tx, "a"), store.open_of_peer(tx, PEER)) == (refused, 1)


def test_tokens_are_sealed_where_they_stand_and_go_with_the_decision(
    tx: sqlite3.Connection, store: IntakeStore, tables: IntakeTables
) -> None:
    store.put_ticket(tx, ticket("a"))
    store.add_part(tx, "a", Part(2, 3, ("cashuBtwo",)))
    store.add_part(tx, "a", Part(0, 1, ("cashuBold",)))
    store.add_part(tx, "a", Part(0, 1, ("cashuBone", "cashuBmore")))
    assert store.parts(tx, "a") == [Part(0, 1, ("cashuBone", "cashuBmore")), Part(2, 3, ("cashuBtwo",))]
    kept = [bytes(row[0]) for row in tx.execute(f"SELECT tokens_enc FROM {tables.parts}")]
    assert len(kept) == 2 and not any(b"cashuB" in each for each in kept)
    tx.execute(f"UPDATE {tables.parts} SET first = 1 WHERE first = 0")
    with pytest.raises(SealBroken):
        store.parts(tx, "a")
    store.accepted(tx, "a")
    assert (store.ticket(tx, "a"), store.parts(tx, "a")) == (None, [])


def test_of_refused_tickets_the_old_and_the_many_are_forgotten_and_no_other(
    tx: sqlite3.Connection, store: IntakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake_store, "_MOST_REFUSED", 2)
    for at in range(1, 6):
        store.put_ticket(tx, ticket(f"open{at}", at))
        store.put_ticket(tx, ticket(f"no{at}", at))
        store.put_ticket(tx, replace(ticket(f"no{at}", at), intake=Intake.REFUSED))
    left = [f"no{at}" for at in range(1, 6)]

    def kept() -> list[str]:
        return [name for name in left if store.ticket(tx, name) is not None]

    store.forget_refused(tx, 2)
    assert kept() == ["no4", "no5"]
    store.forget_refused(tx, 5)
    assert kept() == ["no5"]
    assert store.open_of_peer(tx, PEER) == 5
