"""The bodies of the marketplace's direct messages, read strictly (docs/protocol/04-marketplace-and-nostr.md
§6, §9, §10). Times are Unix seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from hive_shared.canonical import DecodeError, JsonValue, decode_object, encode
from hive_shared.errors import InvalidParams

AREA: Final = "marketplace"
MAX_BODY_BYTES: Final = 65_535
MAX_REASON: Final = 1_000
GAP_S: Final = 600
"""How long a message waits for one of its conversation that was sent before it (04 §6)."""

Uuid = Annotated[str, Meta(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z")]
Hash = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Id = Annotated[str, Meta(pattern=r"^[!-~]{1,128}\Z")]
"""A DID, `did:nostr:` included."""
Moment = Annotated[int, Meta(ge=1_000_000_000, le=9_999_999_999)]
Reason = Annotated[str, Meta(max_length=MAX_REASON)]


class _Body(Struct, frozen=True, forbid_unknown_fields=True):
    """What all bodies have in common."""


class ContractProposal(_Body, frozen=True):
    """The first terms. `proposalId` is the id the contract will have, the proposer's to choose; `from` and
    `to` are ids of sender and recipient."""

    type: Literal["HiveContractProposal"]
    proposalId: Uuid
    terms: dict[str, Any]
    expiresAt: Moment
    sender: Id = msgspec.field(name="from")
    recipient: Id = msgspec.field(name="to")


class CounterOffer(_Body, frozen=True):
    """Other terms: those of `base_terms_hash` with `modifications` (dotted path: value; null removes)."""

    type: Literal["HiveCounterOffer"]
    proposalId: Uuid
    round: Annotated[int, Meta(ge=1, le=100)]
    base_terms_hash: Hash
    modifications: Annotated[dict[str, Any], Meta(min_length=1, max_length=64)]
    justification: Reason
    expiresAt: Moment


class Accept(_Body, frozen=True):
    """The sender agrees to the terms of that hash."""

    proposalId: Uuid
    terms_hash: Hash


class Reject(_Body, frozen=True):
    """The sender does not want to go on."""

    proposalId: Uuid
    reason: Reason


class Abort(_Body, frozen=True):
    """The sender withdraws, at any time before both have signed."""

    proposalId: Uuid
    reason: Reason


class ContractSign(_Body, frozen=True):
    """The contract with the operator's proof."""

    proposalId: Uuid
    terms_hash: Hash
    contract: dict[str, Any]


class ContractSigned(_Body, frozen=True):
    """The advisor's proof over the same contract."""

    contractId: Uuid
    contract_hash: Hash
    proof: dict[str, Any]


class TerminationNotice(_Body, frozen=True):
    """The sender ends the contract at that time."""

    contractId: Uuid
    effective_at: Moment
    reason: Reason


class TerminationAck(_Body, frozen=True):
    """The recipient has read the notice."""

    contractId: Uuid
    effective_at: Moment


class EmergencyTermination(_Body, frozen=True):
    """The contract has ended."""

    contractId: Uuid
    reason: Reason


class MessageError(_Body, frozen=True):
    """What was wrong with a message."""

    code: Annotated[str, Meta(min_length=1, max_length=64)]
    msg_id: Uuid


Message: TypeAlias = (
    ContractProposal
    | CounterOffer
    | Accept
    | Reject
    | Abort
    | ContractSign
    | ContractSigned
    | TerminationNotice
    | TerminationAck
    | EmergencyTermination
    | MessageError
)
VERBS: Final[Mapping[str, type[Message]]] = {
    "contract_proposal": ContractProposal,
    "counter_offer": CounterOffer,
    "accept": Accept,
    "reject": Reject,
    "abort": Abort,
    "contract_sign": ContractSign,
    "contract_signed": ContractSigned,
    "termination_notice": TerminationNotice,
    "termination_ack": TerminationAck,
    "emergency_termination": EmergencyTermination,
    "error": MessageError,
}
"""Every verb that is served, and what its body is."""
_VERB_OF: Final = {kind: verb for verb, kind in VERBS.items()}


def verb_of(message: Message) -> str:
    """The verb of a body."""
    return _VERB_OF[type(message)]


def schema_of(message: Message) -> str:
    """The schema a body travels under: `hive:marketplace/accept` and so on."""
    return schema_of_verb(verb_of(message))


def schema_of_verb(verb: str) -> str:
    """The schema of a verb."""
    return f"hive:{AREA}/{verb}"


def contract_of(message: Message) -> str | None:
    """The contract a body is about; None for an `error`."""
    if isinstance(message, MessageError):
        return None
    if isinstance(message, ContractSigned | TerminationNotice | TerminationAck | EmergencyTermination):
        return message.contractId
    return message.proposalId


def body_of(message: Message) -> dict[str, JsonValue]:
    """The body as an object. Raises ValueError for one that its reader would refuse."""
    found: dict[str, JsonValue] = msgspec.to_builtins(message)
    try:
        decode_message(schema_of(message), found)
    except InvalidParams as refused:
        raise ValueError(f"this message would be refused: {refused.detail}") from None
    return found


def decode_message(schema: str, body: object) -> Message:
    """Read a body strictly. `schema` is that of the message it came in.

    Raises InvalidParams: a verb that is none, an unknown or missing field, a value out of its bounds. Terms
    and contracts in it are only known to be objects: `read_terms` and `read_contract` read them.
    """
    area, _, verb = schema.removeprefix("hive:").partition("/")
    kind = VERBS.get(verb) if area == AREA and schema.startswith("hive:") else None
    if kind is None:
        raise InvalidParams(f"schema {schema[:80]!a} is no message of the marketplace")
    if not isinstance(body, Mapping):
        raise InvalidParams(f"{schema}: body is not an object")
    try:
        plain = decode_object(encode(body), max_bytes=MAX_BODY_BYTES, floats=True)
        message: Message = msgspec.convert(plain, kind)
    except DecodeError as err:
        raise InvalidParams(f"{schema}: {err.detail}") from None
    except ValueError as err:
        raise InvalidParams(f"{schema}: {str(err)[:200]}") from None
    return message
