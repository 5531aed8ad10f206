"""Figures of telemetry from rows as a node gives them (docs/protocol/02-fleet-management.md §10)."""

from __future__ import annotations

from typing import Any

from cl_hive_comms.domain import telemetry
from cl_hive_comms.domain.telemetry import DAY_S, WEEK_S, ForwardLedger, Subscription
from hypothesis import given
from hypothesis import strategies as st

NOW = 1_770_000_000
ROWS = st.lists(
    st.tuples(
        st.integers(NOW - 9 * DAY_S, NOW),
        st.sampled_from(["settled", "failed", "local_failed", "offered"]),
        st.integers(0, 10**12),
        st.integers(0, 10**12),
    ),
    max_size=40,
)


def rows(drawn: list[tuple[int, str, int, int]]) -> list[dict[str, Any]]:
    names = ("received_time", "status", "fee_msat", "out_msat")
    return [
        {"created_index": n, "in_channel": f"{n % 3}x1x0", "out_channel": "9x1x0"}
        | dict(zip(names, row, strict=True))
        for n, row in enumerate(drawn, start=1)
    ]


def told(ledger: ForwardLedger, span: int) -> tuple[int, int, int, int]:
    found = ledger.totals(NOW, span)
    return found.settled, found.failed, found.volume_msat, found.fees_msat


@given(ROWS, st.sampled_from([DAY_S, WEEK_S]), st.integers(1, 7))
def test_a_span_counts_each_forward_that_ended_once(
    drawn: list[tuple[int, str, int, int]], span: int, batch: int
) -> None:
    given_rows = rows(drawn)
    ledger = ForwardLedger(1, WEEK_S)
    for at in range(0, len(given_rows), batch):
        ledger.take(given_rows[at : at + batch])
        # A row that comes again changes nothing.
        ledger.take(given_rows[max(0, at - 2) : at + batch])
    since = -(-(NOW - span) // 300) * 300
    inside = [row for row in given_rows if row["received_time"] >= since]
    settled = [row for row in inside if row["status"] == "settled"]
    failed = [row for row in inside if row["status"] in ("failed", "local_failed")]
    assert told(ledger, span) == (
        len(settled),
        len(failed),
        sum(row["out_msat"] for row in settled),
        sum(row["fee_msat"] for row in settled),
    )
    ledger.forget_before(NOW - span)
    assert told(ledger, span)[0] == len(settled)


@given(ROWS)
def test_forwards_that_end_later_count_as_if_they_had_ended_at_once(
    drawn: list[tuple[int, str, int, int]],
) -> None:
    ended = [row | {"status": "settled"} for row in rows(drawn)]
    late, early = ForwardLedger(1, WEEK_S), ForwardLedger(1, WEEK_S)
    late.take([row | {"status": "offered"} for row in ended])
    assert told(late, WEEK_S) == (0, 0, 0, 0)
    assert late.open_between(0) == ((1, len(ended)) if ended else None)
    late.take(ended)
    early.take(ended)
    assert told(late, WEEK_S) == told(early, WEEK_S) and late.last == early.last
    assert late.open_between(0) is None


def test_forwards_that_the_node_deleted_are_waited_for_no_more() -> None:
    ledger = ForwardLedger(1, WEEK_S)
    ledger.take([row | {"status": "offered"} for row in rows([(NOW, "offered", 1, 1)] * 4)])
    ledger.gone(1, 3, [2])
    assert ledger.open_between(0) == (2, 4) and ledger.open_between(3) == (4, 4)


def test_liquidity_of_no_channels_has_no_share() -> None:
    assert telemetry.liquidity([]) == {
        "channels": 0,
        "capacity_msat": 0,
        "local_msat": 0,
        "local_permille": None,
    }
    rows = [
        {"state": "CHANNELD_NORMAL", "total_msat": 3_000, "to_us_msat": 1_000},
        {"state": "CLOSINGD_COMPLETE", "total_msat": 3_000, "to_us_msat": 1_000},
    ]
    assert telemetry.liquidity(rows)["local_permille"] == 333


def test_stagnant_channels_are_those_without_a_forward_for_thirty_days() -> None:
    def channel(scid: str | None, **more: Any) -> dict[str, Any]:
        return {"state": "CHANNELD_NORMAL", "short_channel_id": scid, **more}

    channels = [
        channel("1x1x1"),
        channel("2x1x1"),
        channel("3x1x1"),
        channel(None, alias={"local": "7x7x7"}),
        {"state": "CHANNELD_AWAITING_LOCKIN"},
    ]
    last = {"1x1x1": NOW - 30 * DAY_S, "2x1x1": NOW - 30 * DAY_S + 1, "7x7x7": NOW}
    assert telemetry.stagnant(channels, last, NOW) == {"channels": 4, "stagnant": 2, "stagnant_pct": 50}
    assert telemetry.stagnant([], last, NOW)["stagnant_pct"] is None


def test_health_says_whether_the_node_is_behind() -> None:
    assert telemetry.health({"blockheight": 7, "num_peers": 2})["synced"] is True
    assert telemetry.health({"warning_lightningd_sync": "still loading"})["synced"] is False


@given(st.integers(300, 86_400), st.integers(-(10**6), 10**6), st.integers(0, 10**6))
def test_the_next_push_is_always_ahead_by_at_most_one_interval(interval: int, off: int, later: int) -> None:
    row = Subscription("s", "c", "a", "r", ("health",), interval, NOW * 2, 0, 0, NOW + off, NOW)
    following = row.after(NOW + later)
    assert NOW + later < following <= NOW + later + interval
    assert row.due(NOW + off) and row.due(NOW + off - interval - 1)
