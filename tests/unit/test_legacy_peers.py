"""Who is answered by kind 4 (Protocol 02 §6.2)."""

from __future__ import annotations

from pathlib import Path

import pytest
from cl_hive_comms.services.legacy_peers import MAX_PEERS, LegacyPeers
from cl_hive_comms.storage.state_store import StateStore
from hive_shared.store import Db

MIGRATIONS = Path(__file__).parents[2] / "cl-hive-comms" / "cl_hive_comms" / "storage" / "migrations"


async def test_the_form_of_a_peer_is_remembered_over_a_restart_and_follows_the_peer(tmp_path: Path) -> None:
    db = Db.open(tmp_path / "comms.db", MIGRATIONS)
    try:
        peers = LegacyPeers(db, StateStore(), lambda: 1)
        await peers.load()
        peers.note("aa", True)
        peers.note("bb", True)
        peers.note("bb", False)
        peers.note("cc", False)
        await peers.save()
        again = LegacyPeers(db, StateStore(), lambda: 1)
        await again.load()
        assert [key in again for key in ("aa", "bb", "cc")] == [True, False, False]
        for number in range(MAX_PEERS):
            again.note(str(number), True)
        assert "aa" not in again and "0" in again and str(MAX_PEERS - 1) in again
    finally:
        db.close()


async def test_what_could_not_be_stored_is_stored_later(tmp_path: Path) -> None:
    db = Db.open(tmp_path / "comms.db", MIGRATIONS)
    rows = StateStore()

    class Full(StateStore):
        def put(self, *_: object) -> None:
            raise OSError("disk full")

    peers = LegacyPeers(db, Full(), lambda: 1)
    peers.note("aa", True)
    with pytest.raises(OSError):
        await peers.save()
    peers._facts = rows
    await peers.save()
    again = LegacyPeers(db, rows, lambda: 1)
    await again.load()
    assert "aa" in again
    db.close()
