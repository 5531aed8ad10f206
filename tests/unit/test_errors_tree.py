"""The error tree against the two sheets that define it (docs/protocol/08 §4, 02 §7.2)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hive_shared import errors
from hive_shared.canonical import JsonValue
from hive_shared.errors import SYMBOLS, HiveError, by_code, envelope_status, from_symbol

PROTOCOL = Path(__file__).parents[2] / "docs" / "protocol"
CLASSES = HiveError.__subclasses__()


def _sheet_classes() -> dict[int, str]:
    text = (PROTOCOL / "08-client-and-plugins.md").read_text()
    line = next(part for part in text.splitlines() if part.startswith("RPC errors, text"))
    return {int(code): slug for code, slug in re.findall(r"(-32602|40\d\d) ([a-z_]+)", line)}


def _sheet_symbols() -> dict[str, int]:
    text = (PROTOCOL / "02-fleet-management.md").read_text()
    body = text.split("### 7.2 Errors", 1)[1].split("In the envelope", 1)[0]
    found: dict[str, int] = {}
    for code, names in re.findall(r"(-32602|40\d\d): ([^·]+)", body):
        for name in re.sub(r"\{[^}]*\}", "", names).split(","):
            found[name.strip(" .\n")] = int(code)
    return found


def test_the_tree_holds_exactly_the_sheets_numbers_and_slugs() -> None:
    direct = [cls for cls in CLASSES if cls.__module__ == errors.__name__]
    assert {cls.code: cls.slug for cls in direct} == _sheet_classes()
    assert len({cls.code for cls in direct}) == len(direct)
    assert len({cls.slug for cls in direct}) == len(direct)


def test_the_drawing_at_the_top_names_every_class_with_its_number() -> None:
    drawn = dict(re.findall(r"── (\w+)\s+(-?\d+)", errors.__doc__ or ""))
    assert {name: int(code) for name, code in drawn.items()} == {
        cls.__name__: cls.code for cls in CLASSES if cls.__module__ == errors.__name__
    }


def test_every_symbol_of_the_pipeline_travels_under_the_sheets_number() -> None:
    known = {symbol: cls.code for symbol, cls in SYMBOLS.items()}
    assert known == {**_sheet_symbols(), "confirmation_required": 4005}


def test_a_symbol_becomes_the_reason_and_keeps_its_data() -> None:
    error = from_symbol("policy_blocked", "the rule night-freeze forbids this", rule="night-freeze")
    assert isinstance(error, errors.PolicyDenied)
    assert str(error) == "policy_denied: policy_blocked: the rule night-freeze forbids this"
    assert error.data == {"rule": "night-freeze", "reason": "policy_blocked"}
    assert error.symbol == "policy_blocked"


def test_a_symbol_equal_to_its_slug_is_not_said_twice() -> None:
    assert str(from_symbol("busy", "starting; try again in a second")) == (
        "busy: starting; try again in a second"
    )


def test_an_error_without_reason_shows_slug_and_sentence() -> None:
    error = errors.NotFound("no channel 1x2x3")
    assert str(error) == "not_found: no channel 1x2x3"
    assert error.data == {}
    assert error.symbol == "not_found"


def test_an_unlisted_symbol_is_our_bug() -> None:
    with pytest.raises(KeyError):
        from_symbol("nonse_reuse", "misspelt")


@pytest.mark.parametrize("cls", CLASSES)
def test_envelope_status_is_error_only_for_unsupported_internal_and_busy(cls: type[HiveError]) -> None:
    assert envelope_status(cls.__new__(cls)) == (2 if cls.code in (4013, 4020, 4021) else 1)


def test_numbers_find_their_class_and_other_numbers_find_none() -> None:
    assert by_code(4009) is errors.ClockSkew
    with pytest.raises(KeyError):
        by_code(4025)


def test_data_of_one_error_is_not_shared_with_its_source() -> None:
    source: dict[str, JsonValue] = {"a": 1}
    errors.Conflict("x", reason="cooldown", data=source)
    assert source == {"a": 1}
