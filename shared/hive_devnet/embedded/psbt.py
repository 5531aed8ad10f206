"""PSBTs (BIP 174): finished ones that a result carries, and ones that pass between commands."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from hive_devnet.embedded.transactions import Transaction, TxInput, compact_size, parse_transaction

_WITNESS_UTXO, _FINAL_WITNESS = b"\x01", b"\x08"


def _record(key: bytes, value: bytes) -> bytes:
    return compact_size(len(key)) + key + compact_size(len(value)) + value


@dataclass(frozen=True)
class Psbt:
    """A transaction on its way: its witnesses (an empty stack for what is not signed), and the
    scriptPubKeys its inputs spend."""

    tx: Transaction
    spent_scripts: tuple[bytes, ...]

    @property
    def witnesses(self) -> tuple[tuple[bytes, ...], ...]:
        """One stack for each input."""
        return self.tx.witnesses or ((),) * len(self.tx.inputs)

    def text(self) -> str:
        """Base64, version 0."""
        unsigned = Transaction(self.tx.inputs, self.tx.outputs, (), self.tx.locktime).serialize()
        parts = [b"psbt\xff", _record(b"\x00", unsigned), b"\x00"]
        for item, script, stack in zip(self.tx.inputs, self.spent_scripts, self.witnesses, strict=True):
            spent = item.amount_sat.to_bytes(8, "little") + compact_size(len(script)) + script
            parts.append(_record(_WITNESS_UTXO, spent))
            if stack:
                witness = b"".join(compact_size(len(data)) + data for data in stack)
                parts.append(_record(_FINAL_WITNESS, compact_size(len(stack)) + witness))
            parts.append(b"\x00")
        parts += [b"\x00"] * len(self.tx.outputs)
        return base64.b64encode(b"".join(parts)).decode()


def finished_psbt(tx: Transaction, spent_scripts: Sequence[bytes]) -> str:
    """Base64 PSBT of a signed transaction; `spent_scripts` are the scriptPubKeys its inputs spend."""
    return Psbt(tx, tuple(spent_scripts)).text()


def unsigned_psbt(tx: Transaction, spent_scripts: Sequence[bytes]) -> str:
    """Base64 PSBT of a transaction that is still to be signed."""
    return Psbt(Transaction(tx.inputs, tx.outputs, (), tx.locktime), tuple(spent_scripts)).text()


def _size(stream: io.BytesIO) -> int:
    first = stream.read(1)
    if not first:
        raise ValueError("the PSBT ends early")
    return first[0] if first[0] < 0xFD else int.from_bytes(stream.read(2), "little")


def _map(stream: io.BytesIO) -> Iterator[tuple[bytes, bytes]]:
    while size := _size(stream):
        key = stream.read(size)
        yield key, stream.read(_size(stream))


def read_psbt(text: str) -> Psbt:
    """A PSBT of this module. Raises ValueError."""
    raw = base64.b64decode(text, validate=True)
    if raw[:5] != b"psbt\xff":
        raise ValueError("not a PSBT")
    stream = io.BytesIO(raw[5:])
    head = dict(_map(stream))
    if b"\x00" not in head:
        raise ValueError("not a PSBT of version 0")
    tx = parse_transaction(head[b"\x00"], unsigned=True)
    inputs: list[TxInput] = []
    scripts: list[bytes] = []
    stacks: list[tuple[bytes, ...]] = []
    for item in tx.inputs:
        fields = dict(_map(stream))
        spent = io.BytesIO(fields.get(_WITNESS_UTXO, b"\x00" * 9))
        inputs.append(replace(item, amount_sat=int.from_bytes(spent.read(8), "little")))
        scripts.append(spent.read(_size(spent)))
        witness = io.BytesIO(fields.get(_FINAL_WITNESS, b"\x00"))
        stacks.append(tuple(witness.read(_size(witness)) for _ in range(_size(witness))))
    witnesses = tuple(stacks) if any(stacks) else ()
    return Psbt(Transaction(tuple(inputs), tx.outputs, witnesses, tx.locktime), tuple(scripts))


def transaction_of(text: str) -> Transaction:
    """The unsigned transaction inside a PSBT of this module. Raises ValueError."""
    tx = read_psbt(text).tx
    return Transaction(tx.inputs, tx.outputs, (), tx.locktime)
