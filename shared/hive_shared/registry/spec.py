"""What the registry says of one action and of one schema (docs/protocol/02-fleet-management.md §3, §4)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import msgspec

from .contained import AMOUNTS_TO
from .danger import READ, Danger, DangerFacts, DangerRule, Params, Tier, fixed, tier_for
from .params import ParamSchema

NOT_SERVED: Final = "not served by this version"
NO_CALL: Final = "CLN has no call for it"


class ActionSpec(msgspec.Struct, frozen=True):
    """One action: who may ask for it, how dangerous it is, what it takes.

    `permissions` are alternatives, any one is enough; none means free for every credential holder.
    `tier` overrides the tier that follows from the danger total, `least_tier` only raises it. `s5_constraint`
    names the credential constraint that lowers a danger of 5 to the standard tier. `queue_floor` marks
    proposals that always wait for the operator. An action that is not `served` is known but refused,
    `unserved_reason` says why; only served ones have `params`.
    """

    schema: str
    name: str
    permissions: tuple[str, ...]
    rule: DangerRule
    aliases: tuple[str, ...] = ()
    read_only: bool = False
    tier: Tier | None = None
    least_tier: Tier = Tier.MONITOR
    params: ParamSchema | None = None
    s5_constraint: str | None = None
    queue_floor: bool = False
    unserved_reason: str = NOT_SERVED

    @property
    def served(self) -> bool:
        """Whether this version executes the action."""
        return self.params is not None

    @property
    def permission(self) -> str | None:
        """The first of `permissions`, the one templates grant; None for a free action."""
        return self.permissions[0] if self.permissions else None

    @property
    def amounts_to(self) -> tuple[str, ...]:
        """What else this action is, as `schema#action`: denied there, denied here (02 §2.3). One step."""
        return AMOUNTS_TO.get(f"{self.schema}#{self.name}", ())

    @property
    def category(self) -> str:
        """`fee-policy` of `hive:fee-policy/v1`."""
        return self.schema.removeprefix("hive:").partition("/")[0]

    def danger(self, params: Params, facts: DangerFacts | None = None) -> Danger:
        """The danger of this action with these (parsed) parameters and what the node knows."""
        return self.rule.pick(params, facts or DangerFacts())

    def required_tier(
        self, params: Params, facts: DangerFacts | None = None, constraints: Collection[str] = ()
    ) -> Tier:
        """The least tier that may ask for it; `constraints` are the names the credential carries."""
        if self.tier is not None:
            return self.tier
        met = self.s5_constraint is not None and self.s5_constraint in constraints
        by_danger = tier_for(self.danger(params, facts).total, read_only=self.read_only, s5_met=met)
        return max(by_danger, self.least_tier)


class SchemaSpec(msgspec.Struct, frozen=True):
    """One schema: its id such as `hive:monitor/v1` and its actions."""

    schema: str
    actions: tuple[ActionSpec, ...]


READ_RULE: Final = DangerRule((READ,), lambda _params, _facts: READ)


class SchemaTable:
    """Writes the rows of one schema in the order of the sheet; `done` gives the finished schema."""

    def __init__(self, schema: str, *permissions: str) -> None:
        self._schema = schema
        self._permissions = permissions
        self._rows: list[ActionSpec] = []

    def read(
        self,
        name: str,
        *aliases: str,
        params: ParamSchema | None = None,
        danger: str | None = None,
        permissions: tuple[str, ...] | None = None,
    ) -> None:
        """A row that changes nothing: RO of the sheet unless `danger` says otherwise."""
        rule = READ_RULE if danger is None else fixed(danger)
        self._rows.append(
            ActionSpec(
                self._schema,
                name,
                self._permissions if permissions is None else permissions,
                rule,
                aliases=aliases,
                read_only=True,
                params=params,
                tier=Tier.MONITOR,
            )
        )

    def write(
        self,
        name: str,
        danger: str | DangerRule,
        *aliases: str,
        tier: Tier | None = None,
        least_tier: Tier = Tier.MONITOR,
        params: ParamSchema | None = None,
        s5: str | None = None,
        permissions: tuple[str, ...] | None = None,
        queue_floor: bool = False,
        why: str = NOT_SERVED,
    ) -> None:
        """A row that changes something."""
        self._rows.append(
            ActionSpec(
                self._schema,
                name,
                self._permissions if permissions is None else permissions,
                fixed(danger) if isinstance(danger, str) else danger,
                aliases=aliases,
                tier=tier,
                least_tier=least_tier,
                params=params,
                s5_constraint=s5,
                queue_floor=queue_floor,
                unserved_reason=why,
            )
        )

    def done(self) -> SchemaSpec:
        """The schema with all rows written so far."""
        return SchemaSpec(self._schema, tuple(self._rows))
