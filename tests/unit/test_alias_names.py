"""Rules for names (Protocol 08 §6 Identity)."""

import pytest
from cl_hive_comms.domain import names
from hive_shared.errors import InvalidParams
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "   ",
        "123",
        "all",
        "ALL",
        "did:nostr:x",
        "npub1abc",
        "NSEC1x",
        "a" * 65,
        "ab" * 32,
        "advisor-3",
        "x\u202ey",
        "two\nlines",
        "a\tb",
    ],
)
def test_names_with_another_meaning_are_refused(bad: str) -> None:
    with pytest.raises(InvalidParams):
        names.clean(bad)


def test_case_width_and_blanks_do_not_make_another_name() -> None:
    assert names.key_of("Hex  Fleet") == names.key_of("ｈｅｘ fleet")
    assert names.clean("  Hex   Fleet ") == "Hex Fleet"


@pytest.mark.parametrize(
    ("one", "other"), [("alice", "аlice"), ("Bob1", "BobI"), ("modern", "rnodern"), ("O2", "02x")]
)
def test_look_alikes_share_their_drawn_form(one: str, other: str) -> None:
    alike = names.look_alikes(one, [other])
    assert alike == ([] if other == "02x" else [other])


def test_the_same_name_is_not_its_own_look_alike() -> None:
    assert names.look_alikes("Alice", ["alice"]) == []


def test_taken_names_are_numbered() -> None:
    assert names.unused("Fleet", ["fleet", "Fleet (2)"]) == "Fleet (3)"
    assert names.unused("Fleet", []) == "Fleet"


@given(st.text(max_size=80))
def test_cleaning_is_stable_or_refuses(text: str) -> None:
    try:
        cleaned = names.clean(text)
    except InvalidParams:
        return
    assert names.clean(cleaned) == cleaned
    assert 1 <= len(cleaned) <= names.MAX_LENGTH
