"""Sealed columns open in their own cell, under their own key, unaltered; otherwise never."""

from __future__ import annotations

import pytest
from hive_shared.crypto import SealBroken, Sealer, Secret
from hive_shared.errors import Internal
from hypothesis import given, settings
from hypothesis import strategies as st

KEYS = {1: Secret(b"\x11" * 32), 2: Secret(b"\x22" * 32)}
CELL = ("nostr_state", "1", "secret_enc")


def test_a_sealed_value_opens_in_its_cell() -> None:
    sealer = Sealer(KEYS, 2)
    assert sealer.open(*CELL, sealer.seal(*CELL, b"plaintext")) == b"plaintext"


def test_the_blob_hides_the_text_and_never_repeats() -> None:
    sealer = Sealer(KEYS, 1)
    first, second = sealer.seal(*CELL, b"plaintext"), sealer.seal(*CELL, b"plaintext")
    assert first != second
    assert b"plaintext" not in first


@pytest.mark.parametrize(
    "cell",
    [("other", "1", "secret_enc"), ("nostr_state", "2", "secret_enc"), ("nostr_state", "1", "other_enc")],
)
def test_a_blob_moved_to_another_cell_does_not_open(cell: tuple[str, str, str]) -> None:
    sealer = Sealer(KEYS, 1)
    with pytest.raises(SealBroken, match="damaged or under another key"):
        sealer.open(*cell, sealer.seal(*CELL, b"x"))


@settings(max_examples=60)
@given(st.integers(min_value=0), st.integers(1, 255))
def test_any_changed_byte_breaks_the_seal(position: int, flip: int) -> None:
    sealer = Sealer(KEYS, 1)
    blob = bytearray(sealer.seal(*CELL, b"plaintext"))
    blob[position % len(blob)] ^= flip
    with pytest.raises(SealBroken):
        sealer.open(*CELL, bytes(blob))


@pytest.mark.parametrize("length", [0, 3, 31])
def test_a_truncated_blob_is_named(length: int) -> None:
    with pytest.raises(SealBroken, match="truncated"):
        Sealer(KEYS, 1).open(*CELL, bytes(length))


def test_old_versions_open_after_the_key_is_replaced() -> None:
    old = Sealer({1: KEYS[1]}, 1).seal(*CELL, b"x")
    assert Sealer(KEYS, 2).open(*CELL, old) == b"x"


def test_a_blob_of_a_missing_key_names_its_version() -> None:
    blob = Sealer(KEYS, 2).seal(*CELL, b"x")
    with pytest.raises(SealBroken, match="key version 2") as caught:
        Sealer({1: KEYS[1]}, 1).open(*CELL, blob)
    assert isinstance(caught.value, Internal)
    assert caught.value.reason == "seal_broken"


def test_relabelling_the_key_version_does_not_help() -> None:
    same = {1: KEYS[1], 2: KEYS[1]}
    blob = Sealer(same, 1).seal(*CELL, b"x")
    with pytest.raises(SealBroken):
        Sealer(same, 2).open(*CELL, (2).to_bytes(4, "big") + blob[4:])


def test_a_row_may_hold_colons_but_names_may_not() -> None:
    sealer = Sealer(KEYS, 1)
    assert sealer.open("t", "did:cid:x", "c", sealer.seal("t", "did:cid:x", "c", b"v")) == b"v"
    with pytest.raises(ValueError, match="colon"):
        sealer.seal("t:did", "cid", "c", b"v")


@pytest.mark.parametrize(
    ("keys", "current"),
    [({}, 1), (KEYS, 3), ({0: KEYS[1]}, 0), ({1: Secret(b"short")}, 1)],
)
def test_unusable_keys_are_refused_at_once(keys: dict[int, Secret], current: int) -> None:
    with pytest.raises(ValueError):
        Sealer(keys, current)
