"""NIP-44 v2 against the official vectors, all of them, and against nostr-sdk."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import nostr_sdk
import pytest
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.nostr import nip44
from hive_shared.nostr.reasons import Nip44Error
from hypothesis import given, settings
from hypothesis import strategies as st

VECTOR_FILE = Path(__file__).parents[1] / "vectors" / "nip44.vectors.json"
VECTORS: dict[str, Any] = json.loads(VECTOR_FILE.read_text())["v2"]
VALID, INVALID = VECTORS["valid"], VECTORS["invalid"]


def _secret(hex_key: str) -> Secret:
    return Secret(bytes.fromhex(hex_key))


def test_the_vector_file_is_the_official_one() -> None:
    digest = hashlib.sha256(VECTOR_FILE.read_bytes()).hexdigest()
    assert digest == "269ed0f69e4c192512cc779e78c555090cebc7c785b609e338a62afc3ce25040"


@pytest.mark.parametrize("case", VALID["get_conversation_key"])
def test_conversation_key_vector(case: dict[str, str]) -> None:
    assert nip44.conversation_key(_secret(case["sec1"]), case["pub2"]).hex() == case["conversation_key"]


def test_message_key_vectors() -> None:
    group = VALID["get_message_keys"]
    for case in group["keys"]:
        keys = nip44.message_keys(bytes.fromhex(group["conversation_key"]), bytes.fromhex(case["nonce"]))
        assert [key.hex() for key in keys] == [case["chacha_key"], case["chacha_nonce"], case["hmac_key"]]
    assert len(group["keys"]) == 32


def test_padded_length_vectors() -> None:
    assert [nip44.padded_length(size) for size, _ in VALID["calc_padded_len"]] == [
        padded for _, padded in VALID["calc_padded_len"]
    ]


@pytest.mark.parametrize("case", VALID["encrypt_decrypt"])
def test_message_vector(case: dict[str, str]) -> None:
    pub2 = xonly_pubkey(_secret(case["sec2"]))
    key = nip44.conversation_key(_secret(case["sec1"]), pub2)
    assert key.hex() == case["conversation_key"]
    assert nip44.encrypt(key, case["plaintext"], bytes.fromhex(case["nonce"])) == case["payload"]
    assert nip44.decrypt(key, case["payload"]) == case["plaintext"]


@pytest.mark.parametrize("case", VALID["encrypt_decrypt_long_msg"])
def test_long_message_vector(case: dict[str, Any]) -> None:
    text = case["pattern"] * case["repeat"]
    assert hashlib.sha256(text.encode()).hexdigest() == case["plaintext_sha256"]
    key = bytes.fromhex(case["conversation_key"])
    payload = nip44.encrypt(key, text, bytes.fromhex(case["nonce"]))
    assert hashlib.sha256(payload.encode()).hexdigest() == case["payload_sha256"]
    assert nip44.decrypt(key, payload) == text


@pytest.mark.parametrize("size", INVALID["encrypt_msg_lengths"])
def test_refused_plaintext_length_vector(size: int) -> None:
    with pytest.raises(Nip44Error) as refused:
        nip44.encrypt(bytes(31) + b"\1", "a" * size)
    assert refused.value.reason == "length"


@pytest.mark.parametrize("case", INVALID["get_conversation_key"])
def test_refused_conversation_key_vector(case: dict[str, str]) -> None:
    with pytest.raises(Nip44Error) as refused:
        nip44.conversation_key(_secret(case["sec1"]), case["pub2"])
    assert refused.value.reason == "key"


@pytest.mark.parametrize("case", INVALID["decrypt"], ids=lambda case: str(case["note"]))
def test_refused_payload_vector(case: dict[str, str]) -> None:
    expected = {
        "unknown encryption version": "unsupported_encryption",
        "unknown encryption version 0": "unsupported_encryption",
        "invalid base64": "base64",
        "invalid MAC": "mac",
        "invalid padding": "padding",
    }
    with pytest.raises(Nip44Error) as refused:
        nip44.decrypt(bytes.fromhex(case["conversation_key"]), case["payload"])
    assert refused.value.reason == expected.get(case["note"], "length")


def test_acceptance_04_08_flipped_mac_version_and_base64_are_refused() -> None:
    key = os.urandom(32)
    payload = nip44.encrypt(key, "attack at dawn")
    raw = bytearray(base64.b64decode(payload))
    raw[-1] ^= 1
    cases = {
        base64.b64encode(bytes(raw)).decode(): "mac",
        "#" + payload: "unsupported_encryption",
        payload[:131]: "length",
        payload + "A" * 90_000: "length",
        payload[:-4] + "!!!!": "base64",
        "é" * 200: "base64",
    }
    raw[-1] ^= 1
    raw[0] = 3
    cases[base64.b64encode(bytes(raw)).decode()] = "unsupported_encryption"
    for altered, reason in cases.items():
        with pytest.raises(Nip44Error) as refused:
            nip44.decrypt(key, altered)
        assert refused.value.reason == reason
        assert "dawn" not in str(refused.value)


def test_both_ways_with_an_independent_implementation() -> None:
    ours, theirs = Secret(os.urandom(32)), nostr_sdk.Keys.generate()
    key = nip44.conversation_key(ours, theirs.public_key().to_hex())
    own_public = nostr_sdk.PublicKey.parse(xonly_pubkey(ours))
    for text in ("a", "grüße ⚡", "x" * 5_000):
        assert nostr_sdk.nip44_decrypt(theirs.secret_key(), own_public, nip44.encrypt(key, text)) == text
        sealed = nostr_sdk.nip44_encrypt(theirs.secret_key(), own_public, text, nostr_sdk.Nip44Version.V2)
        assert nip44.decrypt(key, sealed) == text


@settings(max_examples=60, deadline=None)
@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=3_000),
    st.binary(min_size=32, max_size=32),
)
def test_what_is_encrypted_comes_back(text: str, nonce: bytes) -> None:
    key = hashlib.sha256(nonce).digest()
    assert nip44.decrypt(key, nip44.encrypt(key, text, nonce)) == text


def test_half_a_surrogate_pair_cannot_be_encrypted() -> None:
    with pytest.raises(Nip44Error) as refused:
        nip44.encrypt(bytes(32), "\ud800")
    assert refused.value.reason == "encoding"


def test_conversation_keys_are_computed_once_and_bounded() -> None:
    own, peer = Secret(os.urandom(32)), xonly_pubkey(Secret(os.urandom(32)))
    cache = nip44.ConversationKeys(size=2)
    first = cache.get(own, peer)
    assert cache.get(own, peer) is first
    for _ in range(3):
        cache.get(own, xonly_pubkey(Secret(os.urandom(32))))
    again = cache.get(own, peer)
    assert again == first and again is not first
