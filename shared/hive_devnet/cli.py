"""`hive-cli NODE COMMAND key=value ...`: lightning-cli's manners for the nodes of a development network."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hive_devnet import rpc
from hive_devnet.node import DevnetRpcError

_EPILOG = "Arguments are given by position, or all as key=value; values that are JSON literals count as such."


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hive-cli", description=__doc__, epilog=_EPILOG)
    parser.add_argument(
        "--dir",
        type=Path,
        default=Path(os.environ.get("HIVE_DEVNET_DIR", ".devnet/net")),
        help="the network's directory (default: HIVE_DEVNET_DIR, else ./.devnet/net)",
    )
    style = parser.add_mutually_exclusive_group()
    style.add_argument("-k", "--keywords", action="store_true", help="every argument is key=value")
    style.add_argument("-o", "--order", action="store_true", help="every argument is positional")
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("-J", "--json", action="store_true", help="print JSON (the default for objects)")
    shape.add_argument("-R", "--raw", action="store_true", help="print JSON on one line")
    shape.add_argument("-H", "--human", action="store_true", help="print name=value lines")
    parser.add_argument("-F", "--flat", action="store_true", help="print flattened name=value lines")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds to wait for the answer")
    parser.add_argument("node", help="name of the node")
    parser.add_argument("command", help="RPC method")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its parameters")
    return parser


def literal(text: str) -> Any:
    """A command-line value: a JSON object, array, number, true, false or null, else the text itself.

    As in lightning-cli, numbers with leading zeros and the like stay text.
    """
    if text[:1] in ("{", "[", '"') or text in ("true", "false", "null"):
        try:
            return json.loads(text)
        except ValueError:
            return text
    number = text.removeprefix("-")
    if number.isascii() and number.replace(".", "", 1).isdigit() and not number.startswith("."):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def parameters(arguments: Sequence[str], keywords: bool = False, order: bool = False) -> Any:
    """Parameters of a call: an object when the arguments are key=value, else a list.

    The first argument decides unless `keywords` or `order` force it. Raises ValueError.
    """
    named = keywords or (not order and bool(arguments) and _is_named(arguments[0]))
    if not named:
        return [literal(argument) for argument in arguments]
    pairs: dict[str, Any] = {}
    for argument in arguments:
        name, separator, value = argument.partition("=")
        if not separator or not name:
            raise ValueError(f"expected key=value instead of '{argument}'")
        pairs[name] = literal(value)
    return pairs


def _is_named(argument: str) -> bool:
    name, separator, _ = argument.partition("=")
    return bool(separator) and bool(name) and all(c.isalnum() or c in "_-" for c in name)


def flattened(value: Any, prefix: str = "") -> list[str]:
    """`a.b[0].c=value` lines of a result."""
    if isinstance(value, dict):
        inner = [(f"{prefix}.{key}" if prefix else key, item) for key, item in value.items()]
    elif isinstance(value, list):
        inner = [(f"{prefix}[{index}]", item) for index, item in enumerate(value)]
    else:
        return [f"{prefix}={value if isinstance(value, str) else json.dumps(value)}"]
    return [line for name, item in inner for line in flattened(item, name)]


def render(result: Any, options: argparse.Namespace) -> str:
    """The answer as the flags ask for it."""
    if options.flat:
        return "\n".join(flattened(result))
    if options.raw:
        return json.dumps(result, separators=(",", ":"), ensure_ascii=False)
    simple = isinstance(result, dict) and result.get("format-hint") == "simple" and not options.json
    if options.human or simple:
        return "\n".join(_human(result))
    return json.dumps(result, indent=3, ensure_ascii=False)


def _human(result: Any, indent: str = "") -> list[str]:
    lines: list[str] = []
    for key, value in result.items() if isinstance(result, dict) else []:
        if key == "format-hint":
            continue
        if isinstance(value, dict):
            lines += [f"{indent}{key}:", *_human(value, indent + "  ")]
        elif isinstance(value, list):
            for item in value:
                lines += _human(item, indent) if isinstance(item, dict) else [f"{indent}{item}"]
                if isinstance(item, dict) and len(item) > 1:
                    lines.append("")
        else:
            lines.append(f"{indent}{value}" if key == "command" else f"{indent}{key}={value}")
    return lines


def socket_path(directory: Path, node: str) -> Path:
    """The RPC socket of a node, whichever driver runs it."""
    return directory / node / "regtest" / "lightning-rpc"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns 0, 1 when the node answers with an error, 2 when it cannot be reached."""
    options = _parser().parse_args(argv)
    try:
        params = parameters(options.arguments, options.keywords, options.order)
    except ValueError as error:
        print(f"hive-cli: {error}", file=sys.stderr)
        return 2
    path = socket_path(options.dir, options.node)
    try:
        result = asyncio.run(rpc.call(path, options.command, params, options.timeout))
    except DevnetRpcError as error:
        shown: dict[str, Any] = {"code": error.code, "message": error.message}
        if error.data is not None:
            shown["data"] = error.data
        print(json.dumps(shown, indent=3, ensure_ascii=False))
        return 1
    except (OSError, TimeoutError) as error:
        print(f"hive-cli: no answer from node {options.node!r} on {path}: {error!r}", file=sys.stderr)
        return 2
    print(render(result, options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
