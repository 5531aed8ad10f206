"""The SQLite file of a network and its one invariant: what the faucet gave out is all there still."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_SCHEMA = """
CREATE TABLE IF NOT EXISTS network (key TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS block (height INTEGER PRIMARY KEY, hash TEXT NOT NULL, time INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS node (
    name TEXT PRIMARY KEY, node_id TEXT NOT NULL, port INTEGER NOT NULL, options TEXT NOT NULL,
    plugins TEXT NOT NULL, running INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS address (
    script TEXT PRIMARY KEY, address TEXT NOT NULL, node_id TEXT NOT NULL, key_index INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS tx (
    txid TEXT PRIMARY KEY, raw BLOB NOT NULL, fee_sat INTEGER NOT NULL, height INTEGER, position INTEGER,
    time INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS utxo (
    txid TEXT NOT NULL, vout INTEGER NOT NULL, node_id TEXT, amount_sat INTEGER NOT NULL,
    script TEXT NOT NULL, spent_by TEXT, reserved_to INTEGER, PRIMARY KEY (txid, vout));
CREATE INDEX IF NOT EXISTS utxo_unspent ON utxo (node_id) WHERE spent_by IS NULL;
CREATE TABLE IF NOT EXISTS channel (
    id INTEGER PRIMARY KEY, channel_id TEXT NOT NULL UNIQUE, opener TEXT NOT NULL, acceptor TEXT NOT NULL,
    capacity_sat INTEGER NOT NULL, pushed_msat INTEGER NOT NULL, funding_txid TEXT NOT NULL,
    funding_outnum INTEGER NOT NULL, scid TEXT UNIQUE, announce INTEGER NOT NULL, state TEXT NOT NULL,
    opener_msat INTEGER NOT NULL, acceptor_msat INTEGER NOT NULL, closer TEXT, close_txid TEXT,
    feerate_perkw INTEGER NOT NULL, created INTEGER NOT NULL, mindepth INTEGER NOT NULL,
    funding_key INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS channel_opener ON channel (opener);
CREATE INDEX IF NOT EXISTS channel_acceptor ON channel (acceptor);
CREATE TABLE IF NOT EXISTS channel_side (
    channel INTEGER NOT NULL REFERENCES channel (id), node_id TEXT NOT NULL, alias TEXT NOT NULL,
    fee_base_msat INTEGER NOT NULL, fee_ppm INTEGER NOT NULL, htlc_min_msat INTEGER NOT NULL,
    htlc_max_msat INTEGER NOT NULL, cltv_delta INTEGER NOT NULL, ignore_fee_limits INTEGER NOT NULL DEFAULT 0,
    reserve_msat INTEGER NOT NULL, close_to TEXT, old_fee_base_msat INTEGER, old_fee_ppm INTEGER,
    old_htlc_min_msat INTEGER, old_htlc_max_msat INTEGER, old_until REAL,
    last_update INTEGER NOT NULL, min_to_us_msat INTEGER NOT NULL, max_to_us_msat INTEGER NOT NULL,
    offered INTEGER NOT NULL DEFAULT 0, offered_msat INTEGER NOT NULL DEFAULT 0,
    fulfilled INTEGER NOT NULL DEFAULT 0, fulfilled_msat INTEGER NOT NULL DEFAULT 0,
    last_stable INTEGER, final_msat INTEGER, PRIMARY KEY (channel, node_id));
CREATE TABLE IF NOT EXISTS splice (
    channel INTEGER PRIMARY KEY REFERENCES channel (id), initiator TEXT NOT NULL, amount_sat INTEGER NOT NULL,
    txid TEXT NOT NULL, outnum INTEGER NOT NULL, feerate_perkw INTEGER NOT NULL, sent INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS channel_change (
    channel INTEGER NOT NULL REFERENCES channel (id), node_id TEXT NOT NULL, time REAL NOT NULL,
    old_state TEXT NOT NULL, new_state TEXT NOT NULL, cause TEXT NOT NULL, message TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS htlc (
    id INTEGER PRIMARY KEY, channel INTEGER NOT NULL REFERENCES channel (id), sender TEXT NOT NULL,
    number INTEGER NOT NULL, amount_msat INTEGER NOT NULL, expiry INTEGER NOT NULL,
    payment_hash TEXT NOT NULL, state TEXT NOT NULL, part INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS htlc_part ON htlc (part);
CREATE INDEX IF NOT EXISTS htlc_open ON htlc (channel) WHERE state = 'open';
CREATE TABLE IF NOT EXISTS datastore (
    node_id TEXT NOT NULL, key TEXT NOT NULL, data BLOB NOT NULL, generation INTEGER NOT NULL,
    PRIMARY KEY (node_id, key));
"""


class ConservationError(Exception):
    """A transaction would create or destroy sats; it is rolled back."""


class Database:
    """Opened once per network process. Not shared between threads."""

    def __init__(self, path: Path, synchronous: str = "FULL") -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute(f"PRAGMA synchronous={synchronous}")
        self._connection.executescript(_SCHEMA)
        self._depth = 0
        self._rollbacks = 0

    @property
    def version(self) -> tuple[int, int] | None:
        """Differs whenever a row may have changed; None inside a transaction, whose end is open."""
        return None if self._depth else (self._connection.total_changes, self._rollbacks)

    def extend(self, schema: str) -> None:
        """Creates the tables of another module, if they are not there. Not inside a transaction."""
        self._connection.executescript(schema)

    def close(self) -> None:
        """Closes the file."""
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """One atomic change. Nested use joins the outer one. Raises ConservationError."""
        if self._depth:
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
            return
        self._connection.execute("BEGIN IMMEDIATE")
        self._depth = 1
        before = self._connection.total_changes
        try:
            yield
            if self._connection.total_changes != before:
                self.check_conservation()
        except BaseException:
            self._connection.execute("ROLLBACK")
            self._rollbacks += 1
            raise
        else:
            self._connection.execute("COMMIT")
        finally:
            self._depth = 0

    def check_conservation(self) -> None:
        """Raises ConservationError unless wallets + channels + fees equal what the faucet issued."""
        issued, present = self.totals_msat()
        if issued != present:
            raise ConservationError(f"{issued} msat were issued, but {present} msat are in the ledger")

    def totals_msat(self) -> tuple[int, int]:
        """(issued by the faucet, found in outputs, channels, splices under way, HTLCs and paid fees)."""
        row = self.one(
            "SELECT (SELECT COALESCE(SUM(value), 0) FROM network WHERE key = 'issued_sat') * 1000,"
            " (SELECT COALESCE(SUM(amount_sat), 0) FROM utxo WHERE spent_by IS NULL) * 1000"
            " + (SELECT COALESCE(SUM(fee_sat), 0) FROM tx) * 1000"
            " + (SELECT COALESCE(SUM(opener_msat + acceptor_msat), 0) FROM channel)"
            " + (SELECT COALESCE(SUM(amount_sat), 0) FROM splice WHERE sent = 1) * 1000"
            " + (SELECT COALESCE(SUM(amount_msat), 0) FROM htlc WHERE state = 'open')"
        )
        return row[0], row[1]

    def run(self, sql: str, values: Sequence[Any] = ()) -> int:
        """Executes a statement; returns the number of rows it changed."""
        return self._connection.execute(sql, values).rowcount

    def insert(self, sql: str, values: Sequence[Any] = ()) -> int:
        """Executes an INSERT; returns the new row id."""
        row_id = self._connection.execute(sql, values).lastrowid
        if row_id is None:
            raise sqlite3.ProgrammingError("the statement inserted nothing")
        return row_id

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """All rows of a query."""
        return self._connection.execute(sql, values).fetchall()

    def find(self, sql: str, values: Sequence[Any] = ()) -> sqlite3.Row | None:
        """The first row of a query, if any."""
        row: sqlite3.Row | None = self._connection.execute(sql, values).fetchone()
        return row

    def one(self, sql: str, values: Sequence[Any] = ()) -> sqlite3.Row:
        """The first row of a query that has one. Raises LookupError."""
        row = self.find(sql, values)
        if row is None:
            raise LookupError(f"no row for {values!r}")
        return row

    def number(self, key: str) -> int:
        """A network-wide counter; 0 before it is first set."""
        row = self.find("SELECT value FROM network WHERE key = ?", (key,))
        return int(row[0]) if row else 0

    def add(self, key: str, amount: int = 1) -> int:
        """Adds to a network-wide counter; returns the new value."""
        return int(
            self.one(
                "INSERT INTO network VALUES (?, ?) ON CONFLICT (key) DO UPDATE"
                " SET value = value + excluded.value RETURNING value",
                (key, amount),
            )[0]
        )
