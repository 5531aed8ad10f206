"""Which coins may be spent, what a transaction of them costs, and reading one (02 §4 item 10)."""

from __future__ import annotations

import pytest
from cl_hive_comms.domain.bitcoin_tx import parse_tx
from cl_hive_comms.domain.coins import child_feerate, coins_of, fee_of, most_inputs, spendable, weight_of
from hive_devnet.embedded.transactions import Transaction, TxInput, TxOutput
from hypothesis import given
from hypothesis import strategies as st
from node_with_wallet import raw_tx

TXID = "ab" * 32


def row(n: int, amount: int, block: int | None, **more: object) -> dict[str, object]:
    shown: dict[str, object] = {"txid": TXID, "output": n, "amount_msat": amount * 1_000}
    return {**shown, "status": "confirmed" if block else "unconfirmed", "blockheight": block, **more}


def test_depth_and_reservations_decide_what_may_be_spent() -> None:
    coins = coins_of(
        [
            row(0, 500, 100),
            row(1, 400, 95),
            row(2, 300, None),
            row(3, 200, 90, reserved=True, reserved_to_block=130),
            row(4, 100, 90, status="spent"),
            row(5, 100, 90, status="immature"),
        ],
        100,
    )
    assert [(coin.outpoint[-1], coin.depth, coin.reserved_to) for coin in coins] == [
        ("0", 1, 0),
        ("1", 6, 0),
        ("2", 0, 0),
        ("3", 11, 130),
    ]
    assert [coin.amount_sat for coin in spendable(coins, 1)] == [400, 500]
    assert [coin.amount_sat for coin in spendable(coins, 2)] == [400]
    assert [coin.amount_sat for coin in spendable(coins, 0)] == [300, 400, 500]
    # The node may take the smallest first, and one more for the fee.
    assert [most_inputs(spendable(coins, 0), amount) for amount in (300, 301, 701)] == [2, 3, 4]


def test_fees_are_rounded_up() -> None:
    assert weight_of(1, 2) == 44 + 272 + 2 * 172
    assert (fee_of(1, 2, 253), fee_of(1, 2, 1_000)) == (167, 660)


@given(st.integers(253, 100_000), st.integers(200, 400_000), st.integers(0, 10_000_000))
def test_a_child_lifts_both_to_the_rate_and_no_rate_below_it(rate: int, weight: int, paid: int) -> None:
    child = child_feerate(rate, weight, paid)
    together = paid + fee_of(1, 1, child)
    assert child >= rate and together * 1_000 >= rate * (weight + weight_of(1, 1))
    if child > rate:
        # One less and the sum misses the rate, but for rounding.
        less = paid + (child - 1) * weight_of(1, 1) // 1_000
        assert less * 1_000 < rate * (weight + weight_of(1, 1)) + 1_000


def test_a_transaction_is_read_with_and_without_witnesses() -> None:
    inputs, outputs = [f"{TXID}:7", f"{'cd' * 32}:0"], [1_000, 2**40]
    bare = parse_tx(raw_tx(inputs, outputs))
    assert (list(bare.inputs), list(bare.outputs_sat)) == (inputs, outputs)
    assert bare.weight == 4 * len(raw_tx(inputs, outputs)) // 2
    paid = TxOutput(1_000, b"\x00\x14" + b"\x07" * 20)
    witness = (b"\x30" * 71, b"\x02" * 33)
    tx = Transaction((TxInput(TXID, 7, 5_000),), (paid,), (witness,))
    signed = parse_tx(tx.serialize().hex())
    naked = parse_tx(Transaction(tx.inputs, tx.outputs).serialize().hex())
    assert signed.inputs == (f"{TXID}:7",) and signed.outputs_sat == (1_000,)
    # Marker, flag, a count and two items with their lengths weigh one unit a byte.
    assert signed.weight == naked.weight + 2 + 1 + 72 + 34


@pytest.mark.parametrize("cut", [0, 3, 10, 45, 80])
def test_a_broken_transaction_is_refused(cut: int) -> None:
    whole = raw_tx([f"{TXID}:7"], [1_000])
    with pytest.raises(ValueError, match="ends early"):
        parse_tx(whole[: 2 * cut])
    with pytest.raises(ValueError, match="after the transaction"):
        parse_tx(whole + "00")
