"""Parameters of RPC commands: by position or by name, strict, with Core Lightning's own sentences."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hive_devnet.embedded.errors import INVALID_PARAMS, RpcError

Parser = Callable[[str, Any], Any]
_SCID = re.compile(r"^[0-9]+x[0-9]+x[0-9]+$")
_HEX = re.compile(r"^(?:[0-9a-fA-F]{2})*$")
_MSAT = re.compile(r"^([0-9]+)(?:\.([0-9]+))?(msat|sat|btc)?$")
_UNKNOWN_HINT = (
    ", this may be caused by a failure to autodetect key=value-style parameters."
    " Please try using the -k flag and explicit key=value pairs of parameters."
)


@dataclass(frozen=True)
class Param:
    """One parameter: its name, how it is parsed, and what it is when absent."""

    name: str
    parse: Parser
    required: bool = False
    default: Any = None


def req(name: str, parse: Parser) -> Param:
    """A required parameter."""
    return Param(name, parse, required=True)


def opt(name: str, parse: Parser, default: Any = None) -> Param:
    """An optional parameter."""
    return Param(name, parse, default=default)


def bad_param(name: str, problem: str, value: object) -> RpcError:
    """The error of a parameter that does not parse, worded as CLN in developer mode words it."""
    token = json.dumps(value, separators=(",", ":"))
    return RpcError(INVALID_PARAMS, f"{name}: {problem}: invalid token '{token}'")


def parse_params(specs: Sequence[Param], given: object, allow_extra: bool = False) -> dict[str, Any]:
    """Checks and parses `given` (list or object) against `specs`; a JSON null counts as absent."""
    if isinstance(given, list):
        parsed = _by_position(specs, given, allow_extra)
    elif isinstance(given, dict):
        parsed = _by_name(specs, given, allow_extra)
    else:
        raise RpcError(INVALID_PARAMS, "Expected array or object for params")
    for spec in specs:
        if spec.name not in parsed:
            if spec.required:
                raise RpcError(INVALID_PARAMS, f"missing required parameter: {spec.name}")
            parsed[spec.name] = spec.default
    return parsed


def _by_position(specs: Sequence[Param], given: list[Any], allow_extra: bool) -> dict[str, Any]:
    parsed = {
        spec.name: spec.parse(spec.name, value)
        for spec, value in zip(specs, given, strict=False)
        if value is not None
    }
    if len(given) > len(specs) and not allow_extra:
        raise RpcError(INVALID_PARAMS, f"too many parameters: got {len(given)}, expected {len(specs)}")
    return parsed


def _by_name(specs: Sequence[Param], given: dict[str, Any], allow_extra: bool) -> dict[str, Any]:
    known = {spec.name: spec for spec in specs}
    parsed: dict[str, Any] = {}
    for name, value in given.items():
        spec = known.get(name)
        if spec is None:
            if not allow_extra:
                raise RpcError(INVALID_PARAMS, f"unknown parameter: {name}{_UNKNOWN_HINT}")
        else:
            parsed[name] = spec.parse(name, value)
    return parsed


def usage(specs: Sequence[Param]) -> str:
    """The usage string `help` shows."""
    return " ".join(spec.name if spec.required else f"[{spec.name}]" for spec in specs)


def token_text(value: object) -> str:
    """A scalar as the text CLN's tokenizer would see."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def string(name: str, value: Any) -> str:
    """Any scalar; CLN reads numbers and literals as strings too."""
    if isinstance(value, dict | list):
        raise bad_param(name, "should be a string (without \\u)", value)
    return token_text(value)


def escaped_string(name: str, value: Any) -> str:
    """A JSON string and nothing else (CLN's param_escaped_string)."""
    if not isinstance(value, str):
        raise bad_param(name, "should be a string (without \\u)", value)
    return value


def raw_text(_name: str, value: Any) -> str:
    """The text of any token as it stands in the request, escapes and all (CLN's param_string).

    `a"b` becomes `a\\"b`, and an object becomes its JSON text: so a value that holds quotes has to be sent as
    an object, which is what lightning-cli does with words that start with a brace.
    """
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return text[1:-1] if isinstance(value, str) else text


def anything(_name: str, value: Any) -> Any:
    """Any JSON value, for the command to look at itself."""
    return value


def boolean(name: str, value: Any) -> bool:
    """true or false, unquoted."""
    if not isinstance(value, bool):
        raise bad_param(name, "should be 'true' or 'false'", value)
    return value


def _unsigned(bits: int, problem: str) -> Parser:
    def parse(name: str, value: Any) -> int:
        text = token_text(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
        if not text.isascii() or not text.isdigit() or int(text) >= 1 << bits:
            raise bad_param(name, problem, value)
        return int(text)

    return parse


number = _unsigned(32, "should be an integer")
u16 = _unsigned(16, "should be an unsigned 16 bit integer")
u32 = _unsigned(32, "should be an unsigned 32 bit integer")
u64 = _unsigned(64, "should be an unsigned 64 bit integer")


def s64(name: str, value: Any) -> int:
    """An integer of either sign."""
    text = token_text(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    if not re.fullmatch("-?[0-9]{1,19}", text) or not -(1 << 63) <= int(text) < 1 << 63:
        raise bad_param(name, "should be an sign 64 bit integer", value)
    return int(text)


def parse_msat(text: str) -> int | None:
    """Millisatoshi of "1000", "1000msat", "1sat", "0.00000001btc"; None if it is none of these."""
    match = _MSAT.match(text)
    if match is None:
        return None
    whole, fraction, unit = match.groups()
    if unit in (None, "msat"):
        return None if fraction is not None else int(whole)
    digits = 3 if unit == "sat" else 11
    if fraction is not None and len(fraction) > digits:
        return None
    return int(whole + (fraction or "").ljust(digits, "0"))


def msat(name: str, value: Any) -> int:
    """An amount in millisatoshi, as integer or with a unit."""
    amount = parse_msat(token_text(value)) if isinstance(value, int | str) else None
    if amount is None or isinstance(value, bool) or amount >= 1 << 64:
        raise bad_param(name, "should be a millisatoshi amount", value)
    return amount


def msat_u32(name: str, value: Any) -> int:
    """An amount in millisatoshi that fits in 32 bits."""
    amount = msat(name, value)
    if amount >= 1 << 32:
        raise bad_param(name, "exceeds u32 max", value)
    return amount


def msat_or(word: str) -> Parser:
    """A millisatoshi amount, or `word` itself."""

    def parse(name: str, value: Any) -> int | str:
        return word if value == word else msat(name, value)

    return parse


def sat(name: str, value: Any) -> int:
    """An amount in satoshi; a unit may be given, a plain number counts satoshi."""
    text = token_text(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    if text.isdigit():
        return int(text)
    amount = parse_msat(text)
    if amount is None or amount % 1000:
        raise bad_param(name, "should be a satoshi amount", value)
    return amount // 1000


def sat_or_all(name: str, value: Any) -> int | None:
    """An amount in satoshi, or None for the word "all"."""
    return None if value == "all" else sat(name, value)


def _hex(name: str, value: Any, problem: str, length: int | None = None) -> bytes:
    text = token_text(value) if isinstance(value, int | str) and not isinstance(value, bool) else "?"
    if not _HEX.match(text) or (length is not None and len(text) != 2 * length):
        raise bad_param(name, problem, value)
    return bytes.fromhex(text)


def hex_bytes(name: str, value: Any) -> bytes:
    """Any even number of hex digits."""
    return _hex(name, value, "should be a hex value")


def sha256(name: str, value: Any) -> str:
    """32 bytes as lowercase hex."""
    return _hex(name, value, "should be a 32 byte hex value", 32).hex()


def is_node_id(value: object) -> bool:
    """Whether `value` looks like a compressed public key in hex."""
    return isinstance(value, str) and re.fullmatch(r"0[23][0-9a-fA-F]{64}", value) is not None


def node_id(name: str, value: Any) -> str:
    """A node's public key, lowercase hex."""
    if not is_node_id(value):
        raise bad_param(name, "should be a node id", value)
    return str(value).lower()


def scid(name: str, value: Any) -> str:
    """A short channel id, NxNxN."""
    if not isinstance(value, str) or not _SCID.match(value):
        raise bad_param(name, "should be a short_channel_id of form NxNxN", value)
    return value


def is_scid(value: object) -> bool:
    """Whether `value` has the form NxNxN."""
    return isinstance(value, str) and _SCID.match(value) is not None


def array(name: str, value: Any) -> list[Any]:
    """A JSON array."""
    if not isinstance(value, list):
        raise bad_param(name, "should be an array", value)
    return value
