"""What the threat model offers as evidence is there: every test and every file that it names."""

from __future__ import annotations

import re

import pytest
from architecture.sources import ROOT

PAGES = ("docs/threat-model.md", "SECURITY.md")
BASES = (ROOT, ROOT / "shared", ROOT / "cl-hive-comms" / "cl_hive_comms")
_NAME = re.compile(r"`(test_\w+)`")
_PATH = re.compile(r"`((?:[\w.-]+/)+[\w.-]+)`")
_LINK = re.compile(r"\]\(([^)#:]+)\)")


def defined() -> set[str]:
    return {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    }


@pytest.mark.parametrize("page", PAGES)
def test_every_named_test_and_file_exists(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    missing = sorted(set(_NAME.findall(text)) - defined())
    missing += [path for path in _PATH.findall(text) if not any((base / path).exists() for base in BASES)]
    missing += [path for path in _LINK.findall(text) if not ((ROOT / page).parent / path).exists()]
    assert missing == []


def test_every_attack_with_a_defence_names_code_and_a_test() -> None:
    text = (ROOT / PAGES[0]).read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line
    ]
    attacks = [row for row in rows if len(row) == 5 and row[0] not in ("attack", "---")]
    assert len(attacks) > 30
    bare = [row[0] for row in attacks if row[1] and not (_PATH.search(row[2]) and _NAME.search(row[3]))]
    assert bare == []
