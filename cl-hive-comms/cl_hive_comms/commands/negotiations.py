"""hive-marketplace-propose, -counter, -accept, -reject, -abort, -contract, -list, -terminate, -inbox
(docs/protocol/04-marketplace-and-nostr.md §12).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

from hive_shared.canonical import JsonValue
from hive_shared.errors import InvalidParams
from hive_shared.market.contract_machine import ContractState
from hive_shared.market.negotiation import Side
from hive_shared.market.terms import differences, read_terms, widened
from hive_shared.runtime_spec import MethodSpec, Param
from hive_shared.unreadable import Unreadable

from cl_hive_comms.commands.rendering import as_text
from cl_hive_comms.commands.status import FORMAT
from cl_hive_comms.domain.engagement import Engagement, MarketMessage
from cl_hive_comms.services.engagement_service import EngagementService
from cl_hive_comms.services.negotiation_service import NegotiationService, Whom

_CURSOR: Final = re.compile(r"(\d{1,12})-([0-9a-f-]{36})").fullmatch
_HASH: Final = re.compile(r"[0-9a-f]{64}").fullmatch
_CONTRACT: Final = Param("contract_id", "str", required=True, maximum=64)

Draft = Callable[[Mapping[str, Any]], Awaitable[tuple[Whom, dict[str, Any]]]]
"""`draft(params)`: the advisor that is meant, and the terms in full. Raises NotFound, Ambiguous,
InvalidParams."""


class Reading(Protocol):
    """What is shown (services.engagement_reading.EngagementReading)."""

    async def get(self, contract_id: str) -> tuple[Engagement, list[MarketMessage]]: ...
    async def page(
        self, status: str | None, before: tuple[int, str] | None, limit: int
    ) -> list[Engagement | Unreadable]: ...
    async def inbox(self, limit: int) -> list[tuple[MarketMessage, Engagement | None]]: ...


class NegotiationCommands:
    """The market, for the operator who hires."""

    def __init__(
        self,
        negotiations: Callable[[], NegotiationService],
        engagements: Callable[[], EngagementService],
        reading: Callable[[], Reading],
        draft: Draft,
        node_id: Callable[[], str],
        now: Callable[[], int],
    ) -> None:
        self._negotiations, self._engagements, self._reading = negotiations, engagements, reading
        self._draft, self._node_id, self._now = draft, node_id, now

    def specs(self) -> list[MethodSpec]:
        """The methods of this family."""
        return [*self._offers(), *self._ends(), *self._reads()]

    def _offers(self) -> list[MethodSpec]:
        return [
            MethodSpec(
                "hive-marketplace-propose",
                "A",
                (
                    Param("advisor", "str", required=True, maximum=200),
                    Param("node_id", "str", default="", maximum=66),
                    Param("scope", "json"),
                    Param("tier", "str", choices=("monitor", "standard", "advanced", "admin")),
                    Param("pricing", "json"),
                    Param("terms", "json"),
                ),
                self._propose,
                "Propose a contract to an advisor: scope, tier, pricing and terms on top of what it offers.",
            ),
            MethodSpec(
                "hive-marketplace-counter",
                "A",
                (
                    _CONTRACT,
                    Param("modifications", "json", required=True),
                    Param("justification", "str", default=""),
                ),
                self._counter,
                'Offer other terms: modifications={"compensation.perActionSats":30}; null removes.',
            ),
            MethodSpec(
                "hive-marketplace-accept",
                "A",
                (_CONTRACT, Param("terms_hash", "str", default="", maximum=64)),
                self._accept,
                "Accept the terms that stand; the node signs the contract.",
            ),
        ]

    def _ends(self) -> list[MethodSpec]:
        return [
            *(
                MethodSpec(
                    f"hive-marketplace-{word}",
                    "A",
                    (_CONTRACT, Param("reason", "str", default="")),
                    handler,
                    text,
                )
                for word, handler, text in (
                    ("reject", self._reject, "Decline the advisor's terms."),
                    ("abort", self._abort, "Withdraw from a negotiation before this node has signed."),
                )
            ),
            MethodSpec(
                "hive-marketplace-terminate",
                "A",
                (
                    _CONTRACT,
                    Param("reason", "str", default=""),
                    Param("emergency", "bool", default=False),
                    Param("confirm", "bool", default=False),
                ),
                self._terminate,
                "End a contract by notice, or with emergency=true confirm=true at once.",
            ),
        ]

    def _reads(self) -> list[MethodSpec]:
        return [
            MethodSpec(
                "hive-marketplace-contract",
                "R",
                (_CONTRACT, Param("verbose", "bool", default=False), FORMAT),
                self._contract,
                "One contract: terms, what changed in the last round, what was said, signatures.",
            ),
            MethodSpec(
                "hive-marketplace-list",
                "R",
                (
                    Param("status", "str", choices=tuple(state.value for state in ContractState)),
                    Param("role", "str", choices=("client", "advisor")),
                    Param("limit", "int", default=100, minimum=1, maximum=500),
                    Param("cursor", "str", maximum=64),
                    FORMAT,
                ),
                self._list,
                "Negotiations and contracts, the newest first.",
            ),
            MethodSpec(
                "hive-marketplace-inbox",
                "R",
                (
                    Param("limit", "int", default=50, minimum=1, maximum=500),
                    Param("unread", "bool", default=False),
                    FORMAT,
                ),
                self._inbox,
                "What advisors said; unread=true: only what waits for your answer.",
            ),
        ]

    # -- acts ------------------------------------------------------------------------------------------

    async def _propose(self, params: dict[str, Any]) -> dict[str, Any]:
        if params["node_id"] not in ("", self._node_id()):
            raise InvalidParams(f"node_id {params['node_id'][:66]} is not this node, {self._node_id()}")
        for name in ("scope", "pricing", "terms"):
            if not isinstance(params[name], dict | None):
                raise InvalidParams(f"{name} must be an object", data={"param": name})
        whom, terms = await self._draft(params)
        row = await self._negotiations().propose(whom, terms)
        return {"ok": True, **self._brief(row), "dm_state": "queued", "terms": dict(row.terms)}

    async def _counter(self, params: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(params["modifications"], dict):
            raise InvalidParams('modifications must be an object such as {"sla.uptimePct": 99}')
        row = await self._negotiations().counter(
            params["contract_id"], params["modifications"], params["justification"]
        )
        return {"ok": True, **self._brief(row)}

    async def _accept(self, params: dict[str, Any]) -> dict[str, Any]:
        wanted = params["terms_hash"]
        if wanted and not _HASH(wanted):
            raise InvalidParams(
                "terms_hash is 64 lower-case hex digits, as hive-marketplace-contract shows it"
            )
        row = await self._negotiations().accept(params["contract_id"], wanted)
        return {"ok": True, **self._brief(row)}

    async def _reject(self, params: dict[str, Any]) -> dict[str, Any]:
        row = await self._negotiations().reject(params["contract_id"], params["reason"])
        return {"ok": True, **self._brief(row)}

    async def _abort(self, params: dict[str, Any]) -> dict[str, Any]:
        row = await self._negotiations().abort(params["contract_id"], params["reason"])
        return {"ok": True, **self._brief(row)}

    async def _terminate(self, params: dict[str, Any]) -> dict[str, Any]:
        row = await self._engagements().terminate(
            params["contract_id"],
            params["reason"],
            emergency=params["emergency"],
            confirm=params["confirm"],
        )
        return {"ok": True, **self._brief(row), "effective_at": row.effective_at or row.terminated_at}

    # -- reads -----------------------------------------------------------------------------------------

    async def _contract(self, params: dict[str, Any]) -> dict[str, Any]:
        row, said = await self._reading().get(params["contract_id"])
        shown = {**self._brief(row), **self._whole(row)}
        shown["messages"] = [_message(each, verbose=params["verbose"]) for each in said]
        if params["verbose"]:
            shown["document"] = None if row.document is None else dict(row.document)
        return as_text(shown) if params["format"] == "text" else shown

    async def _list(self, params: dict[str, Any]) -> dict[str, Any]:
        if params["role"] == "advisor":
            return {"count": 0, "items": []}
        limit = params["limit"]
        found = await self._reading().page(params["status"], _position(params["cursor"]), limit)
        items = [
            row.shown("contract_id") if isinstance(row, Unreadable) else self._brief(row) for row in found
        ]
        page: dict[str, Any] = {"count": len(found), "items": items}
        if len(found) == limit:
            last = found[-1]
            name = last.name if isinstance(last, Unreadable) else last.contract_id
            page["next_cursor"] = f"{last.created_at}-{name}"
        return as_text(page) if params["format"] == "text" else page

    async def _inbox(self, params: dict[str, Any]) -> dict[str, Any]:
        found = await self._reading().inbox(params["limit"])
        rows = [
            {
                "name": row.advisor_name,
                "contract_id": row.contract_id,
                "status": row.status.value,
                **_message(message, verbose=False),
            }
            for message, row in found
            if row is not None
            and not (params["unread"] and row.thread.turn(self._now()) is not Side.OPERATOR)
        ]
        result: dict[str, Any] = {"count": len(rows), "items": rows}
        return as_text(result) if params["format"] == "text" else result

    # -- shown -----------------------------------------------------------------------------------------

    def _brief(self, row: Engagement) -> dict[str, JsonValue]:
        turn = row.thread.turn(self._now())
        shown: dict[str, JsonValue] = {
            "contract_id": row.contract_id,
            "thread_id": row.thread_id,
            "name": row.advisor_name,
            "status": row.status.value,
            "round": row.thread.last.number,
        }
        if turn is not None:
            shown["your_turn"] = turn is Side.OPERATOR
            shown["expires_at"] = row.thread.ends_at
        if row.contract_hash is not None:
            shown["contract_hash"] = row.contract_hash
        if row.effective_at is not None:
            shown["ends_at"] = row.effective_at
        elif row.contract_end is not None:
            shown["ends_at"] = row.contract_end
        return shown

    def _whole(self, row: Engagement) -> dict[str, JsonValue]:
        thread = row.thread
        standing = (thread.standing(self._now()) if thread.open else None) or thread.last
        shown: dict[str, JsonValue] = {
            "advisor": row.advisor_did,
            "created_at": row.created_at,
            "terms_hash": standing.terms_hash if thread.agreed is None else thread.agreed_round.terms_hash,
            "terms": dict(row.terms),
        }
        if standing.number:
            before = thread.rounds[standing.number - 1]
            changed = differences(before.terms, standing.terms)
            shown["changed"] = {path: {"from": old, "to": new} for path, (old, new) in changed.items()}
            more = widened(read_terms(before.terms), read_terms(standing.terms))
            if more and standing.by is Side.ADVISOR:
                shown["warning_wider"] = "; ".join(more)
        if row.credential_id is not None:
            shown["credential_id"] = row.credential_id
        if row.termination_reason:
            shown["reason"] = row.termination_reason
        if row.terminated_at is not None:
            shown["terminated_at"] = row.terminated_at
        return shown


def _message(message: MarketMessage, *, verbose: bool) -> dict[str, JsonValue]:
    shown: dict[str, JsonValue] = {
        "direction": message.direction,
        "verb": message.verb,
        "sent_at": message.sent_at,
        "state": message.state,
    }
    body = message.body if isinstance(message.body, dict) else {}
    for name in ("reason", "justification", "code"):
        if body.get(name):
            shown[name] = body[name]
    if message.code is not None:
        shown["refused_as"] = message.code
    if verbose:
        shown |= {"msg_id": message.msg_id, "seq": message.seq, "sig": message.sig, "body": message.body}
    return shown


def _position(cursor: str | None) -> tuple[int, str] | None:
    if cursor is None:
        return None
    found = _CURSOR(cursor)
    if found is None:
        raise InvalidParams("cursor is not one that hive-marketplace-list gave", data={"param": "cursor"})
    return int(found[1]), found[2]
