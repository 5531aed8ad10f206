"""What a restore does to the timed override (docs/protocol/08-client-and-plugins.md §8.4,
docs/decisions/0311-timed-overrides-in-a-restore.md). A node has one at most, and so has a backup."""

from __future__ import annotations

import msgspec

from .policy_rules import Override

CLEARED = "cleared"
"""State of an override that the operator ended by hand."""


class Verdict(msgspec.Struct, frozen=True):
    """The override in force afterwards; a sentence where the backup's is not begun or an own one ends."""

    override: Override | None
    note: str = ""


def verdict(
    own: Override | None, said: Override | None, *, ended_here: str | None, replace: bool, now: int
) -> Verdict:
    """Of the node's override and the backup's, either may be missing or over. `ended_here` is how the
    backup's ended on this node, None where it did not.

    A merge ends nothing: of two that run, the one that began later stays. `replace` takes the backup's, also
    where that is none. One that ran out never begins again, nor one that the operator ended here.
    """
    mine = own if own is not None and own.active(now) else None
    if said is None:
        return Verdict(None, _ended(mine)) if replace else Verdict(mine)
    why = _not_begun(said, ended_here, replace=replace, now=now)
    if not why and (mine is None or replace or said.starts_at > mine.starts_at or said.id == mine.id):
        lost = None if mine is None or mine.id == said.id else mine
        # The same one stays as it stands here.
        return Verdict(mine if mine is not None and lost is None else said, _ended(lost))
    if not why:
        why = "the backup's timed override is not begun: this node's began later and goes on"
    if replace and mine is not None and mine.id != said.id:
        return Verdict(None, f"{why}; {_ended(mine)}")
    return Verdict(mine, why)


def _not_begun(said: Override, ended_here: str | None, *, replace: bool, now: int) -> str:
    if not said.active(now):
        return "the backup's timed override is not begun: its time is over"
    if ended_here == CLEARED:
        return "the backup's timed override is not begun: it was ended here by hand"
    if ended_here is not None and not replace:
        return "the backup's timed override is not begun: it ended on this node"
    return ""


def _ended(lost: Override | None) -> str:
    return "" if lost is None else "this node's timed override ends"
