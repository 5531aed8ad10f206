"""Reading PSBTs (domain/psbt.py), written by another implementation and by CLN."""

from __future__ import annotations

import base64

import pytest
from cl_hive_comms.domain.psbt import unsigned_of
from hive_devnet.embedded.psbt import Psbt
from hive_devnet.embedded.transactions import Transaction, TxInput, TxOutput


def test_the_transaction_and_its_txid_are_read() -> None:
    coins = tuple(TxInput(f"{n:064x}", n, 50_000 + n) for n in range(1, 4))
    outputs = (TxOutput(70_000, b"\x00\x14" + b"\x01" * 20), TxOutput(60_000, b"\x51\x20" + b"\x02" * 32))
    tx = Transaction(coins, outputs, locktime=119)
    read = unsigned_of(Psbt(tx, (b"\x00\x14" + b"\x03" * 20,) * 3).text())
    assert read.txid == tx.txid
    assert read.tx.inputs == tuple(f"{n:064x}:{n}" for n in range(1, 4))
    assert read.tx.outputs_sat == (70_000, 60_000)


def test_signatures_do_not_move_the_txid() -> None:
    tx = Transaction((TxInput("ab" * 32, 0, 9_000),), (TxOutput(8_000, b"\x51\x20" + b"\x02" * 32),))
    signed = Transaction(tx.inputs, tx.outputs, ((b"\x30" * 71, b"\x02" * 33),))
    script = (b"\x00\x14" + b"\x03" * 20,)
    assert unsigned_of(Psbt(signed, script).text()).txid == unsigned_of(Psbt(tx, script).text()).txid


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("zz", "base64"),
        ("", "no PSBT"),
        (base64.b64encode(b"psbt\xff").decode(), "ends early"),
        (base64.b64encode(b"psbt\xff\x01\x00").decode(), "ends early"),
        (base64.b64encode(b"psbt\xff\x01\x00\x04abcd").decode(), "ends early"),
        # Version 2 has no transaction in one piece.
        (base64.b64encode(b"psbt\xff\x01\x02\x04\x02\x00\x00\x00\x00").decode(), "version 0"),
    ],
)
def test_what_is_no_psbt_of_version_0(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        unsigned_of(text)
