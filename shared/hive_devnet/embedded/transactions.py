"""Bitcoin transactions, as far as the ledger writes them: segwit, real serialisation and txids."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import coincurve


@dataclass(frozen=True)
class TxInput:
    """A spent output. `amount_sat` and `key_hash` belong to the output (for the signature)."""

    txid: str
    vout: int
    amount_sat: int
    sequence: int = 0xFFFFFFFD


@dataclass(frozen=True)
class TxOutput:
    """A new output."""

    amount_sat: int
    script: bytes


def compact_size(number: int) -> bytes:
    """Bitcoin's CompactSize of a number below 65536."""
    if number < 0xFD:
        return bytes([number])
    return b"\xfd" + number.to_bytes(2, "little")


def _sized(data: bytes) -> bytes:
    return compact_size(len(data)) + data


def _hash(data: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


@dataclass(frozen=True)
class Transaction:
    """A version-2 transaction. `witnesses` has one stack per input."""

    inputs: tuple[TxInput, ...]
    outputs: tuple[TxOutput, ...]
    witnesses: tuple[tuple[bytes, ...], ...] = ()
    locktime: int = 0

    def _body(self) -> bytes:
        inputs = b"".join(
            _outpoint(item) + b"\x00" + item.sequence.to_bytes(4, "little") for item in self.inputs
        )
        return compact_size(len(self.inputs)) + inputs + compact_size(len(self.outputs)) + self._outputs()

    def _outputs(self) -> bytes:
        return b"".join(o.amount_sat.to_bytes(8, "little") + _sized(o.script) for o in self.outputs)

    @property
    def txid(self) -> str:
        """Transaction id in display order."""
        return _hash(_VERSION + self._body() + self.locktime.to_bytes(4, "little"))[::-1].hex()

    def serialize(self) -> bytes:
        """The transaction on the wire, with its witnesses if it has any."""
        tail = self.locktime.to_bytes(4, "little")
        if not self.witnesses:
            return _VERSION + self._body() + tail
        stacks = b"".join(
            compact_size(len(stack)) + b"".join(_sized(item) for item in stack) for stack in self.witnesses
        )
        return _VERSION + b"\x00\x01" + self._body() + stacks + tail

    def signature(self, index: int, script_code: bytes, key: coincurve.PrivateKey) -> bytes:
        """BIP 143 signature (SIGHASH_ALL) of input `index`."""
        spent = self.inputs[index]
        preimage = b"".join(
            (
                _VERSION,
                _hash(b"".join(_outpoint(i) for i in self.inputs)),
                _hash(b"".join(i.sequence.to_bytes(4, "little") for i in self.inputs)),
                _outpoint(spent),
                _sized(script_code),
                spent.amount_sat.to_bytes(8, "little"),
                spent.sequence.to_bytes(4, "little"),
                _hash(self._outputs()),
                self.locktime.to_bytes(4, "little"),
                (1).to_bytes(4, "little"),
            )
        )
        return key.sign(_hash(preimage), hasher=None) + b"\x01"


_VERSION = (2).to_bytes(4, "little")


def _outpoint(item: TxInput) -> bytes:
    return bytes.fromhex(item.txid)[::-1] + item.vout.to_bytes(4, "little")


def sign_p2wpkh(
    tx: Transaction, keys: Sequence[coincurve.PrivateKey], key_hashes: Sequence[bytes]
) -> Transaction:
    """`tx` with a witness on every input; each spends a P2WPKH output of the matching key."""
    stacks = []
    for index, (key, key_hash) in enumerate(zip(keys, key_hashes, strict=True)):
        script_code = b"\x76\xa9\x14" + key_hash + b"\x88\xac"
        stacks.append((tx.signature(index, script_code, key), key.public_key.format()))
    return Transaction(tx.inputs, tx.outputs, tuple(stacks), tx.locktime)


def funding_script(key_a: bytes, key_b: bytes) -> bytes:
    """The 2-of-2 witness script of a channel (BOLT 3)."""
    first, second = sorted((key_a, key_b))
    return b"\x52\x21" + first + b"\x21" + second + b"\x52\xae"


def sign_funding(
    tx: Transaction, script: bytes, keys: Sequence[coincurve.PrivateKey], index: int = 0
) -> Transaction:
    """`tx`, whose input `index` spends a channel's funding output, with both signatures on it; what else
    is signed stays."""
    ordered = sorted(keys, key=lambda key: key.public_key.format())
    stacks = list(tx.witnesses or ((),) * len(tx.inputs))
    stacks[index] = (b"", *(tx.signature(index, script, key) for key in ordered), script)
    return Transaction(tx.inputs, tx.outputs, tuple(stacks), tx.locktime)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        piece = self._data[self._at : self._at + size]
        if len(piece) != size:
            raise ValueError("transaction ends early")
        self._at += size
        return piece

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def size(self) -> int:
        first = self.number(1)
        return first if first < 0xFD else self.number(2)

    def sized(self) -> bytes:
        return self.take(self.size())


def parse_transaction(raw: bytes, *, unsigned: bool = False) -> Transaction:
    """A transaction written by `serialize`; input amounts are not on the wire and come out 0. `unsigned`
    when it cannot have witnesses, so that no inputs and one output are not taken for their marker."""
    reader = _Reader(raw)
    reader.take(4)
    segwit = not unsigned and raw[4:6] == b"\x00\x01"
    if segwit:
        reader.take(2)
    inputs = []
    for _ in range(reader.size()):
        txid = reader.take(32)[::-1].hex()
        vout = reader.number(4)
        reader.sized()
        inputs.append(TxInput(txid, vout, 0, reader.number(4)))
    outputs = []
    for _ in range(reader.size()):
        amount = reader.number(8)
        outputs.append(TxOutput(amount, reader.sized()))
    stacks: tuple[tuple[bytes, ...], ...] = ()
    if segwit:
        stacks = tuple(tuple(reader.sized() for _ in range(reader.size())) for _ in inputs)
    return Transaction(tuple(inputs), tuple(outputs), stacks, reader.number(4))
