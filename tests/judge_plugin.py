#!/usr/bin/env python3
"""A plugin for tests whose method `review-judge` says whether the work of a ticket's item was done.

The evidence says what it answers: `good` is the verdict, `fifo` a pipe that it reads to its end first, `odd`
an answer that is no verdict.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pyln.client import Plugin

plugin = Plugin(dynamic=True)


@plugin.method("review-judge")
def judge(ticket_id: str, item: int, evidence: dict[str, Any]) -> Any:
    """The verdict on an item."""
    if "fifo" in evidence:
        Path(evidence["fifo"]).read_text()
    if "odd" in evidence:
        return {"success": evidence["odd"]}
    seen = json.dumps([ticket_id, item, evidence], sort_keys=True).encode()
    return {"success": evidence["good"], "evidence_hash": "sha256:" + hashlib.sha256(seen).hexdigest()}


plugin.run()
