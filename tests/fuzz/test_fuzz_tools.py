"""Whatever a program sends and a node answers: refused or checked, cleaned, never a crash (11 §11)."""

from __future__ import annotations

import json
from typing import Any

from hive_advisor.domain.allow_list import read_allow_list
from hive_advisor.domain.methods import method_table, tool_table
from hive_advisor.domain.tool_output import MAX_UNTRUSTED, take_apart
from hive_advisor.domain.tool_schema import check_arguments, method_tools
from hive_shared.errors import InvalidParams
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

TOOLS = method_tools({"hive-client-alias", "hive-client-revoke", "hive-client-emergency-stop"}, ("a", "b"))
JUDGES = {name: Draft202012Validator(dict(tool.schema)) for name, tool in TOOLS.items()}
WORDS = [*sorted({choice for method in method_table().values() for choice in method.classes}), "a", "b", ""]

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(WORDS)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
)
hostile = st.text() | st.sampled_from(
    ["\x1b[2J", "\u202eevil", "http://evil.example/x", "nsec1" + "q" * 58, "\ud800", "\U000e0041", "ok", "R"]
)
answers = st.recursive(
    st.none() | st.booleans() | st.integers() | hostile,
    lambda inner: st.lists(inner, max_size=30) | st.dictionaries(hostile, inner, max_size=8),
)


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    name = draw(st.sampled_from(sorted(TOOLS)))
    names = st.sampled_from(sorted(TOOLS[name].schema["properties"])) | st.text(max_size=8)
    return name, draw(st.dictionaries(names, values, max_size=4) | st.just({"node": "a"}))


@given(calls())
def test_what_is_let_through_fits_the_schema_that_was_shown(call: tuple[str, dict[str, Any]]) -> None:
    name, arguments = call
    try:
        check_arguments(TOOLS[name].schema, arguments)
    except InvalidParams as error:
        assert error.detail.isprintable()
        return
    assert JUDGES[name].is_valid(arguments)


@given(
    st.sampled_from(sorted(tool_table())), st.dictionaries(st.text() | st.just("action"), values, max_size=3)
)
def test_a_call_has_a_class_of_its_method_and_an_odd_value_the_strictest(
    name: str, arguments: dict[str, Any]
) -> None:
    method = tool_table()[name]
    klass = method.class_of(arguments)
    assert klass in method.present_classes
    given_value = arguments.get(method.selector or "")
    if method.selector is not None and given_value is not None and not isinstance(given_value, str | bool):
        assert klass == method.klass


@given(st.binary() | st.text() | values.map(json.dumps))
def test_no_list_opens_what_is_not_acting(text: str | bytes) -> None:
    found = read_allow_list(text)
    assert all("A" in method_table()[name].present_classes for name in found.names)
    assert found.names or found.warnings or json.loads(text) == []


@given(answers, st.booleans())
def test_no_answer_of_a_node_gets_through_uncleaned(answer: object, own_words: bool) -> None:
    parts = take_apart(answer, "node a", own_words=own_words)
    shown = json.dumps([parts.data, parts.untrusted], ensure_ascii=False)
    shown.encode()
    for bad in ("\x1b", "\u202e", "http://evil", "nsec1" + "q" * 30, "\U000e0041"):
        assert bad not in shown
    assert len(parts.untrusted) <= MAX_UNTRUSTED
    # A second look finds nothing more to take out.
    assert take_apart(parts.data, "node a", own_words=True).data == parts.data
