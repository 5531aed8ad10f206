"""The envelope of the command channel: commands, responses, pushes, and what each party signs.

docs/protocol/02-fleet-management.md §6.1, docs/protocol/11-advisor-kit.md §15. The same JSON travels on
every transport. Signatures are BIP-340 over SHA-256 of a domain tag and the canonical text of every
field but the signature, so nothing in an envelope can be changed or moved to another purpose.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec

from . import crypto
from .canonical import JsonValue, decode_object, encode
from .crypto import Secret
from .errors import HiveError, InvalidParams, Unauthorized, envelope_status, from_symbol
from .registry import CONTROL, PUSHES, is_uuid, parse_nonce

VERSION: Final = 1
MAX_BYTES: Final = 65_535
COMMAND_TAG: Final = "hive-mgmt-cmd:v1:"
RESPONSE_TAG: Final = "hive-mgmt-resp:v1:"
PUSH_TAG: Final = "hive-mgmt-push:v1:"
CONFIRM_TAG: Final = "hive-mgmt-confirm:v1:"
APPROVE_TAG: Final = "hive-mgmt-approve:v1:"
RECEIPT_ACK_TAG: Final = "hive-receipt-ack:v1:"

STATUS_SUCCESS, STATUS_REJECTED, STATUS_ERROR, STATUS_PENDING, STATUS_PARTIAL = range(5)

_XONLY: Final = re.compile(r"[0-9a-f]{64}")
_MAX_JSON_INTEGER: Final = 2**53 - 1
_REQUIRED: Final = (
    "v",
    "schema_type",
    "schema_payload",
    "payment_proof",
    "signature",
    "nonce",
    "timestamp",
    "node",
    "sender",
)
_OPTIONAL: Final = ("credential", "command_id", "reply_relays", "expected_policy_root")
_ALGORITHMS: Final = ("bip340", "cln-zbase", "did")
_MAX_SIGNATURE: Final = 8_192


class CredentialRef(msgspec.Struct, frozen=True):
    """How a command names its credential; `hash` is the credential's `doc_hash`, `vc` an embedded copy."""

    credential_id: str
    hash: str | None = None
    vc: JsonValue = None


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """A decoded command. `raw` is the document as it came: it is what was signed and what is stored.

    `node` and `sender` are x-only hex whatever form they came in. `hash` is the command_hash of
    11 §15.3, over everything but the signature; `payload_hash` covers schema and payload only and tells
    whether a repeated command_id asks for the same thing (11 §15.4). `expected_policy_root` (64 hex) is the
    policy root the agent decided by; from any other the command does not start (02 §9.3).
    """

    schema_type: str
    action: str
    params: JsonValue
    credential: CredentialRef | None
    payment_proof: Mapping[str, JsonValue]
    signature: str
    signature_alg: str
    nonce: int
    timestamp: int
    node: str
    sender: str
    command_id: str | None
    reply_relays: tuple[str, ...]
    raw: Mapping[str, JsonValue]
    hash: str
    payload_hash: str
    expected_policy_root: str | None = None

    @property
    def body_hash(self) -> str:
        """What a repeat of a nonce has to equal (02 §6.5): the signed content."""
        return self.hash

    @property
    def credential_id(self) -> str | None:
        """The id of the credential the command was sent under, if it names one."""
        return None if self.credential is None else self.credential.credential_id


def decode_command(data: bytes | str) -> Command:
    """Decode a command strictly, without looking at who it is for, when it was sent or who signed it.

    Raises InvalidParams with reason malformed, too_large or unsupported_version.
    """
    doc = decode_object(data, max_bytes=MAX_BYTES, floats=True)
    version = doc.get("v")
    if isinstance(version, bool) or not isinstance(version, int):
        raise _bad("v must be the number 1")
    if version != VERSION:
        raise from_symbol("unsupported_version", f"envelope version {version} is not spoken here, use 1")
    _check_keys(doc, _REQUIRED, _OPTIONAL)
    action, params = _payload(doc["schema_payload"])
    schema_type = _short(doc, "schema_type", 64)
    credential = _credential(doc["credential"]) if "credential" in doc else None
    if credential is None and schema_type != CONTROL:
        raise _bad("credential is required")
    nonce = parse_nonce(doc["nonce"])
    if nonce is None:
        raise _bad("nonce must be an integer or decimal text from 1 to 2^63-1")
    algorithm, signature = _signature(doc["signature"])
    digest = command_digest(doc)
    return Command(
        schema_type=schema_type,
        action=action,
        params=params,
        credential=credential,
        payment_proof=_payment_proof(doc["payment_proof"]),
        signature=signature,
        signature_alg=algorithm,
        nonce=nonce,
        timestamp=_timestamp(doc),
        node=_node(doc["node"]),
        sender=_xonly(doc, "sender"),
        command_id=_command_id(doc),
        reply_relays=_reply_relays(doc),
        raw=doc,
        hash=digest.hex(),
        payload_hash=payload_hash(schema_type, doc["schema_payload"]),
        expected_policy_root=_xonly(doc, "expected_policy_root", "hash")
        if "expected_policy_root" in doc
        else None,
    )


def command_digest(doc: Mapping[str, JsonValue]) -> bytes:
    """The 32 bytes an agent signs; their hex is the command_hash (11 §15.3)."""
    return crypto.tagged(COMMAND_TAG, _unsigned(doc))


def payload_hash(schema_type: str, payload: JsonValue) -> str:
    """SHA-256 (hex) of the canonical {schema_payload, schema_type}: what a command asks for."""
    return crypto.sha256(encode({"schema_payload": payload, "schema_type": schema_type})).hex()


def sign_command(
    secret: Secret, doc: Mapping[str, JsonValue], *, aux: bytes | None = None
) -> dict[str, JsonValue]:
    """The command document with the agent's signature; any signature it has is replaced."""
    return _signed(secret, doc, COMMAND_TAG, aux)


def verify_signature(command: Command, agent_node_id: str | None = None) -> bool:
    """Whether the agent signed this command.

    BIP-340 by the sender, or `cln-zbase` by the CLN key `agent_node_id` (66 hex) of the credential's
    agent. `did` signatures need archon and are never accepted here.
    """
    if command.signature_alg == "bip340":
        return crypto.schnorr_verify(command.sender, bytes.fromhex(command.hash), command.signature)
    if command.signature_alg == "cln-zbase" and agent_node_id is not None:
        text = COMMAND_TAG + _unsigned(command.raw).decode()
        return crypto.cln_recover_message(text, command.signature) == agent_node_id
    return False


RETURNED: Final = ("change", "refund")
"""Tokens that give ecash back to the agent: what its fee was too much, and its fee (02 §8)."""


def build_response(
    *,
    request_nonce: int,
    status: int,
    seq: int,
    timestamp: int,
    command_id: str | None = None,
    result: JsonValue = None,
    state_hash: str | None = None,
    receipt: JsonValue = None,
    error: JsonValue = None,
    preimage: str | None = None,
    returned: Mapping[str, JsonValue] | None = None,
) -> dict[str, JsonValue]:
    """An unsigned response (02 §6.1); parts that are None are left out. `returned`: RETURNED by name."""
    doc: dict[str, JsonValue] = {
        "v": VERSION,
        "request_nonce": nonce_json(request_nonce),
        "status": status,
        "seq": seq,
        "timestamp": timestamp,
    }
    optional: Mapping[str, JsonValue] = {
        "command_id": command_id,
        "result": result,
        "state_hash": state_hash,
        "receipt": receipt,
        "error": error,
        "preimage": preimage,
    }
    doc.update((name, value) for name, value in optional.items() if value is not None)
    return {**doc, **(returned or {})}


def error_doc(error: HiveError, retry_after: int | None = None) -> dict[str, JsonValue]:
    """The `error` of a response: symbol and number of 02 §7.2, the sentence, its data."""
    doc: dict[str, JsonValue] = {"code": error.code, "slug": error.symbol, "message": error.detail}
    data = {name: value for name, value in error.data.items() if name != "reason"}
    if data:
        doc["data"] = data
    if retry_after is not None:
        doc["retry_after"] = retry_after
    return doc


def status_of(error: HiveError) -> int:
    """The response status an error travels under: 3 for a confirmation that is needed, else 1 or 2."""
    return STATUS_PENDING if error.symbol == "confirmation_required" else envelope_status(error)


def sign_response(secret: Secret, doc: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The response with the signature of the node's Nostr key."""
    return _signed(secret, doc, RESPONSE_TAG, None)


def verify_response(doc: Mapping[str, JsonValue], node_key: str) -> bool:
    """Whether the node's Nostr key (x-only hex) signed this response. Never raises."""
    return _verified(doc, RESPONSE_TAG, node_key)


class Push(msgspec.Struct, frozen=True, kw_only=True):
    """A decoded push from a node: what happened, for which agent, and its place in the sequence."""

    action: str
    params: Mapping[str, JsonValue]
    node_key: str
    agent_key: str
    seq: int
    timestamp: int
    raw: Mapping[str, JsonValue]


def build_push(
    action: str,
    params: Mapping[str, JsonValue],
    *,
    node_key: str,
    agent_key: str,
    seq: int,
    timestamp: int,
) -> dict[str, JsonValue]:
    """An unsigned push of the node to an agent (11 §15.1). Raises InvalidParams for a wrong body."""
    _check_push(action, dict(params))
    return {
        "v": VERSION,
        "schema_type": CONTROL,
        "schema_payload": {"action": action, "params": dict(params)},
        "sender": node_key,
        "node": agent_key,
        "seq": seq,
        "timestamp": timestamp,
    }


def sign_push(secret: Secret, doc: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The push with the signature of the node's Nostr key."""
    return _signed(secret, doc, PUSH_TAG, None)


def verify_push(doc: Mapping[str, JsonValue], node_key: str) -> bool:
    """Whether the node's Nostr key (x-only hex) signed this push. Never raises."""
    return _verified(doc, PUSH_TAG, node_key)


def decode_push(data: bytes | str) -> Push:
    """Decode a push and check its signature against its own sender.

    Raises InvalidParams for a malformed one, Unauthorized (reason bad_signature) for a forged one.
    Whether that sender is a node the agent knows is the caller's to check.
    """
    doc = decode_object(data, max_bytes=MAX_BYTES, floats=True)
    _check_keys(
        doc, ("v", "schema_type", "schema_payload", "sender", "node", "seq", "timestamp", "signature"), ()
    )
    if doc["v"] != VERSION or doc["schema_type"] != CONTROL:
        raise _bad("a push has v 1 and schema_type hive:control/v1")
    action, params = _payload(doc["schema_payload"])
    seq = doc["seq"]
    if isinstance(seq, bool) or not isinstance(seq, int) or seq < 0:
        raise _bad("seq must be a whole number")
    sender = _xonly(doc, "sender")
    parsed = _check_push(action, params)
    if not verify_push(doc, sender):
        raise Unauthorized("the push is not signed by its sender", reason="bad_signature")
    return Push(
        action=action,
        params=parsed,
        node_key=sender,
        agent_key=_xonly(doc, "node"),
        seq=seq,
        timestamp=_timestamp(doc),
        raw=doc,
    )


def confirm_digest(command_hash: str, challenge: str) -> bytes:
    """What an agent signs to confirm a command of danger 7 or 8 (11 §15.5); both arguments are hex text."""
    return crypto.tagged(CONFIRM_TAG, command_hash + challenge)


def approve_digest(command_hash: str, vote: Literal["approve", "reject"]) -> bytes:
    """What an approver signs (11 §15.6)."""
    return crypto.tagged(APPROVE_TAG, f"{command_hash}:{vote}")


def ack_digest(receipt_hash: str) -> bytes:
    """What an agent signs to acknowledge a receipt (11 §15.6)."""
    return crypto.tagged(RECEIPT_ACK_TAG, receipt_hash)


def nonce_json(nonce: int) -> JsonValue:
    """A nonce as JSON: a number while JSON numbers carry it exactly, else decimal text."""
    return nonce if nonce <= _MAX_JSON_INTEGER else str(nonce)


def _bad(what: str) -> InvalidParams:
    return InvalidParams(f"envelope {what}", reason="malformed")


def _unsigned(doc: Mapping[str, JsonValue]) -> bytes:
    return encode({name: value for name, value in doc.items() if name != "signature"})


def _signed(
    secret: Secret, doc: Mapping[str, JsonValue], tag: str, aux: bytes | None
) -> dict[str, JsonValue]:
    signature = crypto.schnorr_sign(secret, crypto.tagged(tag, _unsigned(doc)), aux)
    return {**doc, "signature": signature}


def _verified(doc: Mapping[str, JsonValue], tag: str, key: str) -> bool:
    signature = doc.get("signature")
    if not isinstance(signature, str):
        return False
    try:
        digest = crypto.tagged(tag, _unsigned(doc))
    except ValueError:
        return False
    return crypto.schnorr_verify(key, digest, signature)


def _check_keys(doc: Mapping[str, JsonValue], required: Sequence[str], optional: Sequence[str]) -> None:
    for name in required:
        if name not in doc:
            raise _bad(f"lacks {name}")
    for name in doc:
        if name not in required and name not in optional:
            raise _bad(f"has an unknown field {name[:64]!a}")


def _payload(value: JsonValue) -> tuple[str, JsonValue]:
    if not isinstance(value, dict) or set(value) != {"action", "params"}:
        raise _bad("schema_payload must be an object of action and params")
    action = value["action"]
    if not isinstance(action, str) or not 1 <= len(action) <= 64:
        raise _bad("action must be a name of 1 to 64 characters")
    return action, value["params"]


def _short(doc: Mapping[str, JsonValue], name: str, maximum: int) -> str:
    value = doc[name]
    if not isinstance(value, str) or not 1 <= len(value) <= maximum:
        raise _bad(f"{name} must be a text of 1 to {maximum} characters")
    return value


def _credential(value: JsonValue) -> CredentialRef:
    if not isinstance(value, dict) or "credential_id" not in value:
        raise _bad("credential must be an object with credential_id")
    for name in value:
        if name not in ("credential_id", "hash", "vc"):
            raise _bad(f"credential has an unknown field {name[:64]!a}")
    given = value.get("hash")
    if given is not None and not (isinstance(given, str) and _XONLY.fullmatch(given)):
        raise _bad("credential.hash must be 64 lower-case hex characters")
    return CredentialRef(_short(value, "credential_id", 64), given, value.get("vc"))


def _payment_proof(value: JsonValue) -> Mapping[str, JsonValue]:
    if not isinstance(value, dict):
        raise _bad("payment_proof must be an object")
    method = value.get("method")
    if not isinstance(method, str) or not 1 <= len(method) <= 32:
        raise _bad("payment_proof.method must be a name")
    return value


def _signature(value: JsonValue) -> tuple[str, str]:
    """(algorithm, signature). One that is no hex is a bad signature, not a malformed envelope (02 §15.4)."""
    algorithm: JsonValue = "bip340"
    if isinstance(value, dict) and set(value) == {"alg", "sig"}:
        algorithm, value = value["alg"], value["sig"]
    if not isinstance(value, str) or len(value) > _MAX_SIGNATURE:
        raise _bad("signature must be hex text or {alg, sig}")
    if not isinstance(algorithm, str) or algorithm not in _ALGORITHMS:
        raise _bad(f"signature.alg must be one of {', '.join(_ALGORITHMS)}")
    return algorithm, value


def _timestamp(doc: Mapping[str, JsonValue]) -> int:
    value = doc["timestamp"]
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**40:
        raise _bad("timestamp must be Unix seconds")
    return value


def _xonly(doc: Mapping[str, JsonValue], name: str, what: str = "key") -> str:
    value = doc[name]
    if not isinstance(value, str) or not _XONLY.fullmatch(value):
        raise _bad(f"{name} must be a {what} of 64 lower-case hex characters")
    return value


def _node(value: JsonValue) -> str:
    if isinstance(value, str) and value.startswith("npub1") and len(value) <= 100:
        from .nostr.keys import npub_decode

        try:
            return npub_decode(value)
        except ValueError as err:
            raise _bad(f"node is not an npub: {err}") from None
    return _xonly({"node": value}, "node")


def _command_id(doc: Mapping[str, JsonValue]) -> str | None:
    value = doc.get("command_id")
    if "command_id" in doc and not (isinstance(value, str) and is_uuid(value)):
        raise _bad("command_id must be a lower-case UUID")
    return value if isinstance(value, str) else None


def _reply_relays(doc: Mapping[str, JsonValue]) -> tuple[str, ...]:
    value = doc.get("reply_relays", [])
    if not isinstance(value, list) or len(value) > 3:
        raise _bad("reply_relays must be a list of at most 3 relay addresses")
    relays = tuple(relay for relay in value if isinstance(relay, str) and 1 <= len(relay) <= 256)
    if len(relays) != len(value):
        raise _bad("reply_relays must be texts of at most 256 characters")
    return relays


def _check_push(action: str, params: JsonValue) -> dict[str, JsonValue]:
    schema = PUSHES.get(action)
    if schema is None:
        raise _bad(f"push {action[:64]!a} is unknown")
    return schema.parse(params)
