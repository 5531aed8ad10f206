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
INPUT_WEIGHT = 164 + 108
OUTPUT_WEIGHT = 43 * 4


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
        """Confirmed transactions that pay to or from this wallet, and those it sent itself, oldest first."""
        return self._db.rows(
            "SELECT * FROM tx WHERE EXISTS (SELECT 1 FROM utxo WHERE node_id = ? AND (utxo.spent_by = tx.txid"
            " OR (utxo.txid = tx.txid AND tx.height IS NOT NULL))) ORDER BY height IS NULL, height, position",
            (self._node_id,),
        )

    def addresses(self) -> list[sqlite3.Row]:
        """Every address given out, in the order of its number."""
        query = "SELECT * FROM address WHERE node_id = ? ORDER BY key_index"
        return self._db.rows(query, (self._node_id,))

    def unspent(self, txid: str, vout: int) -> sqlite3.Row | None:
        """An unspent output of this wallet, also a reserved one."""
        return next((row for row in self.outputs() if (row["txid"], row["vout"]) == (txid, vout)), None)

    def reserved_to(self, row: sqlite3.Row) -> int | None:
        """The height until which an output is reserved; None when it is not."""
        until: int | None = row["reserved_to"]
        return until if until is not None and until > self._chain.height else None

    def reserve(self, txid: str, vout: int, blocks: int) -> int | None:
        """Reserve an output for so many blocks more (fewer when negative); the new end, None for none."""
        row = self.unspent(txid, vout)
        assert row is not None
        until = (self.reserved_to(row) or self._chain.height) + blocks
        end = until if until > self._chain.height else None
        with self._db.transaction():
            self._db.run("UPDATE utxo SET reserved_to = ? WHERE txid = ? AND vout = ?", (end, txid, vout))
        return end

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
        return self._signed(chosen, outputs)

    def prepare(
        self,
        outputs: Sequence[tuple[bytes, int | None]],
        coins: Sequence[Coin],
        feerate_perkw: int,
        *,
        whole: bool,
    ) -> Payment:
        """A signed transaction with several outputs (None: what is left), change to a new address; `whole`
        spends every coin. Raises RpcError 301 when the coins do not suffice."""
        fixed = sum(amount for _, amount in outputs if amount is not None)
        everything = any(amount is None for _, amount in outputs)
        chosen, total = list(coins), sum(coin.amount_sat for coin in coins)
        if not everything and not whole:
            chosen, total = self._select(fixed, coins, feerate_perkw)
        left = total - fixed - _fee(len(chosen), len(outputs), feerate_perkw)
        if not chosen or left < 0:
            wanted = "all" if everything else fixed
            missing = -left if chosen else fixed + _fee(1, len(outputs), feerate_perkw)
            text = f"Could not afford {wanted}sat using all {len(coins)} available UTXOs: {missing}sat short"
            raise RpcError(FUND_CANNOT_AFFORD, text)
        made = [TxOutput(left if amount is None else amount, script) for script, amount in outputs]
        change = total - fixed - _fee(len(chosen), len(outputs) + 1, feerate_perkw)
        if not everything and change >= DUST_SAT:
            made.append(TxOutput(change, bech32.address_script(self.new_address(taproot=True))))
        return self._signed(chosen, made)

    def _signed(self, coins: Sequence[Coin], outputs: Sequence[TxOutput]) -> Payment:
        fee = sum(coin.amount_sat for coin in coins) - sum(output.amount_sat for output in outputs)
        inputs = tuple(TxInput(coin.txid, coin.vout, coin.amount_sat) for coin in coins)
        keys = [self._keys.wallet_key(coin.key_index) for coin in coins]
        hashes = [bech32.hash160(key.public_key.format()) for key in keys]
        tx = sign_p2wpkh(Transaction(inputs, tuple(outputs)), keys, hashes)
        return Payment(tx, fee, outputs[0].amount_sat if outputs else 0)

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
    weight = _BASE_WEIGHT + inputs * INPUT_WEIGHT + outputs * OUTPUT_WEIGHT
    return -(-weight * feerate_perkw // 1000)
