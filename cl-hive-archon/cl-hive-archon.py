#!/usr/bin/env python3
"""cl-hive-archon: the executable that Core Lightning starts and reckless installs.

A missing dependency must not look like a crash: CLN then gets a manifest that disables the plugin with
the reason (docs/protocol/08-client-and-plugins.md §8.1).
"""

import gc
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))


def refuse(reason: str) -> None:
    """Answer CLN's first request (getmanifest) with the reason why this plugin cannot run."""
    text = ""
    for line in sys.stdin:
        text += line
        try:
            request = json.loads(text)
        except ValueError:
            continue
        manifest = {"options": [], "rpcmethods": [], "dynamic": True, "disable": reason}
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": manifest}) + "\n\n")
        sys.stdout.flush()
        return


if __name__ == "__main__":
    # What is imported stays: to look for garbage among it costs a fifth of the start, now and at every look.
    gc.disable()
    try:
        from cl_hive_archon.plugin import main
    except ImportError as missing:
        sentence = (
            f"cl-hive-archon needs {missing.name}: install requirements.txt into the Python that runs it"
        )
        if "LIGHTNINGD_PLUGIN" not in os.environ:
            sys.exit(sentence)
        refuse(sentence)
        sys.exit(0)
    gc.freeze()
    gc.enable()
    main()
