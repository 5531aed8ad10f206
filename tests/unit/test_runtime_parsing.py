"""Strict parameters, options of each kind, option values, the option table, log lines."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hive_shared.crypto import Secret
from hive_shared.errors import InvalidParams
from hive_shared.runtime_config import OptionGroup, OptionTable, Rule
from hive_shared.runtime_output import render_log
from hive_shared.runtime_spec import InitInfo, MethodSpec, OptionSpec, Param, option_from_node, parse_params
from hive_shared.runtime_values import decimal_text, duration, fraction, one_of, urls, whole, words
from hypothesis import given
from hypothesis import strategies as st


async def never(params: dict[str, Any]) -> dict[str, Any]:
    raise AssertionError


SPEC = MethodSpec(
    "m",
    "R",
    (
        Param("name", "str", required=True, maximum=10),
        Param("count", "int", default=5, minimum=1, maximum=500),
        Param("yes", "bool", default=False),
        Param("doc", "json"),
        Param("mode", "str", choices=("a", "b")),
        Param("key", "str", minimum=1, maximum=8),
    ),
    never,
    "",
)


def parsed(**params: Any) -> dict[str, Any]:
    return parse_params(SPEC, {"name": "n", **params})


def test_named_and_positional_bind_alike() -> None:
    expected = {"name": "x", "count": 7, "yes": True, "doc": None, "mode": None, "key": None}
    assert parse_params(SPEC, {"name": "x", "count": 7, "yes": True}) == expected
    assert parse_params(SPEC, ["x", 7, "true"]) == expected
    assert parse_params(SPEC, ["x", "7", True, None]) == expected


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"nom": 1}, 'unknown parameter "nom"; m takes name [count] [yes] [doc] [mode] [key]'),
        ({"count": 0}, "count must be an integer from 1 to 500, not 0"),
        ({"count": 501}, "not 501"),
        ({"count": True}, "count must be an integer, not true"),
        ({"count": 1.0}, "count must be an integer, not 1.0"),
        ({"count": "01"}, "count must be an integer"),
        ({"count": "1 "}, "count must be an integer"),
        ({"count": []}, "count must be an integer"),
        ({"yes": 1}, "yes must be true or false, not 1"),
        ({"yes": "yes"}, "yes must be true or false"),
        ({"name": True}, "name must be text, not true"),
        ({"name": {}}, "name must be text"),
        ({"name": "x" * 11}, "name must be at most 10 characters"),
        ({"mode": "c"}, 'mode must be one of a, b, not "c"'),
        ({"doc": '{"a":1,"a":2}'}, "doc is not strict JSON"),
        ({"doc": "{"}, "doc is not strict JSON: not valid JSON: Expecting"),
        ({"doc": "NaN"}, "doc is not strict JSON"),
        ({"key": ""}, "key must be text of 1 to 8 characters, or left out"),
        ({"key": "  "}, "key must be text of 1 to 8 characters, or left out"),
    ],
)
def test_refusals_say_what_was_wrong(params: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidParams) as caught:
        parsed(**params)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "raw", [None, "text", 5, ["a", 1, True, None, "a", "k", "surplus"], [], {}, {"name": None}]
)
def test_wrong_shapes_and_missing_are_refused(raw: object) -> None:
    with pytest.raises(InvalidParams):
        parse_params(SPEC, raw)


def test_a_number_stands_for_text_and_null_for_absent() -> None:
    assert parsed(name=123)["name"] == "123"
    assert parsed(count=None)["count"] == 5
    assert parsed(doc='{"a":[1,2]}')["doc"] == {"a": [1, 2]} == parsed(doc={"a": [1, 2]})["doc"]


@given(
    st.dictionaries(
        st.text(max_size=6),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(),
            lambda inner: st.lists(inner, max_size=3),
            max_leaves=5,
        ),
        max_size=4,
    )
)
def test_any_object_is_parsed_or_refused(raw: dict[str, Any]) -> None:
    try:
        values = parse_params(SPEC, raw)
    except InvalidParams:
        return
    assert set(values) == {"name", "count", "yes", "doc", "mode"}
    assert isinstance(values["count"], int) and 1 <= values["count"] <= 500


def test_sibling_methods_show_the_authentication_parameters() -> None:
    spec = MethodSpec("m", "S", (Param("nonce", "str", required=True),), never, "")
    assert spec.usage == "nonce ts auth"


def option(kind: Any, default: Any, **more: Any) -> OptionSpec:
    return OptionSpec("opt", kind, default, "", **more)


@pytest.mark.parametrize(
    ("spec", "value", "expected"),
    [
        (option("int", 5), "7", 7),
        (option("int", 5), 7, 7),
        (option("int", 5), None, 5),
        (option("bool", True), "false", False),
        (option("bool", True), False, False),
        (option("bool", None), None, None),
        (option("flag", None), None, False),
        (option("flag", None), True, True),
        (option("string", None), None, None),
        (option("string", "0.5", parse=fraction("0", "1")), "0.25", Fraction(1, 4)),
        (option("string", None, multi=True), None, []),
        (option("string", None, multi=True), ["a", "b"], ["a", "b"]),
        (option("int", None, multi=True), ["1", "2"], [1, 2]),
    ],
)
def test_options_arrive_typed_or_as_text(spec: OptionSpec, value: object, expected: object) -> None:
    assert option_from_node(spec, value) == expected


@pytest.mark.parametrize(
    ("parse", "value"),
    [
        (whole(1, 5), 6),
        (fraction("0.1", "1"), "0.05"),
        (fraction("0", "1"), "1e-1"),
        (fraction("0", "1"), ""),
        (fraction("0", "1"), "."),
        (fraction("0", "1"), "-0.1"),
        (fraction("0", "1"), "0,5"),
        (fraction("0", "1"), "0.1234567"),
        (one_of("a", "b"), "c"),
        (words("a", "b"), "a,c"),
        (words(limit=2), "a,b,c"),
        (urls, "ftp://x"),
        (urls, "https://user:pass@example.org"),
        (duration(0, 60), "2m"),
        (duration(0, 60), "1w"),
        (duration(0, 60), ""),
    ],
)
def test_values_outside_are_refused_without_repeating_credentials(parse: Any, value: object) -> None:
    with pytest.raises(ValueError) as caught:
        parse(value)
    assert "pass@" not in str(caught.value)


def test_values_inside_are_exact() -> None:
    assert fraction("0", "1")("0.51") == Fraction(51, 100) and decimal_text(Fraction(51, 100)) == "0.51"
    assert fraction("0", "1")(".5") == Fraction(1, 2) and decimal_text(Fraction(1)) == "1.0"
    assert one_of("failsafe", autonomous="failsafe")("autonomous") == "failsafe"
    assert words()(" a, b ,,a") == ("a", "b") and words()("") == ()
    assert urls("https://a.org/, http://localhost:4224") == ("https://a.org", "http://localhost:4224")
    assert duration(0, 10**7)("24h") == 86_400 == duration(0, 10**7)("86400")


def table() -> OptionTable:
    group = OptionGroup("x-")
    group.add("low", 1, "Low.", whole(0, 100))
    group.add("high", 9, "High.", whole(0, 100))
    group.later("unused", "a", "Unused.")
    group.later("secret", "", "Secret.", kind="string-conceal")
    broken = "low must not be above high"
    return OptionTable(
        (group,), (Rule(("x-low", "x-high"), lambda v: broken if v["x-low"] > v["x-high"] else None),)
    )


def info(options: dict[str, Any], invalid: dict[str, str] | None = None) -> InitInfo:
    values = {spec.name: option_from_node(spec, options.get(spec.name)) for spec in table().specs}
    return InitInfo(Path("/n"), Path("/n/r"), "regtest", True, None, False, values, invalid or {})


def test_table_names_what_is_not_served_and_what_was_refused() -> None:
    options = table()
    config = options.snapshot(info({"x-unused": "b", "x-secret": "hush", "x-low": 50}, {"x-other": "is bad"}))
    assert (config["x-low"], config["x-high"]) == (1, 9)
    assert options.warnings(config) == [
        "x-other keeps its default: is bad",
        "x-low keeps its default: low must not be above high",
        "x-high keeps its default: low must not be above high",
        "x-unused is set, but not served by this version",
        "x-secret is set, but not served by this version",
    ]
    rows = {row["name"]: row for row in options.rows(config)}
    assert rows["x-secret"]["value"] == "<concealed>" and "hush" not in str(rows)
    assert rows["x-unused"] == {"name": "x-unused", "value": "b", "source": "option", "served": False}
    assert "Not served by this version" in next(s for s in options.specs if s.name == "x-unused").description


def test_change_is_checked_across_options_and_clears_an_old_refusal() -> None:
    options = table()
    config = options.snapshot(info({"x-low": 50}))
    with pytest.raises(ValueError, match="low must not be above high"):
        options.changed(config, "x-low", 10)
    changed = options.changed(options.changed(config, "x-high", 20), "x-low", 10)
    assert (changed["x-low"], changed["x-high"], config["x-low"]) == (10, 20, 1)
    assert options.warnings(changed) == []


def test_contradictory_defaults_are_a_programming_error() -> None:
    group = OptionGroup("x-")
    group.add("a", 1, "")
    with pytest.raises(ValueError, match="never"):
        OptionTable((group,), (Rule(("x-a",), lambda values: "never"),))


def test_log_lines_are_structured_and_keep_secrets() -> None:
    line = render_log(
        "event",
        {
            "url": "wss://nos.lol",
            "n": 3,
            "text": 'two "words"',
            "rune": "abc",
            "auth_token": "abc",
            "note": "nsec1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq",
            "key": Secret(b"k"),
        },
    )
    assert line == (
        'event url=wss://nos.lol n=3 text="two \\"words\\"" rune=<secret> auth_token=<secret>'
        ' note="<secret>" key="<secret>"'
    )
