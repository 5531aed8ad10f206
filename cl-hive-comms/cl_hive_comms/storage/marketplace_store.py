"""Sole writer of marketplace_* (docs/protocol/04-marketplace-and-nostr.md §11): so far the trials."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any

from hive_shared.canonical import encode
from hive_shared.store import Tx

from cl_hive_comms.domain.trial import Baseline, Criterion, Outcome, Trial
from cl_hive_comms.domain.trial_verdict import Verdict


class MarketplaceStore:
    """Reads and writes trials."""

    def add_trial(self, tx: Tx, trial: Trial) -> None:
        """Insert a trial with its scopes."""
        tx.execute(
            "INSERT INTO marketplace_trials (trial_id, advisor_did, node_id, scope, sequence_number,"
            " flat_fee_sats, start_at, end_at, baseline_json, criteria_json, credential_id)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                trial.trial_id,
                trial.advisor_did,
                trial.node_id,
                trial.scope,
                trial.sequence_number,
                trial.flat_fee_sats,
                trial.start_at,
                trial.end_at,
                encode(trial.baseline.to_doc()).decode(),
                encode([each.to_doc() for each in trial.criteria]).decode(),
                trial.credential_id,
            ),
        )
        tx.executemany(
            "INSERT INTO marketplace_trial_scopes (trial_id, capability) VALUES (?, ?)",
            [(trial.trial_id, capability) for capability in trial.capabilities],
        )

    def count_trials(self, tx: Tx) -> int:
        """How many trials are kept."""
        (count,) = tx.execute("SELECT count(*) FROM marketplace_trials").fetchone()
        return int(count)

    def trials_since(self, tx: Tx, start_at: int) -> list[Trial]:
        """Trials that started after that moment or have no outcome yet, newest first."""
        return _trials(
            tx, tx.execute(f"{_SELECT} WHERE start_at > ? OR outcome IS NULL {_NEWEST}", (start_at,))
        )

    def newest_trials(self, tx: Tx, limit: int) -> list[Trial]:
        """The newest trials first."""
        return _trials(tx, tx.execute(f"{_SELECT} {_NEWEST} LIMIT ?", (limit,)))

    def trials_of(self, tx: Tx, advisor_did: str, limit: int) -> list[Trial]:
        """An advisor's trials, newest first."""
        return _trials(
            tx, tx.execute(f"{_SELECT} WHERE advisor_did = ? {_NEWEST} LIMIT ?", (advisor_did, limit))
        )

    # -- whole rows, for backups ---------------------------------------------------------------------

    def raw_trials(self, tx: Tx) -> Iterator[dict[str, object]]:
        """Every column of every trial, oldest first, with its scopes as `capabilities`."""
        for row in tx.execute("SELECT * FROM marketplace_trials ORDER BY start_at, trial_id").fetchall():
            scopes = tx.execute(
                "SELECT capability FROM marketplace_trial_scopes WHERE trial_id = ? ORDER BY capability",
                (row["trial_id"],),
            )
            yield {**dict(row), "capabilities": [str(scope["capability"]) for scope in scopes]}

    def put_raw_trial(self, tx: Tx, row: Mapping[str, Any]) -> bool:
        """Insert a trial; False when it, or one of its credential, stands here. Raises KeyError for a missing
        column."""
        done = tx.execute(
            f"INSERT OR IGNORE INTO marketplace_trials ({', '.join(_COLUMNS)})"
            f" VALUES ({', '.join('?' * len(_COLUMNS))})",
            [row[name] for name in _COLUMNS],
        )
        if done.rowcount != 1:
            return False
        tx.executemany(
            "INSERT INTO marketplace_trial_scopes (trial_id, capability) VALUES (?, ?)",
            [(row["trial_id"], str(capability)) for capability in row["capabilities"]],
        )
        return True

    def trial_of_credential(self, tx: Tx, credential_id: str) -> str | None:
        """The trial that a credential was issued for, by id."""
        row = tx.execute(
            "SELECT trial_id FROM marketplace_trials WHERE credential_id = ?", (credential_id,)
        ).fetchone()
        return None if row is None else str(row["trial_id"])

    def live_contract(self, tx: Tx, now: int) -> str | None:
        """A contract that binds this node at present, by id."""
        row = tx.execute(
            "SELECT contract_id FROM marketplace_trials"
            " WHERE contract_id IS NOT NULL AND outcome IS NULL AND end_at > ? LIMIT 1",
            (now,),
        ).fetchone()
        return None if row is None else str(row["contract_id"])

    def open_since(self, tx: Tx) -> int | None:
        """When the oldest trial began that has no review yet; None when there is none."""
        (start,) = tx.execute(
            "SELECT MIN(start_at) FROM marketplace_trials WHERE evaluation_json IS NULL"
        ).fetchone()
        return None if start is None else int(start)

    def unreviewed(self, tx: Tx, now: int, limit: int) -> list[Trial]:
        """Trials that are over, by their time or before it, and have no review yet."""
        rows = tx.execute(
            f"{_SELECT} WHERE evaluation_json IS NULL AND (end_at <= ? OR outcome IS NOT NULL)"
            " ORDER BY end_at LIMIT ?",
            (now, limit),
        )
        return _trials(tx, rows)

    def stop_trial(self, tx: Tx, credential_id: str, now: int) -> str | None:
        """End the running trial of a credential before its time; its id, None when there is none."""
        row = tx.execute(
            "UPDATE marketplace_trials SET outcome = ?, ended_at = ?"
            " WHERE credential_id = ? AND outcome IS NULL AND end_at > ? RETURNING trial_id",
            (Outcome.STOPPED, now, credential_id, now),
        ).fetchone()
        return None if row is None else str(row["trial_id"])

    def store_review(self, tx: Tx, trial: Trial, outcome: Outcome, evaluation: str) -> bool:
        """Store the review of a trial that is over; False when it has one. An outcome that is there stays."""
        return (
            tx.execute(
                "UPDATE marketplace_trials SET evaluation_json = ?, outcome = ifnull(outcome, ?),"
                " ended_at = ifnull(ended_at, end_at) WHERE trial_id = ? AND evaluation_json IS NULL",
                (evaluation, outcome, trial.trial_id),
            ).rowcount
            == 1
        )

    # -- verdicts ------------------------------------------------------------------------------------

    def verdict(self, tx: Tx, trial_id: str) -> Verdict | None:
        """What was said at the end of a trial."""
        row = tx.execute(
            "SELECT * FROM marketplace_trial_verdicts WHERE trial_id = ?", (trial_id,)
        ).fetchone()
        return None if row is None else _verdict(row)

    def add_verdict(self, tx: Tx, row: Verdict) -> bool:
        """Keep a verdict; False when there is one, which stays."""
        done = tx.execute(
            "INSERT OR IGNORE INTO marketplace_trial_verdicts (trial_id, verdict, decided_by, reason,"
            " summary_json, decided_at, published, event_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                row.trial_id,
                row.verdict,
                row.by,
                row.reason,
                encode(dict(row.summary)).decode(),
                row.decided_at,
                row.published,
                row.event_id,
            ),
        )
        return done.rowcount == 1

    def set_published(self, tx: Tx, trial_id: str, published: str, event_id: str | None) -> None:
        """Note what became of a summary."""
        tx.execute(
            "UPDATE marketplace_trial_verdicts SET published = ?, event_id = ? WHERE trial_id = ?",
            (published, event_id, trial_id),
        )

    def to_publish(self, tx: Tx, limit: int) -> list[Verdict]:
        """Verdicts whose summary is still to be published."""
        rows = tx.execute(
            "SELECT * FROM marketplace_trial_verdicts WHERE published = 'due' ORDER BY decided_at LIMIT ?",
            (limit,),
        )
        return [_verdict(row) for row in rows]

    def undecided(self, tx: Tx, ended_before: int, limit: int) -> list[Trial]:
        """Reviewed trials that ended by a time and have no verdict."""
        rows = tx.execute(
            f"{_SELECT} WHERE evaluation_json IS NOT NULL AND ended_at <= ? AND trial_id NOT IN"
            " (SELECT trial_id FROM marketplace_trial_verdicts) ORDER BY ended_at LIMIT ?",
            (ended_before, limit),
        )
        return _trials(tx, rows)


_COLUMNS = (
    *("trial_id", "contract_id", "advisor_did", "node_id", "scope", "sequence_number", "flat_fee_sats"),
    *("start_at", "end_at", "evaluation_json", "outcome", "ended_at", "baseline_json", "criteria_json"),
    *("payment_id", "credential_id"),
)
_SELECT = "SELECT * FROM marketplace_trials"
_NEWEST = "ORDER BY start_at DESC, trial_id"


def _trials(tx: Tx, rows: sqlite3.Cursor) -> list[Trial]:
    return [_trial(tx, row) for row in rows.fetchall()]


def _trial(tx: Tx, row: sqlite3.Row) -> Trial:
    scopes = tx.execute(
        "SELECT capability FROM marketplace_trial_scopes WHERE trial_id = ? ORDER BY capability",
        (row["trial_id"],),
    )
    return Trial(
        trial_id=row["trial_id"],
        advisor_did=row["advisor_did"],
        node_id=row["node_id"],
        scope=row["scope"],
        capabilities=tuple(str(each["capability"]) for each in scopes),
        sequence_number=row["sequence_number"],
        flat_fee_sats=row["flat_fee_sats"],
        start_at=row["start_at"],
        end_at=row["end_at"],
        credential_id=row["credential_id"],
        baseline=Baseline.from_doc(json.loads(row["baseline_json"])),
        criteria=tuple(Criterion(**each) for each in json.loads(row["criteria_json"])),
        outcome=None if row["outcome"] is None else Outcome(row["outcome"]),
        ended_at=row["ended_at"],
        evaluation=None if row["evaluation_json"] is None else json.loads(row["evaluation_json"]),
    )


def _verdict(row: sqlite3.Row) -> Verdict:
    return Verdict(
        trial_id=row["trial_id"],
        verdict=row["verdict"],
        by=row["decided_by"],
        reason=row["reason"],
        summary=json.loads(row["summary_json"]),
        decided_at=row["decided_at"],
        published=row["published"],
        event_id=row["event_id"],
    )
