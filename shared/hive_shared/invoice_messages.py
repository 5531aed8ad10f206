"""Asking the payee for an invoice, and its answer: `hive:marketplace/invoice_request` and `invoice`
(docs/protocol/11-advisor-kit.md §15.10). Signed messages of 04 §6; amounts in whole sat, times Unix seconds.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta, Struct

from hive_shared.canonical import JsonValue
from hive_shared.errors import InvalidParams

INVOICE_REQUEST: Final = "hive:marketplace/invoice_request"
INVOICE: Final = "hive:marketplace/invoice"

Sats = Annotated[int, Meta(ge=1, le=2_100_000_000_000_000)]
Moment = Annotated[int, Meta(ge=1_000_000_000, le=9_999_999_999)]
Id = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._:-]{1,128}\Z")]
Bolt11 = Annotated[str, Meta(pattern=r"^ln[a-z0-9]{20,4090}\Z")]


class Purpose(StrEnum):
    """What the invoice is for."""

    TRIAL = "trial"
    PERIOD = "period"
    OVERAGE = "overage"
    BONUS = "bonus"
    PRORATED = "prorated"
    HANDOFF = "handoff"
    ACTION = "action"


class InvoiceRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The payer asks: for a contract or for one command. The same `idempotency_key` asks for the same
    invoice again; for another amount it is an error."""

    purpose: Purpose
    amount_sats: Sats
    due_at: Moment
    idempotency_key: Id
    contract_id: Id | None = None
    command_id: Id | None = None
    period_start: Moment | None = None

    def __post_init__(self) -> None:
        if (self.contract_id is None) == (self.command_id is None):
            raise ValueError("exactly one of contract_id and command_id must be given")


class Invoice(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The payee's answer."""

    idempotency_key: Id
    bolt11: Bolt11
    amount_sats: Sats
    expires_at: Moment


Body = TypeVar("Body", InvoiceRequest, Invoice)


def read_body(body: JsonValue, kind: type[Body]) -> Body:
    """A message's body, read strictly. Raises InvalidParams that says what is wrong."""
    try:
        return msgspec.convert(body, kind, strict=True)
    except msgspec.ValidationError as error:
        raise InvalidParams(f"{kind.__name__}: {str(error)[:200]}") from None


def body_doc(body: InvoiceRequest | Invoice) -> dict[str, JsonValue]:
    """The body as a message carries it; `read_body` reads it back."""
    doc: dict[str, JsonValue] = msgspec.to_builtins(body)
    return doc
