"""The tools of the role advisor: what is open, and what became of a call
(docs/protocol/11-advisor-kit.md §11.1)."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
from hive_shared.errors import HiveError, InvalidParams, NotFound, Unauthorized

from hive_advisor.domain.advisor_tools import ADVISOR_TOOLS, HUMANS_OWN, listed_tools
from hive_advisor.domain.allow_list import AllowList
from hive_advisor.domain.tool_schema import Tool, check_arguments
from hive_advisor.services.tool_calls import UNKNOWN_TOOL, Asked, Outcome, refusal, told

KIT: Final = "this advisor"
_NAMING: Final = ("client", "command_id", "plan_id", "object")
_RAW: Final = re.compile(
    r"(npub|nsec|nprofile|note|nevent|naddr|lnurl|lnbc|lntb|lno|cashu|creq)[0-9a-z]{6,}.*"
    r"|(did|lightning|nostr|wss?|https?|[a-z][a-z0-9+.-]{1,15}:/):?.*|[0-9a-f]{64,66}",
    re.IGNORECASE | re.DOTALL,
)


class Said(msgspec.Struct, frozen=True):
    """What a tool has to say. ``source`` is what answered (a client's alias, or the kit), ``as_of`` when,
    where it was not now; ``plan`` the plan or command it was about."""

    data: object
    source: str = KIT
    as_of: int | None = None
    verified: bool = True
    plan: str = ""


Made = Callable[[Mapping[str, Any]], Awaitable[Said]]


class AdvisorTools:
    """``made`` has one function per tool. ``allow`` reads the human's list anew for every call: what is taken
    off is closed at once, what is added waits for the next start."""

    def __init__(
        self, made: Mapping[str, Made], allow: Callable[[], AllowList], *, now: Callable[[], int]
    ) -> None:
        self._made, self._allow, self._now = made, allow, now
        self._at_start = allow()
        self.tools: Mapping[str, Tool] = listed_tools(self._at_start.names)

    def asked(self, name: str, arguments: Mapping[str, Any]) -> Asked:
        """What a call is about; the client is named only where it could be an alias."""
        declared = ADVISOR_TOOLS.get(name)
        klass = "X" if name in HUMANS_OWN else "?" if declared is None else declared.klass
        client = arguments.get("client")
        about = client if isinstance(client, str) and len(client) <= 64 and client.isprintable() else ""
        return Asked(name, klass, about)

    async def run(self, name: str, arguments: Mapping[str, Any]) -> Outcome:
        """Check one call and make it; refusals are outcomes."""
        try:
            check_arguments(self._open(name), arguments)
            _check_names(arguments)
        except HiveError as error:
            return Outcome(refusal(error), "refused")
        filled = {param.name: param.default for param in ADVISOR_TOOLS[name].params} | dict(arguments)
        try:
            said = await self._made[name](filled)
        except HiveError as error:
            return Outcome(refusal(error), "failed")
        as_of = self._now() if said.as_of is None else said.as_of
        origin = KIT if said.source == KIT else f"client {said.source}"
        answer = told(said.data, source=said.source, origin=origin, as_of=as_of, verified=said.verified)
        return Outcome(answer, "done", said.plan)

    def _open(self, name: str) -> Mapping[str, Any]:
        """The schema of the tool, if it is open. Raises NotFound, Unauthorized."""
        if name in HUMANS_OWN:
            raise Unauthorized(
                f"{name} is of class X: it is the human's own, and no list opens it to a program",
                reason="operator_only",
            )
        declared = ADVISOR_TOOLS.get(name)
        if declared is None:
            raise NotFound(f"there is no tool {name[:64]!a}", reason=UNKNOWN_TOOL)
        if declared.klass == "A" and name not in self._allow().names & self._at_start.names:
            raise Unauthorized(f"{name} acts, and the human has not listed it", reason="not_allowed")
        return declared.tool.schema


def _check_names(arguments: Mapping[str, Any]) -> None:
    """Raises InvalidParams for a key, an address or an invoice where an alias or a local id has to stand."""
    for name in _NAMING:
        if isinstance(given := arguments.get(name), str) and _RAW.fullmatch(given.strip()):
            raise InvalidParams(
                f"{name} takes an alias or an id of this advisor, no key, address or invoice",
                data={"param": name},
            )
