"""adv_snapshots, adv_decisions, adv_goals and adv_checkpoints: the journal."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from hive_shared.store import Tx

from hive_advisor.domain.journal import DAY_S, Decision, Goal, Judgement, Sample

_CHANNELS_KEPT_S = 45 * DAY_S
_TOTALS_KEPT_S = 365 * DAY_S


class JournalStore:
    """The journal of all clients. Methods join the caller's transaction."""

    def add_samples(self, tx: Tx, samples: Sequence[Sample]) -> None:
        """Keep what was measured; a moment that is here already stays as it is."""
        tx.executemany(
            "INSERT OR IGNORE INTO adv_snapshots (client_id, channel_id, at, channel, channels, local_msat,"
            " total_msat, sent_out, fees_day_msat) VALUES (?,?,?,?,?,?,?,?,?)",
            [
                (
                    s.client_id,
                    s.channel_id,
                    s.at,
                    s.channel,
                    s.channels,
                    s.local_msat,
                    s.total_msat,
                    s.sent_out,
                    s.fees_day_msat,
                )
                for s in samples
            ],
        )

    def drop_old(self, tx: Tx, client_id: str, now: int) -> None:
        """Forget a client's channels after 45 days, its sums after a year."""
        tx.execute(
            "DELETE FROM adv_snapshots WHERE client_id = ? AND at < ? AND (channel_id <> '' OR at < ?)",
            (client_id, now - _CHANNELS_KEPT_S, now - _TOTALS_KEPT_S),
        )

    def channels(self, tx: Tx, client_id: str, since: int) -> dict[str, list[Sample]]:
        """Samples by channel id, the oldest first."""
        found: dict[str, list[Sample]] = {}
        for row in tx.execute(
            "SELECT * FROM adv_snapshots WHERE client_id = ? AND channel_id <> '' AND at >= ? ORDER BY at",
            (client_id, since),
        ):
            found.setdefault(row["channel_id"], []).append(_sample(row))
        return found

    def totals(self, tx: Tx, client_id: str, since: int) -> list[Sample]:
        """The sums over all channels, the oldest first."""
        rows = tx.execute(
            "SELECT * FROM adv_snapshots WHERE client_id = ? AND channel_id = '' AND at >= ? ORDER BY at",
            (client_id, since),
        )
        return [_sample(row) for row in rows]

    def last(self, tx: Tx, client_id: str, with_fees: bool = False) -> int:
        """When a client was measured last, with its fees where asked; 0 when never."""
        row = tx.execute(
            "SELECT coalesce(max(at), 0) AS at FROM adv_snapshots WHERE client_id = ? AND channel_id = ''"
            " AND (NOT ? OR fees_day_msat IS NOT NULL)",
            (client_id, with_fees),
        ).fetchone()
        return int(row["at"])

    def add_decision(self, tx: Tx, decision: Decision) -> int:
        """Note a decision; its number. ``decision_id`` is ignored."""
        done = tx.execute(
            "INSERT INTO adv_decisions (client_id, kind, target, reasoning, confidence, predicted,"
            " command_id, origin, said, created, updated) VALUES (?,?,?,?,?,?,?,?,?,?,?)",
            (
                decision.client_id,
                decision.kind,
                decision.target,
                decision.reasoning,
                decision.confidence,
                decision.predicted,
                decision.command_id,
                decision.origin,
                decision.said,
                decision.created,
                decision.updated,
            ),
        )
        return int(done.lastrowid or 0)

    def merge_decision(self, tx: Tx, decision: Decision) -> None:
        """Put newer words in the place of those of an open decision."""
        tx.execute(
            "UPDATE adv_decisions SET reasoning = ?, confidence = ?, predicted = ?, command_id = ?, said = ?,"
            " updated = ? WHERE decision_id = ? AND outcome IS NULL",
            (
                decision.reasoning,
                decision.confidence,
                decision.predicted,
                decision.command_id,
                decision.said,
                decision.updated,
                decision.decision_id,
            ),
        )

    def decision(self, tx: Tx, decision_id: int) -> Decision | None:
        row = tx.execute("SELECT * FROM adv_decisions WHERE decision_id = ?", (decision_id,)).fetchone()
        return _decision(row) if row else None

    def decisions(
        self, tx: Tx, client_id: str | None, *, open_only: bool = False, since: int = 0, limit: int = 1_000
    ) -> list[Decision]:
        """Decisions noted at or after ``since``, the newest first."""
        rows = tx.execute(
            "SELECT * FROM adv_decisions WHERE (?1 IS NULL OR client_id = ?1) AND (NOT ?2 OR outcome IS NULL)"
            " AND created >= ?3 ORDER BY decision_id DESC LIMIT ?4",
            (client_id, open_only, since, limit),
        )
        return [_decision(row) for row in rows]

    def judged(self, tx: Tx, decision_id: int, judgement: Judgement, now: int) -> None:
        """An outcome is noted once."""
        tx.execute(
            "UPDATE adv_decisions SET outcome = ?, outcome_json = ?, outcome_at = ?"
            " WHERE decision_id = ? AND outcome IS NULL",
            (judgement.outcome, json.dumps(judgement.measured), now, decision_id),
        )

    def add_goal(self, tx: Tx, goal: Goal) -> int:
        """Set a goal; its number. ``goal_id`` is ignored."""
        done = tx.execute(
            "INSERT INTO adv_goals (client_id, metric, target, first_value, due, note, created)"
            " VALUES (?,?,?,?,?,?,?)",
            (
                goal.client_id,
                goal.metric,
                goal.target,
                goal.first_value,
                goal.due,
                goal.note,
                goal.created,
            ),
        )
        return int(done.lastrowid or 0)

    def goals(self, tx: Tx, client_id: str | None, open_only: bool = False) -> list[Goal]:
        """Goals, the first that are due first."""
        rows = tx.execute(
            "SELECT * FROM adv_goals WHERE (?1 IS NULL OR client_id = ?1) AND (NOT ?2 OR closed IS NULL)"
            " ORDER BY due, goal_id",
            (client_id, open_only),
        )
        return [
            Goal(
                row["goal_id"],
                row["client_id"],
                row["metric"],
                row["target"],
                row["first_value"],
                row["due"],
                row["note"],
                row["created"],
                row["closed"],
            )
            for row in rows
        ]

    def close_goal(self, tx: Tx, goal_id: int, now: int) -> bool:
        """False when there is no such open goal."""
        done = tx.execute(
            "UPDATE adv_goals SET closed = ? WHERE goal_id = ? AND closed IS NULL", (now, goal_id)
        )
        return done.rowcount == 1

    def checkpoint(self, tx: Tx, goal_id: int, day: int, value: int) -> None:
        """The figure of a day; the last of the day stays. The first ever is what the goal began with."""
        tx.execute(
            "INSERT INTO adv_checkpoints (goal_id, day, value) VALUES (?,?,?)"
            " ON CONFLICT (goal_id, day) DO UPDATE SET value = excluded.value",
            (goal_id, day, value),
        )
        tx.execute(
            "UPDATE adv_goals SET first_value = ? WHERE goal_id = ? AND first_value IS NULL",
            (value, goal_id),
        )

    def checkpoints(self, tx: Tx, goal_id: int) -> list[tuple[int, int]]:
        """Day and figure, the oldest first."""
        rows = tx.execute("SELECT day, value FROM adv_checkpoints WHERE goal_id = ? ORDER BY day", (goal_id,))
        return [(row["day"], row["value"]) for row in rows]

    def forget(self, tx: Tx, client_id: str) -> int:
        """Erase what is kept of a client; how many rows."""
        gone = tx.execute("DELETE FROM adv_snapshots WHERE client_id = ?", (client_id,)).rowcount
        gone += tx.execute("DELETE FROM adv_decisions WHERE client_id = ?", (client_id,)).rowcount
        return int(gone + tx.execute("DELETE FROM adv_goals WHERE client_id = ?", (client_id,)).rowcount)


def _sample(row: sqlite3.Row) -> Sample:
    return Sample(
        row["client_id"],
        row["channel_id"],
        row["at"],
        row["channel"],
        row["channels"],
        row["local_msat"],
        row["total_msat"],
        row["sent_out"],
        row["fees_day_msat"],
    )


def _decision(row: sqlite3.Row) -> Decision:
    return Decision(
        row["decision_id"],
        row["client_id"],
        row["kind"],
        row["target"],
        row["reasoning"],
        row["confidence"],
        row["predicted"],
        row["command_id"],
        row["origin"],
        row["said"],
        row["created"],
        row["updated"],
        row["outcome"],
        None if row["outcome_json"] is None else json.loads(row["outcome_json"]),
        row["outcome_at"],
    )
