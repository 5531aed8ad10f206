"""Envelopes from strangers: any bytes decode or are refused with a -32602 slug (02 §15.9)."""

from __future__ import annotations

from typing import Any

from hive_shared import crypto, envelope
from hive_shared.canonical import JsonValue, encode
from hive_shared.crypto import Secret
from hive_shared.errors import HiveError
from hypothesis import given
from hypothesis import strategies as st

AGENT = Secret((3).to_bytes(32, "big"))
NODE_KEY = crypto.xonly_pubkey(Secret((5).to_bytes(32, "big")))
COMMAND: dict[str, JsonValue] = {
    "v": 1,
    "schema_type": "hive:fee-policy/v1",
    "schema_payload": {"action": "set_single", "params": {"channel_id": "103x1x0", "fee_ppm": 150}},
    "credential": {"credential_id": "00000000-0000-4000-8000-000000000001"},
    "payment_proof": {"method": "none"},
    "nonce": 1_770_000_000_000_000,
    "timestamp": 1_770_000_000,
    "node": NODE_KEY,
    "sender": crypto.xonly_pubkey(AGENT),
}
SIGNED = encode(envelope.sign_command(AGENT, COMMAND))
SLUGS = {"malformed", "too_large", "unsupported_version", "invalid_params"}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=20,
)


def decoded(data: bytes | str) -> envelope.Command | None:
    try:
        return envelope.decode_command(data)
    except HiveError as error:
        assert error.code == -32602 and error.symbol in SLUGS
        return None


@given(st.binary(max_size=300) | st.text(max_size=300))
def test_any_bytes_are_decoded_or_refused(data: bytes | str) -> None:
    decoded(data)


@given(st.integers(0, len(SIGNED) - 1), st.integers(1, 255))
def test_acceptance_02_04_no_flipped_byte_passes(position: int, mask: int) -> None:
    flipped = bytearray(SIGNED)
    flipped[position] ^= mask
    command = decoded(bytes(flipped))
    assert command is None or not envelope.verify_signature(command)


@given(st.sampled_from([*COMMAND, "signature", "command_id", "reply_relays", "zz"]), json_values)
def test_any_value_of_any_field_is_read_or_refused(field: str, value: Any) -> None:
    import json

    document = {**COMMAND, "signature": "00" * 64, field: value}
    command = decoded(json.dumps(document))
    if command is None:
        return
    assert not envelope.verify_signature(command) or document == COMMAND
    assert len(command.hash) == 64
    assert isinstance(command.nonce, int) and 1 <= command.nonce < 2**63
    assert encode(command.raw)


@given(json_values)
def test_any_push_is_read_or_refused(value: Any) -> None:
    import json

    document = {
        "v": 1,
        "schema_type": "hive:control/v1",
        "schema_payload": value,
        "sender": NODE_KEY,
        "node": NODE_KEY,
        "seq": 1,
        "timestamp": 1,
        "signature": "00" * 64,
    }
    for text in (json.dumps(value), json.dumps(document)):
        try:
            envelope.decode_push(text)
        except HiveError as error:
            assert error.code in (-32602, 4003)
        else:
            raise AssertionError("a push with a zero signature was accepted")
