"""What cl-hive-archon's answer about a credential means (docs/protocol/02 §2.5; 08 §1.2; 09 §6.3)."""

from __future__ import annotations

from typing import Any

import pytest
from cl_hive_comms.domain.vc_check import CHECK_TTL_S, GOOD, REVOKED, Check, Expected, finding
from hive_shared.errors import CredentialInvalid, CredentialUnverifiable, HiveError
from hypothesis import example, given
from hypothesis import strategies as st

NOW = 1_770_000_000
DID = "did:cid:bagaaieraexample"
EXPECTED = Expected("did:nostr:" + "ab" * 32, "ab" * 32, DID)


def answer(**changes: Any) -> dict[str, Any]:
    whole = {
        "valid": True,
        "reason": "",
        "issuer": DID,
        "subject": EXPECTED.subject,
        "npub": EXPECTED.agent_key,
        "valid_until": NOW + 1_000,
        "revocation": {"status": "good", "checked_at": NOW - 10},
        **changes,
    }
    return {name: value for name, value in whole.items() if value is not ...}


def symbol(**changes: Any) -> tuple[str, int]:
    with pytest.raises(HiveError) as refused:
        finding(answer(**changes), EXPECTED, NOW)
    return refused.value.symbol, refused.value.code


def test_a_good_answer_counts_from_when_the_revocation_was_looked_up() -> None:
    assert finding(answer(), EXPECTED, NOW) == Check(NOW - 10, GOOD)
    ahead = answer(revocation={"status": "good", "checked_at": NOW + 90})
    assert finding(ahead, EXPECTED, NOW) == Check(NOW, GOOD)
    # Which key the DID is bound to need not be said; if it is, it must be the one that signs.
    assert finding(answer(npub=...), EXPECTED, NOW).status == GOOD


@pytest.mark.parametrize(
    "changes",
    [
        {"revocation": {"status": "revoked", "checked_at": NOW}},
        {"revocation": {"status": "revoked"}, "valid": False, "reason": "rotated_key"},
        {"valid": False, "reason": "revoked"},
        {"valid": False, "reason": "deactivated", "revocation": ...},
    ],
)
def test_a_revocation_is_a_finding(changes: dict[str, Any]) -> None:
    assert finding(answer(**changes), EXPECTED, NOW) == Check(NOW, REVOKED)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"valid": False, "reason": "expired"}, ("credential_expired", 4018)),
        ({"valid_until": NOW}, ("credential_expired", 4018)),
        ({"valid": False, "reason": "not_yet_valid"}, ("credential_not_yet_valid", 4018)),
        ({"valid": False, "reason": "schema_not_allowed"}, ("schema_not_allowed", 4018)),
        ({"issuer": "did:cid:somebodyelse"}, ("issuer_untrusted", 4018)),
        ({"subject": "did:nostr:" + "cd" * 32}, ("credential_invalid", 4018)),
        ({"npub": "cd" * 32}, ("credential_invalid", 4018)),
        ({"valid": False, "reason": "rotated_key"}, ("credential_invalid", 4018)),
        ({"valid": False, "reason": "credential_unverifiable"}, ("credential_unverifiable", 4019)),
        ({"valid": "yes"}, ("credential_unverifiable", 4019)),
        ({"valid": ...}, ("credential_unverifiable", 4019)),
        ({"valid_until": "tomorrow"}, ("credential_unverifiable", 4019)),
        ({"revocation": {"status": "unknown", "checked_at": NOW}}, ("revocation_unverifiable", 4019)),
        ({"revocation": {"status": "good"}}, ("revocation_unverifiable", 4019)),
        ({"revocation": ...}, ("revocation_unverifiable", 4019)),
        (
            {"revocation": {"status": "good", "checked_at": NOW - CHECK_TTL_S}},
            ("revocation_unverifiable", 4019),
        ),
    ],
)
def test_what_is_not_good_is_refused_by_its_name(changes: dict[str, Any], expected: tuple[str, int]) -> None:
    assert symbol(**changes) == expected


def test_without_a_did_of_the_nodes_own_nobody_is_an_issuer() -> None:
    nobody = Expected(EXPECTED.subject, EXPECTED.agent_key, None)
    for issuer in (DID, None, ""):
        with pytest.raises(CredentialInvalid):
            finding(answer(issuer=issuer), nobody, NOW)


def test_an_hour_and_not_a_second_more() -> None:
    check = Check(NOW, GOOD)
    assert check.holds(NOW) and check.holds(NOW + CHECK_TTL_S - 1)
    assert not check.holds(NOW + CHECK_TTL_S)
    # A clock that was set back by more than a moment: nothing is known of the time between.
    assert check.holds(NOW - 60) and not check.holds(NOW - 86_400)
    assert not Check(NOW, REVOKED).holds(NOW)
    assert not check.due(NOW + CHECK_TTL_S // 2 - 1) and check.due(NOW + CHECK_TTL_S // 2)


junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=20)
    | st.sampled_from([DID, "good", "revoked"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@example({"valid": False, "reason": []}, False)
@given(st.dictionaries(st.sampled_from(sorted(answer())), junk), st.booleans())
def test_no_answer_is_good_by_accident(changes: dict[str, Any], whole: bool) -> None:
    given_answer = answer(**changes) if whole else changes
    try:
        found = finding(given_answer, EXPECTED, NOW)
    except (CredentialInvalid, CredentialUnverifiable):
        return
    if found.status == GOOD:
        assert given_answer["valid"] is True
        assert (given_answer["issuer"], given_answer["subject"]) == (DID, EXPECTED.subject)
        assert given_answer["revocation"]["status"] == "good" and found.holds(NOW)
