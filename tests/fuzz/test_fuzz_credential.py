"""Credential documents from anywhere: read exactly or refused, and patterns that never grant by accident."""

from __future__ import annotations

from typing import Any

from hive_shared import credential, crypto
from hive_shared.canonical import JsonValue, encode
from hive_shared.credential import TEMPLATES, patterns_allow
from hive_shared.credential_scope import check_constraints, check_patterns
from hive_shared.crypto import Secret
from hive_shared.errors import InvalidParams
from hive_shared.registry import actions
from hypothesis import given
from hypothesis import strategies as st

LIGHTNING = Secret((7).to_bytes(32, "big"))
NODE_ID = crypto.cln_recover_message("x", crypto.cln_sign_message(LIGHTNING, "x")) or ""
BARE = credential.new(
    credential_id="00000000-0000-4000-8000-000000000001",
    node_id=NODE_ID,
    agent_key=crypto.xonly_pubkey(Secret((3).to_bytes(32, "big"))),
    template=TEMPLATES["full_routing"],
    valid_from=1_770_000_000,
    valid_until=1_770_000_000 + 86_400,
)
DOC = credential.to_doc(
    credential.with_signature(BARE, crypto.cln_sign_message(LIGHTNING, credential.signing_text(BARE)))
)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=15,
)


@given(st.sampled_from([*DOC, "zz"]), json_values)
def test_any_changed_field_is_refused_or_breaks_the_signature(field: str, value: Any) -> None:
    changed = {**DOC, field: value}
    try:
        read = credential.parse(changed)
    except InvalidParams:
        return
    assert encode(credential.to_doc(read)) == encode(changed), "a document is kept to the byte"
    same = encode(changed) == encode(DOC)
    assert credential.is_signed_by(read, NODE_ID) == same
    assert read.effective_tier <= read.tier


@given(json_values)
def test_any_json_is_a_credential_or_refused(value: JsonValue) -> None:
    try:
        credential.parse(value)
    except InvalidParams:
        return
    raise AssertionError("nothing random is a credential")


@given(json_values | st.dictionaries(st.sampled_from(["max_fee_ppm", "allowed_peers"]), json_values))
def test_any_json_is_a_set_of_constraints_or_refused(value: JsonValue) -> None:
    try:
        assert check_constraints(value) == value
    except InvalidParams:
        pass


@given(st.lists(st.text("!hive:*/v1fe-policy_set", max_size=24), max_size=4))
def test_patterns_are_checked_or_refused_and_an_unchecked_one_grants_nothing_new(patterns: list[str]) -> None:
    try:
        check_patterns(patterns)
        fine = True
    except InvalidParams:
        fine = False
    granted = [
        spec for spec in actions() if spec.permissions and patterns_allow(patterns, spec.schema, spec.name)
    ]
    if fine and not any(pattern.startswith("!") for pattern in patterns):
        assert granted
