"""The tools of the role operator: methods of the operator's own nodes (docs/protocol/11-advisor-kit.md
§11.3)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from hive_shared.errors import (
    HiveError,
    Internal,
    InvalidParams,
    NotFound,
    TransportUnavailable,
    Unauthorized,
    by_code,
)

from hive_advisor.domain.allow_list import AllowList
from hive_advisor.domain.methods import Method, method_table, tool_table, word
from hive_advisor.domain.node_reads import NODE_READS
from hive_advisor.domain.node_tool_sets import CALL, SEARCH, SETS, found_methods, listed_tools, own_tools
from hive_advisor.domain.tool_output import OWN_WORDS, own, take_apart, untrusted_text
from hive_advisor.domain.tool_schema import MethodTool, Tool, check_arguments, method_tools
from hive_advisor.services.figures import FigureService
from hive_advisor.services.ports import NodeRefused, OwnNodeCalls
from hive_advisor.services.tool_calls import UNKNOWN_TOOL, Asked, Outcome, ToolAnswer, refusal, told

_UNKNOWN_COMMAND: Final = -32601
_SELF: Final = "this server"


class NodeTools:
    """``allow`` reads the operator's list anew for every call: who is taken off it is off it at once, while a
    name that is added later waits for the next start, because clients keep the list of tools they were
    given. ``sets`` are the sets of tools that are shown; every other method is reached by ``hive_call``."""

    def __init__(
        self,
        nodes: OwnNodeCalls,
        names: tuple[str, ...],
        allow: Callable[[], AllowList],
        *,
        now: Callable[[], int],
        sets: Collection[str] = tuple(SETS),
    ) -> None:
        self._nodes, self._names, self._allow, self._now = nodes, names, allow, now
        self._at_start = allow()
        self._methods = method_tools(self._at_start.names, names)
        self._own = own_tools(names)
        self.tools: Mapping[str, Tool] = {
            **self._own,
            **listed_tools(self._methods, sets, self._at_start.names),
        }
        self._figures = FigureService(nodes, names, now=now)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What of the operator's list opens nothing."""
        return self._at_start.warnings

    def asked(self, name: str, arguments: Mapping[str, Any]) -> Asked:
        """A call by ``hive_call`` counts as one of the method it names."""
        about = arguments.get("node")
        node = str(about) if about in self._names else ""
        if name == CALL:
            name, arguments = _named(arguments), _params(arguments)
        if name in self._own:
            return Asked(name, "R", node)
        method = tool_table().get(name)
        return Asked(name, "?" if method is None else method.class_of(arguments), node)

    async def run(self, name: str, arguments: Mapping[str, Any]) -> Outcome:
        """Check one call and make it; refusals are outcomes."""
        try:
            if name in self._own:
                check_arguments(self._own[name].schema, arguments)
                if name == CALL:
                    return await self._carried(arguments)
                if name == SEARCH:
                    return self._found(str(arguments["words"]))
                return await self._figure(name, arguments)
            method = tool_table().get(name)
            if method is None:
                raise NotFound(f"there is no tool {name[:64]!a}", reason=UNKNOWN_TOOL)
            tool = self._open_tool(method, arguments)
            check_arguments(tool.schema, arguments)
        except HiveError as error:
            return Outcome(refusal(error), "refused")
        return await self._called(tool, arguments)

    async def _carried(self, arguments: Mapping[str, Any]) -> Outcome:
        """What ``hive_call`` hands on. Raises InvalidParams, NotFound, Unauthorized."""
        given = arguments.get("params", {})
        if not isinstance(given, dict):
            raise InvalidParams("params must be an object", data={"param": "params"})
        method = tool_table().get(_named(arguments))
        if method is None:
            raise NotFound(
                f"no plugin of this version has a method {str(arguments['method'])[:64]!a}: tools_search"
                " finds what there is"
            )
        beside = {name: arguments[name] for name in ("node", "dry_run") if name in arguments}
        if twice := sorted(set(beside) & set(given)):
            raise InvalidParams(f"{twice[0]} stands beside params, not in it", data={"param": twice[0]})
        tool = self._open_tool(method, given)
        if "dry_run" not in tool.schema["properties"]:
            beside.pop("dry_run", None)
        carried = {**given, **beside}
        check_arguments(tool.schema, carried)
        return await self._called(tool, carried)

    def _found(self, words: str) -> Outcome:
        items = found_methods(words, self._methods, self._own)
        return Outcome(
            told({"items": own(items), "count": len(items)}, source=_SELF, origin=_SELF, as_of=self._now()),
            "done",
        )

    async def _figure(self, name: str, arguments: Mapping[str, Any]) -> Outcome:
        try:
            data = await self._figures.answer(name, arguments)
        except HiveError as error:
            return Outcome(refusal(error), "failed")
        given = arguments.get("node")
        source = str(given) if given is not None else "own nodes"
        return Outcome(told(data, source=source, origin=source, as_of=self._now()), "done")

    async def _called(self, tool: MethodTool, arguments: Mapping[str, Any]) -> Outcome:
        node, params, dry_run = self._bound(tool, arguments)
        if dry_run:
            # All of it is the program's own or ours.
            shown = {"dry_run": True, "would_call": tool.method.name, "params": own(params)}
            return Outcome(told(shown, source=_SELF, origin=_SELF, as_of=self._now()), "shown")
        try:
            result = await self._answered(node, tool.method.name, params)
        except NodeRefused as refused:
            return Outcome(_refused_by_node(refused, tool.method.name, node), "failed")
        except TransportUnavailable as error:
            acted = tool.method.class_of(params) == "A"
            unsure = "; whether it was done is not known: look before repeating it" if acted else ""
            return Outcome(refusal(TransportUnavailable(error.detail + unsure)), "failed")
        except HiveError as error:
            return Outcome(refusal(error), "failed")
        # Socket and certificate say which node answered; there is no other way to a node here.
        said = told(
            result,
            source=node,
            origin=f"node {node}",
            as_of=self._now(),
            own_words=tool.method.name in OWN_WORDS,
        )
        return Outcome(said, "done")

    async def _answered(self, node: str, method: str, params: dict[str, Any]) -> dict[str, Any]:
        read = NODE_READS.get(method)
        if read is None:
            return await self._nodes.call(node, method, params)
        said = await self._nodes.call(node, method, read.ask(params))
        try:
            return read.shape(said, params)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Internal(f"node {node} answered {method} in a form that is not known here") from error

    def _open_tool(self, method: Method, arguments: Mapping[str, Any]) -> MethodTool:
        """The tool, if this call of it is open. Raises Unauthorized."""
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
        return self._methods[method.tool]

    def _bound(self, tool: MethodTool, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any], bool]:
        """The node, what is sent to it, and whether the call is only to be shown."""
        params = {name: value for name, value in arguments.items() if name != "node"}
        declared = {param.name for param in tool.method.spec.params}
        acts = tool.method.class_of(params) == "A"
        dry_run = acts and params.get("dry_run", True) is True and "dry_run" not in declared
        if "dry_run" in declared:
            params.setdefault("dry_run", True)
        else:
            params.pop("dry_run", None)
        if tool.method.selector is not None:
            # Always said, never left to a default: a rune that is bound to values looks at what is said.
            params[tool.method.selector] = tool.method.selected(params)
        return str(arguments.get("node") or self._names[0]), params, dry_run


def _named(arguments: Mapping[str, Any]) -> str:
    """The tool that ``hive_call`` is asked for, by the name of its method or of the tool itself."""
    given = str(arguments.get("method", ""))[:80]
    method = method_table().get(given)
    return given if method is None else method.tool


def _params(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    given = arguments.get("params")
    return given if isinstance(given, dict) else {}


def _shown(method: Method, arguments: Mapping[str, Any]) -> str:
    if method.selector is None:
        return method.tool
    value = word(method.selected(arguments))
    return f"{method.tool} {method.selector}={value}" if value in method.classes else method.tool


def _refused_by_node(refused: NodeRefused, method: str, node: str) -> ToolAnswer:
    """Our slug and sentence; the node's words apart, because they may repeat somebody else's."""
    if refused.code == _UNKNOWN_COMMAND:
        return refusal(NotFound(f"node {node} has no {method}: its plugin is not running there"))
    try:
        kind = by_code(refused.code)
    except KeyError:
        kind = Internal
    reason = refused.data.get("reason") if isinstance(refused.data, dict) else None
    said = take_apart({"reason": reason}, node).data["reason"]
    error = kind(f"node {node} refused {method}")
    answer = refusal(error)
    answer.body["error"]["slug"] = said if reason is not None and said == reason else error.slug
    answer.body["untrusted"] = {"/error": untrusted_text(refused.text, f"node {node}")}
    return answer
