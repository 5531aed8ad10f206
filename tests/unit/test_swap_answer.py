"""What swap services answer: words, numbers and ids of a known form, nothing else (docs/decisions/0412)."""

from __future__ import annotations

from typing import Any

import pytest
from cl_hive_comms.domain.swap_answer import (
    SwapAnswer,
    boltz_answer,
    boltz_quote,
    boltz_status,
    own_answer,
)

TXID = "ab" * 32


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ({"status": "done", "id": "s1", "fee_sats": 90, "txid": TXID}, SwapAnswer("done", "s1", 90, TXID)),
        ({"status": "pending", "id": "s-1:x"}, SwapAnswer("pending", "s-1:x")),
        ({"status": "rejected", "reason": "no <b>funds</b>"}, SwapAnswer("rejected")),
        ({"status": "Done"}, SwapAnswer("unclear")),
        ({}, SwapAnswer("unclear")),
        ({"status": ["done"]}, SwapAnswer("unclear")),
        ({"status": "done", "id": "a b", "fee_sats": -1, "txid": "AB" * 32}, SwapAnswer("done")),
        ({"status": "done", "id": 7, "fee_sats": True, "txid": TXID[1:]}, SwapAnswer("done")),
        ({"status": "done", "fee_sats": "90"}, SwapAnswer("done", None, 90)),
        ({"status": "done", "fee_sats": 10**16}, SwapAnswer("done")),
    ],
)
def test_a_configured_methods_answer(answer: dict[str, Any], read: SwapAnswer) -> None:
    assert own_answer(answer) == read


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ({"status": "accepted", "result": {"id": "q1"}}, SwapAnswer("pending", "q1")),
        ({"status": "rejected", "error": "budget"}, SwapAnswer("rejected")),
        ({"status": "accepted", "result": {}}, SwapAnswer("unclear")),
        ({"status": "accepted", "result": "q1"}, SwapAnswer("unclear")),
        ({"error": "timed out"}, SwapAnswer("unclear")),
    ],
)
def test_what_a_loop_answers(answer: dict[str, Any], read: SwapAnswer) -> None:
    assert boltz_answer(answer) == read
    assert boltz_quote({"estimated_total_fee_sats": 310}) == 310
    assert boltz_quote({"estimated_total_fee_sats": "many"}) is boltz_quote({}) is None


@pytest.mark.parametrize(
    ("entry", "read"),
    [
        ({"state": "SUCCESSFUL", "serviceFee": "20", "onchainFee": 7}, SwapAnswer("done", "q1", 27)),
        ({"state": "PENDING", "status": "transaction.mempool"}, SwapAnswer("pending", "q1")),
        ({"state": "PENDING", "status": "transaction.claimed"}, SwapAnswer("done", "q1")),
        ({"state": "REFUNDED", "status": "swap.expired"}, SwapAnswer("failed", "q1")),
        ({"state": "SERVER_ERROR"}, SwapAnswer("failed", "q1")),
        (
            {"state": "SUCCESSFUL", "claimTransactionId": TXID, "lockupTransactionId": "cd" * 32},
            SwapAnswer("done", "q1", None, TXID),
        ),
        ({}, SwapAnswer("pending", "q1")),
    ],
)
def test_how_a_swap_stands(entry: dict[str, Any], read: SwapAnswer) -> None:
    assert boltz_status({"swapinfo_entry": {"id": "q1", **entry}}, "q1") == read
    assert boltz_status({"swapinfo_entry": None, "listswaps_entry": {"id": "q1", **entry}}, "q1") == read
    # Another swap's row says nothing about this one.
    other = boltz_status({"swapinfo_entry": {"id": "q2", "state": "SUCCESSFUL"}}, "q1")
    assert other == SwapAnswer("pending", "q1")
