"""Signatures and key derivation against published vectors; secrets that never show."""

from __future__ import annotations

import copy
import csv
import json
import logging
import pickle
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hive_shared.crypto import (
    Secret,
    cln_message_digest,
    cln_recover_message,
    cln_sign_message,
    equal,
    hkdf_sha256,
    hmac_sha256,
    schnorr_sign,
    schnorr_verify,
    sha256,
    tagged,
    xonly_pubkey,
    zbase32_decode,
    zbase32_encode,
)
from hypothesis import given, settings
from hypothesis import strategies as st

VECTORS = Path(__file__).parents[1] / "vectors" / "bip340.csv"
ROWS = list(csv.DictReader(VECTORS.open()))
MARKER = b"\xc0\xff\xee" + b"do not print me".ljust(29, b"!")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["index"])
def test_bip340_verification_vectors(row: dict[str, str]) -> None:
    verdict = schnorr_verify(
        row["public key"].lower(), bytes.fromhex(row["message"]), row["signature"].lower()
    )
    assert verdict is (row["verification result"] == "TRUE")


@pytest.mark.parametrize(
    "row", [r for r in ROWS if r["secret key"] and len(r["message"]) == 64], ids=lambda row: row["index"]
)
def test_bip340_signing_vectors(row: dict[str, str]) -> None:
    secret = Secret(bytes.fromhex(row["secret key"]))
    assert xonly_pubkey(secret) == row["public key"].lower()
    signed = schnorr_sign(secret, bytes.fromhex(row["message"]), bytes.fromhex(row["aux_rand"]))
    assert signed == row["signature"].lower()


def test_a_signature_uses_fresh_randomness_unless_given() -> None:
    secret, digest = Secret(b"\x01" * 32), sha256(b"x")
    first, second = schnorr_sign(secret, digest), schnorr_sign(secret, digest)
    assert first != second
    assert schnorr_verify(xonly_pubkey(secret), digest, first)
    assert schnorr_verify(xonly_pubkey(secret), digest, second)


@pytest.mark.parametrize("scalar", [b"\x00" * 32, b"\xff" * 32, b"\x01" * 31, b"\x01" * 33, b""])
def test_scalars_outside_the_group_are_refused(scalar: bytes) -> None:
    with pytest.raises(ValueError):
        xonly_pubkey(Secret(scalar))
    with pytest.raises(ValueError):
        schnorr_sign(Secret(scalar), bytes(32))


@settings(max_examples=100)
@given(
    st.text(max_size=70) | st.from_regex(r"[0-9a-f]{64}", fullmatch=True), st.binary(max_size=40), st.text()
)
def test_verification_of_noise_is_false_and_never_raises(pubkey: str, digest: bytes, signature: str) -> None:
    assert schnorr_verify(pubkey, digest, signature) is False


def test_verification_wants_lower_case_hex_and_no_trailing_newline() -> None:
    secret, digest = Secret(b"\x07" * 32), sha256(b"y")
    key, signature = xonly_pubkey(secret), schnorr_sign(secret, digest)
    assert schnorr_verify(key, digest, signature)
    assert not schnorr_verify(key.upper(), digest, signature)
    assert not schnorr_verify(key, digest, signature + "\n")
    assert not schnorr_verify(key, digest[:-1], signature)


def test_tagged_is_the_hash_of_tag_and_text() -> None:
    assert tagged("hive-mgmt-cmd:v1:", "{}") == sha256(b"hive-mgmt-cmd:v1:{}")
    assert tagged("t:", b"\x00") == sha256(b"t:\x00")


def test_hkdf_rfc_5869_cases_1_and_3() -> None:
    case_1 = hkdf_sha256(b"\x0b" * 22, salt=bytes(range(13)), info=bytes(range(0xF0, 0xFA)), length=42)
    assert case_1.hex() == (
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    )
    assert hkdf_sha256(b"\x0b" * 22, length=42).hex() == (
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    )


def test_hmac_rfc_4231_case_2() -> None:
    assert hmac_sha256(b"Jefe", b"what do ya want for nothing?").hex() == (
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    )


def test_equal_compares_texts_and_bytes() -> None:
    assert equal("ünï", "ünï".encode())
    assert not equal(b"a", b"ab")


@settings(max_examples=150)
@given(st.binary(max_size=80))
def test_zbase32_round_trip(data: bytes) -> None:
    assert zbase32_decode(zbase32_encode(data)) == data


@pytest.mark.parametrize("text", ["v", "L", "yyyyyyyyy", "yb", "é"])
def test_zbase32_refuses_foreign_characters_odd_lengths_and_padding_bits(text: str) -> None:
    with pytest.raises(ValueError):
        zbase32_decode(text)


# Signatures of LND and CLN nodes that CLN publishes with its checkmessage tests and manual page.
PUBLISHED = [
    (
        "is this compatible?",
        "rbgfioj114mh48d8egqx8o9qxqw4fmhe8jbeeabdioxnjk8z3t1ma1hu1fiswpakgucwwzwo6ofycffbsqusqdimugbh41n1g698hr9t",
        "02b80cabdf82638aac86948e4c06e82064f547768dcef977677b9ea931ea75bab5",
    ),
    (
        "hi",
        "rnrphcjswusbacjnmmmrynh9pqip7sy5cx695h6mfu64iac6qmcmsd8xnsyczwmpqp9shqkth3h4jmkgyqu5z47jfn1q7gpxtaqpx4xg",
        "02de60d194e1ca5947b59fe8e2efd6aadeabfb67f2e89e13ae1a799c1e08e4a43b",
    ),
    (
        "testcase to check new rpc error",
        "d66bqz3qsku5fxtqsi37j11pci47ydxa95iusphutggz9ezaxt56neh77kxe5hyr41kwgkncgiu94p9ecxiexgpgsz8daoq4tw8kj8yx",
        "03be3b0e9992153b1d5a6e1623670b6c3663f72ce6cf2e0dd39c0a373a7de5a3b7",
    ),
    (
        "message for you",
        "rnu3qotbr47u7uzgodtq51fraszhp47xfen4yxbzhsisrekqwzshysu7sq4f74g5jobnh35fsh1a3ysoa7who6cqbti47qkxp6w1qwan",
        "033845802d25b4e074ccfd7cd8b339a41dc75bf9978a034800444b51d42b07799a",
    ),
]


@pytest.mark.parametrize(("message", "zbase", "node_id"), PUBLISHED, ids=["lnd-1", "lnd-2", "cln-1", "cln-2"])
def test_published_message_signatures_recover_to_their_node(message: str, zbase: str, node_id: str) -> None:
    assert cln_recover_message(message, zbase) == node_id
    assert cln_recover_message(message + "modified", zbase) != node_id


SECRET = Secret(b"\x01" * 32)
NODE_ID = "031b84c5567b126440995d3ed5aaba0565d71e1834604819ff9c17f5e9d5dd078f"


def _sign(message: str) -> str:
    return cln_sign_message(SECRET, message)


def test_our_own_message_signature_recovers_to_our_node() -> None:
    assert cln_recover_message("message for you", _sign("message for you")) == NODE_ID


def test_cln_digest_is_a_double_hash_with_its_prefix() -> None:
    assert cln_message_digest("é") == sha256(sha256(b"Lightning Signed Message:\xc3\xa9"))


def test_another_message_recovers_another_key() -> None:
    assert cln_recover_message("b", _sign("a")) != NODE_ID


@settings(max_examples=100)
@given(st.text(max_size=110) | st.text("ybndrfg8ejkmcpqxot1uwisza345h769", min_size=104, max_size=104))
def test_recovery_of_noise_never_gives_our_key_and_never_raises(zbase: str) -> None:
    assert cln_recover_message("hello", zbase) != NODE_ID


def test_recovery_refuses_recovery_ids_outside_0_to_3() -> None:
    raw = zbase32_decode(_sign("x"))
    for head in (0, 30, 35, 255):
        assert cln_recover_message("x", zbase32_encode(bytes([head]) + raw[1:])) is None


def test_recovery_of_a_text_that_is_not_unicode_is_none() -> None:
    assert cln_recover_message("\ud800", _sign("x")) is None


@dataclass(frozen=True)
class _Holder:
    name: str
    key: Secret


def _shown_everywhere(secret: Secret) -> str:
    log = StringIO()
    logger = logging.getLogger("redaction")
    handler = logging.StreamHandler(log)
    logger.addHandler(handler)
    try:
        raise RuntimeError(f"failed with {secret}", secret)
    except RuntimeError:
        logger.exception("could not use %s or %r", secret, secret)
        trace = traceback.format_exc()
    finally:
        logger.removeHandler(handler)
    holder = _Holder("alice", secret)
    return "\n".join(
        [
            *(repr(secret), str(secret), f"{secret}", f"{secret!r:>20}", "%s" % secret, "{}".format(secret)),  # noqa: UP031, UP032
            *(repr(holder), repr(asdict(holder)), repr([secret]), json.dumps({"k": secret}, default=str)),
            *(log.getvalue(), trace, repr(secret.__slots__)),
        ]
    )


def test_a_secret_shows_nowhere() -> None:
    shown = _shown_everywhere(Secret(MARKER))
    assert "<secret>" in shown
    for form in ("do not print me", MARKER.hex(), "\\xc0", repr(MARKER)):
        assert form not in shown


def test_a_secret_is_not_json_not_pickle_not_hashable_and_has_no_dict() -> None:
    secret = Secret(MARKER)
    takes_anything: list[Callable[[Any], object]] = [json.dumps, pickle.dumps, hash, vars, bytes, len, list]
    for use in takes_anything:
        with pytest.raises(TypeError):
            use(secret)


def test_secrets_compare_by_content_and_copy_as_themselves() -> None:
    secret = Secret(MARKER)
    assert secret == Secret(MARKER)
    assert secret != Secret(b"other")
    assert secret != MARKER
    assert copy.deepcopy(secret) is secret
    assert copy.copy(secret) is secret
    assert secret.reveal() == MARKER
