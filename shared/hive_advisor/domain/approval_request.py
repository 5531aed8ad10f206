"""What another node asks its approvers: one command that needs several signatures
(docs/protocol/11-advisor-kit.md §7, §15.6; docs/protocol/02-fleet-management.md §7.3).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec
from hive_shared import crypto, envelope, registry
from hive_shared.canonical import encode
from hive_shared.errors import InvalidParams
from hive_shared.registry import DangerFacts

Decision = Literal["approve", "reject"]
ApprovalState = Literal["waiting", "sent", "counted", "refused"]
"""No vote yet; vote signed, no answer yet; the node counted it; the node refused it."""

LONGEST_S: Final = 7 * 86_400 + 3_600
"""A command waits 7 days at most (02 §7.3); an hour for clocks."""


class ApprovalRequest(msgspec.Struct, frozen=True):
    """One request. `danger` is the node's word; `expires` is when the node stops waiting (unix seconds).

    `envelope` is the command as its sender signed it, and `command_hash` was computed from it here.
    """

    approval_id: str
    node_key: str
    command_id: str
    command_hash: str
    envelope: dict[str, Any]
    danger: int
    expires: int
    created: int
    state: ApprovalState = "waiting"
    decision: Decision | None = None
    vote: dict[str, Any] | None = None
    vote_nonce: int | None = None
    vote_died: int | None = None
    slug: str | None = None
    sentence: str = ""
    decided: int | None = None
    agent_key: str = ""
    """The key of ours that was asked, so the one whose vote counts."""

    @property
    def schema(self) -> str:
        return str(self.envelope["schema_type"])

    @property
    def action(self) -> str:
        return str(self.envelope["schema_payload"]["action"])

    @property
    def params(self) -> dict[str, Any]:
        return dict(self.envelope["schema_payload"]["params"])

    @property
    def requester(self) -> str:
        """Key that asks for the command."""
        return str(self.envelope["sender"])


def check_request(params: Mapping[str, Any], *, node_key: str, agent_key: str, now: int) -> ApprovalRequest:
    """Check a pushed request before it is kept: a vote signs exactly what is shown, for this node alone.

    Raises InvalidParams naming the first check that failed, Unsupported for an action this version does not
    know: nobody should sign what they cannot read.
    """
    document = params.get("envelope")
    if not isinstance(document, dict):
        raise InvalidParams("the approval request holds no command")
    command = envelope.decode_command(encode(document))
    if command.hash != params.get("command_hash"):
        raise InvalidParams("the approval request's hash is not that of the command it shows")
    if command.node != node_key:
        raise InvalidParams("the approval request is about a command for another node")
    if command.sender == agent_key:
        raise InvalidParams("the approval request is about our own command; who asks cannot approve")
    if command.signature_alg == "bip340" and not envelope.verify_signature(command):
        raise InvalidParams("the command in the approval request is not signed by its sender")
    spec = registry.find(command.schema_type, command.action)
    registry.parse_params(spec, command.params)
    command_id = _command_id(command.command_id, params.get("command_id"))
    expires = params.get("expires")
    if not isinstance(expires, int) or isinstance(expires, bool) or not now < expires <= now + LONGEST_S:
        raise InvalidParams("the approval request has expired, or outlasts the 7 days a command waits")
    return ApprovalRequest(
        approval_id=crypto.sha256(f"{node_key}:{command.hash}".encode()).hex()[:16],
        node_key=node_key,
        command_id=command_id,
        command_hash=command.hash,
        envelope=dict(document),
        danger=_danger(params.get("danger")),
        expires=expires,
        created=now,
        agent_key=agent_key,
    )


def danger_here(request: ApprovalRequest) -> int:
    """The danger that schema, action and parameters give without knowing the node: at most what it can be."""
    spec = registry.find(request.schema, request.action)
    return spec.danger(registry.parse_params(spec, request.params), DangerFacts()).total


def _command_id(own: str | None, given: object) -> str:
    if own is None and isinstance(given, str) and registry.is_uuid(given):
        return given
    if own is None or given not in (None, own):
        raise InvalidParams("the approval request names no command id, or another than its command")
    return own


def _danger(value: object) -> int:
    total = value.get("total") if isinstance(value, dict) else None
    if not isinstance(total, int) or isinstance(total, bool) or not 1 <= total <= 10:
        raise InvalidParams("the approval request's danger is not a number from 1 to 10")
    return total
