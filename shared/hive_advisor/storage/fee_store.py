"""adv_l402: fees that were paid for access. Preimage and macaroon are sealed: they are the access."""

from __future__ import annotations

import json
import sqlite3

from hive_shared.crypto import Sealer
from hive_shared.store import Tx

from hive_advisor.domain.fee import Fee


class FeeStore:
    """Paid fees. Methods join the caller's transaction."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def add(self, tx: Tx, fee: Fee) -> bool:
        """Keep a paid fee; False when it is kept already."""
        secret = json.dumps({"preimage": fee.preimage, "macaroon": fee.macaroon}).encode()
        return bool(
            tx.execute(
                "INSERT OR IGNORE INTO adv_l402 (payment_hash, client_id, credential_id, method, amount_sats,"
                " proof_enc, expires_at, demanded_by, used_by, created)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    fee.payment_hash,
                    fee.client_id,
                    fee.credential_id,
                    fee.method,
                    fee.amount_sats,
                    self._sealer.seal("adv_l402", fee.payment_hash, "proof_enc", secret),
                    fee.expires_at,
                    fee.demanded_by,
                    fee.used_by,
                    fee.created,
                ),
            ).rowcount
        )

    def of_client(self, tx: Tx, client_id: str) -> list[Fee]:
        """Fees paid to a client, the oldest first."""
        rows = tx.execute(
            "SELECT * FROM adv_l402 WHERE client_id = ? ORDER BY created, payment_hash", (client_id,)
        )
        return [self._fee(row) for row in rows]

    def newest(self, tx: Tx, limit: int) -> list[Fee]:
        """Fees of all clients, the newest first."""
        rows = tx.execute("SELECT * FROM adv_l402 ORDER BY created DESC, payment_hash LIMIT ?", (limit,))
        return [self._fee(row) for row in rows]

    def taken(self, tx: Tx, payment_hash: str, command_id: str) -> None:
        """A command takes a fee along."""
        tx.execute("UPDATE adv_l402 SET used_by = ? WHERE payment_hash = ?", (command_id, payment_hash))

    def forget(self, tx: Tx, client_id: str) -> int:
        """Erase what is kept of a client; how many rows."""
        return int(tx.execute("DELETE FROM adv_l402 WHERE client_id = ?", (client_id,)).rowcount)

    def _fee(self, row: sqlite3.Row) -> Fee:
        secret = json.loads(self._sealer.open("adv_l402", row["payment_hash"], "proof_enc", row["proof_enc"]))
        return Fee(
            payment_hash=row["payment_hash"],
            client_id=row["client_id"],
            credential_id=row["credential_id"],
            method=row["method"],
            amount_sats=row["amount_sats"],
            preimage=secret["preimage"],
            macaroon=secret["macaroon"],
            expires_at=row["expires_at"],
            demanded_by=row["demanded_by"],
            created=row["created"],
            used_by=row["used_by"],
        )
