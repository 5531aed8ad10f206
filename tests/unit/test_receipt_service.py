"""The receipt chain as a service (docs/protocol/02-fleet-management.md §9, §15.16; 11 §15.7)."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cl_hive_comms.domain.receipt_record import ReceiptQuery
from cl_hive_comms.services.receipt_service import ReceiptFields, ReceiptService, operator_event
from cl_hive_comms.storage import receipt_store
from cl_hive_comms.storage.receipt_store import ReceiptStore
from hive_shared import crypto, receipts
from hive_shared.crypto import Secret
from hive_shared.errors import InvalidParams
from hive_shared.store import Db

NODE = Secret((5).to_bytes(32, "big"))
HSM = Secret((7).to_bytes(32, "big"))
MIGRATIONS = Path(receipt_store.__file__).parent / "migrations"


class Keys:
    pubkey = crypto.xonly_pubkey(NODE)

    def secret(self) -> Secret:
        return NODE


class Chain:
    def __init__(self, db: Db) -> None:
        self.db = db
        self.now = 1_770_000_000
        self.signed: list[str] = []
        self.service = ReceiptService(
            db,
            ReceiptStore(),
            Keys(),
            node_id=lambda: "02" + "ab" * 32,
            node_keys=lambda: (Keys.pubkey,),
            signmessage=self._sign,
            now=lambda: self.now,
        )

    async def _sign(self, text: str) -> str:
        self.signed.append(text)
        return crypto.cln_sign_message(HSM, text)

    async def add(self, count: int = 1, **changes: object) -> None:
        what = {
            "schema": "hive:fee-policy/v1",
            "action": "set_single",
            "status": "success",
            "advisor_id": "adv",
        }
        for _ in range(count):
            fields = ReceiptFields(**{**what, **changes})  # type: ignore[arg-type]
            await self.db.write(lambda tx, f=fields: self.service.append(tx, f))

    def tamper(self, sql: str) -> None:
        with sqlite3.connect(self.db.path) as raw:
            for trigger in ("no_update", "no_delete", "gapless"):
                raw.execute(f"DROP TRIGGER IF EXISTS management_receipts_{trigger}")
            assert raw.execute(sql).rowcount > 0


@pytest.fixture
async def chain(tmp_path: Path) -> AsyncIterator[Chain]:
    db = Db.open(tmp_path / "comms.db", MIGRATIONS)
    yield Chain(db)
    db.close()


async def test_receipts_form_a_signed_chain_from_genesis(chain: Chain) -> None:
    await chain.add(3)
    first, second = await chain.service.get(1), await chain.service.get(2)
    assert first is not None and second is not None
    assert first["prev_hash"] == receipts.GENESIS
    assert second["prev_hash"] == first["receipt_hash"]
    assert receipts.verify(first, Keys.pubkey)
    report = await chain.service.verify()
    assert (report.ok, report.checked, report.first_bad) == (True, 3, None)
    assert (await chain.service.verify(2, 3)).checked == 2


@pytest.mark.parametrize(
    "change",
    [
        "document = replace(document, 'success', 'succesz')",
        "document = replace(document, '1770000000', '1770000001')",
        "document = document || ' '",
        "document = substr(document, 2)",
        "receipt_hash = replace(receipt_hash, substr(receipt_hash, 1, 1), 'x')",
        "node_signature = iif(node_signature LIKE 'f%', '0', 'f') || substr(node_signature, 2)",
        "status = 'error'",
        "created_at = created_at + 1",
        "agent_id = 'did:nostr:someone'",
        "action = 'set_bulk'",
    ],
)
async def test_acceptance_02_16_a_changed_receipt_is_named(chain: Chain, change: str) -> None:
    await chain.add(4)
    chain.tamper(f"UPDATE management_receipts SET {change} WHERE receipt_id = 3")
    report = await chain.service.verify()
    assert (report.ok, report.first_bad) == (False, 3)
    assert report.reason


async def test_a_removed_receipt_is_named(chain: Chain) -> None:
    await chain.add(4)
    chain.tamper("DELETE FROM management_receipts WHERE receipt_id = 2")
    report = await chain.service.verify()
    assert (report.ok, report.first_bad) == (False, 2)


async def test_a_range_outside_the_chain_is_refused_with_a_sentence(chain: Chain) -> None:
    await chain.add(2)
    for bad in ((0, None), (3, 2), (9, None)):
        with pytest.raises(InvalidParams):
            await chain.service.verify(*bad)
    assert (await chain.service.verify(1, 99)).checked == 2


async def test_a_large_result_is_kept_as_its_hash(chain: Chain) -> None:
    await chain.add(result={"rows": "x" * 20_000})
    doc = await chain.service.get(1)
    assert doc is not None
    assert "result" not in doc and len(str(doc["result_hash"])) == 64
    assert (await chain.service.verify()).ok


async def test_acceptance_02_25_secrets_in_a_receipt_are_hashed(chain: Chain) -> None:
    await chain.add(
        params={"preimage": "ab" * 32, "reason": "x"},
        error={"message": "nsec1" + "q" * 58, "slug": "invalid_params"},
        result={"rune": "r" * 60},
    )
    doc = await chain.service.get(1)
    assert doc is not None
    assert doc["params"] == {"preimage": "sha256:" + crypto.sha256(b"ab" * 32).hex(), "reason": "x"}
    assert "nsec1" not in str(doc) and "r" * 60 not in str(doc)
    assert (await chain.service.verify()).ok


async def test_a_nonce_beyond_exact_json_numbers_is_kept_as_text(chain: Chain) -> None:
    await chain.add(nonce=2**63 - 1)
    doc = await chain.service.get(1)
    assert doc is not None and doc["nonce"] == str(2**63 - 1)


async def test_listing_pages_by_receipt_id(chain: Chain) -> None:
    await chain.add(5)
    await chain.db.write(lambda tx: chain.service.append(tx, operator_event("authorize", advisor_id="other")))
    page = await chain.service.list(ReceiptQuery(advisor_id="adv", limit=2))
    assert [row["receipt_id"] for row in page["items"]] == [5, 4]  # type: ignore[index,union-attr,call-overload]
    rest = await chain.service.list(ReceiptQuery(advisor_id="adv", before_id=int(str(page["next_cursor"]))))
    assert rest["count"] == 3 and "next_cursor" not in rest


async def test_an_append_in_a_failed_transaction_leaves_no_gap(chain: Chain) -> None:
    await chain.add()

    def body(tx: sqlite3.Connection) -> None:
        chain.service.append(tx, operator_event("revoke"))
        raise RuntimeError("the rest of the transaction failed")

    with pytest.raises(RuntimeError):
        await chain.db.write(body)
    await chain.add()
    assert (await chain.service.verify()).checked == 2


async def test_acceptance_02_01_hours_and_days_get_a_root_signed_by_both_keys(chain: Chain) -> None:
    chain.now = 1_770_076_800 - 10
    await chain.add(2)
    assert await chain.service.hourly_roots() == 0
    chain.now += 3_700
    await chain.add(3)
    assert await chain.service.hourly_roots() == 2
    chain.now += 3_600
    assert await chain.service.hourly_roots() == 1
    roots = await chain.db.read(lambda tx: ReceiptStore().roots(tx, 0, 10))
    assert [(r.kind, r.first_id, r.last_id, r.count) for r in roots] == [
        ("day", 1, 2, 2),
        ("hour", 1, 2, 2),
        ("hour", 3, 5, 3),
    ]
    for root in roots:
        text = receipts.root_text(root.kind, root.start, root.first_id, root.last_id, root.merkle_root)
        hashes = await chain.db.read(lambda tx, r=root: ReceiptStore().hashes(tx, r.first_id, r.last_id))
        assert receipts.merkle_root(hashes) == root.merkle_root
        assert root.hsm_signature is not None
        assert crypto.cln_recover_message(text, root.hsm_signature) is not None
        assert crypto.schnorr_verify(Keys.pubkey, crypto.sha256(text.encode()), root.node_signature)
    assert await chain.service.hourly_roots() == 0
