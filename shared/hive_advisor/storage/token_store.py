"""adv_tokens: ecash that nodes sent, until it is our own, its text sealed. adv_token_ys: of what proofs."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from typing import Final

from hive_shared.crypto import Sealer
from hive_shared.errors import Capacity, Conflict
from hive_shared.store import Tx

from hive_advisor.domain.token_income import TokenIn, TokenState
from hive_advisor.storage.used_ecash import used

_TABLE: Final = "adv_tokens"
_MOST_HELD: Final = 4
_PLAIN: Final = (
    *("token_hash", "client_id", "command_id", "context", "amount_sats", "net_sats", "why", "tries"),
    *("next_at", "created", "updated"),
)


class TokenStore:
    """Tokens. Methods join the caller's transaction."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def add(self, tx: Tx, token: TokenIn, ys: Collection[str]) -> bool:
        """Keep one with the names of its proofs (`y_of`); False when it is known. Raises, with nothing kept,
        Conflict (`token_used`) where a proof of it came before, Capacity where four others for the command
        have not been taken yet: who sends more keeps our mints busy with what is worth nothing."""
        columns = (*_PLAIN, "state", "token_enc")
        if tx.execute("SELECT 1 FROM adv_tokens WHERE token_hash = ?", (token.token_hash,)).fetchone():
            return False
        if used(tx, ys):
            raise Conflict(
                "this ecash came before, in another text or with a ticket: it pays nothing a second time",
                reason="token_used",
            )
        (held,) = tx.execute(
            "SELECT count(*) FROM adv_tokens WHERE command_id = ? AND state = 'held'", (token.command_id,)
        ).fetchone()
        if held >= _MOST_HELD:
            raise Capacity(
                f"{held} tokens for command {token.command_id} wait for their mints: no more are kept"
            )
        tx.executemany(
            "INSERT INTO adv_token_ys (y, token_hash) VALUES (?, ?)", [(y, token.token_hash) for y in ys]
        )
        sealed = self._sealer.seal(_TABLE, token.token_hash, "token_enc", token.token.encode())
        tx.execute(
            f"INSERT INTO adv_tokens ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})",
            (*(getattr(token, name) for name in _PLAIN), str(token.state), sealed),
        )
        return True

    def put(self, tx: Tx, token: TokenIn) -> bool:
        """Write what changes of one that is still held; its text goes with its end. False when it is not."""
        done = tx.execute(
            "UPDATE adv_tokens SET state = ?, net_sats = ?, why = ?, tries = ?, next_at = ?, updated = ?,"
            " token_enc = CASE WHEN ?1 = 'taken' THEN NULL ELSE token_enc END"
            " WHERE token_hash = ? AND state = 'held'",
            (
                *(str(token.state), token.net_sats, token.why, token.tries, token.next_at, token.updated),
                token.token_hash,
            ),
        )
        return done.rowcount == 1

    def due(self, tx: Tx, now: int, limit: int) -> list[TokenIn]:
        """Held ones whose turn it is."""
        rows = tx.execute(
            "SELECT * FROM adv_tokens WHERE state = 'held' AND next_at <= ? ORDER BY next_at LIMIT ?",
            (now, limit),
        )
        return [self._token(row) for row in rows]

    def newest(self, tx: Tx, limit: int) -> list[TokenIn]:
        """Of all clients, the newest first."""
        rows = tx.execute("SELECT * FROM adv_tokens ORDER BY created DESC, token_hash LIMIT ?", (limit,))
        return [self._token(row) for row in rows]

    def forget(self, tx: Tx, client_id: str) -> int:
        """Erase what is kept of a client; what is not ours yet loses its name only, and is taken still."""
        tx.execute(
            "UPDATE adv_tokens SET client_id = '', command_id = '' WHERE client_id = ? AND state = 'held'",
            (client_id,),
        )
        return int(tx.execute("DELETE FROM adv_tokens WHERE client_id = ?", (client_id,)).rowcount)

    def _token(self, row: sqlite3.Row) -> TokenIn:
        sealed = row["token_enc"]
        text = b"" if sealed is None else self._sealer.open(_TABLE, row["token_hash"], "token_enc", sealed)
        return TokenIn(
            **{name: row[name] for name in _PLAIN}, state=TokenState(row["state"]), token=text.decode()
        )
