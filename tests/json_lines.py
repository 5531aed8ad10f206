"""Files to which another process adds a JSON text a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def lines_of(path: Path) -> list[Any]:
    """What its whole lines say; nothing before it is there. The last one may be half written just now."""
    *whole, _ = path.read_text().split("\n") if path.exists() else [""]
    return [json.loads(line) for line in whole]
