"""[mcp] of config.toml (11 §13)."""

from __future__ import annotations

from pathlib import Path

import pytest
from hive_advisor.config import McpConfig, load_config
from hive_shared.errors import InvalidParams


def config(tmp_path: Path, text: str) -> McpConfig:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return load_config(path).mcp


def test_a_file_may_say_role_sets_and_the_bound_of_answers(tmp_path: Path) -> None:
    assert config(tmp_path, "") == McpConfig("operator", ("core",), 65_536)
    said = config(tmp_path, '[mcp]\nrole = "advisor"\ntoolsets = ["hive", "core"]\nmax_output = 1048576\n')
    assert said == McpConfig("advisor", ("hive", "core"), 1_048_576)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('role = "human"', "operator or advisor"),
        ("role = 7", "operator or advisor"),
        ('toolsets = "core"', "list of names"),
        ('toolsets = ["market"]', "known are core, hive, archon"),
        ("max_output = 1048577", "4096 to 1048576"),
        ("max_output = true", "4096 to 1048576"),
        ("uids = [1000]", "unknown key mcp.uids"),
    ],
)
def test_what_it_does_not_take(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InvalidParams, match=words):
        config(tmp_path, f"[mcp]\n{text}\n")
