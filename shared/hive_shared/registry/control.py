"""The protocol schema `hive:control/v1`: what every credential holder may say, and what the node pushes.

Actions are free and need no permission (docs/protocol/02-fleet-management.md §4); their bodies and those
of the node's pushes are docs/protocol/11-advisor-kit.md §15.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from .danger import Tier
from .params import (
    MAX_SAT,
    NO_PARAMS,
    Bool,
    Hex,
    Int,
    ListOf,
    Nonce,
    OneOf,
    Opaque,
    Param,
    ParamSchema,
    Text,
    Uuid,
)
from .spec import SchemaSpec, SchemaTable

CONTROL: Final = "hive:control/v1"

_COMMAND: Final = Param("command_id", Uuid(), required=True)
_ID: Final = Text(64, 1, pattern=r"[A-Za-z0-9._:-]+", what="an id")
_SIGNATURE: Final = Hex(64)
_SUBSCRIPTION: Final = Param("sub_id", Uuid(), required=True)

TELEMETRY_METRICS: Final = (
    "health",
    "revenue",
    "forwards",
    "stagnant",
    "liquidity",
    "rebalance_cost",
    "actions",
    "spend",
    "pending",
    "receipt_head",
)
"""What telemetry can be asked for (02 §10)."""
ACTION_LOG: Final = "action_log"
REPORT_DAILY: Final = "report_daily"
REPORT_WEEKLY: Final = "report_weekly"
REPORTS: Final = (REPORT_DAILY, REPORT_WEEKLY)
TELEMETRY_STREAMS: Final = (ACTION_LOG, *REPORTS)
"""What comes when there is something to tell, each by a subscription of its own (02 §10)."""
TELEMETRY_NAMES: Final = (*TELEMETRY_METRICS, *TELEMETRY_STREAMS)


def _control() -> SchemaSpec:
    table = SchemaTable(CONTROL)
    table.read("capabilities", params=ParamSchema((Param("resend_credential", Bool()),)))
    table.read(
        "quote",
        params=ParamSchema(
            (
                Param("schema", Text(64, 1), required=True),
                Param("action", Text(64, 1), required=True),
                Param("params", Opaque(), required=True),
            )
        ),
    )
    which = ("nonce", "command_id")
    table.read(
        "command_status",
        params=ParamSchema((Param("nonce", Nonce()), Param("command_id", Uuid())), exactly_one=which),
    )
    _answers(table)
    table.write(
        "subscription_request",
        "1/1/1/1/1",
        tier=Tier.MONITOR,
        why="subscriptions are not served by this version",
    )
    table.read(
        "receipts_list",
        params=ParamSchema(
            (
                Param("since_id", Int(), default=0),
                Param("limit", Int(1, 1000), default=100),
                Param("paths", Bool()),
            )
        ),
    )
    _telemetry(table)
    table.read("ping", params=NO_PARAMS)
    table.read(
        "push_poll",
        params=ParamSchema((Param("since_seq", Int(), default=0), Param("limit", Int(1, 1000), default=100))),
    )
    return table.done()


def _telemetry(table: SchemaTable) -> None:
    """Figures that the node sends by itself at an interval (02 §10)."""
    subscribe = (
        Param("metrics", ListOf(OneOf(TELEMETRY_NAMES), 1, len(TELEMETRY_METRICS)), required=True),
        Param("interval_s", Int(300, 86_400), default=3_600),
        Param("until", Int(1), required=True),
    )
    rows = (("telemetry_subscribe", subscribe), ("telemetry_unsubscribe", (_SUBSCRIPTION,)))
    for name, params in rows:
        table.write(name, "1/1/1/1/1", tier=Tier.MONITOR, params=ParamSchema(params))


def _answers(table: SchemaTable) -> None:
    """Actions that answer something the node said or hold a running command; they manage nothing."""
    rows: tuple[tuple[str, tuple[Param, ...]], ...] = (
        ("cancel", (_COMMAND,)),
        ("confirm", (_COMMAND, Param("challenge_sig", _SIGNATURE, required=True))),
        ("approve", (_COMMAND, Param("sig", _SIGNATURE, required=True))),
        ("reject", (_COMMAND, Param("sig", _SIGNATURE, required=True))),
        (
            "credential_ack",
            (
                Param("credential_id", _ID, required=True),
                Param("doc_hash", Hex(32), required=True),
                Param("accepted", Bool(), required=True),
            ),
        ),
        (
            "receipt_ack",
            (
                Param("receipt_id", Int(1), required=True),
                Param("receipt_hash", Hex(32), required=True),
                Param("sig", _SIGNATURE, required=True),
            ),
        ),
        ("ping_ack", (Param("ping_id", _ID, required=True),)),
        ("alert_ack", (Param("alert_id", _ID, required=True),)),
    )
    for name, params in rows:
        table.write(name, "1/1/1/1/1", tier=Tier.MONITOR, params=ParamSchema(params))


SCHEMA: Final = _control()


_Kind = Text | Hex | Int | Bool | Uuid | Opaque | OneOf | ListOf


def _required(*params: tuple[str, _Kind]) -> tuple[Param, ...]:
    return tuple(Param(name, kind, required=True) for name, kind in params)


_TIME: Final = Int(0)

ACTION_LOG_PAGE: Final = ParamSchema(
    _required(("after", Int()), ("up_to", Int()), ("entries", ListOf(Opaque(2_048), 0, 50)), ("more", Bool()))
)
"""What a push of the action log says: receipts of the agent after one id, up to another."""
TELEMETRY_SUBSCRIBED: Final = ParamSchema(_required(("sub_id", Uuid()), ("until", _TIME)))
"""What `telemetry_subscribe` answers, as far as who asked has to know it."""
ACTION_LOG_ENTRY: Final = ParamSchema(
    (
        *_required(("receipt_id", Int(1)), ("receipt_hash", Hex(32)), ("at", _TIME)),
        *_required(("schema", Text(64, 1)), ("action", Text(64, 1)), ("status", Text(32, 1))),
        Param("command_id", _ID),
        Param("credential_id", _ID),
        Param("danger", Int(1, 10)),
        Param("slug", Text(64, 1)),
        Param("count", Int(0)),
    )
)

PUSHES: Final[Mapping[str, ParamSchema]] = MappingProxyType(
    {
        "credential_offer": ParamSchema(
            (
                *_required(("credential", Opaque(16_384)), ("node", Opaque(1_024))),
                Param(
                    "binding", Text(104, 104, pattern="[a-z0-9]+", what="a zbase32 signature"), required=True
                ),
                Param("relays", ListOf(Text(256, 1), 0, 3), required=True),
                Param("rest", Opaque(4_096)),
                Param("contract_id", _ID),
                Param("trial_id", _ID),
                Param("max_skew_s", Int(30, 900)),
            )
        ),
        "credential_revoked": ParamSchema(_required(("credential_id", _ID), ("reason", Text()))),
        "confirm_challenge": ParamSchema(
            _required(
                ("command_id", Uuid()), ("command_hash", Hex(32)), ("challenge", Hex(32)), ("expires", _TIME)
            )
        ),
        "approval_request": ParamSchema(
            (
                *_required(("command_hash", Hex(32)), ("envelope", Opaque())),
                *_required(("danger", Opaque(256)), ("expires", _TIME)),
                Param("command_id", _ID),
            )
        ),
        "ping": ParamSchema(_required(("ping_id", _ID))),
        "alert": ParamSchema(
            (
                *_required(("alert_id", _ID), ("level", OneOf(("info", "notice", "warning", "critical")))),
                *_required(("code", Text(64, 1)), ("text", Text())),
                Param("subject", Text(256, 1)),
            )
        ),
        "telemetry": ParamSchema(
            _required(("sub_id", _ID), ("seq", Int()), ("at", _TIME), ("metrics", Opaque(24_576)))
        ),
        "conflict_held": ParamSchema(_required(("command_id", Uuid()), ("until", _TIME))),
        "payment_notice": ParamSchema(
            (
                *_required(("payment_id", _ID), ("purpose", Text(64, 1)), ("method", Text(32, 1))),
                *_required(("amount_sats", Int(0, MAX_SAT)), ("state", Text(32, 1))),
                Param("payment_hash", Hex(32)),
                Param("contract_id", _ID),
                Param("command_id", Uuid()),
                Param("preimage", Hex(32)),
                Param("token", Text(60_000, 1, pattern="cashuB[A-Za-z0-9_=-]+", what="a V4 token")),
            )
        ),
    }
)
"""Body of every push the node sends to an agent, by name (11 §15.1, 2, 5, 6, 8).

A body with unknown keys is refused like a command's. A final response that follows a status 3 is no
push of this table: it travels as a response envelope of its own.
"""
