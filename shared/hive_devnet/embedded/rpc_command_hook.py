"""The rpc_command hook: plugins may answer, fail or replace any RPC call before it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hive_devnet.embedded.errors import INVALID_REQUEST, RpcError
from hive_devnet.embedded.registry import COMMANDS

if TYPE_CHECKING:
    from hive_devnet.embedded.node import EmbeddedNode


@dataclass(frozen=True)
class Taken:
    """What the hook made of a call: a finished reply, or the method and params to run."""

    reply: dict[str, Any] | None
    method: str
    params: Any


async def apply_rpc_command_hook(node: EmbeddedNode, request: dict[str, Any]) -> Taken:
    """Asks the plugins. The first change wins; a second one is logged and ignored. Raises RpcError."""
    method = request["method"]
    answers = await node.plugins.hooks.call("rpc_command", {"rpc_command": request}, method, request["id"])
    changes = [answer for _, answer in answers if answer.get("result") != "continue"]
    taken: Taken | None = None
    for answer in changes:
        if taken is not None:
            text = f"rpc_command hook '{method}' already modified, ignoring."
            node.log.write("unusual", "lightningd", text)
            break
        taken = _change(node, answer)
    return taken or Taken(None, method, request["params"])


def _change(node: EmbeddedNode, answer: dict[str, Any]) -> Taken | None:
    if "replace" in answer:
        return _replacement(node, answer["replace"])
    custom = answer.get("return")
    if isinstance(custom, dict) and "result" in custom:
        return Taken({"result": custom["result"]}, "", None)
    problem = ""
    if "result" in answer:
        problem = "'result' should only be 'continue'."
    elif isinstance(custom, dict) and isinstance(custom.get("error"), dict):
        error = custom["error"]
        if not isinstance(error.get("code"), int):
            problem = "'error' object does not contain a code."
        elif "message" not in error:
            problem = "'error' object does not contain a message."
        else:
            return Taken({"error": error}, "", None)
    node.log.write("broken", "lightningd", f"Bad response to 'rpc_command' hook. {problem}")
    return None


def _replacement(node: EmbeddedNode, replace: Any) -> Taken:
    problem = None
    if not isinstance(replace, dict):
        problem = "'replace' must be an object"
    else:
        problem = next((f"missing '{key}'" for key in ("method", "params", "id") if key not in replace), None)
    if problem is None:
        known = replace["method"] in COMMANDS or node.plugins.owner_of(replace["method"]) is not None
        if not known:
            problem = f"redirected to unknown method '{replace['method']}'"
        elif replace.get("jsonrpc") != "2.0":
            problem = 'jsonrpc: "2.0" must be specified in the request'
    if problem is not None:
        raise RpcError(INVALID_REQUEST, f"Bad response to 'rpc_command' hook: {problem} ({replace})")
    return Taken(None, replace["method"], replace["params"])
