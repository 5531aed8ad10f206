"""What pays for a line of a batch: a ticket's item, or a claim under the id of the line's first command
(docs/protocol/11-advisor-kit.md §8, §10; docs/decisions/0642).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import msgspec
from hive_shared.errors import Conflict

from hive_advisor.domain.batch import BatchLine
from hive_advisor.domain.plan import Plan
from hive_advisor.domain.ticket import ticket_and_item

_LATER: Final = "stale_state"


class PayFor(msgspec.Struct, frozen=True):
    """What is said for every line that says nothing itself: a claim (`pay`), or a ticket's id."""

    pay: bool = False
    ticket: str = ""

    def of(self, line: BatchLine, *, read: bool) -> PayFor:
        """What holds for a line; what stands in it comes first. A read earns nothing, so what is said for all
        does not mean it."""
        if line.pay or line.ticket:
            return PayFor(line.pay, line.ticket)
        return PayFor() if read else self


class Tickets(Protocol):
    """Tickets in our favour (services.tickets.TicketService)."""

    async def with_fitting(self, plan: Plan) -> Plan: ...
    async def planned(self, plan: Plan, ticket_id: str, number: int | None) -> Plan: ...


class LinePay:
    """Pays for lines. `quote` is the node's word on a plan, `claim` the plan with an invoice or ecash."""

    def __init__(
        self,
        tickets: Tickets,
        quote: Callable[[Plan, int], Awaitable[dict[str, Any]]],
        claim: Callable[[Plan, dict[str, Any], str], Awaitable[Plan]],
    ) -> None:
        self._tickets, self._quote, self._claim = tickets, quote, claim

    async def planned(self, plan: Plan, said: PayFor, *, early: bool) -> Plan:
        """The plan with its ticket: the one that was named, else one that fits where nothing is claimed.
        `early`: lines before it have not run, so an item may become free by then.

        Raises InvalidParams, NotFound, Conflict where the named ticket is not for this command.
        """
        if said.pay:
            return plan
        if not said.ticket:
            return await self._tickets.with_fitting(plan)
        try:
            return await self._tickets.planned(plan, *ticket_and_item(said.ticket))
        except Conflict as error:
            if early and error.reason == _LATER:
                return plan
            raise

    async def claimed(self, plan: Plan, said: PayFor, first: str, wait_s: int) -> Plan:
        """The plan with what the node is to pay for it. `first` is the id of the line's first command: every
        try of a line claims the same. Raises what Money.claim raises; nothing was sent then."""
        if not said.pay:
            return plan
        return await self._claim(plan, await self._quote(plan, wait_s), first)
