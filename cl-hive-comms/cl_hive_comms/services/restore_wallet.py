"""Taking the ecash of a backup in (docs/protocol/03-escrow-and-payments.md §5 "Export for backup",
docs/decisions/0511-ecash-in-backups.md): merged by name; what was spent meanwhile the mint says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from hive_shared.store import Tx

from .payee_keys import PAYEE_KEY_FACT, PayeeKey
from .payer_book import LOCK_KEY_FACT, LockKey
from .ports_backup import Tables
from .restore_parts import Outcome

KEY_FACTS: Final = (LOCK_KEY_FACT, PAYEE_KEY_FACT)
"""Keys of tickets that were told: ours to payers, agents' to us."""
_TICKETS: Final = (
    "comms_escrow_tickets",
    "comms_escrow_items",
    "comms_escrow_secrets",
    "comms_escrow_disputes",
)


def restore_wallet(tx: Tx, tables: Tables, rows: Mapping[str, Sequence[dict[str, Any]]], now: int) -> Outcome:
    """Proofs wait until their mint was asked, as locks do; counters only rise, operations under way and
    tickets go on, keys that were told are known again; what this node has itself is newer and stays."""
    store = tables.wallet
    proofs = sum(store.put_raw_proof(tx, row) for row in rows["comms_cashu_proofs"])
    others = sum(store.put_raw_op(tx, row) for row in rows["comms_cashu_ops"])
    others += sum(tables.locks.put_raw_lock(tx, row) for row in rows["comms_cashu_locks"])
    for row in rows["comms_cashu_counters"]:
        others += store.raise_counter(tx, str(row["mint_url"]), str(row["keyset_id"]), int(row["next"]))
    others += sum(tables.tickets.put_raw_row(tx, table, row) for table in _TICKETS for row in rows[table])
    others += sum(_key_fact(tx, tables, row, now) for row in rows["comms_state"])
    found = sum(map(len, rows.values()))
    note = f"{proofs} proofs of ecash count once their mint says that they are unspent" if proofs else ""
    return Outcome("escrow", found, proofs + others, found - proofs - others, note)


def _key_fact(tx: Tx, tables: Tables, row: Mapping[str, Any], now: int) -> bool:
    """Of the same context the key that was told last stays. Raises ValueError for a row that is none."""
    key, text = str(row["key"]), str(row["value"])
    if not key.startswith(KEY_FACTS):
        raise ValueError(f"{key[:40]!a} is no key of tickets")
    kind: type[LockKey | PayeeKey] = LockKey if key.startswith(LOCK_KEY_FACT) else PayeeKey
    told, here = msgspec.json.decode(text, type=kind), tables.facts.get(tx, key)
    if here is not None and msgspec.json.decode(here, type=kind).told_at >= told.told_at:
        return False
    tables.facts.put(tx, key, text, now)
    return True
