"""Sole writer of marketplace_threads, marketplace_messages and marketplace_contracts
(docs/protocol/04-marketplace-and-nostr.md §11).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from hive_shared.canonical import decode, encode
from hive_shared.errors import Conflict, NotFound
from hive_shared.market.contract_machine import ContractState
from hive_shared.market.negotiation import Side, negotiation_doc, negotiation_of
from hive_shared.store import Tx
from hive_shared.unreadable import Unreadable, read_each

from cl_hive_comms.domain.engagement import Engagement, MarketMessage


class ContractStore:
    """Reads and writes engagements and what was said in them."""

    def add(self, tx: Tx, row: Engagement) -> None:
        """Insert an engagement with its negotiation. Raises Conflict for an id that is there already."""
        new = _insert(tx, "marketplace_contracts", _contract_values(row))
        if not (new and _insert(tx, "marketplace_threads", _thread_values(row))):
            raise Conflict(f"contract {row.contract_id} exists already", reason="duplicate")

    def save(self, tx: Tx, row: Engagement) -> Engagement:
        """Store a changed engagement; the one with its new version. Raises Conflict when it was changed since
        it was read."""
        values = _contract_values(row)
        values["version"] = row.version + 1
        names = [name for name in values if name != "contract_id"]
        done = tx.execute(
            f"UPDATE marketplace_contracts SET {', '.join(f'{name} = ?' for name in names)}"
            " WHERE contract_id = ? AND version = ?",
            [*(values[name] for name in names), row.contract_id, row.version],
        )
        if done.rowcount != 1:
            raise Conflict(f"contract {row.contract_id} changed meanwhile", reason="stale_state")
        said = _thread_values(row)
        names = [name for name in said if name != "thread_id"]
        tx.execute(
            f"UPDATE marketplace_threads SET {', '.join(f'{name} = ?' for name in names)}"
            " WHERE thread_id = ?",
            [*(said[name] for name in names), row.thread_id],
        )
        return self.get(tx, row.contract_id)

    def get(self, tx: Tx, contract_id: str) -> Engagement:
        """The engagement of that id. Raises NotFound."""
        found = self.find(tx, contract_id)
        if found is None:
            raise NotFound(f"there is no contract {contract_id[:64]!a}; hive-marketplace-list shows them")
        return found

    def find(self, tx: Tx, contract_id: str) -> Engagement | None:
        """The engagement of that id, if there is one."""
        rows = _engagements(tx.execute(f"{_SELECT} WHERE c.contract_id = ?", (contract_id,)))
        return rows[0] if rows else None

    def of_thread(self, tx: Tx, thread_id: str) -> Engagement | None:
        """The engagement a conversation is about."""
        rows = _engagements(tx.execute(f"{_SELECT} WHERE c.thread_id = ?", (thread_id,)))
        return rows[0] if rows else None

    def of_credential(self, tx: Tx, credential_id: str) -> str | None:
        """The contract a credential was issued for, or is to be, by id."""
        row = tx.execute(
            "SELECT contract_id FROM marketplace_contracts WHERE credential_id = ?", (credential_id,)
        ).fetchone()
        return None if row is None else str(row["contract_id"])

    def in_states(self, tx: Tx, states: Collection[ContractState], limit: int) -> list[Engagement]:
        """Engagements in one of these states, those that changed longest ago first."""
        marks = ", ".join("?" * len(states))
        return _engagements(
            tx.execute(
                f"{_SELECT} WHERE c.status IN ({marks}) ORDER BY c.updated_at, c.contract_id LIMIT ?",
                (*(state.value for state in states), limit),
            )
        )

    def due(self, tx: Tx, now: int, limit: int) -> list[Engagement]:
        """Engagements to sign, issue or end by now (Unix s), those that wait longest first."""
        return _engagements(
            tx.execute(f"{_SELECT} WHERE c.due_at <= ? ORDER BY c.due_at LIMIT ?", (now, limit))
        )

    def unanswered(
        self, tx: Tx, states: Collection[ContractState], before: int, limit: int
    ) -> list[Engagement]:
        """Engagements in one of these states whose last word ran out before a time (Unix s)."""
        marks = ", ".join("?" * len(states))
        return _engagements(
            tx.execute(
                f"{_SELECT} WHERE c.status IN ({marks}) AND t.expires_at <= ? ORDER BY t.expires_at LIMIT ?",
                (*(state.value for state in states), before, limit),
            )
        )

    def credentials(self, tx: Tx, states: Collection[ContractState]) -> list[tuple[str, str]]:
        """(contract, its credential) of engagements in one of these states."""
        marks = ", ".join("?" * len(states))
        rows = tx.execute(
            "SELECT contract_id, credential_id FROM marketplace_contracts"
            f" WHERE status IN ({marks}) AND credential_id IS NOT NULL",
            [state.value for state in states],
        )
        return [(str(row["contract_id"]), str(row["credential_id"])) for row in rows.fetchall()]

    def page(
        self, tx: Tx, *, status: str | None, before: tuple[int, str] | None, limit: int
    ) -> list[Engagement | Unreadable]:
        """The newest engagements first, older than `before` (time of creation and id), for a list that people
        read."""
        created_at, contract_id = before or (1 << 62, "")
        rows = tx.execute(
            f"{_SELECT} WHERE (? IS NULL OR c.status = ?) AND (c.created_at, c.contract_id) < (?, ?)"
            " ORDER BY c.created_at DESC, c.contract_id DESC LIMIT ?",
            (status, status, created_at, contract_id, limit),
        )
        return read_each(rows, _engagement, "contract_id")

    def count(self, tx: Tx) -> int:
        """How many engagements are kept."""
        (count,) = tx.execute("SELECT count(*) FROM marketplace_contracts").fetchone()
        return int(count)

    def counts(self, tx: Tx) -> dict[str, int]:
        """How many engagements are in each state."""
        rows = tx.execute(
            "SELECT status, count(*) AS n FROM marketplace_contracts GROUP BY status ORDER BY 1"
        )
        return {str(row["status"]): int(row["n"]) for row in rows.fetchall()}

    def peers(self, tx: Tx, over: Collection[ContractState]) -> set[str]:
        """The keys (x-only hex) of those with whom something is not over."""
        marks = ", ".join("?" * len(over))
        rows = tx.execute(
            f"SELECT DISTINCT peer_pubkey FROM marketplace_contracts WHERE status NOT IN ({marks})",
            [state.value for state in over],
        )
        return {str(row["peer_pubkey"]) for row in rows.fetchall()}

    def ended_with(self, tx: Tx, peer_pubkey: str, since: int) -> int | None:
        """When an engagement with this key was terminated last, if that was after `since` (Unix s)."""
        (at,) = tx.execute(
            "SELECT max(terminated_at) FROM marketplace_contracts"
            " WHERE peer_pubkey = ? AND status = ? AND terminated_at > ?",
            (peer_pubkey, ContractState.TERMINATED.value, since),
        ).fetchone()
        return None if at is None else int(at)

    # -- what was said -------------------------------------------------------------------------------

    def add_message(self, tx: Tx, row: MarketMessage) -> bool:
        """Keep a message; False when it, or another of its number, is there already."""
        return _insert(tx, "marketplace_messages", _message_values(row))

    def has_message(self, tx: Tx, msg_id: str) -> bool:
        """Whether a message was kept."""
        found = tx.execute("SELECT 1 FROM marketplace_messages WHERE msg_id = ?", (msg_id,)).fetchone()
        return found is not None

    def count_messages(self, tx: Tx, thread_id: str) -> tuple[int, int]:
        """How many messages are kept: of this conversation, of all."""
        (own,) = tx.execute(
            "SELECT count(*) FROM marketplace_messages WHERE thread_id = ?", (thread_id,)
        ).fetchone()
        (every,) = tx.execute("SELECT count(*) FROM marketplace_messages").fetchone()
        return int(own), int(every)

    def last_seq(self, tx: Tx, thread_id: str, direction: str) -> int:
        """The highest number used in one direction, held messages not counted; 0 when there is none."""
        (seq,) = tx.execute(
            "SELECT max(seq) FROM marketplace_messages"
            " WHERE thread_id = ? AND direction = ? AND state != 'held'",
            (thread_id, direction),
        ).fetchone()
        return 0 if seq is None else int(seq)

    def next_held(self, tx: Tx, thread_id: str) -> MarketMessage | None:
        """The held message of the lowest number."""
        row = tx.execute(
            "SELECT * FROM marketplace_messages WHERE thread_id = ? AND state = 'held' ORDER BY seq LIMIT 1",
            (thread_id,),
        ).fetchone()
        return None if row is None else _message(row)

    def threads_held_since(self, tx: Tx, received_before: int) -> list[str]:
        """Conversations in which a message has been waiting since before that time (Unix s)."""
        rows = tx.execute(
            "SELECT DISTINCT thread_id FROM marketplace_messages WHERE state = 'held' AND received_at <= ?"
            " LIMIT 100",
            (received_before,),
        )
        return [str(row["thread_id"]) for row in rows.fetchall()]

    def settle_message(self, tx: Tx, msg_id: str, state: str, code: str | None = None) -> None:
        """Note what became of a message that came in."""
        tx.execute(
            "UPDATE marketplace_messages SET state = ?, code = ? WHERE msg_id = ?", (state, code, msg_id)
        )

    def messages(self, tx: Tx, thread_id: str | None, limit: int) -> list[MarketMessage]:
        """The newest messages first: of one conversation, or of all (then only those that came in)."""
        where = "direction = 'in'" if thread_id is None else "thread_id = ?"
        rows = tx.execute(
            f"SELECT * FROM marketplace_messages WHERE {where}"
            " ORDER BY ifnull(received_at, sent_at) DESC, seq DESC LIMIT ?",
            (limit,) if thread_id is None else (thread_id, limit),
        )
        return [_message(row) for row in rows.fetchall()]

    # -- whole rows, for backups ---------------------------------------------------------------------

    def raw_rows(self, tx: Tx) -> Iterator[tuple[str, dict[str, object]]]:
        """Every column of every row, by table."""
        for table, order in _TABLES.items():
            for row in tx.execute(f"SELECT * FROM {table} ORDER BY {order}").fetchall():
                yield table, dict(row)

    def put_raw(self, tx: Tx, table: str, row: Mapping[str, Any]) -> bool:
        """Insert a row of a backup; False when it stands here. Raises KeyError for another table."""
        if table not in _TABLES:
            raise KeyError(table)
        columns = [str(each["name"]) for each in tx.execute(f"PRAGMA table_info({table})").fetchall()]
        return _insert(tx, table, {name: row[name] for name in columns})


_TABLES = {
    "marketplace_contracts": "created_at, contract_id",
    "marketplace_threads": "created_at, thread_id",
    "marketplace_messages": "sent_at, msg_id",
}
_INSERT = {
    "marketplace_contracts": "INSERT OR IGNORE INTO marketplace_contracts",
    "marketplace_threads": "INSERT OR IGNORE INTO marketplace_threads",
    "marketplace_messages": "INSERT OR IGNORE INTO marketplace_messages",
}
_SELECT = (
    "SELECT c.*, t.rounds_json FROM marketplace_contracts c"
    " JOIN marketplace_threads t ON t.thread_id = c.thread_id"
)


def _insert(tx: Tx, table: str, values: Mapping[str, Any]) -> bool:
    """Whether the row was new."""
    names, marks = ", ".join(values), ", ".join("?" * len(values))
    return tx.execute(f"{_INSERT[table]} ({names}) VALUES ({marks})", list(values.values())).rowcount == 1


def _contract_values(row: Engagement) -> dict[str, Any]:
    terms = row.terms
    duration = terms["duration"]
    return {
        "contract_id": row.contract_id,
        "role": "client",
        "thread_id": row.thread_id,
        "advisor_did": row.advisor_did,
        "advisor_name": row.advisor_name,
        "operator_id": row.operator_id,
        "node_id": row.node_id,
        "peer_pubkey": row.peer_pubkey,
        "status": row.status.value,
        "tier": terms["scope"]["permissionTier"],
        "scope_json": _text(terms["scope"]),
        "pricing_json": _text(terms["compensation"]),
        "sla_json": _text(terms["sla"]),
        "terms_json": _text(terms),
        "contract_json": None if row.document is None else _text(row.document),
        "contract_hash": row.contract_hash,
        "credential_id": row.credential_id,
        "contract_start": row.contract_start,
        "contract_end": row.contract_end,
        "auto_renew": int(duration.get("autoRenew", False)),
        "notice_days": duration.get("noticePeriodDays", 7),
        "notice_at": row.notice_at,
        "effective_at": row.effective_at,
        "terminated_at": row.terminated_at,
        "termination_reason": row.termination_reason,
        "version": row.version,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
    }


def _thread_values(row: Engagement) -> dict[str, Any]:
    thread = row.thread
    return {
        "thread_id": row.thread_id,
        "contract_id": row.contract_id,
        "kind": "direct",
        "role": "client",
        "peer_did": row.advisor_did,
        "peer_pubkey": row.peer_pubkey,
        "round": thread.last.number,
        "last_sender": ("client" if thread.last.by is Side.OPERATOR else "advisor"),
        "terms_json": _text(row.terms),
        "terms_hash": thread.last.terms_hash,
        "rounds_json": _text(negotiation_doc(thread)),
        "state": thread.state.value,
        "expires_at": thread.ends_at,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
    }


def _message_values(row: MarketMessage) -> dict[str, Any]:
    return {
        "msg_id": row.msg_id,
        "thread_id": row.thread_id,
        "direction": row.direction,
        "seq": row.seq,
        "verb": row.verb,
        "body_json": _text(row.body),
        "sig": row.sig,
        "sent_at": row.sent_at,
        "expires_at": row.expires_at,
        "received_at": row.received_at,
        "state": row.state,
        "code": row.code,
    }


def _text(value: object) -> str:
    return encode(value).decode()


def _engagements(rows: sqlite3.Cursor) -> list[Engagement]:
    return [_engagement(row) for row in rows.fetchall()]


def _engagement(row: sqlite3.Row) -> Engagement:
    return Engagement(
        contract_id=row["contract_id"],
        thread_id=row["thread_id"],
        peer_pubkey=row["peer_pubkey"],
        advisor_did=row["advisor_did"],
        advisor_name=row["advisor_name"],
        operator_id=row["operator_id"],
        node_id=row["node_id"],
        status=ContractState(row["status"]),
        thread=negotiation_of(json.loads(row["rounds_json"])),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        version=row["version"],
        document=None if row["contract_json"] is None else json.loads(row["contract_json"]),
        contract_hash=row["contract_hash"],
        credential_id=row["credential_id"],
        contract_start=row["contract_start"],
        contract_end=row["contract_end"],
        notice_at=row["notice_at"],
        effective_at=row["effective_at"],
        terminated_at=row["terminated_at"],
        termination_reason=row["termination_reason"],
    )


def _message(row: sqlite3.Row) -> MarketMessage:
    return MarketMessage(
        msg_id=row["msg_id"],
        thread_id=row["thread_id"],
        direction=row["direction"],
        seq=row["seq"],
        verb=row["verb"],
        body=decode(row["body_json"], max_bytes=1 << 20, max_nodes=100_000, floats=True),
        sig=row["sig"],
        sent_at=row["sent_at"],
        expires_at=row["expires_at"],
        received_at=row["received_at"],
        state=row["state"],
        code=row["code"],
    )
