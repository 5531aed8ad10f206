"""Options of the node as `listconfigs` shows them, and what of them an agent may see
(docs/protocol/02-fleet-management.md §4 item 12, §12)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from hive_shared.canonical import JsonValue
from hive_shared.hidden import hidden_text

REDACTED: Final = "[redacted]"
# Of the sheet; webhook, smtp and wallet hold tokens, passwords and database logins in their values.
_SECRET: Final = re.compile(r"key|secret|pass|token|nsec|rune|hsm|webhook|smtp|wallet", re.IGNORECASE)
_LOGIN: Final = re.compile(r"(?<=://)[^/@\s]*@")
_VALUES: Final = ("value_str", "value_int", "value_msat", "value_bool", "values_str", "values_int")


def is_secret(name: str) -> bool:
    """Whether an option of that name may hold a secret."""
    return _SECRET.search(name) is not None


def value_of(row: Mapping[str, Any]) -> JsonValue:
    """The value of an option's row; whether it is set for a flag without value, None for one without any."""
    for name in (*_VALUES, "values_msat", "values_bool", "set"):
        if name in row:
            value: JsonValue = row[name]
            return value
    return None


def same(shown: JsonValue, wanted: JsonValue) -> bool:
    """Whether a shown value (one of a list's) is the wanted one, however either is written."""
    items = shown if isinstance(shown, list) else [shown]
    return any(_text(item) == _text(wanted) for item in items)


def text_of(value: JsonValue) -> str:
    """A value as one writes it for an option; "" for none."""
    if isinstance(value, list):
        return ", ".join(map(text_of, value))
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _text(value: JsonValue) -> str:
    text = text_of(value)
    amount = re.fullmatch(r"(\d+)(msat|sat)?", text)
    if amount is None:
        # 0.50 is 0.5, and 3.0 is 3.
        fraction = re.fullmatch(r"\d+\.\d+", text)
        return text if fraction is None else text.rstrip("0").rstrip(".")
    return str(int(amount[1]) * (1_000 if amount[2] == "sat" else 1))


def to_doc(name: str, row: Mapping[str, Any]) -> dict[str, JsonValue]:
    """An option for an agent: no secret, no login, no path of this machine."""
    doc: dict[str, JsonValue] = {"option": name}
    value = value_of(row)
    if value is not None:
        doc["value"] = REDACTED if is_secret(name) else shown(value)
    source = str(row.get("source", ""))
    if source:
        doc["source"] = source if source in ("default", "cmdline") else "config"
    if "plugin" in row:
        doc["plugin"] = shown(str(row["plugin"]))
    doc["dynamic"] = row.get("dynamic") is True
    return doc


def shown(value: JsonValue) -> JsonValue:
    """A value without logins, keys and paths."""
    if isinstance(value, list):
        return [shown(item) for item in value]
    if not isinstance(value, str):
        return value
    if value.startswith(("/", "~", "file:")):
        return f"…/{value.rstrip('/').rpartition('/')[2]}"
    return _LOGIN.sub("", hidden_text(value))
