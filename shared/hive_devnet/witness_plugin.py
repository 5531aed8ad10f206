#!/usr/bin/env python3
"""A plugin that watches: every call of the named RPC commands becomes a line of the file HIVE_WITNESS_FILE.

Tests and the demo count with it what a node was really asked to do, whoever asked.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

from pyln.client import Plugin

plugin = Plugin(dynamic=True)
_WATCHED = {"setchannel", "pay", "xpay", "withdraw", "fundchannel", "close"}


@plugin.hook("rpc_command")  # type: ignore[untyped-decorator]
def on_rpc_command(rpc_command: dict[str, Any], **_: object) -> dict[str, str]:
    """Note the call, let it go on."""
    if rpc_command.get("method") in _WATCHED:
        line = {"method": rpc_command["method"], "params": rpc_command.get("params"), "at": time.time()}
        with open(os.environ["HIVE_WITNESS_FILE"], "a") as file:
            file.write(json.dumps(line) + "\n")
    return {"result": "continue"}


if __name__ == "__main__":
    plugin.run()
