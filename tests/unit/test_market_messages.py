"""Bodies of the marketplace's messages: strict, both ways (04 §6)."""

from __future__ import annotations

from typing import Any

import pytest
from hive_shared.errors import InvalidParams
from hive_shared.market import messages
from hive_shared.market.messages import VERBS, body_of, contract_of, decode_message, schema_of
from hypothesis import given, settings
from hypothesis import strategies as st

ID = "6f1d8a34-3c1f-4f0e-9b52-0d9a4a3f6c11"
HASH, WHEN = "ab" * 32, 1_800_000_000
BODIES: dict[str, dict[str, Any]] = {
    "contract_proposal": {
        "type": "HiveContractProposal",
        "proposalId": ID,
        "from": "did:nostr:" + "a" * 64,
        "to": "did:nostr:" + "b" * 64,
        "terms": {"sla": {"uptimePct": 99.5}},
        "expiresAt": WHEN,
    },
    "counter_offer": {
        "type": "HiveCounterOffer",
        "proposalId": ID,
        "round": 1,
        "base_terms_hash": HASH,
        "modifications": {"sla.uptimePct": 99.0},
        "justification": "more work",
        "expiresAt": WHEN,
    },
    "accept": {"proposalId": ID, "terms_hash": HASH},
    "reject": {"proposalId": ID, "reason": "not_offering"},
    "abort": {"proposalId": ID, "reason": ""},
    "contract_sign": {"proposalId": ID, "terms_hash": HASH, "contract": {"a": 1}},
    "contract_signed": {"contractId": ID, "contract_hash": HASH, "proof": {"type": "x"}},
    "termination_notice": {"contractId": ID, "effective_at": WHEN, "reason": "done"},
    "termination_ack": {"contractId": ID, "effective_at": WHEN},
    "emergency_termination": {"contractId": ID, "reason": "key lost"},
    "error": {"code": "stale_terms", "msg_id": ID},
}


def test_every_verb_has_an_example() -> None:
    assert BODIES.keys() == VERBS.keys()


@pytest.mark.parametrize("verb", VERBS)
def test_a_body_is_read_and_written_the_same(verb: str) -> None:
    message = decode_message(f"hive:marketplace/{verb}", BODIES[verb])
    assert schema_of(message) == f"hive:marketplace/{verb}"
    assert body_of(message) == BODIES[verb]
    assert contract_of(message) == (None if verb == "error" else ID)


@pytest.mark.parametrize("verb", VERBS)
def test_a_field_too_many_or_too_few_is_refused(verb: str) -> None:
    schema = f"hive:marketplace/{verb}"
    with pytest.raises(InvalidParams, match="surprise"):
        decode_message(schema, {**BODIES[verb], "surprise": 1})
    for name in BODIES[verb]:
        with pytest.raises(InvalidParams, match=name):
            decode_message(schema, {key: value for key, value in BODIES[verb].items() if key != name})


@pytest.mark.parametrize(
    "schema", ["hive:marketplace/", "hive:marketplace/dance", "hive:escrow/accept", "marketplace/accept", ""]
)
def test_a_verb_that_is_none_is_refused(schema: str) -> None:
    with pytest.raises(InvalidParams, match="no message of the marketplace"):
        decode_message(schema, BODIES["accept"])


def test_what_a_reader_would_refuse_is_not_written() -> None:
    with pytest.raises(ValueError, match="would be refused"):
        body_of(messages.Reject(ID, "x" * 1_001))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(VERBS)), st.dictionaries(st.text(max_size=8), st.text(max_size=4), max_size=4))
def test_strangers_bodies_are_refused_without_a_crash(verb: str, body: dict[str, str]) -> None:
    with pytest.raises(InvalidParams):
        decode_message(f"hive:marketplace/{verb}", body)
