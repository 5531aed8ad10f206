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
        "ali\u200bce",  # zero-width space
        "ali\u200dce",  # zero-width joiner
        "\u2066alice\u2069",  # isolated
        "\ufeffalice",
        "ali\u034fce",  # grapheme joiner, a mark drawn as nothing
        "\u3164",  # a letter drawn as nothing
        "ali\uffa0ce",
        "\u2800",
        "x\ud800",
        "\u0301lice",
        "\u0663\u0664",  # Arabic digits
        "\uff11\uff12",
        "\u00b2",
        "a\u217c\u217c",  # all, in Roman numerals
        "\u0430ll",  # all, with a Cyrillic a
        "\u0430dvisor-3",
        "n\u0440ub1friend",
        "n\u0455ec1friend",
        "d\u0456d:friend",
        "\uff4e\uff50\uff55\uff421x",
        "nostr:friend",
        "cafe" * 4,  # the form of an advisor's id
        "02" + "ab" * 32,
    ],
)
def test_names_with_another_meaning_are_refused(bad: str) -> None:
    with pytest.raises(InvalidParams):
        names.clean(bad)


def test_case_width_and_blanks_do_not_make_another_name() -> None:
    assert names.key_of("Hex  Fleet") == names.key_of("ｈｅｘ fleet")
    assert names.clean("  Hex   Fleet ") == "Hex Fleet"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("alice", "\u0430lice"),
        ("Bob1", "BobI"),
        ("modern", "rnodern"),
        ("Bob", "\u0412ob"),  # Cyrillic Ve
        ("HEX", "\u041dE\u0425"),  # Cyrillic En, Ha
        ("Zeta", "\u0396eta"),  # Greek Zeta
        ("Nova", "\u039dova"),
        ("kappa", "\u03ba\u03b1\u03c1\u03c1\u03b1"),
        ("Lolo", "\u053colo"),  # Armenian Liwn
        ("Dora", "\u13a0ora"),  # Cherokee
        ("dora", "\uab70ora"),  # small Cherokee
        ("lodz", "\u0142\u00f8\u0111z"),
        ("idle", "\u0131dle"),
        ("alice", "alic\u00e9"),
        ("alice", "ali-ce"),
        ("node 7", "node \u0667"),  # Arabic seven
        ("walter", "vvalter"),
        ("fee doctor", "fee d0ctor"),
    ],
)
def test_look_alikes_share_their_drawn_form(one: str, other: str) -> None:
    assert names.look_alikes(one, [other]) == [other]
    assert names.look_alikes(other, [one]) == [one]


@pytest.mark.parametrize(
    ("one", "other"), [("O2", "02x"), ("!!!", "???"), ("\U0001f680", "\U0001f319"), ("alice", "malice")]
)
def test_what_looks_different_is_not_pointed_out(one: str, other: str) -> None:
    assert names.look_alikes(one, [other]) == []


def test_a_selector_of_an_emoji_is_not_part_of_the_name() -> None:
    assert names.clean("heart \u2764\ufe0f") == "heart \u2764"
    assert names.key_of("heart \u2764\ufe0f") == names.key_of("Heart \u2764")


@pytest.mark.parametrize(
    ("name", "scripts"),
    [
        ("\u0430lice", ("Cyrillic", "Latin")),
        ("\u0391lpha", ("Greek", "Latin")),
        ("alice \u0410\u043b\u0438\u0441\u0430", ()),  # two words, one script each
        ("\u0410\u043b\u0438\u0441\u0430", ()),
        ("alice\u4e2d\u6587", ()),  # nobody takes one for the other
        ("Fee Doctor 7!", ()),
    ],
)
def test_words_of_several_scripts_that_look_alike(name: str, scripts: tuple[str, ...]) -> None:
    assert names.mixed_scripts(name) == scripts


@pytest.mark.parametrize("secret", ["nsec1abcdef", " NSEC1abcdef", "nostr:nsec1abcdef"])
def test_a_secret_key_in_a_names_place_is_not_repeated(secret: str) -> None:
    with pytest.raises(InvalidParams) as caught:
        names.clean(secret)
    assert "abcdef" not in str(caught.value) and "secret key" in str(caught.value)


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
    assert names.key_of(cleaned) == names.key_of(text) and names.drawn_form(cleaned)
    assert 1 <= len(cleaned) <= names.MAX_LENGTH
