"""Who is meant by a name, over a real database (Protocol 08 §6 "Identity", §13.16)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cl_hive_comms.domain.advisor import Advisor
from cl_hive_comms.services.advisor_requests import Hire
from hiring_world import HiringWorld
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.errors import Ambiguous, Capacity, Conflict, InvalidParams, NotFound
from hive_shared.nostr.keys import npub_encode

KEYS = [xonly_pubkey(Secret(bytes([n]) * 32)) for n in range(1, 9)]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[HiringWorld]:
    made = await HiringWorld(tmp_path).start()
    yield made
    made.db.close()


async def hired(world: HiringWorld, *profiles: str) -> list[Advisor]:
    """Advisors whose profiles carry these names; an empty one stays `advisor-N`."""
    for key in KEYS[: len(profiles)]:
        await world.service.authorize(Hire(key))
    rows = [(name, number) for number, name in enumerate(profiles, 1) if name]
    sql = "UPDATE comms_advisors SET display_name = ? WHERE number = ?"
    await world.db.write(lambda tx: tx.executemany(sql, rows).rowcount)
    await world.credentials.load()
    return sorted(world.credentials.advisors(), key=lambda advisor: advisor.number)


async def test_the_order_of_the_lookup_and_what_profiles_cannot_take(world: HiringWorld) -> None:
    first, second, third, fourth = await hired(world, "", "Doctor", "advisor-1", "7")
    find = world.aliases.resolve
    # A profile that calls itself like another's number, or like an index, gets neither.
    assert find("advisor-1") == first and find("Advisor-3") == third
    with pytest.raises(NotFound, match="search result") as stale:
        find("7")
    assert stale.value.reason == "stale_index"
    with pytest.raises(NotFound, match="search result"):
        find("\u0667")
    assert find("advisor-4") == fourth and find(fourth.advisor_id) == fourth
    assert find("DOCTOR") == second
    # A local name wins over a profile of the same name, now and after a rename.
    _, warnings = await world.aliases.set("doctor", first.advisor_id)
    assert warnings == ["'doctor' is also what another advisor calls itself; here it means yours"]
    assert find("Doctor") == first
    await hired(world, "", "someone else")
    assert find("doctor").number == 1 and find("Someone Else").number == 2
    for key in (npub_encode(KEYS[2]), KEYS[2], KEYS[2].upper(), f"did:nostr:{KEYS[2]}"):
        assert find(key) == third


async def test_same_profile_names_are_ambiguous_and_their_numbers_are_not(world: HiringWorld) -> None:
    await hired(world, "Same", "same", "\uff33ame", "other")
    with pytest.raises(Ambiguous) as caught:
        world.aliases.resolve(" SAME ")
    assert caught.value.data == {"candidates": ["advisor-1", "advisor-2", "advisor-3"]}
    for name in caught.value.data["candidates"]:  # type: ignore[union-attr]
        world.aliases.resolve(str(name))
    # With a name of one's own it is clear again.
    await world.aliases.set("same", "advisor-2")
    assert world.aliases.resolve("same").number == 2


async def test_what_nobody_is_called_says_what_to_do(world: HiringWorld) -> None:
    await hired(world, "alice")
    for text, word in (
        ("a1ice", "did you mean alice"),
        ("ali\u200bce", "did you mean alice"),
        ("\u202ealice", "did you mean alice"),
        ("bob", "npub1"),
        ("ab" * 31, "62"),
        (npub_encode(KEYS[7]), "hive-client-authorize"),
    ):
        with pytest.raises(NotFound, match=word):
            world.aliases.resolve(text)
    for text in ("nsec1verysecret", "NSEC1verysecret", "nostr:nsec1verysecret"):
        for ask in (world.aliases.resolve, world.aliases.find):
            with pytest.raises(InvalidParams) as caught:
                ask(text)
            assert "verysecret" not in str(caught.value)


async def test_two_calls_at_once_give_one_name_once(world: HiringWorld) -> None:
    first, second = await hired(world, "", "")
    calls = [world.aliases.set("Alice", first.advisor_id), world.aliases.set("ALICE", second.advisor_id)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [tuple, Conflict]
    assert world.aliases.resolve("alice") == first
    # The same advisor may change the spelling; it stays one name.
    await world.aliases.set("alICE", first.advisor_id)
    assert [alias.alias for alias in world.aliases.list_all()] == ["alICE"]
    many = [world.aliases.set(f"name {n}", first.advisor_id) for n in range(12)]
    refused = [
        each for each in await asyncio.gather(*many, return_exceptions=True) if isinstance(each, Capacity)
    ]
    assert len(refused) == 3 and len(world.aliases.aliases_of(first.advisor_id)) == 10
    await world.restart()
    assert len(world.aliases.aliases_of(first.advisor_id)) == 10


async def test_a_name_of_mixed_scripts_is_pointed_out(world: HiringWorld) -> None:
    (first,) = await hired(world, "")
    _, warnings = await world.aliases.set("\u0440eter", first.advisor_id)
    assert warnings == ["'\\u0440eter' mixes Cyrillic and Latin letters; check that you mean the right one"]
    assert world.aliases.name_of(first) == "\u0440eter"
