"""Calls of a program (MCP) to the operator's own nodes: what is open, how often, what is answered
(docs/protocol/11-advisor-kit.md §11, docs/protocol/08-client-and-plugins.md §8.7).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from hive_shared.errors import (
    HiveError,
    Internal,
    InvalidParams,
    NotFound,
    RateLimited,
    TransportUnavailable,
    Unauthorized,
    by_code,
)
from hive_shared.store import Db, StoreError, Tx

from hive_advisor.domain.allow_list import AllowList
from hive_advisor.domain.cleaning import clean_text
from hive_advisor.domain.methods import Method, tool_table, word
from hive_advisor.domain.node_reads import NODE_READS
from hive_advisor.domain.rows import AuditRow
from hive_advisor.domain.tool_output import OWN_WORDS, take_apart, untrusted_text
from hive_advisor.domain.tool_schema import Tool, check_arguments, tools
from hive_advisor.services.ports import AuditRows, NodeRefused, OwnNodeCalls

MAX_OUTPUT: Final = 65_536
"""Bytes of one answer."""
UNKNOWN_TOOL: Final = "unknown_tool"
_MINUTE, _DAY = 60, 86_400
_UNKNOWN_COMMAND: Final = -32601


@dataclass(frozen=True)
class Limits:
    """Calls of all tools a minute, of one reading tool a minute, of one acting tool a minute and a day."""

    all_minute: int = 60
    read_minute: int = 30
    act_minute: int = 5
    act_day: int = 50


@dataclass(frozen=True)
class ToolAnswer:
    """What the program is told; ``failed`` marks it as an error."""

    body: dict[str, Any]
    failed: bool = False

    @property
    def text(self) -> str:
        return json.dumps(self.body, ensure_ascii=False, separators=(",", ":"))


class ToolCallService:
    """The tools and their calls. ``allow`` reads the operator's list anew for every call: who is taken off it
    is off it at once, while a name that is added later waits for the next start, because clients keep the
    list of tools they were given."""

    def __init__(
        self,
        db: Db,
        rows: AuditRows,
        nodes: OwnNodeCalls,
        names: tuple[str, ...],
        allow: Callable[[], AllowList],
        *,
        now: Callable[[], int],
        limits: Limits = Limits(),
    ) -> None:
        self._db, self._rows, self._nodes, self._names = db, rows, nodes, names
        self._allow, self._now, self._limits = allow, now, limits
        self._at_start = allow()
        self.tools: Mapping[str, Tool] = tools(self._at_start.names, names)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What of the operator's list opens nothing."""
        return self._at_start.warnings

    async def call(self, name: str, arguments: Mapping[str, Any], client: str) -> ToolAnswer:
        """Answer one call; refusals are answers too. ``client`` is what the program calls itself."""
        method = tool_table().get(name)
        klass = method.class_of(arguments) if method is not None else "?"
        row = AuditRow(
            audit_id=0,
            at=self._now(),
            client=clean_text(client, 64),
            tool=name if method is not None else clean_text(name, 64),
            node=self._shown_node(arguments),
            klass=klass,
            args_hash=_hash(arguments),
            decision="begun",
        )
        try:
            number = await self._begin(row)
        except HiveError as error:
            return _refusal(error)
        except StoreError:
            return _refusal(Internal("the audit log cannot be written, so nothing was called"))
        answer, decision = await self._decided(name, method, arguments)
        slug = str(answer.body["error"]["slug"]) if answer.failed else ""
        try:
            # Without waiting for the disk: a row that a power cut takes back to "begun" says what is certain.
            await self._db.write(
                lambda tx: self._rows.end(tx, number, decision, slug, _hash(answer.body)), durable=False
            )
        except StoreError:
            # The node has answered; that its row stays "begun" must not hide what it said.
            pass
        return answer

    def _shown_node(self, arguments: Mapping[str, Any]) -> str:
        given = arguments.get("node")
        return str(given) if given in self._names else ""

    async def _begin(self, row: AuditRow) -> int:
        """Count the call and keep its row. Raises RateLimited; that is kept too."""

        def body(tx: Tx) -> tuple[int, str]:
            full = self._full(tx, row)
            kept = (
                row
                if not full
                else AuditRow(**{**_fields(row), "decision": "limited", "slug": "rate_limited"})
            )
            return self._rows.add(tx, kept), full

        number, full = await self._db.write(body)
        if full:
            raise RateLimited(full, data={"retry_after": _MINUTE})
        return number

    def _full(self, tx: Tx, row: AuditRow) -> str:
        limits, minute = self._limits, row.at - _MINUTE
        if self._rows.count(tx, minute) >= limits.all_minute:
            return f"{limits.all_minute} calls a minute are reached; wait a minute"
        if row.klass == "A":
            if self._rows.count(tx, minute, row.tool, "A") >= limits.act_minute:
                return f"{limits.act_minute} acting calls of {row.tool} a minute are reached; wait a minute"
            if self._rows.count(tx, row.at - _DAY, row.tool, "A") >= limits.act_day:
                return f"{limits.act_day} acting calls of {row.tool} a day are reached; ask the operator"
        elif self._rows.count(tx, minute, row.tool) >= limits.read_minute:
            return f"{limits.read_minute} calls of {row.tool} a minute are reached; wait a minute"
        return ""

    async def _decided(
        self, name: str, method: Method | None, arguments: Mapping[str, Any]
    ) -> tuple[ToolAnswer, str]:
        try:
            tool = self._open_tool(name, method, arguments)
            check_arguments(tool.schema, arguments)
        except HiveError as error:
            return _refusal(error), "refused"
        node, params, dry_run = self._bound(tool, arguments)
        if dry_run:
            # All of it is the program's own or ours.
            shown = {"dry_run": True, "would_call": tool.method.name, "params": params}
            return ToolAnswer(self._framed(shown, "this server")), "shown"
        try:
            result = await self._asked(node, tool.method.name, params)
        except NodeRefused as refused:
            return _refused_by_node(refused, tool.method.name, node), "failed"
        except TransportUnavailable as error:
            acted = tool.method.class_of(params) == "A"
            unsure = "; whether it was done is not known: look before repeating it" if acted else ""
            return _refusal(TransportUnavailable(error.detail + unsure)), "failed"
        except HiveError as error:
            return _refusal(error), "failed"
        return self._measured(self._answer(result, node, tool.method.name in OWN_WORDS)), "done"

    async def _asked(self, node: str, method: str, params: dict[str, Any]) -> dict[str, Any]:
        read = NODE_READS.get(method)
        if read is None:
            return await self._nodes.call(node, method, params)
        said = await self._nodes.call(node, method, read.ask(params))
        try:
            return read.shape(said, params)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Internal(f"node {node} answered {method} in a form that is not known here") from error

    def _open_tool(self, name: str, method: Method | None, arguments: Mapping[str, Any]) -> Tool:
        """The tool, if this call of it is open. Raises NotFound, Unauthorized."""
        if method is None:
            raise NotFound(f"there is no tool {name[:64]!a}", reason=UNKNOWN_TOOL)
        klass = method.class_of(arguments)
        if klass not in ("R", "A"):
            raise Unauthorized(
                f"{_shown(method, arguments)} is of class {klass}: no list opens it to a program",
                reason="operator_only",
            )
        if klass == "A" and method.name not in self._allow().names & self._at_start.names:
            raise Unauthorized(
                f"{_shown(method, arguments)} acts, and the operator has not listed {method.name}",
                reason="not_allowed",
            )
        return self.tools[name]

    def _bound(self, tool: Tool, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any], bool]:
        """The node, what is sent to it, and whether the call is only to be shown."""
        params = {name: value for name, value in arguments.items() if name != "node"}
        own = {param.name for param in tool.method.spec.params}
        acts = tool.method.class_of(params) == "A"
        dry_run = acts and params.get("dry_run", True) is True and "dry_run" not in own
        if "dry_run" in own:
            params.setdefault("dry_run", True)
        else:
            params.pop("dry_run", None)
        if tool.method.selector is not None:
            # Always said, never left to a default: a rune that is bound to values looks at what is said.
            params[tool.method.selector] = tool.method.selected(params)
        return str(arguments.get("node") or self._names[0]), params, dry_run

    def _answer(self, result: object, node: str, own_words: bool) -> ToolAnswer:
        parts = take_apart(result, f"node {node}", own_words=own_words)
        body = self._framed(parts.data, node)
        body["untrusted"] = parts.untrusted
        if parts.omitted:
            body["untrusted_omitted"] = parts.omitted
        return ToolAnswer(body)

    def _framed(self, data: object, source: str) -> dict[str, Any]:
        # Socket and certificate say which node answered; there is no other way to a node here.
        return {
            "ok": True,
            "data": data,
            "untrusted": {},
            "as_of": self._now(),
            "source": source,
            "verified": True,
        }

    def _measured(self, answer: ToolAnswer) -> ToolAnswer:
        size = len(answer.text.encode())
        if size <= MAX_OUTPUT:
            return answer
        return _refusal(
            InvalidParams(
                f"the answer has {size} bytes, and {MAX_OUTPUT} are passed on: ask for less with limit,"
                " since or cursor",
                reason="too_large",
            )
        )


def _shown(method: Method, arguments: Mapping[str, Any]) -> str:
    if method.selector is None:
        return method.tool
    value = word(method.selected(arguments))
    return f"{method.tool} {method.selector}={value}" if value in method.classes else method.tool


def _refusal(error: HiveError) -> ToolAnswer:
    body = {"code": error.code, "slug": error.symbol, "message": clean_text(error.detail), "data": error.data}
    return ToolAnswer({"ok": False, "error": body}, failed=True)


def _refused_by_node(refused: NodeRefused, method: str, node: str) -> ToolAnswer:
    """Our slug and sentence; the node's words apart, because they may repeat somebody else's."""
    if refused.code == _UNKNOWN_COMMAND:
        return _refusal(NotFound(f"node {node} has no {method}: its plugin is not running there"))
    try:
        kind = by_code(refused.code)
    except KeyError:
        kind = Internal
    reason = refused.data.get("reason") if isinstance(refused.data, dict) else None
    told = take_apart({"reason": reason}, node).data["reason"]
    error = kind(f"node {node} refused {method}")
    answer = _refusal(error)
    answer.body["error"]["slug"] = told if reason is not None and told == reason else error.slug
    answer.body["untrusted"] = {"/error": untrusted_text(refused.text, f"node {node}")}
    return answer


def _hash(value: object) -> str:
    text = json.dumps(value, sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _fields(row: AuditRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in AuditRow.__dataclass_fields__}
