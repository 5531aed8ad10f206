"""Which relay is used for what (Protocol 04 §7.1, §7.4)."""

from __future__ import annotations

from typing import Any

import pytest
from cl_hive_comms.domain.relay_sets import RelaySets, is_advert_filter

A, B, C, S, P, F = (f"wss://{name}.example" for name in "abcspf")
ME = "ab" * 32
OFFER, PROFILE, STALL, OTHER = 38381, 38380, 30017, 30078


def test_adverts_go_to_primary_and_search_relays_and_profiles_to_profile_relays_too() -> None:
    sets = RelaySets((A, B), (S, A), (P,), (F,))
    assert sets.event_relays(OFFER) == ((A, B), (S,))
    assert sets.event_relays(PROFILE) == ((A, B, P), (S,))
    assert sets.event_relays(STALL) == ((A, B), (S,))
    # A kind the operator added is no advert.
    assert sets.event_relays(OTHER) == ((A, B), ())


def test_a_private_relay_gets_nothing_public_unless_it_is_primary_too() -> None:
    sets = RelaySets((A, B), (F, S), (F, P), (F, B))
    assert sets.fleet_only == (F,)
    assert sets.inbox == (A, B, F)
    assert sets.event_relays(PROFILE) == ((A, B, P), (S,))
    assert F not in sets.lists and F not in sets.searched
    assert B in sets.event_relays(OFFER)[0]


@pytest.mark.parametrize(
    ("sets", "kind", "low"),
    [
        (RelaySets((A, B)), OFFER, True),
        (RelaySets((A, B), (B,)), OFFER, True),
        (RelaySets((A, B), (S,)), OFFER, False),
        (RelaySets((A, B), (S,), privacy="strict"), OFFER, True),
        (RelaySets((A, B), (), (P,)), PROFILE, False),
        (RelaySets((A, B), (), (P,)), OFFER, True),
        (RelaySets((A, B), (), (), (F,)), OFFER, True),
        (RelaySets((A,)), STALL, False),
        (RelaySets((A,)), 38383, False),
    ],
)
def test_low_redundancy_counts_distinct_relays_of_profiles_and_offers(
    sets: RelaySets, kind: int, low: bool
) -> None:
    assert sets.low_redundancy(kind) is low


def test_search_relays_are_kept_only_while_adverts_are_read_and_eight_is_the_most() -> None:
    sets = RelaySets((A, B), (S,), (P,), (F,))
    quiet, browsing = sets.standing(browsing=False), sets.standing(browsing=True)
    assert quiet.all == (A, B, F, P) and quiet.adverts == ()
    assert browsing.adverts == (S, A, B) and set(browsing.all) == {A, B, F, S, P}
    many = tuple(f"wss://r{number}.example" for number in range(7))
    full = RelaySets(many, (S,), (P,), (F,)).standing(browsing=True)
    assert full.all == (*many, F) and full.reads == (*many, F) and S not in full.adverts
    over = RelaySets((*many, A), (), (), (F, B))
    assert "10 relays together; 8 are used" in (over.too_many() or "")
    assert over.standing(browsing=False).reads == (*many, A)
    assert RelaySets((*many, A)).too_many() is None


def test_isolated_reading_has_two_relays_and_strict_no_search_relay() -> None:
    assert RelaySets((A, B, C), (S,)).browsed() == ()
    isolated = RelaySets((A, B, C), (S,), privacy="isolated")
    assert isolated.browsed() == (S, A) and isolated.standing(browsing=True).adverts == ()
    strict = RelaySets((A, B, C), (S,), privacy="strict")
    assert strict.browsed() == (A, B) and strict.searched == ()


@pytest.mark.parametrize(
    ("one", "advert"),
    [
        ({"kinds": [38380, 38901], "#t": ["hive-advisor"]}, True),
        ({"kinds": [30402]}, True),
        ({"kinds": [5], "#k": ["38380", "38381"]}, True),
        ({"kinds": [5], "#k": ["1"]}, False),
        ({"kinds": [5]}, False),
        ({"kinds": [38380, 1]}, False),
        ({"#t": ["hive-advisor"]}, False),
        ({"kinds": [38383], "#p": [ME]}, False),
        ({"kinds": [38383], "authors": ["cd" * 32, ME]}, False),
        ({"kinds": [38383], "authors": ["cd" * 32]}, True),
    ],
)
def test_what_names_our_key_is_not_asked_where_we_only_browse(one: dict[str, Any], advert: bool) -> None:
    assert is_advert_filter(one, {ME: None}) is advert
