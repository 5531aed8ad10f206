"""Messages between payer and payee of a ticket: read strictly, written only as they are read (03 §6.6)."""

from __future__ import annotations

from typing import Any

import pytest
from cashu_tickets import LOCK_KEY, PaperTicket, document, item
from hive_shared.cashu import ticket_messages as messages
from hive_shared.cashu.derive import public_key
from hive_shared.cashu.terms import terms_json
from hive_shared.cashu.ticket_messages import VERBS, body_of, decode_message, schema_of
from hive_shared.cashu.token import encode_token
from hive_shared.errors import InvalidParams

TICKET = PaperTicket.make(document([item(0, 100)]))
ID, OTHER, HASH, PARAMS = "ab" * 16, "cd" * 16, "ef" * 32, "sha256:" + "12" * 32
TOKENS = [encode_token(each) for each in TICKET.tokens()]
WHOLE: dict[str, Any] = {
    "ticket_id": ID,
    "terms": terms_json(TICKET.terms),
    "sig": TICKET.signature,
    "tokens": TOKENS,
}
GOOD: dict[str, dict[str, Any]] = {
    "ticket_request": {
        **{"context": "contract-1", "lock_pubkey": public_key(LOCK_KEY), "binding": "ab" * 64},
        "mints": ["https://mint.example"],
    },
    "ticket": WHOLE,
    "ticket_ack": {"ticket_id": ID, "terms_hash": HASH},
    "ticket_reject": {"ticket_id": ID, "terms_hash": HASH, "reason": "token_invalid(nonce)", "detail": "why"},
    "ticket_resend": {"ticket_id": ID, "from": 3, "to": 9},
    "release": {"ticket_id": ID, "item": 0, "preimage": HASH, "receipt_id": "r", "receipt_hash": PARAMS},
    "failure": {"ticket_id": ID, "item": 0, "reason": "task_failed"},
    "metric": {
        **{"ticket_id": ID, "item": 1, "metric": "revenue_msat", "value": 5, "baseline": -3},
        **{"threshold": 6, "met": False, "measured_at": 1_800_000_000},
    },
    "redeemed": {"ticket_id": ID, "item": 511},
    "owed": {"ticket_id": ID, "item": 0, "amount_sats": 100, "reason": "late_release"},
    "dispute": {
        **{"dispute_id": OTHER, "ticket_id": ID, "item": 0, "claim": "done and not paid"},
        **{"evidence_hashes": [PARAMS], "receipt": {"success": True}},
    },
    "dispute_reply": {"dispute_id": OTHER, "outcome": "replace", "reason": "so it was", "ticket_id": ID},
    "secret_request": {"task_params_hash": PARAMS, "count": 512},
    "secret": {"task_params_hash": PARAMS, "hashes": [HASH, "00" * 32]},
}


def read(verb: str, body: object) -> messages.Message:
    return decode_message(f"hive:escrow/{verb}", body)


@pytest.mark.parametrize("verb", VERBS)
def test_what_is_read_is_what_is_written(verb: str) -> None:
    message = read(verb, GOOD[verb])
    assert schema_of(message) == f"hive:escrow/{verb}"
    assert body_of(message) == GOOD[verb]


def test_every_verb_of_the_sheet_is_there() -> None:
    assert set(GOOD) == set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_nothing_unknown_nothing_missing_nothing_of_another_type(verb: str) -> None:
    good = GOOD[verb]
    optional = {"terms_hash"} if verb == "ticket_reject" else set()
    optional |= {"receipt"} if verb == "dispute" else {"ticket_id"} if verb == "dispute_reply" else set()
    for name in set(good) - optional:
        with pytest.raises(InvalidParams):
            read(verb, {key: value for key, value in good.items() if key != name})
    for body in ({**good, "extra": 1}, [good], None, "text", 5):
        with pytest.raises(InvalidParams):
            read(verb, body)
    for name in good:
        for value in (None, 1.5, {"a": [None]}, "x" * 300_000, [[]]):
            if good[name] == value or (name in ("terms", "receipt") and isinstance(value, dict)):
                continue
            with pytest.raises(InvalidParams) as refused:
                read(verb, {**good, name: value})
            assert len(refused.value.detail) < 300


@pytest.mark.parametrize(
    ("verb", "changes", "word"),
    [
        ("ticket_request", {"mints": ["https://a", "https://a"]}, "twice"),
        ("ticket_request", {"context": "with space"}, "context"),
        ("ticket_request", {"binding": "ab" * 65}, "binding"),
        ("ticket", {"sig": None}, "terms and sig"),
        ("ticket", {"terms": None}, "terms and sig"),
        ("ticket", {"terms": None, "sig": None}, "need from and to"),
        ("ticket", {"terms": None, "sig": None, "tokens": []}, "neither"),
        ("ticket", {"from": 0}, "stand together"),
        ("ticket", {"from": 2, "to": 1}, "are none"),
        ("ticket", {"from": 0, "to": 0, "tokens": []}, "without tokens"),
        ("ticket", {"from": 0, "to": 512}, "511"),
        ("ticket", {"tokens": TOKENS * 2}, "twice"),
        ("ticket", {"tokens": [f"cashuB{number}" for number in range(9)]}, "length"),
        ("ticket", {"ticket_id": OTHER}, "another ticket"),
        ("ticket_ack", {"terms_hash": HASH.upper()}, "terms_hash"),
        ("ticket_ack", {"ticket_id": ID + "\n"}, "ticket_id"),
        ("ticket_reject", {"reason": "Because!"}, "reason"),
        ("ticket_reject", {"detail": "x" * 501}, "detail"),
        ("ticket_resend", {"from": 9, "to": 3}, "are none"),
        ("release", {"receipt_hash": None}, "stand together"),
        ("release", {"preimage": "ab" * 31}, "preimage"),
        ("failure", {"receipt_id": "r"}, "stand together"),
        ("metric", {"met": True}, "met is True"),
        ("owed", {"amount_sats": 0}, "amount_sats"),
        ("dispute", {"claim": ""}, "claim"),
        ("dispute", {"evidence_hashes": [PARAMS, PARAMS]}, "twice"),
        ("dispute", {"receipt": {"text": "x" * 65_536}}, "65535"),
        ("dispute_reply", {"outcome": "reject"}, "names a replacement"),
        ("dispute_reply", {"outcome": "maybe"}, "outcome"),
        ("secret_request", {"count": 513}, "count"),
        ("secret", {"hashes": [HASH, HASH]}, "twice"),
        ("secret", {"hashes": []}, "length"),
    ],
)
def test_contradictions_are_refused_with_their_reason(verb: str, changes: dict[str, Any], word: str) -> None:
    changed = {name: value for name, value in {**GOOD[verb], **changes}.items() if value is not None}
    with pytest.raises(InvalidParams) as refused:
        read(verb, changed)
    assert word in refused.value.detail


def test_parts_of_a_batch_and_terms_alone() -> None:
    part = read("ticket", {"ticket_id": ID, "tokens": TOKENS, "from": 0, "to": 511})
    assert isinstance(part, messages.Ticket) and (part.first, part.last) == (0, 511)
    first = read("ticket", {**WHOLE, "tokens": []})
    assert isinstance(first, messages.Ticket) and first.tokens == []


@pytest.mark.parametrize(
    "schema", ["hive:escrow/steal", "hive:gossip/ticket", "escrow/ticket", "", "hive:escrow/"]
)
def test_other_schemas_are_none_of_a_ticket(schema: str) -> None:
    with pytest.raises(InvalidParams, match="no message of a ticket"):
        decode_message(schema, WHOLE)


def test_what_would_be_refused_is_not_written() -> None:
    with pytest.raises(ValueError, match="would be refused"):
        body_of(messages.TicketResend(ID, 9, 3))
    with pytest.raises(ValueError, match="would be refused"):
        body_of(messages.Release(ID, 0, "preimage"))
