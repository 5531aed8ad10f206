"""What an agent announces for its tickets is believed when its own key is bound to it, and for a credential
that it has (docs/protocol/03-escrow-and-payments.md §4.1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cashu_tickets import PAYEE, PAYER, STRANGER
from cl_hive_comms.plugin.parts import MIGRATIONS
from cl_hive_comms.services.payee_keys import MOST_CONTRACTS, PayeeKey, PayeeKeys
from cl_hive_comms.storage.state_store import StateStore
from hive_shared.cashu.derive import public_key
from hive_shared.cashu.terms import lock_key_text, sign_text
from hive_shared.cashu.ticket_messages import TicketRequest, body_of, schema_of
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.errors import HiveError, InvalidParams, Unauthorized
from hive_shared.signed_message import Draft
from hive_shared.store import Db

AGENT, KEY = xonly_pubkey(PAYEE), public_key(Secret(b"\x61" * 32))
NOBODY = Secret(b"\x62" * 32)
MINT = "https://mint.example"


@dataclass
class Row:
    credential_id: str
    agent_key: str = AGENT
    status: str = "active"


class Issued:
    def credentials(self, _tx: object) -> list[Any]:
        return [Row("mine"), Row("anothers", xonly_pubkey(PAYER)), Row("ended", status="revoked")]


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Db]:
    opened = Db.open(tmp_path / "comms.db", MIGRATIONS)
    yield opened
    opened.close()


def said(
    context: str = "mine", *, key: str = KEY, by: Secret = PAYEE, at: int = 100, mint: str = MINT
) -> Draft:
    body = TicketRequest(context, key, sign_text(by, lock_key_text(context, key)), [mint])
    return Draft(schema_of(body), "m", "escrow", 1, at, at + 60, body_of(body))


async def test_the_newest_word_of_an_agent_is_kept_and_nobody_elses(db: Db) -> None:
    keys = PayeeKeys(db, StateStore(), Issued(), now=lambda: 500)
    refused: list[tuple[Draft, type[HiveError]]] = [
        (said(by=PAYER), Unauthorized),
        (said("anothers"), Unauthorized),
        (said("ended"), Unauthorized),
        (said(mint="ftp://mint.example"), InvalidParams),
        (Draft("hive:escrow/ticket_request", "m", "escrow", 1, 1, 2, {"context": "mine"}), InvalidParams),
    ]
    for message, error in refused:
        with pytest.raises(error):
            await keys.take(message, AGENT)
    # The binding is of whom it names: repeated by another it says nothing about that one.
    with pytest.raises(Unauthorized):
        await keys.take(said(), xonly_pubkey(PAYER))
    assert await db.read(lambda tx: keys.of(tx, AGENT, ["mine", "anothers", "ended"])) is None

    await keys.take(said(mint="https://Mint.example/"), AGENT)
    assert await db.read(lambda tx: keys.of(tx, AGENT, ["other", "mine"])) == PayeeKey(KEY, (MINT,), 100)
    await keys.take(said(key=STRANGER, at=99), AGENT)
    assert await db.read(lambda tx: keys.of(tx, AGENT, ["mine"])) == PayeeKey(KEY, (MINT,), 100)
    await keys.take(said(key=STRANGER, at=101), AGENT)
    assert await db.read(lambda tx: keys.of(tx, AGENT, ["mine"])) == PayeeKey(STRANGER, (MINT,), 101)


async def test_an_agent_names_contracts_too_and_the_newest_of_them_stay(db: Db) -> None:
    keys = PayeeKeys(db, StateStore(), Issued(), now=lambda: 500)
    await keys.take(said(at=50), AGENT)
    for number in range(MOST_CONTRACTS + 1):
        await keys.take(said(f"contract-{number}", at=100 + number), AGENT)
    last = f"contract-{MOST_CONTRACTS}"
    assert await db.read(lambda tx: keys.of(tx, AGENT, ["contract-0"])) is None
    assert await db.read(lambda tx: keys.of(tx, AGENT, ["contract-1", last])) == PayeeKey(
        KEY, (MINT,), 100 + MOST_CONTRACTS
    )
    assert await db.read(lambda tx: keys.of(tx, AGENT, ["mine"])) == PayeeKey(KEY, (MINT,), 50)
    newest = await db.read(lambda tx: keys.newest(tx, AGENT))
    assert newest == PayeeKey(KEY, (MINT,), 100 + MOST_CONTRACTS)
    assert await db.read(lambda tx: keys.newest(tx, xonly_pubkey(NOBODY))) is None
    with pytest.raises(Unauthorized, match="no active credential"):
        await keys.take(said("contract-1", by=NOBODY), xonly_pubkey(NOBODY))
