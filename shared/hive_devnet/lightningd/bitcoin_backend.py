#!/usr/bin/env python3
"""CLN plugin that replaces `bcli`: Core Lightning's five backend methods over a `RegtestChain` file.

It speaks the plugin protocol directly and imports the standard library only, since every node of a network
starts it first and waits for it. Two commands of its own, `mine` and `faucet`, move the chain from any
node's RPC. lightningd treats an error answer to a backend method as fatal, so those methods never fail on
what the chain merely does not hold; they answer null, as CLN's contract for backends says.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # Python puts this file's own directory first, where `chain` would shadow nothing but confuse everything.
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from hive_devnet.lightningd.address import AddressError
from hive_devnet.lightningd.chain import ChainError, RegtestChain, TransactionRejected
from hive_devnet.lightningd.serialize import DecodeError

CHAIN_OPTION = "hive-chain"
OWNER_OPTION = "hive-owner"
INVALID_PARAMS = -32602
METHOD_NOT_FOUND = -32601
CHAIN_REFUSED = -1
FEERATE_FLOOR = 1_000
# Satoshis per 1000 virtual bytes for confirmation within that many blocks.
FEERATES = ((2, 4_000), (6, 3_000), (12, 2_000), (100, 1_000))

_METHODS: tuple[tuple[str, str, str], ...] = (
    ("getchaininfo", "last_height", "chain, header and block count of the development chain"),
    ("estimatefees", "", "fixed feerates of the development chain"),
    ("getrawblockbyheight", "height", "the block at a height, null above the tip"),
    ("getutxout", "txid vout", "an unspent output, null when spent or unknown"),
    ("sendrawtransaction", "tx [allowhighfees]", "put a transaction into the mempool"),
    ("mine", "[blocks]", "mine blocks on the development chain; returns the new height"),
    ("faucet", "address amount_sat", "pay a regtest address; the payment waits for the next block"),
)


class CommandError(Exception):
    """An RPC error to answer with."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def manifest() -> dict[str, object]:
    """Return the answer to `getmanifest`."""
    options = [
        {
            "name": CHAIN_OPTION,
            "type": "string",
            "description": "SQLite file of the development chain, made by the network",
        },
        {
            "name": OWNER_OPTION,
            "type": "int",
            "description": "process id of the network; the node ends when that process does",
        },
    ]
    methods = [{"name": name, "usage": usage, "description": text} for name, usage, text in _METHODS]
    return {"options": options, "rpcmethods": methods, "subscriptions": [], "hooks": [], "dynamic": False}


def _arguments(method: str, params: object) -> Mapping[str, Any]:
    """Return `params` by name; positional ones take the names of the method's usage line in order."""
    if isinstance(params, dict):
        return params
    usage = next(usage for name, usage, _ in _METHODS if name == method)
    names = [name.strip("[]") for name in usage.split()]
    if not isinstance(params, list) or len(params) > len(names):
        raise CommandError(INVALID_PARAMS, f"{method} takes at most these parameters: {' '.join(names)}")
    return dict(zip(names, params, strict=False))


def _integer(arguments: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = arguments.get(name, default)
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise CommandError(INVALID_PARAMS, f"{name}: should be a non-negative integer, not {value!r}")
    return value


def _text(arguments: Mapping[str, Any], name: str) -> str:
    value = arguments.get(name)
    if not isinstance(value, str):
        raise CommandError(INVALID_PARAMS, f"{name}: should be a string, not {value!r}")
    return value


class Backend:
    """The methods of one node over an open chain."""

    def __init__(self, chain: RegtestChain) -> None:
        self._chain = chain
        self._commands: dict[str, Callable[[Mapping[str, Any]], dict[str, object]]] = {
            "getchaininfo": self._getchaininfo,
            "estimatefees": self._estimatefees,
            "getrawblockbyheight": self._getrawblockbyheight,
            "getutxout": self._getutxout,
            "sendrawtransaction": self._sendrawtransaction,
            "mine": self._mine,
            "faucet": self._faucet,
        }

    def answer(self, method: str, params: object) -> dict[str, object]:
        """Run `method` and return its result; raises `CommandError` for what the caller got wrong."""
        command = self._commands.get(method)
        if command is None:
            raise CommandError(METHOD_NOT_FOUND, f"Unknown command '{method}'")
        try:
            return command(_arguments(method, params))
        except (ChainError, AddressError) as error:
            raise CommandError(CHAIN_REFUSED, str(error)) from None

    def _getchaininfo(self, _: Mapping[str, Any]) -> dict[str, object]:
        height = self._chain.height()
        return {"chain": "regtest", "headercount": height, "blockcount": height, "ibd": False}

    def _estimatefees(self, _: Mapping[str, Any]) -> dict[str, object]:
        rates = [{"blocks": blocks, "feerate": feerate} for blocks, feerate in FEERATES]
        return {"feerate_floor": FEERATE_FLOOR, "feerates": rates}

    def _getrawblockbyheight(self, arguments: Mapping[str, Any]) -> dict[str, object]:
        block = self._chain.block_at(_integer(arguments, "height"))
        if block is None:
            return {"blockhash": None, "block": None}
        return {"blockhash": block.hash, "block": block.raw.hex()}

    def _getutxout(self, arguments: Mapping[str, Any]) -> dict[str, object]:
        try:
            output = self._chain.unspent_output(_text(arguments, "txid"), _integer(arguments, "vout"))
        except DecodeError as error:
            raise CommandError(INVALID_PARAMS, f"txid: {error}") from None
        if output is None:
            return {"amount": None, "script": None}
        return {"amount": output.amount_sat, "script": output.script.hex()}

    def _sendrawtransaction(self, arguments: Mapping[str, Any]) -> dict[str, object]:
        try:
            self._chain.submit(bytes.fromhex(_text(arguments, "tx")))
        except (ValueError, TransactionRejected) as error:
            return {"success": False, "errmsg": str(error)}
        return {"success": True, "errmsg": ""}

    def _mine(self, arguments: Mapping[str, Any]) -> dict[str, object]:
        return {"blockheight": self._chain.mine(_integer(arguments, "blocks", 1))}

    def _faucet(self, arguments: Mapping[str, Any]) -> dict[str, object]:
        return {"txid": self._chain.faucet(_text(arguments, "address"), _integer(arguments, "amount_sat"))}


def read_requests(descriptor: int) -> Iterator[dict[str, Any]]:
    """Yield JSON objects from a file descriptor until it closes, however they are split or joined."""
    decoder = json.JSONDecoder()
    pending = b""
    while data := os.read(descriptor, 1 << 16):
        pending += data
        # CLN ends each message with an empty line, which its JSON never contains.
        *messages, pending = pending.split(b"\n\n")
        for message in messages:
            if message.strip():
                yield decoder.decode(message.decode())


def _reply(request: Mapping[str, Any], body: Mapping[str, object]) -> None:
    # A notification has no id and wants no answer.
    if "id" in request:
        text = json.dumps({"jsonrpc": "2.0", "id": request["id"], **body}, separators=(",", ":"))
        sys.stdout.write(text + "\n\n")
        sys.stdout.flush()


def _start(params: Mapping[str, Any]) -> tuple[Backend | None, dict[str, object]]:
    path = params["options"].get(CHAIN_OPTION)
    if not path:
        return None, {"disable": f"option {CHAIN_OPTION} is not set: it names the development chain's file"}
    try:
        return Backend(RegtestChain(Path(path))), {}
    except ChainError as error:
        return None, {"disable": str(error)}


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def main() -> None:
    """Serve lightningd on standard input and output until it closes them, or until the network's owner dies.

    lightningd polls every second and cannot live without its backend, so leaving takes the node along: a
    killed test run leaves no nodes behind.
    """
    backend: Backend | None = None
    owner: int | None = None
    for request in read_requests(sys.stdin.fileno()):
        if owner is not None and not _is_alive(owner):
            return
        method, params = request["method"], request.get("params", {})
        if method == "getmanifest":
            _reply(request, {"result": manifest()})
        elif method == "init":
            backend, result = _start(params)
            owner = params["options"].get(OWNER_OPTION)
            _reply(request, {"result": result})
        elif backend is not None:
            try:
                _reply(request, {"result": backend.answer(method, params)})
            except CommandError as error:
                _reply(request, {"error": {"code": error.code, "message": str(error)}})


if __name__ == "__main__":
    main()
