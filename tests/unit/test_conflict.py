"""Cooldowns and the conflict score between advisors (02 §7.5)."""

from __future__ import annotations

from fractions import Fraction

import pytest
from cl_hive_comms.domain.conflict import PastWrite, cooldown_left, held, own_fee_cooldown_left, score
from hypothesis import given
from hypothesis import strategies as st

FEES, REBALANCE, MONITOR = "hive:fee-policy/v1", "hive:rebalance/v1", "hive:config/v1"


def write(
    advisor: str = "a", schema: str = FEES, channels: str = "1x1x1", fields: str = "ppm", at: int = 0
) -> PastWrite:
    return PastWrite(advisor, schema, frozenset(channels.split()), frozenset(fields.split()), at)


def test_acceptance_02_20_another_agent_waits_300_s_and_an_hour_for_the_same_field() -> None:
    past = [write(at=1000)]
    assert cooldown_left(past, "b", ["1x1x1"], ["base"], 1100) == 200
    assert cooldown_left(past, "b", ["1x1x1"], ["base"], 1301) == 0
    assert cooldown_left(past, "b", ["1x1x1"], ["ppm"], 1301) == 3299
    assert cooldown_left(past, "b", ["1x1x1"], ["ppm"], 4600) == 0
    assert cooldown_left(past, "a", ["1x1x1"], ["ppm"], 1001) == 0
    assert cooldown_left(past, "b", ["2x1x1"], ["ppm"], 1001) == 0


def test_the_longest_wait_counts() -> None:
    past = [write(at=0), write("c", at=900, fields="base"), write("d", at=950)]
    assert cooldown_left(past, "b", ["1x1x1", "5x5x5"], ["ppm"], 1000) == 3550


def test_one_credential_sets_a_channels_fee_once_an_hour() -> None:
    assert own_fee_cooldown_left(None, 5) == 0
    assert own_fee_cooldown_left(1000, 1000) == 3600
    assert own_fee_cooldown_left(1000, 4600) == 0


@pytest.mark.parametrize(
    ("schema", "channels", "now", "value"),
    [
        (FEES, "1x1x1", 0, "1"),
        (FEES, "1x1x1", 3600, "7/10"),
        (FEES, "1x1x1", 36000, "7/10"),
        (REBALANCE, "1x1x1", 1800, "81/100"),
        (MONITOR, "9x9x9", 0, "34/100"),
        (FEES, "1x1x1 2x2x2", 0, "3/4"),
    ],
)
def test_the_score_of_the_sheet(schema: str, channels: str, now: int, value: str) -> None:
    result = score(write(), schema=schema, channels=channels.split(), now=now)
    assert result == Fraction(value)
    assert held(result) == (Fraction(value) >= Fraction(6, 10))


def test_nothing_before_is_no_conflict() -> None:
    assert score(None, schema=FEES, channels=["1x1x1"], now=0) == 0


ids = st.frozensets(st.sampled_from(["1x1x1", "2x1x1", "3x1x1"]))


@given(ids, ids, st.integers(0, 10**5), st.sampled_from([FEES, REBALANCE, MONITOR]))
def test_the_score_stays_between_0_and_1_and_fades(
    first: frozenset[str], second: frozenset[str], age: int, schema: str
) -> None:
    past = PastWrite("a", FEES, first, frozenset(), 0)
    value = score(past, schema=schema, channels=second, now=age)
    assert 0 <= value <= 1
    assert score(past, schema=schema, channels=second, now=age + 1) <= value
