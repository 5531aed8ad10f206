"""adv_commands (docs/protocol/11-advisor-kit.md §12)."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from typing import Any

from hive_shared.crypto import Sealer
from hive_shared.store import Tx

from hive_advisor.domain.command_machine import FINAL, CommandState
from hive_advisor.domain.rows import StoredCommand, StoredCredential

# A draft asks for nothing yet.
_OPEN = tuple(str(state) for state in CommandState if state not in FINAL and state != CommandState.DRAFT)
_OPEN_MARKS = ",".join("?" * len(_OPEN))


class CommandStore:
    """Commands with the one envelope each has. The preimage in an answer is sealed. Methods join the caller's
    transaction."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def add(self, tx: Tx, command: StoredCommand) -> None:
        unsigned = not command.envelope
        tx.execute(
            "INSERT INTO adv_commands (command_id, client_id, credential_id, schema, action, params_json,"
            " danger_json, origin, note, nonce, timestamp, command_hash, envelope_json, state, retry_of,"
            " next_send, deadline, created, updated, confirmed_danger, plan_hash, expected_root, passed,"
            " retry_until, payment_json) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                command.command_id,
                command.client_id,
                command.credential_id,
                command.schema,
                command.action,
                json.dumps(command.params),
                json.dumps(command.danger),
                command.origin,
                command.note,
                None if unsigned else command.nonce,
                None if unsigned else command.timestamp,
                command.command_hash,
                None if unsigned else json.dumps(command.envelope),
                str(command.state),
                command.retry_of,
                command.next_send,
                command.deadline,
                command.created,
                command.updated,
                command.confirmed_danger,
                command.plan_hash,
                command.expected_root,
                command.passed,
                command.retry_until,
                None if command.payment is None else json.dumps(command.payment),
            ),
        )

    def commit(self, tx: Tx, command: StoredCommand) -> None:
        """Keep what a draft or held command became: its envelope, or the state it waits in."""
        signed = bool(command.envelope)
        tx.execute(
            "UPDATE adv_commands SET state = ?, nonce = ?, timestamp = ?, command_hash = ?,"
            " envelope_json = ?, next_send = ?, deadline = ?, confirmed_danger = ?, passed = ?, created = ?,"
            " updated = ?"
            " WHERE command_id = ? AND state IN ('draft', 'held', 'ready')",
            (
                str(command.state),
                command.nonce if signed else None,
                command.timestamp if signed else None,
                command.command_hash,
                json.dumps(command.envelope) if signed else None,
                command.next_send,
                command.deadline,
                command.confirmed_danger,
                command.passed,
                command.created,
                command.updated,
                command.command_id,
            ),
        )

    def get(self, tx: Tx, command_id: str) -> StoredCommand | None:
        row = tx.execute("SELECT * FROM adv_commands WHERE command_id = ?", (command_id,)).fetchone()
        return self._command(row) if row else None

    def retried_by(self, tx: Tx, command_id: str) -> StoredCommand | None:
        """What was planned anew instead of a command."""
        row = tx.execute("SELECT * FROM adv_commands WHERE retry_of = ? LIMIT 1", (command_id,)).fetchone()
        return self._command(row) if row else None

    def by_nonce(self, tx: Tx, client_id: str, nonce: int) -> StoredCommand | None:
        row = tx.execute(
            "SELECT * FROM adv_commands WHERE client_id = ? AND nonce = ?", (client_id, nonce)
        ).fetchone()
        return self._command(row) if row else None

    def find(self, tx: Tx, prefix: str) -> list[StoredCommand]:
        """Commands whose id starts with ``prefix`` (hex digits and dashes only; at most 3 rows)."""
        rows = tx.execute(
            "SELECT * FROM adv_commands WHERE command_id >= ? AND command_id < ? LIMIT 3",
            (prefix, prefix + "~"),
        ).fetchall()
        return [self._command(row) for row in rows]

    def listed(self, tx: Tx, client_id: str | None, state: str | None, limit: int) -> list[StoredCommand]:
        """The newest first; answers to pings, hundreds a day, are not among them."""
        where, args = ["action <> 'ping_ack'"], []
        if client_id is not None:
            where.append("client_id = ?")
            args.append(client_id)
        if state is not None:
            where.append("state = ?")
            args.append(state)
        rows = tx.execute(
            f"SELECT * FROM adv_commands WHERE {' AND '.join(where)}"
            " ORDER BY created DESC, nonce DESC LIMIT ?",
            (*args, limit),
        ).fetchall()
        return [self._command(row) for row in rows]

    def writes_since(self, tx: Tx, client_id: str, since: int) -> list[StoredCommand]:
        """What was asked of a node since then, reads and the kit's own questions apart."""
        rows = tx.execute(
            "SELECT * FROM adv_commands WHERE client_id = ? AND created >= ?"
            " AND schema NOT IN ('hive:control/v1', 'hive:monitor/v1')",
            (client_id, since),
        ).fetchall()
        return [self._command(row) for row in rows]

    def newest_under(self, tx: Tx, credential: StoredCredential, action: str) -> StoredCommand | None:
        """The newest command of this name under a credential."""
        row = tx.execute(
            "SELECT * FROM adv_commands WHERE client_id = ? AND created >= ? AND credential_id = ?"
            " AND action = ? ORDER BY created DESC LIMIT 1",
            (credential.client_id, credential.created, credential.credential_id, action),
        ).fetchone()
        return None if row is None else self._command(row)

    def open(self, tx: Tx) -> list[StoredCommand]:
        """Every command that is neither a draft nor final, oldest nonce first."""
        rows = tx.execute(
            f"SELECT * FROM adv_commands WHERE state IN ({_OPEN_MARKS}) ORDER BY client_id, nonce", _OPEN
        ).fetchall()
        return [self._command(row) for row in rows]

    def same_open(
        self, tx: Tx, client_id: str, schema: str, action: str, params_json: str
    ) -> StoredCommand | None:
        """An open command that asks for exactly the same."""
        row = tx.execute(
            "SELECT * FROM adv_commands WHERE client_id = ? AND schema = ? AND action = ? AND params_json = ?"
            f" AND state IN ({_OPEN_MARKS}) LIMIT 1",
            (client_id, schema, action, params_json, *_OPEN),
        ).fetchone()
        return self._command(row) if row else None

    def move(self, tx: Tx, command: StoredCommand, to: CommandState, now: int) -> bool:
        """Old state in the WHERE: False when somebody else moved it first."""
        done = tx.execute(
            "UPDATE adv_commands SET state = ?, updated = ? WHERE command_id = ? AND state = ?",
            (str(to), now, command.command_id, str(command.state)),
        )
        return done.rowcount == 1

    def note_send(self, tx: Tx, command_id: str, next_send: int | None, now: int) -> None:
        tx.execute(
            "UPDATE adv_commands SET sends = sends + 1, next_send = ?, updated = ?,"
            " sent_at = coalesce(sent_at, ?) WHERE command_id = ?",
            (next_send, now, now, command_id),
        )

    def postpone(self, tx: Tx, command_id: str, next_send: int) -> None:
        """It has to wait before its bytes leave."""
        tx.execute("UPDATE adv_commands SET next_send = ? WHERE command_id = ?", (next_send, command_id))

    def lately(self, tx: Tx, client_id: str, since: int) -> list[StoredCommand]:
        """Signed commands to a client that were made or moved since then, and all its open ones."""
        rows = tx.execute(
            "SELECT * FROM adv_commands WHERE client_id = ? AND nonce IS NOT NULL"
            f" AND (created >= ? OR updated >= ? OR state IN ({_OPEN_MARKS}))",
            (client_id, since, since, *_OPEN),
        ).fetchall()
        return [self._command(row) for row in rows]

    def first_sent(self, tx: Tx, client_id: str, since: int) -> list[tuple[str, str, int, int]]:
        """What left for a client for the first time after `since`: schema, action, danger, when."""
        rows = tx.execute(
            "SELECT schema, action, danger_json, sent_at FROM adv_commands"
            " WHERE client_id = ? AND sent_at > ?",
            (client_id, since),
        ).fetchall()
        return [
            (row["schema"], row["action"], max(json.loads(row["danger_json"])), int(row["sent_at"]))
            for row in rows
        ]

    def overdue(self, tx: Tx, now: int) -> list[StoredCommand]:
        """Drafts and held commands whose time is over."""
        rows = tx.execute(
            "SELECT * FROM adv_commands WHERE state IN ('draft', 'held') AND deadline <= ?", (now,)
        ).fetchall()
        return [self._command(row) for row in rows]

    def unsent(self, tx: Tx, before: int) -> list[StoredCommand]:
        """Signed commands of people and programs whose bytes have not left since `before`."""
        rows = tx.execute(
            "SELECT * FROM adv_commands WHERE state = 'ready' AND updated <= ? AND origin <> 'kit'", (before,)
        ).fetchall()
        return [self._command(row) for row in rows]

    def refused_for_now(self, tx: Tx, since: int) -> list[StoredCommand]:
        """Commands that ended with `busy` or `cooldown` since then and were not planned anew."""
        rows = tx.execute(
            "SELECT * FROM adv_commands AS c WHERE slug IN ('busy', 'cooldown') AND updated >= ?"
            " AND origin <> 'kit' AND state IN ('rejected', 'error')"
            " AND NOT EXISTS (SELECT 1 FROM adv_commands AS n WHERE n.retry_of = c.command_id)"
            " ORDER BY nonce",
            (since,),
        ).fetchall()
        return [self._command(row) for row in rows]

    def forget_drafts(self, tx: Tx, before: int) -> None:
        """Plans that were never sent and ran out long ago."""
        tx.execute(
            "DELETE FROM adv_commands WHERE state = 'expired' AND slug = 'plan_expired' AND sends = 0"
            " AND nonce IS NULL AND updated < ?",
            (before,),
        )

    def forget_ping_answers(self, tx: Tx, before: int) -> None:
        """Answers to pings sent before a time: nobody asks after them."""
        tx.execute("DELETE FROM adv_commands WHERE action = 'ping_ack' AND created < ?", (before,))

    def set_slug(self, tx: Tx, command_id: str, slug: str) -> None:
        """Why it ended, where no answer says so."""
        tx.execute("UPDATE adv_commands SET slug = ? WHERE command_id = ?", (slug, command_id))

    def sign_anew(
        self,
        tx: Tx,
        command_id: str,
        *,
        envelope: Mapping[str, Any],
        nonce: int,
        timestamp: int,
        command_hash: str,
        now: int,
    ) -> None:
        """The same command in another envelope, to be sent at once; the one before is dead."""
        tx.execute(
            "UPDATE adv_commands SET envelope_json = ?, nonce = ?, timestamp = ?, command_hash = ?,"
            " next_send = ?, updated = ?, resigned = resigned + 1 WHERE command_id = ?",
            (json.dumps(envelope), nonce, timestamp, command_hash, now, now, command_id),
        )

    def set_challenge(self, tx: Tx, command_id: str, challenge: str, expires: int) -> None:
        """What the node wants signed before it runs an approved command, and until when."""
        tx.execute(
            "UPDATE adv_commands SET challenge = ?, deadline = ? WHERE command_id = ?",
            (challenge, expires, command_id),
        )

    def record_answer(
        self,
        tx: Tx,
        command_id: str,
        response: dict[str, Any],
        slug: str | None,
        challenge: str | None,
        receipt_id: int | None,
        deadline: int | None,
    ) -> None:
        text, preimage = self._parted(command_id, response)
        tx.execute(
            "UPDATE adv_commands SET response_json = ?, preimage_enc = ?, slug = ?,"
            # An older answer that comes late does not take a challenge away.
            " deadline = CASE WHEN ? IS NULL AND challenge IS NOT NULL THEN deadline ELSE ? END,"
            " challenge = coalesce(?, challenge),"
            " receipt_id = coalesce(?, receipt_id), next_send = NULL WHERE command_id = ?",
            (text, preimage, slug, challenge, deadline, challenge, receipt_id, command_id),
        )

    def seal_old(self, tx: Tx, limit: int) -> int:
        """Seal preimages of answers that stand in clear; how many."""
        rows = tx.execute(
            "SELECT command_id, response_json FROM adv_commands WHERE preimage_enc IS NULL"
            " AND json_type(response_json, '$.preimage') IS NOT NULL LIMIT ?",
            (limit,),
        ).fetchall()
        for row in rows:
            text, preimage = self._parted(row["command_id"], json.loads(row["response_json"]))
            tx.execute(
                "UPDATE adv_commands SET response_json = ?, preimage_enc = ? WHERE command_id = ?",
                (text, preimage, row["command_id"]),
            )
        return len(rows)

    def has_sealed(self, tx: Tx) -> bool:
        """Whether any answer had a preimage."""
        found = tx.execute("SELECT 1 FROM adv_commands WHERE preimage_enc IS NOT NULL LIMIT 1").fetchone()
        return found is not None

    def set_receipt(self, tx: Tx, command_id: str, receipt_id: int) -> None:
        """The receipt that a sync brought for a command whose answer had none."""
        tx.execute(
            "UPDATE adv_commands SET receipt_id = ? WHERE command_id = ? AND receipt_id IS NULL",
            (receipt_id, command_id),
        )

    def ended_between(self, tx: Tx, after: int, to: int, limit: int) -> list[StoredCommand]:
        """Commands without a receipt that last changed after `after` and not after `to`; oldest first."""
        rows = tx.execute(
            "SELECT * FROM adv_commands WHERE updated > ? AND updated <= ? AND receipt_id IS NULL"
            " ORDER BY updated LIMIT ?",
            (after, to, limit),
        ).fetchall()
        return [self._command(row) for row in rows]

    def forget(self, tx: Tx, client_id: str) -> int:
        """Erase what is kept of a client; how many rows."""
        return int(tx.execute("DELETE FROM adv_commands WHERE client_id = ?", (client_id,)).rowcount)

    def _command(self, row: sqlite3.Row) -> StoredCommand:
        return StoredCommand(
            command_id=row["command_id"],
            client_id=row["client_id"],
            credential_id=row["credential_id"],
            schema=row["schema"],
            action=row["action"],
            params=json.loads(row["params_json"]),
            danger=tuple(json.loads(row["danger_json"])),
            origin=row["origin"],
            note=row["note"],
            nonce=row["nonce"] or 0,
            timestamp=row["timestamp"] or 0,
            command_hash=row["command_hash"],
            envelope=json.loads(row["envelope_json"]) if row["envelope_json"] else {},
            state=CommandState(row["state"]),
            slug=row["slug"],
            response=self._response(row),
            challenge=row["challenge"],
            receipt_id=row["receipt_id"],
            retry_of=row["retry_of"],
            sends=row["sends"],
            next_send=row["next_send"],
            deadline=row["deadline"],
            created=row["created"],
            updated=row["updated"],
            confirmed_danger=row["confirmed_danger"],
            resigned=row["resigned"],
            plan_hash=row["plan_hash"],
            expected_root=row["expected_root"],
            passed=row["passed"],
            retry_until=row["retry_until"],
            sent_at=row["sent_at"],
            payment=None if row["payment_json"] is None else json.loads(row["payment_json"]),
        )

    def _response(self, row: sqlite3.Row) -> dict[str, Any] | None:
        """The answer as it came, its preimage put back."""
        if not row["response_json"]:
            return None
        response: dict[str, Any] = json.loads(row["response_json"])
        if row["preimage_enc"] is not None:
            sealed = self._sealer.open("adv_commands", row["command_id"], "preimage_enc", row["preimage_enc"])
            response["preimage"] = json.loads(sealed)
        return response

    def _parted(self, command_id: str, response: Mapping[str, Any]) -> tuple[str, bytes | None]:
        """An answer without its preimage, and that sealed."""
        if "preimage" not in response:
            return json.dumps(response), None
        rest = {name: value for name, value in response.items() if name != "preimage"}
        shown = json.dumps(response["preimage"]).encode()
        return json.dumps(rest), self._sealer.seal("adv_commands", command_id, "preimage_enc", shown)
