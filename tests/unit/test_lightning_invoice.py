"""Reading what an invoice or an offer asks for (02 §4 item 9)."""

from __future__ import annotations

from typing import Any

import pytest
from cl_hive_comms.domain.lightning_invoice import (
    Kind,
    amount_of,
    asked_by,
    check_payable,
    fee_bound_msat,
    plain,
    sats_up,
)
from cl_hive_comms.domain.recurrence import LATEST_S
from hive_shared.errors import HiveError

NOW = 1_800_000_000
SHOP, OWN = "03" + "5e" * 32, "02" + "aa" * 32
BOLT11 = {
    "type": "bolt11 invoice",
    "valid": True,
    "payee": SHOP,
    "payment_hash": "ab" * 32,
    "created_at": NOW,
    "expiry": 3_600,
    "amount_msat": 5_000,
}
BOLT12 = {
    "type": "bolt12 invoice",
    "valid": True,
    "invoice_node_id": SHOP,
    "invoice_payment_hash": "cd" * 32,
    "invoice_created_at": NOW,
    "invoice_amount_msat": 7_000,
}
OFFER: dict[str, Any] = {"type": "bolt12 offer", "valid": True, "offer_issuer_id": SHOP}


@pytest.mark.parametrize(
    ("given", "network", "kind"),
    [
        ("lnbc1qqqqqq", "bitcoin", "bolt11 invoice"),
        ("lnbc2500u1qqqqqq", "bitcoin", "bolt11 invoice"),
        ("lntb20m1qqqqqq", "testnet", "bolt11 invoice"),
        ("lntb1qqqqqq", "testnet4", "bolt11 invoice"),
        ("lntbs1qqqqqq", "signet", "bolt11 invoice"),
        ("LIGHTNING:LNBCRT10N1QQQQQQ", "regtest", "bolt11 invoice"),
        ("Lightning:lni1qqqqqq", "bitcoin", "bolt12 invoice"),
        (" lno1qqqqqq\t", "bitcoin", "bolt12 offer"),
    ],
)
def test_what_kind_it_is(given: str, network: str, kind: str) -> None:
    found, text = plain(given, network)
    assert found == kind and text == given.strip().lower().removeprefix("lightning:")


@pytest.mark.parametrize(
    ("given", "network", "said"),
    [
        ("lnbcrt1qqqqqq", "bitcoin", "is for regtest, this node is on bitcoin"),
        ("lnbc1qqqqqq", "signet", "is for bitcoin, this node is on signet"),
        ("lntbs1qqqqqq", "testnet", "is for signet"),
        ("lnBC1qqqqqq", "bitcoin", "no BOLT 11 invoice"),
        ("lnbc0u1qqqqqq", "bitcoin", "no BOLT 11 invoice"),
        ("lnbc1qqbqqq", "bitcoin", "no BOLT 11 invoice"),
        ("lno1+qqqqqq", "bitcoin", "no BOLT 11 invoice"),
        ("lightning:", "bitcoin", "no BOLT 11 invoice"),
        ("lnr1qqqqqq", "bitcoin", "invoice request"),
        ("alice@example.com", "bitcoin", "no BOLT 11 invoice"),
    ],
)
def test_what_is_none(given: str, network: str, said: str) -> None:
    with pytest.raises(HiveError, match=said):
        plain(given, network)


def test_an_invoice_says_whom_how_much_and_until_when() -> None:
    asked = asked_by("bolt11 invoice", "x", BOLT11)
    assert (asked.payee, asked.amount_msat, asked.expires_at) == (SHOP, 5_000, NOW + 3_600)
    newer = asked_by("bolt12 invoice", "x", BOLT12)
    assert (newer.payment_hash, newer.amount_msat, newer.expires_at) == ("cd" * 32, 7_000, NOW + 7_200)
    offer = asked_by("bolt12 offer", "x", {**OFFER, "offer_amount_msat": 9, "offer_absolute_expiry": NOW})
    assert (offer.payment_hash, offer.amount_msat, offer.expires_at) == (None, 9, NOW)
    hidden = asked_by("bolt12 offer", "x", {"type": "bolt12 offer", "valid": True})
    assert (hidden.payee, hidden.amount_msat, hidden.expires_at) == (None, None, None)


@pytest.mark.parametrize(
    ("kind", "decoded", "said"),
    [
        ("bolt11 invoice", {**BOLT11, "valid": False}, "damaged"),
        ("bolt11 invoice", BOLT12, "damaged"),
        ("bolt12 offer", {**OFFER, "offer_currency": "EUR"}, "another currency"),
        ("bolt12 offer", {**OFFER, "offer_recurrence": {}}, "periods that this version cannot read"),
    ],
)
def test_what_cannot_be_paid(kind: Kind, decoded: dict[str, Any], said: str) -> None:
    with pytest.raises(HiveError, match=said):
        asked_by(kind, "x", decoded)


def test_times_beyond_all_calendars() -> None:
    """Whoever makes an invoice names its times; no database holds all of them."""
    never = asked_by("bolt12 invoice", "x", {**BOLT12, "invoice_created_at": 2**64 - 1})
    offer = asked_by("bolt12 offer", "x", {**OFFER, "offer_absolute_expiry": 2**64 - 1})
    old = asked_by("bolt11 invoice", "x", {**BOLT11, "expiry": 2**60 - 1})
    assert never.expires_at == offer.expires_at == old.expires_at == LATEST_S
    with pytest.raises(HiveError, match="counts its periods from a time"):
        asked_by("bolt12 invoice", "x", {**BOLT12, "invoice_recurrence_basetime": LATEST_S + 1})


def test_either_the_invoice_or_the_payer_names_the_amount() -> None:
    fixed = asked_by("bolt11 invoice", "x", BOLT11)
    assert amount_of(fixed, None) == amount_of(fixed, 5_000) == 5_000
    with pytest.raises(HiveError, match="asks for 5000 msat, not 4999"):
        amount_of(fixed, 4_999)
    free = asked_by("bolt11 invoice", "x", {k: v for k, v in BOLT11.items() if k != "amount_msat"})
    assert amount_of(free, 1) == 1
    with pytest.raises(HiveError, match="give amount_msat"):
        amount_of(free, None)


def test_ones_own_and_what_expired() -> None:
    asked = asked_by("bolt11 invoice", "x", BOLT11)
    check_payable(asked, OWN, NOW + 3_599)
    with pytest.raises(HiveError, match="expired 0 s ago"):
        check_payable(asked, OWN, NOW + 3_600)
    with pytest.raises(HiveError, match="this node's own"):
        check_payable(asked, SHOP, NOW)


def test_bounds_never_exceed_what_was_allowed_and_sats_cover_msats() -> None:
    assert (fee_bound_msat(50_000_000, 5_000), fee_bound_msat(199, 5_000)) == (250_000, 0)
    assert [sats_up(msat) for msat in (0, 1, 1_000, 1_001)] == [0, 1, 1, 2]
