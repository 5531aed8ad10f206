"""nodes.toml of a profile: the operator's own nodes (docs/protocol/11-advisor-kit.md §11.3, §13)."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

import msgspec
from hive_shared.errors import Conflict, InvalidParams, NotFound

from hive_advisor.domain.route import RestRoute, check_fingerprint, check_rest_url
from hive_advisor.private_files import read_private, replace_file

MAX_NODES: Final = 64
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SOCKET: Final = frozenset({"socket"})
_REST: Final = frozenset({"rest_url", "rune_file", "ca_cert", "tls_sha256"})
_HOW: Final = 'socket = "/path/to/lightning-rpc", or rest_url, rune_file and ca_cert or tls_sha256'


class OwnNode(msgspec.Struct, frozen=True):
    """One node of the operator: its RPC ``socket``, or clnrest and the file that holds its rune."""

    name: str
    socket: Path | None = None
    rest: RestRoute | None = None
    rune_file: Path | None = None

    @property
    def way(self) -> str:
        return "socket" if self.rest is None else "rest"


def load_nodes(path: Path) -> Mapping[str, OwnNode]:
    """The nodes by name, in the file's order. Files it names are relative to it.

    Raises NotFound without the file or any node in it, InvalidParams for bad TOML, an unknown key or a bad
    value.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFound(f"no nodes are set up: write {path} with [nodes.NAME] and {_HOW}") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidParams(f"{path} cannot be read as TOML: {error}") from error
    rows = document.pop("nodes", None)
    if document or not isinstance(rows, dict):
        raise InvalidParams(f"{path} holds sections [nodes.NAME] and nothing else")
    if not 0 < len(rows) <= MAX_NODES:
        raise NotFound(f"{path} names {len(rows)} nodes; 1 to {MAX_NODES} are taken")
    return {name: _node(path, name, row) for name, row in rows.items()}


def check_named(nodes: Collection[str], name: str) -> str:
    """The name, if a node is called so. Raises NotFound."""
    if name not in nodes:
        raise NotFound(f"no node is called {name[:64]!a}; nodes.toml has {', '.join(nodes)}")
    return name


def add_node(path: Path, name: str, row: Mapping[str, str]) -> OwnNode:
    """Write one more node into the file; what is there stays as it is, byte by byte.

    Raises Conflict for a name that is there, InvalidParams for a bad value or a file that is bad already.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if text.strip() and name in (known := load_nodes(path)):
        raise Conflict(f"{path} has a node {name!r} already ({known[name].way})")
    made = _node(path, name, dict(row))
    if made.rune_file is not None:
        read_rune(made)
    lines = [f"[nodes.{json.dumps(name)}]", *(f"{key} = {json.dumps(value)}" for key, value in row.items())]
    gap = "" if not text else "\n" if text.endswith("\n") else "\n\n"
    replace_file(path, (text + gap + "\n".join(lines) + "\n").encode())
    return load_nodes(path)[name]


def _node(path: Path, name: str, row: object) -> OwnNode:
    where = f"{path}: [nodes.{name}]"
    if not _NAME.fullmatch(name):
        raise InvalidParams(
            f"{path}: node name {name[:64]!a}: take letters, digits, dots, dashes, underscores"
        )
    if not isinstance(row, dict) or not all(isinstance(value, str) for value in row.values()):
        raise InvalidParams(f"{where} takes texts: {_HOW}")
    if unknown := set(row) - _SOCKET - _REST:
        raise InvalidParams(f"{where}: unknown key {min(unknown)!r}; known are {sorted(_SOCKET | _REST)}")
    if ("socket" in row) == ("rest_url" in row) or ("socket" in row and len(row) > 1):
        raise InvalidParams(f"{where} takes either {_HOW}")
    if "socket" in row:
        return OwnNode(name, socket=_file(path, row["socket"]))
    if "rune_file" not in row:
        raise InvalidParams(f"{where}: rune_file is missing; 'hive-advisor node rune' makes a rune")
    if {"ca_cert", "tls_sha256"} <= set(row):
        raise InvalidParams(f"{where}: give ca_cert or tls_sha256, not both")
    try:
        route = RestRoute(
            check_rest_url(row["rest_url"], allow_private=True),
            _certificate(where, _file(path, row["ca_cert"])) if "ca_cert" in row else None,
            check_fingerprint(row["tls_sha256"]) if "tls_sha256" in row else None,
            allow_private=True,
        )
    except InvalidParams as error:
        raise InvalidParams(f"{where}: {error.detail}") from error
    return OwnNode(name, rest=route, rune_file=_file(path, row["rune_file"]))


def _certificate(where: str, file: Path) -> str:
    try:
        text = file.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidParams(f"ca_cert {file} cannot be read: {error}") from error
    if "-----BEGIN CERTIFICATE" not in text:
        raise InvalidParams(f"ca_cert {file} holds no certificate (PEM)")
    return text


def _file(path: Path, text: str) -> Path:
    return path.parent / Path(text).expanduser()


def read_rune(node: OwnNode) -> str:
    """The rune of a REST node. Raises InvalidParams when its file is missing, readable by others, or no
    rune."""
    file = node.rune_file
    if file is None:
        raise InvalidParams(f"node {node.name} has no rune_file")
    return rune_in(file)


def rune_in(file: Path) -> str:
    """The rune in a file of mode 0600. Raises InvalidParams."""
    rune = read_private(file, "rune_file").strip()
    if not re.fullmatch(r"[A-Za-z0-9_=-]{40,8192}", rune):
        raise InvalidParams(f"{file} holds no rune")
    return rune
