"""Signatures and witnesses: vectors of NUT-11 and NUT-14, both codecs, and what a mint may answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hive_shared.cashu import witness
from hive_shared.cashu.derive import public_key
from hive_shared.cashu.reasons import TokenInvalid
from hive_shared.cashu.secrets import SigFlag, build_secret, htlc, multisig
from hive_shared.cashu.wire import BlindedMessage, Proof
from hive_shared.crypto import Secret, sha256

VECTORS: dict[str, dict[str, Any]] = {
    each["about"]: each
    for each in json.loads((Path(__file__).parents[1] / "vectors" / "cashu" / "spending.json").read_text())
}
PREIMAGE = "01" * 32
HASH = sha256(b"\x01" * 32).hex()
ALICE, BOB = Secret(b"\x01" * 32), Secret(b"\x02" * 32)
SIGNATURE = "ab" * 64


def keys_of(secret: str, *, refund: bool) -> list[str]:
    kind, body = json.loads(secret)
    tags = {tag[0]: tag[1:] for tag in body["tags"]}
    if refund:
        return list(tags["refund"])
    return [*([body["data"]] if kind == "P2PK" else []), *tags.get("pubkeys", [])]


@pytest.mark.parametrize(
    ("about", "refund", "signed"),
    [
        ("multisig two signatures", False, 2),
        ("multisig refund signature", True, 1),
        ("signature", False, 1),
        ("signature over another secret", False, 0),
        ("two of three", False, 2),
        ("one signature of two", False, 1),
        ("refund after locktime", True, 1),
        ("refund before locktime", True, 1),
    ],
)
def test_nut_11_signatures_over_a_secret(about: str, refund: bool, signed: int) -> None:
    proof = VECTORS[about]["proof"]
    given = witness.parse(proof["witness"])
    digest = witness.inputs_digest(proof["secret"])
    found = witness.signers(keys_of(proof["secret"], refund=refund), digest, given.signatures)
    assert len(found) == signed


@pytest.mark.parametrize(
    ("about", "refund", "signed"),
    [
        ("swap signed", False, 1),
        ("swap two of three", False, 2),
        ("swap two refunds", True, 2),
        ("swap htlc", False, 1),
        ("swap htlc two refunds", True, 2),
        ("swap htlc refund too early", True, 1),
        ("swap htlc refund too early", False, 0),
        ("melt signed", False, 1),
        ("melt two of two", False, 2),
    ],
)
def test_nut_11_signatures_over_a_whole_spend(about: str, refund: bool, signed: int) -> None:
    request = VECTORS[about]["request"]
    inputs = [Proof(**each) for each in request["inputs"]]
    outputs = [BlindedMessage(**each) for each in request["outputs"]]
    digest = witness.all_digest(inputs, outputs, request.get("quote"))
    assert inputs[0].witness is not None
    given = witness.parse(inputs[0].witness)
    assert len(witness.signers(keys_of(inputs[0].secret, refund=refund), digest, given.signatures)) == signed
    if given.preimage is not None:
        assert witness.preimage_matches(given.preimage, json.loads(inputs[0].secret)[1]["data"])


@pytest.mark.parametrize("about", ["swap", "melt"])
def test_nut_11_digests(about: str) -> None:
    vector = VECTORS[about]
    request = vector["request"]
    inputs = [Proof(**each) for each in request["inputs"]]
    outputs = [BlindedMessage(**each) for each in request["outputs"]]
    assert witness.all_digest(inputs, outputs, request.get("quote")).hex() == vector["digest"]


def locked(*locks: Any) -> list[Proof]:
    return [
        Proof(1, "00" * 8, build_secret(lock, f"{number:032x}"), public_key(ALICE))
        for number, lock in enumerate(locks)
    ]


def test_inputs_of_sig_all_agree_in_everything_but_the_nonce() -> None:
    keys = (public_key(ALICE), public_key(BOB))
    third = public_key(Secret(b"\x03" * 32))
    lock = multisig(keys, 2, locktime=1_900_000_000, refund=third, sigflag=SigFlag.SIG_ALL)
    other = multisig(keys, 2, locktime=1_900_000_001, refund=third, sigflag=SigFlag.SIG_ALL)
    plain = multisig(keys, 2, locktime=1_900_000_000, refund=third)
    assert witness.check_all_alike(locked(lock, lock)).lock == lock
    for proofs in (locked(lock, other), locked(lock, plain), locked(plain), []):
        with pytest.raises(TokenInvalid) as refused:
            witness.check_all_alike(proofs)
        assert refused.value.check == "sigflag"


def test_two_signatures_of_one_key_are_one_signer() -> None:
    digest = witness.inputs_digest("secret")
    twice = [witness.sign(ALICE, digest), witness.sign(ALICE, digest)]
    assert twice[0] != twice[1]
    keys = [public_key(ALICE), public_key(BOB)]
    assert witness.signers(keys, digest, twice) == {public_key(ALICE)}
    assert witness.signers(keys, digest, [*twice, witness.sign(BOB, digest)]) == set(keys)
    assert witness.signers(keys, witness.inputs_digest("other"), twice) == frozenset()


def test_a_signature_can_be_made_the_same_twice() -> None:
    digest = witness.inputs_digest("secret")
    assert witness.sign(ALICE, digest, bytes(32)) == witness.sign(ALICE, digest, bytes(32))


def test_a_ticket_is_spent_by_key_and_preimage() -> None:
    lock = htlc(HASH, public_key(ALICE), locktime=1_900_000_000, refund=public_key(BOB))
    secret = build_secret(lock, "00" * 16)
    text = witness.build(PREIMAGE, [witness.sign(ALICE, witness.inputs_digest(secret))])
    read = witness.parse(text)
    assert witness.signers(lock.keys, witness.inputs_digest(secret), read.signatures) == set(lock.keys)
    assert witness.preimage_in(text, HASH) == PREIMAGE
    assert PREIMAGE not in repr(read)


def test_the_texts_of_witnesses() -> None:
    assert witness.build(PREIMAGE, [SIGNATURE]) == f'{{"preimage":"{PREIMAGE}","signatures":["{SIGNATURE}"]}}'
    assert witness.build(None, [SIGNATURE]) == f'{{"signatures":["{SIGNATURE}"]}}'
    old = witness.build(PREIMAGE, [SIGNATURE], old_mint=True)
    assert old == f'{{"preimage":"{PREIMAGE}","signatures":["{SIGNATURE}"],"signature":"{SIGNATURE}"}}'
    assert witness.parse(old) == witness.Witness(PREIMAGE, (SIGNATURE,))
    single = f'{{"preimage":"{PREIMAGE}","signature":"{SIGNATURE}"}}'
    assert witness.parse(single) == witness.Witness(PREIMAGE, (SIGNATURE,))


@pytest.mark.parametrize(
    ("preimage", "signatures"),
    [
        ("00" * 31, [SIGNATURE]),
        (PREIMAGE.upper() + "A", [SIGNATURE]),
        (PREIMAGE, []),
        (PREIMAGE, ["ab" * 63]),
    ],
)
def test_no_witness_is_built_that_no_mint_takes(preimage: str, signatures: list[str]) -> None:
    with pytest.raises(ValueError, match="lower-case hex"):
        witness.build(preimage, signatures)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{",
        '{"preimage":1}',
        '{"preimage":"00"}',
        f'{{"preimage":"{PREIMAGE.upper()[:-1]}F"}}',
        '{"signatures":"x"}',
        '{"signatures":[1]}',
        '{"signatures":["00"]}',
        json.dumps({"signatures": [SIGNATURE] * 17}),
        f'{{"preimage":"{PREIMAGE}","preimage":"{PREIMAGE}"}}',
        json.dumps({"x": "y" * 5_000}),
    ],
)
def test_a_witness_that_is_none_is_refused_and_shows_no_preimage(text: str) -> None:
    with pytest.raises(TokenInvalid) as refused:
        witness.parse(text)
    assert refused.value.check == "witness"
    assert witness.preimage_in(text, HASH) is None


def test_a_preimage_counts_only_when_it_is_that_of_the_hash() -> None:
    assert witness.preimage_in(None, HASH) is None
    assert witness.preimage_in(witness.build(None, [SIGNATURE]), HASH) is None
    assert witness.preimage_in(witness.build("02" * 32, [SIGNATURE]), HASH) is None
    # The hash is over the raw bytes; that of the hex text is another one.
    assert not witness.preimage_matches(PREIMAGE, sha256(PREIMAGE.encode()).hex())
    assert not witness.preimage_matches("01" * 31, sha256(b"\x01" * 31).hex())


def test_a_quote_is_part_of_what_is_signed() -> None:
    proof = Proof(1, "00" * 8, "s", "02" + "11" * 32)
    message = BlindedMessage(1, "00" * 8, "02" + "22" * 32)
    digests = {
        witness.all_digest([proof], [message]),
        witness.all_digest([proof], [message], "q"),
        witness.all_digest([proof], [msgspec.structs.replace(message, amount=2)]),
        witness.all_digest([msgspec.structs.replace(proof, C="03" + "11" * 32)], [message]),
    }
    assert len(digests) == 4
