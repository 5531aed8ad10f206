"""adv_payments and adv_ways: payments that leave us, secrets of ways, hosts a human trusts."""

from __future__ import annotations

import sqlite3

from hive_shared.crypto import Sealer
from hive_shared.store import Tx

from hive_advisor.domain.outgoing import DAY_S, GIVEN_UP_S, Outgoing, OutState

_HOST = "host:"
_OVER = "(state = 'failed' OR created <= ? AND (state = 'paid' OR invoice_expires <= ?))"
"""Counts in no limit any more, and nothing is waited for."""


class OutgoingStore:
    """Payments. Methods join the caller's transaction."""

    def add(self, tx: Tx, payment: Outgoing) -> None:
        """Keep one that is about to be sent."""
        tx.execute(
            "INSERT INTO adv_payments (payment_hash, client_id, command_id, method, way, invoice,"
            " amount_sats, max_fee_msat, invoice_expires, state, why, created, updated)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                payment.payment_hash,
                payment.client_id,
                payment.command_id,
                payment.method,
                payment.way,
                payment.invoice,
                payment.amount_sats,
                payment.max_fee_msat,
                payment.invoice_expires,
                str(payment.state),
                payment.why,
                payment.created,
                payment.updated,
            ),
        )

    def get(self, tx: Tx, payment_hash: str) -> Outgoing | None:
        """By its hash."""
        row = tx.execute("SELECT * FROM adv_payments WHERE payment_hash = ?", (payment_hash,)).fetchone()
        return None if row is None else _outgoing(row)

    def move(self, tx: Tx, payment: Outgoing, to: OutState, why: str, now: int) -> bool:
        """Change the state of one that is still where `payment` says; False when it is not."""
        return bool(
            tx.execute(
                "UPDATE adv_payments SET state = ?, why = ?, updated = ?"
                " WHERE payment_hash = ? AND state = ?",
                (str(to), why, now, payment.payment_hash, str(payment.state)),
            ).rowcount
        )

    def unsettled(self, tx: Tx) -> list[Outgoing]:
        """Those whose end is not known, the oldest first."""
        rows = tx.execute("SELECT * FROM adv_payments WHERE state IN ('sending', 'unknown') ORDER BY created")
        return [_outgoing(row) for row in rows]

    def since(self, tx: Tx, created: int) -> list[Outgoing]:
        """Those that took, or may have taken, money since then."""
        rows = tx.execute(
            "SELECT * FROM adv_payments WHERE created > ? AND state <> 'failed' ORDER BY created", (created,)
        )
        return [_outgoing(row) for row in rows]

    def newest(self, tx: Tx, limit: int) -> list[Outgoing]:
        """Of all clients, the newest first."""
        rows = tx.execute("SELECT * FROM adv_payments ORDER BY created DESC, payment_hash LIMIT ?", (limit,))
        return [_outgoing(row) for row in rows]

    def forget(self, tx: Tx, client_id: str, now: int) -> int:
        """Erase what is kept of a client, how many rows; of what counts in a limit yet or may leave us its
        command alone, until `forget_late`."""
        done = tx.execute(
            f"DELETE FROM adv_payments WHERE client_id = ? AND {_OVER}", (client_id, *_over(now))
        )
        tx.execute("UPDATE adv_payments SET command_id = '' WHERE client_id = ?", (client_id,))
        return int(done.rowcount)

    def late(self, tx: Tx, now: int) -> bool:
        """Whether `forget_late` has anything to do."""
        found = tx.execute(
            f"SELECT 1 FROM adv_payments WHERE command_id = '' AND {_OVER} LIMIT 1", _over(now)
        )
        return found.fetchone() is not None

    def forget_late(self, tx: Tx, now: int) -> None:
        """Erase what `forget` left, once no limit reaches it and it has an end."""
        tx.execute(f"DELETE FROM adv_payments WHERE command_id = '' AND {_OVER}", _over(now))


class WayStore:
    """What ways need to be kept. Methods join the caller's transaction."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def secret(self, tx: Tx, name: str) -> str | None:
        """The secret of a way."""
        row = tx.execute("SELECT secret_enc FROM adv_ways WHERE name = ?", (name,)).fetchone()
        if row is None or row["secret_enc"] is None:
            return None
        return self._sealer.open("adv_ways", name, "secret_enc", row["secret_enc"]).decode()

    def keep_secret(self, tx: Tx, name: str, secret: str, now: int) -> None:
        """Keep the secret of a way, in place of the one before."""
        sealed = self._sealer.seal("adv_ways", name, "secret_enc", secret.encode())
        tx.execute(
            "INSERT INTO adv_ways (name, secret_enc, created) VALUES (?, ?, ?)"
            " ON CONFLICT (name) DO UPDATE SET secret_enc = excluded.secret_enc, created = excluded.created",
            (name, sealed, now),
        )

    def drop(self, tx: Tx, name: str) -> bool:
        """Forget the secret of a way; False when there was none."""
        return bool(tx.execute("DELETE FROM adv_ways WHERE name = ?", (name,)).rowcount)

    def trusted_hosts(self, tx: Tx) -> tuple[str, ...]:
        """Hosts that may stand behind a Lightning address."""
        rows = tx.execute(
            "SELECT name FROM adv_ways WHERE name >= ? AND name < ? ORDER BY name", (_HOST, _HOST + "~")
        )
        return tuple(row["name"].removeprefix(_HOST) for row in rows)

    def trust_host(self, tx: Tx, host: str, now: int) -> None:
        """A human said that a host may."""
        tx.execute("INSERT OR IGNORE INTO adv_ways (name, created) VALUES (?, ?)", (_HOST + host, now))


def _over(now: int) -> tuple[int, int]:
    return now - DAY_S, now - GIVEN_UP_S


def _outgoing(row: sqlite3.Row) -> Outgoing:
    names = (
        *("payment_hash", "client_id", "command_id", "method", "way", "invoice", "amount_sats"),
        *("max_fee_msat", "invoice_expires", "created", "updated", "why"),
    )
    return Outgoing(state=OutState(row["state"]), **{name: row[name] for name in names})
