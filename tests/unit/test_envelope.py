"""Envelopes: the published vectors, what is signed, what is refused (02 §6.1, 11 §15)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hive_shared import crypto, envelope
from hive_shared.canonical import JsonValue, encode
from hive_shared.crypto import Secret
from hive_shared.errors import HiveError, Unauthorized, from_symbol

AGENT, NODE = Secret((3).to_bytes(32, "big")), Secret((5).to_bytes(32, "big"))
AGENT_KEY, NODE_KEY = crypto.xonly_pubkey(AGENT), crypto.xonly_pubkey(NODE)

VECTOR: dict[str, JsonValue] = {
    "command_id": "00000000-0000-4000-8000-0000000000c1",
    "credential": {"credential_id": "00000000-0000-4000-8000-000000000001"},
    "node": "2f8bde4d1a07209355b4a7250a5c5128e88b84bddc619ab7cba8d569b240efe4",
    "nonce": 1770000000000000,
    "payment_proof": {"method": "none"},
    "schema_payload": {"action": "set_single", "params": {"channel_id": "103x1x0", "fee_ppm": 150}},
    "schema_type": "hive:fee-policy/v1",
    "sender": "f9308a019258c31049344f85f89d5229b531c845836f99b08601f113bce036f9",
    "timestamp": 1770000000,
    "v": 1,
}
VECTOR_HASH = "fe1920e76f32e3fff70197bdf3c115f52aa6b300724a2b74495f1075fa5da9d4"
VECTOR_SIGNATURE = (
    "2106e75c2904565d95541c67edd9c295af450baf740aab587cbe7647d5f99624"
    "65ec65bee0cbd4876218f4a019a393f63444257b3fc6c0cfce9ca666ab37eda7"
)


def signed(**changes: JsonValue) -> bytes:
    doc = {name: value for name, value in {**VECTOR, **changes}.items() if value is not None}
    return encode(envelope.sign_command(AGENT, doc))


def slug_of(data: bytes | str) -> str:
    with pytest.raises(HiveError) as caught:
        envelope.decode_command(data)
    assert caught.value.code == -32602
    return caught.value.symbol


def test_command_hash_and_signature_vector_of_11_15_3() -> None:
    doc = envelope.sign_command(AGENT, VECTOR, aux=bytes(32))
    assert doc["signature"] == VECTOR_SIGNATURE
    command = envelope.decode_command(encode(doc))
    assert (command.hash, command.body_hash) == (VECTOR_HASH, VECTOR_HASH)
    assert (command.sender, command.node) == (AGENT_KEY, NODE_KEY)
    assert envelope.verify_signature(command)


def test_confirm_vector_of_11_15_5() -> None:
    digest = envelope.confirm_digest(VECTOR_HASH, "ab" * 32)
    assert digest.hex() == "0b76c4c51cd5e9032beab8da46ca5af3a5e87ceca938a0314cb361882824c8c0"


def test_approvals_and_acks_sign_tagged_texts() -> None:
    assert envelope.approve_digest("aa", "reject") == crypto.sha256(b"hive-mgmt-approve:v1:aa:reject")
    assert envelope.ack_digest("aa") == crypto.sha256(b"hive-receipt-ack:v1:aa")


def test_all_fields_are_read() -> None:
    command = envelope.decode_command(signed(reply_relays=["wss://a.example"], nonce="9223372036854775807"))
    assert command.nonce == 2**63 - 1
    assert command.reply_relays == ("wss://a.example",)
    assert command.credential_id == "00000000-0000-4000-8000-000000000001"
    assert command.action == "set_single"
    assert command.params == {"channel_id": "103x1x0", "fee_ppm": 150}
    assert envelope.verify_signature(command)


def test_the_node_may_be_named_by_npub() -> None:
    from hive_shared.nostr.keys import npub_encode

    assert envelope.decode_command(signed(node=npub_encode(NODE_KEY))).node == NODE_KEY


def test_acceptance_02_04_any_change_to_signed_content_breaks_the_signature() -> None:
    original = envelope.decode_command(signed())
    for changes in (
        {"nonce": 1770000000000001},
        {"timestamp": 1770000001},
        {"payment_proof": {"method": "nond"}},
        {"schema_payload": {"action": "set_single", "params": {"channel_id": "103x1x0", "fee_ppm": 151}}},
        {"reply_relays": ["wss://evil.example"]},
        {"command_id": "00000000-0000-4000-8000-0000000000c2"},
        {"sender": NODE_KEY},
        {"node": AGENT_KEY},
        {"credential": {"credential_id": "00000000-0000-4000-8000-000000000002"}},
    ):
        changed = envelope.decode_command(encode({**original.raw, **changes}))  # type: ignore[dict-item]
        assert not envelope.verify_signature(changed), changes


def test_acceptance_02_04_flipped_byte_is_bad_signature() -> None:
    """A byte flipped in the signature, hex or not any more, decodes and fails verification."""
    doc = json.loads(signed())
    good: str = doc["signature"]
    for position in (0, 64, 127):
        for bit in (0, 1, 2, 6):
            flipped = good[:position] + chr(ord(good[position]) ^ (1 << bit)) + good[position + 1 :]
            command = envelope.decode_command(encode({**doc, "signature": flipped}))
            assert not envelope.verify_signature(command)


def test_a_lightning_key_may_sign_instead() -> None:
    doc = {**VECTOR}
    text = envelope.COMMAND_TAG + encode(doc).decode()
    lightning = Secret((7).to_bytes(32, "big"))
    zbase = crypto.cln_sign_message(lightning, text)
    node_id = crypto.cln_recover_message(text, zbase)
    command = envelope.decode_command(encode({**doc, "signature": {"alg": "cln-zbase", "sig": zbase}}))
    assert envelope.verify_signature(command, node_id)
    assert not envelope.verify_signature(command, "02" + "ab" * 32)
    assert not envelope.verify_signature(command)


def test_did_signatures_are_not_accepted_without_archon() -> None:
    doc = {**VECTOR, "signature": {"alg": "did", "sig": "x"}}
    assert not envelope.verify_signature(envelope.decode_command(encode(doc)))


def test_payload_hash_ignores_nonce_and_time() -> None:
    one, two = envelope.decode_command(signed()), envelope.decode_command(signed(nonce=5, timestamp=7))
    assert one.payload_hash == two.payload_hash
    assert one.body_hash != two.body_hash


@pytest.mark.parametrize("missing", [name for name in VECTOR if name != "command_id"])
def test_a_missing_field_is_malformed(missing: str) -> None:
    assert slug_of(signed(**{missing: None})) == "malformed"


@pytest.mark.parametrize(
    "changes",
    [
        {"v": True},
        {"v": "1"},
        {"extra": 1},
        {"nonce": 0},
        {"nonce": True},
        {"nonce": -1},
        {"nonce": "9223372036854775808"},
        {"nonce": "007"},
        {"nonce": 1.5},
        {"timestamp": "1770000000"},
        {"timestamp": -1},
        {"timestamp": 2**50},
        {"node": "2F" * 32},
        {"node": "npub1nothing"},
        {"sender": "00"},
        {"sender": "npub1xyz"},
        {"command_id": "C1"},
        {"reply_relays": ["a", "b", "c", "d"]},
        {"reply_relays": [1]},
        {"credential": {}},
        {"credential": {"credential_id": "x", "hash": "zz"}},
        {"credential": {"credential_id": "x", "trust": 2}},
        {"payment_proof": {}},
        {"payment_proof": "none"},
        {"schema_payload": {"action": "x"}},
        {"schema_payload": {"action": "x", "params": {}, "danger": 1}},
        {"schema_payload": {"action": 1, "params": {}}},
        {"schema_type": ""},
    ],
)
def test_acceptance_02_09_wrong_shapes_are_malformed(changes: dict[str, Any]) -> None:
    assert slug_of(signed(**changes)) == "malformed"


def test_another_version_is_told_apart() -> None:
    assert slug_of(signed(v=2)) == "unsupported_version"


def test_acceptance_02_09_numbers_beyond_json_depth_13_and_70_kb_are_refused() -> None:
    text = signed().decode()
    assert slug_of(text.replace('"fee_ppm":150', '"fee_ppm":18446744073709551616')) == "malformed"
    deep = "[" * 11 + "]" * 11
    assert slug_of(text.replace('"fee_ppm":150', f'"fee_ppm":{deep}')) == "too_large"
    assert slug_of(text.replace('"fee_ppm":150', '"fee_ppm":"' + "a" * 70_000 + '"')) == "too_large"
    assert slug_of(text[:-1]) == "malformed"
    assert slug_of("[]") == "malformed"


def test_only_control_commands_may_come_without_a_credential() -> None:
    data = signed(credential=None, schema_type="hive:control/v1")
    assert envelope.decode_command(data).credential is None


def test_responses_are_signed_by_the_node() -> None:
    doc = envelope.build_response(
        request_nonce=2**63 - 1, status=0, seq=7, timestamp=1770000000, result={"new": 1}, command_id="x"
    )
    assert doc["request_nonce"] == "9223372036854775807"
    assert "error" not in doc and "receipt" not in doc
    reply = envelope.sign_response(NODE, doc)
    assert envelope.verify_response(reply, NODE_KEY)
    assert not envelope.verify_response(reply, AGENT_KEY)
    assert not envelope.verify_response({**reply, "status": 1}, NODE_KEY)
    assert not envelope.verify_response(doc, NODE_KEY)
    assert not envelope.verify_response({**reply, "result": float("nan")}, NODE_KEY)


def test_errors_travel_as_symbol_and_number() -> None:
    error = from_symbol("stale_timestamp", "clock is 400 s off", server_time=5)
    assert envelope.error_doc(error, retry_after=3) == {
        "code": 4009,
        "slug": "stale_timestamp",
        "message": "clock is 400 s off",
        "data": {"server_time": 5},
        "retry_after": 3,
    }
    assert envelope.status_of(error) == 1
    assert envelope.status_of(from_symbol("busy", "later")) == 2
    assert envelope.status_of(from_symbol("confirmation_required", "wait")) == 3


def push(action: str = "ping", params: dict[str, JsonValue] | None = None) -> dict[str, JsonValue]:
    body = {"ping_id": "p1"} if params is None else params
    return envelope.build_push(
        action, body, node_key=NODE_KEY, agent_key=AGENT_KEY, seq=3, timestamp=1770000000
    )


def test_pushes_are_signed_and_read_back() -> None:
    doc = envelope.sign_push(NODE, push())
    read = envelope.decode_push(encode(doc))
    assert (read.action, dict(read.params), read.seq) == ("ping", {"ping_id": "p1"}, 3)
    assert (read.node_key, read.agent_key) == (NODE_KEY, AGENT_KEY)
    assert envelope.verify_push(doc, NODE_KEY)


def test_forged_and_malformed_pushes_are_refused() -> None:
    doc = envelope.sign_push(NODE, push())
    with pytest.raises(Unauthorized) as caught:
        envelope.decode_push(encode({**doc, "seq": 4}))
    assert caught.value.reason == "bad_signature"
    # A response's signature is no push's signature: the tags differ.
    with pytest.raises(Unauthorized):
        envelope.decode_push(encode(envelope.sign_response(NODE, push())))
    for bad in ({**doc, "nonce": 1}, {**doc, "seq": True}, {**doc, "schema_type": "hive:fee-policy/v1"}):
        with pytest.raises(HiveError):
            envelope.decode_push(encode(bad))
    with pytest.raises(HiveError, match="unknown"):
        push("give_me_money", {})
    with pytest.raises(HiveError, match="command_hash"):
        push("confirm_challenge", {"command_id": "00000000-0000-4000-8000-0000000000c1"})
