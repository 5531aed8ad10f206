"""Credential constraints and the measure of a fee change (02 §2.4)."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from cl_hive_comms.domain import constraints, fee_change
from cl_hive_comms.domain.policy import ActionRequest, ChannelFact
from hive_shared.credential import check_constraints
from hive_shared.credential_scope import CONSTRAINTS
from hive_shared.errors import HiveError
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

PEER, OTHER = "02" + "aa" * 32, "03" + "bb" * 32


def channel(number: int = 1, ppm: int = 100, day_ago: int | None = None) -> ChannelFact:
    return ChannelFact(
        f"{number}x1x0", f"{number:064x}", PEER, 1000, ppm, 1, 10**9, "CHANNELD_NORMAL", day_ago
    )


def request(*channels: ChannelFact, new: int = 110, **changes: Any) -> ActionRequest:
    touched = channels or (channel(),)
    fields: dict[str, Any] = {
        "schema": "hive:fee-policy/v1",
        "action": "set_single",
        "params": {},
        "danger": 3,
        "read_only": False,
        "advisor_id": "a",
        "trust": Fraction(1),
        "channels": touched,
        "new_fees": {each.scid: (None, new) for each in touched},
    }
    return ActionRequest(**{**fields, **changes})


def verdict(limits: dict[str, Any], asked: ActionRequest) -> str | None:
    check_constraints(limits)
    try:
        constraints.check(limits, asked)
    except HiveError as error:
        assert error.data["constraint"] in limits or error.data["constraint"] == "grants_critical"
        return error.symbol
    return None


def other(schema: str, action: str, **changes: Any) -> ActionRequest:
    fields: dict[str, Any] = {"channels": (), "new_fees": {}, **changes}
    return replace(request(), schema=schema, action=action, **fields)


def test_acceptance_02_07_sixty_percent_with_limit_fifty() -> None:
    limits = {"max_fee_change_pct": 50}
    assert verdict(limits, request(new=150)) is None
    assert verdict(limits, request(new=160)) == "constraint_violated"
    assert verdict(limits, request(new=50)) is None
    assert verdict(limits, request(new=49)) == "constraint_violated"


def test_acceptance_02_07_two_steps_of_thirty_percent_within_24_h() -> None:
    limits = {"max_fee_change_pct": 50}
    assert verdict(limits, request(new=130)) is None
    assert verdict(limits, request(channel(ppm=130, day_ago=100), new=169)) == "constraint_violated"
    assert verdict(limits, request(channel(ppm=130, day_ago=130), new=169)) is None


def test_a_bulk_with_one_violation_is_refused_whole() -> None:
    limits = {"max_fee_change_pct": 50}
    assert verdict(limits, request(channel(1), channel(2), new=140)) is None
    assert verdict(limits, request(channel(1), channel(2, ppm=10), new=140)) == "constraint_violated"
    unknown = request(new_fees={"9x9x9": (None, 100)})
    assert verdict(limits, unknown) == "constraint_violated"


@pytest.mark.parametrize(
    ("new", "now", "day_ago", "percent", "reference"),
    [
        (50, 0, None, 1, None),
        (51, 0, None, 1, 0),
        (15, 10, None, 50, None),
        (16, 10, None, 50, 10),
        (6, 1, None, 50, None),
        (7, 1, None, 50, 1),
        (0, 5, None, 50, None),
        (0, 100, None, 99, 100),
        (0, 100, None, 100, None),
        (45, 30, 0, 50, None),
        (60, 40, 0, 50, 0),
        (100, 100, 300, 50, 300),
        (150, 100, 300, 50, None),
    ],
)
def test_the_measure(new: int, now: int, day_ago: int | None, percent: int, reference: int | None) -> None:
    assert fee_change.exceeds(new, now, day_ago, percent) == reference


rates = st.integers(0, 5_000)


@given(rates, rates, st.none() | rates, st.integers(1, 100))
def test_bounds_and_measure_agree(new: int, now: int, day_ago: int | None, percent: int) -> None:
    low, high = fee_change.bounds(now, day_ago, percent)
    assert (fee_change.exceeds(new, now, day_ago, percent) is None) == (low <= new <= high)


@given(rates, rates.filter(bool), st.integers(1, 100))
def test_within_is_the_change_as_defined(new: int, ref: int, percent: int) -> None:
    assert fee_change.within(new, ref, percent) == (fee_change.change(new, ref) * 100 <= percent)


@given(rates, rates, st.none() | rates, st.integers(1, 99))
def test_a_larger_percentage_never_forbids_more(
    new: int, now: int, day_ago: int | None, percent: int
) -> None:
    if fee_change.exceeds(new, now, day_ago, percent) is None:
        assert fee_change.exceeds(new, now, day_ago, percent + 1) is None


@pytest.mark.parametrize(
    ("limits", "asked", "expected"),
    [
        ({"max_fee_ppm": 110}, request(), None),
        ({"max_fee_ppm": 109}, request(), "constraint_violated"),
        ({"max_daily_actions": 5}, request(counts={"daily_actions": 4}), None),
        ({"max_daily_actions": 5}, request(counts={"daily_actions": 5}), "daily_cap"),
        ({"max_daily_actions": 0}, request(), "daily_cap"),
        ({"max_channels_per_call": 1}, request(channel(1), channel(2)), "constraint_violated"),
        ({"max_channels_per_call": 2}, request(channel(1), channel(2)), None),
        ({"allowed_channels": ["1x1x0"]}, request(), None),
        ({"allowed_channels": [f"{1:064x}"]}, request(), None),
        ({"allowed_channels": ["1x1x0"]}, request(channel(1), channel(2)), "constraint_violated"),
        ({"denied_channels": ["2x1x0"]}, request(channel(1), channel(2)), "constraint_violated"),
        ({"denied_channels": ["2x1x0"]}, request(), None),
        ({"allowed_peers": [PEER]}, request(), None),
        ({"allowed_peers": [OTHER]}, request(), "constraint_violated"),
        (
            {"max_rebalance_sats": 99},
            other("hive:rebalance/v1", "circular_rebalance", params={"amount_sats": 100}),
            "constraint_violated",
        ),
        (
            {"max_rebalance_sats": 99},
            other("hive:rebalance/v1", "swap_in", params={"amount_sats": 100}),
            None,
        ),
        (
            {"max_swap_sats": 99},
            other("hive:rebalance/v1", "swap_in", params={"amount_sats": 100}),
            "constraint_violated",
        ),
        (
            {"max_rebalance_fee_ppm": 400},
            other("hive:rebalance/v1", "circular_rebalance", params={"max_fee_ppm": 401}),
            "constraint_violated",
        ),
        (
            {"max_channel_open_sats": 10},
            other("hive:channel/v1", "open_batch", params={"destinations": [{"amount_sats": 11}]}),
            "constraint_violated",
        ),
        (
            {"max_channel_open_sats": 10},
            other("hive:expansion/v1", "propose_channel_open", params={"capacity_sats": 11}),
            "constraint_violated",
        ),
        (
            {"max_payment_sats_24h": 100},
            other("hive:payment/v1", "pay_invoice", amount_sat=60, counts={"payment_sats_24h": 41}),
            "constraint_violated",
        ),
        (
            {"max_payment_sats_24h": 100},
            other("hive:payment/v1", "pay_invoice", amount_sat=60, counts={"payment_sats_24h": 40}),
            None,
        ),
        (
            {"max_onchain_sats_24h": 100},
            other("hive:wallet/v1", "send_onchain", amount_sat=101),
            "constraint_violated",
        ),
        (
            {"allowed_service_types": ["leasing"]},
            other("hive:liquidity/v1", "lease_request", params={"service_type": "jit"}),
            "constraint_violated",
        ),
        (
            {"forbidden_providers": ["p"]},
            other("hive:liquidity/v1", "jit_request", params={"provider_id": "p"}),
            "constraint_violated",
        ),
        (
            {"auto_renew_enabled": False},
            other("hive:liquidity/v1", "lease_request", params={"auto_renew": True}),
            "constraint_violated",
        ),
        (
            {"max_single_lease_sats": 10},
            other("hive:liquidity/v1", "lease_request", params={"capacity_sats": 11}),
            "constraint_violated",
        ),
        ({}, other("hive:channel/v1", "close_all", danger=10), "constraint_violated"),
        (
            {"grants_critical": ["hive:channel/v1#close_all"]},
            other("hive:channel/v1", "close_all", danger=10),
            None,
        ),
    ],
)
def test_each_constraint(limits: dict[str, Any], asked: ActionRequest, expected: str | None) -> None:
    assert verdict(limits, asked) == expected


def test_reads_are_not_bounded_here() -> None:
    read = other("hive:monitor/v1", "earnings", read_only=True)
    assert verdict({"max_daily_actions": 0, "allowed_peers": []}, read) is None


def test_every_constraint_is_enforced_somewhere() -> None:
    elsewhere = {"transports", "grants_critical", "escrow_secret_generation"}
    assert set(CONSTRAINTS) - elsewhere == set(constraints._CHECKS)


def test_an_invoice_of_ones_own_is_no_payment() -> None:
    asked = other("hive:payment/v1", "create_invoice", amount_sat=0)
    assert verdict({"max_payment_sats_24h": 100}, asked) is None
