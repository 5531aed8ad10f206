"""datastore, listdatastore, deldatastore, datastoreusage."""

from __future__ import annotations

import json
from typing import Any

from hive_devnet.embedded.errors import (
    DATASTORE_DEL_DOES_NOT_EXIST,
    DATASTORE_DEL_WRONG_GENERATION,
    DATASTORE_UPDATE_ALREADY_EXISTS,
    DATASTORE_UPDATE_DOES_NOT_EXIST,
    DATASTORE_UPDATE_HAS_CHILDREN,
    DATASTORE_UPDATE_NO_CHILDREN,
    DATASTORE_UPDATE_WRONG_GENERATION,
    INVALID_PARAMS,
    RpcError,
)
from hive_devnet.embedded.node import EmbeddedNode
from hive_devnet.embedded.params import bad_param, escaped_string, hex_bytes, opt, req, token_text, u64
from hive_devnet.embedded.registry import Call, Result, command

Key = tuple[str, ...]
_MODES = ("must-create", "must-replace", "create-or-replace", "must-append", "create-or-append")


def _key(name: str, value: Any) -> Key:
    if isinstance(value, list):
        if not value:
            raise bad_param(name, "should not be empty", value)
        for item in value:
            if isinstance(item, dict | list):
                raise bad_param(name, "should be string", item)
        return tuple(token_text(item) for item in value)
    if isinstance(value, dict):
        raise bad_param(name, "should be string or array", value)
    return (token_text(value),)


def _mode(name: str, value: Any) -> str:
    if value not in _MODES:
        words = "should be " + ", ".join(f"'{mode}'" for mode in _MODES[:-1]) + f", or '{_MODES[-1]}'"
        raise bad_param(name, words, value)
    return str(value)


def _stored(key: Key) -> str:
    return json.dumps(key, separators=(",", ":"), ensure_ascii=False)


def _entries(node: EmbeddedNode) -> dict[Key, tuple[bytes, int]]:
    rows = node.world.database.rows(
        "SELECT key, data, generation FROM datastore WHERE node_id = ?", (node.node_id,)
    )
    found = {tuple(json.loads(row["key"])): (bytes(row["data"]), int(row["generation"])) for row in rows}
    return dict(sorted(found.items()))


def _get(node: EmbeddedNode, key: Key) -> tuple[bytes, int] | None:
    row = node.world.database.find(
        "SELECT data, generation FROM datastore WHERE node_id = ? AND key = ?", (node.node_id, _stored(key))
    )
    return None if row is None else (bytes(row["data"]), int(row["generation"]))


def _show(key: Key, data: bytes, generation: int) -> dict[str, Any]:
    shown: dict[str, Any] = {"key": list(key), "generation": generation, "hex": data.hex()}
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return shown
    if "\0" not in text:
        shown["string"] = text
    return shown


@command(
    "datastore",
    req("key", _key),
    opt("string", escaped_string),
    opt("hex", hex_bytes),
    opt("mode", _mode, "must-create"),
    opt("generation", u64),
    checks=True,
)
async def datastore(call: Call) -> Result:
    """Stores bytes under a key path."""
    node, key, mode = call.node, call["key"], call["mode"]
    data = _data(call)
    if call["generation"] is not None and mode not in ("must-replace", "must-append"):
        raise RpcError(INVALID_PARAMS, "generation only valid with must-replace or must-append")
    before = _get(node, key)
    others = _entries(node) if before is None else {}
    if any(other[: len(key)] == key for other in others):
        raise RpcError(DATASTORE_UPDATE_HAS_CHILDREN, "Key has children already")
    for length in range(1, len(key)):
        if key[:length] in others:
            shown = ",".join(key[:length])
            raise RpcError(DATASTORE_UPDATE_NO_CHILDREN, f"Parent key [{shown}] exists")
    if mode == "must-create" and before is not None:
        raise RpcError(DATASTORE_UPDATE_ALREADY_EXISTS, "Key already exists")
    if mode.startswith("must-") and mode != "must-create" and before is None:
        raise RpcError(DATASTORE_UPDATE_DOES_NOT_EXIST, "Key does not exist")
    if call["generation"] is not None and before is not None and before[1] != call["generation"]:
        raise RpcError(DATASTORE_UPDATE_WRONG_GENERATION, "generation is different")
    if call.check_only:
        return {}
    generation = before[1] + 1 if before is not None else 0
    if mode.endswith("append") and before is not None:
        data = before[0] + data
    with node.world.database.transaction():
        node.world.database.run(
            "INSERT INTO datastore VALUES (?, ?, ?, ?) ON CONFLICT (node_id, key)"
            " DO UPDATE SET data = excluded.data, generation = excluded.generation",
            (node.node_id, _stored(key), data, generation),
        )
    return _show(key, data, generation)


def _data(call: Call) -> bytes:
    text, raw = call["string"], call["hex"]
    if text is not None and raw is not None:
        raise RpcError(INVALID_PARAMS, "Cannot have both hex and string")
    if text is None and raw is None:
        raise RpcError(INVALID_PARAMS, "Must have either hex or string")
    return text.encode() if text is not None else bytes(raw)


@command("listdatastore", opt("key", _key))
async def listdatastore(call: Call) -> Result:
    """The entry at a key, or the keys just below it (a child with children shows its key only)."""
    parent: Key = call["key"] or ()
    entries = _entries(call.node)
    if parent in entries:
        return {"datastore": [_show(parent, *entries[parent])]}
    shown: dict[Key, dict[str, Any]] = {}
    for key, entry in entries.items():
        if key[: len(parent)] != parent:
            continue
        child = key[: len(parent) + 1]
        if child == key:
            shown[child] = _show(key, *entry)
        else:
            shown.setdefault(child, {"key": list(child)})
    return {"datastore": list(shown.values())}


@command("datastoreusage", opt("key", _key, ()))
async def datastoreusage(call: Call) -> Result:
    """Bytes that the entries at and below a key take: key parts, data, generation."""
    parent: Key = call["key"]
    parent = () if parent[:1] == ("",) else parent
    total = 0
    for key, (data, _generation) in _entries(call.node).items():
        if key[: len(parent)] == parent:
            total += sum(len(part.encode()) for part in key) + len(key) - 1 + len(data)
    return {"datastoreusage": {"key": f"[{','.join(parent)}]", "total_bytes": total}}


@command("deldatastore", req("key", _key), opt("generation", u64), checks=True)
async def deldatastore(call: Call) -> Result:
    """Removes an entry and returns it."""
    entry = _get(call.node, call["key"])
    if entry is None:
        raise RpcError(DATASTORE_DEL_DOES_NOT_EXIST, "Key does not exist")
    if call["generation"] is not None and entry[1] != call["generation"]:
        raise RpcError(DATASTORE_DEL_WRONG_GENERATION, "generation is different")
    if call.check_only:
        return {}
    with call.node.world.database.transaction():
        call.node.world.database.run(
            "DELETE FROM datastore WHERE node_id = ? AND key = ?", (call.node.node_id, _stored(call["key"]))
        )
    return _show(call["key"], *entry)
