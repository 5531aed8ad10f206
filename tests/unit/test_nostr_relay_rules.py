"""The engine's pure parts: addresses, filters, strict frames, delays, memory of verified ids."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.nostr.event import build
from hive_shared.nostr.filters import compile_filters
from hive_shared.nostr.frames import decode_json
from hive_shared.nostr.inbound import Subscription, VerifiedIds
from hive_shared.nostr.reasons import FrameInvalid
from hive_shared.nostr.relay import normalise_relay_url
from hive_shared.nostr.relay_limits import RelayLimits, backoff_delay
from hive_shared.nostr.socks import parse_proxy
from hypothesis import given
from hypothesis import strategies as st

SECRET = Secret(b"\x01" * 32)
KEY = xonly_pubkey(SECRET)
EVENT = build(SECRET, 1, [["t", "hive"], ["p", "aa" * 32], ["odd"]], "x", 1_000)


@pytest.mark.parametrize(
    ("given_url", "expected"),
    [
        ("wss://Relay.Example.COM/", "wss://relay.example.com"),
        ("wss://relay.example.com:443", "wss://relay.example.com"),
        ("wss://relay.example.com:444/nostr/", "wss://relay.example.com:444/nostr"),
        ("wss://relay.example.com.", "wss://relay.example.com"),
        ("ws://127.0.0.1:7777", "ws://127.0.0.1:7777"),
        ("ws://localhost:80", "ws://localhost"),
        ("ws://[::1]:7777", "ws://[::1]:7777"),
        ("ws://abcdef.onion", "ws://abcdef.onion"),
        ("wss://10.0.0.5", "wss://10.0.0.5"),
    ],
)
def test_one_spelling_per_relay(given_url: str, expected: str) -> None:
    assert normalise_relay_url(given_url) == expected
    assert normalise_relay_url(expected) == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "relay.example.com",
        "https://relay.example.com",
        "ws://relay.example.com",
        "ws://10.0.0.5",
        "wss://",
        "wss://user:pass@relay.example.com",
        "wss://relay.example.com/#x",
        "wss://relay.example.com/?token=1",
        "wss://relay.example.com:99999",
        "wss://relay.example.com:0",
        "wss://relay example.com",
        "wss://relay.example.com\n",
        "wss://rel\u00e4y.example.com",
        "wss://relay.example.com\\@evil.example.com",
        "wss://[::1",
        "wss://" + "a" * 600 + ".com",
    ],
)
def test_unusable_addresses_are_refused_with_a_sentence(url: str) -> None:
    with pytest.raises(ValueError, match="relay"):
        normalise_relay_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "wss://localhost",
        "wss://127.0.0.1",
        "wss://10.1.2.3",
        "wss://192.168.1.1",
        "wss://172.16.0.1",
        "wss://169.254.169.254",
        "wss://0.0.0.0",
        "wss://[::1]",
        "wss://[fe80::1]",
        "wss://[::ffff:10.0.0.1]",
        "wss://2130706433",
        "wss://0x7f000001",
        "wss://127.1",
        "wss://router",
        "wss://node.local",
        "wss://metadata.internal",
        "wss://224.0.0.1",
        "ws://127.0.0.1:9",
    ],
)
def test_private_addresses_named_by_others_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="private"):
        normalise_relay_url(url, foreign=True)


def test_public_addresses_named_by_others_are_fine() -> None:
    assert normalise_relay_url("wss://nos.lol", foreign=True) == "wss://nos.lol"
    assert normalise_relay_url("wss://1.1.1.1", foreign=True) == "wss://1.1.1.1"
    assert normalise_relay_url("ws://abcdef.onion", foreign=True) == "ws://abcdef.onion"


@pytest.mark.parametrize(
    ("one", "matches"),
    [
        ({}, True),
        ({"kinds": [1]}, True),
        ({"kinds": [2]}, False),
        ({"ids": [EVENT.id]}, True),
        ({"ids": ["00" * 32]}, False),
        ({"authors": [KEY]}, True),
        ({"authors": ["00" * 32]}, False),
        ({"#t": ["other", "hive"]}, True),
        ({"#t": ["other"]}, False),
        ({"#e": ["hive"]}, False),
        ({"#t": ["hive"], "#p": ["aa" * 32]}, True),
        ({"#t": ["hive"], "#p": ["bb" * 32]}, False),
        ({"since": 1_000, "until": 1_000}, True),
        ({"since": 1_001}, False),
        ({"until": 999}, False),
        ({"limit": 1}, True),
    ],
)
def test_local_matching_is_that_of_nip01(one: dict[str, Any], matches: bool) -> None:
    (compiled,) = compile_filters([one])
    assert compiled.matches(EVENT) is matches


@pytest.mark.parametrize(
    "wrong",
    [
        {"#capability": ["x"]},
        {"search": "x"},
        {"kinds": []},
        {"kinds": [True]},
        {"kinds": ["1"]},
        {"kinds": list(range(501))},
        {"ids": ["abc"]},
        {"authors": [KEY.upper()]},
        {"#t": [1]},
        {"#t": "hive"},
        {"limit": 501},
        {"since": -1},
        {"until": 1.5},
    ],
)
def test_filters_relays_do_not_serve_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="filter"):
        compile_filters([wrong])


def test_the_number_of_filters_is_bounded() -> None:
    for count in (0, 11):
        with pytest.raises(ValueError, match="filters"):
            compile_filters([{"kinds": [1]}] * count)


def test_only_direct_message_subscriptions_have_priority() -> None:
    async def nobody(url: str, name: str, event: object) -> None:
        """Take nothing."""

    def priority(*filters: dict[str, Any]) -> bool:
        return Subscription("x", filters, lambda url: None, nobody).priority

    assert priority({"kinds": [1059], "#p": [KEY]})
    assert not priority({"kinds": [1059, 1]})
    assert not priority({"kinds": [1059]}, {"#p": [KEY]})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "malformed"),
        ("{", "malformed"),
        ("[1,]", "malformed"),
        ("NaN", "malformed"),
        ("-Infinity", "malformed"),
        ("9" * 5_000, "malformed"),
        ('{"a":1,"a":1}', "duplicate_key"),
        ('{"b":{"a":1,"a":1}}', "duplicate_key"),
        ('"\\ud800"', "surrogate"),
        ('{"\\uDC00":1}', "surrogate"),
        ('["\ud800' + "x" * 60_000 + '"]', "surrogate"),
        ("[" * 18 + "]" * 18, "too_deep"),
        ('{"a":' * 18 + "1" + "}" * 18, "too_deep"),
        ("[" * 60_000 + "]" * 60_000, "too_deep"),
        (" " * 131_073, "too_large"),
        ('"' + "é" * 70_000 + '"', "too_large"),
    ],
)
def test_strict_decoding_refuses(text: str, reason: str) -> None:
    with pytest.raises(FrameInvalid) as refused:
        decode_json(text)
    assert refused.value.reason == reason


def test_strict_decoding_takes_what_is_right() -> None:
    assert decode_json('["\\ud83d\\ude00","\\u0000",1,true,null,{"a":[]}]') == [
        "😀",
        "\0",
        1,
        True,
        None,
        {"a": []},
    ]
    assert decode_json("[" * 16 + "]" * 16) is not None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5), st.lists, max_leaves=20
    )
)
def test_depth_is_measured_exactly(value: Any) -> None:
    def depth(item: Any) -> int:
        return 1 + max(map(depth, item), default=0) if isinstance(item, list) else 0

    text = json.dumps(value, ensure_ascii=False)
    limit = depth(value)
    assert decode_json(text, max_depth=limit) == value
    if limit:
        with pytest.raises(FrameInvalid):
            decode_json(text, max_depth=limit - 1)


@given(st.integers(1, 60), st.binary(min_size=4, max_size=4))
def test_delays_stay_between_their_bounds(failures: int, noise: bytes) -> None:
    limits = RelayLimits()
    delay = backoff_delay(failures, limits, lambda size: noise)
    if failures >= limits.dead_after:
        assert 1_620 <= delay <= 1_980
    else:
        assert 0.1 <= delay <= min(300, 2 ** (failures - 1))


def test_the_memory_of_ids_is_bounded_and_keeps_what_is_seen_again() -> None:
    ids = VerifiedIds(3)
    for identity in ("a", "b", "c"):
        ids.add(identity, "s")
    assert ids.delivered("a", "s")
    ids.add("d", "s")
    assert ids.delivered("a", "s") and not ids.delivered("b", "s") and len(ids) == 3
    assert not ids.delivered("a", "other") and not ids.delivered(["a"], "s")
    ids.add("a", "other")
    assert ids.delivered("a", "s") and ids.delivered("a", "other")
    ids.forget("a")
    assert not ids.delivered("a", "s")


@pytest.mark.parametrize("text", ["127.0.0.1:9050", "socks5://127.0.0.1:9050", "socks5h://127.0.0.1:9050"])
def test_proxy_forms(text: str) -> None:
    assert parse_proxy(text) == ("127.0.0.1", 9050)


@pytest.mark.parametrize("text", ["", "127.0.0.1", "http://127.0.0.1:80", "127.0.0.1:99999", ":9050"])
def test_other_proxies_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="proxy"):
        parse_proxy(text)
