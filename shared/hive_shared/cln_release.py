"""CLN's version as a release that can be compared."""

from __future__ import annotations

import re


def release_of(version: str) -> tuple[int, int] | None:
    """Year and month of a CLN version such as `v25.09.1`; None for one we cannot read."""
    match = re.match(r"v?(\d+)\.(\d+)", version)
    return None if match is None else (int(match[1]), int(match[2]))
