"""What is stored about a command on its way (docs/protocol/02-fleet-management.md §7.1, §11).

Plain frozen values: the stores fill them, the services read them. Times are unix seconds.
"""

from __future__ import annotations

from typing import Final

import msgspec


class CommandRow(msgspec.Struct, frozen=True):
    """One row of `comms_commands`: an authenticated command whose nonce is burned.

    `body_hash` is the command hash (whole envelope without signature), `payload_hash` covers schema and
    payload only: it decides whether a known command id means the same thing (11 §15.4). `slug` is the
    refusal's symbol, `receipt_id` the receipt that covers the row (None while a roll-up is due).
    """

    command_id: str
    sender_key: str
    nonce: int
    body_hash: str
    payload_hash: str
    credential_id: str
    advisor_id: str
    transport: str
    envelope: str
    schema_id: str
    action: str
    danger: int
    read_only: bool
    state: str
    received_at: int
    updated_at: int
    slug: str | None = None
    hold_json: str | None = None
    undo_json: str | None = None
    receipt_id: int | None = None
    deadline: int | None = None


class PendingRow(msgspec.Struct, frozen=True):
    """One row of `comms_pending`: an action that waits for people. `action_id` is the command id."""

    action_id: str
    advisor_id: str
    envelope_json: str
    danger: int
    needed: int
    workflow: str
    created_at: int
    expires_at: int
    state: str
    params_json: str | None = None
    challenge: str | None = None
    challenge_expires: int | None = None
    confirm_signature: str | None = None
    reason: str | None = None
    result_json: str | None = None


class Vote(msgspec.Struct, frozen=True):
    """One approver's word on a command; `approver` is an x-only key, a DID or `local`."""

    command_id: str
    approver: str
    decision: str
    signature: str | None
    at: int


class StoredResponse(msgspec.Struct, frozen=True):
    """The reply a nonce got; given again when the same envelope comes again (kept 7 days)."""

    sender_key: str
    nonce: int
    body_hash: str
    response_json: str
    created_at: int


class FeeWrite(msgspec.Struct, frozen=True):
    """One executed change of one channel; ppm and base (msat) before and after. A row that changes neither
    tells who wrote to the channel, and when; `field` is then what was changed."""

    scid: str
    ts: int
    old_ppm: int
    new_ppm: int
    old_base: int
    new_base: int
    advisor_id: str
    credential_id: str
    command_id: str
    field: str = "htlc_maximum_msat"


NODE_SCOPE: Final = "node"
"""Scope of the counters that all advisors share."""


class Use(msgspec.Struct, frozen=True):
    """One use of a counter (docs/protocol/08-client-and-plugins.md §5.4: counters slide).

    `name` is the counter, `scope` whose it is (`node`, a credential id, an advisor id).
    """

    name: str
    scope: str


class TimerRow(msgspec.Struct, frozen=True):
    """A deadline of `comms_timers`; fires once, also after a restart (02 §5.5)."""

    timer_id: str
    kind: str
    subject: str
    due: int
    payload_json: str
    done_at: int | None = None


class RefusalGroup(msgspec.Struct, frozen=True):
    """Repeated refusals of one sender with one symbol in one minute that still need their roll-up."""

    sender_key: str
    slug: str
    minute: int
    count: int
    last_command_id: str


class ReadGroup(msgspec.Struct, frozen=True):
    """An agent's reads of one credential and schema action inside one hour that have no receipt yet."""

    advisor_id: str
    credential_id: str
    schema_id: str
    action: str
    count: int
    first_at: int
    last_at: int
