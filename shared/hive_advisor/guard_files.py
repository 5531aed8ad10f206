"""guard.toml and the file HALT of a profile (docs/protocol/11-advisor-kit.md §6, §13)."""

from __future__ import annotations

import fcntl
import json
import os
import tomllib
from pathlib import Path

from hive_shared.errors import Conflict, InvalidParams

from hive_advisor.domain.guard_rules import DEFAULT_RULES, GuardRules, parse_rules
from hive_advisor.private_files import replace_file


def read_rules(path: Path) -> GuardRules:
    """The rules of guard.toml; without the file the defaults. Raises InvalidParams."""
    text = text_of(path)
    if not text:
        return DEFAULT_RULES
    try:
        return parse_rules(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise InvalidParams(f"{path} is not valid TOML: {error}") from error


def text_of(path: Path) -> str:
    """The text of a settings file; empty without the file. Raises InvalidParams."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidParams(f"{path} cannot be read: {error}") from error
    if path.stat().st_mode & 0o022:
        raise InvalidParams(f"{path} can be written by others than its owner; run: chmod go-w {path}")
    return text


def replace_text(path: Path, old: str, new: str) -> None:
    """Put a new text in the place of ``old``, whole or not at all. Raises Conflict when it is another by now,
    or is being changed."""
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(f"{path} is being changed by another hive-advisor; try again") from error
        if text_of(path) != old:
            raise Conflict(f"{path} was changed meanwhile; nothing was written, try again")
        replace_file(path, new.encode())
    finally:
        os.close(directory)


class HaltFile:
    """The file that stops everything while it is there, whatever it holds."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def is_on(self) -> bool:
        """Whether the guard is halted; who cannot tell is."""
        try:
            self.path.lstat()
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return True

    def engage(self, reason: str, now: int) -> bool:
        """Halt. False when it was halted before; the first reason stays."""
        if self.is_on():
            return False
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(self.path, json.dumps({"at": now, "reason": reason}).encode())
        return True

    def release(self) -> bool:
        """End the halt; the caller has asked for the PIN. False when there was none.

        Raises InvalidParams when the file cannot be removed.
        """
        try:
            self.path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise InvalidParams(f"{self.path} cannot be removed: {error.strerror}") from error
        return True

    def reason(self) -> str:
        """What was said when it was engaged; empty when nothing was."""
        try:
            document = json.loads(self.path.read_bytes()[:4_096])
            return str(document.get("reason", ""))[:500] if isinstance(document, dict) else ""
        except (OSError, ValueError):
            return ""
