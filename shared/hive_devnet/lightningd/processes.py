"""Child processes of a lightningd, read from /proc: CLN tells names of its plugins, never their pids."""

from __future__ import annotations

from pathlib import Path

_PROC = Path("/proc")


def _parent_and_group(pid: int) -> tuple[int, int] | None:
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    # The second field is the command in parentheses and may itself hold spaces and parentheses.
    state, parent, group = stat.rpartition(b")")[2].split()[:3]
    # A zombie has ended; who reaps it and when is not our affair.
    return None if state in (b"Z", b"X") else (int(parent), int(group))


def _all_pids() -> list[int]:
    return sorted(int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())


def command_line(pid: int) -> list[str]:
    """Return the argument vector of a process, empty when it is gone."""
    try:
        raw = (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return []
    return [part.decode(errors="replace") for part in raw.split(b"\0") if part]


def is_running(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    return _parent_and_group(pid) is not None


def group_running(group: int) -> bool:
    """Whether any process of the group still runs."""
    found = (_parent_and_group(pid) for pid in _all_pids())
    return any(item is not None and item[1] == group for item in found)


def children_of(parent: int) -> list[int]:
    """Return the live direct children of a process, in order of pid."""
    found = ((pid, _parent_and_group(pid)) for pid in _all_pids())
    return [pid for pid, item in found if item is not None and item[0] == parent]


def child_running(parent: int, executable: str) -> int | None:
    """Return the child whose program, or the script its interpreter runs, has this basename."""
    for pid in children_of(parent):
        # argv is either the program, or an interpreter followed by its options and the script.
        if any(Path(part).name == executable for part in command_line(pid)[:4]):
            return pid
    return None
