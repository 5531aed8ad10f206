"""Terms of an engagement for tests."""

from __future__ import annotations

from typing import Any


def terms(**parts: Any) -> dict[str, Any]:
    """Terms that hold, 5,000 sat a month and no trial; `parts` replace whole sections."""
    return {
        "scope": {
            "capabilities": ["fee-optimization"],
            "schemas": ["hive:monitor/*", "hive:fee-policy/*"],
            "permissionTier": "standard",
            "constraints": {"max_fee_change_pct": 50, "max_daily_actions": 100},
        },
        "compensation": {
            "model": "per_action",
            "perActionSats": 32,
            "acceptedMethods": ["cashu", "bolt11"],
        },
        "sla": {"responseTimeMinutes": 10, "uptimePct": 99.5, "reportingFrequency": "weekly"},
        "duration": {"trialDays": 0, "fullTermDays": 90, "noticePeriodDays": 7, "autoRenew": False},
        "nodeInfo": {"nodeCount": 1, "totalCapacitySats": 134_000_000, "channelCount": 45},
        **parts,
    }
