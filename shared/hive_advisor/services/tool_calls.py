"""Calls of a program (MCP): counted, recorded, bounded, answered by the tools of a role
(docs/protocol/11-advisor-kit.md §11, docs/protocol/08-client-and-plugins.md §8.7).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import msgspec
from hive_shared.errors import (
    HiveError,
    Internal,
    InvalidParams,
    RateLimited,
    TransportUnavailable,
)
from hive_shared.store import Db, StoreError, Tx
from msgspec.structs import replace

from hive_advisor.domain.cleaning import clean_text
from hive_advisor.domain.guard_rules import ToolRate
from hive_advisor.domain.rows import AuditRow
from hive_advisor.domain.tool_output import take_apart
from hive_advisor.domain.tool_schema import Tool
from hive_advisor.services.ports import AuditRows

MAX_OUTPUT: Final = 65_536
"""Bytes of one answer, unless the human set another bound."""
UNKNOWN_TOOL: Final = "unknown_tool"
LONGEST_S: Final = 30
"""For calls of what is not listed as a tool."""
_MINUTE, _DAY = 60, 86_400


class Limits(msgspec.Struct, frozen=True):
    """Calls of all tools a minute, of one reading tool a minute, of one acting tool a minute and a day."""

    all_minute: int = 60
    read_minute: int = 30
    act_minute: int = 5
    act_day: int = 50


_LIMITS: Final = Limits()


class ToolAnswer(msgspec.Struct, frozen=True):
    """What the program is told; ``failed`` marks it as an error."""

    body: dict[str, Any]
    failed: bool = False

    @property
    def text(self) -> str:
        return json.dumps(self.body, ensure_ascii=False, separators=(",", ":"))


class Asked(msgspec.Struct, frozen=True):
    """What a call is about, before anything is checked: the tool as the audit shall name it, its class (``?``
    for what is no tool), the node or client it names if there is one of that name."""

    tool: str
    klass: str
    about: str = ""


class Outcome(msgspec.Struct, frozen=True):
    """The answer, what the audit says of it (done, shown, refused, failed), and the plan it was about."""

    answer: ToolAnswer
    decision: str
    plan: str = ""


class Toolbox(Protocol):
    """The tools of one role."""

    @property
    def tools(self) -> Mapping[str, Tool]: ...

    def asked(self, name: str, arguments: Mapping[str, Any]) -> Asked: ...

    async def run(self, name: str, arguments: Mapping[str, Any]) -> Outcome: ...


class ToolCallService:
    """Answers calls: a row in the audit before anything is done, and its end after. ``rates`` reads the
    human's own rates of tools anew for every call; where they cannot be read (InvalidParams) nothing acts."""

    def __init__(
        self,
        db: Db,
        rows: AuditRows,
        toolbox: Toolbox,
        *,
        now: Callable[[], int],
        rates: Callable[[], Mapping[str, ToolRate]] = dict,
        limits: Limits = _LIMITS,
        max_output: int = MAX_OUTPUT,
    ) -> None:
        self._db, self._rows, self._toolbox = db, rows, toolbox
        self._now, self._rates, self._limits, self._max_output = now, rates, limits, max_output

    @property
    def tools(self) -> Mapping[str, Tool]:
        """What the program is shown."""
        return self._toolbox.tools

    async def call(self, name: str, arguments: Mapping[str, Any], client: str) -> ToolAnswer:
        """Answer one call; refusals are answers too. ``client`` is what the program calls itself."""
        asked = self._toolbox.asked(name, arguments)
        row = AuditRow(
            audit_id=0,
            at=self._now(),
            client=clean_text(client, 64),
            tool=clean_text(asked.tool, 64),
            node=asked.about,
            klass=asked.klass,
            args_hash=_hash(arguments),
            decision="begun",
        )
        try:
            number = await self._begin(row)
        except HiveError as error:
            return refusal(error)
        except StoreError:
            return refusal(Internal("the audit log cannot be written, so nothing was called"))
        outcome = await self._run(name, arguments, asked)
        answer = outcome.answer
        ended = replace(
            row,
            audit_id=number,
            decision=outcome.decision,
            slug=str(answer.body["error"]["slug"]) if answer.failed else "",
            out_hash=_hash(answer.body),
            plan=outcome.plan,
        )
        try:
            # Without waiting for the disk: a row that a power cut takes back to "begun" says what is certain.
            await self._db.write(lambda tx: self._rows.end(tx, ended), durable=False)
        except StoreError:
            # The answer is there; that its row stays "begun" must not hide it.
            pass
        return answer

    async def _run(self, name: str, arguments: Mapping[str, Any], asked: Asked) -> Outcome:
        tool = self.tools.get(name)
        limit = LONGEST_S if tool is None else tool.within_s
        try:
            # Above the time that tools give themselves: theirs say more.
            async with asyncio.timeout(limit + 2):
                outcome = await self._toolbox.run(name, arguments)
        except TimeoutError:
            unsure = "; whether it was done is not known" if asked.klass == "A" else ""
            error = TransportUnavailable(f"{name[:64]} did not end within {limit} s{unsure}")
            return Outcome(refusal(error), "failed")
        except Exception as fault:
            # Its text may be anybody's: it is for the human at the server's end.
            traceback.print_exception(fault, file=sys.stderr)
            told_so = Internal(f"{name[:64]} ended by a fault of this server, which its stderr describes")
            return Outcome(refusal(told_so), "failed")
        return replace(outcome, answer=_measured(outcome.answer, self._max_output))

    async def _begin(self, row: AuditRow) -> int:
        """Count the call and keep its row. Raises RateLimited, which is kept too; InvalidParams."""
        try:
            rate = self._rates().get(row.tool, ToolRate())
        except InvalidParams:
            if row.klass == "A":
                raise
            rate = ToolRate()

        def body(tx: Tx) -> tuple[int, str]:
            full = self._full(tx, row, rate)
            kept = row if not full else replace(row, decision="limited", slug="rate_limited")
            return self._rows.add(tx, kept), full

        number, full = await self._db.write(body)
        if full:
            raise RateLimited(full, data={"retry_after": _MINUTE})
        return number

    def _full(self, tx: Tx, row: AuditRow, rate: ToolRate) -> str:
        limits, minute = self._limits, row.at - _MINUTE
        if self._rows.count(tx, minute) >= limits.all_minute:
            return f"{limits.all_minute} calls a minute are reached; wait a minute"
        acts = row.klass == "A"
        # A tool's reading calls leave its acting ones alone.
        klass, what = ("A", "acting calls") if acts else (None, "calls")
        most = _or(rate.per_minute, limits.act_minute if acts else limits.read_minute)
        if self._rows.count(tx, minute, row.tool, klass) >= most:
            return f"{most} {what} of {row.tool} a minute are reached; wait a minute"
        day = _or(rate.per_day, limits.act_day) if acts else rate.per_day
        if day is not None and self._rows.count(tx, row.at - _DAY, row.tool, klass) >= day:
            return f"{day} {what} of {row.tool} a day are reached; ask the human"
        return ""


def _or(given: int | None, default: int) -> int:
    return default if given is None else given


def told(
    data: object,
    *,
    source: str,
    origin: str,
    as_of: int,
    verified: bool = True,
    own_words: bool = False,
) -> ToolAnswer:
    """An answer in the form of §11.2. ``source`` is what answered, ``origin`` whose words its texts are where
    no part says otherwise; ``verified``: signature, socket or certificate say that it is from there."""
    parts = take_apart(data, origin, own_words=own_words)
    body = {
        "ok": True,
        "data": parts.data,
        "untrusted": parts.untrusted,
        "as_of": as_of,
        "source": source,
        "verified": verified,
    }
    if parts.omitted:
        body["untrusted_omitted"] = parts.omitted
    return ToolAnswer(body)


def refusal(error: HiveError) -> ToolAnswer:
    """An error as an answer."""
    body = {"code": error.code, "slug": error.symbol, "message": clean_text(error.detail), "data": error.data}
    return ToolAnswer({"ok": False, "error": body}, failed=True)


def _measured(answer: ToolAnswer, most: int) -> ToolAnswer:
    size = len(answer.text.encode("utf-8", "replace"))
    if size <= most:
        return answer
    return refusal(
        InvalidParams(
            f"the answer has {size} bytes, and {most} are passed on: ask for less with limit,"
            " since or cursor",
            reason="too_large",
        )
    )


def _hash(value: object) -> str:
    text = json.dumps(value, sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
