"""What payer and payee of a ticket tell each other: the bodies of `hive:escrow/<verb>`
(docs/protocol/03-escrow-and-payments.md §6.6).

Each travels as the signed message of docs/protocol/04-marketplace-and-nostr.md §6, thread area `escrow`: who
sent it, that it is new and that nobody altered it is known before its body is read here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, Final, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from hive_shared.canonical import DecodeError, JsonValue, decode_object, encode
from hive_shared.cashu.terms import MAX_BATCH, MAX_ITEM_SATS, Hex16, Hex32, Moment, PointText
from hive_shared.cashu.token import MAX_TOKEN_BYTES
from hive_shared.errors import InvalidParams

AREA: Final = "escrow"
"""The area of the schemas, and the thread of the messages."""
MAX_BODY_BYTES: Final = 1_040_000
"""A body with its envelope fits into what the transport carries (04 §6: 1 MiB)."""
MAX_TOKENS: Final = 8
MAX_MINTS_TOLD: Final = 16
MAX_EVIDENCE: Final = 32
MAX_RECEIPT_BYTES: Final = 65_535
_MAX_NODES: Final = 40_000
_MAX_DEPTH: Final = 16

ItemNumber = Annotated[int, Meta(ge=0, lt=MAX_BATCH)]
ParamsHash = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}\Z")]
Reason = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,39}(\([a-z0-9_]{1,40}\))?\Z")]
"""A short name for programs: of 03 §9 for tickets, of 02 for a command that failed."""
Words = Annotated[str, Meta(max_length=500)]
"""A sentence for people."""
ReceiptId = Annotated[str, Meta(min_length=1, max_length=80)]
Measured = Annotated[int, Meta(ge=-(2**53) + 1, le=2**53 - 1)]


class Outcome(StrEnum):
    """What the operator answers to a dispute."""

    REPLACE = "replace"
    PAY = "pay"
    REJECT = "reject"


class _Body(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What every body is: read strictly, absent fields left out."""


class TicketRequest(_Body, frozen=True):
    """The payee tells which key its tickets are to be locked to, bound to its identity by `lock_key_text`
    (03 §4.1), and the mints it takes; `context` is the contract, or the credential without one."""

    context: Annotated[str, Meta(pattern=r"^[!-~]{1,128}\Z")]
    lock_pubkey: PointText
    binding: Annotated[str, Meta(pattern=r"^[0-9a-f]{128}\Z")]
    mints: Annotated[
        list[Annotated[str, Meta(min_length=1, max_length=512)]], Meta(max_length=MAX_MINTS_TOLD)
    ]


class Ticket(_Body, frozen=True, rename={"first": "from", "last": "to"}):
    """The payer hands a ticket over. The first message has `terms` and `sig` (the payer's over
    `terms_text`); a large batch comes in several, each with the tokens of the items `from` to `to`."""

    ticket_id: Hex16
    tokens: Annotated[
        list[Annotated[str, Meta(min_length=1, max_length=MAX_TOKEN_BYTES)]], Meta(max_length=MAX_TOKENS)
    ]
    terms: dict[str, Any] | UnsetType = UNSET
    sig: Annotated[str, Meta(min_length=1, max_length=200)] | UnsetType = UNSET
    first: ItemNumber | UnsetType = UNSET
    last: ItemNumber | UnsetType = UNSET


class TicketAck(_Body, frozen=True):
    """The payee checked all of it and takes it: work may be paid by it."""

    ticket_id: Hex16
    terms_hash: Hex32


class TicketReject(_Body, frozen=True):
    """The payee does not take it, and works for none of it. `reason` names the check (03 §9)."""

    ticket_id: Hex16
    reason: Reason
    detail: Words
    terms_hash: Hex32 | UnsetType = UNSET


class TicketResend(_Body, frozen=True, rename={"first": "from", "last": "to"}):
    """The payee misses the tokens of these items; both ends count."""

    ticket_id: Hex16
    first: ItemNumber
    last: ItemNumber


class Release(_Body, frozen=True):
    """The item was earned: its preimage, and the receipt that says so."""

    ticket_id: Hex16
    item: ItemNumber
    preimage: Hex32
    receipt_id: ReceiptId | UnsetType = UNSET
    receipt_hash: ParamsHash | UnsetType = UNSET


class Failure(_Body, frozen=True):
    """The item was not earned; its money goes back at the locktime."""

    ticket_id: Hex16
    item: ItemNumber
    reason: Reason
    receipt_id: ReceiptId | UnsetType = UNSET
    receipt_hash: ParamsHash | UnsetType = UNSET


class Metric(_Body, frozen=True):
    """What was measured for a bonus item, told whether or not it was reached; amounts in msat, shares in
    parts per million, whatever the metric is, always a whole number."""

    ticket_id: Hex16
    item: ItemNumber
    metric: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,63}\Z")]
    value: Measured
    baseline: Measured
    threshold: Measured
    met: bool
    measured_at: Moment


class Redeemed(_Body, frozen=True):
    """The payee has the item's money: a courtesy, the mint's evidence counts."""

    ticket_id: Hex16
    item: ItemNumber


class Owed(_Body, frozen=True):
    """The payer took back an item that was earned, because its mint lets nobody redeem after the locktime:
    it owes this much, by a ticket that `replaces` this one or by a payment."""

    ticket_id: Hex16
    item: ItemNumber
    amount_sats: Annotated[int, Meta(ge=1, le=MAX_ITEM_SATS)]
    reason: Reason


class Dispute(_Body, frozen=True):
    """One side says an item went wrong, with the signed receipt it has and hashes of its evidence."""

    dispute_id: Hex16
    ticket_id: Hex16
    item: ItemNumber
    claim: Annotated[str, Meta(min_length=1, max_length=2_000)]
    evidence_hashes: Annotated[list[ParamsHash], Meta(max_length=MAX_EVIDENCE)]
    receipt: dict[str, Any] | UnsetType = UNSET


class DisputeReply(_Body, frozen=True):
    """The other side's answer; `ticket_id` is that of the replacement."""

    dispute_id: Hex16
    outcome: Outcome
    reason: Words
    ticket_id: Hex16 | UnsetType = UNSET


class SecretRequest(_Body, frozen=True):
    """An agent whose credential allows it asks the verifier for hashes of a task."""

    task_params_hash: ParamsHash
    count: Annotated[int, Meta(ge=1, le=MAX_BATCH)]


class SecretHashes(_Body, frozen=True):
    """Hashes of preimages that the verifier keeps."""

    task_params_hash: ParamsHash
    hashes: Annotated[list[Hex32], Meta(min_length=1, max_length=MAX_BATCH)]


Message: TypeAlias = (
    TicketRequest
    | Ticket
    | TicketAck
    | TicketReject
    | TicketResend
    | Release
    | Failure
    | Metric
    | Redeemed
    | Owed
    | Dispute
    | DisputeReply
    | SecretRequest
    | SecretHashes
)
VERBS: Final[Mapping[str, type[Message]]] = {
    "ticket_request": TicketRequest,
    "ticket": Ticket,
    "ticket_ack": TicketAck,
    "ticket_reject": TicketReject,
    "ticket_resend": TicketResend,
    "release": Release,
    "failure": Failure,
    "metric": Metric,
    "redeemed": Redeemed,
    "owed": Owed,
    "dispute": Dispute,
    "dispute_reply": DisputeReply,
    "secret_request": SecretRequest,
    "secret": SecretHashes,
}
"""Every verb and what its body is."""
_VERB_OF: Final = {kind: verb for verb, kind in VERBS.items()}


def schema_of(message: Message) -> str:
    """The schema a body travels under: `hive:escrow/ticket` and so on."""
    return schema_of_verb(_VERB_OF[type(message)])


def schema_of_verb(verb: str) -> str:
    """The schema of a verb."""
    return f"hive:{AREA}/{verb}"


def body_of(message: Message) -> dict[str, JsonValue]:
    """The body as an object. Raises ValueError for one that its reader would refuse."""
    found: dict[str, JsonValue] = msgspec.to_builtins(message)
    try:
        read = decode_message(schema_of(message), found)
    except InvalidParams as refused:
        raise ValueError(f"this message would be refused: {refused.detail}") from None
    if read != message:
        raise ValueError("this message would not be read back as it is")
    return found


def decode_message(schema: str, body: object) -> Message:
    """Read a body strictly. `schema` is that of the message it came in.

    Raises InvalidParams: a verb that is none, an unknown or missing field, a value out of its bounds, a
    contradiction. The terms in it are only known to be an object: `decode_terms` reads them.
    """
    area, _, verb = schema.removeprefix("hive:").partition("/")
    kind = VERBS.get(verb) if area == AREA and schema.startswith("hive:") else None
    if kind is None:
        raise InvalidParams(f"schema {schema[:80]!a} is no message of a ticket")
    value = _plain(schema, body)
    try:
        message = msgspec.convert(value, kind)
    except msgspec.ValidationError as err:
        raise InvalidParams(f"{schema}: {str(err)[:200]}") from None
    problem = _problem(message)
    if problem:
        raise InvalidParams(f"{schema}: {problem}")
    return message


def _plain(schema: str, body: object) -> dict[str, JsonValue]:
    """The body as whole numbers, texts and containers within bounds."""
    if not isinstance(body, Mapping):
        raise InvalidParams(f"{schema}: body is not an object")
    try:
        return decode_object(
            encode(body), max_bytes=MAX_BODY_BYTES, max_depth=_MAX_DEPTH, max_nodes=_MAX_NODES
        )
    except DecodeError as err:
        raise InvalidParams(f"{schema}: {err.detail}") from None
    except ValueError as err:
        raise InvalidParams(f"{schema}: {str(err)[:120]}") from None


def _problem(message: Message) -> str | None:
    if isinstance(message, Ticket):
        return _ticket_problem(message)
    if isinstance(message, TicketRequest):
        return _repeated("mint", message.mints)
    if isinstance(message, TicketResend) and message.first > message.last:
        return f"items from {message.first} to {message.last} are none"
    if isinstance(message, SecretHashes):
        return _repeated("hash", message.hashes)
    if isinstance(message, Metric) and message.met is not (message.value >= message.threshold):
        return f"met is {message.met} with {message.value} of {message.threshold}"
    if isinstance(message, Dispute):
        return _repeated("evidence hash", message.evidence_hashes) or _receipt_problem(message.receipt)
    if isinstance(message, DisputeReply):
        replaced = message.ticket_id is not UNSET
        if replaced and message.outcome is not Outcome.REPLACE:
            return f"outcome {message.outcome} names a replacement ticket"
    if isinstance(message, Release | Failure):
        alone = (message.receipt_id is UNSET) is not (message.receipt_hash is UNSET)
        return "receipt_id and receipt_hash stand together" if alone else None
    return None


def _ticket_problem(message: Ticket) -> str | None:
    if (message.terms is UNSET) is not (message.sig is UNSET):
        return "terms and sig stand together"
    if message.terms is UNSET and not message.tokens:
        return "neither terms nor tokens"
    if isinstance(message.terms, dict) and message.terms.get("ticket_id") != message.ticket_id:
        return "the terms are of another ticket"
    if (message.first is UNSET) is not (message.last is UNSET):
        return "from and to stand together"
    if isinstance(message.first, int) and isinstance(message.last, int):
        if message.first > message.last:
            return f"items from {message.first} to {message.last} are none"
        if not message.tokens:
            return "from and to without tokens"
    elif message.terms is UNSET:
        return "tokens without terms need from and to"
    return _repeated("token", message.tokens)


def _receipt_problem(receipt: dict[str, Any] | UnsetType) -> str | None:
    if isinstance(receipt, dict) and len(encode(receipt)) > MAX_RECEIPT_BYTES:
        return f"the receipt has more than {MAX_RECEIPT_BYTES} bytes"
    return None


def _repeated(what: str, values: Sequence[str]) -> str | None:
    return f"a {what} stands there twice" if len(set(values)) != len(values) else None
