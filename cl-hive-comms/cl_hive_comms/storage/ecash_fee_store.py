"""Sole writer of comms_ecash_fees and comms_ecash_fee_proofs (docs/protocol/03-escrow-and-payments.md §8)."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Final

from hive_shared.store import Tx

from ..domain.access_fee import fee_from
from ..domain.ecash_fee import EcashFee, FeeState

_CHUNK: Final = 400


class EcashFeeStore:
    """Tokens that commands brought; every method runs inside the caller's transaction."""

    def get(self, tx: Tx, command_id: str) -> EcashFee | None:
        """What a command brought."""
        return _fee(tx.execute("SELECT * FROM comms_ecash_fees WHERE command_id = ?", (command_id,)))

    def of_op(self, tx: Tx, op_id: str) -> EcashFee | None:
        """Whose swap an operation of the wallet is."""
        return _fee(tx.execute("SELECT * FROM comms_ecash_fees WHERE op_id = ?", (op_id,)))

    def taken(self, tx: Tx, ys: Sequence[str], command_id: str) -> bool:
        """Whether one of these proofs pays, or paid, for another command."""
        for start in range(0, len(ys), _CHUNK):
            part = ys[start : start + _CHUNK]
            marks = ", ".join("?" * len(part))
            sql = f"SELECT 1 FROM comms_ecash_fee_proofs WHERE y IN ({marks}) AND command_id <> ?"
            if tx.execute(sql, (*part, command_id)).fetchone() is not None:
                return True
        return False

    def put(self, tx: Tx, row: EcashFee) -> None:
        """Take a token, or write the new state of one that the command has. `taken` is asked before."""
        tx.execute(
            "INSERT INTO comms_ecash_fees (command_id, agent_key, advisor_id, op_id, fee_json, state, at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (command_id) DO UPDATE SET op_id = excluded.op_id,"
            " state = excluded.state, at = excluded.at",
            (
                row.command_id,
                row.agent_key,
                row.advisor_id,
                row.op_id,
                json.dumps(row.fee.to_json()),
                row.state.value,
                row.at,
            ),
        )
        tx.executemany(
            "INSERT INTO comms_ecash_fee_proofs (y, command_id) VALUES (?, ?) ON CONFLICT (y) DO NOTHING",
            [(y, row.command_id) for y in row.fee.ys],
        )

    def forget(self, tx: Tx, command_id: str) -> None:
        """The token was not touched: it is good again."""
        tx.execute("DELETE FROM comms_ecash_fee_proofs WHERE command_id = ?", (command_id,))
        tx.execute("DELETE FROM comms_ecash_fees WHERE command_id = ?", (command_id,))

    def prune(self, tx: Tx, states: Sequence[FeeState], before: int, limit: int) -> int:
        """Forget rows in these states from before a time; how many."""
        marks = ", ".join("?" * len(states))
        found = tx.execute(
            f"SELECT command_id FROM comms_ecash_fees WHERE at < ? AND state IN ({marks}) LIMIT ?",
            (before, *(state.value for state in states), limit),
        ).fetchall()
        for row in found:
            self.forget(tx, str(row["command_id"]))
        return len(found)


def _fee(found: sqlite3.Cursor) -> EcashFee | None:
    row = found.fetchone()
    if row is None:
        return None
    fee = fee_from(json.loads(row["fee_json"]))
    assert fee is not None
    return EcashFee(
        str(row["command_id"]),
        str(row["agent_key"]),
        str(row["advisor_id"]),
        str(row["op_id"]),
        fee,
        FeeState(row["state"]),
        int(row["at"]),
    )
