"""Proofs of credentials by Nostr keys (docs/protocol/01-reputation.md §4)."""

from __future__ import annotations

import base64
import copy
from typing import Any

import pytest
from hive_shared import base58, vc
from hive_shared.canonical import encode
from hive_shared.crypto import Secret, schnorr_sign, sha256, xonly_pubkey
from hive_shared.errors import InvalidParams
from hypothesis import given, settings
from hypothesis import strategies as st

KEY = Secret(bytes(31) + b"\1")
OTHER = Secret(bytes(31) + b"\2")
AT = 1_770_000_000
DOCUMENT: dict[str, Any] = {
    "@context": [vc.CONTEXT, "https://hive.lightning/marketplace/v1"],
    "issuer": vc.did_of(xonly_pubkey(KEY)),
    "credentialSubject": {"uptimeTarget": 99.5, "name": "Größe"},
}


def reason(document: dict[str, Any], proof: dict[str, Any]) -> str:
    with pytest.raises(InvalidParams) as refused:
        vc.signer(document, proof)
    return refused.value.symbol


def test_a_proof_names_its_key_and_covers_the_document() -> None:
    proof = vc.prove(DOCUMENT, KEY, AT)
    assert vc.signer({**DOCUMENT, "proof": proof}, proof) == xonly_pubkey(KEY)
    assert vc.created(proof) == AT and proof["created"] == "2026-02-02T02:40:00Z"
    changed = copy.deepcopy(DOCUMENT)
    changed["credentialSubject"]["uptimeTarget"] = 99.6
    assert reason(changed, proof) == "proof_invalid"


def test_the_hash_is_that_of_the_sheet() -> None:
    proof = vc.prove(DOCUMENT, KEY, AT)
    options = {name: value for name, value in proof.items() if name != "proofValue"}
    assert options["@context"] == DOCUMENT["@context"]
    digest = sha256(sha256(encode(options)) + sha256(encode(DOCUMENT)))
    # Made by hand, with the other encoding that readers accept.
    value = "u" + base64.urlsafe_b64encode(bytes.fromhex(schnorr_sign(KEY, digest))).decode().rstrip("=")
    assert vc.signer(DOCUMENT, {**options, "proofValue": value}) == xonly_pubkey(KEY)


def test_a_proof_without_context_is_read_with_the_documents() -> None:
    proof = vc.prove(DOCUMENT, KEY, AT)
    del proof["@context"]
    assert vc.signer(DOCUMENT, proof) == xonly_pubkey(KEY)
    assert reason(DOCUMENT, {**proof, "@context": ["https://example.com"]}) == "proof_malformed"


def test_a_did_key_is_read() -> None:
    point = bytes.fromhex("0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798")
    name = "z" + base58.encode(b"\xe7\x01" + point)
    assert name == "zQ3shVc2UkAfJCdc1TR8E66J85h48P43r93q8jGPkPpjF9Ef9"
    options = {**vc.prove(DOCUMENT, KEY, AT), "verificationMethod": f"did:key:{name}#{name}"}
    del options["proofValue"]
    digest = sha256(sha256(encode(options)) + sha256(encode(DOCUMENT)))
    proof = {**options, "proofValue": "z" + base58.encode(bytes.fromhex(schnorr_sign(KEY, digest)))}
    assert vc.signer(DOCUMENT, proof) == xonly_pubkey(KEY)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"type": "Ed25519Signature2020"}, "proof_unsupported"),
        ({"cryptosuite": "eddsa-jcs-2022"}, "proof_unsupported"),
        ({"proofPurpose": "authentication"}, "proof_malformed"),
        ({"created": "2026-02-02T02:40:00"}, "malformed"),
        ({"created": "2026-02-31T02:40:00Z"}, "malformed"),
        ({"created": AT}, "malformed"),
        ({"verificationMethod": "did:nostr:abc#key1"}, "proof_malformed"),
        ({"verificationMethod": "did:key:zQ3sh#zQ3sh"}, "proof_malformed"),
        ({"verificationMethod": None}, "proof_malformed"),
        ({"verificationMethod": vc.did_of(xonly_pubkey(OTHER)) + "#key1"}, "proof_invalid"),
        ({"proofValue": "z111"}, "proof_malformed"),
        ({"proofValue": "u***"}, "proof_malformed"),
        ({"proofValue": 5}, "proof_malformed"),
        ({"challenge": "x"}, "proof_malformed"),
        ({"created": "2026-02-02T02:40:01Z"}, "proof_invalid"),
    ],
)
def test_what_is_no_proof(change: dict[str, Any], expected: str) -> None:
    assert reason(DOCUMENT, {**vc.prove(DOCUMENT, KEY, AT), **change}) == expected


@pytest.mark.parametrize("value", [None, [], "x", [1], [{}, {}, {}, {}], [{}, "x"]])
def test_a_document_has_one_to_three_proofs(value: Any) -> None:
    with pytest.raises(InvalidParams, match="proof must be"):
        vc.proofs({"proof": value})


def test_times_with_a_zone() -> None:
    assert vc.unix("2026-02-02T03:40:00.25+01:00", "x") == AT
    assert vc.unix(vc.moment(AT), "x") == AT
    for wrong in (
        "2026-02-02",
        "2026-02-02T02:40:00",
        "0000-01-01T00:00:00Z",
        5,
        None,
        "9999-12-31T23:59:60Z",
    ):
        with pytest.raises(InvalidParams, match="is not a time"):
            vc.unix(wrong, "validFrom")


@given(st.binary(max_size=80))
@settings(max_examples=100)
def test_base58_there_and_back(data: bytes) -> None:
    assert base58.decode(base58.encode(data)) == data


def test_what_is_not_base58() -> None:
    for wrong in ("0", "l", "é", "1" * 257):
        with pytest.raises(ValueError, match="base58"):
            base58.decode(wrong)
