"""Sole writer of adv_secret_requests and adv_ticket_preimages (docs/protocol/11-advisor-kit.md §12).
Preimages are sealed.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from hive_shared.crypto import Sealer
from hive_shared.errors import Conflict
from hive_shared.store import Tx

from hive_advisor.domain.ticket import HashRequest, OwnHash


class TicketHashStore:
    """Hashes for tickets. Methods join the caller's transaction."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    # -- asked of a node -------------------------------------------------------------------------------

    def add_request(self, tx: Tx, request: HashRequest) -> None:
        """A new request."""
        tx.execute(
            "INSERT INTO adv_secret_requests (request_id, client_id, params_hash, count, hashes_json,"
            " asked_at, answered_at, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(request.request_id, request.client_id, request.params_hash, request.count),
                *(json.dumps(request.hashes), request.asked_at, request.answered_at, request.expires_at),
            ),
        )

    def request(self, tx: Tx, request_id: str) -> HashRequest | None:
        """One request."""
        row = tx.execute("SELECT * FROM adv_secret_requests WHERE request_id = ?", (request_id,)).fetchone()
        return None if row is None else _request(row)

    def requests(self, tx: Tx, client_id: str, since: int) -> list[HashRequest]:
        """What a client was asked since then, the oldest first."""
        rows = tx.execute(
            "SELECT * FROM adv_secret_requests WHERE client_id = ? AND asked_at > ? ORDER BY asked_at, rowid",
            (client_id, since),
        )
        return [_request(row) for row in rows]

    def answer(self, tx: Tx, request: HashRequest) -> None:
        """The answer to a request. Raises Conflict when it has one."""
        changed = tx.execute(
            "UPDATE adv_secret_requests SET hashes_json = ?, answered_at = ?, expires_at = ?"
            " WHERE request_id = ? AND answered_at = 0",
            (json.dumps(request.hashes), request.answered_at, request.expires_at, request.request_id),
        ).rowcount
        if changed != 1:
            raise Conflict("these hashes were answered before", reason="stale_state")

    def forget_requests(self, tx: Tx, before: int) -> None:
        """Erase what was asked before then."""
        tx.execute("DELETE FROM adv_secret_requests WHERE asked_at < ?", (before,))

    # -- our own ---------------------------------------------------------------------------------------

    def add_own(self, tx: Tx, rows: Sequence[OwnHash]) -> None:
        """New preimages."""
        tx.executemany(
            "INSERT INTO adv_ticket_preimages (hash, client_id, peer, label, preimage_enc, ticket_id, i,"
            " created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    *(row.hash, row.client_id, row.peer, row.label),
                    self._sealer.seal(
                        "adv_ticket_preimages", row.hash, "preimage_enc", row.preimage.encode()
                    ),
                    *(row.ticket_id, row.i, row.created_at),
                )
                for row in rows
            ],
        )

    def own(self, tx: Tx, hash_: str) -> OwnHash | None:
        """One of them."""
        row = tx.execute("SELECT * FROM adv_ticket_preimages WHERE hash = ?", (hash_,)).fetchone()
        if row is None:
            return None
        opened = self._sealer.open("adv_ticket_preimages", hash_, "preimage_enc", row["preimage_enc"])
        return OwnHash(
            hash=hash_,
            preimage=opened.decode(),
            client_id=row["client_id"],
            peer=row["peer"],
            label=row["label"],
            created_at=row["created_at"],
            ticket_id=row["ticket_id"],
            i=row["i"],
        )

    def free_own(self, tx: Tx, client_id: str) -> int:
        """How many of a client no ticket used."""
        (count,) = tx.execute(
            "SELECT count(*) FROM adv_ticket_preimages WHERE client_id = ? AND ticket_id = ''", (client_id,)
        ).fetchone()
        return int(count)

    def bind_own(self, tx: Tx, hash_: str, ticket_id: str, i: int) -> None:
        """An item of a ticket was made with it. Raises Conflict where another one was."""
        changed = tx.execute(
            "UPDATE adv_ticket_preimages SET ticket_id = ?, i = ? WHERE hash = ? AND ticket_id = ''",
            (ticket_id, i, hash_),
        ).rowcount
        if changed != 1:
            raise Conflict(f"the hash of item {i} has another ticket", reason="token_invalid(hash)")

    def forget(self, tx: Tx, client_id: str) -> int:
        """Erase what is kept of a client; how many rows."""
        asked = tx.execute("DELETE FROM adv_secret_requests WHERE client_id = ?", (client_id,)).rowcount
        own = tx.execute("DELETE FROM adv_ticket_preimages WHERE client_id = ?", (client_id,)).rowcount
        return int(asked) + int(own)


def _request(row: sqlite3.Row) -> HashRequest:
    return HashRequest(
        request_id=row["request_id"],
        client_id=row["client_id"],
        params_hash=row["params_hash"],
        count=row["count"],
        asked_at=row["asked_at"],
        hashes=tuple(json.loads(row["hashes_json"])),
        answered_at=row["answered_at"],
        expires_at=row["expires_at"],
    )
