"""Strict reading and writing of Bitcoin transactions and block headers.

Only what a chain without scripts needs: structure, ids, sizes. Amounts are satoshis; hashes are kept in the
byte order of the wire and shown reversed, as every Bitcoin tool does.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

MAX_MONEY = 21_000_000 * 100_000_000
MAX_TX_BYTES = 400_000
NULL_HASH = bytes(32)
NULL_INDEX = 0xFFFFFFFF
FINAL_SEQUENCE = 0xFFFFFFFF


class DecodeError(ValueError):
    """Raised for bytes that are no exact encoding of a transaction; says where and what was wrong."""


def sha256d(data: bytes) -> bytes:
    """Return SHA-256 applied twice."""
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


def display_hash(raw: bytes) -> str:
    """Return a wire-order hash the way humans and RPC write it."""
    return raw[::-1].hex()


def parse_hash(text: str) -> bytes:
    """Return the wire-order hash of 64 displayed hex digits; raise `DecodeError` for anything else."""
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raise DecodeError(f"hash {text!r} is not hexadecimal") from None
    if len(raw) != 32 or len(text) != 64:
        raise DecodeError(f"hash {text!r} must have 64 hexadecimal digits")
    return raw[::-1]


def compact_size(value: int) -> bytes:
    """Encode a count as Bitcoin's CompactSize."""
    if value < 0xFD:
        return bytes([value])
    if value <= 0xFFFF:
        return b"\xfd" + value.to_bytes(2, "little")
    if value <= 0xFFFFFFFF:
        return b"\xfe" + value.to_bytes(4, "little")
    return b"\xff" + value.to_bytes(8, "little")


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int, what: str) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise DecodeError(f"transaction ends inside {what} at byte {len(self._data)}")
        piece = self._data[self._at : end]
        self._at = end
        return piece

    def number(self, width: int, what: str) -> int:
        return int.from_bytes(self.take(width, what), "little")

    def size(self, what: str) -> int:
        first = self.number(1, what)
        if first < 0xFD:
            return first
        width = {0xFD: 2, 0xFE: 4, 0xFF: 8}[first]
        value = self.number(width, what)
        if len(compact_size(value)) != width + 1:
            raise DecodeError(f"size of {what} is not encoded in its shortest form")
        return value

    def blob(self, what: str) -> bytes:
        return self.take(self.size(what), what)

    @property
    def remaining(self) -> int:
        return len(self._data) - self._at


@dataclass(frozen=True)
class OutPoint:
    """An output named by the transaction that made it; `txid` in wire order."""

    txid: bytes
    index: int

    def encode(self) -> bytes:
        """Return the 36 bytes of the wire."""
        return self.txid + self.index.to_bytes(4, "little")

    def __str__(self) -> str:
        return f"{display_hash(self.txid)}:{self.index}"


@dataclass(frozen=True)
class TxIn:
    """One input with its witness stack (empty for a legacy input)."""

    prevout: OutPoint
    script: bytes = b""
    sequence: int = FINAL_SEQUENCE
    witness: tuple[bytes, ...] = ()

    def encode(self) -> bytes:
        """Return the input without its witness."""
        sequence = self.sequence.to_bytes(4, "little")
        return self.prevout.encode() + compact_size(len(self.script)) + self.script + sequence


@dataclass(frozen=True)
class TxOut:
    """One output: satoshis and the script that guards them."""

    amount_sat: int
    script: bytes

    def encode(self) -> bytes:
        """Return the output as on the wire."""
        return self.amount_sat.to_bytes(8, "little") + compact_size(len(self.script)) + self.script


@dataclass(frozen=True)
class Transaction:
    """A decoded transaction; equal values encode to equal bytes."""

    version: int
    inputs: tuple[TxIn, ...]
    outputs: tuple[TxOut, ...]
    locktime: int = 0

    @property
    def has_witness(self) -> bool:
        """Whether any input carries a witness, so that the segwit encoding is used."""
        return any(txin.witness for txin in self.inputs)

    @property
    def is_coinbase(self) -> bool:
        """Whether the only input is the null outpoint."""
        return len(self.inputs) == 1 and self.inputs[0].prevout == OutPoint(NULL_HASH, NULL_INDEX)

    def encode(self, *, witness: bool = True) -> bytes:
        """Return the bytes of the wire, without witnesses on request (those hash to the txid)."""
        segwit = witness and self.has_witness
        parts = [struct.pack("<i", self.version), b"\x00\x01" if segwit else b""]
        parts += [compact_size(len(self.inputs)), *(txin.encode() for txin in self.inputs)]
        parts += [compact_size(len(self.outputs)), *(txout.encode() for txout in self.outputs)]
        if segwit:
            for txin in self.inputs:
                parts.append(compact_size(len(txin.witness)))
                parts += [compact_size(len(item)) + item for item in txin.witness]
        parts.append(self.locktime.to_bytes(4, "little"))
        return b"".join(parts)

    def txid(self) -> bytes:
        """Return the transaction id in wire order."""
        return sha256d(self.encode(witness=False))

    def wtxid(self) -> bytes:
        """Return the id that covers witnesses, in wire order."""
        return sha256d(self.encode())


def _read_input(reader: _Reader) -> TxIn:
    prevout = OutPoint(reader.take(32, "an input's txid"), reader.number(4, "an input's index"))
    return TxIn(prevout, reader.blob("an input's script"), reader.number(4, "an input's sequence"))


def _read_output(reader: _Reader) -> TxOut:
    amount = reader.number(8, "an output's amount")
    if amount > MAX_MONEY:
        raise DecodeError(f"output amount {amount} is more than all bitcoin")
    return TxOut(amount, reader.blob("an output's script"))


def _read_witnesses(reader: _Reader, inputs: Sequence[TxIn]) -> tuple[TxIn, ...]:
    full = []
    for txin in inputs:
        count = reader.size("a witness stack")
        # Each item takes a byte at least, so a count past the end is a lie that must not cost memory.
        if count > reader.remaining:
            raise DecodeError("transaction ends inside a witness stack")
        stack = tuple(reader.blob("a witness item") for _ in range(count))
        full.append(TxIn(txin.prevout, txin.script, txin.sequence, stack))
    if not any(txin.witness for txin in full):
        raise DecodeError("segwit encoding without any witness")
    return tuple(full)


def decode_transaction(data: bytes) -> Transaction:
    """Decode exactly one transaction, legacy or segwit; raise `DecodeError` for anything that is not one."""
    if len(data) > MAX_TX_BYTES:
        raise DecodeError(f"transaction of {len(data)} bytes exceeds {MAX_TX_BYTES}")
    reader = _Reader(data)
    version = struct.unpack("<i", reader.take(4, "the version"))[0]
    count = reader.size("the inputs")
    segwit = count == 0
    if segwit:
        if reader.number(1, "the segwit flag") != 1:
            raise DecodeError("transaction has no inputs")
        count = reader.size("the inputs")
    inputs: tuple[TxIn, ...] = tuple(_read_input(reader) for _ in range(min(count, reader.remaining)))
    outputs = tuple(_read_output(reader) for _ in range(min(reader.size("the outputs"), reader.remaining)))
    if not inputs or not outputs:
        raise DecodeError("transaction needs an input and an output")
    if segwit:
        inputs = _read_witnesses(reader, inputs)
    locktime = reader.number(4, "the lock time")
    if reader.remaining:
        raise DecodeError(f"{reader.remaining} bytes follow the transaction")
    return Transaction(version, inputs, outputs, locktime)


def merkle_root(hashes: Sequence[bytes]) -> bytes:
    """Return the merkle root of wire-order hashes (at least one), repeating the last of an odd level."""
    level = list(hashes)
    while len(level) > 1:
        if len(level) % 2:
            level.append(level[-1])
        level = [sha256d(level[i] + level[i + 1]) for i in range(0, len(level), 2)]
    return level[0]


@dataclass(frozen=True)
class BlockHeader:
    """The 80 bytes that proof of work covers; hashes in wire order, `time` in Unix seconds."""

    version: int
    previous: bytes
    root: bytes
    time: int
    bits: int
    nonce: int

    def encode(self) -> bytes:
        """Return the 80 bytes of the wire."""
        start = struct.pack("<i", self.version) + self.previous + self.root
        return start + struct.pack("<III", self.time, self.bits, self.nonce)

    def hash(self) -> bytes:
        """Return the block hash in wire order."""
        return sha256d(self.encode())

    def target(self) -> int:
        """Return the number that the block hash must not exceed."""
        return int(self.bits & 0x7FFFFF) << (8 * ((self.bits >> 24) - 3))

    def has_work(self) -> bool:
        """Whether the hash meets the target."""
        return int.from_bytes(self.hash(), "little") <= self.target()


def encode_block(header: BlockHeader, transactions: Sequence[Transaction]) -> bytes:
    """Return a whole block as a node serves it."""
    body = b"".join(tx.encode() for tx in transactions)
    return header.encode() + compact_size(len(transactions)) + body
