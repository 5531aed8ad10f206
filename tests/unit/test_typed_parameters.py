"""What is typed as NAME=VALUE at the advisor's command line (docs/protocol/11-advisor-kit.md §10)."""

from __future__ import annotations

import pytest
from hive_advisor.cli.commands import parse_pairs
from hive_advisor.domain.schema_help import texts_of
from hive_shared.canonical import JsonValue
from hive_shared.registry import find, parse_params

CASES: list[tuple[str, str, tuple[str, ...], dict[str, JsonValue]]] = [
    ("hive:config/v1", "set_alias", ("alias=42", "color=112233"), {"alias": "42", "color": "112233"}),
    (
        "hive:config/v1",
        "set_config",
        ("key=askrene-timeout", "value=20", "transient=true"),
        {"key": "askrene-timeout", "value": 20, "transient": True},
    ),
    (
        "hive:channel/v1",
        "close_cooperative",
        ("channel_id=103x1x0", "reason=7", 'feerange=["slow","900perkw"]'),
        {"channel_id": "103x1x0", "reason": "7", "feerange": ["slow", "900perkw"], "wait_s": 300},
    ),
    (
        "hive:channel/v1",
        "open",
        ("peer_id=02" + "11" * 32, "amount_sats=50000", "feerate=normal"),
        {
            "peer_id": "02" + "11" * 32,
            "amount_sats": 50_000,
            "push_msat": 0,
            "feerate": "normal",
            "announce": True,
        },
    ),
]


@pytest.mark.parametrize(("schema", "action", "typed", "read"), CASES, ids=lambda case: str(case)[:24])
def test_text_that_reads_like_a_number_stays_text_where_text_is_taken(
    schema: str, action: str, typed: tuple[str, ...], read: dict[str, JsonValue]
) -> None:
    params = parse_pairs(typed, None, texts_of(schema, action))
    assert parse_params(find(schema, action), params) == read


def test_an_unknown_action_knows_no_texts() -> None:
    assert texts_of("hive:config/v1", "no_such_action") == frozenset()
    assert parse_pairs(("color=112233",), None) == {"color": 112_233}
