"""createrune, checkrune, showrunes, blacklistrune."""

from __future__ import annotations

import re
import time
from typing import Any

from hive_devnet.embedded.bolt11 import Bolt11Error, decode_invoice
from hive_devnet.embedded.errors import (
    INVALID_PARAMS,
    RUNE_BLACKLISTED,
    RUNE_NOT_AUTHORIZED,
    RUNE_NOT_PERMITTED,
    RpcError,
)
from hive_devnet.embedded.ledger.runes import MAX_BLACKLIST, RuneBook
from hive_devnet.embedded.node import EmbeddedNode
from hive_devnet.embedded.params import bad_param, boolean, node_id, opt, req, string, token_text, u64
from hive_devnet.embedded.registry import Call, Result, command
from hive_devnet.embedded.runes import (
    READONLY,
    Alternative,
    Restriction,
    Rune,
    RuneError,
    alternative_from_text,
    make_rune,
    parse_rune,
    restriction_english,
)

_UNRESTRICTED = (
    "WARNING: This rune has no restrictions! Anyone who has access to this rune could drain funds from your"
    " node. Be careful when giving this to apps that you don't trust. Consider using the restrictions"
    " parameter to only allow access to specific rpc methods."
)
_PER_UNITS = {
    "": 10**9,
    "sec": 10**9,
    "nsec": 1,
    "usec": 10**3,
    "msec": 10**6,
    "min": 60 * 10**9,
    "hour": 3600 * 10**9,
    "day": 86400 * 10**9,
}
_INVOICE_FIELDS = ("_amount", "_description", "_node")
_ENGLISH_PREFIXES = {
    "pname": "parameter ",
    "parr": "parameter #",
    "pnum": "number of parameters",
    "pinv": "invoice parameter ",
}


def _rune(name: str, value: Any) -> Rune:
    try:
        rune = parse_rune(token_text(value))
    except RuneError as error:
        raise bad_param(name, str(error), value) from error
    if rune.unique_id is None or not rune.unique_id.isdigit():
        raise bad_param(name, "should have valid numeric unique_id", value)
    return rune


def _restriction(name: str, value: Any) -> Restriction:
    try:
        if not isinstance(value, list):
            raise RuneError("not an array")
        return tuple(alternative_from_text(token_text(item)) for item in value)
    except RuneError as error:
        raise bad_param(name, "not a valid restriction (should be array)", value) from error


def _restrictions(name: str, value: Any) -> tuple[Restriction, ...]:
    if value == "readonly":
        return READONLY
    if isinstance(value, list):
        return tuple(_restriction(name, item) for item in value)
    return (_restriction(name, value),)


def _book(node: EmbeddedNode) -> RuneBook:
    return RuneBook(node.world.database, node.node_id)


def _is_ours(node: EmbeddedNode, rune: Rune) -> bool:
    return make_rune(node.keys.rune_secret(), rune.restrictions).code == rune.code


@command("createrune", opt("rune", _rune), opt("restrictions", _restrictions, ()))
async def createrune(call: Call) -> Result:
    """A new rune of this node, or one of its runes with further restrictions."""
    node, base = call.node, call["rune"]
    secret = node.keys.rune_secret()
    if base is not None:
        if not _is_ours(node, base):
            raise RpcError(INVALID_PARAMS, "rune: only runes of this node can be extended")
        rune = make_rune(secret, (*base.restrictions, *call["restrictions"]))
    else:
        book = _book(node)
        with node.world.database.transaction():
            unique_id = book.next_id()
            identity = (Alternative("", "=", str(unique_id)),)
            rune = make_rune(secret, (identity, *call["restrictions"]))
            book.add(unique_id, rune.encode())
    result = {"rune": rune.encode(), "unique_id": str(rune.unique_id)}
    if not rune.conditions:
        result["warning_unrestricted_rune"] = _UNRESTRICTED
    return result


@command("showrunes", opt("rune", _rune))
async def showrunes(call: Call) -> Result:
    """The runes this node made, or the one given."""
    book, wanted = _book(call.node), call["rune"]
    if wanted is not None:
        stored = book.get(int(wanted.unique_id))
        is_stored = stored is not None and stored["rune"] == wanted.encode()
        used = stored["last_used_ns"] if stored is not None else None
        return {"runes": [_describe(call.node, wanted, used, is_stored)]}
    shown = [_describe(call.node, parse_rune(row["rune"]), row["last_used_ns"], True) for row in book.all()]
    return {"runes": shown}


def _describe(node: EmbeddedNode, rune: Rune, last_used_ns: int | None, stored: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {"rune": rune.encode()}
    if not stored:
        entry["stored"] = False
    if _book(node).is_blacklisted(int(rune.unique_id or 0)):
        entry["blacklisted"] = True
    if not _is_ours(node, rune):
        entry["our_rune"] = False
    if last_used_ns is not None:
        entry["last_used"] = last_used_ns // 1000 / 1_000_000
    entry["unique_id"] = str(rune.unique_id)
    entry["restrictions"] = [
        {
            "alternatives": [
                {
                    "fieldname": alternative.field,
                    "value": alternative.value,
                    "condition": alternative.condition,
                    "english": alternative.english,
                }
                for alternative in restriction
            ],
            "english": restriction_english(restriction),
        }
        for restriction in rune.conditions
    ]
    entry["restrictions_as_english"] = rune.english
    return entry


@command("blacklistrune", opt("start", u64), opt("end", u64), opt("relist", boolean, False), checks=True)
async def blacklistrune(call: Call) -> Result:
    """Refuses (or with `relist` accepts again) the runes with ids start to end."""
    start, end = call["start"], call["end"]
    if end is not None and start is None:
        raise RpcError(INVALID_PARAMS, "Can not specify end without start")
    end = start if end is None else end
    if end is not None and end >= MAX_BLACKLIST:
        raise RpcError(INVALID_PARAMS, f"Cannot blacklist beyond {MAX_BLACKLIST}")
    book = _book(call.node)
    if start is not None and not call.check_only:
        if call["relist"]:
            book.relist(start, end)
        else:
            book.blacklist(range(start, end + 1))
    return {"blacklist": [{"start": first, "end": last} for first, last in book.ranges()]}


def _call_params(name: str, value: Any) -> Any:
    if not isinstance(value, dict | list):
        raise bad_param(name, "must be object or array", value)
    return value


@command(
    "checkrune",
    req("rune", _rune),
    opt("nodeid", node_id),
    opt("method", string),
    opt("params", _call_params),
)
async def checkrune(call: Call) -> Result:
    """Whether a rune permits a call; notes its use if so."""
    rune, book = call["rune"], _book(call.node)
    if book.is_blacklisted(int(rune.unique_id)):
        raise RpcError(RUNE_BLACKLISTED, "Not authorized: Blacklisted rune")
    if rune.version is not None:
        raise RpcError(RUNE_NOT_AUTHORIZED, "Not authorized: Version mismatch")
    if not _is_ours(call.node, rune):
        raise RpcError(RUNE_NOT_AUTHORIZED, "Not authorized: Not derived from master")
    check = _RuneCheck(rune, book, call)
    problem = rune.complaint(check)
    if problem is not None:
        for prefix, words in _ENGLISH_PREFIXES.items():
            if problem.startswith(prefix):
                problem = words + problem.removeprefix(prefix)
                break
        raise RpcError(RUNE_NOT_PERMITTED, f"Not permitted: {problem}")
    book.mark_used(int(rune.unique_id), check.now_ns)
    return {"valid": True}


class _RuneCheck:
    """Tests one alternative after the other against the call that asks for permission."""

    def __init__(self, rune: Rune, book: RuneBook, call: Call) -> None:
        self.now_ns = time.time_ns()
        self._rune = rune
        self._book = book
        self._peer = call["nodeid"]
        self._method = call["method"]
        self._params = call["params"]
        self._named = _named_parameters(call["params"])

    def __call__(self, alternative: Alternative) -> str | None:
        field = alternative.field
        if field == "time":
            return alternative.complaint(self.now_ns // 10**9)
        if field == "id":
            return alternative.complaint(self._peer)
        if field == "method":
            return alternative.complaint(self._method)
        if field == "pnum":
            return alternative.complaint(len(self._params or ()))
        if field == "rate":
            return self._rate(alternative)
        if field == "per":
            return self._per(alternative)
        if field.startswith("pinv"):
            return self._invoice(alternative)
        if field not in self._named:
            return alternative.complaint(None)
        value = self._named[field]
        if isinstance(value, int) and not isinstance(value, bool):
            return alternative.complaint(value)
        return alternative.complaint(token_text(value))

    def _too_soon(self, interval_ns: int) -> str | None:
        known = self._book.get(int(self._rune.unique_id or 0))
        if known is None or known["last_used_ns"] is None:
            return None
        return "too soon" if self.now_ns - min(known["last_used_ns"], self.now_ns) < interval_ns else None

    def _rate(self, alternative: Alternative) -> str | None:
        if alternative.condition != "=":
            return "rate operator must be ="
        if not alternative.value.isdigit() or not 0 < int(alternative.value) < (1 << 32) - 1:
            return "malformed rate"
        return self._too_soon(60 * 10**9 // int(alternative.value))

    def _per(self, alternative: Alternative) -> str | None:
        if alternative.condition != "=":
            return "per operator must be ="
        match = re.fullmatch(r"([0-9]+)(.*)", alternative.value)
        if match is None or not 0 < int(match[1]) < (1 << 32) - 1:
            return "malformed per"
        if match[2] not in _PER_UNITS:
            return "malformed suffix"
        return self._too_soon(int(match[1]) * _PER_UNITS[match[2]])

    def _invoice(self, alternative: Alternative) -> str | None:
        name = alternative.field.removeprefix("pinv")
        suffix = next((item for item in _INVOICE_FIELDS if name.endswith(item)), None)
        if suffix is None:
            return f"Unknown invoice field {name}"
        parameter = name.removesuffix(suffix)
        text = self._named.get(f"pname{parameter}")
        if text is None:
            return f"Unknown invoice parameter {parameter}"
        try:
            invoice = decode_invoice(str(text))
        except Bolt11Error as error:
            return f"Invalid invoice: {error}"
        values = {"_amount": invoice.amount_msat, "_description": invoice.description, "_node": invoice.payee}
        return alternative.complaint(values[suffix])


def _named_parameters(params: Any) -> dict[str, Any]:
    named: dict[str, Any] = {}
    if isinstance(params, list):
        return {f"parr{index}": value for index, value in enumerate(params)}
    for name, value in (params or {}).items():
        named.setdefault(f"pname{name}", value)
        named.setdefault("pname" + "".join(c for c in name if c.isalnum()), value)
    return named
