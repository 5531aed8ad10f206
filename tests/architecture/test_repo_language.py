"""The repository speaks about itself only: no paths of one machine, no links that leave it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from architecture.sources import ROOT

MACHINE_PATH = re.compile(r"(?<![\w.~$}/:*-])/(?:home|Users|root|work|tmp)/[\w.-]+")
"""An absolute path on somebody's disk. `~/x`, `$HOME/x`, a URL's path and `.../tmp/x` are none."""

LEAVES = re.compile(r"\.\./shared/(?!hive_shared\b)[\w./-]*")
"""A path beside the repository. Inside it only the symlink ../shared/hive_shared is spelt like this."""

SCHEMA_FOLDER = "../shared/data/cln-schemas"
"""Where contract tests look for CLN's JSON schemas when the folder happens to be there."""

NOBODYS_HOME = ("/home/lightning", "/home/bitcoin", "/root/.lightning", "/home/me")
"""Users inside containers, and the stand-in for a user in test data."""
SHEETS = "docs/protocol/"


def tracked() -> list[Path]:
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    found = [ROOT / name.decode() for name in names.split(b"\0") if name]
    return [path for path in found if path.is_file() and not path.is_symlink()]


def lines() -> list[tuple[str, int, str]]:
    here = Path(__file__).resolve()
    found = []
    for path in tracked():
        if path.resolve() == here or path.suffix in (".png", ".svg", ".db"):
            continue
        text = path.read_bytes().decode("utf-8", errors="replace")
        name = path.relative_to(ROOT).as_posix()
        found += [(name, number, line) for number, line in enumerate(text.splitlines(), 1)]
    return found


def test_no_path_of_one_machine() -> None:
    found = [
        f"{name}:{number} {match[0]}"
        for name, number, line in lines()
        if not name.startswith(SHEETS)
        for match in MACHINE_PATH.finditer(line)
        if not match[0].startswith(NOBODYS_HOME)
    ]
    assert not found, "\n".join(found)


def test_no_link_leaves_the_repository() -> None:
    found = [
        f"{name}:{number} {match[0]}"
        for name, number, line in lines()
        for match in LEAVES.finditer(line)
        if not (name.startswith("tests/contract/") and match[0].startswith(SCHEMA_FOLDER))
    ]
    assert not found, "\n".join(found)


def test_no_merge_is_left_half_done() -> None:
    found = [f"{name}:{number}" for name, number, line in lines() if re.match(r"(<{7}|>{7}) ", line)]
    assert not found, "\n".join(found)


def test_the_patterns_catch_what_they_should() -> None:
    for text in ("open('/tmp/x/y')", "see /home/alice/notes", "path=/work/main"):
        assert MACHINE_PATH.search(text)
    for text in ("~/tmp/x", "https://example.org/home/alice", "$HOME/work/x", "docs/work/x", "/temporary/x"):
        assert not MACHINE_PATH.search(text)
    assert LEAVES.search("../shared/spec/02.md")
    assert not LEAVES.search("../shared/hive_shared")
