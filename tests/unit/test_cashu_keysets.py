"""Keyset ids, fees and denominations: vectors of NUT-02 and the rules of sheet 03 §2.2, §2.4."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cashu_mint import PaperMint
from hive_shared.cashu import keysets
from hive_shared.cashu.reasons import MintNonconformant, TokenInvalid
from hypothesis import given
from hypothesis import strategies as st

VECTORS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "vectors" / "cashu" / "keysets.json").read_text()
)
ALL = tuple(2**power for power in range(64))


def build(vector: dict[str, Any], **changes: Any) -> keysets.Keyset:
    of = {"unit": "sat", "input_fee_ppk": 0, "final_expiry": None, **vector, **changes}
    keys = {int(amount): key for amount, key in of["keys"].items()}
    return keysets.keyset(
        of["id"],
        of["unit"],
        keys,
        active=True,
        input_fee_ppk=of["input_fee_ppk"],
        final_expiry=of["final_expiry"],
    )


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: str(vector["id"]))
def test_nut_02_ids(vector: dict[str, Any]) -> None:
    found = build(vector)
    assert found.id == vector["id"] and found.short_id == vector["id"][:16]
    assert found.denominations == tuple(sorted(map(int, vector["keys"])))


def test_an_id_of_other_keys_unit_fee_or_expiry_is_refused() -> None:
    v2 = VECTORS[2]
    assert v2["id"].startswith("01")
    wrong: list[dict[str, Any]] = [
        {"unit": "usd"},
        {"input_fee_ppk": v2["input_fee_ppk"] + 1},
        {"final_expiry": 1},
        {"final_expiry": None},
        {"keys": VECTORS[1]["keys"]},
        {"id": VECTORS[0]["id"]} | {"keys": VECTORS[1]["keys"]},
    ]
    for changes in wrong:
        with pytest.raises(MintNonconformant, match="has the keys of"):
            build(v2, **changes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"id": "02" + "0" * 64}, "no known version"),
        ({"id": "Z2OwgwVbnJRZ"}, "no known version"),
        ({"id": VECTORS[0]["id"].upper()}, "no known version"),
        ({"keys": {}}, "no keys"),
        ({"keys": {**VECTORS[0]["keys"], "1": VECTORS[0]["keys"]["1"][:-2]}}, "not a point"),
        ({"keys": {**VECTORS[0]["keys"], "1": "04" + VECTORS[0]["keys"]["1"][2:]}}, "not a point"),
        ({"keys": {**VECTORS[0]["keys"], "1": "02" + "0" * 64}}, "not a point"),
        ({"keys": {**VECTORS[0]["keys"], "0": VECTORS[0]["keys"]["1"]}}, "not a point"),
        ({"keys": {**VECTORS[0]["keys"], "1": VECTORS[0]["keys"]["2"]}}, "two amounts with one key"),
        ({"input_fee_ppk": 100_001}, "ppk"),
        ({"input_fee_ppk": -1}, "ppk"),
    ],
)
def test_a_keyset_that_is_none(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(MintNonconformant, match=says):
        build(VECTORS[0], **changes)


def test_a_short_id_is_expanded_never_guessed() -> None:
    one, two = "01" + "a" * 64, "01" + "b" * 64
    v1 = "00" + "c" * 14
    assert keysets.expand(one[:16], [one, two, v1]) == one
    assert keysets.expand(one, [one, two]) == one
    assert keysets.expand(v1, [one, v1]) == v1
    twin = one[:16] + "d" * 50
    with pytest.raises(TokenInvalid, match="fits 2 keysets"):
        keysets.expand(one[:16], [one, twin])
    for token_id, known in [
        (one[:16], [one, twin]),
        (one[:16], [two]),
        (one[:15], [one]),
        (one[:17], [one]),
        (v1[:12], [v1]),
        ("", [one]),
        ("00" + "a" * 14, ["00" + "a" * 14 + "00"]),
    ]:
        with pytest.raises(TokenInvalid) as refused:
            keysets.expand(token_id, known)
        assert refused.value.check == "keyset"


@pytest.mark.parametrize(
    ("ppk", "inputs", "fee"), [(0, 5, 0), (100, 1, 1), (100, 10, 1), (100, 11, 2), (1000, 3, 3), (1, 1000, 1)]
)
def test_fees_are_rounded_up_over_all_inputs(ppk: int, inputs: int, fee: int) -> None:
    assert keysets.fee_sats([ppk] * inputs) == fee


@given(st.integers(0, 2**40))
def test_an_amount_is_cut_into_powers_of_two_ascending(amount: int) -> None:
    parts = keysets.split(amount, ALL)
    assert sum(parts) == amount and len(parts) == amount.bit_count() and parts == tuple(sorted(parts))


def test_missing_denominations_are_made_up_for_or_refused() -> None:
    assert keysets.split(13, (1, 2, 4)) == (1, 4, 4, 4)
    assert keysets.split(12, (1, 4, 16)) == (4, 4, 4)
    with pytest.raises(ValueError, match="cannot be made"):
        keysets.split(13, (2, 4, 8))
    with pytest.raises(ValueError, match="more than 1000"):
        keysets.split(10_000_000, (1, 2, 4))
    with pytest.raises(ValueError, match="cannot split"):
        keysets.split(-1, ALL)


@given(st.integers(1, 5_000_000), st.sampled_from([0, 1, 99, 100, 500, 1_000, 2_500, 10_000]))
def test_the_face_is_the_least_that_nets_the_amount(amount: int, ppk: int) -> None:
    def nets(face: int) -> bool:
        return face - keysets.fee_sats([face.bit_count() * ppk]) >= amount

    face = keysets.face_sats(amount, ppk, ALL)
    assert nets(face)
    assert not any(nets(less) for less in range(amount, face))


def test_nothing_below_one_sat_is_locked() -> None:
    for amount in (0, -5):
        with pytest.raises(ValueError, match="the least is 1"):
            keysets.face_sats(amount, 100, ALL)


def test_a_paper_mints_keysets_are_good_in_both_versions() -> None:
    assert PaperMint(version=1).keyset.id.startswith("00")
    second = PaperMint(version=2, input_fee_ppk=100).keyset
    assert second.id.startswith("01") and second.key(8) == second.keys[8]
    with pytest.raises(TokenInvalid, match="no key for 3"):
        second.key(3)
