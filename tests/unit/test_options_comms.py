"""The options of cl-hive-comms: all declared once, parsed strictly, honest about what is not served."""

import re
from pathlib import Path

import pytest
from cl_hive_comms import option_parsers as read
from cl_hive_comms.options import NOT_SERVED, PREFIX, ROWS, Config, option_specs
from cl_hive_comms.options_later import AWAITED, awaited

INDEX = Path(__file__).parents[2] / "docs" / "protocol" / "00-index.md"


def _named_in_index() -> set[str]:
    """Leading names of each family as the registry lists them; `-x` entries continue the name before."""
    text = INDEX.read_text()
    section = text[text.index("## 8. Options of cl-hive-comms") : text.index("## 9. Tables")]
    names: set[str] = set()
    for row in re.findall(r"^\| [^|]*? \| (.*) \|$", section, re.M)[1:]:
        names |= {name.strip() for name in row.split(",")}
    return names


def test_every_option_of_the_registry_is_declared() -> None:
    declared = {row.name for row in ROWS}
    families = {row.name.split("-", 1)[0] for row in ROWS}
    for name in _named_in_index():
        if name.startswith("-"):
            assert any(option.endswith(name) for option in declared), name
        else:
            assert name in declared or f"liquidity-{name}" in declared, (name, families)


def test_names_are_unique_and_prefixed() -> None:
    names = [spec.name for spec in option_specs()]
    assert len(names) == len(set(names)) == 109
    assert all(name.startswith(PREFIX) for name in names)


def test_every_default_passes_its_own_parser() -> None:
    for row in ROWS:
        row.parse(row.default)


def test_help_says_what_is_not_served() -> None:
    for row in ROWS:
        later = not row.served and not row.deprecated
        assert (NOT_SERVED in row.spec().description) == later
        if later:
            assert row.spec().description.endswith(f"; it waits for {awaited(row.name)}.")


def test_what_an_option_waits_for_is_said_by_the_longest_name_or_not_at_all() -> None:
    assert awaited("nostr-metadata").startswith("a profile")
    with pytest.raises(KeyError, match="nostr-relays"):
        awaited("nostr-relays")


def test_what_options_wait_for_is_not_said_of_what_is_served() -> None:
    waiting = [row.name for row in ROWS if not row.served and not row.deprecated]
    assert [start for start in AWAITED if not any(name.startswith(start) for name in waiting)] == []


def test_a_changed_unserved_option_is_reported() -> None:
    config = Config.build({})
    assert config.unserved() == []
    changed = config.changed(PREFIX + "marketplace-provider", True)
    assert changed.unserved() == [PREFIX + "marketplace-provider"]
    assert config.unserved() == []


def test_a_secret_option_never_prints() -> None:
    row = next(row for row in ROWS if row.name == "nsec")
    config = Config.build({PREFIX + "nsec": row.parse("nsec1verysecret")})
    assert "verysecret" not in repr(config)


@pytest.mark.parametrize(
    ("parse", "value"),
    [
        (read.relays, "http://relay.example"),
        (read.relays, "ws://relay.example"),
        (read.relays, ",".join(f"wss://r{n}.example" for n in range(9))),
        (read.whole(30, 900), "29"),
        (read.whole(30, 900), True),
        (read.whole(30, 900), "3e2"),
        (read.one_of("a", "b"), "c"),
        (read.https_urls, "http://directory.example"),
        (read.mint_urls, "http://mint.example"),
        (read.mint_url, "https://a.example,https://b.example"),
        (read.payment_methods, "bolt11,cash"),
        (read.payment_methods, ""),
        (read.payment_methods, "bolt11,bolt11"),
        (read.node_ids, "02zz"),
        (read.kinds, "70000"),
        (read.weights, "rep=half"),
        (read.whole(30, 900), "1_00"),
        (read.whole(30, 900), "٤٢"),
        (read.whole(30, 900), "+42"),
        (read.weights, "rep=0.5,rep=0.6"),
        (read.sibling_limits, "comms=1/2"),
        (read.sibling_limits, "fleet=1/2,fleet=3/4"),
        (read.sibling_limits, "fleet=1/9999999999999999"),
        (read.flag, "maybe"),
    ],
)
def test_bad_values_are_refused_with_a_sentence(parse: read.Parser, value: object) -> None:
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        parse(value)


def test_relays_are_normalised_and_deduplicated() -> None:
    assert read.relays(" wss://Nos.lol/ , wss://nos.lol,ws://127.0.0.1:7777") == (
        "wss://nos.lol",
        "ws://127.0.0.1:7777",
    )
