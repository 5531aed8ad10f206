"""Bodies of invoice_request and invoice (docs/protocol/11-advisor-kit.md §15.10)."""

from __future__ import annotations

from typing import Any

import pytest
from hive_shared.errors import InvalidParams
from hive_shared.invoice_messages import Invoice, InvoiceRequest, Purpose, body_doc, read_body

ASKED: dict[str, Any] = {
    "purpose": "action",
    "amount_sats": 25,
    "due_at": 1_790_000_000,
    "idempotency_key": "hive:ab:1",
    "command_id": "00000000-0000-4000-8000-0000000000c1",
}
GIVEN: dict[str, Any] = {
    "idempotency_key": "hive:ab:1",
    "bolt11": "lnbcrt" + "q" * 40,
    "amount_sats": 25,
    "expires_at": 1_790_000_000,
}


def test_bodies_are_read_back_as_they_were_sent() -> None:
    asked, given = read_body(dict(ASKED), InvoiceRequest), read_body(dict(GIVEN), Invoice)
    assert asked.purpose is Purpose.ACTION and asked.contract_id is None
    assert (body_doc(asked), body_doc(given)) == (ASKED, GIVEN)


@pytest.mark.parametrize(
    "changes",
    [
        {"amount_sats": 0},
        {"amount_sats": True},
        {"amount_sats": "25"},
        {"amount_sats": 25.0},
        {"purpose": "tip"},
        {"contract_id": "c-1"},
        {"command_id": None},
        {"idempotency_key": ""},
        {"idempotency_key": "x" * 129},
        {"due_at": 1},
        {"more": 1},
    ],
    ids=str,
)
def test_a_request_with_anything_wrong_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidParams):
        read_body({**ASKED, **changes}, InvoiceRequest)


@pytest.mark.parametrize(
    "changes",
    [{"bolt11": "https://x"}, {"bolt11": "LNBCRT" + "Q" * 40}, {"amount_sats": -1}, {"fee": 1}],
    ids=str,
)
def test_an_invoice_with_anything_wrong_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidParams):
        read_body({**GIVEN, **changes}, Invoice)
    with pytest.raises(InvalidParams):
        read_body("lnbcrt", Invoice)
