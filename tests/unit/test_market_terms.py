"""Terms: strict, hashed without nodeInfo, changed only where a counter offer may (04 §9)."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from hive_shared.canonical import decode_object, encode
from hive_shared.errors import InvalidParams
from hive_shared.market.terms import (
    differences,
    modified,
    payment_method,
    read_terms,
    terms_hash,
    widened,
)
from hive_shared.registry import Tier
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.market_terms import terms

SHEET = """{"scope":{"capabilities":["fee-optimization"],"schemas":["hive:fee-policy/v1"],
"permissionTier":"standard","constraints":{"max_fee_change_pct":50,"max_rebalance_sats":1000000,
"max_daily_actions":100}},
"compensation":{"model":"performance","baseMonthlySats":3000,"performanceSharePct":10,
"basePaymentMethod":"bolt12","bonusEscrowMethod":"cashu","acceptedMethods":["cashu","bolt11","bolt12","l402"],
"escrowMint":"https://mint.example","trialFlatFeeSats":1000},
"sla":{"responseTimeMinutes":10,"uptimePct":99.0,"reportingFrequency":"weekly",
"performanceTargets":{"minRevenueDeltaPct":0,"maxStagnantChannelsPct":20},
"penaltyForBreach":{"responseTime":{"type":"fee_credit_pct","value":5,"per":"incident","cap_pct":50},
"uptime":{"type":"prorate"},"performance":{"type":"no_bonus"}}},
"duration":{"trialDays":14,"fullTermDays":90,"noticePeriodDays":7,"autoRenew":true},
"trialEvaluation":{"criteria":[],"passingRequirement":"all","autoUpgrade":true},
"coordination":{"multiAdvisor":false,"peerAdvisors":[],"scopeIsolation":"strict",
"conflictResolution":"escalate_to_operator","sharedStateAccess":"receipts_readonly",
"actionCooldownSeconds":300},
"referral":null,"dispute":{"method":"bilateral","coolingDays":7},
"nodeInfo":{"nodeCount":2,"totalCapacitySats":134000000,"channelCount":45}}"""


def test_the_terms_of_the_sheet_are_read() -> None:
    found = read_terms(decode_object(SHEET, floats=True))
    assert found.tier is Tier.STANDARD
    assert found.duration.trialDays == 14
    assert found.sla.uptimePct == 99


def test_the_hash_leaves_nodeinfo_out_and_nothing_else() -> None:
    ours = terms()
    assert terms_hash(ours) == terms_hash({name: ours[name] for name in ours if name != "nodeInfo"})
    for name in ("scope", "compensation", "sla", "duration"):
        assert terms_hash({key: ours[key] for key in ours if key != name}) != terms_hash(ours)
    # As any reader writes it: canonical text of it, hashed.
    again = decode_object(encode(ours), floats=True)
    assert terms_hash(again) == terms_hash(ours)


_BAD: list[tuple[str, Any, str]] = [
    ("duration.trialDays", 6, "trialDays 6 is neither 0 nor 7 to 30"),
    ("duration.trialDays", 31, "trialDays"),
    ("duration.fullTermDays", 0, "fullTermDays"),
    ("duration.fullTermDays", 366, "fullTermDays"),
    ("duration.noticePeriodDays", 31, "noticePeriodDays"),
    ("duration.trialDays", 7.5, "trialDays"),
    ("sla.uptimePct", 100.1, "uptimePct"),
    ("sla.responseTimeMinutes", 0, "responseTimeMinutes"),
    ("compensation.perActionSats", -1, "perActionSats"),
    ("compensation.perActionSats", 1.5, "perActionSats"),
    ("compensation.perActionSats", 2_100_000_000_000_001, "perActionSats"),
    ("compensation.performanceSharePct", 51, "performanceSharePct"),
    ("compensation.acceptedMethods", [], "acceptedMethods"),
    ("compensation.acceptedMethods", ["cashu", "cashu"], "acceptedMethods has an entry twice"),
    ("compensation.acceptedMethods", ["cheque"], "acceptedMethods"),
    ("compensation.basePaymentMethod", "bolt12", "bolt12 is not in acceptedMethods"),
    ("compensation.model", "subscription", "baseMonthlySats is missing"),
    ("compensation.model", "performance", "performanceSharePct is missing"),
    ("compensation.surprise", 1, "surprise"),
    ("scope.schemas", [], "schemas"),
    ("scope.schemas", ["hive:fee/*"], "matches no action"),
    ("scope.schemas", ["hive:monitor/*", "hive:channel/*"], "reaches nothing of hive:channel"),
    ("scope.permissionTier", "root", "permissionTier"),
    ("scope.constraints", {"max_haircut": 1}, "max_haircut"),
    ("scope.constraints", {"max_fee_change_pct": 101}, "max_fee_change_pct"),
    ("scope.capabilities", ["Fee Optimization"], "capabilities"),
    ("dispute", {"method": "arbiter"}, "dispute.arbiter"),
    ("trialEvaluation", {"criteria": [{"metric": "luck", "threshold": 1, "operator": ">="}]}, "luck"),
    ("referral", {"referrer": "did:nostr:ab", "referralFeePct": 11}, "referralFeePct"),
    ("anything", {}, "anything"),
]


@pytest.mark.parametrize(
    ("path", "value", "said"), _BAD, ids=[f"{path}={value}"[:50] for path, value, _ in _BAD]
)
def test_terms_out_of_bounds_are_refused_by_name(path: str, value: Any, said: str) -> None:
    ours = copy.deepcopy(terms())
    *way, last = path.split(".")
    inside = ours
    for step in way:
        inside = inside[step]
    inside[last] = value
    with pytest.raises(InvalidParams, match=re.escape(said)):
        read_terms(ours)


@pytest.mark.parametrize("document", [None, [], "x", {}, {"scope": {}}, {"scope": float("nan")}])
def test_what_is_no_document_is_refused(document: Any) -> None:
    with pytest.raises(InvalidParams):
        read_terms(document)


def test_a_counter_offer_changes_what_it_may() -> None:
    before = terms()
    after = modified(before, {"compensation.perActionSats": 40, "scope.constraints.max_daily_actions": None})
    assert after["compensation"]["perActionSats"] == 40
    assert after["scope"]["constraints"] == {"max_fee_change_pct": 50}
    assert before == terms()
    assert differences(before, after) == {
        "compensation.perActionSats": (32, 40),
        "scope.constraints.max_daily_actions": (100, None),
    }


@pytest.mark.parametrize(
    ("modifications", "said"),
    [
        ({}, "0 paths"),
        ({"nodeInfo.nodeCount": 7}, "cannot be changed"),
        ({"referral": {"referrer": "me", "referralFeePct": 10}}, "cannot be changed"),
        ({"scope": {}}, "cannot be changed"),
        ({"scope.nodeIds": ["02"]}, "cannot be changed"),
        ({"compensation.perActionSats": 32}, "stay as they are"),
        ({"compensation.perActionSats": -1}, "perActionSats"),
        ({"compensation": {}, "compensation.perActionSats": 3}, "lies within"),
        ({"sla.uptimePct.deep": 3}, "leads through uptimePct"),
        ({"sla..uptimePct": 3}, "cannot be changed"),
        ({"__class__": 3}, "cannot be changed"),
    ],
)
def test_a_counter_offer_that_may_not_be_is_refused(modifications: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidParams, match=re.escape(said)):
        modified(terms(), modifications)


def test_a_wider_scope_is_told() -> None:
    before = terms()
    wider = modified(
        before,
        {
            "scope.permissionTier": "advanced",
            "scope.schemas": ["hive:monitor/*", "hive:fee-policy/*", "hive:rebalance/*"],
            "scope.constraints": {"max_fee_change_pct": 60},
        },
    )
    assert widened(read_terms(before), read_terms(wider)) == [
        "the tier rises from standard to advanced",
        "the schemas hive:rebalance/* are added",
        "the limit max_daily_actions 100 is dropped",
        "the limit max_fee_change_pct rises from 50 to 60",
    ]
    assert widened(read_terms(wider), read_terms(before)) == []
    denied = modified(
        before, {"scope.schemas": ["hive:monitor/*", "hive:fee-policy/*", "!hive:fee-policy/set_zero_fee"]}
    )
    assert widened(read_terms(denied), read_terms(before)) == [
        "the denials !hive:fee-policy/set_zero_fee are dropped"
    ]


def test_the_way_of_paying_is_the_operators_first_that_the_advisor_takes() -> None:
    assert payment_method(["bolt12", "bolt11"], ["cashu", "bolt11"]) == "bolt11"
    assert payment_method(["bolt12"], ["bolt11"]) == "cashu"


_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 500) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_PATHS = st.sampled_from(
    [
        "compensation",
        "sla",
        "sla.uptimePct",
        "duration.trialDays",
        "scope.schemas",
        "scope.constraints",
        "a.b",
    ]
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(_PATHS, _JSON, min_size=1, max_size=3))
def test_whatever_is_asked_for_leads_to_terms_that_hold_or_is_refused(changes: dict[str, Any]) -> None:
    before = terms()
    try:
        after = modified(before, changes)
    except InvalidParams:
        after = before
    read_terms(after)
    assert before == terms()
