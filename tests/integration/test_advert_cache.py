"""Adverts taken in, kept and let go (docs/protocol/04-marketplace-and-nostr.md §5.2, §5.3, §7.3)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import market_documents as made
import pytest
from advert_world import RELAY, MarketWorld, withdrawn
from cl_hive_comms.domain import advert
from cl_hive_comms.domain.market_match import WEIGHTS, criteria
from cl_hive_comms.services.discovery_service import FILTERS
from hive_shared import vc
from hive_shared.crypto import xonly_pubkey
from hive_shared.errors import Ambiguous, FeatureDisabled, InvalidParams, NotFound
from hive_shared.nostr.event import build
from hive_shared.nostr.filters import compile_filters
from hive_shared.nostr.keys import npub_encode

ONE, TWO, THREE = made.key(1), made.key(2), made.key(3)
DAY = 86_400


@pytest.fixture
def world(tmp_path: Path) -> Iterator[MarketWorld]:
    made_world = MarketWorld(tmp_path / "comms.db")
    yield made_world
    made_world.db.close()


def named(name: str, number: int, **more: Any) -> Any:
    return made.profile_event(made.key(number), displayName=name, **more)


async def test_adverts_are_kept_over_a_restart(world: MarketWorld) -> None:
    await world.take(made.profile_event(ONE), made.offer_event(ONE, trial_days=14))
    before = (dict(world.cache.profiles), dict(world.cache.offers))
    world.reopen()
    assert await world.names() == ["Hex Fleet Advisor"]
    assert (world.cache.profiles, world.cache.offers) == before
    (row,) = world.cache.profiles.values()
    assert row.relays == (RELAY,) and row.profile.document == {}
    text = await world.cache.document(row.advisor_id)
    assert text is not None and '"Hex Fleet Advisor"' in text


async def test_the_newer_version_counts_whatever_comes_last(world: MarketWorld) -> None:
    old = made.profile_event(ONE)
    new = made.profile_event(ONE, made.AT + 1, version="1.0.1", displayName="Hex Two")
    await world.take(new, old)
    assert await world.names() == ["Hex Two"] and world.cache.counters == {"older": 1}
    world.reopen()
    await world.take(old)
    assert await world.names() == ["Hex Two"]


async def test_of_one_second_the_lower_id_counts(world: MarketWorld) -> None:
    twins = [
        made.profile_event(ONE, at=made.AT + 5, version="1.0.1", displayName=name) for name in ("Ann", "Bea")
    ]
    lower = min(twins, key=lambda event: event.id)
    await world.take(*twins)
    shown = (await world.search()).found[0].row
    # A version is one content: the second one of it is refused, unless it stands first by its id.
    assert shown.event_id in {lower.id, twins[0].id}


async def test_a_version_says_one_thing(world: MarketWorld) -> None:
    avail = {"uptimeTarget": 99.0}
    await world.take(made.profile_event(ONE, version="1.2.0", availability=avail))
    await world.take(made.profile_event(ONE, made.AT + 1, version="1.2.0", displayName="Else"))
    await world.take(made.profile_event(ONE, made.AT + 2, version="1.1.9"))
    assert world.cache.counters == {"version_reused": 1, "version_fell": 1}
    assert [row["reason"] for row in world.logged] == ["version_reused", "version_fell"]
    # Signed anew and unchanged, a week later, after a restart.
    world.reopen()
    world.now += 7 * DAY
    await world.take(made.profile_event(ONE, world.now, version="1.2.0", availability=avail))
    (row,) = world.cache.profiles.values()
    assert row.created_at == world.now and row.first_seen == made.AT


async def test_acceptance_04_04_two_updates_in_one_second_leave_the_last(world: MarketWorld) -> None:
    for step in range(3):
        await world.take(made.profile_event(ONE, made.AT + step, version=f"1.0.{step}"))
    assert next(iter(world.cache.profiles.values())).profile.version == "1.0.2"


async def test_what_an_author_changes_too_often_waits_for_its_slot(world: MarketWorld) -> None:
    for step in range(5):
        await world.take(made.profile_event(ONE, made.AT + step, version=f"1.0.{step}"))
    assert world.cache.counters["rate"] == 2
    assert next(iter(world.cache.profiles.values())).profile.version == "1.0.2"
    world.now += 3_601
    await world.cache.tidy()
    assert next(iter(world.cache.profiles.values())).profile.version == "1.0.4"


async def test_acceptance_04_05_a_withdrawn_profile_stays_dead(world: MarketWorld) -> None:
    """The id of a subject holds colons; deletion and tombstone work each alone."""
    event = made.profile_event(ONE)
    deletion, grave = withdrawn(ONE, event, made.AT + 10)
    for way in ((deletion,), (grave,), (deletion, grave), (grave, deletion)):
        world.cache.profiles.clear()
        world.cache._graves.clear()
        await world.take(event)
        assert await world.names() == ["Hex Fleet Advisor"]
        await world.take(*way)
        assert await world.names() == []
        world.reopen()
        world.shelf = [event]
        world.now += 4_000
        assert await world.names() == [] and world.asked
    later = made.profile_event(ONE, made.AT + 100, version="2.0.0")
    await world.take(later)
    assert await world.names() == ["Hex Fleet Advisor"]


async def test_a_deletion_counts_for_its_author_alone(world: MarketWorld) -> None:
    event, sale = made.profile_event(ONE), made.offer_event(ONE)
    theft = build(TWO, 5, [["e", event.id], ["e", sale.id], ["k", "38380"]], "", made.AT + 1)
    await world.take(theft, event, sale)
    await world.take(build(TWO, 5, [["e", event.id], ["k", "38380"]], "", made.AT + 2))
    assert await world.names() == ["Hex Fleet Advisor"] and len(world.cache.offers) == 1
    await world.take(*withdrawn(ONE, sale, made.AT + 3))
    assert not world.cache.offers and len(world.cache.profiles) == 1


async def test_acceptance_04_07_orders_of_other_platforms_are_nobodys_fault(world: MarketWorld) -> None:
    orders = [
        build(TWO, kind, [["d", str(number)], ["y", "robosats"], ["k", "sell"]], "", made.AT)
        for number in range(40)
        for kind in (38383, 38384, 38385, 38380)
    ]
    await world.take(*orders)
    assert not world.cache.profiles and not world.cache.counters and not world.logged
    # They cost the author nothing: an advert of the same key is taken.
    await world.take(made.profile_event(TWO))
    assert await world.names() == ["Hex Fleet Advisor"]


async def test_acceptance_04_14_a_copied_profile_is_a_strangers(world: MarketWorld) -> None:
    await world.take(made.profile_event(ONE))
    world.now += 60
    await world.take(made.changed(made.profile_event(ONE), TWO))
    answer = await world.search()
    first, second = answer.found
    assert first.row.pubkey == xonly_pubkey(ONE) and not world.discovery.warnings(first.row)
    assert second.row.advisor_id == vc.did_of(xonly_pubkey(TWO))
    assert second.row.claimed_did == vc.did_of(xonly_pubkey(ONE)) and second.row.did_state == "failed"
    said = world.discovery.warnings(second.row)
    assert any("is another's" in one for one in said) and any("known for longer" in one for one in said)
    with pytest.raises(Ambiguous) as error:
        await world.discovery.resolve("hex fleet advisor")
    assert len(error.value.data["candidates"]) == 2


async def test_a_name_drawn_alike_is_pointed_out(world: MarketWorld) -> None:
    await world.take(named("Hex Fleet Advisor", 1))
    world.now += 1
    await world.take(named("Неx Fleet Advisor", 2))
    (row,) = (one.row for one in (await world.search()).found if one.row.pubkey == xonly_pubkey(TWO))
    said = " ".join(world.discovery.warnings(row))
    assert "Cyrillic" in said and "looks like that of" in said


async def test_a_search_sees_every_change_since_the_last(world: MarketWorld) -> None:
    original = named("Beacon", 1)
    await world.take(original, named("Lantern", 2, at=made.AT + 1))
    await world.take(named("BEACON", 3, at=made.AT + 2))
    assert sorted(await world.names()) == ["BEACON", "Beacon", "Lantern"]
    (copy,) = [one for one in (await world.search()).found if one.row.profile.name == "BEACON"]
    assert "looks like that of 'Beacon'" in " ".join(world.discovery.warnings(copy.row))
    await world.take(named("Lighthouse", 2, now=made.AT + 60, version="1.1.0"))
    assert sorted(await world.names()) == ["BEACON", "Beacon", "Lighthouse"]
    await world.cache.block(original.pubkey, "copies", None)
    assert sorted(await world.names()) == ["BEACON", "Lighthouse"]
    # Nobody is left who had the name before.
    assert not world.discovery.warnings(copy.row)


async def test_acceptance_04_25_clocks(world: MarketWorld) -> None:
    """Ten minutes ahead is taken, of the document's date as of the event's (the engine's part)."""
    await world.take(made.profile_event(ONE, made.AT + 600))
    await world.take(made.profile_event(TWO, made.AT + 1_200))
    assert world.cache.counters == {"future": 1} and len(world.cache.profiles) == 1
    # The node's own clock set back changes nothing that is kept.
    world.now -= 10 * DAY
    assert await world.names() == ["Hex Fleet Advisor"]


async def test_what_is_old_is_hidden_then_forgotten(world: MarketWorld) -> None:
    await world.take(made.profile_event(ONE), made.offer_event(ONE), made.profile_event(TWO))
    world.hired = {xonly_pubkey(TWO)}
    world.now += 31 * DAY
    await world.cache.tidy()
    assert not world.cache.offers
    row = (await world.search()).found[0].row
    assert "not renewed" in " ".join(world.discovery.warnings(row))
    world.now += 60 * DAY
    assert await world.names() == [] and len(await world.names(include_stale=True)) == 2
    await world.take(made.profile_event(THREE, world.now, displayName="Fresh"))
    assert (await world.names(include_stale=True))[0] == "Fresh"
    world.now += 30 * DAY
    await world.cache.tidy()
    world.reopen()
    await world.cache.load()
    # Who is hired stays.
    assert set(world.cache.profiles) == {vc.did_of(xonly_pubkey(key)) for key in (TWO, THREE)}


async def test_caps_hold_and_the_hired_stay(world: MarketWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advert, "MAX_PROFILES", 5)
    monkeypatch.setattr(advert, "MAX_OFFERS", 5)
    world.hired = {xonly_pubkey(made.key(n)) for n in (20, 21)}
    for number in range(20, 40):
        await world.take(made.profile_event(made.key(number)), made.offer_event(made.key(number)))
        assert len(world.cache.profiles) <= 5 and len(world.cache.offers) <= 5
    hired = {vc.did_of(pubkey) for pubkey in world.hired}
    assert hired <= set(world.cache.profiles) and world.hired <= set(world.cache.offers)
    before = dict(world.cache.profiles), dict(world.cache.offers)
    world.reopen()
    await world.cache.load()
    assert (world.cache.profiles, world.cache.offers) == before


async def test_a_blocked_key_is_not_heard(world: MarketWorld) -> None:
    key = xonly_pubkey(ONE)
    await world.take(made.profile_event(ONE), made.offer_event(ONE))
    await world.cache.block(key, "spam", made.AT + DAY)
    world.reopen()
    await world.take(made.profile_event(ONE, made.AT + 1, version="2.0.0"))
    assert await world.names() == [] and not world.cache.offers and world.cache.counters == {"blocked": 1}
    world.now += DAY
    await world.take(made.profile_event(ONE, world.now, version="2.0.1"))
    assert await world.names() == ["Hex Fleet Advisor"]
    assert await world.cache.unblock(key) and not await world.cache.unblock(key)


async def test_work_is_demanded_where_the_operator_says_so(world: MarketWorld) -> None:
    world.min_pow = 4
    await world.take(made.profile_event(ONE))
    assert world.cache.counters == {"pow": 1} and not world.cache.profiles


# -- searching ---------------------------------------------------------------------------------------------


async def test_acceptance_04_02_the_order_is_that_of_a_match_made_by_hand(world: MarketWorld) -> None:
    caps = {
        "primary": ["fee-optimization"],
        "secondary": ["rebalancing"],
        "experimental": ["splice-management"],
    }
    avail = {"maxNodes": 10, "currentLoad": 5}
    price = {"models": [{"type": "subscription", "monthlyRate": 5000}]}
    await world.take(
        named("Ann", 1, capabilities=caps, availability=avail, pricing=price, specializations=[]),
        named("Bea", 2, capabilities={"primary": ["full-stack"]}, availability={}, specializations=[]),
        named("Cid", 3, capabilities={"primary": ["monitoring"]}),
    )
    world.now += 9 * DAY
    found = (
        await world.search(capabilities=["fee_optimization", "rebalancing"], maxMonthlySats=10_000)
    ).found
    # .35·.30 + .25·(1+.6)/2 + .15·1 + .10·(1−.5·.5) + .10·.5 + .05·.9  and  .25·.5, .10·.75, .10·.5
    assert [(one.row.profile.name, one.score) for one in found] == [("Ann", 0.625), ("Bea", 0.55)]
    found = (await world.search(specialization="high-volume-routing", weights={"rep": 0})).found
    # (.25·1 + .15·s + .10·.5 + .10·a + .05·.9) / .65 with s = 1, a = .8 for Cid and s = .5, a = .5 for Bea.
    assert [(one.row.profile.name, one.score) for one in found] == [("Cid", 0.8846), ("Bea", 0.7231)]


async def test_every_filter(world: MarketWorld) -> None:
    await world.take(made.profile_event(ONE), made.offer_event(ONE, min_node_capacity=1_000, max_channels=50))
    asked: dict[str, Any]
    for asked, fits in (
        ({}, True),
        ({"maxMonthlySats": 4_999}, False),
        ({"maxMonthlySats": 5_000}, True),
        ({"supportedSchemas": ["hive:splice/v1"]}, False),
        ({"supportedSchemas": ["hive:monitor/v1"]}, True),
        ({"minReputationScore": 1}, False),
        ({"min_reputation": 0}, True),
        ({"pricing_model": "performance-percentage"}, False),
        ({"pricing_model": "subscription"}, True),
        ({"payment_methods": ["l402"]}, False),
        ({"payment_methods": "l402,cashu"}, True),
        ({"trial_available": True}, True),
        ({"min_uptime": 99.6}, False),
        ({"min_uptime": 99.5}, True),
        ({"max_response_s": 299}, False),
        ({"max_response_s": 300}, True),
        ({"node_capacity": 999}, False),
        ({"node_capacity": 1_000}, True),
        ({"channel_count": 51}, False),
        ({"channel_count": 50}, True),
        ({"require_did": True}, False),
        ({"specializations": ["other"]}, False),
        ({"query": "hex FEE"}, True),
        ({"query": "lex"}, False),
        ({"capabilities": ["expansion planning"]}, True),
        ({"capabilities": ["monitoring"]}, False),
    ):
        assert bool(await world.names(**asked)) is fits, asked


async def test_what_an_advisor_does_not_say_fails_what_is_asked(world: MarketWorld) -> None:
    await world.take(made.profile_event(ONE, availability={"acceptingNewClients": True}))
    assert await world.names()
    assert not await world.names(min_uptime=0) and not await world.names(max_response_s=86_400)


async def test_full_and_paused_advisors_are_shown_when_asked_for(world: MarketWorld) -> None:
    closed = {"acceptingNewClients": False}
    await world.take(named("Full", 1, availability=closed))
    paused = made.changed(named("Paused", 2), TWO, drop=["status"], add=[["status", "paused"]])
    await world.take(paused)
    assert await world.names() == []
    assert sorted(await world.names(acceptingNewClients=False)) == ["Full", "Paused"]


def test_questions_that_are_none() -> None:
    asked: dict[str, Any]
    for asked, says in (
        ({"colour": "red"}, "unknown keys"),
        ({"limit": 0}, "1 to 500"),
        ({"limit": 501}, "500"),
        ({"maxMonthlySats": -1}, "integer"),
        ({"minReputationScore": 101}, "0 to 100"),
        ({"payment_methods": ["gold"]}, "bolt11"),
        ({"sort": "name"}, "match"),
        ({"weights": {"luck": 1}}, "rep"),
        ({"weights": {"rep": -1}}, "0 to 1000"),
        ({"cursor": "x"}, "next_cursor"),
        ({"capabilities": [5]}, "words"),
        ({"minReputationScore": 1, "min_reputation": 1}, "twice"),
        ({"acceptingNewClients": "yes"}, "true or false"),
    ):
        with pytest.raises(InvalidParams, match=says):
            criteria(asked)


async def test_pages_and_orders(world: MarketWorld) -> None:
    with pytest.raises(InvalidParams, match="none above 0"):
        await world.search(weights=dict.fromkeys(WEIGHTS, 0))
    for number, rate in ((11, 900), (12, 100), (13, 500)):
        price = {"models": [{"type": "subscription", "monthlyRate": rate}]}
        await world.take(
            made.profile_event(made.key(number), made.AT + number, displayName=f"A{rate}", pricing=price)
        )
    assert await world.names(sort="price") == ["A100", "A500", "A900"]
    assert await world.names(sort="newest") == ["A500", "A100", "A900"]
    assert await world.names(sort="price", limit=1, cursor="1") == ["A500"]
    page = await world.search(sort="price", limit=2)
    assert (page.total, page.first, len(page.found)) == (3, 1, 2)
    # An index means the same advisor on every page.
    assert world.discovery.key_at("3", page.result_id) == xonly_pubkey(made.key(11))


async def test_an_index_is_good_for_an_hour(world: MarketWorld) -> None:
    await world.take(made.profile_event(ONE))
    for index in ("1", "0", "2", "99999999"):
        with pytest.raises(NotFound) as error:
            world.discovery.key_at(index)
        assert error.value.reason == "stale_index"
        await world.search() if index == "99999999" else None
    assert world.discovery.key_at("1") == xonly_pubkey(ONE)
    assert (await world.discovery.resolve("1")).row.profile.name == "Hex Fleet Advisor"
    for index in ("0", "2"):
        with pytest.raises(NotFound):
            world.discovery.key_at(index)
    with pytest.raises(NotFound):
        world.discovery.key_at("1", "no-such-result")
    world.now += 3_600
    with pytest.raises(NotFound, match="search again"):
        world.discovery.key_at("1")


async def test_who_is_meant(world: MarketWorld) -> None:
    await world.take(made.profile_event(ONE))
    key = xonly_pubkey(ONE)
    for text in ("Hex Fleet ADVISOR", key, npub_encode(key), vc.did_of(key)):
        assert (await world.discovery.resolve(text)).row.pubkey == key
    for text in ("nobody", "", npub_encode(xonly_pubkey(TWO))):
        with pytest.raises(NotFound, match="discover"):
            await world.discovery.resolve(text)
    with pytest.raises(InvalidParams):
        await world.discovery.resolve("npub1xyz")


async def test_relays_are_asked_once_an_hour(world: MarketWorld) -> None:
    world.shelf = [made.profile_event(ONE)]
    answer = await world.search()
    assert answer.total == 1 and answer.sources["nostr"] == "ok" and not answer.single_source
    await world.search()
    assert len(world.asked) == 1
    # What is asked names one-letter tags alone, and nothing of the question.
    assert {name for one in world.asked[0] for name in one} == {"kinds", "#t", "#k"}
    world.now += 3_600
    world.answering = 1
    assert (await world.search()).single_source and len(world.asked) == 2
    await world.discovery.discover(criteria({}), refresh=True)
    assert len(world.asked) == 3
    world.answering = 0
    assert (await world.discovery.discover(criteria({}), refresh=True)).sources["nostr"] == "timeout"
    world.relays = 0
    answer = await world.discovery.discover(criteria({}), refresh=True)
    assert answer.sources["nostr"] == "unavailable" and answer.total == 1
    assert answer.sources["archon"] == answer.sources["gossip"] == "unavailable"


async def test_acceptance_04_03_a_relay_that_filters_nothing_changes_nothing(world: MarketWorld) -> None:
    """What is asked holds one-letter tags alone, which strict relays take; the rest is chosen here."""
    for one in compile_filters(FILTERS):
        assert one.kinds is not None and all(len(name) == 1 for name, _ in one.tags)
    rebalancer = named("Bea", 2, capabilities={"primary": ["rebalancing"]})
    foreign = build(THREE, 38383, [["d", "order"], ["y", "robosats"]], "", made.AT)
    world.shelf = [named("Ann", 1), rebalancer, foreign]
    assert await world.names(capabilities=["fee-optimization"]) == ["Ann"]
    assert not world.cache.counters


async def test_acceptance_04_19_switches(world: MarketWorld) -> None:
    world.discovery.follow(subscribe=True)
    assert world.following
    await world.take(made.profile_event(ONE))
    world.set(subscribe=False)
    world.discovery.follow(subscribe=False)
    assert not world.following
    answer = await world.search()
    assert answer.total == 1 and answer.sources["nostr"] == "unavailable" and not world.asked
    world.set(enabled=False, subscribe=True)
    world.discovery.follow(subscribe=True)
    assert not world.following
    with pytest.raises(FeatureDisabled):
        await world.search()
    with pytest.raises(FeatureDisabled):
        await world.discovery.resolve("Hex")


async def test_trust_hides_and_never_orders(world: MarketWorld) -> None:
    await world.take(made.profile_event(ONE))
    world.set(min_trust=1)
    assert await world.names() == [] and len(await world.names(include_hidden=True)) == 1
    world.now += 31 * DAY
    assert len(await world.names()) == 1
    world.set(min_trust=0, require_did=True)
    assert await world.names() == []


async def test_every_check_of_an_advert(world: MarketWorld) -> None:
    event = made.profile_event(ONE)
    world.shelf = [event]
    for given in (event.to_json(), event.id):
        good = await world.discovery.verify(given)
        assert good["ok"] is True and good["npub"] == npub_encode(xonly_pubkey(ONE)), good
        assert set(good["checks"]) == {
            *("fields", "id", "signature", "created_at", "expiration", "blocked", "content", "proof"),
            *("did", "tags"),
        }
    forged = {**event.to_json(), "sig": "0" * 128}
    other = {**event.to_json(), "content": "x"}
    copied = made.changed(event, TWO).to_json()
    for bad, name, value in (
        (forged, "signature", "bad_signature"),
        (other, "id", "wrong"),
        (copied, "did", "failed"),
        ({**event.to_json(), "kind": "x"}, "fields", "kind"),
    ):
        found = await world.discovery.verify(bad)
        assert found["ok"] is False and value in str(found["checks"][name]), found
    for wrong in ("xyz", 5, None):
        with pytest.raises(InvalidParams):
            await world.discovery.verify(wrong)
    with pytest.raises(NotFound):
        await world.discovery.verify("0" * 64)
