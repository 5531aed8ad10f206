"""Databases as the earlier single plugin left them, for tests: its tables and columns (sheet 08 §8.3)."""

from __future__ import annotations

import base64
import hashlib
import json
import sqlite3
import uuid
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from hive_shared import crypto
from hive_shared.crypto import Secret, xonly_pubkey

KEY = Secret((1234).to_bytes(32, "big"))
"""The earlier plugin's Nostr key in these databases."""

_TABLES: Mapping[str, str] = {
    "hive_members": "peer_id TEXT PRIMARY KEY, tier TEXT NOT NULL, joined_at INTEGER NOT NULL",
    "nostr_state": "key TEXT PRIMARY KEY, value TEXT NOT NULL",
    "management_credentials": (
        "credential_id TEXT PRIMARY KEY, issuer_id TEXT NOT NULL, agent_id TEXT NOT NULL,"
        " node_id TEXT NOT NULL, tier TEXT NOT NULL DEFAULT 'monitor', allowed_schemas_json TEXT NOT NULL,"
        " constraints_json TEXT NOT NULL, valid_from INTEGER NOT NULL, valid_until INTEGER NOT NULL,"
        " signature TEXT NOT NULL, revoked_at INTEGER, created_at INTEGER NOT NULL DEFAULT 0"
    ),
    "management_receipts": (
        "receipt_id TEXT PRIMARY KEY, credential_id TEXT NOT NULL, schema_id TEXT NOT NULL,"
        " action TEXT NOT NULL, params_json TEXT NOT NULL, danger_score INTEGER NOT NULL, result_json TEXT,"
        " state_hash_before TEXT, state_hash_after TEXT, executed_at INTEGER NOT NULL,"
        " executor_signature TEXT NOT NULL"
    ),
    "marketplace_profiles": (
        "advisor_did TEXT PRIMARY KEY, profile_json TEXT NOT NULL, nostr_pubkey TEXT, version TEXT NOT NULL,"
        " capabilities_json TEXT NOT NULL, pricing_json TEXT NOT NULL, reputation_score INTEGER DEFAULT 0,"
        " last_seen INTEGER NOT NULL, source TEXT NOT NULL DEFAULT 'gossip'"
    ),
    "marketplace_contracts": (
        "contract_id TEXT PRIMARY KEY, advisor_did TEXT NOT NULL, operator_id TEXT NOT NULL,"
        " node_id TEXT NOT NULL, status TEXT NOT NULL DEFAULT 'proposed', tier TEXT NOT NULL,"
        " scope_json TEXT NOT NULL, pricing_json TEXT NOT NULL, created_at INTEGER NOT NULL"
    ),
    "marketplace_trials": (
        "trial_id TEXT PRIMARY KEY, contract_id TEXT NOT NULL, advisor_did TEXT NOT NULL,"
        " flat_fee_sats INTEGER NOT NULL, start_at INTEGER NOT NULL, end_at INTEGER NOT NULL, outcome TEXT"
    ),
    "liquidity_offers": (
        "offer_id TEXT PRIMARY KEY, provider_id TEXT NOT NULL, capacity_sats INTEGER NOT NULL,"
        " status TEXT NOT NULL DEFAULT 'active', created_at INTEGER NOT NULL"
    ),
    "liquidity_leases": (
        "lease_id TEXT PRIMARY KEY, offer_id TEXT, provider_id TEXT NOT NULL, client_id TEXT NOT NULL,"
        " capacity_sats INTEGER NOT NULL, start_at INTEGER NOT NULL, end_at INTEGER NOT NULL,"
        " status TEXT NOT NULL DEFAULT 'active', created_at INTEGER NOT NULL"
    ),
    "liquidity_heartbeats": (
        "heartbeat_id TEXT PRIMARY KEY, lease_id TEXT NOT NULL, period_number INTEGER NOT NULL,"
        " channel_id TEXT NOT NULL, provider_signature TEXT NOT NULL, created_at INTEGER NOT NULL"
    ),
}

AT = 1_760_000_000
"""When the rows were written (Unix s)."""


def hidden(secret: Secret, signature: str) -> str:
    """A key's text as the earlier plugin stored it, under the node's signature over its fixed text."""
    key = hashlib.sha256(signature.encode()).digest()
    text = secret.reveal().hex().encode()
    return base64.b64encode(bytes(byte ^ key[i % 32] for i, byte in enumerate(text))).decode()


def insert(path: Path, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add rows as they are given."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for row in rows:
            marks = ", ".join("?" * len(row))
            connection.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", list(row.values()))


def receipt(number: int, **changes: Any) -> dict[str, Any]:
    """A receipt row."""
    return {
        "receipt_id": str(uuid.UUID(int=number)),
        "credential_id": str(uuid.UUID(int=1)),
        "schema_id": "hive:fee-policy/v1",
        "action": "set_single",
        "params_json": json.dumps({"channel_id": "1x1x0", "fee_ppm": number}),
        "danger_score": 3,
        "result_json": json.dumps({"ok": True}),
        "state_hash_before": None,
        "state_hash_after": "ab" * 32,
        "executed_at": AT + number,
        "executor_signature": "d" * 104,
        **changes,
    }


def credential(number: int, node_id: str, **changes: Any) -> dict[str, Any]:
    """A credential row of this node that does not end soon."""
    return {
        "credential_id": str(uuid.UUID(int=number)),
        "issuer_id": node_id,
        "agent_id": "03" + f"{number:064x}",
        "node_id": node_id,
        "tier": "standard",
        "allowed_schemas_json": '["hive:fee-policy/*"]',
        "constraints_json": '{"max_fee_change_pct": 20}',
        "valid_from": AT,
        "valid_until": 4_000_000_000,
        "signature": "d" * 104,
        "revoked_at": None,
        "created_at": AT,
        **changes,
    }


def build(path: Path, *, without: Sequence[str] = ()) -> Path:
    """An empty database with every table but these, in the journal mode of the earlier plugin."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        for name, columns in _TABLES.items():
            if name not in without:
                connection.execute(f"CREATE TABLE {name} ({columns})")
        connection.commit()
    return path


def filled(path: Path, *, node_id: str, signature: str = "", receipts: int = 20, key: Secret = KEY) -> Path:
    """A database with a few rows of every table. `signature` is the node's over the fixed text; without one
    the key stands there in the clear, as the earlier plugin wrote it when it got none."""
    build(path)
    text = hidden(key, signature) if signature else key.reveal().hex()
    state = {
        "config:privkey": text,
        "config:pubkey": xonly_pubkey(key),
        "config:relays": '["wss://relay.example"]',
        "event:last_published_id": "ab" * 32,
    }
    insert(path, "nostr_state", [{"key": name, "value": value} for name, value in state.items()])
    insert(
        path,
        "management_credentials",
        [
            credential(1, node_id),
            credential(2, node_id, revoked_at=AT + 5),
            credential(3, node_id, valid_until=AT + 10),
            credential(4, "02" + "cd" * 32),
        ],
    )
    insert(path, "management_receipts", [receipt(number) for number in range(1, receipts + 1)])
    insert(
        path,
        "marketplace_contracts",
        [
            {
                "contract_id": "contract-1",
                "advisor_did": "did:cid:one",
                "operator_id": "op",
                "node_id": node_id,
                "status": "active",
                "tier": "standard",
                "scope_json": "{}",
                "pricing_json": "{}",
                "created_at": AT,
            }
        ],
    )
    insert(
        path,
        "liquidity_leases",
        [
            {
                "lease_id": "lease-1",
                "provider_id": "p",
                "client_id": "c",
                "capacity_sats": 5_000_000,
                "start_at": AT,
                "end_at": AT + 86_400,
                "created_at": AT,
            }
        ],
    )
    return path


def digest(*paths: Path) -> str:
    """SHA-256 over files that are there."""
    found = hashlib.sha256()
    for path in paths:
        found.update(path.name.encode() + (path.read_bytes() if path.exists() else b"-"))
    return found.hexdigest()


def node_signature(secret: Secret) -> str:
    """The node's signature under which the earlier plugin hid its key."""
    return crypto.cln_sign_message(secret, "nostr_key_derivation")
