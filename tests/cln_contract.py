"""Pieces of the contract tests: CLN's schemas, nodes held to them, and a scripted plugin."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
from hive_devnet.node import DevnetRpcError, Network, NodeHandle
from json_lines import lines_of

_REPOSITORY = Path(__file__).resolve().parents[1]
_PROBE = Path(__file__).with_name("contract") / "probe_plugin.py"


def schema_directory() -> Path | None:
    named = os.environ.get("HIVE_CLN_SCHEMAS")
    found = Path(named) if named else _REPOSITORY.parent / "shared" / "data" / "cln-schemas"
    return found if found.is_dir() else None


def _is_int(low: int, high: int) -> Any:
    return lambda _, value: isinstance(value, int) and not isinstance(value, bool) and low <= value < high


def _is_hex(*lengths: int) -> Any:
    def check(_: Any, value: object) -> bool:
        if not isinstance(value, str) or len(value) % 2:
            return False
        return all(c in "0123456789abcdef" for c in value) and (not lengths or len(value) in lengths)

    return check


def _is_amount(_: Any, value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool) and value >= 0)


def _is_text(_: Any, value: object) -> bool:
    return isinstance(value, str)


_TYPES = {
    "u8": _is_int(0, 1 << 8),
    "u16": _is_int(0, 1 << 16),
    "u32": _is_int(0, 1 << 32),
    "u64": _is_int(0, 1 << 64),
    "s64": _is_int(-(1 << 63), 1 << 63),
    "msat": _is_int(0, 1 << 64),
    "sat": _is_int(0, 1 << 64),
    "hex": _is_hex(),
    "hash": _is_hex(64),
    "secret": _is_hex(64),
    "txid": _is_hex(64),
    "pubkey": _is_hex(66),
    "signature": _is_hex(),
    "bip340sig": _is_hex(128),
    "short_channel_id": _is_text,
    "short_channel_id_dir": _is_text,
    "outpoint": _is_text,
    "currency": _is_text,
    "outputdesc": lambda _, value: isinstance(value, dict),
}
_REQUEST_TYPES = {
    "currency": lambda _, value: isinstance(value, str) and value[-3:].isalpha() and value[-3:].isupper(),
    "msat": _is_amount,
    "msat_or_all": _is_amount,
    "msat_or_any": _is_amount,
    "sat": _is_amount,
    "sat_or_all": _is_amount,
    "feerate": _is_amount,
    "short_channel_id": _is_text,
}


def _validator(types: Mapping[str, Any]) -> Any:
    base = jsonschema.Draft7Validator
    checker = base.TYPE_CHECKER
    for name, check in types.items():
        checker = checker.redefine(name, check)
    return jsonschema.validators.extend(base, type_checker=checker)


class SchemaBook:
    """CLN's own JSON schemas of requests and responses."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._response = _validator(_TYPES)
        self._request = _validator(_TYPES | _REQUEST_TYPES)

    def knows(self, name: str) -> bool:
        return (self._directory / f"{name}.json").exists()

    def parameters(self, method: str) -> list[str]:
        return list(self._load(method)["request"].get("properties", {}))

    def required(self, method: str) -> list[str]:
        return list(self._load(method)["request"].get("required", []))

    def check_request(self, method: str, params: object) -> None:
        if isinstance(params, dict) and self.knows(method):
            self._check(self._request, self._load(method)["request"], params, f"request of {method}")

    def check_response(self, method: str, result: object) -> None:
        if self.knows(method):
            self._check(self._response, self._load(method)["response"], result, f"response of {method}")

    def check_notification(self, topic: str, payload: object) -> None:
        schema = self._load(f"notification/{topic}")["response"]
        self._check(self._response, schema, payload, f"notification {topic}")

    def check_hook(self, name: str, payload: object) -> None:
        schema = self._load(f"hook/{name}")["request"]
        self._check(self._response, schema, payload, f"payload of hook {name}")

    def _load(self, name: str) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self._directory / f"{name}.json").read_text())
        return loaded

    @staticmethod
    def _check(validator: Any, schema: dict[str, Any], value: object, what: str) -> None:
        errors = sorted(validator(schema).iter_errors(value), key=lambda error: list(error.absolute_path))
        shown = [f"{'/'.join(map(str, error.absolute_path))}: {error.message[:300]}" for error in errors]
        assert not shown, f"{what} breaks CLN's schema:\n" + "\n".join(shown)


@dataclass
class CheckedNode:
    """A node whose every good call is held to CLN's schemas."""

    handle: NodeHandle
    schemas: SchemaBook | None

    @property
    def id(self) -> str:
        return self.handle.node_id

    async def call(
        self, method: str, params: Mapping[str, object] | Sequence[object] | None = None, timeout: float = 60
    ) -> dict[str, Any]:
        if self.schemas is not None:
            self.schemas.check_request(method, params)
        result = await self.handle.call(method, params, timeout)
        if self.schemas is not None:
            self.schemas.check_response(method, result)
        return result

    async def error(
        self, method: str, params: Mapping[str, object] | Sequence[object] | None = None
    ) -> DevnetRpcError:
        try:
            result = await self.handle.call(method, params)
        except DevnetRpcError as error:
            return error
        raise AssertionError(f"{method} {params} did not fail but answered {result}")


@dataclass
class Trio:
    """alice --1,000,000 sat--> bob --2,000,000 sat--> carol."""

    network: Network
    alice: CheckedNode
    bob: CheckedNode
    carol: CheckedNode
    scid: str
    far_scid: str


class Probe:
    """A scripted plugin: declares what `manifest` says, answers as `answers` says, records what it gets."""

    def __init__(self, directory: Path, name: str, **script: Any) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.path = directory / name
        self.name = name
        text = _PROBE.read_text().split("\n", 1)[1]
        self.path.write_text(f"#!{sys.executable}\n{text}")
        self.path.chmod(self.path.stat().st_mode | stat.S_IXUSR)
        self._script = self.path.with_name(name + ".json")
        self._record = self.path.with_name(name + ".jsonl")
        self.set(**script)

    def set(self, **script: Any) -> None:
        self._script.write_text(json.dumps(script))

    def received(self, method: str | None = None) -> list[dict[str, Any]]:
        return [message for message in lines_of(self._record) if method in (None, message.get("method"))]
