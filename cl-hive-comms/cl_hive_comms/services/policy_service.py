"""The operator's policy: kept, changed only by the operator, handed out as a snapshot.

docs/protocol/08-client-and-plugins.md §5.4, docs/protocol/02-fleet-management.md §7.4. Every change is one
transaction with its receipt; what loosens the policy raises an alert. Where the document comes from a file,
the file is its only author (docs/decisions/0082-policy-file-is-the-document.md).

What is stored is always what was last in force: a start, a reload or a restore that finds something else
leaves a receipt and an alert too (docs/decisions/0310-what-was-in-force-is-remembered.md).
"""

from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from hive_shared.canonical import JsonValue
from hive_shared.errors import Capacity, Conflict, InvalidParams, NotFound
from hive_shared.store import Db, Tx
from msgspec.structs import replace

from cl_hive_comms.domain.policy_document import (
    PolicyDocument,
    canonical_text,
    merged,
    parse_duration,
    parse_values,
    preset_document,
)
from cl_hive_comms.domain.policy_rules import MAX_RULES, Override, Rule, parse_rule
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.services.policy_in_force import OPERATOR, OPTION_FACT, Limits, PolicyInForce, policy_of
from cl_hive_comms.services.policy_record import PolicyRecord
from cl_hive_comms.services.ports_identity import Clock, FactStore, Log, RandomBytes
from cl_hive_comms.services.ports_policy import PolicyRows

P = ParamSpec("P")
T = TypeVar("T")


def _one_at_a_time(
    change: Callable[Concatenate["PolicyService", P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate["PolicyService", P], Coroutine[Any, Any, T]]:
    """Hold the lock from the first look at the policy to its adoption.

    A change computed from a policy that another change is just replacing would undo that one: a channel
    protected in the second in which an override runs out would not be.
    """

    @wraps(change)
    async def alone(self: "PolicyService", /, *args: P.args, **kwargs: P.kwargs) -> T:
        async with self._lock:
            return await change(self, *args, **kwargs)

    return alone


@dataclass
class _Staged:
    """A change that is ready to be written; `version` is known once it is."""

    write: Callable[[Tx], None]
    document: PolicyDocument
    rules: tuple[Rule, ...]
    override: Override | None
    version: int = -1


class PolicyService(PolicyInForce):
    """Owns the policy: every change goes through here."""

    def __init__(
        self,
        db: Db,
        store: PolicyRows,
        facts: FactStore,
        *,
        record: PolicyRecord,
        alerts: AlertService,
        limits: Callable[[], Limits],
        now: Clock,
        random_bytes: RandomBytes,
        log: Log,
    ) -> None:
        super().__init__(db, store, facts, record=record, alerts=alerts, limits=limits, now=now, log=log)
        self._random_bytes = random_bytes

    # -- options and the clock -----------------------------------------------------------------------

    async def follow_preset(self, preset: str) -> None:
        """Follow a change of the option policy-preset."""
        if not self._file.path:
            await self.set_preset(preset)
            await self._db.write(lambda tx: self._facts.put(tx, OPTION_FACT, preset, self._now()))
        self._preset = preset

    @_one_at_a_time
    async def expire_overrides(self) -> None:
        """Notes that an override ran out; decisions have stopped using it by then. Run every 30 s."""
        before, override = self._current, self._current.override
        if override is None or override.active(self._now()):
            return
        params = {"override_id": override.id}
        if before.locked is None:
            await self._change("override_expired", params, end_override="expired")
            return
        # The document waits for its repair and must not be stored over: only the override ends.
        after = replace(before, override=None)

        def body(tx: Tx) -> None:
            self._store.end_override(tx, "expired", self._now())
            self._record.called(tx, "override_expired", params, before=before, after=after)

        await self._db.write(body)
        self._current = after

    # -- changes by the operator ---------------------------------------------------------------------

    @_one_at_a_time
    async def set_preset(self, preset: str) -> None:
        """Start from another preset; the operator's own keys stay. Raises InvalidParams, Conflict."""
        self._refuse_with_file()
        fresh = preset_document(preset)
        document = merged(replace(fresh, overrides=self._current.document.overrides), {})
        await self._apply("set-preset", {"preset": preset}, document=document)

    @_one_at_a_time
    async def set(self, changes: Mapping[str, JsonValue]) -> None:
        """Change keys of the document for good; null takes a key back to the preset."""
        self._refuse_with_file()
        if not changes:
            raise InvalidParams("set needs overrides={key: value}")
        await self._apply("set", {"keys": sorted(changes)}, changes=changes)

    @_one_at_a_time
    async def override(self, values: Mapping[str, JsonValue], duration: str) -> Override:
        """Change keys for a time, at most 7 days; replaces the override before it."""
        if not values:
            raise InvalidParams("override needs overrides={key: value}")
        parse_values(self._current.document.settings, dict(values))
        now = self._now()
        override = Override(self._random_bytes(8).hex(), dict(values), now, now + parse_duration(duration))
        await self._apply("override", {"keys": sorted(values), "duration": duration}, override=override)
        return override

    @_one_at_a_time
    async def clear(self) -> None:
        """End the timed override. Raises NotFound when there is none."""
        if self._current.active_override(self._now()) is None:
            raise NotFound("no timed override is active")
        await self._apply("clear", {}, end_override="cleared")

    @_one_at_a_time
    async def add_rule(self, doc: JsonValue, source: str = OPERATOR) -> Rule:
        """Add a rule; rules only tighten. Raises InvalidParams, Capacity beyond 200, Conflict on its id."""
        rule = parse_rule(doc, rule_id=f"rule-{self._random_bytes(4).hex()}", source=source)
        rules = (*self._current.rules, *self._current.sibling_rules)
        if len(rules) >= MAX_RULES:
            raise Capacity(f"a policy has at most {MAX_RULES} rules; remove one first")
        if any(each.id == rule.id for each in rules):
            raise Conflict(f"rule {rule.id} exists; remove it first, or give another id")
        await self._apply("add-rule", {"rule": rule.to_doc()}, add_rule=rule)
        return rule

    @_one_at_a_time
    async def remove_rule(self, rule_id: str, source: str | None = None) -> None:
        """Remove a rule; a sibling may only remove its own. Raises NotFound."""
        rules = (*self._current.rules, *self._current.sibling_rules)
        if not any(each.id == rule_id and source in (None, each.source) for each in rules):
            raise NotFound(f"there is no rule {rule_id[:64]!a}")
        await self._apply("remove-rule", {"rule_id": rule_id}, remove_rule=rule_id)

    @_one_at_a_time
    async def extend_list(self, key: str, entries: Iterable[str], *, add: bool) -> None:
        """protect, unprotect, forbid, unforbid: entries of `protected_channels` or `forbidden_peers`."""
        self._refuse_with_file()
        given = self._current.document.overrides.get(key)
        kept = [entry for entry in given if isinstance(entry, str)] if isinstance(given, list) else []
        wanted = list(dict.fromkeys(entries))
        if not wanted:
            raise InvalidParams("name at least one entry")
        missing = [entry for entry in wanted if entry not in kept]
        if not add and missing:
            raise NotFound(f"{missing[0][:80]!a} is not in {key}")
        changed = [*kept, *missing] if add else [entry for entry in kept if entry not in wanted]
        action = (
            ("protect" if add else "unprotect")
            if key == "protected_channels"
            else ("forbid" if add else "unforbid")
        )
        await self._apply(action, {key: list(wanted)}, changes={key: list(changed) or None})

    @_one_at_a_time
    async def reset(self) -> None:
        """Back to the bare preset: own keys, the operator's rules and a timed override go."""
        self._refuse_with_file()
        document = preset_document(self._current.preset)
        await self._apply("reset", {}, document=document, end_override="cleared", clear_rules=True)

    # -- setup ---------------------------------------------------------------------------------------

    def refuse_when_fixed(self) -> None:
        """Raises Conflict when the document cannot be changed by a call: a file rules, or it is locked."""
        self._refuse_with_file()
        self._refuse_locked()

    def would_be(self, preset: str | None, changes: Mapping[str, JsonValue]) -> PolicyDocument:
        """The document with another preset (None: the same) and keys changed. Raises InvalidParams."""
        present = self._current.document
        base = present if preset is None else replace(preset_document(preset), overrides=present.overrides)
        return merged(base, changes)

    @asynccontextmanager
    async def choosing(
        self, preset: str | None, changes: Mapping[str, JsonValue]
    ) -> AsyncIterator[Callable[[Tx], None]]:
        """What `would_be` shows, written by the caller inside a transaction of the caller's own.

        No other change of the policy comes between. Afterwards memory follows what was committed, whatever
        happened meanwhile. Raises InvalidParams, Conflict.
        """
        async with self._lock:
            self.refuse_when_fixed()
            document = self.would_be(preset, changes)
            staged = self._staged("setup", {"preset": preset, "keys": sorted(changes)}, document=document)
            try:
                yield staged.write
            finally:
                # In the writer's queue, so behind a transaction whose caller gave up waiting.
                stored = await self._db.write(self._store.load)
                if stored.version == staged.version:
                    self._follow(staged)

    # -- inside --------------------------------------------------------------------------------------

    def _refuse_with_file(self) -> None:
        if self._file.path:
            raise Conflict(
                f"the policy document comes from {self._file.path}; change it there, or unset"
                " hive-comms-policy-file. Rules and timed overrides work beside a file"
            )

    def _refuse_locked(self) -> None:
        if self._current.locked is not None:
            raise Conflict(f"{self._current.locked}; repair it, or start over with action=reset")

    async def _apply(self, action: str, params: Mapping[str, Any], **change: Any) -> None:
        if "document" not in change:
            self._refuse_locked()
        await self._change(action, params, **change)

    async def _change(self, action: str, params: Mapping[str, Any], **change: Any) -> None:
        staged = self._staged(action, params, **change)
        await self._db.write(staged.write)
        self._follow(staged)

    def _staged(
        self,
        action: str,
        params: Mapping[str, Any],
        *,
        document: PolicyDocument | None = None,
        changes: Mapping[str, JsonValue] | None = None,
        override: Override | None = None,
        end_override: str | None = None,
        add_rule: Rule | None = None,
        remove_rule: str | None = None,
        clear_rules: bool = False,
    ) -> "_Staged":
        before = self._current
        wanted = document or before.document
        if changes is not None:
            wanted = merged(wanted, changes)
        rules = tuple(rule for rule in self._all_rules() if rule.id != remove_rule)
        if clear_rules:
            rules = tuple(rule for rule in rules if rule.source != OPERATOR)
        if add_rule is not None:
            rules = (*rules, add_rule)
        active = override if override is not None else (None if end_override else before.override)
        now = self._now()

        def body(tx: Tx) -> None:
            if override is not None:
                self._store.begin_override(tx, override, now)
            if end_override is not None:
                self._store.end_override(tx, end_override, now)
            if add_rule is not None:
                self._store.add_rule(tx, add_rule, now)
            if remove_rule is not None:
                self._store.remove_rule(tx, remove_rule)
            if clear_rules:
                self._store.clear_rules(tx, OPERATOR)
            staged.version = self._store.save(tx, canonical_text(wanted), now)
            after = policy_of(staged.version, wanted, rules, active)
            self._record.called(tx, action, params, before=before, after=after)

        staged = _Staged(body, wanted, rules, active)
        return staged

    def _follow(self, staged: "_Staged") -> None:
        self._adopt(staged.version, staged.document, staged.rules, staged.override)

    def _all_rules(self) -> tuple[Rule, ...]:
        return (*self._current.rules, *self._current.sibling_rules)
