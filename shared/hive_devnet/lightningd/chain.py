"""A regtest chain in one SQLite file, shared by every node of a development network.

It keeps the rules that a wallet or a Lightning node can notice: proof of work at regtest difficulty, BIP 34
heights, witness commitments, coinbase maturity, lock times (BIP 68, BIP 113 for block heights), no double
spends, no money from nothing. It does not run scripts: all parties of a development network are our own.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from hive_devnet.lightningd.address import script_of_address
from hive_devnet.lightningd.serialize import (
    NULL_HASH,
    NULL_INDEX,
    BlockHeader,
    DecodeError,
    OutPoint,
    Transaction,
    TxIn,
    TxOut,
    decode_transaction,
    display_hash,
    encode_block,
    merkle_root,
    parse_hash,
    sha256d,
)

REGTEST_BITS = 0x207FFFFF
COINBASE_MATURITY = 100
HALVING_INTERVAL = 150
PREMINED_BLOCKS = 110
FAUCET_FEE_SAT = 1_000
DUST_LIMIT_SAT = 546
_LOCKTIME_IS_TIME = 500_000_000
_SEQUENCE_DISABLED = 1 << 31
_SEQUENCE_IS_TIME = 1 << 22
# Pay-to-witness-script-hash of the script OP_TRUE: the faucet needs no keys, and nothing here runs scripts.
_FAUCET_WITNESS_SCRIPT = b"\x51"
FAUCET_SCRIPT = bytes.fromhex("00204ae81572f06e1b88fd5ced7a1a000945432e83e1551e6f721ee9c00b8cc33260")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS blocks (
    height INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, time INTEGER NOT NULL, raw BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS transactions (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, txid BLOB NOT NULL UNIQUE, raw BLOB NOT NULL,
    fee_sat INTEGER NOT NULL, height INTEGER);
CREATE INDEX IF NOT EXISTS mempool ON transactions (sequence) WHERE height IS NULL;
CREATE TABLE IF NOT EXISTS outputs (
    txid BLOB NOT NULL, vout INTEGER NOT NULL, amount_sat INTEGER NOT NULL, script BLOB NOT NULL,
    coinbase INTEGER NOT NULL, height INTEGER, spent_by BLOB, PRIMARY KEY (txid, vout)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS unspent ON outputs (script) WHERE spent_by IS NULL;
"""


class ChainError(Exception):
    """Raised when the chain cannot do what was asked; the sentence says why."""


class TransactionRejected(ChainError):
    """Raised for a transaction that breaks a rule; starts with the reject reason that Bitcoin Core gives."""


@dataclass(frozen=True)
class Block:
    """A stored block: its height, displayed hash, header time in Unix seconds and wire bytes."""

    height: int
    hash: str
    time: int
    raw: bytes


@dataclass(frozen=True)
class _Coin:
    out: TxOut
    coinbase: bool
    height: int | None
    spent_by: bytes | None


def _subsidy(height: int) -> int:
    return 50 * 100_000_000 >> height // HALVING_INTERVAL


def _push_number(value: int) -> bytes:
    """Return the script push of a positive number, as BIP 34 wants heights."""
    if value <= 16:
        return bytes([0x50 + value]) if value else b"\x00"
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little")
    return bytes([len(raw)]) + raw


def genesis() -> tuple[BlockHeader, Transaction]:
    """Return the genesis block that every regtest chain starts with."""
    headline = b"The Times 03/Jan/2009 Chancellor on brink of second bailout for banks"
    key = bytes.fromhex(
        "04678afdb0fe5548271967f1a67130b7105cd6a828e03909a67962e0ea1f61deb6"
        "49f6bc3f4cef38c4f35504e51ec112de5c384df7ba0b8d578a4c702b6bf11d5f"
    )
    script = b"\x04\xff\xff\x00\x1d\x01\x04" + bytes([len(headline)]) + headline
    coinbase = Transaction(
        1,
        (TxIn(OutPoint(NULL_HASH, NULL_INDEX), script),),
        (TxOut(_subsidy(0), bytes([len(key)]) + key + b"\xac"),),
    )
    return BlockHeader(1, NULL_HASH, coinbase.txid(), 1_296_688_602, REGTEST_BITS, 2), coinbase


def _coinbase(height: int, fees_sat: int, transactions: list[Transaction]) -> Transaction:
    # The extra push keeps the script at two bytes or more, the least that consensus allows.
    script = _push_number(height) + b"\x04hive"
    coinbase = Transaction(
        2,
        (TxIn(OutPoint(NULL_HASH, NULL_INDEX), script),),
        (TxOut(_subsidy(height) + fees_sat, FAUCET_SCRIPT),),
    )
    if not any(tx.has_witness for tx in transactions):
        return coinbase
    reserved = bytes(32)
    root = merkle_root([NULL_HASH, *(tx.wtxid() for tx in transactions)])
    commitment = b"\x6a\x24\xaa\x21\xa9\xed" + sha256d(root + reserved)
    marked = replace(coinbase.inputs[0], witness=(reserved,))
    return replace(coinbase, inputs=(marked,), outputs=(*coinbase.outputs, TxOut(0, commitment)))


def _solve(header: BlockHeader) -> BlockHeader:
    while not header.has_work():
        header = replace(header, nonce=header.nonce + 1)
    return header


class RegtestChain:
    """The chain of one network; several processes may hold the same file open.

    `clock` gives Unix seconds for block headers. Any method raises `sqlite3.Error` when the file is unusable.
    """

    def __init__(self, path: Path, *, create: bool = False, clock: Callable[[], float] = time.time) -> None:
        """Open the chain at `path`, or start one there (genesis and mature faucet coins) with `create`."""
        if not create and not path.is_file():
            raise ChainError(f"no chain at {path}: the network that owns it has to create it first")
        self._clock = clock
        self._db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        # The nodes poll while somebody mines; write-ahead logging lets them read on.
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        if create:
            self._create()

    def close(self) -> None:
        """Close the file; the chain stays."""
        self._db.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _create(self) -> None:
        for statement in _SCHEMA.split(";"):
            self._db.execute(statement)
        with self._writing():
            if self._db.execute("SELECT 1 FROM blocks").fetchone():
                return
            # As in Bitcoin Core, the genesis coinbase exists in the block but never became spendable.
            header, coinbase = genesis()
            self._store_block(0, header, [coinbase])
            for _ in range(PREMINED_BLOCKS):
                self._mine_one()

    # ------------------------------------------------------------------ reading

    def height(self) -> int:
        """Return the height of the tip."""
        return int(self._db.execute("SELECT max(height) FROM blocks").fetchone()[0])

    def block_at(self, height: int) -> Block | None:
        """Return the block at `height`, or None above the tip."""
        row = self._db.execute("SELECT hash, time, raw FROM blocks WHERE height = ?", (height,)).fetchone()
        return Block(height, display_hash(row[0]), row[1], row[2]) if row else None

    def transaction(self, txid: str) -> tuple[Transaction, int | None] | None:
        """Return a transaction by displayed id with the height of its block, None while in the mempool."""
        row = self._db.execute(
            "SELECT raw, height FROM transactions WHERE txid = ?", (parse_hash(txid),)
        ).fetchone()
        return (decode_transaction(row[0]), row[1]) if row else None

    def mempool(self) -> list[str]:
        """Return the displayed ids of unconfirmed transactions, parents first."""
        rows = self._db.execute("SELECT txid FROM transactions WHERE height IS NULL ORDER BY sequence")
        return [display_hash(row[0]) for row in rows]

    def unspent_output(self, txid: str, vout: int) -> TxOut | None:
        """Return an output that no known transaction spends (mempool included), else None."""
        coin = self._coin(OutPoint(parse_hash(txid), vout))
        return coin.out if coin and coin.spent_by is None else None

    def unspent_total(self) -> int:
        """Return the satoshis of all unspent outputs in blocks and mempool."""
        row = self._db.execute("SELECT coalesce(sum(amount_sat), 0) FROM outputs WHERE spent_by IS NULL")
        return int(row.fetchone()[0])

    def _coin(self, prevout: OutPoint) -> _Coin | None:
        row = self._db.execute(
            "SELECT amount_sat, script, coinbase, height, spent_by FROM outputs WHERE txid = ? AND vout = ?",
            (prevout.txid, prevout.index),
        ).fetchone()
        return _Coin(TxOut(row[0], row[1]), bool(row[2]), row[3], row[4]) if row else None

    def _median_time(self) -> int:
        rows = self._db.execute("SELECT time FROM blocks ORDER BY height DESC LIMIT 11").fetchall()
        times = sorted(row[0] for row in rows)
        return int(times[len(times) // 2])

    # ------------------------------------------------------------------ transactions

    def submit(self, raw: bytes) -> str:
        """Take a transaction into the mempool and return its displayed id; known ones are accepted again.

        Raises `TransactionRejected` with the reason. A conflict with the mempool is refused whatever its fee:
        a development network has no use for replacement, and a quiet replacement would hide a double spend.
        """
        try:
            tx = decode_transaction(raw)
        except DecodeError as error:
            raise TransactionRejected(f"TX decode failed: {error}") from None
        with self._writing():
            return self._admit(tx)

    def _admit(self, tx: Transaction) -> str:
        known = self._db.execute("SELECT 1 FROM transactions WHERE txid = ?", (tx.txid(),)).fetchone()
        if not known:
            self._store_transaction(tx, fee_sat=self._checked_fee(tx), height=None)
        return display_hash(tx.txid())

    def _checked_fee(self, tx: Transaction) -> int:
        if tx.is_coinbase:
            raise TransactionRejected("coinbase: only a block may contain a coinbase transaction")
        if len({txin.prevout for txin in tx.inputs}) != len(tx.inputs):
            raise TransactionRejected("bad-txns-inputs-duplicate: the transaction spends an output twice")
        next_height = self.height() + 1
        self._check_locktime(tx, next_height)
        total_in = sum(self._checked_input(tx, txin, next_height) for txin in tx.inputs)
        total_out = sum(txout.amount_sat for txout in tx.outputs)
        if total_out > total_in:
            raise TransactionRejected(
                f"bad-txns-in-belowout: outputs of {total_out} sat exceed inputs of {total_in} sat"
            )
        return total_in - total_out

    def _checked_input(self, tx: Transaction, txin: TxIn, next_height: int) -> int:
        coin = self._coin(txin.prevout)
        if coin is None:
            raise TransactionRejected(f"bad-txns-inputs-missingorspent: no output {txin.prevout} is known")
        if coin.spent_by is not None:
            spender = self._db.execute("SELECT height FROM transactions WHERE txid = ?", (coin.spent_by,))
            confirmed = spender.fetchone()[0] is not None
            reason = "bad-txns-inputs-missingorspent" if confirmed else "txn-mempool-conflict"
            raise TransactionRejected(
                f"{reason}: output {txin.prevout} is already spent by {display_hash(coin.spent_by)}"
            )
        depth = 0 if coin.height is None else next_height - coin.height
        if coin.coinbase and depth < COINBASE_MATURITY:
            raise TransactionRejected(
                f"bad-txns-premature-spend-of-coinbase: output {txin.prevout} has depth {depth}"
            )
        if tx.version >= 2 and not txin.sequence & _SEQUENCE_DISABLED:
            if txin.sequence & _SEQUENCE_IS_TIME:
                raise TransactionRejected("non-BIP68-final: this chain knows no relative locks by time")
            if depth < txin.sequence & 0xFFFF:
                raise TransactionRejected(
                    f"non-BIP68-final: output {txin.prevout} has depth {depth}, "
                    f"the input asks for {txin.sequence & 0xFFFF}"
                )
        return coin.out.amount_sat

    def _check_locktime(self, tx: Transaction, next_height: int) -> None:
        if all(txin.sequence == 0xFFFFFFFF for txin in tx.inputs):
            return
        reached = self._median_time() if tx.locktime >= _LOCKTIME_IS_TIME else next_height
        if tx.locktime >= reached:
            raise TransactionRejected(f"non-final: lock time {tx.locktime} is not below {reached}")

    def _store_transaction(self, tx: Transaction, *, fee_sat: int, height: int | None) -> None:
        txid = tx.txid()
        self._db.execute(
            "INSERT INTO transactions (txid, raw, fee_sat, height) VALUES (?, ?, ?, ?)",
            (txid, tx.encode(), fee_sat, height),
        )
        self._db.executemany(
            "INSERT INTO outputs (txid, vout, amount_sat, script, coinbase, height) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            [
                (txid, vout, txout.amount_sat, txout.script, tx.is_coinbase, height)
                for vout, txout in enumerate(tx.outputs)
                # What OP_RETURN guards can never be spent, so it is no unspent output either.
                if not txout.script.startswith(b"\x6a")
            ],
        )
        self._db.executemany(
            "UPDATE outputs SET spent_by = ? WHERE txid = ? AND vout = ?",
            [(txid, txin.prevout.txid, txin.prevout.index) for txin in tx.inputs],
        )

    # ------------------------------------------------------------------ blocks and coins

    def mine(self, blocks: int = 1) -> int:
        """Mine blocks, the first with the whole mempool, and return the new height."""
        if blocks < 1:
            raise ChainError(f"cannot mine {blocks} blocks: the number must be 1 or more")
        with self._writing():
            for _ in range(blocks):
                self._mine_one()
        return self.height()

    def _mine_one(self) -> None:
        rows = self._db.execute(
            "SELECT raw, fee_sat FROM transactions WHERE height IS NULL ORDER BY sequence"
        ).fetchall()
        waiting = [decode_transaction(row[0]) for row in rows]
        height = self.height() + 1
        coinbase = _coinbase(height, sum(row[1] for row in rows), waiting)
        tip = self._db.execute("SELECT hash FROM blocks WHERE height = ?", (height - 1,)).fetchone()
        header = BlockHeader(
            version=0x20000000,
            previous=tip[0],
            root=merkle_root([coinbase.txid(), *(tx.txid() for tx in waiting)]),
            time=max(int(self._clock()), self._median_time() + 1),
            bits=REGTEST_BITS,
            nonce=0,
        )
        self._db.execute(
            "UPDATE outputs SET height = ? "
            "WHERE txid IN (SELECT txid FROM transactions WHERE height IS NULL)",
            (height,),
        )
        self._db.execute("UPDATE transactions SET height = ? WHERE height IS NULL", (height,))
        self._store_transaction(coinbase, fee_sat=0, height=height)
        self._store_block(height, _solve(header), [coinbase, *waiting])

    def _store_block(self, height: int, header: BlockHeader, transactions: list[Transaction]) -> None:
        self._db.execute(
            "INSERT INTO blocks (height, hash, time, raw) VALUES (?, ?, ?, ?)",
            (height, header.hash(), header.time, encode_block(header, transactions)),
        )

    def faucet(self, address: str, amount_sat: int) -> str:
        """Pay `amount_sat` to a regtest address from mined coins; return the displayed id of the payment.

        The payment waits in the mempool. Raises `AddressError` for a foreign address, `ChainError` for an
        amount below the dust limit or above what is mature.
        """
        script = script_of_address(address)
        if amount_sat < DUST_LIMIT_SAT:
            raise ChainError(f"cannot pay {amount_sat} sat: below {DUST_LIMIT_SAT} sat nothing relays it")
        # Choosing coins and spending them is one transaction: two callers must not choose the same.
        with self._writing():
            return self._admit(self._faucet_payment(TxOut(amount_sat, script)))

    def _faucet_payment(self, payment: TxOut) -> Transaction:
        rows = self._db.execute(
            "SELECT txid, vout, amount_sat FROM outputs WHERE script = ? AND spent_by IS NULL "
            "AND (coinbase = 0 OR height <= ?) ORDER BY amount_sat DESC, txid",
            (FAUCET_SCRIPT, self.height() + 1 - COINBASE_MATURITY),
        )
        wanted = payment.amount_sat + FAUCET_FEE_SAT
        inputs: list[TxIn] = []
        gathered = 0
        for txid, vout, amount in rows:
            inputs.append(TxIn(OutPoint(txid, vout), witness=(_FAUCET_WITNESS_SCRIPT,)))
            gathered += amount
            if gathered >= wanted:
                break
        if gathered < wanted:
            raise ChainError(f"the faucet holds {gathered} mature sat, {wanted} are asked: mine some blocks")
        change = gathered - wanted
        outputs = [payment] + ([TxOut(change, FAUCET_SCRIPT)] if change >= DUST_LIMIT_SAT else [])
        return Transaction(2, tuple(inputs), tuple(outputs))
