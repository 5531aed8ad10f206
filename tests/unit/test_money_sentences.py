"""What money commands say of what was typed wrongly: the thing that is wrong, in the caller's words, and what
to do instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import pytest
from cl_hive.commands import escrow_calls as fleet
from cl_hive_comms.commands import escrow
from cl_hive_comms.commands.payments import PaymentCommands
from cl_hive_comms.services.payment_limits import _changed_by
from hive_advisor.domain.cleaning import clean_text
from hive_advisor.domain.lnaddress import is_host
from hive_advisor.domain.nwc import parse_uri
from hive_shared.cashu.advice import KIT, NODE
from hive_shared.errors import HiveError, InvalidParams
from hive_shared.runtime_spec import parse_params


@pytest.mark.parametrize(
    ("items", "amount", "told"),
    [
        ([{"amount": 5}], None, "item 0 has no field 'amount'; it takes amount_sats, cond, hash, label"),
        ([{"amount_sats": 5}, 7], None, "item 1 is no object; it takes amount_sats"),
        ([{"amount_sats": 5}], 5, "give amount_sats in each of items, not beside them"),
    ],
)
def test_items_that_are_wrong_are_told_by_the_field_that_is(
    items: Any, amount: int | None, told: str
) -> None:
    with pytest.raises(InvalidParams) as refused:
        escrow._items(items, amount)
    assert told in refused.value.detail


def test_fleet_tickets_say_the_same_of_amounts_given_twice() -> None:
    with pytest.raises(InvalidParams, match="in each of items, not beside them"):
        fleet._items([{"amount_sats": 5}], 5)


class _Nobody:
    """Whom no call is to reach."""

    def __getattr__(self, name: str) -> NoReturn:
        raise AssertionError(f"{name} was called")


class _Anybody:
    def resolve(self, name: str) -> str:
        return name


@pytest.mark.parametrize("method", [None, "bolt11", "bolt12"])
async def test_a_web_address_is_paid_by_l402_and_by_no_other_method(method: str | None) -> None:
    nobody: Callable[[], Any] = _Nobody
    commands = PaymentCommands(*[nobody] * 6, _Anybody)  # type: ignore[arg-type]
    spec = next(each for each in commands.specs() if each.name == "hive-client-pay")
    given = {"advisor": "ada", "amount_sats": 5, "target": "HTTPS://api.example.com/x"}
    params = parse_params(spec, given | ({} if method is None else {"method": method}))
    with pytest.raises(HiveError, match="target is an address of the web: method=l402"):
        await spec.handler(params)


@pytest.mark.parametrize(
    ("limit", "told"),
    [
        ("daily-limit", "hive-client-budget"),
        ("per-action-limit", "hive-client-budget"),
        ("sibling-limits fleet (day)", "hive-comms-sibling-limits"),
    ],
)
def test_a_limit_that_refuses_says_where_it_is_set(limit: str, told: str) -> None:
    assert told in _changed_by(limit)


def test_the_wallet_speaks_of_the_tool_that_its_user_has() -> None:
    assert NODE.key == "idempotency_key" and "hive-client-emergency-stop" in NODE.stopped
    assert KIT.key == "--key" and "hive-advisor guard release" in KIT.stopped


def test_what_a_wallet_connection_looks_like_is_readable_once_it_was_cleaned() -> None:
    with pytest.raises(InvalidParams) as refused:
        parse_uri("lnbc1")
    assert clean_text(str(refused.value)) == str(refused.value)
    assert "nostr+walletconnect:" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "host"), [("a.example", True), ("a.example:8443", True), ("foo bar", False)]
)
def test_a_host_is_told_from_other_words(text: str, host: bool) -> None:
    assert is_host(text) is host
