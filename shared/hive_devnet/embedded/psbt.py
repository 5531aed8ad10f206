"""Finished transactions as PSBTs (BIP 174), for commands whose result carries one."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from hive_devnet.embedded.transactions import Transaction, compact_size, parse_transaction


def _record(key: bytes, value: bytes) -> bytes:
    return compact_size(len(key)) + key + compact_size(len(value)) + value


def finished_psbt(tx: Transaction, spent_scripts: Sequence[bytes]) -> str:
    """Base64 PSBT of a signed transaction; `spent_scripts` are the scriptPubKeys its inputs spend."""
    unsigned = Transaction(tx.inputs, tx.outputs, (), tx.locktime).serialize()
    parts = [b"psbt\xff", _record(b"\x00", unsigned), b"\x00"]
    for item, script, stack in zip(tx.inputs, spent_scripts, tx.witnesses, strict=True):
        spent = item.amount_sat.to_bytes(8, "little") + compact_size(len(script)) + script
        witness = compact_size(len(stack)) + b"".join(compact_size(len(data)) + data for data in stack)
        parts += [_record(b"\x01", spent), _record(b"\x08", witness), b"\x00"]
    parts += [b"\x00"] * len(tx.outputs)
    return base64.b64encode(b"".join(parts)).decode()


def unsigned_psbt(tx: Transaction, spent_scripts: Sequence[bytes]) -> str:
    """Base64 PSBT of a transaction that is still to be signed."""
    bare = Transaction(tx.inputs, tx.outputs, (), tx.locktime).serialize()
    parts = [b"psbt\xff", _record(b"\x00", bare), b"\x00"]
    for item, script in zip(tx.inputs, spent_scripts, strict=True):
        spent = item.amount_sat.to_bytes(8, "little") + compact_size(len(script)) + script
        parts += [_record(b"\x01", spent), b"\x00"]
    parts += [b"\x00"] * len(tx.outputs)
    return base64.b64encode(b"".join(parts)).decode()


def transaction_of(text: str) -> Transaction:
    """The unsigned transaction inside a PSBT of this module. Raises ValueError."""
    raw = base64.b64decode(text, validate=True)
    if raw[:7] != b"psbt\xff\x01\x00":
        raise ValueError("not a PSBT")
    size, start = raw[7], 8
    if size >= 0xFD:
        size, start = int.from_bytes(raw[8:10], "little"), 10
    return parse_transaction(raw[start : start + size])
