"""listconfigs and setconfig."""

from __future__ import annotations

from typing import Any

from hive_devnet.embedded.config_files import changed_line, save_settings
from hive_devnet.embedded.errors import INVALID_PARAMS, LIGHTNINGD, RpcError
from hive_devnet.embedded.node import EmbeddedNode
from hive_devnet.embedded.options import TRANSIENT, Option, OptionError, Setting
from hive_devnet.embedded.params import anything, bad_param, boolean, opt, raw_text, req, string
from hive_devnet.embedded.registry import Call, Result, command

_FIELDS = {"int": "int", "bool": "bool", "msat": "msat"}


def _shown(option: Option, argument: str | None) -> Any:
    return "..." if option.kind == "string-conceal" else option.value(argument)


def _value_in_force(node: EmbeddedNode, option: Option) -> str | None:
    known = {
        "alias": node.alias,
        "rgb": node.color,
        "lightning-dir": str(node.dir),
    }
    return known.get(option.name, option.default)


def describe_option(node: EmbeddedNode, option: Option) -> dict[str, Any] | None:
    """One entry of listconfigs; None when an unset option has nothing to show."""
    settings = node.options.current(option.name)
    entry: dict[str, Any] = {}
    if option.kind == "flag":
        entry = {"set": bool(settings), "source": settings[-1].shown_source if settings else "default"}
    elif option.multi:
        field = "values_" + _FIELDS.get(option.kind, "str")
        entry = {
            field: [_shown(option, setting.argument) for setting in settings],
            "sources": [setting.shown_source for setting in settings],
        }
    else:
        argument = (
            node.options.effective_argument(option, settings[-1])
            if settings
            else _value_in_force(node, option)
        )
        if argument is None:
            return None
        entry = {
            "value_" + _FIELDS.get(option.kind, "str"): _shown(option, argument),
            "source": settings[-1].shown_source if settings else "default",
        }
    if option.plugin is not None:
        entry["plugin"] = option.plugin
    if option.dynamic:
        entry["dynamic"] = True
    return entry


def _find(node: EmbeddedNode, name: str) -> Option:
    option = node.options.options.get(name)
    if option is None:
        raise bad_param("config", "Unknown config option", name)
    return option


@command("listconfigs", opt("config", string))
async def listconfigs(call: Call) -> Result:
    """Every option with its value and where the value came from."""
    node, wanted = call.node, call["config"]
    chosen = [_find(node, wanted)] if wanted is not None else list(node.options.options.values())
    entries = {option.name: describe_option(node, option) for option in chosen}
    return {"configs": {name: entry for name, entry in entries.items() if entry is not None}}


@command(
    "setconfig",
    req("config", string),
    opt("val", anything),
    opt("transient", boolean, False),
    checks=True,
)
async def setconfig(call: Call) -> Result:
    """Sets a dynamic option: the owning plugin is asked, then the value is kept (and saved)."""
    node = call.node
    option = _find(node, call["config"])
    if not option.dynamic:
        raise bad_param("config", "Not a dynamic config option", call["config"])
    arguments = _arguments(option, call["val"])
    if not call["transient"]:
        for setting in node.options.current(option.name):
            problem = changed_line(setting)
            if problem is not None:
                raise RpcError(INVALID_PARAMS, problem)
    if option.plugin is not None:
        await _ask_plugin(call, option, arguments)
    else:
        try:
            option.check(arguments[0])
        except OptionError as error:
            raise RpcError(INVALID_PARAMS, f"Error setting {option.name}: {error}") from error
    if call.check_only:
        return {}
    _keep(node, option, arguments, call["transient"])
    return {"config": {"config": option.name} | (describe_option(node, option) or {})}


def _arguments(option: Option, value: Any) -> list[str | None]:
    if option.multi:
        if value is not None and not isinstance(value, list):
            raise RpcError(INVALID_PARAMS, f"{option.name} is a multi option: val must be an array")
        return [raw_text("val", item) for item in value or ()]
    if isinstance(value, list):
        raise RpcError(INVALID_PARAMS, f"{option.name} is not a multi option: val must not be an array")
    if option.kind == "flag":
        if value is not None:
            raise RpcError(INVALID_PARAMS, f"{option.name} does not take a value")
        return [None]
    if value is None:
        raise RpcError(INVALID_PARAMS, f"{option.name} requires a value")
    return [raw_text("val", value)]


async def _ask_plugin(call: Call, option: Option, arguments: list[str | None]) -> None:
    plugin = call.node.plugins.find(str(option.plugin))
    if plugin is None:
        raise RpcError(LIGHTNINGD, f"Missing opt {option.name} on plugin return?")
    params: dict[str, Any] = {"config": option.name}
    if option.multi:
        params["val"] = arguments
    elif arguments[0] is not None:
        params["val"] = arguments[0]
    if call.check_only:
        if not plugin.manifest.can_check:
            return
        reply = await plugin.request("check", {"command_to_check": "setconfig"} | params, call.request_id)
    else:
        reply = await plugin.request("setconfig", params, call.request_id)
    error = reply.get("error")
    if error is not None:
        if not isinstance(error, dict) or "message" not in error or "code" not in error:
            raise RpcError(LIGHTNINGD, f"Malformed setvalue {option.name} plugin return")
        # CLN copies the plugin's sentence with its escapes and escapes it once more.
        raise RpcError(int(error["code"]), raw_text("message", str(error["message"])))
    if "result" not in reply:
        raise RpcError(LIGHTNINGD, f"Malformed setvalue {option.name} plugin return")


def _keep(node: EmbeddedNode, option: Option, arguments: list[str | None], transient: bool) -> None:
    table = node.options
    if not transient:
        save_settings(table, node.net_dir / "config", option.name, arguments)
        return
    table.settings = [s for s in table.settings if s.name != option.name or s.source != TRANSIENT]
    table.settings += [Setting(option.name, argument, TRANSIENT) for argument in arguments]
