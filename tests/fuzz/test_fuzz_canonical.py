"""The strict decoder against generated and mutated documents: a value or a DecodeError, nothing else."""

from __future__ import annotations

import json

from hive_shared.canonical import MAX_INTEGER, DecodeError, JsonValue, decode, encode
from hypothesis import given
from hypothesis import strategies as st

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=6), inner, max_size=5),
    max_leaves=40,
)
COMMAND = encode(
    {
        "v": 1,
        "schema_type": "hive:fee-policy/v1",
        "params": {"channels": ["1x2x3"], "fee_ppm": 250, "note": "ünï \U0001f41d"},
        "nonce": MAX_INTEGER,
        "signature": "ab" * 64,
    }
)


def accepted(data: bytes | str, *, floats: bool) -> JsonValue | DecodeError:
    try:
        return decode(data, floats=floats)
    except DecodeError as refused:
        assert refused.reason in ("malformed", "too_large")
        assert len(str(refused)) < 200  # a hostile document must not fill a log line
        return refused


@given(st.binary(max_size=400) | st.text(max_size=400), st.booleans())
def test_raw_noise(data: bytes | str, floats: bool) -> None:
    value = accepted(data, floats=floats)
    if not isinstance(value, DecodeError):
        encode(value)


@given(ANYTHING, st.booleans(), st.booleans())
def test_structured_documents_of_any_values(document: object, floats: bool, ascii_only: bool) -> None:
    text = json.dumps(document, ensure_ascii=ascii_only)
    value = accepted(text, floats=floats)
    if not isinstance(value, DecodeError):
        assert encode(value) == encode(document)
        assert accepted(encode(value), floats=floats) == value


@given(
    st.lists(st.tuples(st.integers(0, len(COMMAND) - 1), st.integers(0, 255)), min_size=1, max_size=6),
    st.integers(0, len(COMMAND)),
)
def test_a_damaged_command_never_keeps_its_canonical_text(edits: list[tuple[int, int]], length: int) -> None:
    damaged = bytearray(COMMAND)
    for position, byte in edits:
        damaged[position] = byte
    cut = bytes(damaged[: length or len(damaged)])
    value = accepted(cut, floats=False)
    if not isinstance(value, DecodeError) and cut != COMMAND:
        # Only spelling may differ without a change of meaning, and canonical text has one spelling.
        assert encode(value) != COMMAND or json.loads(cut) == json.loads(COMMAND)


@given(
    st.lists(
        st.sampled_from(['{"a":', "[", "]", "}", "1", ",", '"', "\\ud800", "1e9", "\\", "NaN"]), max_size=300
    )
)
def test_token_soup(tokens: list[str]) -> None:
    accepted("".join(tokens), floats=True)
