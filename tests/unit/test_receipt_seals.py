"""Seals over signatures that were checked: they make a long chain quick to verify and hide nothing
(docs/decisions/0290-seals-over-checked-signatures.md; docs/protocol/02-fleet-management.md §9.2, §15.16)."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cl_hive_comms.domain.receipt_checkpoint import NOTHING_ARCHIVED
from cl_hive_comms.domain.receipt_record import ReceiptQuery
from cl_hive_comms.services import receipt_check
from cl_hive_comms.services.receipt_check import SEAL_SIZE, verify_rows
from cl_hive_comms.services.receipt_service import ReceiptFields, ReceiptService
from cl_hive_comms.storage import receipt_store
from cl_hive_comms.storage.receipt_store import ReceiptStore
from hive_shared import crypto, receipts
from hive_shared.crypto import Secret
from hive_shared.store import Db

NODE = Secret((5).to_bytes(32, "big"))
OTHER = Secret((6).to_bytes(32, "big"))
PUBKEY = crypto.xonly_pubkey(NODE)
MIGRATIONS = Path(receipt_store.__file__).parent / "migrations"
COUNT = SEAL_SIZE + 7
# Another first digit than the one that is there, whichever that is.
FLIPPED = "iif({0} LIKE 'f%', '0', 'f') || substr({0}, 2)"


class Keys:
    pubkey = PUBKEY

    def secret(self) -> Secret:
        return NODE


async def no_rpc(text: str) -> str:
    raise AssertionError("no root is signed here")


class Chain:
    """1,007 receipts: one full seal and seven receipts behind it."""

    def __init__(self, db: Db) -> None:
        self.db, self.rows = db, ReceiptStore()
        self.service = ReceiptService(
            db,
            self.rows,
            Keys(),
            node_id=lambda: "02" + "ab" * 32,
            node_keys=lambda: (PUBKEY,),
            signmessage=no_rpc,
            now=lambda: 1_770_000_000,
        )

    async def add(self, count: int) -> None:
        what = ReceiptFields(schema="hive:fee-policy/v1", action="set_single", status="success")

        def body(tx: sqlite3.Connection) -> None:
            for _ in range(count):
                self.service.append(tx, what)

        await self.db.write(body)

    def tamper(self, *statements: str) -> None:
        with sqlite3.connect(self.db.path) as raw:
            for trigger in ("no_update", "no_delete", "gapless"):
                raw.execute(f"DROP TRIGGER IF EXISTS management_receipts_{trigger}")
            for sql in statements:
                assert raw.execute(sql).rowcount > 0

    async def first_bad(self) -> int | None:
        report = await self.service.verify()
        assert report.ok is (report.first_bad is None)
        assert report.first_bad is None or report.reason
        return report.first_bad


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed database with the receipts, for every test to copy."""
    path = tmp_path_factory.mktemp("chain") / "comms.db"
    db = Db.open(path, MIGRATIONS)
    asyncio.run(Chain(db).add(COUNT))
    db.close()
    return path


@pytest.fixture
async def chain(made: Path, tmp_path: Path) -> AsyncIterator[Chain]:
    db = Db.open(Path(shutil.copy(made, tmp_path)), MIGRATIONS)
    yield Chain(db)
    db.close()


@pytest.fixture
async def sealed(chain: Chain) -> Chain:
    assert await chain.service.seal_checked() == 1
    return chain


class CountedKey(crypto.SchnorrKey):
    checks = 0

    def verify(self, digest: bytes, sig_hex: str) -> bool:
        type(self).checks += 1
        return super().verify(digest, sig_hex)


async def test_a_seal_spares_the_signatures_under_it(sealed: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipt_check.crypto, "SchnorrKey", CountedKey)
    CountedKey.checks = 0
    report = await sealed.service.verify()
    assert (report.ok, report.checked, report.last_id) == (True, COUNT, COUNT)
    assert CountedKey.checks == 1 + 7
    assert await sealed.service.seal_checked() == 0


@pytest.mark.parametrize("bad", [1, SEAL_SIZE, SEAL_SIZE + 3])
@pytest.mark.parametrize(
    "change",
    [
        f"node_signature = {FLIPPED.format('node_signature')}",
        "node_signature = upper(node_signature)",
        "node_signature = ''",
        "document = replace(document, 'success', 'succesz')",
        "receipt_hash = replace(receipt_hash, substr(receipt_hash, 1, 1), 'x')",
        "document = CAST(x'7bff7d' AS TEXT)",
        "status = CAST(x'ff' AS TEXT)",
        "prev_hash = receipt_hash",
    ],
)
async def test_acceptance_02_16_a_flipped_byte_under_a_seal_is_named(
    sealed: Chain, change: str, bad: int
) -> None:
    sealed.tamper(f"UPDATE management_receipts SET {change} WHERE receipt_id = {bad}")
    assert await sealed.first_bad() == bad


async def test_the_first_of_two_faults_is_named(sealed: Chain) -> None:
    sealed.tamper(
        "UPDATE management_receipts SET node_signature = printf('%0128d', 0) WHERE receipt_id = 400",
        "DELETE FROM management_receipts WHERE receipt_id = 600",
    )
    assert await sealed.first_bad() == 400


@pytest.mark.parametrize(
    "change",
    [
        f"UPDATE comms_receipt_seals SET signature = {FLIPPED.format('signature')}",
        "UPDATE comms_receipt_seals SET signature = ''",
        "UPDATE comms_receipt_seals SET last_id = last_id - 1",
        "UPDATE comms_receipt_seals SET first_id = 2",
        "UPDATE comms_receipt_seals SET last_id = last_id + 90",
        "DELETE FROM comms_receipt_seals",
    ],
)
async def test_a_seal_that_does_not_hold_costs_time_and_nothing_else(sealed: Chain, change: str) -> None:
    sealed.tamper(change)
    assert await sealed.first_bad() is None
    sealed.tamper(f"UPDATE management_receipts SET node_signature = {FLIPPED.format('node_signature')}")
    assert await sealed.first_bad() == 1


async def test_a_seal_by_another_key_blesses_nothing(sealed: Chain) -> None:
    sealed.tamper("UPDATE management_receipts SET node_signature = printf('%0128d', 0) WHERE receipt_id = 9")
    rows = await sealed.db.read(lambda tx: tuple(sealed.rows.walk(tx, 1, SEAL_SIZE)))
    forged = receipt_check.seal(rows, OTHER)
    await sealed.db.write(lambda tx: sealed.rows.add_seal(tx, forged))
    assert await sealed.first_bad() == 9


async def test_what_is_damaged_gets_no_seal(chain: Chain) -> None:
    chain.tamper("UPDATE management_receipts SET node_signature = printf('%0128d', 0) WHERE receipt_id = 9")
    assert await chain.service.seal_checked() == 0
    assert await chain.first_bad() == 9


async def test_a_part_of_a_sealed_thousand_is_checked_one_by_one(sealed: Chain) -> None:
    assert (await sealed.service.verify(3, 9)).checked == 7
    assert (await sealed.service.verify(900)).checked == COUNT - 899
    sealed.tamper(
        "UPDATE management_receipts SET node_signature = printf('%0128d', 0) WHERE receipt_id = 950"
    )
    assert (await sealed.service.verify(900)).first_bad == 950
    assert (await sealed.service.verify(3, 9)).ok


async def test_a_chain_checked_by_nobodys_key_takes_no_signature_as_checked(sealed: Chain) -> None:
    rows, seals = await sealed.db.read(
        lambda tx: (tuple(sealed.rows.walk(tx, 1, COUNT)), sealed.rows.seals(tx, 1, COUNT))
    )
    stranger = crypto.xonly_pubkey(OTHER)
    assert verify_rows(rows, NOTHING_ARCHIVED, (stranger,), seals).first_bad == 1
    assert verify_rows(rows, NOTHING_ARCHIVED, (stranger, PUBKEY), seals).ok


def test_the_text_of_a_receipt_is_read_whole() -> None:
    """A field that receipts gain is known here too, else every receipt that has it would be a bad one."""
    assert set(receipt_check._Said.__struct_fields__) == set(receipts.CONTENT_FIELDS)


async def test_listing_reads_a_page_of_an_index(chain: Chain) -> None:
    """Keyset: how long the chain is does not matter (02 §16)."""

    async def plan(query: ReceiptQuery) -> str:
        seen: list[str] = []

        def body(tx: sqlite3.Connection) -> None:
            tx.set_trace_callback(seen.append)
            chain.rows.find(tx, query)
            tx.set_trace_callback(None)

        await chain.db.read(body)
        rows = await chain.db.read(lambda tx: tx.execute(f"EXPLAIN QUERY PLAN {seen[0]}").fetchall())
        return " ".join(str(row["detail"]) for row in rows)

    assert "(advisor_id=? AND rowid<?)" in (await plan(ReceiptQuery(advisor_id="a", before_id=9))).replace(
        "receipt_id<?", "rowid<?"
    )
    assert "INDEX management_receipts_schema" in await plan(ReceiptQuery(schema="hive:monitor/v1"))
    for query in (ReceiptQuery(), ReceiptQuery(before_id=900), ReceiptQuery(advisor_id="a", schema="b")):
        assert "TEMP B-TREE" not in await plan(query)
