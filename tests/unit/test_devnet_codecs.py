"""The development network's own codecs: RPC framing, bech32, BOLT 11, runes, transactions, CLI values."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hive_devnet import cli
from hive_devnet.embedded import bech32, runes
from hive_devnet.embedded.bolt11 import Bolt11Error, Invoice, decode_invoice, encode_invoice
from hive_devnet.embedded.keys import NodeKeys
from hive_devnet.embedded.params import parse_msat
from hive_devnet.embedded.transactions import Transaction, TxInput, TxOutput, parse_transaction
from hive_devnet.rpc import FramingError, ObjectSplitter
from hypothesis import given, settings
from hypothesis import strategies as st

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
# An invoice made by lightningd v26.06.6 on regtest.
_REAL = (
    "lnbcrt100n1p4sze28sp54n2luyra5anyjpv30hzr0xnsl9cdsnjnl8tfnm743adz3pgstmkqpp5809pku8v02jdakm7msshlevhnxg60ws4"
    "dt58yh7z8rj39fpx6jtqdqzvsxqyjw5qcqp29qxpqysgqv4j38657whdl074f48sl877z35y3cj5fqrmzqkyepksas7vykqh8xe2pvmutzl"
    "6da49vctxls0kfhx2jclnfy6htwhfsacmuadjzwpcqpz30qy"
)
_KEYS = NodeKeys(b"\x05" * 32)


@settings(max_examples=150, deadline=None)
@given(
    messages=st.lists(st.dictionaries(st.text(), _JSON, max_size=3), max_size=5),
    gap=st.sampled_from(["", "\n\n", " ", "\r\n\t"]),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    ascii_only=st.booleans(),
)
def test_any_cut_of_the_stream_gives_the_same_objects(
    messages: list[dict[str, object]], gap: str, sizes: list[int], ascii_only: bool
) -> None:
    stream = gap.join(json.dumps(message, ensure_ascii=ascii_only) for message in messages)
    data = stream.encode("utf-8", "surrogatepass")
    splitter = ObjectSplitter()
    found: list[bytes] = []
    position = index = 0
    while position < len(data):
        size = sizes[index % len(sizes)]
        found += splitter.feed(data[position : position + size])
        position, index = position + size, index + 1
    assert found == [
        json.dumps(message, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass") for message in messages
    ]


@pytest.mark.parametrize("garbage", [b"garbage", b'"text"', b"}", b"1 {}", b"{} x"])
def test_text_between_objects_is_refused(garbage: bytes) -> None:
    with pytest.raises(FramingError):
        ObjectSplitter().feed(garbage)


def test_an_endless_object_is_refused() -> None:
    splitter = ObjectSplitter(limit=1000)
    with pytest.raises(FramingError, match="larger than 1000 bytes"):
        for _ in range(20):
            splitter.feed(b'{"a":"' + b"x" * 100)


def test_an_invoice_of_lightningd_is_read() -> None:
    invoice = decode_invoice(_REAL)
    assert invoice.payee == "0356a389c1fcf5dd315abc4e5006e1470fb8866f9d2d05022b4d85cd4f517ce0ca"
    assert (invoice.amount_msat, invoice.description, invoice.expiry) == (10_000, "d", 604_800)
    assert (invoice.min_final_cltv, invoice.features) == (10, "02024100")
    assert invoice.der_signature.startswith("30440220656513ea9e75dbf7faa9a9e1f3fbc28d09")


@settings(max_examples=60, deadline=None)
@given(
    amount=st.none() | st.integers(1, 21 * 10**17),
    text=st.text(max_size=60),
    expiry=st.integers(0, 1 << 40),
    cltv=st.integers(0, 1 << 20),
)
def test_invoices_survive_the_way_there_and_back(
    amount: int | None, text: str, expiry: int, cltv: int
) -> None:
    text = text.encode("utf-8", "ignore").decode()
    invoice = Invoice(
        payee=_KEYS.node_id,
        payment_hash="ab" * 32,
        payment_secret="cd" * 32,
        created_at=1_700_000_000,
        amount_msat=amount,
        description=text,
        expiry=expiry,
        min_final_cltv=cltv,
        features="024100",
    )
    decoded = decode_invoice(encode_invoice(invoice, _KEYS.sign_invoice))
    assert replace(decoded, signature=b"") == invoice


@settings(max_examples=100, deadline=None)
@given(position=st.integers(0, len(_REAL) - 1), letter=st.sampled_from("qpzry9x8gf2tvdw0s3jn54khce6mua7l1b"))
def test_a_changed_letter_spoils_an_invoice(position: int, letter: str) -> None:
    changed = _REAL[:position] + letter + _REAL[position + 1 :]
    if changed != _REAL:
        with pytest.raises(Bolt11Error):
            decode_invoice(changed)


@given(
    version=st.integers(0, 16),
    program=st.binary(min_size=20, max_size=20) | st.binary(min_size=32, max_size=32),
)
def test_addresses_survive(version: int, program: bytes) -> None:
    address = bech32.segwit_address(version, program)
    assert bech32.address_script(address) == bech32.segwit_script(version, program)
    with pytest.raises(ValueError):
        bech32.address_script(address[:-1] + ("q" if address[-1] != "q" else "p"))


@given(
    inputs=st.lists(
        st.tuples(st.binary(min_size=32, max_size=32), st.integers(0, 9)), min_size=1, max_size=3
    ),
    outputs=st.lists(st.tuples(st.integers(0, 10**15), st.binary(max_size=300)), min_size=1, max_size=3),
    signed=st.booleans(),
)
def test_transactions_survive(
    inputs: list[tuple[bytes, int]], outputs: list[tuple[int, bytes]], signed: bool
) -> None:
    stacks = tuple((b"\x01" * 71, b"\x02" * 33) for _ in inputs) if signed else ()
    tx = Transaction(
        tuple(TxInput(txid.hex(), vout, 0) for txid, vout in inputs),
        tuple(TxOutput(amount, script) for amount, script in outputs),
        stacks,
    )
    assert parse_transaction(tx.serialize()) == tx
    assert Transaction(tx.inputs, tx.outputs).txid == tx.txid


_FIELD = st.from_regex(r"\A[a-z_][a-z0-9_]{0,10}\Z")
_ALTERNATIVE = st.builds(
    runes.Alternative,
    _FIELD,
    st.sampled_from(runes.CONDITIONS),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12),
)


@settings(max_examples=100, deadline=None)
@given(restrictions=st.lists(st.lists(_ALTERNATIVE, min_size=1, max_size=3).map(tuple), max_size=4))
def test_runes_survive_and_cannot_be_loosened(restrictions: list[tuple[runes.Alternative, ...]]) -> None:
    identity = (runes.Alternative("", "=", "7"),)
    rune = runes.make_rune(b"\x01" * 32, (identity, *restrictions))
    parsed = runes.parse_rune(rune.encode())
    assert parsed == rune
    assert parsed.unique_id == "7"
    if restrictions:
        fewer = (identity, *restrictions[:-1])
        assert runes.make_rune(b"\x01" * 32, fewer).code != rune.code
    assert runes.make_rune(b"\x02" * 32, rune.restrictions).code != rune.code


@pytest.mark.parametrize("text", ["", "zz", "AAAA", "====", "é"])
def test_what_is_no_rune_is_refused(text: str) -> None:
    with pytest.raises(runes.RuneError):
        runes.parse_rune(text)


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("1000", 1000),
        ("1000msat", 1000),
        ("1sat", 1000),
        ("1.5sat", 1500),
        ("0.00000001btc", 1000),
        ("1btc", 100_000_000_000),
        ("1.5", None),
        ("1.5555sat", None),
        ("-1", None),
        ("x", None),
        ("", None),
    ],
)
def test_amounts_with_units(text: str, amount: int | None) -> None:
    assert parse_msat(text) == amount


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], []),
        (["a", "1", "true", "null", "01", "1.50", "-3", "[1]", '{"a":1}', "{bad"], None),
        (["id=103x1x0", "feeppm=10", "label="], {"id": "103x1x0", "feeppm": 10, "label": ""}),
        (["key=[1]", "x=a=b"], {"key": [1], "x": "a=b"}),
    ],
)
def test_cli_arguments_are_read_as_lightning_cli_reads_them(arguments: list[str], expected: object) -> None:
    parsed = cli.parameters(arguments)
    if expected is None:
        assert parsed == ["a", 1, True, None, "01", 1.5, -3, [1], {"a": 1}, "{bad"]
    else:
        assert parsed == expected


def test_cli_styles_are_forced_by_flags() -> None:
    assert cli.parameters(["a=1"], order=True) == ["a=1"]
    with pytest.raises(ValueError, match="expected key=value instead of 'a'"):
        cli.parameters(["a"], keywords=True)
    with pytest.raises(ValueError, match="expected key=value instead of 'b'"):
        cli.parameters(["a=1", "b"])
