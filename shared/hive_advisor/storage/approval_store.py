"""adv_approvals: what other nodes ask us to approve, and our votes."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping

from hive_shared.store import Tx

from hive_advisor.domain.approval_request import ApprovalRequest, Decision

_MAX_UNKNOWN = 20
_KEPT_S = 30 * 86_400


class ApprovalStore:
    """Approval requests. Methods join the caller's transaction."""

    def add(self, tx: Tx, request: ApprovalRequest) -> None:
        tx.execute(
            "INSERT INTO adv_approvals (approval_id, node_key, command_id, command_hash, envelope_json,"
            " danger, expires, state, created, agent_key) VALUES (?,?,?,?,?,?,?,'waiting',?,?)",
            (
                request.approval_id,
                request.node_key,
                request.command_id,
                request.command_hash,
                json.dumps(request.envelope),
                request.danger,
                request.expires,
                request.created,
                request.agent_key,
            ),
        )

    def drop_old(self, tx: Tx, now: int) -> None:
        """Forget what ended a month ago; of nodes we do not know, the newest stay."""
        tx.execute("DELETE FROM adv_approvals WHERE expires < ?", (now - _KEPT_S,))
        tx.execute(
            "DELETE FROM adv_approvals WHERE approval_id IN ("
            " SELECT approval_id FROM adv_approvals"
            " WHERE node_key NOT IN (SELECT node_key FROM adv_approvals WHERE decision IS NOT NULL)"
            " AND node_key NOT IN (SELECT node_key FROM adv_clients WHERE state <> 'offered')"
            " ORDER BY created DESC, rowid DESC LIMIT -1 OFFSET ?)",
            (_MAX_UNKNOWN,),
        )

    def waiting_of(self, tx: Tx, node_key: str) -> int:
        """How many requests of a node wait for our vote."""
        row = tx.execute(
            "SELECT count(*) AS n FROM adv_approvals WHERE node_key = ? AND state = 'waiting'", (node_key,)
        ).fetchone()
        return int(row["n"])

    def of_command(self, tx: Tx, node_key: str, command_id: str) -> ApprovalRequest | None:
        row = tx.execute(
            "SELECT * FROM adv_approvals WHERE node_key = ? AND command_id = ?", (node_key, command_id)
        ).fetchone()
        return _request(row) if row else None

    def of_vote(self, tx: Tx, node_key: str, nonce: int) -> ApprovalRequest | None:
        """The request whose vote has this nonce."""
        row = tx.execute(
            "SELECT * FROM adv_approvals WHERE node_key = ? AND vote_nonce = ?", (node_key, nonce)
        ).fetchone()
        return _request(row) if row else None

    def get(self, tx: Tx, approval_id: str) -> ApprovalRequest | None:
        row = tx.execute("SELECT * FROM adv_approvals WHERE approval_id = ?", (approval_id,)).fetchone()
        return _request(row) if row else None

    def find(self, tx: Tx, prefix: str) -> list[ApprovalRequest]:
        """Requests whose id starts with `prefix` (hex digits only); at most 3."""
        rows = tx.execute(
            "SELECT * FROM adv_approvals WHERE approval_id >= ? AND approval_id < ? LIMIT 3",
            (prefix, prefix + "g"),
        ).fetchall()
        return [_request(row) for row in rows]

    def listed(self, tx: Tx, since: int, limit: int) -> list[ApprovalRequest]:
        """Requests that expire after `since`, the most urgent first."""
        rows = tx.execute(
            "SELECT * FROM adv_approvals WHERE expires > ? ORDER BY expires, approval_id LIMIT ?",
            (since, limit),
        ).fetchall()
        return [_request(row) for row in rows]

    def unanswered(self, tx: Tx, now: int) -> list[ApprovalRequest]:
        """Votes without an answer whose bytes are still good."""
        rows = tx.execute(
            "SELECT * FROM adv_approvals WHERE state = 'sent' AND vote_died > ? ORDER BY vote_nonce", (now,)
        ).fetchall()
        return [_request(row) for row in rows]

    def voted_for(self, tx: Tx, node_key: str) -> bool:
        """Whether we ever voted on a command of this node."""
        return (
            tx.execute(
                "SELECT 1 FROM adv_approvals WHERE node_key = ? AND decision IS NOT NULL LIMIT 1", (node_key,)
            ).fetchone()
            is not None
        )

    def last_nonce(self, tx: Tx, node_key: str) -> int:
        """The highest nonce of our votes at a node; 0 without one."""
        row = tx.execute(
            "SELECT coalesce(max(vote_nonce), 0) AS n FROM adv_approvals WHERE node_key = ?", (node_key,)
        ).fetchone()
        return int(row["n"])

    def vote(
        self,
        tx: Tx,
        approval_id: str,
        decision: Decision,
        document: Mapping[str, object],
        *,
        nonce: int,
        died: int,
        now: int,
    ) -> bool:
        """Keep a signed vote; False when another decision, or an answer, was there before."""
        done = tx.execute(
            "UPDATE adv_approvals SET state = 'sent', decision = ?, vote_json = ?, vote_nonce = ?,"
            " vote_died = ?, slug = NULL, sentence = '', decided = ?"
            " WHERE approval_id = ?"
            " AND (state IN ('waiting', 'refused') OR (state = 'sent' AND decision = ?))",
            (decision, json.dumps(document), nonce, died, now, approval_id, decision),
        )
        return done.rowcount == 1

    def answered(self, tx: Tx, approval_id: str, counted: bool, slug: str | None, sentence: str) -> None:
        """What the node said of our vote; its first answer stays."""
        tx.execute(
            "UPDATE adv_approvals SET state = ?, slug = ?, sentence = ?"
            " WHERE approval_id = ? AND state = 'sent'",
            ("counted" if counted else "refused", slug, sentence, approval_id),
        )


def _request(row: sqlite3.Row) -> ApprovalRequest:
    return ApprovalRequest(
        approval_id=row["approval_id"],
        node_key=row["node_key"],
        command_id=row["command_id"],
        command_hash=row["command_hash"],
        envelope=json.loads(row["envelope_json"]),
        danger=row["danger"],
        expires=row["expires"],
        created=row["created"],
        state=row["state"],
        decision=row["decision"],
        vote=json.loads(row["vote_json"]) if row["vote_json"] else None,
        vote_nonce=row["vote_nonce"],
        vote_died=row["vote_died"],
        slug=row["slug"],
        sentence=row["sentence"],
        decided=row["decided"],
        agent_key=row["agent_key"],
    )
