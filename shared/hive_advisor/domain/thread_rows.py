"""Negotiations and contracts as people and programs see them (docs/protocol/11-advisor-kit.md §7). Times are
Unix seconds; what an operator wrote stands under its own name only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hive_shared.market.negotiation import Round
from hive_shared.market.terms import differences, read_terms, widened

from hive_advisor.domain.engagement import Engagement, Thread, ThreadMessage


def thread_row(thread: Thread, engagement: Engagement | None, operator: str, at: int) -> dict[str, Any]:
    """One line of a list; `operator` is the local name of the other side."""
    said = thread.negotiation
    terms = (said.standing(at) or said.last).terms
    pay = terms["compensation"]
    turn = said.turn(at)
    return {
        "contract_id": thread.contract_id,
        "operator": operator,
        "state": said.state.value if engagement is None else engagement.state.value,
        "turn": None if turn is None else "yours" if turn.value == "advisor" else "theirs",
        "round": said.last.number,
        "capabilities": terms["scope"]["capabilities"],
        "model": pay["model"],
        **{name: pay[name] for name in ("baseMonthlySats", "perActionSats") if name in pay},
        "ends_at": said.ends_at if said.open else None,
        "updated": thread.updated,
    }


def thread_view(
    thread: Thread,
    messages: Sequence[ThreadMessage],
    engagement: Engagement | None,
    operator: str,
    at: int,
) -> dict[str, Any]:
    """All of a negotiation: what stands, what each round changed, where it widened what we may do."""
    said = thread.negotiation
    standing = said.standing(at)
    return {
        **thread_row(thread, engagement, operator, at),
        "terms": (said.agreed_round if said.agreed is not None else standing or said.last).terms,
        "terms_hash": None if standing is None else standing.terms_hash,
        "rounds": [_round(said.rounds, place) for place in range(len(said.rounds))],
        "messages": [_message(each) for each in messages],
        **({"why": thread.why} if thread.why else {}),
    }


def _round(rounds: Sequence[Round], place: int) -> dict[str, Any]:
    this = rounds[place]
    row: dict[str, Any] = {"round": this.number, "by": this.by.value, "stands_until": this.expires_at}
    if place:
        before = rounds[place - 1].terms
        row["changes"] = {
            path: {"before": old, "after": new}
            for path, (old, new) in differences(before, this.terms).items()
        }
        wider = widened(read_terms(before), read_terms(this.terms))
        if wider:
            row["widened"] = wider
    return row


def _message(message: ThreadMessage) -> dict[str, Any]:
    row = {
        "from": "operator" if message.inbound else "us",
        "number": message.seq,
        "verb": message.verb,
        "sent_at": message.sent_at,
        "state": message.state,
        "why": message.why or None,
    }
    return {name: value for name, value in row.items() if value is not None}


def contract_row(thread: Thread, engagement: Engagement, operator: str) -> dict[str, Any]:
    """One line of a list."""
    pay = engagement.document["credentialSubject"]["compensation"]
    row = {
        "contract_id": engagement.contract_id,
        "operator": operator,
        "state": engagement.state.value,
        "capabilities": engagement.scope["capabilities"],
        "tier": engagement.scope["permissionTier"],
        "model": pay["model"],
        "ends_at": engagement.ends_at,
        "effective_at": engagement.effective_at,
        "ended_by": engagement.ended_by or None,
        "reason": engagement.reason or None,
    }
    return {name: value for name, value in row.items() if value is not None}


def with_moments(row: Mapping[str, Any], moment: Any) -> dict[str, Any]:
    """The row with its times as text."""
    times = ("ends_at", "updated", "effective_at", "stands_until", "sent_at")
    return {
        name: moment(value)
        if name in times and isinstance(value, int)
        else [with_moments(each, moment) for each in value]
        if name in ("rounds", "messages")
        else value
        for name, value in row.items()
    }
