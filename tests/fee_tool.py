#!/usr/bin/env python3
"""A fee tool of a third party with the call `revenue-config`, for tests: parameters that can be read and set
while it runs. It answers {"error": ..} instead of failing, as cl-revenue-ops does. Run as a plugin, it keeps
its values in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DEFAULTS: dict[str, int | float] = {
    "min_fee_ppm": 10,
    "max_fee_ppm": 5_000,
    "daily_budget_sats": 5_000,
    "rebalance_min_amount": 50_000,
    "low_liquidity_threshold": 0.3,
    "kelly_fraction": 0.5,
    "rebalance_cooldown_hours": 24,
}


class FeeTool:
    """The tool's values and its one call. `sets` counts the changes it made."""

    def __init__(self) -> None:
        self.values = dict(DEFAULTS)
        self.sets = 0
        self.refuses: str | None = None

    def __call__(self, params: Mapping[str, object]) -> dict[str, Any]:
        action, key = params["action"], str(params.get("key", ""))
        if action == "list-mutable":
            return {"mutable_keys": sorted(self.values), "count": len(self.values)}
        if action == "get" and not key:
            return {"config": {**self.values, "db_path": "/srv/op/revenue_ops.db"}, "version": self.sets}
        if key not in self.values:
            return {"error": f"Unknown config key: {key}"}
        if action == "get":
            return {"key": key, "value": self.values[key], "version": self.sets}
        if self.refuses is not None:
            return {"error": self.refuses}
        old, kind = self.values[key], type(self.values[key])
        self.values[key] = kind(str(params["value"]))
        self.sets += 1
        return {
            "status": "success",
            "key": key,
            "old_value": old,
            "new_value": self.values[key],
            "version": self.sets,
        }


def main() -> None:
    """Serve the call on a node."""
    from pyln.client import Plugin

    plugin, tool = Plugin(dynamic=True), FeeTool()

    @plugin.method("revenue-config")
    def revenue_config(action: str, key: str = "", value: str = "") -> dict[str, Any]:
        """Read or set a parameter."""
        return tool({"action": action, "key": key, "value": value})

    plugin.run()


if __name__ == "__main__":
    main()
