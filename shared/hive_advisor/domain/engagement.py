"""Negotiations and contracts as the kit keeps them (docs/protocol/04-marketplace-and-nostr.md §9, §10). Times
are Unix seconds; keys are x-only hex.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec
from hive_shared import registry
from hive_shared.credential import Credential
from hive_shared.credential_scope import patterns_allow, permissions_for
from hive_shared.market.contract_machine import ContractState
from hive_shared.market.negotiation import Negotiation, Side
from hive_shared.market.terms import Scope
from hive_shared.registry import CONTROL, Tier

MessageState = Literal["early", "taken", "refused", "sent"]
"""`early`: one before it is missing. `sent`: ours."""


class Thread(msgspec.Struct, frozen=True):
    """A negotiation with the key `peer_key`, led by our `agent_key`. `sign_at_once`: a human or the limits of
    `[auto]` agreed to these terms and to signing them; `last_in` is the number of the last message taken."""

    thread_id: str
    contract_id: str
    peer_key: str
    agent_key: str
    negotiation: Negotiation
    last_in: int
    created: int
    updated: int
    sign_at_once: bool = False
    why: str = ""

    def ours_to_answer(self, at: int) -> bool:
        """Whether terms stand that the operator offered."""
        return self.negotiation.turn(at) is Side.ADVISOR


class ThreadMessage(msgspec.Struct, frozen=True):
    """One message of a thread, `content` as it was signed."""

    msg_id: str
    thread_id: str
    inbound: bool
    seq: int
    verb: str
    content: str
    state: MessageState
    sent_at: int
    received_at: int
    why: str = ""


class Engagement(msgspec.Struct, frozen=True):
    """A contract that its operator signed, and maybe we. `effective_at`: when a notice takes effect."""

    contract_id: str
    state: ContractState
    document: dict[str, Any]
    contract_hash: str
    credential_id: str
    ends_at: int
    created: int
    updated: int
    effective_at: int | None = None
    ended_by: Literal["", "operator", "advisor"] = ""
    reason: str = ""

    @property
    def scope(self) -> dict[str, Any]:
        """What we may do by it."""
        found: dict[str, Any] = self.document["credentialSubject"]["scope"]
        return found


class Link(msgspec.Struct, frozen=True):
    """The contract a credential was offered for. `wider`: where it gives more than was signed, which is not
    used; `narrower`: where it gives less."""

    engagement: Engagement
    wider: tuple[str, ...]
    narrower: tuple[str, ...]


def read_scope(document: Mapping[str, Any]) -> Scope:
    """The scope of a contract that was checked when it was signed."""
    return msgspec.convert({name: part for name, part in document.items() if name != "nodeIds"}, Scope)


def within(credential: Credential, scope: Scope) -> Credential:
    """What the contract's scope alone would give: a command has to fit this and the credential."""
    schemas = tuple(scope.schemas)
    return msgspec.structs.replace(
        credential,
        tier=Tier.parse(scope.permissionTier),
        allowed_schemas=schemas,
        permissions=dict.fromkeys(permissions_for(schemas), True),
        constraints=scope.constraints,
    )


def wider(credential: Credential, scope: Scope) -> list[str]:
    """Where a credential gives more than the contract it was issued for; none if nowhere."""
    return [*_more(credential, within(credential, scope))]


def narrower(credential: Credential, scope: Scope) -> list[str]:
    """Where a credential gives less than its contract."""
    return [*_more(within(credential, scope), credential)]


def _more(one: Credential, other: Credential) -> Iterator[str]:
    if one.effective_tier > other.effective_tier:
        yield f"tier {one.effective_tier.word} instead of {other.effective_tier.word}"
    names = [
        f"{spec.schema}#{spec.name}"
        for spec in registry.actions()
        if spec.schema != CONTROL
        and patterns_allow(one.allowed_schemas, spec.schema, spec.name)
        and not patterns_allow(other.allowed_schemas, spec.schema, spec.name)
    ]
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        yield f"actions {', '.join(names[:3])}{more}"
    for name, limit in sorted(other.constraints.items()):
        given = one.constraints.get(name)
        if given is None:
            yield f"no limit {name}"
        elif isinstance(limit, int) and isinstance(given, int) and given > limit:
            yield f"{name} {given} instead of {limit}"
        elif not isinstance(limit, int) and given != limit:
            yield f"another {name}"
