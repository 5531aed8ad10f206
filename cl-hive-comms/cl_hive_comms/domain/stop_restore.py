"""What a restore does to the emergency stop (docs/protocol/08-client-and-plugins.md §6, §8.4,
docs/decisions/0312-a-restore-never-lifts-a-stop.md)."""

from __future__ import annotations

from msgspec.structs import replace

from .emergency import MAX_REASON, Stop

_THEN = "it was on when the backup was made"
_FROZEN = "channels were frozen when the backup was made"


def stop_after(here: Stop | None, said: Stop | None, *, frozen: bool, now: int) -> Stop | None:
    """The stop in force after a restore, None for none. `here` is the node's, `said` the backup's; `frozen`:
    bounds of channels that a stop had frozen were taken in, which only a freeze keeps as they are.

    Nothing of a stop that is on is taken away. One that was on when the backup was made is on again, with
    what it was ordered to do and had not done: until the operator, who knows why, releases it.
    """
    if said is None and not frozen:
        return here
    freeze = frozen or (said is not None and said.freeze)
    revoke_due = said is not None and said.revoke_due
    if here is not None:
        return replace(here, freeze=here.freeze or freeze, revoke_due=here.revoke_due or revoke_due)
    reason = _FROZEN if said is None else f"{_THEN}: {said.reason}" if said.reason else _THEN
    return Stop(since=now, by="operator", reason=reason[:MAX_REASON], freeze=freeze, revoke_due=revoke_due)
