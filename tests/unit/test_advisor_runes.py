"""Runes of advisors: made with the credential, blacklisted with its end, retried until it worked
(Protocol 02 §2.5, §6.3)."""

import json
from pathlib import Path
from typing import Any

import pytest
from cl_hive_comms.services.advisor_requests import Hire
from cl_hive_comms.storage.advisor_store import AdvisorStore
from cl_hive_comms.storage.transport_store import OutboxStore
from hiring_world import HiringWorld as World
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.store import StoreError

AGENT = xonly_pubkey(Secret(b"\x22" * 32))


@pytest.fixture
async def world(tmp_path: Path) -> World:
    return await World(tmp_path).start()


async def test_a_renewed_credential_has_a_new_rune_and_the_old_one_is_blacklisted(world: World) -> None:
    first = await world.service.authorize(Hire(AGENT, "fees"))
    second = await world.service.authorize(Hire(AGENT, "fees"))
    assert (first.row.rune_id, second.row.rune_id) == ("1", "2")
    assert world.runes.blacklisted == ["1"]
    world.db.close()


async def test_revocation_counts_what_was_cancelled_and_blacklists_the_rune(world: World) -> None:
    await world.service.authorize(Hire(AGENT, "fees"))
    done = await world.service.revoke("advisor-1", "enough")
    assert (done.cancelled, done.rune_blacklisted, world.runes.blacklisted) == (3, True, ["1"])
    world.db.close()


async def test_a_rune_that_could_not_be_blacklisted_is_tried_again(world: World) -> None:
    await world.service.authorize(Hire(AGENT, "fees"))
    world.runes.reachable = False
    done = await world.service.revoke("advisor-1", "")
    assert not done.rune_blacklisted
    assert not await world.keeper.blacklist_pending()
    world.runes.reachable = True
    assert await world.keeper.blacklist_pending()
    assert world.runes.blacklisted == ["1"]
    await world.keeper.blacklist_pending()
    assert world.runes.blacklisted == ["1"]
    world.db.close()


async def test_a_rune_of_a_hire_that_could_not_be_stored_is_blacklisted_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise StoreError("disk full")

    monkeypatch.setattr(AdvisorStore, "add_credential", broken)
    with pytest.raises(StoreError):
        await world.service.authorize(Hire(AGENT, "fees"))
    assert world.runes.blacklisted == ["1"]
    world.db.close()


async def test_the_rune_itself_is_in_no_readable_column(world: World, tmp_path: Path) -> None:
    await world.service.authorize(Hire(AGENT, "fees"))
    world.db.close()
    stored = (tmp_path / "comms.db").read_bytes()
    assert b"rune-1" not in stored


def offered(world: World) -> list[dict[str, Any]]:
    """The credential offers that were stored for the agent, oldest first."""
    rows = world.db.peek(lambda tx: tx.execute("SELECT idempotency_key FROM comms_outbox").fetchall())
    found = []
    for row in rows:
        stored = world.db.peek(lambda tx, key=row[0]: OutboxStore(world.sealer).find(tx, key))
        assert stored is not None
        payload = json.loads(stored[0].content)["schema_payload"]
        if payload["action"] == "credential_offer":
            found.append(payload["params"])
    return found


async def test_a_hire_does_not_wait_for_a_node_that_makes_no_rune(world: World) -> None:
    world.runes.reachable = False
    hired = await world.service.authorize(Hire(AGENT, "fees"))
    assert hired.row.rune_id is None and any("rune" in text for text in hired.warnings)
    await world.keeper.settle()
    assert world.keeper.warnings() == ["1 advisors wait for their rune for REST; retried every minute"]
    world.runes.reachable = True
    await world.keeper.settle()
    assert world.keeper.warnings() == []
    row = await world.credentials.current(hired.row.credential_id)
    assert row is not None and row.rune_id == "1"
    assert [params.get("rest", {}).get("rune") for params in offered(world)] == [None, "rune-1"]
    await world.keeper.settle()
    assert world.runes.made == 1
    await world.service.revoke("advisor-1", "")
    assert world.runes.blacklisted == ["1"]
    world.db.close()


async def test_an_owed_rune_is_not_made_for_a_credential_that_ended(world: World) -> None:
    world.runes.reachable = False
    await world.service.authorize(Hire(AGENT, "fees"))
    await world.service.revoke("advisor-1", "")
    world.runes.reachable = True
    await world.keeper.settle()
    assert world.runes.made == 0 and world.keeper.warnings() == []
    world.db.close()


async def test_a_rune_made_while_its_credential_ends_is_blacklisted(world: World) -> None:
    world.runes.reachable = False
    hired = await world.service.authorize(Hire(AGENT, "fees"))
    world.runes.reachable = True

    store = AdvisorStore()
    original = store.set_rune

    def too_late(self: AdvisorStore, tx: Any, credential_id: str, rune_id: str | None) -> bool:
        # As a revocation commits it, between the node's answer and our note of it.
        store.revoke(tx, credential_id, "", 1)
        return original(tx, credential_id, rune_id)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AdvisorStore, "set_rune", too_late)
        await world.keeper.settle()
    assert len(offered(world)) == 1
    await world.keeper.settle()
    assert world.runes.blacklisted == ["1"]
    assert hired.row.rune_id is None
    world.db.close()


async def test_one_rune_that_cannot_be_blacklisted_is_seen_in_the_warnings(world: World) -> None:
    await world.service.authorize(Hire(AGENT, "fees"))
    world.runes.reachable = False
    await world.service.revoke("advisor-1", "")
    assert world.keeper.warnings() == [
        "1 runes of ended credentials are not blacklisted yet; retried every minute"
    ]
    world.db.close()
