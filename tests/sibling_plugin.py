#!/usr/bin/env python3
"""A sibling plugin for tests: it says hello as cl-hive does and notes every authenticated call.

Each call whose `auth` is right becomes a line of the file HIVE_SIBLING_FILE. `hive-probe-call` makes any
authenticated call to comms.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

from hive_shared.crypto import hkdf_sha256
from hive_shared.siblings_auth import SECRET_LABEL, SiblingAuth
from pyln.client import Plugin, RpcError

plugin = Plugin(dynamic=True)
_auth: list[SiblingAuth] = []


def auth() -> SiblingAuth:
    """This node's sibling key, asked for once."""
    if not _auth:
        secret = bytes.fromhex(plugin.rpc.call("makesecret", {"string": SECRET_LABEL})["secret"])
        _auth.append(SiblingAuth(hkdf_sha256(secret), lambda: int(time.time()), os.urandom))
    return _auth[0]


def note(method: str, params: dict[str, Any]) -> dict[str, Any]:
    """The call's parameters, verified and written down."""
    rest = auth().verify(method, params)
    with open(os.environ["HIVE_SIBLING_FILE"], "a") as file:
        file.write(json.dumps({"method": method, **rest}) + "\n")
    return rest


@plugin.method("hive-hello")
def hello(**params: Any) -> dict[str, Any]:
    """What cl-hive answers."""
    # pyln takes the parameter `plugin` for its own; only comms greets here.
    auth().verify("hive-hello", {**params, "plugin": "cl-hive-comms"})
    return {
        "plugin": "cl-hive",
        "version": "0.0.1",
        "proto": 1,
        "capabilities": [],
        "db_schema": 1,
        "state": "ready",
        "proof": auth().proof(params["nonce"]),
    }


@plugin.method("hive-probe-inbound")
def inbound(**params: Any) -> dict[str, Any]:
    """A handler of messages."""
    note("hive-probe-inbound", params)
    return {"result": "queued"}


@plugin.method("hive-probe-event")
def event(**params: Any) -> dict[str, Any]:
    """A receiver of events."""
    note("hive-probe-event", params)
    return {"result": "queued"}


@plugin.method("hive-probe-send")
def send(**params: Any) -> dict[str, Any]:
    """The send method of a transport."""
    note("hive-probe-send", params)
    return {"state": "sent"}


@plugin.method("hive-probe-call")
def call(method: str, params: dict[str, Any]) -> Any:
    """Call comms as a sibling does."""
    try:
        return {"result": plugin.rpc.call(method, auth().sign(method, params))}
    except RpcError as error:
        return {"error": error.error}


if __name__ == "__main__":
    plugin.run()
