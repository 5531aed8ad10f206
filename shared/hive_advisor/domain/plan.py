"""A plan: what would be sent, checked and judged, nothing signed (docs/protocol/11-advisor-kit.md §5.1)."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from hive_shared import registry
from hive_shared.canonical import encode
from hive_shared.crypto import sha256
from hive_shared.errors import InvalidParams
from hive_shared.registry import CONTROL, FEE_POLICY, ActionSpec, Danger

from hive_advisor.domain import plan_check
from hive_advisor.domain.fee import price_hint_sats
from hive_advisor.domain.guard import Asked, Judgement
from hive_advisor.domain.names import check_alias
from hive_advisor.domain.observed import Observed
from hive_advisor.domain.rows import Client, StoredCommand, StoredCredential

PLAN_S = 600
"""How long a plan can be sent."""


class Plan(msgspec.Struct, frozen=True):
    """What would be sent: checked against registry and credential, nothing signed yet."""

    client: Client
    credential: StoredCredential
    spec: ActionSpec
    params: dict[str, Any]
    danger: Danger
    note: str = ""
    retry_of: str | None = None
    expected_policy_root: str | None = None
    payment: dict[str, Any] | None = None
    """The `payment_proof` that is part of it; None: it has none, a paid fee for access may go along."""

    @property
    def hash(self) -> str:
        """What the plan would do, as 64 hex digits (11 §6)."""
        return plan_hash(
            self.client.client_id,
            self.credential.credential_id,
            self.spec.schema,
            self.spec.name,
            self.params,
            self.payment,
        )

    @property
    def asked(self) -> Asked:
        """The plan as the guard judges it."""
        return Asked(
            alias_key=check_alias(self.client.alias)[1],
            schema=self.spec.schema,
            action=self.spec.name,
            params=self.params,
            danger=self.danger.total,
            read_only=self.spec.read_only,
        )

    def summary(self) -> dict[str, Any]:
        """The plan as people and ``--dry-run`` see it."""
        root = self.expected_policy_root
        return {
            "client": self.client.alias,
            "schema": self.spec.schema,
            "action": self.spec.name,
            "params": self.params,
            "danger": {**self.danger._asdict(), "total": self.danger.total},
            "danger_at_least": plan_check.least_danger(self.spec, self.params).total,
            "tier": str(self.credential.document.get("tier", "")),
            "constraints": self.credential.document.get("constraints", {}),
            "credential_id": self.credential.credential_id,
            "plan_hash": self.hash,
            "price_sats": price_hint_sats(self.credential.document, self.danger.total)
            if self.spec.schema != CONTROL
            else 0,
            **({} if root is None else {"expected_policy_root": root}),
            **({} if self.payment is None else {"payment": self.payment}),
        }


class Judged(msgspec.Struct, frozen=True):
    """A plan with the guard's word on it, and what is known of what it changes."""

    plan: Plan
    judgement: Judgement
    before: dict[str, Any]

    def summary(self) -> dict[str, Any]:
        """The plan as people, scripts and programs see it."""
        return {**self.plan.summary(), "guard": self.judgement.to_doc(), "before": self.before}


def plan_hash(
    client_id: str,
    credential_id: str,
    schema: str,
    action: str,
    params: dict[str, Any],
    payment: dict[str, Any] | None,
) -> str:
    """H(canon{client, credential_id, schema, action, params, payment}) as 64 hex digits (11 §6)."""
    return sha256(
        encode(
            {
                "client": client_id,
                "credential_id": credential_id,
                "schema": schema,
                "action": action,
                "params": params,
                "payment": payment or {"method": "none"},
            }
        )
    ).hex()


def hash_of(command: StoredCommand) -> str:
    """The hash of what a stored command would do as it stands now."""
    return plan_hash(
        command.client_id,
        command.credential_id,
        command.schema,
        command.action,
        command.params,
        command.payment,
    )


def plan_of(command: StoredCommand, client: Client, credential: StoredCredential) -> Plan:
    """The plan that a draft or held command is."""
    return Plan(
        client,
        credential,
        registry.find(command.schema, command.action),
        command.params,
        Danger(*command.danger),
        command.note,
        command.retry_of,
        command.expected_root,
        command.payment,
    )


def before(plan: Plan, observed: Observed, now: int) -> dict[str, Any]:
    """The values that a fee change would replace, as far as they were read in the last ten minutes."""
    if plan.spec.schema != FEE_POLICY or plan.spec.read_only:
        return {}
    named = plan.params.get("channels", [plan.params.get("channel_id")])
    found = {str(name): observed.fee(str(name), now) for name in named}
    return {
        name: None if seen is None else {"base_msat": seen.base_msat, "fee_ppm": seen.ppm, "read_at": seen.at}
        for name, seen in found.items()
    }


def check_root(spec: ActionSpec, root: str) -> None:
    """Raises InvalidParams for what is no policy root, or an action that none goes with."""
    if spec.read_only or spec.schema == CONTROL:
        raise InvalidParams(f"{spec.name} changes nothing, so it takes no policy root")
    if not re.fullmatch("[0-9a-f]{64}", root):
        raise InvalidParams(
            f"{root[:80]!r} is no policy root: give the 64 hex characters that"
            " hive:monitor/state_hash shows under roots.policy"
        )
