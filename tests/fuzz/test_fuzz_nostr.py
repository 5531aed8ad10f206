"""Every decoder of the Nostr package against generated and mutated input: a reason, never a surprise."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.nostr import giftwrap, nip44
from hive_shared.nostr.chunks import ChunkBuffer
from hive_shared.nostr.event import Event, build, check, parse_event, to_text
from hive_shared.nostr.frames import decode_json
from hive_shared.nostr.inbound import Incoming, Subscription, check_batch
from hive_shared.nostr.legacy_dm import open_legacy
from hive_shared.nostr.reasons import NostrInvalid
from hive_shared.nostr.relay import normalise_relay_url
from hypothesis import given
from hypothesis import strategies as st

ALICE, BOB = Secret(b"\x01" * 32), Secret(b"\x02" * 32)
NOW = 1_700_000_000
GOOD = build(ALICE, 1, [["t", "hive"], ["expiration", "1800000000"]], "content", NOW).to_json()
WRAPPED = to_text(
    giftwrap.wrap(ALICE, xonly_pubkey(BOB), "secret text", tags=[], now=NOW, rng=os.urandom, expiration=None)[
        0
    ].to_json()
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=15,
)
FIELDS = st.sampled_from(sorted(GOOD))


@given(st.text(max_size=300) | JSON.map(json.dumps) | st.binary(max_size=300).map(repr))
def test_any_text_is_a_value_or_a_reason(text: str) -> None:
    try:
        decode_json(text)
    except NostrInvalid as error:
        assert error.reason


@given(JSON | st.dictionaries(FIELDS, JSON).map(lambda changes: GOOD | changes))
def test_any_object_is_an_event_or_a_reason(value: Any) -> None:
    try:
        event = parse_event(value)
    except NostrInvalid as error:
        assert error.reason
        return
    problem = check(event)
    unchanged = event == parse_event(GOOD)
    assert (problem is None) is unchanged
    assert parse_event(event.to_json()) == event


@given(st.lists(st.dictionaries(FIELDS, JSON).map(lambda changes: GOOD | changes) | st.just({}), max_size=5))
def test_a_batch_of_anything_never_raises(objects: list[dict[str, Any]]) -> None:
    async def nobody(url: str, name: str, event: Event) -> None:
        """Take nothing."""

    subscription = Subscription("s", [{"kinds": [1], "#t": ["hive"]}], lambda url: None, nobody)
    batch = [Incoming("ws://x", subscription, one, 1, lambda reason: None) for one in objects]
    outcomes = check_batch(batch, NOW + 900, NOW)
    assert len(outcomes) == len(batch)
    for outcome in outcomes:
        assert outcome == parse_event(GOOD) or (isinstance(outcome, str) and outcome != "error")


@given(st.integers(0, len(WRAPPED) - 1), st.characters(), st.integers(0, 3))
def test_a_gift_wrap_altered_anywhere_is_the_same_message_or_a_reason(at: int, char: str, cut: int) -> None:
    altered = WRAPPED[:at] + char + WRAPPED[at + cut :]
    try:
        event = parse_event(decode_json(altered))
        message = giftwrap.unwrap(BOB, event)
    except NostrInvalid as error:
        assert error.reason and "secret text" not in str(error)
        return
    assert message.content == "secret text" and message.sender == xonly_pubkey(ALICE)


@given(JSON | st.text(max_size=200))
def test_whatever_is_sealed_inside_a_wrap_is_a_reason(inner: Any) -> None:
    text = inner if isinstance(inner, str) and inner else to_text(inner)
    key = nip44.conversation_key(ALICE, xonly_pubkey(BOB))
    try:
        seal = build(ALICE, 13, [], nip44.encrypt(key, text), NOW)
        payload = nip44.encrypt(key, to_text(seal.to_json()))
    except NostrInvalid:
        return
    event = build(ALICE, 1059, [["p", xonly_pubkey(BOB)]], payload, NOW)
    with pytest.raises(giftwrap.WrapInvalid):
        giftwrap.unwrap(BOB, event)


@given(
    st.text(max_size=200)
    | st.from_regex(r"[A-Za-z0-9+/]{128,400}={0,2}", fullmatch=True)
    | st.from_regex(r"(b64:|nip44:|\{|\[| \{).{0,60}", fullmatch=True)
)
def test_whatever_a_message_of_kind_4_holds_is_a_reason_unless_it_is_allowed(content: str) -> None:
    try:
        event = build(ALICE, 4, [["p", xonly_pubkey(BOB)]], content, NOW)
    except NostrInvalid:
        return
    with pytest.raises(giftwrap.WrapInvalid):
        open_legacy(BOB, event, encrypted=True, plain=False)
    try:
        message, legacy = open_legacy(BOB, event, encrypted=True, plain=True)
    except giftwrap.WrapInvalid:
        return
    assert message.content == content and not legacy and content.lstrip()[0] in "{["


@given(st.text(max_size=200) | st.from_regex(r"[A-Za-z0-9+/]{128,400}={0,2}", fullmatch=True))
def test_any_payload_is_a_reason(payload: str) -> None:
    with pytest.raises(nip44.Nip44Error):
        nip44.decrypt(b"\x01" * 32, payload)


@given(st.lists(st.dictionaries(st.sampled_from(["schema", "id", "i", "n", "sha256", "data", "x"]), JSON)))
def test_any_chunks_are_a_reason(parts: list[dict[str, Any]]) -> None:
    buffer = ChunkBuffer()
    for part in parts:
        with pytest.raises(NostrInvalid):
            buffer.add("aa" * 32, part, 0)
    assert buffer.total_bytes == 0


@given(st.text(max_size=60).map(lambda tail: "wss://" + tail) | st.text(max_size=60), st.booleans())
def test_any_address_is_canonical_or_a_sentence(url: str, foreign: bool) -> None:
    try:
        found = normalise_relay_url(url, foreign=foreign)
    except ValueError as error:
        assert str(error)
        return
    assert normalise_relay_url(found, foreign=foreign) == found
