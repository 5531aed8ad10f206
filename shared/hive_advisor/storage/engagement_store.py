"""adv_threads, adv_messages, adv_contracts."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Final

from hive_shared.market.contract_machine import FINAL, UNSIGNED, ContractState
from hive_shared.market.negotiation import negotiation_doc, negotiation_of
from hive_shared.market.negotiation_machine import OPEN
from hive_shared.store import Tx

from hive_advisor.domain.engagement import Engagement, Thread, ThreadMessage

_AT_ONCE: Final = 100
_OPEN: Final = ", ".join(f"'{state.value}'" for state in OPEN)
_NOT_RUNNING: Final = ", ".join(f"'{state.value}'" for state in (*sorted(FINAL), *UNSIGNED))


class EngagementStore:
    """Threads, their messages, contracts. Methods join the caller's transaction."""

    # -- threads ---------------------------------------------------------------------------------------

    def thread(self, tx: Tx, thread_id: str) -> Thread | None:
        """One thread by its id."""
        row = tx.execute("SELECT * FROM adv_threads WHERE thread_id = ?", (thread_id,)).fetchone()
        return None if row is None else _thread(row)

    def of_contract(self, tx: Tx, contract_id: str) -> Thread | None:
        """The thread in which a contract is negotiated."""
        row = tx.execute("SELECT * FROM adv_threads WHERE contract_id = ?", (contract_id,)).fetchone()
        return None if row is None else _thread(row)

    def find(self, tx: Tx, prefix: str) -> list[Thread]:
        """Threads by the beginning of their contract's id, at most two."""
        rows = tx.execute(
            "SELECT * FROM adv_threads WHERE contract_id >= ? AND contract_id < ? LIMIT 2",
            (prefix, prefix + "\uffff"),
        )
        return [_thread(row) for row in rows]

    def newest(self, tx: Tx, limit: int) -> list[Thread]:
        """Threads, the one changed last first."""
        rows = tx.execute("SELECT * FROM adv_threads ORDER BY updated DESC, thread_id DESC LIMIT ?", (limit,))
        return [_thread(row) for row in rows]

    def open_count(self, tx: Tx, peer_key: str | None = None) -> int:
        """How many negotiations have no end yet, of one key or of all."""
        (count,) = tx.execute(
            f"SELECT count(*) FROM adv_threads WHERE state IN ({_OPEN}) AND (peer_key = ? OR ? IS NULL)",
            (peer_key, peer_key),
        ).fetchone()
        return int(count)

    def knows(self, tx: Tx, peer_key: str) -> bool:
        """Whether there is a thread with a key."""
        return (
            tx.execute("SELECT 1 FROM adv_threads WHERE peer_key = ? LIMIT 1", (peer_key,)).fetchone()
            is not None
        )

    def peers(self, tx: Tx) -> set[str]:
        """The keys that we negotiate or have a contract with."""
        rows = tx.execute(
            f"SELECT DISTINCT peer_key FROM adv_threads WHERE state IN ({_OPEN}) OR state = 'agreed'"
        )
        return {str(row["peer_key"]) for row in rows}

    def ended(self, tx: Tx, before: int) -> list[Thread]:
        """Open negotiations of which nothing stands since before a time."""
        rows = tx.execute(
            f"SELECT * FROM adv_threads WHERE state IN ({_OPEN}) AND ends_at < ? LIMIT ?", (before, _AT_ONCE)
        )
        return [_thread(row) for row in rows]

    def put_thread(self, tx: Tx, thread: Thread) -> None:
        """Store a thread, new or changed. Raises sqlite3.IntegrityError for a contract id of another one."""
        tx.execute(
            "INSERT INTO adv_threads (thread_id, contract_id, peer_key, agent_key, state, negotiation_json,"
            " sign_at_once, last_in, ends_at, why, created, updated) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)"
            " ON CONFLICT (thread_id) DO UPDATE SET state = excluded.state,"
            " negotiation_json = excluded.negotiation_json, sign_at_once = excluded.sign_at_once,"
            " last_in = excluded.last_in, ends_at = excluded.ends_at, why = excluded.why,"
            " updated = excluded.updated",
            (
                thread.thread_id,
                thread.contract_id,
                thread.peer_key,
                thread.agent_key,
                thread.negotiation.state.value,
                json.dumps(negotiation_doc(thread.negotiation)),
                int(thread.sign_at_once),
                thread.last_in,
                thread.negotiation.ends_at,
                thread.why,
                thread.created,
                thread.updated,
            ),
        )

    # -- messages --------------------------------------------------------------------------------------

    def message(self, tx: Tx, msg_id: str) -> ThreadMessage | None:
        """One message by its id."""
        row = tx.execute("SELECT * FROM adv_messages WHERE msg_id = ?", (msg_id,)).fetchone()
        return None if row is None else _message(row)

    def messages(self, tx: Tx, thread_id: str) -> list[ThreadMessage]:
        """The messages of a thread in the order in which they were stored."""
        rows = tx.execute("SELECT * FROM adv_messages WHERE thread_id = ? ORDER BY rowid", (thread_id,))
        return [_message(row) for row in rows]

    def count(self, tx: Tx, thread_id: str) -> int:
        """How many messages a thread has."""
        (count,) = tx.execute(
            "SELECT count(*) FROM adv_messages WHERE thread_id = ?", (thread_id,)
        ).fetchone()
        return int(count)

    def early(self, tx: Tx, thread_id: str) -> ThreadMessage | None:
        """The first message of a thread that waits for one before it."""
        row = tx.execute(
            "SELECT * FROM adv_messages WHERE thread_id = ? AND state = 'early' ORDER BY seq LIMIT 1",
            (thread_id,),
        ).fetchone()
        return None if row is None else _message(row)

    def waiting(self, tx: Tx, since: int) -> Sequence[ThreadMessage]:
        """Messages that came until then and wait for one before them."""
        rows = tx.execute(
            "SELECT * FROM adv_messages WHERE state = 'early' AND received_at <= ? ORDER BY received_at, seq"
            " LIMIT ?",
            (since, _AT_ONCE),
        )
        return [_message(row) for row in rows]

    def add_message(self, tx: Tx, message: ThreadMessage) -> None:
        """Keep a message. Raises sqlite3.IntegrityError for an id or number that is there."""
        tx.execute(
            "INSERT INTO adv_messages (msg_id, thread_id, direction, seq, verb, content, state, why, sent_at,"
            " received_at) VALUES (?,?,?,?,?,?,?,?,?,?)",
            (
                message.msg_id,
                message.thread_id,
                "in" if message.inbound else "out",
                message.seq,
                message.verb,
                message.content,
                message.state,
                message.why,
                message.sent_at,
                message.received_at,
            ),
        )

    def settle(self, tx: Tx, msg_id: str, why: str) -> None:
        """A message was taken, or refused for a reason."""
        tx.execute(
            "UPDATE adv_messages SET state = ?, why = ? WHERE msg_id = ?",
            ("refused" if why else "taken", why, msg_id),
        )

    # -- contracts -------------------------------------------------------------------------------------

    def contract(self, tx: Tx, contract_id: str) -> Engagement | None:
        """One contract by its id."""
        row = tx.execute("SELECT * FROM adv_contracts WHERE contract_id = ?", (contract_id,)).fetchone()
        return None if row is None else _engagement(row)

    def contracts(self, tx: Tx, limit: int) -> list[Engagement]:
        """Contracts, the newest first."""
        rows = tx.execute(
            "SELECT * FROM adv_contracts ORDER BY created DESC, contract_id DESC LIMIT ?", (limit,)
        )
        return [_engagement(row) for row in rows]

    def running(self, tx: Tx) -> int:
        """How many contracts both signed that have not ended."""
        (count,) = tx.execute(
            f"SELECT COUNT(*) FROM adv_contracts WHERE state NOT IN ({_NOT_RUNNING})"
        ).fetchone()
        return int(count)

    def due(self, tx: Tx, now: int) -> list[Engagement]:
        """Contracts that wait for our signature, and those that run whose notice or term is over by now (Unix
        s); the others are not read."""
        rows = tx.execute(
            f"SELECT * FROM adv_contracts WHERE state = ? OR (state NOT IN ({_NOT_RUNNING})"
            " AND min(ends_at, ifnull(effective_at, ends_at)) <= ?)",
            (ContractState.SIGNING.value, now),
        )
        return [_engagement(row) for row in rows]

    def put_contract(self, tx: Tx, engagement: Engagement) -> None:
        """Store a contract, new or changed."""
        tx.execute(
            "INSERT INTO adv_contracts (contract_id, state, contract_json, contract_hash, credential_id,"
            " ends_at, effective_at, ended_by, reason, created, updated) VALUES (?,?,?,?,?,?,?,?,?,?,?)"
            " ON CONFLICT (contract_id) DO UPDATE SET state = excluded.state,"
            " contract_json = excluded.contract_json, credential_id = excluded.credential_id,"
            " effective_at = excluded.effective_at, ended_by = excluded.ended_by, reason = excluded.reason,"
            " updated = excluded.updated",
            (
                engagement.contract_id,
                engagement.state.value,
                json.dumps(engagement.document),
                engagement.contract_hash,
                engagement.credential_id,
                engagement.ends_at,
                engagement.effective_at,
                engagement.ended_by,
                engagement.reason,
                engagement.created,
                engagement.updated,
            ),
        )


def _thread(row: sqlite3.Row) -> Thread:
    return Thread(
        thread_id=row["thread_id"],
        contract_id=row["contract_id"],
        peer_key=row["peer_key"],
        agent_key=row["agent_key"],
        negotiation=negotiation_of(json.loads(row["negotiation_json"])),
        last_in=row["last_in"],
        created=row["created"],
        updated=row["updated"],
        sign_at_once=bool(row["sign_at_once"]),
        why=row["why"],
    )


def _message(row: sqlite3.Row) -> ThreadMessage:
    return ThreadMessage(
        msg_id=row["msg_id"],
        thread_id=row["thread_id"],
        inbound=row["direction"] == "in",
        seq=row["seq"],
        verb=row["verb"],
        content=row["content"],
        state=row["state"],
        sent_at=row["sent_at"],
        received_at=row["received_at"],
        why=row["why"],
    )


def _engagement(row: sqlite3.Row) -> Engagement:
    return Engagement(
        contract_id=row["contract_id"],
        state=ContractState(row["state"]),
        document=json.loads(row["contract_json"]),
        contract_hash=row["contract_hash"],
        credential_id=row["credential_id"],
        ends_at=row["ends_at"],
        created=row["created"],
        updated=row["updated"],
        effective_at=row["effective_at"],
        ended_by=row["ended_by"],
        reason=row["reason"],
    )
