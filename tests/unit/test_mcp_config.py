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
    others = config(tmp_path, '[mcp]\nuids = [1000, 1001, 1000]\ngroup = "ai"\nsocket = "/run/ai/mcp.sock"\n')
    assert (others.uids, others.group, others.socket) == ((1000, 1001), "ai", Path("/run/ai/mcp.sock"))
    assert config(tmp_path, "[mcp]\nuids = []\ngroup = 0\n") == McpConfig(uids=(), group=0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('role = "human"', "operator or advisor"),
        ("role = 7", "operator or advisor"),
        ('toolsets = "core"', "list of names"),
        ('toolsets = ["market"]', "known are core, hive, archon"),
        ("max_output = 1048577", "4096 to 1048576"),
        ("max_output = true", "4096 to 1048576"),
        ("gids = [1000]", "unknown key mcp.gids"),
        ("uids = 1000", "list of at most 32 user numbers"),
        ('uids = ["me"]', "list of at most 32 user numbers"),
        ("uids = [-1]", "list of at most 32 user numbers"),
        ("uids = [4294967295]", "list of at most 32 user numbers"),
        ("uids = [true]", "list of at most 32 user numbers"),
        (f"uids = {list(range(33))}", "list of at most 32 user numbers"),
        ('group = ""', "name or number of a group"),
        ("group = [5]", "name or number of a group"),
        ('socket = "mcp.sock"', "whole path"),
        ('socket = "/run/hive/"', "whole path"),
        ("socket = 5", "whole path"),
    ],
)
def test_what_it_does_not_take(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InvalidParams, match=words):
        config(tmp_path, f"[mcp]\n{text}\n")
