"""Sole writer of comms_l402_tokens and comms_access_uses (docs/protocol/03-escrow-and-payments.md §8)."""

from __future__ import annotations

import json
import sqlite3
from typing import Final

from hive_shared.crypto import Sealer, Secret
from hive_shared.errors import Conflict
from hive_shared.store import Tx

from ..domain.access_fee import HELD, OPEN, PAID, REDEEMED, RETURNED, AccessToken, Fee, fee_from
from ..domain.bought_access import BoughtToken

_COLUMNS: Final = (
    "token_id, service, agent_key, credential_id, payment_hash, caveats_json, price_sats, max_uses, uses,"
    " expires_at, status"
)


_TABLE: Final = "comms_l402_tokens"


class AccessStore:
    """Tokens that this node sold for access, and their uses."""

    def add(self, tx: Tx, token: AccessToken) -> None:
        """A token whose invoice is about to be handed out."""
        tx.execute(
            "INSERT INTO comms_l402_tokens (token_id, role, service, agent_key, credential_id, payment_hash,"
            " caveats_json, price_sats, max_uses, uses, expires_at, status)"
            " VALUES (?, 'server', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                token.token_id,
                token.service,
                token.agent_key,
                token.credential_id,
                token.payment_hash,
                json.dumps(list(token.caveats)),
                token.price_sats,
                token.max_uses,
                token.uses,
                token.expires_at,
                token.status,
            ),
        )

    def of_hash(self, tx: Tx, payment_hash: str) -> AccessToken | None:
        """The token that was sold against a payment."""
        return _token(
            tx.execute(
                f"SELECT {_COLUMNS} FROM comms_l402_tokens WHERE payment_hash = ? AND role = 'server'",
                (payment_hash,),
            ).fetchone()
        )

    def period_of(self, tx: Tx, agent_key: str, now: int) -> AccessToken | None:
        """An agent's period that runs, of several the one that ends last."""
        return _token(
            tx.execute(
                "SELECT * FROM comms_l402_tokens WHERE agent_key = ? AND status = 'paid' AND expires_at > ?"
                " AND service = 'period' AND role = 'server' ORDER BY expires_at DESC LIMIT 1",
                (agent_key, now),
            ).fetchone()
        )

    def get(self, tx: Tx, token_id: str) -> AccessToken | None:
        """A token by its id."""
        return _token(
            tx.execute(
                f"SELECT {_COLUMNS} FROM comms_l402_tokens WHERE token_id = ? AND role = 'server'",
                (token_id,),
            ).fetchone()
        )

    def open_of(self, tx: Tx, agent_key: str, now: int) -> int:
        """How many invoices of an agent can still be paid."""
        row = tx.execute(
            "SELECT COUNT(*) AS n FROM comms_l402_tokens WHERE agent_key = ? AND status = 'open'"
            " AND expires_at > ? AND role = 'server'",
            (agent_key, now),
        ).fetchone()
        return int(row["n"])

    def overdue(self, tx: Tx, now: int, limit: int) -> tuple[AccessToken, ...]:
        """Open tokens whose invoice ended by a time."""
        rows = tx.execute(
            f"SELECT {_COLUMNS} FROM comms_l402_tokens WHERE status = ? AND expires_at <= ?"
            " AND role = 'server' ORDER BY expires_at LIMIT ?",
            (OPEN, now, limit),
        )
        return tuple(token for row in rows if (token := _token(row)) is not None)

    def paid(self, tx: Tx, token_id: str, expires_at: int) -> bool:
        """The node has the money; False when that was noted before."""
        return bool(
            tx.execute(
                "UPDATE comms_l402_tokens SET status = ?, expires_at = ? WHERE token_id = ? AND status = ?",
                (PAID, expires_at, token_id, OPEN),
            ).rowcount
        )

    def forget(self, tx: Tx, token_id: str) -> None:
        """An invoice that nobody paid."""
        tx.execute("DELETE FROM comms_l402_tokens WHERE token_id = ? AND status = ?", (token_id, OPEN))

    def prune(self, tx: Tx, before: int, limit: int) -> int:
        """Forget tokens that ended before a time, with their uses; returns how many."""
        ended = "SELECT token_id FROM comms_l402_tokens WHERE status <> 'open' AND expires_at < ? LIMIT ?"
        tx.execute(f"DELETE FROM comms_access_uses WHERE token_id IN ({ended})", (before, limit))
        return int(
            tx.execute(f"DELETE FROM comms_l402_tokens WHERE token_id IN ({ended})", (before, limit)).rowcount
        )

    # -- uses -------------------------------------------------------------------------------------------

    def fee_of(self, tx: Tx, command_id: str) -> Fee | None:
        """What a command holds or has redeemed; None when it has nothing, or got it back."""
        row = tx.execute(
            "SELECT fee_json FROM comms_access_uses WHERE command_id = ? AND state <> ?",
            (command_id, RETURNED),
        ).fetchone()
        return None if row is None else fee_from(json.loads(row["fee_json"]))

    def take(self, tx: Tx, command_id: str, fee: Fee, state: str, now: int) -> bool:
        """Take one use of a paid token for a command, or bring what it holds to `redeemed`; False when no use
        is left."""
        if (
            state == REDEEMED
            and tx.execute(
                "UPDATE comms_access_uses SET state = ?, at = ? WHERE command_id = ? AND state = ?",
                (REDEEMED, now, command_id, HELD),
            ).rowcount
        ):
            return True
        taken = tx.execute(
            "UPDATE comms_l402_tokens SET uses = uses + 1 WHERE token_id = ? AND status = 'paid'"
            " AND uses < min(max_uses, ?)",
            (fee.token_id, fee.limit),
        ).rowcount
        if not taken:
            return False
        tx.execute(
            "INSERT INTO comms_access_uses (command_id, token_id, fee_json, state, at)"
            " VALUES (?, ?, ?, ?, ?)",
            (command_id, fee.token_id, json.dumps(fee.to_json()), state, now),
        )
        return True

    def give_back(self, tx: Tx, command_id: str, now: int) -> bool:
        """The command did nothing: its use is good again; False when it had none."""
        moved = tx.execute(
            "UPDATE comms_access_uses SET state = ?, at = ? WHERE command_id = ? AND state <> ?",
            (RETURNED, now, command_id, RETURNED),
        ).rowcount
        if moved:
            tx.execute(
                "UPDATE comms_l402_tokens SET uses = uses - 1 WHERE token_id ="
                " (SELECT token_id FROM comms_access_uses WHERE command_id = ?)",
                (command_id,),
            )
        return bool(moved)


class BoughtTokenStore:
    """Tokens that this node bought from others, macaroons sealed. What pays for one, its preimage, is kept by
    its payment, found by the hash: so no moment lies between the two."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def add(self, tx: Tx, token: BoughtToken) -> None:
        """A token whose payment is about to begin; one whose payment of the same hash failed gives way.
        Raises Conflict for the hash of an invoice that this node sold access by."""
        tx.execute(
            "DELETE FROM comms_l402_tokens WHERE payment_hash = ? AND role = 'client'", (token.payment_hash,)
        )
        sealed = f"{token.scheme} ".encode() + token.macaroon.reveal()
        done = tx.execute(
            "INSERT OR IGNORE INTO comms_l402_tokens (token_id, role, service, agent_key, credential_id,"
            " payment_hash, caveats_json, macaroon_enc, price_sats, max_uses, uses, expires_at, status)"
            " VALUES (?, 'client', ?, ?, '', ?, ?, ?, ?, 1, 0, ?, ?)",
            (
                token.token_id,
                token.place,
                token.advisor_id,
                token.payment_hash,
                json.dumps(list(token.caveats)),
                self._sealer.seal(_TABLE, token.token_id, "macaroon_enc", sealed),
                token.price_sats,
                token.expires_at,
                token.status,
            ),
        )
        if done.rowcount != 1:
            raise Conflict(
                "the invoice for the access has the hash of one by which this node sold access; nothing was"
                " paid"
            )

    def of(self, tx: Tx, advisor_id: str, place: str, page: str) -> tuple[BoughtToken, ...]:
        """Tokens of an advisor that are good for a page of a place or may become so: those for it alone in
        front, then those that end first."""
        rows = tx.execute(
            "SELECT * FROM comms_l402_tokens WHERE agent_key = ?1 AND status IN ('open', 'paid')"
            " AND service IN (?2, ?3) AND role = 'client' ORDER BY service = ?2, expires_at, token_id",
            (advisor_id, place, page),
        )
        return tuple(map(self._bought, rows))

    def note(self, tx: Tx, token_id: str, status: str) -> None:
        """Its payment came through, or its server refused it."""
        tx.execute(
            "UPDATE comms_l402_tokens SET status = ? WHERE token_id = ? AND role = 'client'",
            (status, token_id),
        )

    def keep_for(self, tx: Tx, token_id: str, page: str) -> None:
        """From now on it is shown at this page alone."""
        tx.execute(
            "UPDATE comms_l402_tokens SET service = ? WHERE token_id = ? AND role = 'client'",
            (page, token_id),
        )

    def forget(self, tx: Tx, token_id: str) -> None:
        """One whose payment failed."""
        tx.execute("DELETE FROM comms_l402_tokens WHERE token_id = ? AND role = 'client'", (token_id,))

    def _bought(self, row: sqlite3.Row) -> BoughtToken:
        token_id = str(row["token_id"])
        sealed = self._sealer.open(_TABLE, token_id, "macaroon_enc", row["macaroon_enc"])
        scheme, _, macaroon = sealed.partition(b" ")
        return BoughtToken(
            token_id=token_id,
            place=str(row["service"]),
            advisor_id=str(row["agent_key"]),
            payment_hash=str(row["payment_hash"]),
            caveats=tuple(json.loads(row["caveats_json"])),
            scheme=scheme.decode(),
            macaroon=Secret(macaroon),
            price_sats=int(row["price_sats"]),
            expires_at=int(row["expires_at"]),
            status=str(row["status"]),
        )


def _token(row: sqlite3.Row | None) -> AccessToken | None:
    if row is None:
        return None
    return AccessToken(
        token_id=str(row["token_id"]),
        service=str(row["service"]),
        agent_key=str(row["agent_key"]),
        credential_id=str(row["credential_id"]),
        payment_hash=str(row["payment_hash"]),
        caveats=tuple(json.loads(row["caveats_json"])),
        price_sats=int(row["price_sats"]),
        max_uses=int(row["max_uses"]),
        uses=int(row["uses"]),
        expires_at=int(row["expires_at"]),
        status=str(row["status"]),
    )
