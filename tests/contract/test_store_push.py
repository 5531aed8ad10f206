"""Kept pushes: readable for who asks with the key, not for who has the file (docs/protocol/02 §15.25)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cl_hive_comms.domain.command_record import StoredResponse
from cl_hive_comms.storage import push_store
from cl_hive_comms.storage.push_store import PushStore
from hive_shared.crypto import SealBroken, Sealer, Secret
from hive_shared.store import Db

MIGRATIONS = Path(push_store.__file__).parent / "migrations"
AGENT, OTHER = "aa" * 32, "bb" * 32


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Db]:
    opened = Db.open(tmp_path / "comms.db", MIGRATIONS)
    yield opened
    opened.close()


async def test_a_kept_push_is_sealed_in_the_file_and_comes_back_whole(db: Db) -> None:
    store = PushStore(Sealer({1: Secret(b"k" * 32)}, 1))
    for seq, text in ((1, '{"rune":"abc=="}'), (2, "später")):
        row = StoredResponse(AGENT, -seq, "", text, 1_000)
        await db.write(lambda tx, r=row: store.put_response(tx, r))
    kept = await db.read(
        lambda tx: [row[0] for row in tx.execute("SELECT response_json FROM comms_responses")]
    )
    assert len(kept) == 2 and not any("rune" in text or "ter" in text for text in kept)
    assert await db.read(lambda tx: store.pushes(tx, AGENT, 0, 10)) == ('{"rune":"abc=="}', "später")
    assert await db.read(lambda tx: store.pushes(tx, OTHER, 0, 10)) == ()


async def test_a_push_does_not_open_for_another_agent_or_another_node(db: Db) -> None:
    store = PushStore(Sealer({1: Secret(b"k" * 32)}, 1))
    await db.write(lambda tx: store.put_response(tx, StoredResponse(AGENT, -1, "", "text", 1_000)))
    foreign = PushStore(Sealer({1: Secret(b"x" * 32)}, 1))
    with pytest.raises(SealBroken):
        await db.read(lambda tx: foreign.pushes(tx, AGENT, 0, 10))
    await db.write(lambda tx: tx.execute("UPDATE comms_responses SET sender_key = ?", (OTHER,)))
    with pytest.raises(SealBroken):
        await db.read(lambda tx: store.pushes(tx, OTHER, 0, 10))
