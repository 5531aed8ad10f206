"""The `plugin` command."""

from __future__ import annotations

from pathlib import Path

from hive_devnet.embedded.errors import INVALID_PARAMS, RpcError
from hive_devnet.embedded.params import anything, opt, parse_params, req, string
from hive_devnet.embedded.registry import Call, Result, command

_SUBCOMMANDS = ("start", "stop", "startdir", "rescan", "list")


@command(
    "plugin",
    req("subcommand", string),
    allow_extra=True,
    usage_text="subcommand=start|stop|startdir|rescan|list",
)
async def plugin(call: Call) -> Result:
    """Starts, stops and lists plugins of the running node."""
    word = call["subcommand"]
    if word not in _SUBCOMMANDS:
        raise RpcError(INVALID_PARAMS, f"Unknown subcommand '{word}'")
    host = call.node.plugins
    first = req("subcommand", string)
    if word == "stop":
        args = parse_params((first, req("plugin", string)), call.raw)
        return {"command": "stop", "result": await host.stop(args["plugin"])}
    if word == "start":
        await _start(call)
    elif word == "startdir":
        args = parse_params((first, req("directory", string)), call.raw)
        await host.start_directory(Path(args["directory"]))
    else:
        parse_params((first,), call.raw)
        if word == "rescan":
            await host.rescan()
    return {"command": word, "plugins": host.listing()}


async def _start(call: Call) -> None:
    specs = (req("subcommand", string), req("plugin", string), opt("options", anything))
    args = parse_params(specs, call.raw, allow_extra=True)
    if isinstance(call.raw, list):
        if len(call.raw) != 2:
            raise RpcError(INVALID_PARAMS, "Extra parameters must be in object")
        given = {}
    else:
        given = {key: value for key, value in call.raw.items() if key not in ("subcommand", "plugin")}
    await call.node.plugins.start(args["plugin"], given)
