"""adv_clients, adv_credentials, adv_meta."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any

from hive_shared.store import Tx

from hive_advisor.domain.rows import Client, ClientState, CredentialState, StoredCredential


class ClientStore:
    """Clients and their credentials. Methods are synchronous and join the caller's transaction."""

    def add(self, tx: Tx, client: Client, alias_key: str) -> None:
        tx.execute(
            "INSERT INTO adv_clients (client_id, alias, alias_key, node_key, node_id, network, remote_name,"
            " relays_json, max_skew_s, state, created, updated) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                client.client_id,
                client.alias,
                alias_key,
                client.node_key,
                client.node_id,
                client.network,
                client.remote_name,
                json.dumps(client.relays),
                client.max_skew_s,
                client.state,
                client.created,
                client.updated,
            ),
        )

    def by_alias_key(self, tx: Tx, alias_key: str) -> Client | None:
        return _client(tx.execute("SELECT * FROM adv_clients WHERE alias_key = ?", (alias_key,)).fetchone())

    def by_node_key(self, tx: Tx, node_key: str) -> Client | None:
        return _client(tx.execute("SELECT * FROM adv_clients WHERE node_key = ?", (node_key,)).fetchone())

    def by_id(self, tx: Tx, client_id: str) -> Client | None:
        return _client(tx.execute("SELECT * FROM adv_clients WHERE client_id = ?", (client_id,)).fetchone())

    def all(self, tx: Tx) -> list[Client]:
        rows = tx.execute("SELECT * FROM adv_clients ORDER BY created, client_id").fetchall()
        return [client for row in rows if (client := _client(row)) is not None]

    def rename(self, tx: Tx, client_id: str, alias: str, alias_key: str, now: int) -> None:
        tx.execute(
            "UPDATE adv_clients SET alias = ?, alias_key = ?, updated = ? WHERE client_id = ?",
            (alias, alias_key, now, client_id),
        )

    def set_state(self, tx: Tx, client_id: str, state: ClientState, now: int, why: str = "") -> None:
        tx.execute(
            "UPDATE adv_clients SET state = ?, suspect_why = ?, updated = ? WHERE client_id = ?",
            (state, why, now, client_id),
        )

    def refresh_offer(
        self, tx: Tx, client_id: str, relays: tuple[str, ...], max_skew_s: int, name: str, now: int
    ) -> None:
        """A newer offer of the same pinned node: take over its relays and clock tolerance."""
        tx.execute(
            "UPDATE adv_clients SET relays_json = ?, max_skew_s = ?, remote_name = ?, updated = ?"
            " WHERE client_id = ?",
            (json.dumps(relays), max_skew_s, name, now, client_id),
        )

    def set_capabilities(
        self, tx: Tx, client_id: str, document: dict[str, Any], offset_s: int, now: int
    ) -> None:
        tx.execute(
            "UPDATE adv_clients SET caps_json = ?, caps_at = ?, offset_s = ?, updated = ?"
            " WHERE client_id = ?",
            (json.dumps(document), now, offset_s, now, client_id),
        )

    def forget_capabilities(self, tx: Tx, client_id: str) -> None:
        """What the node said it does is not believed any more."""
        tx.execute("UPDATE adv_clients SET caps_at = NULL WHERE client_id = ?", (client_id,))

    def offsets(self, tx: Tx, client_id: str) -> tuple[int, ...]:
        """The last differences of the node's clock from ours, oldest first."""
        row = tx.execute("SELECT offsets_json FROM adv_clients WHERE client_id = ?", (client_id,)).fetchone()
        return tuple(json.loads(row["offsets_json"])) if row else ()

    def set_offsets(self, tx: Tx, client_id: str, samples: Sequence[int]) -> None:
        tx.execute(
            "UPDATE adv_clients SET offsets_json = ? WHERE client_id = ?",
            (json.dumps(list(samples)), client_id),
        )

    def set_offset(self, tx: Tx, client_id: str, offset_s: int, now: int) -> None:
        """How far the node's clock is ahead of ours."""
        tx.execute(
            "UPDATE adv_clients SET offset_s = ?, updated = ? WHERE client_id = ?", (offset_s, now, client_id)
        )

    def take_nonce(self, tx: Tx, client_id: str, now_us: int) -> int:
        """The next nonce: max(last + 1, now in µs). Restored backups never fall back (§5.2)."""
        row = tx.execute("SELECT last_nonce FROM adv_clients WHERE client_id = ?", (client_id,)).fetchone()
        nonce = max(int(row["last_nonce"]) + 1, now_us)
        tx.execute("UPDATE adv_clients SET last_nonce = ? WHERE client_id = ?", (nonce, client_id))
        return nonce

    def raise_nonce(self, tx: Tx, client_id: str, at_least: int) -> None:
        tx.execute(
            "UPDATE adv_clients SET last_nonce = max(last_nonce, ?) WHERE client_id = ?",
            (at_least, client_id),
        )

    def note_seq(self, tx: Tx, client_id: str, seq: int) -> int:
        """Record a sequence number; returns how many before it are missing."""
        row = tx.execute("SELECT last_seq FROM adv_clients WHERE client_id = ?", (client_id,)).fetchone()
        last = int(row["last_seq"])
        if seq > last:
            tx.execute("UPDATE adv_clients SET last_seq = ? WHERE client_id = ?", (seq, client_id))
        return max(0, seq - last - 1) if last else 0

    def set_head(self, tx: Tx, client_id: str, head_id: int, head_hash: str) -> None:
        tx.execute(
            "UPDATE adv_clients SET head_id = ?, head_hash = ? WHERE client_id = ?",
            (head_id, head_hash, client_id),
        )

    def add_credential(self, tx: Tx, credential: StoredCredential) -> None:
        tx.execute(
            "INSERT OR IGNORE INTO adv_credentials (credential_id, client_id, doc_json, state, valid_until,"
            " created, contract_id, scope_json) VALUES (?,?,?,?,?,?,?,?)",
            (
                credential.credential_id,
                credential.client_id,
                json.dumps(credential.document),
                credential.state,
                credential.valid_until,
                credential.created,
                credential.contract_id,
                None if credential.scope is None else json.dumps(credential.scope),
            ),
        )

    def credential(self, tx: Tx, credential_id: str) -> StoredCredential | None:
        row = tx.execute("SELECT * FROM adv_credentials WHERE credential_id = ?", (credential_id,)).fetchone()
        return _credential(row) if row else None

    def credentials(self, tx: Tx, client_id: str) -> list[StoredCredential]:
        rows = tx.execute(
            "SELECT * FROM adv_credentials WHERE client_id = ? ORDER BY created DESC, rowid DESC",
            (client_id,),
        ).fetchall()
        return [_credential(row) for row in rows]

    def set_credential_state(self, tx: Tx, credential_id: str, state: CredentialState) -> None:
        tx.execute("UPDATE adv_credentials SET state = ? WHERE credential_id = ?", (state, credential_id))

    def drop_oldest_offer(self, tx: Tx, keep: int) -> None:
        """Strangers' offers are capped: the oldest beyond ``keep`` goes, with its credentials."""
        rows = tx.execute(
            "SELECT client_id FROM adv_clients WHERE state = 'offered'"
            " ORDER BY created DESC LIMIT -1 OFFSET ?",
            (keep,),
        ).fetchall()
        for row in rows:
            tx.execute("DELETE FROM adv_credentials WHERE client_id = ?", (row["client_id"],))
            tx.execute("DELETE FROM adv_clients WHERE client_id = ?", (row["client_id"],))

    def meta(self, tx: Tx, key: str) -> str | None:
        row = tx.execute("SELECT value FROM adv_meta WHERE key = ?", (key,)).fetchone()
        return str(row["value"]) if row else None

    def set_meta(self, tx: Tx, key: str, value: str) -> None:
        tx.execute(
            "INSERT INTO adv_meta (key, value) VALUES (?, ?)"
            " ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (key, value),
        )

    def forget(self, tx: Tx, client_id: str) -> int:
        """Leave of a client its pinned keys, which its receipts are checked by; 0: no row goes."""
        tx.execute(
            "UPDATE adv_clients SET remote_name = '', relays_json = '[]', caps_json = NULL, caps_at = NULL,"
            " offsets_json = '[]', state = 'ended' WHERE client_id = ?",
            (client_id,),
        )
        return 0


def _client(row: sqlite3.Row | None) -> Client | None:
    if row is None:
        return None
    return Client(
        client_id=row["client_id"],
        alias=row["alias"],
        node_key=row["node_key"],
        node_id=row["node_id"],
        network=row["network"],
        relays=tuple(json.loads(row["relays_json"])),
        max_skew_s=row["max_skew_s"],
        state=row["state"],
        created=row["created"],
        updated=row["updated"],
        remote_name=row["remote_name"],
        offset_s=row["offset_s"],
        capabilities=json.loads(row["caps_json"]) if row["caps_json"] else None,
        capabilities_at=row["caps_at"],
        last_nonce=row["last_nonce"],
        last_seq=row["last_seq"],
        head_id=row["head_id"],
        head_hash=row["head_hash"],
        suspect_why=row["suspect_why"],
    )


def _credential(row: sqlite3.Row) -> StoredCredential:
    return StoredCredential(
        credential_id=row["credential_id"],
        client_id=row["client_id"],
        document=json.loads(row["doc_json"]),
        state=row["state"],
        valid_until=row["valid_until"],
        created=row["created"],
        contract_id=row["contract_id"],
        scope=None if row["scope_json"] is None else json.loads(row["scope_json"]),
    )
