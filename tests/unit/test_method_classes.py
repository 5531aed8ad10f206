"""Sheet 08 §5.2: who may call what, per value of a parameter where a method both reads and changes things."""

from __future__ import annotations

from typing import Any

import pytest
from cl_hive.plugin.app import HivePlugin
from cl_hive_archon.plugin import ArchonPlugin
from cl_hive_comms.plugin.app import Comms
from hive_devnet.embedded.runes import Alternative, Rune, alternative_from_text
from hive_shared.errors import InvalidParams
from hive_shared.rune_template import restrictions
from hive_shared.runtime_spec import ClassBy, Klass, MethodSpec, Param

SPECS: list[MethodSpec] = [
    spec for app in (Comms(), ArchonPlugin(), HivePlugin()) for spec in app.app._methods.values()
]
# The rows of the table with two classes, and what each value of their parameter may.
MIXED = {
    "hive-client-identity": {"get": "R", "rotate": "X", "set-relays": "X"},
    "hive-client-policy": {"get": "R", "explain": "R"}
    | dict.fromkeys(["set-preset", "set", "override", "clear", "add-rule", "remove-rule"], "X")
    | dict.fromkeys(["protect", "unprotect", "forbid", "unforbid", "reset"], "X"),
    "hive-client-trial": {"list": "R", "start": "X", "stop": "X", "review": "R", "decide": "X"},
    "hive-client-alias": {"list": "R", "set": "A", "get": "R", "remove": "A"},
    "hive-client-emergency-stop": {"engage": "A", "status": "R", "release": "X"},
    "hive-client-alerts": {"list": "R", "test": "A", "ack": "A"},
    "hive-client-selfcheck": {"false": "R", "true": "X"},
}
# The rows with one class, served or not.
SHEET = {
    "R": "client-status client-discover client-credential mgmt-credential-list client-pending "
    "client-payments client-receipts client-receipts-verify client-capabilities client- "
    "liquidity-status schema-list schema-validate comms-transports marketplace-discover "
    "marketplace-status liquidity-discover liquidity-lease-status",
    "A": "client-revoke client-marketplace-publish marketplace-profile marketplace-propose "
    "marketplace-accept marketplace-trial marketplace-terminate liquidity-offer liquidity- "
    "request liquidity-lease liquidity-heartbeat liquidity-terminate",
    "X": "client-setup client-authorize mgmt-credential-issue mgmt-credential-revoke client- "
    "approve client-pay client-receipts-export client-backup client-restore client-prune "
    "client-lease client-jit comms-migrate comms-import-key",
    "remote": "comms-rpc",
}


async def never(params: dict[str, Any]) -> dict[str, Any]:
    raise AssertionError


def spec_of(name: str) -> MethodSpec:
    return next(spec for spec in SPECS if spec.name == name)


def test_methods_of_comms_have_the_class_of_the_sheet() -> None:
    declared = {spec.name: spec.klass for spec in Comms().app._methods.values() if spec.by is None}
    expected = {f"hive-{name}": klass for klass, names in SHEET.items() for name in names.split()}
    assert {name: klass for name, klass in declared.items() if expected.get(name, klass) != klass} == {}
    assert len(expected.keys() & declared.keys()) >= 21


def test_methods_that_read_and_change_have_a_class_for_each_value() -> None:
    declared = {spec.name: dict(spec.by.classes) for spec in SPECS if spec.by is not None}
    assert {name: declared.get(name) for name in MIXED} == MIXED


@pytest.mark.parametrize(
    ("name", "params", "klass"),
    [
        ("hive-client-policy", {"action": "explain"}, "R"),
        ("hive-client-policy", {"action": "set"}, "X"),
        ("hive-client-emergency-stop", {"action": "engage"}, "A"),
        ("hive-client-selfcheck", {"fix": False}, "R"),
        ("hive-client-selfcheck", {"fix": True}, "X"),
        ("hive-client-revoke", {}, "A"),
    ],
)
def test_a_call_has_the_class_of_what_it_does(name: str, params: dict[str, Any], klass: Klass) -> None:
    assert spec_of(name).class_of(params) == klass


@pytest.mark.parametrize(
    ("klass", "by", "told"),
    [
        ("X", ClassBy("verb", {"get": "R"}), "verb, which is no parameter"),
        ("X", ClassBy("action", {"get": "R"}), "every value of action needs a class"),
        ("X", ClassBy("action", {"get": "R", "set": "X", "go": "A"}), "no other has one"),
        ("R", ClassBy("action", {"get": "R", "set": "X"}), "its class is X"),
        ("X", ClassBy("name", {"x": "R"}), "every value of name"),
    ],
)
def test_a_declaration_with_a_gap_is_refused(klass: Klass, by: ClassBy, told: str) -> None:
    params = (Param("action", "str", choices=("get", "set")), Param("name", "str"))
    with pytest.raises(ValueError, match=told):
        MethodSpec("m", klass, params, never, "", by=by)


# -- the rune made from it -------------------------------------------------------------------------------


def opens(rows: list[list[str]], method: str, params: object) -> bool:
    """As lightningd judges: every restriction needs one alternative that holds; rates aside."""
    named = params if isinstance(params, dict) else {}

    def complaint(alternative: Alternative) -> str | None:
        if alternative.field == "rate":
            return None
        if alternative.field == "method":
            return alternative.complaint(method)
        value = named.get(alternative.field.removeprefix("pname"))
        return alternative.complaint(str(value).lower() if isinstance(value, bool) else value)

    rune = Rune(b"", tuple(tuple(map(alternative_from_text, row)) for row in rows))
    return rune.complaint(complaint) is None


def calls(spec: MethodSpec) -> list[tuple[object, Klass]]:
    """Every way to say what a call is to do, and the class of the call."""
    if spec.by is None:
        return [({}, spec.klass), ([], spec.klass)]
    param = next(p for p in spec.params if p.name == spec.by.param)
    at = spec.params.index(param)
    found: list[tuple[object, Klass]] = []
    for value, klass in spec.by.classes.items():
        given: object = value == "true" if param.kind == "bool" else value
        found += [({param.name: given}, klass), ([None] * at + [given], klass)]
    return found


@pytest.mark.parametrize("acting", [(), ("hive-client-alias", "hive-client-revoke")])
def test_the_rune_opens_reads_and_named_acts_and_nothing_else(acting: tuple[str, ...]) -> None:
    rows = restrictions(SPECS, acting)
    for spec in SPECS:
        for params, klass in calls(spec):
            allowed = klass == "R" or (klass == "A" and spec.name in acting)
            opened = opens(rows, spec.name, params)
            assert not opened or allowed, (spec.name, params)
            # By name every allowed call passes; by position a rune cannot see what is asked.
            assert opened or not allowed or isinstance(params, list), (spec.name, params)
        if spec.by is not None and set(spec.by.classes.values()) - {"R"} and spec.name not in acting:
            assert not opens(rows, spec.name, {}), spec.name
    assert not opens(rows, "getinfo", {}) and not opens(rows, "hive-client-", {})


@pytest.mark.parametrize("name", ["hive-client-policy", "hive-client-status", "hive-comms-alert", "nothing"])
def test_what_does_not_act_cannot_be_named_as_acting(name: str) -> None:
    with pytest.raises(InvalidParams, match=name):
        restrictions(SPECS, (name,))
