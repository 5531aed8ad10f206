"""getinfo, help, check, notifications, stop, getlog."""

from __future__ import annotations

import asyncio

from hive_devnet.embedded import CLN_VERSION, NETWORK_NAME
from hive_devnet.embedded.errors import INVALID_PARAMS, METHOD_NOT_FOUND, RpcError
from hive_devnet.embedded.ledger.channel import AWAITING, LIVE
from hive_devnet.embedded.logbook import LEVELS, level_name
from hive_devnet.embedded.node import FEATURES, EmbeddedNode
from hive_devnet.embedded.params import boolean, opt, req, string
from hive_devnet.embedded.registry import COMMANDS, Call, Result, command


@command("getinfo")
async def getinfo(call: Call) -> Result:
    """What the node is and how many peers and channels it has."""
    node = call.node
    channels = node.world.channels.of_node(node.node_id)
    peers = set(node.peers.connected_ids()) | {channel.peer_of(node.node_id) for channel in channels}
    states = [channel.state for channel in channels]
    address = {"type": "ipv4", "address": "127.0.0.1", "port": node.port}
    return {
        "id": node.node_id,
        "alias": node.alias,
        "color": node.color,
        "num_peers": len(peers),
        "num_pending_channels": states.count(AWAITING),
        "num_active_channels": sum(state in LIVE for state in states),
        "num_inactive_channels": sum(state not in (AWAITING, *LIVE) for state in states),
        "address": [],
        "binding": [address],
        "version": node.options.get("dev-claim-version") or CLN_VERSION,
        "blockheight": node.world.chain.height,
        "network": NETWORK_NAME,
        "fees_collected_msat": fees_collected_msat(node),
        "lightning-dir": str(node.net_dir),
        "our_features": {place: FEATURES[place] for place in ("init", "node", "channel", "invoice")},
    }


def fees_collected_msat(node: EmbeddedNode) -> int:
    """Routing fees earned so far."""
    return node.world.courier.payments.fees_earned_msat(node.node_id)


def _help_lines(node: EmbeddedNode) -> dict[str, str]:
    lines = {
        known.name: f"{known.name}{' (DEPRECATED!)' if known.deprecated else ''} {known.usage}"
        for known in COMMANDS.values()
    }
    for plugin in node.plugins.plugins:
        for method in plugin.manifest.methods:
            mark = " (DEPRECATED!)" if method.deprecated else ""
            lines[method.name] = f"{method.name}{mark} {method.usage}"
    return dict(sorted(lines.items()))


@command("help", opt("command", string))
async def help_command(call: Call) -> Result:
    """The usage of one command, or of all."""
    lines = _help_lines(call.node)
    wanted = call["command"]
    if wanted is not None:
        if wanted not in lines:
            raise RpcError(METHOD_NOT_FOUND, f"Unknown command {wanted}")
        lines = {wanted: lines[wanted]}
    return {"help": [{"command": line} for line in lines.values()], "format-hint": "simple"}


@command("check", req("command_to_check", string), allow_extra=True)
async def check(call: Call) -> Result:
    """Whether another command's parameters would be accepted; nothing is changed."""
    name = call["command_to_check"]
    if name not in _help_lines(call.node):
        raise RpcError(METHOD_NOT_FOUND, f"Unknown command '{name}'")
    if isinstance(call.raw, list):
        rest: object = call.raw[1:]
    else:
        rest = {key: value for key, value in call.raw.items() if key != "command_to_check"}
    await call.node.check(name, rest, call.request_id)
    return {"command_to_check": name}


@command("notifications", req("enable", boolean))
async def notifications(_call: Call) -> Result:
    """Turns progress notifications on for a connection; the RPC server does it itself."""
    return {}


@command("stop")
async def stop(call: Call) -> Result:
    """Stops the node; the answer goes out first."""
    asyncio.get_running_loop().call_later(0.05, lambda: call.node.world.spawn(call.node.stop()))
    return {"result": "Shutdown complete"}


@command("getlog", opt("level", string, "info"))
async def getlog(call: Call) -> Result:
    """The log lines in memory, from a level up."""
    level = call["level"]
    if level not in LEVELS:
        raise RpcError(INVALID_PARAMS, f"level: should be a log level: invalid token '\"{level}\"'")
    book = call.node.log
    lines: list[dict[str, object]] = []
    skipped = 0
    for entry in book.entries:
        if entry.level < LEVELS[level]:
            skipped += 1
            continue
        if skipped:
            lines.append({"type": "SKIPPED", "num_skipped": skipped})
            skipped = 0
        line: dict[str, object] = {
            "type": level_name(entry.level),
            "time": f"{entry.time - book.created:.9f}",
            "source": entry.source,
            "log": entry.text,
        }
        if entry.node_id is not None:
            line["node_id"] = entry.node_id
        lines.append(line)
    if skipped:
        lines.append({"type": "SKIPPED", "num_skipped": skipped})
    return {
        "created_at": f"{book.created:.9f}",
        "bytes_used": book.bytes_used,
        "bytes_max": book.bytes_max,
        "log": lines,
    }
