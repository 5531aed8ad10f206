"""Profile and offers of the kit: drafted, published, kept at the relays, withdrawn
(docs/protocol/04-marketplace-and-nostr.md §5; docs/protocol/11-advisor-kit.md §7)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hire_world import DAY, hire_world
from hive_advisor.advisor import Advisor
from hive_advisor.config import MarketConfig
from hive_shared.errors import Conflict, HiveError, InvalidParams, NotFound, PolicyDenied, RateLimited
from hive_shared.market import market_events
from hive_shared.nostr.event import Event, Tags, verify
from hive_shared.nostr.pow import committed_bits, search
from hive_shared.nostr.publishing import PublishResult
from kit_world import KitWorld
from market_documents import subject

OFFER = {"capabilities": ["fee-optimization"], "pricing_model": "subscription", "price_sats": 5000}
TOOK, NO_ANSWER = PublishResult("ok"), PublishResult("timeout")
URL = "ws://127.0.0.1:1"


class Relay:
    """A relay that keeps the newest event of each address, if it takes any."""

    def __init__(self, world: KitWorld) -> None:
        self.world, self.says = world, TOOK
        self.came: list[Event] = []
        self.held: dict[tuple[int, str], Event] = {}

    async def publish(
        self, event: Event, relays: Sequence[str], timeout: float
    ) -> Mapping[str, PublishResult]:
        assert verify(event)
        self.world.point()
        if self.says.accepted:
            self.came.append(event)
            for d in event.tag_values("d"):
                last = self.held.get((event.kind, d))
                if last is None or (last.created_at, event.id) < (event.created_at, last.id):
                    self.held[event.kind, d] = event
        return dict.fromkeys(relays, self.says)


async def here(*job: Any, timeout_s: float, progress: Any) -> Tags:
    """The work, in this process."""
    return search(*job, progress)


@pytest.fixture
def world(tmp_path: Path) -> KitWorld:
    return hire_world(tmp_path, market=MarketConfig(pow_bits=6))


@pytest.fixture
def relay(world: KitWorld) -> Relay:
    return Relay(world)


def joined(kit: Advisor, relay: Relay) -> Advisor:
    kit.market.publishing._relays, kit.market.publishing._mine = relay, here
    return kit


@pytest_asyncio.fixture
async def kit(world: KitWorld, relay: Relay) -> AsyncIterator[Advisor]:
    async with world.open() as opened:
        yield joined(opened, relay)


async def published(kit: Advisor) -> Event:
    await kit.market.adverts.edit(subject())
    await kit.market.adverts.publish()
    return kit.market.publishing._relays.held[market_events.PROFILE, f"did:nostr:{kit.pubkey}"]


async def test_a_profile_is_what_was_drafted_with_its_work_and_our_load(kit: Advisor, relay: Relay) -> None:
    event = await published(kit)
    advert = market_events.read(event)
    assert isinstance(advert, market_events.ProfileAdvert)
    assert (advert.profile.name, advert.did_state, advert.flags) == ("Hex Fleet Advisor", "verified", ())
    assert advert.profile.load == 0 and advert.profile.version == "1.0.0"
    assert committed_bits(event) == 6
    held = await kit.market.adverts.published()
    assert held is not None and (held.state, held.relays) == ("sent", {URL: "ok"})


async def test_every_version_rises_in_number_and_time(world: KitWorld, kit: Advisor, relay: Relay) -> None:
    first = await published(kit)
    world.ahead += 3_601
    await kit.market.adverts.edit({"displayName": "Other"})
    await kit.market.adverts.publish()
    world.ahead += 3_601
    await kit.market.adverts.publish()
    versions = [market_events.read(each).profile.version for each in relay.came]
    assert versions == ["1.0.0", "1.0.1", "1.0.2"]
    times = [each.created_at for each in relay.came]
    assert times == sorted(set(times)) and times[0] == first.created_at


async def test_two_versions_of_an_offer_in_one_second_differ_by_one(
    world: KitWorld, kit: Advisor, relay: Relay
) -> None:
    world_now = world.now()
    kit.market.publishing._now = kit.market.adverts._now = lambda: world_now
    made = await kit.market.adverts.create(OFFER)
    await kit.market.adverts.update(made.d, {"price_sats": 4000})
    first, second = relay.came
    assert second.created_at == first.created_at + 1
    assert relay.held[market_events.OFFER, made.d] == second


@pytest.mark.parametrize(
    "fields",
    [
        {"id": "did:nostr:" + "11" * 32},
        {"displayName": ""},
        {"version": "one"},
        {"capabilities": {}},
        {"unknown\u202e": 1, "displayName": "a\u202eb"},
        {"pricing": None},
    ],
)
async def test_a_draft_that_no_profile_may_say_changes_nothing(kit: Advisor, fields: dict[str, Any]) -> None:
    await kit.market.adverts.edit(subject())
    before = await kit.market.adverts.profile()
    with pytest.raises(InvalidParams):
        await kit.market.adverts.edit(fields)
    assert await kit.market.adverts.profile() == before


async def test_nothing_is_published_that_was_not_drafted_nor_while_halted(
    world: KitWorld, kit: Advisor, relay: Relay
) -> None:
    with pytest.raises(NotFound):
        await kit.market.adverts.publish()
    await kit.market.adverts.edit(subject())
    assert (await kit.market.adverts.preview()).warnings and not relay.came
    world.paths.halt.touch()
    with pytest.raises(PolicyDenied):
        await kit.market.adverts.publish()
    assert not relay.came


async def test_readers_take_one_profile_an_hour_and_ten_offers(world: KitWorld, kit: Advisor) -> None:
    await published(kit)
    with pytest.raises(RateLimited) as refused:
        await kit.market.adverts.pause()
    assert 3_500 <= int(str(refused.value.data["retry_after"])) <= 3_600
    for _ in range(10):
        await kit.market.adverts.create(OFFER)
    with pytest.raises(RateLimited):
        await kit.market.adverts.create(OFFER)
    world.ahead += 3_601
    await kit.market.adverts.pause()


async def test_what_no_relay_took_goes_again_and_what_they_took_every_four_hours(
    world: KitWorld, kit: Advisor, relay: Relay
) -> None:
    relay.says = NO_ANSWER
    made = await kit.market.adverts.create(OFFER)
    assert made.state == "partial" and not relay.came
    relay.says = TOOK
    world.ahead += 10
    await kit.market.refresh()
    await kit.market.refresh()
    assert len(relay.came) == 1
    world.ahead += 4 * 3_600
    relay.says = NO_ANSWER
    await kit.market.refresh()
    relay.says = TOOK
    world.ahead += 301
    await kit.market.refresh()
    assert relay.came[0] == relay.came[1] and len(relay.came) == 2
    held = await kit.market.adverts.offer(made.d)
    assert held[1] is not None and held[1].state == "sent"


async def test_a_relay_that_refuses_for_good_is_not_asked_again(
    world: KitWorld, kit: Advisor, relay: Relay
) -> None:
    relay.says = PublishResult("rejected", "blocked", "not you")
    made = await kit.market.adverts.create(OFFER)
    assert (made.state, made.relays[URL]) == ("given_up", "refused: blocked not you")
    world.ahead += 5_000
    await kit.market.refresh()
    assert not relay.came


async def test_the_profile_is_signed_again_weekly(world: KitWorld, kit: Advisor, relay: Relay) -> None:
    await published(kit)
    world.ahead += 6 * DAY
    await kit.market.refresh()
    again = len(relay.came)
    world.ahead += DAY
    await kit.market.refresh()
    versions = [market_events.read(each).profile.version for each in relay.came]
    assert versions[:again] == ["1.0.0"] * again and versions[-1] == "1.0.1"


async def test_withdrawing_deletes_every_version_a_second_before_its_tombstone(
    world: KitWorld, kit: Advisor, relay: Relay
) -> None:
    first = await published(kit)
    world.ahead += 3_601
    await kit.market.adverts.publish()
    second = relay.came[-1]
    await kit.market.adverts.withdraw()
    gone, stone = relay.came[-2:]
    assert set(gone.tag_values("e")) == {first.id, second.id}
    assert gone.tag_values("a") == [f"38380:{kit.pubkey}:did:nostr:{kit.pubkey}"]
    assert gone.created_at == stone.created_at - 1 > second.created_at
    assert isinstance(market_events.read(stone), market_events.Tombstone)
    assert committed_bits(stone) == 6, "readers that ask for work see it too"
    with pytest.raises(Conflict):
        await kit.market.adverts.withdraw()
    world.ahead += 8 * DAY
    await kit.market.refresh()
    assert relay.held[38380, f"did:nostr:{kit.pubkey}"] == stone
    await kit.market.adverts.publish()
    assert relay.held[38380, f"did:nostr:{kit.pubkey}"] != stone


async def test_an_offer_that_was_taken_says_so_until_its_end(kit: Advisor, relay: Relay) -> None:
    made = await kit.market.adverts.create(OFFER)
    await kit.market.adverts.fill(made.d)
    advert = market_events.read(relay.held[market_events.OFFER, made.d])
    assert isinstance(advert, market_events.OfferAdvert) and advert.offer.status == "filled"
    with pytest.raises(Conflict):
        await kit.market.adverts.update(made.d, {"price_sats": 1})


async def _life(kit: Advisor) -> None:
    """Every step of an advert's life, done as far as it is not."""
    try:
        held = await kit.market.adverts.profile()
    except NotFound:
        held = await kit.market.adverts.edit(subject())
    if held.status == "draft":
        await kit.market.adverts.publish()
    elif held.status == "withdrawn":
        return
    await kit.market.adverts.withdraw()


async def test_a_kill_at_every_write_and_relay_of_a_life_ends_withdrawn(tmp_path: Path) -> None:
    at, ended = 0, False
    while not ended:
        world = hire_world(tmp_path / str(at), market=MarketConfig(pow_bits=0))
        relay = Relay(world)
        ended = not await world.killed(at, lambda kit, r=relay: _life(joined(kit, r)))
        async with world.open() as kit:
            joined(kit, relay)
            try:
                await _life(kit)
            except HiveError as error:
                raise AssertionError(f"point {at}: {error}") from error
            world.ahead += 5
            await kit.market.refresh()
            address = (38380, f"did:nostr:{kit.pubkey}")
            assert isinstance(market_events.read(relay.held[address]), market_events.Tombstone), at
            ids = {each.id for each in relay.came if each.kind == 38380 and each.content}
            assert len(ids) <= 1, f"point {at}: published {len(ids)} times"
            named = {one for each in relay.came if each.kind == 5 for one in each.tag_values("e")}
            assert ids <= named, at
        at += 1
    assert at > 5
