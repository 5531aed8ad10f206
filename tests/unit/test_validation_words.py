"""What a strict decoder found, told to who wrote the document."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import pytest
from hive_shared.validation_words import in_words
from msgspec import Meta


class Part(msgspec.Struct, forbid_unknown_fields=True):
    """One of several."""

    sats: Annotated[int, Meta(ge=1, le=9)]
    label: Annotated[str, Meta(max_length=3)] = ""
    cond: dict[str, Any] | None = None
    hash: Annotated[str, Meta(pattern="^[0-9a-f]+$")] = "0"
    names: Annotated[list[str], Meta(min_length=1)] = []
    sure: bool = False


class Whole(msgspec.Struct, forbid_unknown_fields=True):
    """All of them."""

    parts: list[Part]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "sats is missing"),
        ({"sats": 1, "satz": 2}, "satz is no field here"),
        ({"sats": "1"}, "sats must be a whole number, not a text"),
        ({"sats": 1.5}, "sats must be a whole number, not a number with a point"),
        ({"sats": None}, "sats must be a whole number, not null"),
        ({"sats": 0}, "sats must be at least 1"),
        ({"sats": 10}, "sats must be at most 9"),
        ({"sats": 1, "label": "abcd"}, "label must have at most 3 characters"),
        ({"sats": 1, "cond": 5}, "cond must be an object, not a whole number"),
        ({"sats": 1, "hash": "zz"}, "hash does not have the form that it needs"),
        ({"sats": 1, "names": []}, "names must have at least 1 entries"),
        ({"sats": 1, "names": ["a", 2]}, "names[1] must be a text, not a whole number"),
        ({"sats": 1, "sure": "yes"}, "sure must be true or false, not a text"),
        ([], "it must be an object, not a list"),
    ],
)
def test_a_field_is_named_and_what_it_takes(given: object, told: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(given, Part)
    assert in_words(caught.value) == told


def test_a_place_inside_is_named_and_the_unknown_stays_as_it_is() -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert({"parts": [{"sats": 1, "x": 1}]}, Whole)
    assert in_words(caught.value) == "x of parts[0] is no field here"
    strange = msgspec.ValidationError("something new")
    assert in_words(strange) == "something new" and in_words(strange, 4) == "some"
