"""Canonical JSON against the RFC's vectors, and the strict decoder against hostile documents."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hive_shared.canonical import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_INTEGER,
    MAX_NODES,
    DecodeError,
    JsonValue,
    decode,
    decode_object,
    encode,
)
from hive_shared.errors import InvalidParams
from hypothesis import given, settings
from hypothesis import strategies as st

JCS = Path(__file__).parents[1] / "vectors" / "jcs"

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-MAX_INTEGER, MAX_INTEGER)
    | st.text(st.characters(codec="utf-8"), max_size=20)
)
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), inner, max_size=4)
    ),
    max_leaves=20,
)


@pytest.mark.parametrize("name", sorted(path.name for path in (JCS / "input").iterdir()))
def test_published_vectors_of_rfc_8785(name: str) -> None:
    document = decode((JCS / "input" / name).read_bytes(), floats=True)
    assert encode(document) == (JCS / "output" / name).read_bytes().rstrip(b"\n")


@pytest.mark.parametrize(
    ("number", "text"),
    [  # RFC 8785 appendix B and the corners of ECMAScript's Number::toString
        (0.0, b"0"),
        (-0.0, b"0"),
        (5e-324, b"5e-324"),
        (1.7976931348623157e308, b"1.7976931348623157e+308"),
        (9007199254740992.0, b"9007199254740992"),
        (295147905179352830000.0, b"295147905179352830000"),
        (9.999999999999997e22, b"9.999999999999997e+22"),
        (1e23, b"1e+23"),
        (1e21, b"1e+21"),
        (1e20, b"100000000000000000000"),
        (333333333.3333332, b"333333333.3333332"),
        (-0.0000033333333333333333, b"-0.0000033333333333333333"),
        (1e-6, b"0.000001"),
        (1e-7, b"1e-7"),
        (1.0, b"1"),
    ],
)
def test_numbers_are_written_as_ecmascript_writes_them(number: float, text: bytes) -> None:
    assert encode(number) == text


def test_keys_sort_by_utf16_code_units_not_code_points() -> None:
    assert encode({"\ue000": 1, "\U00010000": 2}) == '{"\U00010000":2,"\ue000":1}'.encode()


@pytest.mark.parametrize(
    "value",
    [
        *(float("nan"), float("inf"), MAX_INTEGER + 1, -MAX_INTEGER - 1),
        *("\ud800", {"\ud800": 1}, {1: 2}, {1}, b"x"),
    ],
)
def test_what_json_cannot_say_is_refused(value: object) -> None:
    with pytest.raises(ValueError):
        encode(value)


def test_a_bottomless_value_is_refused_not_a_crash() -> None:
    value: list[object] = []
    value.append(value)
    with pytest.raises(ValueError, match="nested too deeply"):
        encode(value)


@settings(max_examples=150)
@given(DOCUMENTS)
def test_encoding_then_decoding_gives_the_document_and_the_same_bytes(document: JsonValue) -> None:
    text = encode(document)
    assert decode(text) == document
    assert encode(decode(text)) == text
    assert json.loads(text) == document


@settings(max_examples=150)
@given(DOCUMENTS)
def test_spelling_does_not_change_the_canonical_text(document: JsonValue) -> None:
    sloppy = json.dumps(document, indent=2)
    assert encode(decode(sloppy)) == encode(document)


@settings(max_examples=200)
@given(st.binary(max_size=200) | st.text(max_size=200))
def test_noise_either_decodes_or_is_a_decode_error(noise: bytes | str) -> None:
    try:
        value = decode(noise, floats=True)
    except DecodeError as error:
        assert error.reason in ("malformed", "too_large")
    else:
        encode(value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a":1,"a":1}', "'a' appears twice"),
        ('[{"x":{"b":1,"b":2}}]', "'b' appears twice"),
        ("NaN", "NaN is not JSON"),
        ("[-Infinity]", "-Infinity is not JSON"),
        ("1.0", "1.0 is not an integer"),
        ("1e3", "1e3 is not an integer"),
        (str(MAX_INTEGER + 1), "beyond"),
        (str(-MAX_INTEGER - 1), "beyond"),
        ("9" * 5_000, "beyond"),
        ('"\\ud800"', "lone surrogate"),
        ('{"\\udfff":1}', "lone surrogate"),
        ('"\ud800"', "lone surrogate"),
        (b'"\xff"', "not UTF-8 at byte 1"),
        (b"\xef\xbb\xbf1", "not valid JSON"),
        ("", "not valid JSON"),
        ("{} {}", "not valid JSON"),
        ("[1,]", "not valid JSON"),
        ('"\n"', "not valid JSON"),
        ("01", "not valid JSON"),
    ],
)
def test_malformed_documents_are_named(text: bytes | str, says: str) -> None:
    with pytest.raises(DecodeError, match=says.replace("+", "\\+")) as caught:
        decode(text)
    assert caught.value.reason == "malformed"
    assert isinstance(caught.value, InvalidParams)


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 60_000 // 2])
def test_depth_is_bounded(depth: int) -> None:
    with pytest.raises(DecodeError, match="deeper than 12") as caught:
        decode("[" * depth + "]" * depth)
    assert caught.value.reason == "too_large"


def test_the_deepest_allowed_document_decodes() -> None:
    decode("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    decode('{"a":' * MAX_DEPTH + "1" + "}" * MAX_DEPTH)


def test_node_count_is_bounded() -> None:
    decode("[" + ",".join("1" * (MAX_NODES - 1)) + "]")
    with pytest.raises(DecodeError, match="more than 2000 values") as caught:
        decode("[" + ",".join("1" * MAX_NODES) + "]")
    assert caught.value.reason == "too_large"


@pytest.mark.parametrize("as_bytes", [True, False])
def test_size_counts_utf8_bytes(as_bytes: bool) -> None:
    fits = '"' + "é" * ((MAX_BYTES - 3) // 2) + 'x"'
    assert len(fits.encode()) == MAX_BYTES
    over = fits[:-1] + 'x"'
    decode(fits.encode() if as_bytes else fits)
    with pytest.raises(DecodeError) as caught:
        decode(over.encode() if as_bytes else over)
    assert caught.value.reason == "too_large"


def test_floats_are_read_only_where_the_caller_asks_for_them() -> None:
    assert decode("[1.5, 1e2]", floats=True) == [1.5, 100.0]
    with pytest.raises(DecodeError, match="too large for a double"):
        decode("1e400", floats=True)
    with pytest.raises(DecodeError, match="an integer beyond"):
        decode("1e20", floats=True)
    assert decode("1e21", floats=True) == 1e21


@pytest.mark.parametrize(
    ("text", "kind"),
    [("[]", "an array"), ('"x"', "a string"), ("1", "a number"), ("true", "a boolean"), ("null", "null")],
)
def test_decode_object_names_what_it_got_instead(text: str, kind: str) -> None:
    with pytest.raises(DecodeError, match=f"expected a JSON object, got {kind}"):
        decode_object(text)


def test_decode_object_returns_the_object() -> None:
    assert decode_object(b'{"b":true,"a":[null]}') == {"b": True, "a": [None]}
