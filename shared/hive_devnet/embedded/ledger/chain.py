"""Blocks, transactions and the faucet of the ledger's chain."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Sequence

from hive_devnet.embedded.ledger.database import Database
from hive_devnet.embedded.transactions import Transaction, TxInput, TxOutput

START_HEIGHT = 100


class Chain:
    """The one chain of the network. Transactions wait in `tx` with no height until a block takes them."""

    def __init__(self, database: Database) -> None:
        self._db = database
        if self.height == 0:
            with database.transaction():
                database.run(
                    "INSERT INTO block VALUES (?, ?, ?)",
                    (START_HEIGHT, hashlib.sha256(b"devnet").hexdigest(), int(time.time())),
                )

    @property
    def height(self) -> int:
        """Height of the best block."""
        row = self._db.one("SELECT COALESCE(MAX(height), 0) FROM block")
        return int(row[0])

    def block_hash(self, height: int) -> str:
        """Hash of the block at `height`."""
        return str(self._db.one("SELECT hash FROM block WHERE height = ?", (height,))[0])

    def mine(self) -> int:
        """Makes one block of everything that waits; returns its height."""
        with self._db.transaction():
            height = self.height + 1
            waiting = self._db.rows("SELECT txid FROM tx WHERE height IS NULL ORDER BY rowid")
            seed = ":".join([str(height), *(row["txid"] for row in waiting)])
            digest = hashlib.sha256(seed.encode()).hexdigest()
            self._db.run("INSERT INTO block VALUES (?, ?, ?)", (height, digest, int(time.time())))
            for position, row in enumerate(waiting, start=1):
                self._db.run(
                    "UPDATE tx SET height = ?, position = ? WHERE txid = ?", (height, position, row["txid"])
                )
        return height

    def transaction(self, txid: str) -> sqlite3.Row | None:
        """A known transaction's row."""
        return self._db.find("SELECT * FROM tx WHERE txid = ?", (txid,))

    def publish(self, tx: Transaction, fee_sat: int, hidden_outputs: Sequence[int] = ()) -> str:
        """Puts `tx` in the mempool and its outputs in the ledger; returns its txid.

        An output paying a known address belongs to that node. `hidden_outputs` are funding outputs:
        their money is counted in the channel, not in `utxo`.
        """
        txid = tx.txid
        with self._db.transaction():
            self._db.run(
                "INSERT INTO tx (txid, raw, fee_sat, time) VALUES (?, ?, ?, ?)",
                (txid, tx.serialize(), fee_sat, int(time.time())),
            )
            for spent in tx.inputs:
                self._db.run(
                    "UPDATE utxo SET spent_by = ?, reserved_to = NULL"
                    " WHERE txid = ? AND vout = ? AND spent_by IS NULL",
                    (txid, spent.txid, spent.vout),
                )
            for vout, output in enumerate(tx.outputs):
                if vout not in hidden_outputs:
                    self._add_output(txid, vout, output)
        return txid

    def _add_output(self, txid: str, vout: int, output: TxOutput) -> None:
        script = output.script.hex()
        owner = self._db.find("SELECT node_id FROM address WHERE script = ?", (script,))
        self._db.run(
            "INSERT INTO utxo (txid, vout, node_id, amount_sat, script) VALUES (?, ?, ?, ?, ?)",
            (txid, vout, owner["node_id"] if owner else None, output.amount_sat, script),
        )

    def faucet(self, script: bytes, amount_sat: int) -> str:
        """Pays new money to `script` with an ordinary transaction; returns its txid."""
        with self._db.transaction():
            serial = self._db.add("faucet_payments")
            source = hashlib.sha256(f"faucet {serial}".encode()).hexdigest()
            tx = Transaction((TxInput(source, 0, amount_sat),), (TxOutput(amount_sat, script),))
            self._db.add("issued_sat", amount_sat)
            return self.publish(tx, 0)
