"""What is asked of the advisor service, and what it answers."""

from dataclasses import dataclass
from typing import Any

from hive_shared.credential_scope import Template, custom_template, resolve_access
from hive_shared.errors import InvalidParams

from cl_hive_comms.domain.advisor import Advisor, CredentialRow


@dataclass(frozen=True)
class Hire:
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


@dataclass(frozen=True)
class Hired:
    """The outcome of `authorize`."""

    advisor: Advisor
    name: str
    row: CredentialRow
    template: str
    with_rune: bool
    warnings: tuple[str, ...]
    trial_id: str | None = None


@dataclass(frozen=True)
class Dismissed:
    """The outcome of `revoke`."""

    names: tuple[str, ...]
    cancelled: int
    rune_blacklisted: bool
    published: int
