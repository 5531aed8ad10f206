"""Invoices read without a node, beside the development network's own codec."""

from __future__ import annotations

import pytest
from coincurve import PrivateKey
from hive_devnet.embedded import bolt11 as codec
from hive_shared.bolt11 import read_invoice
from hive_shared.errors import InvalidParams
from hypothesis import given
from hypothesis import strategies as st

KEY = PrivateKey((5).to_bytes(32, "big"))


def made(amount_msat: int | None, expiry: int = 600) -> str:
    invoice = codec.Invoice(
        payee=KEY.public_key.format().hex(),
        payment_hash="ab" * 32,
        payment_secret="cd" * 32,
        created_at=1_770_000_000,
        amount_msat=amount_msat,
        description="one action",
        expiry=expiry,
    )
    return codec.encode_invoice(invoice, lambda digest: KEY.sign_recoverable(digest, hasher=None))


@given(st.none() | st.integers(1, 21 * 10**17), st.integers(1, 2**30))
def test_what_was_written_is_read(amount_msat: int | None, expiry: int) -> None:
    text = made(amount_msat, expiry)
    read = read_invoice(text)
    assert (read.amount_msat, read.payment_hash, read.prefix) == (amount_msat, "ab" * 32, "bcrt")
    assert (read.created_at, read.expires_at) == (1_770_000_000, 1_770_000_000 + expiry)
    assert read_invoice(text.upper()) == read


def test_every_changed_character_is_noticed() -> None:
    text = made(5_000)
    for at in range(4, len(text)):
        with pytest.raises(InvalidParams):
            read_invoice(text[:at] + ("q" if text[at] != "q" else "p") + text[at + 1 :])


@given(
    st.text(max_size=60) | st.text("qpzry9x8gf2tvdw0s3jn54khce6mua7l", max_size=300).map("lnbcrt1".__add__)
)
def test_any_text_is_read_or_refused(text: str) -> None:
    with pytest.raises(InvalidParams):
        read_invoice(text)


@pytest.mark.parametrize("text", ["", "lno1abc", "lnbcrt", "lnbcrt1", "ln" + "q" * 5_000, "LNbcrt1qqq"])
def test_what_is_no_invoice_is_refused(text: str) -> None:
    with pytest.raises(InvalidParams):
        read_invoice(text)
