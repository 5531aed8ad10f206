"""Derived keys, nonces and blinding factors: vectors of sheet 03 §2.4 and NUT-13."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hive_shared.canonical import encode
from hive_shared.cashu import curve
from hive_shared.cashu.derive import EscrowKeys, UnlockedSecrets, lock_nonce, lock_r, public_key
from hive_shared.crypto import Secret, sha256

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "cashu" / "nut13.json").read_text())
TERMS = encode({"amount_sats": 100, "ticket_id": "0" * 32, "type": "single", "v": 1})


def test_nonces_and_factors_of_locks_are_those_of_the_sheet() -> None:
    terms_hash = sha256(TERMS)
    assert terms_hash.hex() == "3d3bc686fdedf87da0835c4c3db2e7a72cac115d8a343a08285976f552322de7"
    assert lock_nonce(terms_hash, 0, 0, 0) == "b8022c6e44e62d0b9af758d8188f2bea"
    assert lock_nonce(terms_hash, 0, 1, 2) == "87083c7a3c94e646b741c64fda86d655"
    r = lock_r(Secret(bytes(64)), terms_hash, 0, 0, 0)
    assert r.hex() == "565e2d3f5a750cdb4fd33c1d0615aa382b6d73fac38c8c9fe62e3ee99c0370c4"


def test_every_place_has_its_own_nonce_and_factor() -> None:
    seed, terms_hash = Secret(b"\x07" * 64), sha256(TERMS)
    places = [(mint, item, proof) for mint in range(3) for item in range(3) for proof in range(3)]
    assert len({lock_nonce(terms_hash, *place) for place in places}) == 27
    assert len({lock_r(seed, terms_hash, *place) for place in places}) == 27


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_nut_13(version: str) -> None:
    of = VECTORS[version]
    unlocked = UnlockedSecrets(Secret(bytes.fromhex(VECTORS["seed"])))
    derived = [unlocked.derive(of["id"], counter) for counter in range(5)]
    assert [each.secret for each in derived] == of["secrets"]
    assert [each.r.hex() for each in derived] == of["r"]


@pytest.mark.parametrize(
    "keyset_id", ["", "00", "01" + "0" * 14, "02" + "0" * 64, "00" + "0" * 64, "abcdefghijkl"]
)
def test_other_keyset_ids_have_no_secrets(keyset_id: str) -> None:
    with pytest.raises(ValueError, match="version"):
        UnlockedSecrets(Secret(bytes(64))).derive(keyset_id, 0)


@pytest.mark.parametrize("counter", [-1, 2**31])
def test_counters_have_bounds(counter: int) -> None:
    with pytest.raises(ValueError, match="counter"):
        UnlockedSecrets(Secret(bytes(64))).derive(VECTORS["v1"]["id"], counter)


def test_each_purpose_has_a_key_of_its_own_that_comes_back() -> None:
    keys, again = EscrowKeys(Secret(b"\x05" * 32)), EscrowKeys(Secret(b"\x05" * 32))
    made = [
        keys.seed(),
        keys.lock_seed(),
        keys.l402(),
        keys.lock("fleet"),
        keys.lock("contract-1"),
        keys.refund("contract-1"),
    ]
    assert made == [
        again.seed(),
        again.lock_seed(),
        again.l402(),
        again.lock("fleet"),
        again.lock("contract-1"),
        again.refund("contract-1"),
    ]
    assert len({each.reveal() for each in made}) == 6
    assert [len(each.reveal()) for each in made] == [64, 64, 32, 32, 32, 32]
    assert curve.is_point(public_key(keys.lock("fleet")))
    assert EscrowKeys(Secret(b"\x06" * 32)).lock("fleet") != keys.lock("fleet")
    # HKDF-SHA256 (RFC 5869) without salt, the label as info: other programs must find the same keys.
    assert keys.lock("fleet").reveal().hex() == PINNED_LOCK
    assert keys.seed().reveal().hex()[:64] == PINNED_SEED


PINNED_LOCK = "2b18b240e6cfcec49f54aaab764635c13df55f1be365dcfda37ad9984244b061"
PINNED_SEED = "529973679c603534ac7a233e762bb958df41b74be6fabfd69153f701fed5310b"


def test_a_master_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        EscrowKeys(Secret(bytes(31)))
