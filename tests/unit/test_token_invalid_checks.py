"""The checks that ecash may fail are those the sheet lists (03 §9): a program decides by them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_check_is_in_the_sheet_and_every_one_of_the_sheet_is_made() -> None:
    sources = (ROOT / "shared" / "hive_shared" / "cashu").glob("*.py")
    made = {
        name
        for path in sources
        for name in re.findall(r'TokenInvalid\(\s*"(\w+)"', path.read_text(encoding="utf-8"))
    }
    sheet = (ROOT / "docs" / "protocol" / "03-escrow-and-payments.md").read_text(encoding="utf-8")
    sentence = sheet.partition("Checks of token_invalid (also `data.check`):")[2].partition(".")[0]
    lists = re.sub(r"\bof (?:a |)(?:token|secret|witness|terms|ticket)\b", "", sentence)
    listed = set(re.findall(r"\w+", lists))
    assert made == listed
