"""Child processes of a lightningd, read from /proc: CLN tells names of its plugins, never their pids."""

from __future__ import annotations

from pathlib import Path

_PROC = Path("/proc")


def _parent_of(pid: int) -> int | None:
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    # The second field is the command in parentheses and may itself hold spaces and parentheses.
    state, parent = stat.rpartition(b")")[2].split()[:2]
    return None if state == b"Z" else int(parent)


def command_line(pid: int) -> list[str]:
    """Return the argument vector of a process, empty when it is gone."""
    try:
        raw = (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return []
    return [part.decode(errors="replace") for part in raw.split(b"\0") if part]


def is_running(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    return _parent_of(pid) is not None


def children_of(parent: int) -> list[int]:
    """Return the live direct children of a process, in order of pid."""
    pids = sorted(int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())
    return [pid for pid in pids if _parent_of(pid) == parent]


def child_running(parent: int, executable: str) -> int | None:
    """Return the child whose program, or the script its interpreter runs, has this basename."""
    for pid in children_of(parent):
        # argv is either the program, or an interpreter followed by its options and the script.
        if any(Path(part).name == executable for part in command_line(pid)[:4]):
            return pid
    return None
