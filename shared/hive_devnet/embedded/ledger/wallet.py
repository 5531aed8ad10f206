"""On-chain wallets: addresses, spendable outputs, coin selection and payments."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hive_devnet.embedded import bech32
from hive_devnet.embedded.errors import FUND_CANNOT_AFFORD, FUND_OUTPUT_IS_DUST, RpcError
from hive_devnet.embedded.keys import NodeKeys
from hive_devnet.embedded.ledger.chain import Chain
from hive_devnet.embedded.ledger.database import Database
from hive_devnet.embedded.transactions import Transaction, TxInput, TxOutput, sign_p2wpkh

FEERATE_PERKW = 253
DUST_SAT = 546
_BASE_WEIGHT = 42 + 2
_INPUT_WEIGHT = 164 + 108
_OUTPUT_WEIGHT = 43 * 4


@dataclass(frozen=True)
class Coin:
    """A wallet output chosen as input."""

    txid: str
    vout: int
    amount_sat: int
    key_index: int


@dataclass(frozen=True)
class Payment:
    """A wallet transaction ready to publish: `outputs[0]` is the asked-for one."""

    tx: Transaction
    fee_sat: int
    amount_sat: int


class Wallet:
    """The wallet of one node."""

    def __init__(self, database: Database, chain: Chain, keys: NodeKeys) -> None:
        self._db = database
        self._chain = chain
        self._keys = keys
        self._node_id = keys.node_id

    def new_address(self, taproot: bool = False) -> str:
        """A fresh regtest address: P2WPKH, or P2TR when `taproot`."""
        with self._db.transaction():
            index = self._db.add(f"addresses {self._node_id}")
            public = self._keys.wallet_key(index).public_key.format()
            version, program = (1, public[1:]) if taproot else (0, bech32.hash160(public))
            address = bech32.segwit_address(version, program)
            script = bech32.segwit_script(version, program).hex()
            self._db.run("INSERT INTO address VALUES (?, ?, ?, ?)", (script, address, self._node_id, index))
        return address

    def outputs(self, spent: bool = False) -> list[sqlite3.Row]:
        """Outputs of this wallet with their address and confirmation height, oldest first."""
        condition = "" if spent else " AND utxo.spent_by IS NULL"
        return self._db.rows(
            "SELECT utxo.*, address.address, address.key_index, tx.height FROM utxo"
            " JOIN address ON address.script = utxo.script JOIN tx ON tx.txid = utxo.txid"
            " WHERE utxo.node_id = ?" + condition + " ORDER BY utxo.rowid",
            (self._node_id,),
        )

    def script_of(self, key_index: int) -> bytes:
        """The scriptPubKey of address number `key_index`."""
        query = "SELECT script FROM address WHERE node_id = ? AND key_index = ?"
        return bytes.fromhex(self._db.one(query, (self._node_id, key_index))["script"])

    def transactions(self) -> list[sqlite3.Row]:
        """Confirmed transactions that pay to or from this wallet, oldest first."""
        return self._db.rows(
            "SELECT * FROM tx WHERE height IS NOT NULL AND EXISTS (SELECT 1 FROM utxo WHERE node_id = ?"
            " AND (utxo.txid = tx.txid OR utxo.spent_by = tx.txid)) ORDER BY height, position",
            (self._node_id,),
        )

    def coins(self, minconf: int = 1, only: Sequence[tuple[str, int]] | None = None) -> list[Coin]:
        """Outputs that may be spent: confirmed `minconf` times and not reserved, or exactly `only`."""
        height = self._chain.height
        chosen = []
        for row in self.outputs():
            depth = height - row["height"] + 1 if row["height"] is not None else 0
            wanted = only is None or (row["txid"], row["vout"]) in only
            reserved = row["reserved_to"] is not None and row["reserved_to"] > height
            if wanted and depth >= minconf and not reserved:
                chosen.append(Coin(row["txid"], row["vout"], row["amount_sat"], row["key_index"]))
        return chosen

    def pay(
        self,
        amount_sat: int | None,
        output_script: Callable[[], bytes],
        coins: Sequence[Coin],
        feerate_perkw: int = FEERATE_PERKW,
    ) -> Payment:
        """A signed transaction of `amount_sat` (None: everything) from `coins`, change to a new address.

        Raises RpcError 301 when the coins do not suffice and 302 when the output would be dust.
        """
        chosen, total = self._select(amount_sat, coins, feerate_perkw)
        fee = _fee(len(chosen), 1, feerate_perkw)
        amount = total - fee if amount_sat is None else amount_sat
        if amount < DUST_SAT:
            raise RpcError(FUND_OUTPUT_IS_DUST, f"Output {amount}sat would be dust")
        change = total - amount - _fee(len(chosen), 2, feerate_perkw)
        outputs = [TxOutput(amount, output_script())]
        if amount_sat is not None and change >= DUST_SAT:
            outputs.append(TxOutput(change, bech32.address_script(self.new_address())))
        fee = total - sum(output.amount_sat for output in outputs)
        inputs = tuple(TxInput(coin.txid, coin.vout, coin.amount_sat) for coin in chosen)
        keys = [self._keys.wallet_key(coin.key_index) for coin in chosen]
        hashes = [bech32.hash160(key.public_key.format()) for key in keys]
        tx = sign_p2wpkh(Transaction(inputs, tuple(outputs)), keys, hashes)
        return Payment(tx, fee, amount)

    def _select(
        self, amount_sat: int | None, coins: Sequence[Coin], feerate_perkw: int
    ) -> tuple[list[Coin], int]:
        chosen: list[Coin] = []
        total = 0
        for coin in coins:
            chosen.append(coin)
            total += coin.amount_sat
            needed = _fee(len(chosen), 1, feerate_perkw) + (amount_sat or 0)
            if amount_sat is not None and total >= needed:
                return chosen, total
        if amount_sat is None and chosen:
            return chosen, total
        missing = (amount_sat or 0) + _fee(len(chosen) or 1, 1, feerate_perkw) - total
        raise RpcError(
            FUND_CANNOT_AFFORD,
            f"Could not afford {amount_sat if amount_sat is not None else 'all'}sat using all"
            f" {len(coins)} available UTXOs: {missing}sat short",
        )


def _fee(inputs: int, outputs: int, feerate_perkw: int) -> int:
    weight = _BASE_WEIGHT + inputs * _INPUT_WEIGHT + outputs * _OUTPUT_WEIGHT
    return -(-weight * feerate_perkw // 1000)
