"""What an operator says at the end of a trial, what the figures suggest, and the summary that is signed of it
(docs/protocol/02-fleet-management.md §10 "Period end", 04 §10 "Trial", 01 "Outcome guide")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from hive_shared.canonical import JsonValue
from hive_shared.receipts import merkle_root

from .advisor import DAY_S
from .trial import Outcome, Trial

VERDICTS: Final = ("renew", "revoke", "neutral")
DECIDE_WITHIN_S: Final = 7 * DAY_S
"""Who says nothing in so long has said neutral."""
SUMMARY_KIND: Final = 38385
_TOPIC: Final = "hive-advisor-reputation"
_FEES: Final = "monitor,fee-policy"


class Verdict(msgspec.Struct, frozen=True):
    """One row of marketplace_trial_verdicts. `by` is `operator` or `time`; `published` is `due`, `queued`
    (then `event_id` says which event) or the reason it is withheld for."""

    trial_id: str
    verdict: str
    by: str
    reason: str
    summary: Mapping[str, JsonValue]
    decided_at: int
    published: str
    event_id: str | None = None


def suggested(trial: Trial, evaluation: Mapping[str, Any]) -> tuple[str, str]:
    """What the figures speak for, and why. The operator decides."""
    if trial.outcome is Outcome.STOPPED:
        return "neutral", "it was stopped before its end"
    rows: Sequence[Mapping[str, Any]] = evaluation["criteria"]
    failed = [str(row["metric"]) for row in rows if row["result"] == "fail"]
    passed = [str(row["metric"]) for row in rows if row["result"] == "pass"]
    if not failed and len(passed) * 2 >= len(rows):
        return "renew", f"what was measured passed: {', '.join(passed)}"
    if trial.scope == _FEES and not evaluation["actions_taken"] and not evaluation["hours_heard"]:
        return "revoke", "it never did or said anything"
    if failed and not passed:
        return "revoke", f"everything that was measured failed: {', '.join(failed)}"
    why = f"failed: {', '.join(failed)}" if failed else "too little was measured"
    return "neutral", why


def summary_of(
    trial: Trial, verdict: str, node_key: str, hashes: Sequence[str], first_id: int, last_id: int
) -> dict[str, JsonValue]:
    """The summary: figures that were measured, the outcome, and the receipts that prove them."""
    evaluation: Mapping[str, Any] = trial.evaluation or {}
    figures = {name: evaluation.get(name) for name in ("revenue_delta_pct", "actions_taken", "uptime_pct")}
    metrics: dict[str, JsonValue] = {name: value for name, value in figures.items() if value is not None}
    unknown: list[JsonValue] = [name for name in sorted(figures) if figures[name] is None]
    response = evaluation.get("response_time_s")
    if isinstance(response, dict):
        metrics["response_time_ms"] = int(response["p95"]) * 1_000
    return {
        "v": 1,
        "type": "HiveAdvisorSummary",
        "domain": "hive:advisor",
        "issuer": f"did:nostr:{node_key}",
        "subject": trial.advisor_did,
        "period": {"start": trial.start_at, "end": trial.until},
        "metrics": {**metrics, "channels_managed": trial.baseline.channels},
        "not_measured": unknown,
        "outcome": verdict,
        "evidence": {
            "type": "receipt_root",
            "count": len(hashes),
            "first_id": first_id,
            "last_id": last_id,
            "merkle_root": merkle_root(hashes),
        },
    }


def event_tags(summary: Mapping[str, Any]) -> list[list[str]]:
    """Tags of the event that publishes a summary (04 §4.3)."""
    tags = [["d", str(summary["subject"])], ["t", _TOPIC], ["outcome", str(summary["outcome"])]]
    names = {"uptime_pct": "uptime", "revenue_delta_pct": "avg-revenue-delta-pct"}
    metrics = summary["metrics"]
    return tags + [[tag, str(metrics[name])] for name, tag in names.items() if name in metrics]
