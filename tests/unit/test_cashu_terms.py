"""Terms of tickets: one canonical document, read strictly, without contradictions (03 §6.2, §6.3)."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from cashu_tickets import NODE, NOW, PAYEE, PAYER, URL, document, item
from hive_shared.canonical import encode
from hive_shared.cashu import terms as terms_module
from hive_shared.cashu.derive import public_key
from hive_shared.cashu.reasons import TokenInvalid
from hive_shared.cashu.terms import decode_terms, terms_hash, terms_json
from hive_shared.crypto import Secret, cln_sign_message, sha256, xonly_pubkey
from hypothesis import given
from hypothesis import strategies as st

GOOD = document([item(0, 100)])
TWO_MINTS = [{"url": URL, "permille": 600}, {"url": "https://second.example", "permille": 400}]


def test_terms_are_what_their_canonical_text_says() -> None:
    full = document(
        [item(0, 100, cond={"verify_rpc": "judge", "min": 3})],
        credential_ref="cred-1",
        contract_id="contract-1",
        price_basis="trust",
        baseline={"period": [1, 2], "revenue_msat": 5},
        replaces="cd" * 16,
    )
    for each in (GOOD, full):
        terms = decode_terms(each)
        assert terms_json(terms) == each
        assert terms_hash(terms) == sha256(encode(each))
        assert decode_terms(encode(each)) == decode_terms(json.dumps(each)) == terms
    assert terms.amount_sats == 100


def test_any_other_word_is_another_hash() -> None:
    hashes = {terms_hash(decode_terms(GOOD))}
    for changes in (
        {"ticket_id": "00" * 16},
        {"salt": "00" * 16},
        {"danger": 6},
        {"items": [item(0, 101)]},
        {"items": [item(0, 100, label="")]},
        {"issued_at": NOW - 1},
    ):
        hashes.add(terms_hash(decode_terms({**GOOD, **changes})))
    assert len(hashes) == 7


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in GOOD.items() if key != name}


@pytest.mark.parametrize("name", sorted(GOOD))
def test_every_field_is_needed(name: str) -> None:
    with pytest.raises(TokenInvalid) as refused:
        decode_terms(without(name))
    assert refused.value.check == "terms_form" and name in refused.value.detail


@pytest.mark.parametrize(
    "changes",
    [
        {"v": 2},
        {"v": True},
        {"extra": 1},
        {"ticket_id": "AB" * 16},
        {"ticket_id": "ab" * 16 + "\n"},
        {"type": "other"},
        {"mode": "free"},
        {"payer": {"id": "x"}},
        {"payer": {**GOOD["payer"], "extra": 1}},
        {"payee": {**GOOD["payee"], "id": "with space"}},
        {"unit": "msat"},
        {"mints": []},
        {"mints": [{"url": URL, "permille": 0}]},
        {"items": []},
        {"items": [item(0, 0)]},
        {"items": [item(0, 10_000_001)]},
        {"items": [item(0, "100")]},  # type: ignore[arg-type]
        {"items": [item(0, 1.5)]},  # type: ignore[arg-type]
        {"items": [item(0, 1, deadline=999_999_999)]},
        {"items": [item(0, 1, locktime=10_000_000_000)]},
        {"items": [item(0, 1, hash="AB" * 32)]},
        {"items": [item(0, 1, label="x" * 65)]},
        {"items": [item(0, 1, cond=[])]},
        {"items": [item(0, 1, cond={"x": None})]},
        {"contract_id": None},
        {"price_basis": "other"},
        {"schema": "no-version"},
        {"task_params_hash": "cd" * 32},
        {"danger": 0},
        {"danger": 11},
        {"baseline": {"x": 1.5}},
        {"baseline": {"x": float("nan")}},
    ],
)
def test_what_is_no_such_document(changes: dict[str, Any]) -> None:
    with pytest.raises(TokenInvalid) as refused:
        decode_terms({**GOOD, **changes})
    assert refused.value.check == "terms_form" and len(str(refused.value)) < 260


@pytest.mark.parametrize("text", ["", "[]", "null", '{"v":1,"v":1}', "{" * 50, b"\xff", '{"v":1e3}'])
def test_what_is_no_object_at_all(text: str | bytes) -> None:
    with pytest.raises(TokenInvalid) as refused:
        decode_terms(text)
    assert refused.value.check == "terms_form"


def _negated(key: str) -> str:
    return {"02": "03", "03": "02"}[key[:2]] + key[2:]


MILESTONES = [item(number, 25 * 2**number, deadline=NOW + 3_600 + number) for number in range(3)]
BONUS = item(1, 200, deadline=NOW + 5_000)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"node_id": "02" + "0" * 64}, "node_id .* not on the curve"),
        ({"payee": {**GOOD["payee"], "lock_pubkey": "02" + "0" * 64}}, "lock_pubkey"),
        (
            {"payee": {**GOOD["payee"], "lock_pubkey": GOOD["payer"]["refund_pubkey"]}},
            "refund key is the payee",
        ),
        (
            # Signatures are checked by the x-coordinate: either spelling is the payee's key.
            {"payee": {**GOOD["payee"], "lock_pubkey": _negated(GOOD["payer"]["refund_pubkey"])}},
            "refund key is the payee",
        ),
        ({"verifier": {**GOOD["verifier"], "id": GOOD["payee"]["id"]}}, "judge its own work"),
        ({"replaces": GOOD["ticket_id"]}, "replaces itself"),
        ({"mints": [{"url": "http://mint.example", "permille": 1_000}]}, "https"),
        ({"mints": [{"url": URL + "/", "permille": 1_000}]}, "normal form"),
        ({"mints": [{"url": "https://MINT.example", "permille": 1_000}]}, "normal form"),
        ({"mints": [{"url": URL, "permille": 500}] * 2}, "twice"),
        ({"mints": [{"url": URL, "permille": 999}]}, "1000 permille"),
        ({"mints": TWO_MINTS, "items": [item(0, 2)]}, "nothing for one of the mints"),
        ({"items": [item(1, 100)]}, "calls itself 1"),
        ({"mode": "p2pk"}, "a hash in mode p2pk"),
        (
            {"items": [{key: value for key, value in item(0, 1).items() if key != "hash"}]},
            "no hash in mode task",
        ),
        ({"items": [item(0, 100, deadline=NOW)]}, "do not follow"),
        ({"items": [item(0, 100, locktime=NOW + 3_600)]}, "do not follow"),
        ({"items": [item(0, 1), item(1, 1)], "type": "single"}, "one item, not 2"),
        ({"items": [item(0, 1), {**item(1, 1), "hash": item(0, 1)["hash"]}], "type": "batch"}, "earlier one"),
        ({"items": [MILESTONES[0], item(1, 24)], "type": "milestone"}, "pays less"),
        ({"items": [MILESTONES[1] | {"i": 0}, MILESTONES[0] | {"i": 1}], "type": "milestone"}, "pays less"),
        (
            {"items": [MILESTONES[0], item(1, 50, deadline=NOW + 3_599)], "type": "milestone"},
            "ends earlier",
        ),
        ({"items": [item(n, 5) for n in range(33)], "type": "milestone"}, "at most 32"),
        ({"items": [item(0, 50)], "type": "performance"}, "1 to 8 bonuses"),
        ({"items": [item(0, 50), item(1, 200)], "type": "performance"}, "before the work"),
        (
            {
                "items": [item(0, 50), *(item(n, 5, deadline=NOW + 5_000) for n in range(1, 10))],
                "type": "performance",
            },
            "8 bonuses",
        ),
    ],
)
def test_terms_that_contradict_themselves(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(TokenInvalid, match=says) as refused:
        decode_terms({**GOOD, **changes})
    assert refused.value.check == "terms_rule"


def test_every_type_and_mode_has_terms() -> None:
    decode_terms(document(MILESTONES, type="milestone"))
    decode_terms(document([item(0, 50), BONUS], type="performance"))
    decode_terms(document([item(number, 5) for number in range(512)]))
    receipt = {**GOOD, "mode": "receipt", "verifier": {**GOOD["verifier"], "id": GOOD["payee"]["id"]}}
    decode_terms(receipt)
    bare = item(0, 5)
    del bare["hash"]
    decode_terms(document([bare], mode="p2pk"))
    with pytest.raises(TokenInvalid, match="512"):
        decode_terms(document([item(number, 5) for number in range(513)]))


@given(st.integers(4, 1_000_000), st.lists(st.integers(1, 400), min_size=1, max_size=3))
def test_shares_of_all_mints_are_the_whole_amount(amount: int, later: list[int]) -> None:
    total = sum(later)
    first = 1_000 - total
    if first < 1:
        later = [each * 900 // total or 1 for each in later]
        first = 1_000 - sum(later)
    mints = [
        {"url": f"https://m{number}.example", "permille": part} for number, part in enumerate([first, *later])
    ]
    try:
        terms = decode_terms(document([item(0, amount)], mints=mints))
    except TokenInvalid as refused:
        assert "nothing for one of the mints" in refused.detail
        return
    shares = [terms_module.share_sats(terms, 0, mint) for mint in range(len(mints))]
    assert sum(shares) == amount and min(shares) >= 1
    locktimes = [terms_module.share_locktime(terms, 0, mint) for mint in range(len(mints))]
    assert locktimes == [NOW + 7_200 + 86_400 * mint for mint in range(len(mints))]


def test_who_signed_terms() -> None:
    text = terms_module.terms_text(terms_hash(decode_terms(GOOD)))
    assert text.startswith("hive-escrow-terms:v1:") and len(text) == 21 + 64
    nostr = terms_module.sign_text(PAYER, text)
    assert terms_module.signed_by(xonly_pubkey(PAYER), text, nostr)
    assert not terms_module.signed_by(xonly_pubkey(PAYEE), text, nostr)
    assert not terms_module.signed_by(xonly_pubkey(PAYER), text + "0", nostr)
    node = cln_sign_message(NODE, text)
    assert terms_module.signed_by(public_key(NODE), text, node)
    assert not terms_module.signed_by(public_key(Secret(b"\x09" * 32)), text, node)
    assert not terms_module.signed_by("did:cid:bagaaiera", text, nostr)
    assert terms_module.lock_key_text("fleet", "02ab") == "hive-lock-key:v1:fleet:02ab"


def test_what_a_task_is_has_one_hash() -> None:
    of = terms_module.task_params_hash("hive:x/v1", "do", {"b": 1, "a": [2]})
    assert of == "sha256:" + sha256(b'{"action":"do","params":{"a":[2],"b":1},"schema":"hive:x/v1"}').hex()
    assert of == terms_module.task_params_hash("hive:x/v1", "do", {"a": [2], "b": 1})


def test_reading_terms_changes_nothing_of_what_was_given() -> None:
    given_ = copy.deepcopy(GOOD)
    decode_terms(given_)
    assert given_ == GOOD
