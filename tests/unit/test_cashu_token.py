"""Tokens of both versions: vectors of NUT-00, what is written is read, and what is not taken."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cashu_mint import PaperMint
from hive_shared.cashu import cbor
from hive_shared.cashu.keysets import expand
from hive_shared.cashu.reasons import TokenInvalid
from hive_shared.cashu.token import Token, decode_token, encode_token, encode_v3
from hive_shared.cashu.wire import Dleq, Proof
from hypothesis import given
from hypothesis import strategies as st

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "cashu" / "tokens.json").read_text())
MINT = PaperMint(version=2)
C = MINT.keyset.key(1)


def v4(value: Any) -> str:
    return "cashuB" + base64.urlsafe_b64encode(cbor.encode(value)).decode().rstrip("=")


def v3(value: Any) -> str:
    return "cashuA" + base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


def test_nut_00_v3() -> None:
    token = decode_token(VECTORS["v3"])
    assert token.mint == "https://8333.space:3338" and token.memo == "Thank you."
    assert [(each.amount, each.id) for each in token.proofs] == [
        (2, "009a1f293253e41e"),
        (8, "009a1f293253e41e"),
    ]
    assert token.proofs[0].secret == "407915bc212be61a77e3e6d2aeb4c727980bda51cd06a6afc29e2861768a7837"
    assert token.amount_sats == 10
    assert decode_token(VECTORS["v3_padded"]) == decode_token(VECTORS["v3_unpadded"])
    assert decode_token("cashu:" + VECTORS["v3"]) == token
    assert decode_token(encode_v3(token)) == token
    for text in VECTORS["refused"]:
        with pytest.raises(TokenInvalid, match="begins with"):
            decode_token(text)


def test_nut_00_v4() -> None:
    token = decode_token(VECTORS["v4"])
    assert token.mint == "http://localhost:3338" and token.memo == "Thank you"
    (proof,) = token.proofs
    assert (proof.amount, proof.id) == (1, "00ad268c4d1f5826")
    assert proof.C == "038618543ffb6b8695df4ad4babcde92a34a96bdcd97dcee0d7ccf98d472126792"
    assert encode_token(token) == VECTORS["v4"].rstrip("=")
    assert "9a6dbb" not in repr(token)
    raw = bytes.fromhex(VECTORS["v4_raw"])
    assert raw.startswith(b"crawB")
    assert decode_token("cashuB" + base64.urlsafe_b64encode(raw[5:]).decode()) == token
    both = decode_token(VECTORS["v4_two_keysets"])
    assert [each.id for each in both.proofs] == ["00ffd48b8f5ecf80"] + ["00ad268c4d1f5826"] * 2
    assert encode_token(both) == VECTORS["v4_two_keysets"]


def test_a_v2_keyset_travels_short_and_is_expanded() -> None:
    proof = MINT.proof(4, "secret")
    token = decode_token(encode_token(Token("https://mint", (proof,))))
    assert token.proofs[0].id == MINT.keyset.short_id
    assert expand(token.proofs[0].id, MINT.keysets) == MINT.keyset.id
    assert token.proofs[0].dleq == proof.dleq


def test_ids_that_are_short_alike_travel_whole() -> None:
    ids = [f"01{'a' * 14}{tail * 50}" for tail in "bc"]
    proofs = tuple(Proof(1, each, f"s{number}", C) for number, each in enumerate(ids))
    assert [each.id for each in decode_token(encode_token(Token("https://mint", proofs))).proofs] == ids


PROOF = {"amount": 1, "id": "00" * 8, "secret": "s", "C": C}
PIECE = {"a": 1, "s": "s", "c": bytes.fromhex(C)}
GROUP = {"i": bytes(8), "p": [PIECE]}
WHOLE = {"t": [GROUP], "m": "https://mint", "u": "sat"}
ENTRY = {"mint": "https://mint", "proofs": [PROOF]}
SCALAR = "11" * 32


def piece(**changes: Any) -> str:
    return v4({**WHOLE, "t": [{**GROUP, "p": [{**PIECE, **changes}]}]})


def entry(**changes: Any) -> str:
    return v3({"token": [{**ENTRY, "proofs": [{**PROOF, **changes}]}]})


WRONG: list[tuple[str, str]] = [
    ("", "token_form"),
    ("cashuC" + "A" * 10, "token_form"),
    ("cashuA", "token_form"),
    ("cashuB====", "token_form"),
    ("cashuB\n" + v4(WHOLE)[6:], "token_form"),
    (v4(WHOLE) + "\n", "token_form"),
    (v4(WHOLE)[:-1], "token_form"),
    (v4(WHOLE)[:20], "token_form"),
    ("cashuA" + base64.urlsafe_b64encode(b"[1]").decode(), "token_form"),
    ("cashuA" + base64.urlsafe_b64encode(b'{"token":[],"token":[]}').decode(), "token_form"),
    ("cashuB" + "A" * (256 * 1024), "token_size"),
    (v3({"token": "x"}), "token_form"),
    (v3({"token": []}), "mint"),
    (v3({"token": [ENTRY, ENTRY]}), "mint"),
    (v3({"token": [{**ENTRY, "mint": None}]}), "mint"),
    (v3({"token": [{**ENTRY, "mint": "https://mint\u00e9"}]}), "mint"),
    (v3({"token": [{**ENTRY, "proofs": []}]}), "token_form"),
    (v3({"token": [{**ENTRY, "proofs": {}}]}), "token_form"),
    (v3({"token": [{**ENTRY, "proofs": [1]}]}), "token_form"),
    (v3({"token": [ENTRY], "unit": "usd"}), "unit"),
    (v3({"token": [ENTRY], "unit": None}), "unit"),
    (v3({"token": [ENTRY], "memo": 5}), "token_form"),
    (entry(amount="1"), "amount"),
    (entry(amount=0), "amount"),
    (entry(amount=-1), "amount"),
    (entry(amount=True), "amount"),
    (entry(amount=1.5), "token_form"),
    (entry(amount=2_100_000_000_000_001), "amount"),
    (entry(id="0000"), "keyset"),
    (entry(id=None), "keyset"),
    (entry(id="Z2OwgwVbnJRZ"), "keyset"),
    (entry(secret=""), "token_form"),
    (entry(secret="\u00fc"), "token_form"),
    (entry(secret=5), "token_form"),
    (entry(secret="s" * 1_025), "secret_length"),
    (entry(C=C[:-1]), "point"),
    (entry(C="04" + C[2:]), "point"),
    (entry(C=None), "point"),
    (entry(dleq="x"), "dleq"),
    (entry(dleq={"e": SCALAR, "s": SCALAR}), "dleq"),
    (entry(dleq={"e": SCALAR, "s": SCALAR, "r": 5}), "dleq"),
    (entry(dleq={"e": SCALAR, "s": SCALAR, "r": SCALAR + "\n"}), "dleq"),
    (entry(witness=5), "token_form"),
    (entry(witness="w" * 4_097), "token_form"),
    (v3({"token": [{**ENTRY, "proofs": [PROOF, PROOF]}]}), "repeated_secret"),
    (v4([WHOLE]), "token_form"),
    (v4({**WHOLE, "t": {}}), "token_form"),
    (v4({**WHOLE, "t": []}), "token_form"),
    (v4({**WHOLE, "t": [[]]}), "token_form"),
    (v4({**WHOLE, "t": [{**GROUP, "i": "00"}]}), "token_form"),
    (v4({**WHOLE, "t": [{**GROUP, "i": bytes(7)}]}), "keyset"),
    (v4({**WHOLE, "t": [{**GROUP, "i": b"\x01" + bytes(31)}]}), "keyset"),
    (v4({**WHOLE, "t": [{**GROUP, "p": None}]}), "token_form"),
    (v4({**WHOLE, "u": "msat"}), "unit"),
    (v4({"t": [GROUP], "m": "https://mint"}), "unit"),
    (v4({"t": [GROUP], "u": "sat"}), "mint"),
    (v4({**WHOLE, "m": "x" * 1_025}), "mint"),
    (v4({**WHOLE, "d": 5}), "token_form"),
    (piece(a=-1), "amount"),
    (piece(a=True), "amount"),
    (piece(s=b"s"), "token_form"),
    (piece(c=C), "point"),
    (piece(c=b"\x02"), "point"),
    (piece(d={"e": bytes(32), "s": bytes(32)}), "dleq"),
    (piece(d={"e": bytes(32), "s": bytes(32), "r": bytes(31)}), "dleq"),
    (piece(d=[]), "dleq"),
    (v4({**WHOLE, "t": [GROUP, GROUP]}), "repeated_secret"),
]


@pytest.mark.parametrize(("text", "check"), WRONG)
def test_a_token_that_is_wrong_is_refused_by_what_is_wrong(text: str, check: str) -> None:
    with pytest.raises(TokenInvalid) as refused:
        decode_token(text)
    assert refused.value.check == check
    assert len(str(refused.value)) < 220


def test_unknown_fields_are_passed_over() -> None:
    assert decode_token(v4({**WHOLE, "x": [None, True, -5, {"y": b"z"}]})).amount_sats == 1
    assert decode_token(v3({"token": [{**ENTRY, "x": 1}], "y": None})).amount_sats == 1
    assert decode_token(piece(d=None, w=None)).proofs[0].dleq is None


def test_more_than_a_thousand_proofs_are_refused() -> None:
    pieces = [{"a": 1, "s": str(number), "c": bytes.fromhex(C)} for number in range(1_001)]
    assert len(decode_token(v4({**WHOLE, "t": [{**GROUP, "p": pieces[:1_000]}]})).proofs) == 1_000
    for groups in ([{**GROUP, "p": pieces}], [{**GROUP, "p": pieces[:600]}, {**GROUP, "p": pieces[600:]}]):
        with pytest.raises(TokenInvalid) as refused:
            decode_token(v4({**WHOLE, "t": groups}))
        assert refused.value.check == "token_size"
    old = [{**PROOF, "secret": str(number)} for number in range(1_001)]
    assert len(decode_token(v3({"token": [{**ENTRY, "proofs": old[:1_000]}]})).proofs) == 1_000
    with pytest.raises(TokenInvalid, match="more than 1000 proofs"):
        decode_token(v3({"token": [{**ENTRY, "proofs": old}]}))


def test_a_token_has_one_spelling() -> None:
    text = VECTORS["v3_unpadded"]
    assert len(text[6:]) % 4 == 2 and text.endswith("Q")  # of the last character two bits count
    with pytest.raises(TokenInvalid, match="say nothing"):
        decode_token(text[:-1] + "R")
    with pytest.raises(TokenInvalid, match="URL alphabet"):
        decode_token(text[:40] + " " + text[40:])
    with pytest.raises(TokenInvalid, match="t is no list"):
        decode_token(v4({**WHOLE, "t": {}}))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("", "cut off"),
        ("18", "cut off"),
        ("42aa", "cut off"),
        ("62ff", "cut off"),
        ("61ff", "not UTF-8"),
        ("9f01ff", "indefinite"),
        ("5f41aaff", "indefinite"),
        ("1c", "reserved"),
        ("c100", "a tag"),
        ("f97c00", "other value"),
        ("f0", "other value"),
        ("9b7fffffffffffffff", "claimed"),
        ("bb7fffffffffffffff", "claimed"),
        ("5b7fffffffffffffff", "cut off"),
        ("a10102", "no text"),
        ("a2616101616102", "twice"),
        ("0000", "follow"),
        ("81" * 9 + "00", "deeper"),
        ("a16161" * 9 + "00", "deeper"),
    ],
)
def test_cbor_that_tokens_do_not_use(data: str, says: str) -> None:
    with pytest.raises(cbor.CborError, match=says):
        cbor.decode(bytes.fromhex(data))


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (0, "00"),
        (23, "17"),
        (24, "1818"),
        (255, "18ff"),
        (256, "190100"),
        (65_536, "1a00010000"),
        (2**64 - 1, "1bffffffffffffffff"),
        (-1, "20"),
        (-500, "3901f3"),
        (True, "f5"),
        (None, "f6"),
        ("ü", "62c3bc"),
        (b"\x01", "4101"),
        ([1, [2]], "82018102"),
        ({"a": 1}, "a1616101"),
    ],
)
def test_rfc_8949_examples(value: Any, data: str) -> None:
    assert cbor.encode(value).hex() == data
    assert cbor.decode(bytes.fromhex(data)) == value


def test_an_integer_beyond_64_bits_is_not_written() -> None:
    with pytest.raises(ValueError, match="64 bits"):
        cbor.encode(2**64)


SCALARS = st.binary(min_size=32, max_size=32).map(bytes.hex)
PROOFS = st.builds(
    Proof,
    st.integers(1, 2**40),
    st.sampled_from(["00" * 8, "00ad268c4d1f5826", "01" + "ab" * 7]),
    st.text('abcdef0123456789[]{}",:', min_size=1, max_size=60),
    st.sampled_from([C, MINT.keyset.key(2)]),
    st.none() | st.just('{"signatures":[]}'),
    st.none() | st.builds(Dleq, SCALARS, SCALARS, SCALARS),
)


@given(
    st.lists(PROOFS, min_size=1, max_size=6, unique_by=lambda proof: proof.secret),
    st.none() | st.text(max_size=20),
)
def test_what_is_written_is_read(proofs: list[Proof], memo: str | None) -> None:
    grouped = tuple(sorted(proofs, key=lambda proof: [each.id for each in proofs].index(proof.id)))
    token = Token("https://mint.example", grouped, memo)
    assert decode_token(encode_token(token)) == token
    assert decode_token(encode_v3(token)) == token
