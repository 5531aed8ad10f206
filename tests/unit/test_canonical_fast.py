"""The quick way of canonical JSON gives the bytes of the general one (RFC 8785)."""

from __future__ import annotations

import datetime
import decimal
import enum
import uuid

import pytest
import rfc8785
from hive_shared.canonical import encode
from hypothesis import given, settings
from hypothesis import strategies as st

# Every code point but surrogates, with those that JSON escapes or sorts oddly more often.
TEXT = st.text(
    st.characters(codec="utf-8") | st.sampled_from('\x00\x1f\b\t\n\f\r"\\/\x7f\u2028￿𐀀é'), max_size=20
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=5),
    max_leaves=30,
)


@settings(max_examples=200)
@given(VALUES)
def test_same_bytes_as_the_reference(value: object) -> None:
    assert encode(value) == rfc8785.dumps(value)  # type: ignore[arg-type]


@settings(max_examples=200)
@given(
    st.dictionaries(st.text(st.characters(max_codepoint=127), max_size=8), TEXT | st.integers(0, 2**53 - 1))
)
def test_same_bytes_for_the_documents_we_sign(document: dict[str, object]) -> None:
    assert encode(document) == rfc8785.dumps(document)  # type: ignore[arg-type]


@settings(max_examples=400)
@given(st.floats(1e-7, 1e17) | st.decimals(0, 10**6, places=3).map(float), st.sampled_from((1, -1)))
def test_fractions_that_need_no_exponent(size: float, sign: int) -> None:
    assert encode([size * sign]) == rfc8785.dumps([size * sign])


@pytest.mark.parametrize("number", [0.0, -0.0, 5.0, 1e-4, 9.9999e-5, 0.1, 99.5, 1e15 - 0.5, 1e15 + 0.5, 1e21])
def test_fractions_at_the_edges(number: float) -> None:
    assert encode({"x": number}) == rfc8785.dumps({"x": number})


class Word(enum.StrEnum):
    RECEIVED = "received"


def test_a_word_of_a_string_enumeration_is_its_text() -> None:
    assert encode({"state": Word.RECEIVED, "parts": (1, 2)}) == b'{"parts":[1,2],"state":"received"}'


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        {"x": float("inf")},
        2**53,
        [-(2**53)],
        {1: "x"},
        {None: 1},
        b"bytes",
        {"at": datetime.datetime.now(datetime.UTC)},
        decimal.Decimal("1.5"),
        uuid.UUID(int=1),
        {"set": {1}},
        "\ud800",
        {"\udfff": 1},
        {"x": ["\ud800"]},
        object(),
    ],
)
def test_what_is_not_json_is_refused_by_both_ways(value: object) -> None:
    with pytest.raises(ValueError):
        encode(value)
