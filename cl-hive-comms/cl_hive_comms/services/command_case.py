"""A command on its way: what was asked, by whom, and how to answer (docs/protocol/02 §7.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from hive_shared.canonical import JsonValue, encode
from hive_shared.envelope import Command, decode_command
from hive_shared.errors import HiveError
from hive_shared.machine import EventRejected
from hive_shared.registry import Danger

from ..domain.access_fee import Fee, fee_from
from ..domain.command_machine import Event, State, after
from ..domain.command_record import CommandRow
from ..domain.compensation import Reward, reward_from
from ..domain.sibling_routes import BY_CLOCK
from .executors.action import Caller, Plan
from .ports_commands import CredentialView

WAITING: Final = (State.PENDING_APPROVAL, State.CONFIRM_WAIT, State.APPROVED)


def walk(state: str, *events: Event) -> State:
    """The state after events that happen in one transaction, by the table of domain.command_machine.

    Raises EventRejected for a step the table does not have.
    """
    here = State(state)
    for event in events:
        following = after(here, event)
        if following is None:
            raise EventRejected("command", here, event)
        here = following
    return here


class RuleRefusal(Exception):
    """A refusal by a rule that knew how dangerous the command is; the receipt says so."""

    def __init__(self, error: HiveError, danger: Danger, spec: tuple[str, str]) -> None:
        super().__init__(str(error))
        self.error, self.danger, self.spec = error, danger, spec


class Case(msgspec.Struct, frozen=True):
    """A received command. `message_id` names the message it came in, "" after a restart; `view` is its
    credential, None for an approver's vote and where only the stored row is at hand. `advisor_id` and
    `credential_id` are "" for a vote without credential."""

    command: Command
    view: CredentialView | None
    command_id: str
    transport: str
    message_id: str
    received_at: int
    advisor_id: str
    credential_id: str

    @property
    def sender(self) -> str:
        """The agent's key, x-only hex."""
        return self.command.sender

    @property
    def by_clock(self) -> bool:
        """Whether the node gave it itself, by a rule that the agent had set."""
        return self.transport == BY_CLOCK

    @property
    def agent_id(self) -> str:
        """The agent as documents name it."""
        return f"did:nostr:{self.sender}" if self.view is None else self.view.credential.agent_id

    def caller(self, now: int) -> Caller:
        """Who acts, for executors."""
        return Caller(self.command_id, self.sender, self.advisor_id, self.credential_id, now)

    @classmethod
    def stored(cls, row: CommandRow, view: CredentialView | None = None) -> Case:
        """A stored command as a case again."""
        return cls(
            command=decode_command(row.envelope),
            view=view,
            command_id=row.command_id,
            transport=row.transport,
            message_id="",
            received_at=row.received_at,
            advisor_id=row.advisor_id,
            credential_id=row.credential_id,
        )


class Judged(msgspec.Struct, frozen=True):
    """A command that rules allow: how dangerous it is, what it would do, whom it has to ask.

    `workflow` is `auto`, `queue`, `confirm` or `multisig`; `params` are parsed, or as an operator reduced
    them, then `original_params_hash` tells what was asked.
    """

    schema: str
    action: str
    params: Mapping[str, JsonValue]
    danger: Danger
    plan: Plan
    workflow: str
    level: str
    needed: int
    expires_in: int
    rule_ids: tuple[str, ...] = ()
    approvers: tuple[str, ...] = ()
    confirm_signature: str | None = None
    original_params_hash: str | None = None
    fee: Fee | None = None
    """What the agent paid for it."""
    reward: Reward | None = None
    """What the agent is paid for it if it succeeds."""

    def to_json(self) -> dict[str, JsonValue]:
        """The stored form, all but the plan; `judged_from` reads it."""
        return {
            "schema": self.schema,
            "action": self.action,
            "params": dict(self.params),
            "danger": list(self.danger.vector()),
            "basis": self.plan.basis,
            "workflow": self.workflow,
            "level": self.level,
            "needed": self.needed,
            "expires_in": self.expires_in,
            "rule_ids": list(self.rule_ids),
            "approvers": list(self.approvers),
            "confirm_signature": self.confirm_signature,
            "original_params_hash": self.original_params_hash,
            "fee": None if self.fee is None else self.fee.to_json(),
            "reward": None if self.reward is None else self.reward.to_json(),
        }

    def approval_doc(self) -> dict[str, JsonValue]:
        """The `approval` of the receipt (02 §9.1)."""
        doc: dict[str, JsonValue] = {
            "level": self.level,
            "workflow": self.workflow,
            "approvers": list(self.approvers),
        }
        if self.original_params_hash is not None:
            doc["original_params_hash"] = self.original_params_hash
        return doc


def judged_from(doc: Mapping[str, Any], undo: dict[str, JsonValue]) -> Judged:
    """Inverse of `Judged.to_json`; the plan has only what was stored of it."""
    return Judged(
        schema=str(doc["schema"]),
        action=str(doc["action"]),
        params=dict(doc["params"]),
        danger=Danger(*doc["danger"]),
        plan=Plan(undo=undo, basis=doc["basis"]),
        workflow=str(doc["workflow"]),
        level=str(doc["level"]),
        needed=int(doc["needed"]),
        expires_in=int(doc["expires_in"]),
        rule_ids=tuple(doc["rule_ids"]),
        approvers=tuple(doc["approvers"]),
        confirm_signature=doc["confirm_signature"],
        original_params_hash=doc["original_params_hash"],
        # Rows of a version that took no fees have none.
        fee=fee_from(doc.get("fee")),
        reward=reward_from(doc.get("reward")),
    )


def received_row(case: Case, now: int, *, read_only: bool) -> CommandRow:
    """The row of a command whose nonce is burned now."""
    command = case.command
    return CommandRow(
        command_id=case.command_id,
        sender_key=command.sender,
        nonce=command.nonce,
        body_hash=command.body_hash,
        payload_hash=command.payload_hash,
        credential_id=case.credential_id,
        advisor_id=case.advisor_id,
        transport=case.transport,
        envelope=encode(command.raw).decode(),
        schema_id=command.schema_type,
        action=command.action,
        danger=0,
        read_only=read_only,
        state=State.RECEIVED,
        received_at=now,
        updated_at=now,
    )
