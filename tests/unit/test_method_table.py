"""What a program may call: classes of calls, the operator's list, the rune, the tools
(08 §8.7; 11 §11, §18.13, §18.17).
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from cl_hive.plugin.app import HivePlugin
from cl_hive_archon.plugin import ArchonPlugin
from cl_hive_comms.plugin.app import Comms
from hive_advisor.domain.allow_list import acting, read_allow_list
from hive_advisor.domain.methods import method_table
from hive_advisor.domain.tool_schema import check_arguments, method_tools
from hive_shared.errors import InvalidParams
from hive_shared.rune_template import restrictions
from hive_shared.runtime_spec import MethodSpec
from jsonschema import Draft202012Validator

TABLE = method_table()


def declared() -> list[MethodSpec]:
    return [spec for app in (Comms, ArchonPlugin, HivePlugin) for spec in app().app._methods.values()]


def test_the_class_of_a_call_is_that_of_its_value_and_the_strictest_for_nonsense() -> None:
    policy, stop, check = (TABLE[f"hive-client-{name}"] for name in ("policy", "emergency-stop", "selfcheck"))
    assert [policy.class_of({"action": word}) for word in ("get", "explain", "set")] == ["R", "R", "X"]
    assert policy.class_of({}) == "R" and policy.class_of({"action": None}) == "R"
    for odd in ("GET", "get ", "", 0, False, ["get"], {"get": 1}):
        assert policy.class_of({"action": odd}) == "X"
    # What is meant when nothing is said counts.
    assert stop.class_of({}) == "A"
    assert [check.class_of({"fix": fix}) for fix in (False, True, "false", 1)] == ["R", "X", "R", "X"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "{}",
        '"hive-client-revoke"',
        '["hive-client-revoke",]',
        '["hive-client-revoke", 7]',
        '["hive-client-revoke", null]',
        '[["hive-client-revoke"]]',
        '["hive-client-revoke"] x',
        '["\\ud800"]',
        "[" * 500,
        b"\xff\xfe",
        '["' + "x" * 70_000 + '"]',
    ],
)
def test_acceptance_08_21_a_malformed_list_opens_nothing(text: str | bytes) -> None:
    found = read_allow_list(text)
    assert found.names == frozenset()
    assert found.warnings and found.warnings[0].endswith("read-only")


@pytest.mark.parametrize("name", [*TABLE, "hive-", "hive-client-*", "pay"])
def test_acceptance_08_21_only_names_with_acting_calls_are_opened(name: str) -> None:
    found = read_allow_list(json.dumps([name, "hive-client-revoke"]))
    opened = name in TABLE and "A" in TABLE[name].present_classes
    assert found.names == ({name} if opened else set()) | {"hive-client-revoke"}
    assert len(found.warnings) == (0 if opened else 1)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hive-client-approve", "class X"),
        ("hive-comms-send-dm", "class S"),
        ("hive-comms-rpc", "class remote"),
        ("hive-client-", "exact name"),
        ("method^hive-", "exact name"),
        ("hive-client-revoke ", "exact name"),
        ("HIVE-CLIENT-REVOKE", "exact name"),
        ("hive_client_revoke", "exact name"),
        ("", "exact name"),
        ("hive-client-status", "only reads"),
        ("hive-client-frobnicate", "no plugin"),
    ],
)
def test_a_name_that_opens_nothing_is_refused_with_why(name: str, words: str) -> None:
    with pytest.raises(InvalidParams, match=words):
        acting(name)


def allowed_by(rows: list[list[str]], method: str, params: dict[str, Any]) -> bool:
    """What CLN makes of them: all restrictions, each by one alternative."""

    def holds(alternative: str) -> bool:
        if alternative.startswith("rate="):
            return True
        field = alternative[: next(at for at, char in enumerate(alternative) if char in "=/^$~")]
        condition, value = alternative[len(field)], alternative[len(field) + 1 :]
        given = method if field == "method" else params.get(field.removeprefix("pname"))
        if given is None:
            return False
        text = str(given).lower() if isinstance(given, bool) else str(given)
        return text == value if condition == "=" else condition == "/" and text != value

    return all(any(map(holds, alternatives)) for alternatives in rows)


@pytest.mark.parametrize(
    "listed", [(), ("hive-client-alias", "hive-client-emergency-stop", "hive-client-revoke")]
)
def test_acceptance_08_21_the_rune_opens_what_the_server_opens_and_nothing_else(
    listed: tuple[str, ...],
) -> None:
    rows = restrictions([method.spec for method in TABLE.values()], listed)
    assert all(each.startswith("method=") for each in rows[0])
    assert rows[-1] == ["rate=60"]
    for method in TABLE.values():
        open_here = method.open_classes(listed)
        for value, klass in (method.classes or {"": method.klass}).items():
            params = {} if method.selector is None else {method.selector: value}
            assert allowed_by(rows, method.name, params) is (klass in open_here), value
        if method.selector is not None and method.name not in listed:
            assert not allowed_by(rows, method.name, {}), method.name
    for other in (
        "pay",
        "stop",
        "listpays",
        "listinvoices",
        "setchannel",
        "createrune",
        "hive-client-statuses",
        "hive-client-statu",
        "method",
    ):
        assert not allowed_by(rows, other, {"action": "get"})


def test_tools_are_one_to_one_with_methods_and_their_names_do_not_collide() -> None:
    found = method_tools({"hive-client-alias"}, ("a", "b"))
    assert {tool.method.name for tool in found.values()} == {
        method.name for method in TABLE.values() if "R" in method.present_classes
    }
    assert len({method.tool for method in TABLE.values()}) == len(TABLE)
    for method in TABLE.values():
        assert method.tool.replace("_", "-") == method.name or method.plugin == "lightningd"
        assert not {"node"} & {param.name for param in method.spec.params}
    assert [name for name, tool in found.items() if tool.acts] == ["hive_client_alias"]
    for tool in found.values():
        Draft202012Validator.check_schema(tool.schema)
        assert tool.schema["additionalProperties"] is False and "node" in tool.schema["required"]
    assert "node" not in method_tools((), ("a",))["hive_client_status"].schema["required"]


ODD: tuple[Any, ...] = (
    *("", "x", "true", "7", "list", 0, 1, -1, 500, 501, 2**63, 1.5, True, False, None, [], {}, ["x"]),
    *({"x": 1}, "x" * 5_000, "a\x00b", "get", "a"),
)


def test_arguments_are_held_to_the_schema_that_the_program_was_shown() -> None:
    for tool in method_tools({"hive-client-alias"}, ("a", "b")).values():
        judge = Draft202012Validator(dict(tool.schema))
        right: dict[str, Any] = {"node": "a"}
        for name in tool.schema["required"]:
            if name != "node":
                rule = tool.schema["properties"][name]
                kind = {"boolean": False, "integer": 1}.get(str(rule["type"]), "x")
                right[name] = rule.get("enum", [kind])[0]
        check_arguments(tool.schema, right)
        for name in [*tool.schema["properties"], "colour"]:
            for value in ODD:
                given = {**right, name: value}
                try:
                    check_arguments(tool.schema, given)
                except InvalidParams as error:
                    strict = isinstance(value, str) and "\x00" in value
                    assert strict or not judge.is_valid(given), (tool.method.name, given, error)
                    assert name in error.detail or "strict JSON" in error.detail
                else:
                    assert judge.is_valid(given), (tool.method.name, given)


def test_arguments_beyond_64_kib_or_no_json_are_refused() -> None:
    schema = method_tools((), ("a",))["hive_schema_validate"].schema
    whole = {"schema_id": "x", "action": "y"}
    for params in ({"x": "y" * 70_000}, {"x": float("nan")}):
        with pytest.raises(InvalidParams, match=r"bytes|strict JSON"):
            check_arguments(schema, {**whole, "params": params})


def test_the_table_keeps_every_field_of_a_declaration() -> None:
    for spec in declared():
        kept = TABLE[spec.name].spec
        assert (kept.params, kept.by, kept.klass) == (spec.params, spec.by, spec.klass), spec.name


def test_an_empty_key_is_none_of_a_call_that_moves_money() -> None:
    """What a script's empty variable would give: the call that is repeated would not be known again."""
    keys = {
        spec.name: param for spec in declared() for param in spec.params if param.name == "idempotency_key"
    }
    asked_for_one = {"hive-comms-payment-status", "hive-comms-send-dm"}
    assert {name for name, param in keys.items() if param.minimum != 1} == asked_for_one
    assert len(keys) > len(asked_for_one) + 5
