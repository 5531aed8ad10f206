"""What is left to do when a command ends and nothing runs (docs/protocol/11-advisor-kit.md §3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hive_advisor.cli import output

if TYPE_CHECKING:
    from hive_advisor.advisor import Advisor
    from hive_advisor.services.later import Later

_MOST = 10
_WORDS = {
    "approve": "approve or reject what the guard holds",
    "send": "send it",
    "send_again": "send the same bytes again",
    "ask_status": "ask the node what became of it",
    "confirm": "confirm it",
    "retry": "plan it anew, the node was busy",
    "renew": "renew the subscription",
    "redeem": "redeem what was earned at its mint",
    "settle": "find out what became of the wallet's operation",
}


async def tell_later(terminal: output.Terminal, kit: Advisor) -> None:
    """Say what must happen later, with its time; nothing when there is nothing."""
    due = await kit.later.due()
    if not due:
        return
    terminal.progress("later (no agent runs now: 'hive-advisor run' does what is not yours to do):")
    for item in due[:_MOST]:
        when = f"{'until' if item.by else 'from'} {output.moment(item.at)}"
        terminal.progress(f"  {when}: {_WORDS[item.what]}{_of(item)}")
    if len(due) > _MOST:
        terminal.progress(f"  and {len(due) - _MOST} more: 'hive-advisor status'")


def _of(item: Later) -> str:
    return f" ({output.plain(item.client)} {item.ref})" if item.ref else ""
