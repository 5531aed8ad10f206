"""Finished transactions as PSBTs (BIP 174), for commands whose result carries one."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from hive_devnet.embedded.transactions import Transaction, compact_size


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
