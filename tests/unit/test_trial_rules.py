"""Rules of trials (Protocol 04 §10): length, scope, guards, revenue, judgement."""

from __future__ import annotations

from typing import Any

import pytest
from cl_hive_comms.domain import trial as trials
from cl_hive_comms.domain.presence import Presence
from cl_hive_comms.domain.trial import Baseline, Income, Outcome, Trial, Work
from hive_shared.credential_scope import custom_template, patterns_allow, resolve_access
from hive_shared.errors import Conflict, InvalidParams
from hive_shared.registry import Tier
from hypothesis import given
from hypothesis import strategies as st

DAY = 86_400
NOW = 1_770_000_000
FEES, MONITORING = ("fee-optimization",), ("monitoring-only",)


def income(fees: int, *, days: int = 7, cost: int | None = 0, complete: bool = True) -> Income:
    return Income(NOW - days * DAY, NOW, fees, cost, 3, complete)


def trial(who: str, start: int, days: int = 14, scope: tuple[str, ...] = FEES, **more: Any) -> Trial:
    return Trial(
        trial_id=f"{who}{start}",
        advisor_did=who,
        node_id="02" * 33,
        scope="x",
        capabilities=scope,
        sequence_number=1,
        flat_fee_sats=0,
        start_at=start,
        end_at=start + days * DAY,
        credential_id=f"c{who}{start}",
        baseline=Baseline(income(7_000), 1, 1, 1),
        **more,
    )


@pytest.mark.parametrize(
    ("value", "days"), [(None, 0), (False, 0), ("false", 0), ("", 0), ("no", 0), (True, 14)]
)
def test_yes_and_no(value: object, days: int) -> None:
    assert trials.trial_days(value) == days


@pytest.mark.parametrize(
    ("value", "days"), [("true", 14), ("yes", 14), (7, 7), ("7", 7), (30, 30), ("30", 30)]
)
def test_lengths(value: object, days: int) -> None:
    assert trials.trial_days(value) == days


@pytest.mark.parametrize("value", [6, 31, "6", "31", 0, -7, "0", "00", 10**30])
def test_acceptance_04_11_a_trial_of_another_length_is_refused(value: object) -> None:
    with pytest.raises(InvalidParams) as refused:
        trials.trial_days(value)
    assert refused.value.reason == "duration_out_of_range" or str(value).startswith("-")
    assert "7 to 30" in str(refused.value) or "from 7 to 30" in str(refused.value)


@pytest.mark.parametrize("value", ["14d", "fourteen", 14.0, [14], {"days": 14}, "-7", "１４", "x" * 5_000])
def test_what_is_no_length_is_refused_with_what_one_is(value: object) -> None:
    with pytest.raises(InvalidParams) as refused:
        trials.trial_days(value)
    assert "true, false or a number of days from 7 to 30" in str(refused.value)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize("access", ["fees", "routing", "everything"])
def test_a_trial_reaches_monitor_and_fees_whatever_was_asked(access: str) -> None:
    cut = trials.trial_template(resolve_access(access))
    assert cut.tier is Tier.STANDARD and cut.schemas == ("hive:monitor/*", "hive:fee-policy/*")
    assert cut.constraints["max_fee_change_pct"] == 50 and cut.constraints["max_daily_actions"] == 50
    assert not patterns_allow(cut.schemas, "hive:rebalance/v1", "circular_rebalance")
    assert not patterns_allow(cut.schemas, "hive:channel/v1", "open")


def test_a_trial_keeps_the_stricter_limit() -> None:
    cut = trials.trial_template(custom_template(["fees"], max_fee_change_pct=7))
    assert cut.constraints["max_fee_change_pct"] == 7


def test_a_trial_of_monitoring_is_monitor_only() -> None:
    cut = trials.trial_template(resolve_access("monitoring"))
    assert cut.tier is Tier.MONITOR and cut.schemas == ("hive:monitor/*",)
    assert trials.scope_of(cut) == ("monitor", MONITORING)


def test_a_trial_of_neither_is_refused() -> None:
    with pytest.raises(InvalidParams):
        trials.trial_template(custom_template(["payments"]))


def refusal(known: list[Trial], who: str, scope: tuple[str, ...] = FEES) -> str:
    with pytest.raises(Conflict) as refused:
        trials.next_number(known, who, scope, NOW)
    return str(refused.value.reason)


def test_acceptance_04_11_a_third_trial_at_once_is_refused() -> None:
    running = [trial("a", NOW - DAY), trial("b", NOW - DAY, scope=MONITORING)]
    assert refusal(running, "c", ("splice-management",)) == "max_active_trials"


def test_acceptance_04_11_another_advisor_waits_fourteen_days_after_the_end() -> None:
    def ended(days_ago: int) -> list[Trial]:
        return [trial("a", NOW - (days_ago + 14) * DAY, outcome=Outcome.REVIEW)]

    assert refusal(ended(13), "b") == "trial_cooldown"
    assert trials.next_number(ended(15), "b", FEES, NOW) == 2
    # The end counts, not the start; and of a stopped trial its real end.
    long_ago = [trial("a", NOW - 43 * DAY, 30, outcome=Outcome.REVIEW)]
    assert refusal(long_ago, "b") == "trial_cooldown"
    stopped = [trial("a", NOW - 16 * DAY, 30, outcome=Outcome.STOPPED, ended_at=NOW - 15 * DAY)]
    assert trials.next_number(stopped, "b", FEES, NOW) == 2
    # Same advisor, or other work: free of it.
    assert trials.next_number(ended(1), "a", FEES, NOW) == 2
    assert trials.next_number(ended(1), "b", MONITORING, NOW) == 1


def test_a_running_trial_blocks_the_same_work_and_the_same_advisor() -> None:
    running = [trial("a", NOW - DAY)]
    assert refusal(running, "b") == "trial_cooldown"
    assert refusal(running, "a") == "trial_running"


def test_a_trial_that_is_over_but_not_reviewed_yet_blocks_nobody_for_ever() -> None:
    over = [trial("a", NOW - 40 * DAY, 14)]
    assert trials.next_number(over, "a", FEES, NOW) == 2
    assert trials.next_number(over, "b", FEES, NOW) == 2


def test_acceptance_04_11_the_second_trial_in_ninety_days_costs_double_and_the_third_triple() -> None:
    past = [trial("a", NOW - days * DAY, 7, outcome=Outcome.REVIEW) for days in (30, 60, 89, 91)]
    assert trials.next_number(past[:1], "a", FEES, NOW) == 2
    assert trials.next_number(past, "a", FEES, NOW) == 4
    assert [trials.multiplier(n) for n in (1, 2, 3, 4)] == [1, 2, 3, 3]


def test_revenue_is_compared_by_day_and_net_of_rebalancing_where_both_spans_know_it() -> None:
    result, why = trials.compared(income(7_000), income(10_000, days=5))
    assert (result["baseline_msat_per_day"], result["trial_msat_per_day"]) == (1_000, 2_000)
    assert (result["delta_pct"], why) == (100, "")
    assert trials.compared(income(7_000), income(7_000, cost=700))[0]["delta_pct"] == -10
    unknown = trials.compared(income(7_000, cost=None), income(7_000, cost=700))[0]
    assert (unknown["delta_pct"], unknown["net_of_rebalancing"]) == (0, False)


def test_a_percentage_is_rounded_down_so_that_a_loss_is_never_smaller_than_it_is() -> None:
    assert trials.compared(income(70_000), income(66_450))[0]["delta_pct"] == -6


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        (income(0), income(5_000), "nothing was earned"),
        (income(100, cost=200), income(5_000), "nothing was earned"),
        (income(7_000), None, "could not be read"),
        (income(7_000, complete=False), income(1), "could not be read"),
        (income(7_000), income(1, complete=False), "could not be read"),
    ],
)
def test_what_cannot_be_compared_is_null_and_says_why(before: Income, after: Income | None, why: str) -> None:
    result, reason = trials.compared(before, after)
    assert result["delta_pct"] is None and why in reason


def test_less_than_a_day_is_no_trend() -> None:
    short = Income(NOW - 3_600, NOW, 5_000, 0, 1, True)
    assert trials.compared(income(7_000), short)[1] == "it has run for less than a day"


def heard(hours: int) -> Presence:
    """Commands in so many hours, and no ping."""
    return Presence(heard=frozenset(range(hours)))


def review(work: Work, after: Income | None = None) -> dict[str, Any]:
    made = trial("a", NOW - 14 * DAY)
    return trials.evaluated(made, work, after or income(7_000), NOW)


def test_acceptance_04_12_part_of_the_criteria_is_a_review_and_no_failure() -> None:
    found = review(Work(12, 1, heard(4), 3))
    results = {row["metric"]: row["result"] for row in found["criteria"]}
    assert results == {
        "actions_taken": "pass",
        "uptime_pct": "unknown",
        "revenue_delta_pct": "pass",
        "response_time_p95_minutes": "unknown",
    }
    assert trials.judged(found) is Outcome.REVIEW
    assert set(found["not_measured"]) == {"uptime_pct", "response_time_p95_minutes"}
    assert "4 of 336 hours" in found["not_measured"]["uptime_pct"]
    assert found["credential_taken_after_s"] == 3


def test_hours_that_were_heard_are_uptime_once_they_are_half_of_all() -> None:
    assert review(Work(0, 0, heard(167), None))["uptime_pct"] is None
    assert review(Work(0, 0, heard(168), None))["uptime_pct"] == 50
    assert review(Work(0, 0, heard(336), None))["uptime_pct"] == 100


def test_all_or_nothing_is_a_pass_or_a_fail() -> None:
    def of(*results: str) -> Outcome:
        return trials.judged({"criteria": [{"result": each} for each in results]})

    assert of("pass", "pass") is Outcome.PASS
    assert of("fail", "fail") is Outcome.FAIL
    assert of("fail", "unknown") is of("pass", "unknown") is of("pass", "fail") is Outcome.REVIEW


@given(
    fees=st.integers(0, 10**15),
    later=st.integers(0, 10**15),
    cost=st.none() | st.integers(0, 10**12),
    work=st.builds(
        Work,
        st.integers(0, 10**6),
        st.integers(0, 10**6),
        st.builds(heard, st.integers(0, 336)),
        st.none() | st.integers(0, 10**6),
    ),
)
def test_every_figure_is_a_whole_number_or_null(fees: int, later: int, cost: int | None, work: Work) -> None:
    made = trial("a", NOW - 14 * DAY)
    found: dict[str, Any] = trials.evaluated(made, work, income(later, cost=cost), NOW)
    for name in ("actions_taken", "uptime_pct", "revenue_delta_pct"):
        assert found[name] is None or type(found[name]) is int
        assert (found[name] is None) == (name in found["not_measured"])
