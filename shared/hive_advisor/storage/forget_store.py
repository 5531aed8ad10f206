"""Erasing what is kept of a client (docs/protocol/11-advisor-kit.md §14)."""

from __future__ import annotations

from typing import Final

from hive_shared.store import Tx

KEPT: Final = frozenset({"adv_clients", "adv_credentials", "adv_receipts", "adv_evidence"})
"""Receipts and evidence stay, with what they are checked by: the client's pinned keys, the credentials."""
ERASED: Final = (
    "adv_routes",
    "adv_telemetry",
    "adv_telemetry_subs",
    "adv_action_log",
    "adv_snapshots",
    "adv_decisions",
    "adv_goals",
    "adv_counters",
    "adv_sync",
    "adv_alerts",
    "adv_commands",
)
"""Tables with rows of a client that go."""


class ForgetStore:
    """Joins the caller's transaction."""

    def forget(self, tx: Tx, client_id: str) -> int:
        """Erase a client's rows but receipts and evidence; how many went. The client stays as an ended one
        without anything of the node's own words."""
        gone = tx.execute(
            "DELETE FROM adv_questions WHERE command_id IN"
            " (SELECT command_id FROM adv_commands WHERE client_id = ?)",
            (client_id,),
        ).rowcount
        gone += tx.execute(
            "DELETE FROM adv_runes WHERE credential_id IN"
            " (SELECT credential_id FROM adv_credentials WHERE client_id = ?)",
            (client_id,),
        ).rowcount
        gone += tx.execute(
            "DELETE FROM adv_inbox WHERE peer = (SELECT node_key FROM adv_clients WHERE client_id = ?)",
            (client_id,),
        ).rowcount
        for table in ERASED:
            gone += tx.execute(f"DELETE FROM {table} WHERE client_id = ?", (client_id,)).rowcount
        tx.execute(
            "UPDATE adv_clients SET remote_name = '', relays_json = '[]', caps_json = NULL, caps_at = NULL,"
            " offsets_json = '[]', state = 'ended' WHERE client_id = ?",
            (client_id,),
        )
        return gone
