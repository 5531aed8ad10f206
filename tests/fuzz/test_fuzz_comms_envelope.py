"""Everything an agent or a stranger may write: commands, pushes, parameters, policy, credentials, times.

Whatever comes in, what comes out is a value or a refusal with a known symbol, and nothing else is raised.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from cl_hive_comms.domain import names, policy_document, policy_rules
from hive_shared import credential, envelope
from hive_shared.canonical import JsonValue, encode
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.errors import SYMBOLS, HiveError
from hive_shared.registry import DangerFacts, export, find, parse_params
from hypothesis import given
from hypothesis import strategies as st

AGENT, NODE = Secret(b"\x03" * 32), Secret(b"\x05" * 32)
COMMAND: dict[str, JsonValue] = {
    "v": 1,
    "command_id": "00000000-0000-4000-8000-0000000000c1",
    "schema_type": "hive:fee-policy/v1",
    "schema_payload": {"action": "set_single", "params": {"channel_id": "103x1x0", "fee_ppm": 150}},
    "credential": {"credential_id": "00000000-0000-4000-8000-000000000001"},
    "payment_proof": {"method": "none"},
    "nonce": 1_770_000_000_000_000,
    "timestamp": 1_770_000_000,
    "node": xonly_pubkey(NODE),
    "sender": xonly_pubkey(AGENT),
}
SIGNED = envelope.sign_command(AGENT, COMMAND)
CATALOGUE: Any = export()
ACTIONS = [
    (schema, action, spec["params"])
    for schema, entry in CATALOGUE["schemas"].items()
    for action, spec in entry["actions"].items()
    if spec["params"] is not None
]
NUMBERS = st.integers() | st.sampled_from([2**31, 2**53, 2**63, 2**64, -(2**63)]) | st.floats()
JSON = st.recursive(
    st.none()
    | st.booleans()
    | NUMBERS
    | st.text(max_size=20)
    | st.sampled_from(["103x1x0", "all", "\ud800"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=15,
)


@given(
    JSON | st.dictionaries(st.sampled_from(sorted(SIGNED)), JSON).map(lambda changes: {**SIGNED, **changes})
)
def test_a_command_decodes_or_is_refused_by_a_symbol(value: Any) -> None:
    text = json.dumps(value)
    try:
        command = envelope.decode_command(text)
    except HiveError as error:
        assert error.code == -32602
        assert error.symbol in SYMBOLS, error
        return
    # What decodes can be hashed, and only the very thing that was signed verifies.
    assert envelope.command_digest(command.raw).hex() == command.hash
    assert envelope.verify_signature(command) is (encode(command.raw) == encode(SIGNED))


@given(st.data())
def test_a_damaged_text_never_carries_the_signature_over(data: st.DataObject) -> None:
    text = bytearray(json.dumps(SIGNED).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    try:
        command = envelope.decode_command(bytes(text))
    except HiveError as error:
        assert error.code == -32602
        return
    assert envelope.verify_signature(command) is (encode(command.raw) == encode(SIGNED))


@given(st.sampled_from(ACTIONS), st.data())
def test_params_parse_to_what_their_schema_says(
    entry: tuple[str, str, dict[str, Any]], data: st.DataObject
) -> None:
    schema, action, params = entry
    named = st.dictionaries(st.sampled_from([*params["properties"], "unknown"]), JSON, max_size=5)
    raw = data.draw(named | JSON)
    spec = find(schema, action)
    try:
        parsed = parse_params(spec, raw)
    except HiveError as error:
        assert error.symbol == "invalid_params", error
        assert {"param", "expected"} <= set(error.data), error.data
        return
    assert set(params["required"]) <= set(parsed) <= set(params["properties"])
    danger = spec.danger(parsed, DangerFacts())
    assert 1 <= danger.total <= 10


@given(JSON | JSON.map(lambda value: {"action": value, "params": value}))
def test_pushes_credentials_rules_and_policies_refuse_with_a_sentence(value: Any) -> None:
    for read in (
        lambda: envelope.decode_push(json.dumps(value)),
        lambda: credential.parse(value),
        lambda: policy_document.parse_document(value),
        lambda: policy_rules.parse_rule(value, rule_id="r1", source="operator"),
    ):
        try:
            read()
        except (HiveError, ValueError) as error:
            assert str(error)


@given(st.text(max_size=80))
def test_names_are_cleaned_or_refused(text: str) -> None:
    try:
        cleaned = names.clean(text)
    except (HiveError, ValueError) as error:
        assert str(error)
        return
    assert cleaned.isprintable()
    assert names.clean(cleaned) == cleaned


@pytest.mark.parametrize("levels", [10, 11, 100, 5_000])
def test_depth_is_cut_off_at_twelve(levels: int) -> None:
    """The document and its payment proof are two levels."""
    deep = '{"a":' * levels + "1" + "}" * levels
    text = json.dumps({**SIGNED, "payment_proof": "@"}).replace('"@"', f'{{"method":"none","x":{deep}}}')
    if levels + 2 <= 12:
        assert not envelope.verify_signature(envelope.decode_command(text))
        return
    with pytest.raises(HiveError) as refused:
        envelope.decode_command(text)
    assert refused.value.symbol == "too_large"
