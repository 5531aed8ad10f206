"""Runes of advisors: made with the credential, blacklisted with its end, retried until it worked
(Protocol 02 §2.5, §6.3)."""

from pathlib import Path

import pytest
from cl_hive_comms.services.advisor_requests import Hire
from cl_hive_comms.storage.advisor_store import AdvisorStore
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
    assert not await world.service.blacklist_pending()
    world.runes.reachable = True
    assert await world.service.blacklist_pending()
    assert world.runes.blacklisted == ["1"]
    await world.service.blacklist_pending()
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
