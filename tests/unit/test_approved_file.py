"""Which file is started as an approved plugin, and which is not (08 §5.4; docs/decisions/0421)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cl_hive_comms.services import approved_file
from cl_hive_comms.services.approved_file import FileRefused, look_at
from plugin_world import plugin_file


def test_the_file_behind_a_link_is_the_one_that_counts(tmp_path: Path) -> None:
    file = plugin_file(tmp_path / "versions", "tidy-1.py")
    link = tmp_path / "tidy.py"
    link.symlink_to(file)
    found = look_at(str(link))
    assert found.path == str(file.resolve())
    assert found.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def group_may_write(file: Path) -> None:
    file.chmod(0o775)


def others_may_write(file: Path) -> None:
    file.chmod(0o757)


def directory_open(file: Path) -> None:
    file.parent.chmod(0o777)


def not_executable(file: Path) -> None:
    file.chmod(0o644)
    if os.access(file, os.X_OK):
        pytest.skip("this user may run every file")


def gone(file: Path) -> None:
    file.unlink()


def a_directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


def a_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file, 0o755)


def a_circle(file: Path) -> None:
    file.unlink()
    file.symlink_to(file)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (group_may_write, "other users"),
        (others_may_write, "other users"),
        (directory_open, "other users"),
        (not_executable, "cannot be run"),
        (gone, "No such file"),
        (a_directory, "cannot be"),
        (a_pipe, "cannot be run"),
        (a_circle, "cannot be read"),
    ],
)
def test_what_is_no_safe_file_is_refused_without_its_path(
    tmp_path: Path, spoil: Callable[[Path], None], says: str
) -> None:
    file = plugin_file(tmp_path / "plugins")
    spoil(file)
    with pytest.raises(FileRefused) as caught:
        look_at(str(file))
    assert says in str(caught.value) and str(tmp_path) not in str(caught.value)


def test_a_file_without_end_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approved_file, "MAX_BYTES", 10)
    with pytest.raises(FileRefused, match="larger"):
        look_at(str(plugin_file(tmp_path / "plugins")))
