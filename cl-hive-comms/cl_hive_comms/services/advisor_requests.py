"""What is asked of the advisor service, and what it answers."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import msgspec
from hive_shared.canonical import JsonValue
from hive_shared.credential_scope import OutOfReach, Template, custom_template, resolve_access
from hive_shared.errors import InvalidParams
from hive_shared.registry import Tier

from cl_hive_comms.domain.advisor import Advisor, CredentialRow
from cl_hive_comms.domain.conflict import CHANNEL_COOLDOWN_S


class Hire(msgspec.Struct, frozen=True):
    """What the operator asked for. Limits replace the template's constraints of the same name.

    With `trial_days` (7 to 30) it is a trial of that length, and `days` does not count.
    """

    advisor: str
    access: str = "monitoring"
    days: int = 30
    allow: tuple[str, ...] = ()
    max_fee_change_pct: int | None = None
    max_rebalance_sats: int | None = None
    daily_limit_sats: int | None = None
    note: str = ""
    npub: str = ""
    did: str = ""
    trial_days: int = 0
    confirm: bool = False
    agent_id: str = ""
    trust: Fraction | None = None
    permissions: Mapping[str, JsonValue] | None = None
    charge: Mapping[str, JsonValue] | None = None
    """What the agent pays for access (the credential's `access`); None: nothing."""
    pay: Mapping[str, JsonValue] | None = None
    """What the agent is paid (the credential's `compensation`); None: nothing."""
    credential_id: str = ""
    """The id the credential gets, where it was agreed before; empty: a new one."""
    until: int = 0
    """When it ends (Unix s), where that was agreed before; 0: after `days`."""

    def template(self) -> Template:
        """The rights that are meant. Raises InvalidParams."""
        if " ".join(self.access.casefold().split()) == "custom":
            return custom_template(
                self.allow,
                max_fee_change_pct=self.max_fee_change_pct,
                max_rebalance_sats=self.max_rebalance_sats,
            )
        if self.allow:
            raise InvalidParams("allow belongs to access=custom")
        return resolve_access(self.access)

    def constraints(self, template: Template) -> dict[str, Any]:
        """The template's constraints with the operator's limits in their place."""
        chosen = dict(template.constraints)
        if self.max_fee_change_pct is not None:
            chosen["max_fee_change_pct"] = self.max_fee_change_pct
        if self.max_rebalance_sats is not None:
            chosen["max_rebalance_sats"] = self.max_rebalance_sats
        return chosen

    def coordination(self) -> dict[str, JsonValue]:
        """What the credential says of working beside other advisors, where it is not the default."""
        return {}

    def terms(self) -> dict[str, JsonValue]:
        """What the receipt says was granted."""
        return {
            "access": self.access,
            "days": self.trial_days or self.days,
            "allow": list(self.allow),
            "trial": bool(self.trial_days),
        }


class Issue(Hire, frozen=True):
    """A credential spelt out instead of picked from the templates (`hive-mgmt-credential-issue`)."""

    tier: Tier = Tier.MONITOR
    schemas: tuple[str, ...] = ()
    limits: Mapping[str, JsonValue] = msgspec.field(default_factory=dict)
    action_cooldown_s: int = CHANNEL_COOLDOWN_S

    def template(self) -> Template:
        """The rights as given; without permissions, those that the schemas need."""
        return Template("custom", (), self.tier, self.schemas, self.limits)

    def constraints(self, template: Template) -> dict[str, Any]:
        """The constraints as given."""
        return dict(template.constraints)

    def coordination(self) -> dict[str, JsonValue]:
        """The wait after another advisor's write."""
        return {"action_cooldown_s": self.action_cooldown_s}

    def terms(self) -> dict[str, JsonValue]:
        """What the receipt says was granted."""
        terms: dict[str, JsonValue] = {
            **super().terms(),
            "access": "custom",
            "tier": self.tier.word,
            "allowed_schemas": list(self.schemas),
            "constraints": dict(self.limits),
        }
        if self.action_cooldown_s != CHANNEL_COOLDOWN_S:
            terms["action_cooldown_s"] = self.action_cooldown_s
        if self.trust is not None:
            terms["trust"] = str(float(self.trust))
        if self.charge is not None:
            terms["charge"] = dict(self.charge)
        if self.pay is not None:
            terms["pay"] = dict(self.pay)
        return terms


class Hired(msgspec.Struct, frozen=True):
    """The outcome of `authorize`."""

    advisor: Advisor
    name: str
    row: CredentialRow
    template: str
    with_rune: bool
    warnings: tuple[str, ...]
    trial_id: str | None = None
    out_of_reach: tuple[OutOfReach, ...] = ()


class Dismissed(msgspec.Struct, frozen=True):
    """The outcome of `revoke`."""

    names: tuple[str, ...]
    cancelled: int
    rune_blacklisted: bool
    published: int
