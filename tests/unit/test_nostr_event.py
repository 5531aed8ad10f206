"""Events: strict reading, ids, signatures (Protocol 04 §5.2), checked against nostr-sdk."""

from __future__ import annotations

import json
import os
from typing import Any

import nostr_sdk
import pytest
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.nostr import event as nostr_event
from hive_shared.nostr.event import Event, build, check, parse_event, to_text, verify
from hive_shared.nostr.reasons import EventInvalid
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

SECRET = Secret(bytes.fromhex("11" * 32))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def _event(**changes: Any) -> Event:
    base = build(SECRET, 1, [["t", "lightning"], ["p", "22" * 32]], 'say "hi"\n\t\x01 ⚡', 1_700_000_000)
    return replace(base, **changes)


def _object(**changes: Any) -> dict[str, Any]:
    return _event().to_json() | changes


def test_a_built_event_is_authentic_for_us_and_for_an_independent_client() -> None:
    event = _event()
    assert verify(event)
    assert event.pubkey == xonly_pubkey(SECRET)
    assert nostr_sdk.Event.from_json(json.dumps(event.to_json())).verify()


@settings(max_examples=60, deadline=None)
@given(TEXT, st.lists(st.lists(TEXT, min_size=1, max_size=4), max_size=4), st.integers(0, 65_535))
def test_our_ids_are_those_of_an_independent_client(content: str, tags: list[list[str]], kind: int) -> None:
    event = build(SECRET, kind, tags, content, 1_700_000_000)
    assert verify(event)
    # nostr-sdk recomputes the id when it verifies one it has parsed.
    foreign = nostr_sdk.Event.from_json(json.dumps(event.to_json()))
    assert foreign.id().to_hex() == event.id
    assert foreign.verify()


def test_events_of_an_independent_client_verify() -> None:
    keys = nostr_sdk.Keys.generate()
    foreign = nostr_sdk.EventBuilder(nostr_sdk.Kind(1), "grüße \x7f").finalize(keys)
    event = parse_event(json.loads(foreign.as_json()))
    assert verify(event)
    assert event.pubkey == keys.public_key().to_hex()


def test_to_json_and_back_is_the_same_event() -> None:
    event = _event()
    assert parse_event(json.loads(to_text(event.to_json()))) == event


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"content": "other"}, "id_mismatch"),
        ({"created_at": 1_700_000_001}, "id_mismatch"),
        ({"tags": (("t", "other"),)}, "id_mismatch"),
        ({"id": "00" * 32}, "id_mismatch"),
        ({"sig": "00" * 64}, "bad_signature"),
        ({"sig": "00"}, "bad_signature"),
        ({"content": "\ud800"}, "surrogate"),
        ({"content": "é" * 40_000}, "too_large"),
    ],
)
def test_any_altered_field_is_found(changes: dict[str, Any], problem: str) -> None:
    altered = _event(**changes)
    assert check(altered) == problem
    assert not verify(altered)


def test_an_author_that_is_no_curve_point_is_a_bad_signature() -> None:
    off_curve = "ff" * 32
    body = (off_curve, 1, 1, (), "x")
    forged = Event(nostr_event.event_id(*body), *body, "00" * 64)
    assert check(forged) == "bad_signature"


def test_a_signature_of_another_key_is_a_bad_signature() -> None:
    other = build(Secret(os.urandom(32)), 1, [], "x", 1)
    mine = build(SECRET, 1, [], "x", 1)
    assert check(replace(mine, sig=other.sig)) == "bad_signature"


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "AB" * 32},
        {"id": "ab" * 31},
        {"id": 5},
        {"id": "ab" * 32 + "\n"},
        {"pubkey": None},
        {"pubkey": "zz" * 32},
        {"sig": "ab" * 63},
        {"sig": ["ab"]},
        {"kind": True},
        {"kind": -1},
        {"kind": 65_536},
        {"kind": 1.0},
        {"kind": "1"},
        {"created_at": True},
        {"created_at": -1},
        {"created_at": 2**63},
        {"created_at": 1.5},
        {"tags": None},
        {"tags": {}},
        {"tags": ["p"]},
        {"tags": [[]]},
        {"tags": [["p", 1]]},
        {"tags": [["p", None]]},
        {"tags": [[["p"]]]},
        {"content": None},
        {"content": {}},
    ],
)
def test_wrong_field_types_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(EventInvalid) as refused:
        parse_event(_object(**wrong))
    assert refused.value.reason == "field"


@pytest.mark.parametrize("missing", ["id", "pubkey", "created_at", "kind", "tags", "content", "sig"])
def test_every_field_is_needed(missing: str) -> None:
    found = _object()
    del found[missing]
    with pytest.raises(EventInvalid):
        parse_event(found)


@pytest.mark.parametrize("thing", [None, [], "event", 5, True])
def test_only_an_object_is_an_event(thing: object) -> None:
    with pytest.raises(EventInvalid):
        parse_event(thing)


@pytest.mark.parametrize(
    "large",
    [
        {"tags": [["t"]] * 501},
        {"tags": [["t"] * 33]},
        {"tags": [["t", "x" * 8_193]]},
        {"tags": [["t", "é" * 4_097]]},
        {"content": "x" * 65_537},
    ],
)
def test_sizes_are_bounded(large: dict[str, Any]) -> None:
    with pytest.raises(EventInvalid) as refused:
        parse_event(_object(**large))
    assert refused.value.reason == "too_large"


def test_the_size_that_is_bounded_is_that_of_the_json_text() -> None:
    frame = len(to_text(build(SECRET, 1, [], "", 1_700_000_000).to_json()))
    fits = build(SECRET, 1, [], "x" * (65_536 - frame), 1_700_000_000)
    assert len(to_text(fits.to_json())) == 65_536 and verify(fits)
    assert check(build(SECRET, 1, [], "x" * (65_537 - frame), 1_700_000_000)) == "too_large"


def test_expiration_is_read_only_from_a_plain_number() -> None:
    assert build(SECRET, 1, [["expiration", "1700000000"]], "", 1).expiration == 1_700_000_000
    for odd in ("", "-1", "1e9", "٣", "9" * 17):
        assert build(SECRET, 1, [["expiration", odd]], "", 1).expiration is None
    assert build(SECRET, 1, [["expiration"]], "", 1).expiration is None
