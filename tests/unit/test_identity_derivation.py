"""Derivation of the Nostr key and the ring of keys (Protocol 08 §6 Identity)."""

from cl_hive_comms.domain.identity import READABLE_S, KeyRecord, KeyRing, derive, usable
from hive_shared.crypto import hkdf_sha256, xonly_pubkey

SEED = bytes(range(32))
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def test_the_key_is_the_hkdf_of_the_seed_reduced_by_the_order() -> None:
    key, generation = derive(SEED, 7)
    expected = int.from_bytes(hkdf_sha256(SEED, info=(7).to_bytes(4, "big")), "big") % ORDER
    assert generation == 7
    assert int.from_bytes(key.reveal(), "big") == expected


def test_the_same_seed_gives_the_same_key_and_generations_differ() -> None:
    assert derive(SEED, 0) == derive(SEED, 0)
    assert xonly_pubkey(derive(SEED, 0)[0]) != xonly_pubkey(derive(SEED, 1)[0])


def test_usable_refuses_zero_the_order_and_wrong_lengths() -> None:
    assert usable((1).to_bytes(32, "big"))
    assert not usable(bytes(32))
    assert not usable(ORDER.to_bytes(32, "big"))
    assert not usable(b"\x01" * 31)


def test_a_replaced_key_is_readable_for_thirty_days_and_its_public_half_stays() -> None:
    ring = KeyRing(KeyRecord("aa", "derived:0", 0), (), 1)
    after = ring.replaced(KeyRecord("bb", "derived:1", 100), 100, 2)
    assert [key.pubkey for key in after.with_secret(100 + READABLE_S - 1)] == ["bb", "aa"]
    assert [key.pubkey for key in after.with_secret(100 + READABLE_S)] == ["bb"]
    assert [key.pubkey for key in after.old] == ["aa"]


def test_the_ring_survives_storing() -> None:
    ring = KeyRing(KeyRecord("aa", "imported", 5), (KeyRecord("bb", "random", 1, 99),), 3)
    assert KeyRing.from_bytes(ring.to_bytes()) == ring
