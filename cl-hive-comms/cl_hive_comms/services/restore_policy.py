"""How the policy of a backup joins the one a node has (docs/protocol/08-client-and-plugins.md §8.4,
docs/decisions/0132-what-a-restore-does.md, 0311-timed-overrides-in-a-restore.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from hive_shared.errors import HiveError
from hive_shared.store import Tx

from ..domain.backup import Row
from ..domain.override_restore import Verdict, verdict
from ..domain.policy import PolicySnapshot
from ..domain.policy_change import differences, listed, looser
from ..domain.policy_document import PolicyDocument, canonical_text
from ..domain.policy_rules import Override, Rule, parse_rule
from .policy_file import document_of
from .ports_backup import PolicyTables
from .ports_policy import StoredPolicy
from .restore_parts import Outcome


class Taken(msgspec.Struct, frozen=True):
    """A policy that came into force with a restore; `before` is None when it could not be read."""

    before: PolicySnapshot | None
    after: PolicySnapshot


class _Said(msgspec.Struct, frozen=True):
    """The policy of a backup."""

    document: PolicyDocument
    rules: tuple[Rule, ...]
    override: Override | None
    changed_at: int


def restore_policy(
    tx: Tx, store: PolicyTables, rows: Sequence[Row], *, replace: bool, by_file: bool, now: int
) -> tuple[Outcome, Taken | None]:
    """The whole policy or nothing of it: rules of one and floors of another were never meant together. Where
    a file is the document (`by_file`), that stays: it is read again at every start."""
    found = len(rows)
    stored = store.load(tx)
    try:
        said = _said(rows)
    except (HiveError, ValueError, TypeError, KeyError) as error:
        return Outcome("policy", found, kept=found, note=f"refused, it cannot be read: {error}"), None
    untouched = stored.version <= 1 and not stored.rules and stored.override is None
    if not replace and not untouched and store.changed_at(tx) >= said.changed_at:
        note = "the policy was changed here since; mode=replace takes the backup's"
        return Outcome("policy", found, kept=found, note=note), None
    before = _present(stored, now)
    if by_file and before is None:
        note = "the policy file cannot be read; repair it, or unset hive-comms-policy-file, and restore again"
        return Outcome("policy", found, kept=found, note=note), None
    document = before.document if by_file and before is not None else said.document
    fate = _fate(tx, store, stored, said, replace=replace, now=now)
    after = _policy(stored.version + 1, document, said.rules, fate.override)
    notes = ["the policy file stays the document"] if by_file else []
    notes += [fate.note] if fate.note else []
    if before is not None and not differences(before, after):
        return Outcome("policy", found, kept=found, note="; ".join(notes)), None
    _write(tx, store, stored, after, now)
    allows = () if before is None else looser(before, after, now)
    notes += [f"it allows more than this node's: {listed(allows)}"] if allows else []
    present = None if before is None else before.override
    begun = said.override is not None and after.override == said.override != present
    taken = (not by_file) + len(said.rules) + begun
    return Outcome("policy", found, taken, found - taken, "; ".join(notes)), Taken(before, after)


def _said(rows: Sequence[Row]) -> _Said:
    by_table: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_table.setdefault(row.table, []).append(row.values)
    policy = by_table["comms_policy"][0]
    overrides = [
        Override(str(each["id"]), each["values"], int(each["starts_at"]), int(each["expires_at"]))
        for each in by_table.get("comms_policy_overrides", [])
    ]
    document = document_of(str(policy["document"]))
    for override in overrides:
        override.apply_to(document.settings)
    return _Said(
        document=document,
        rules=tuple(
            parse_rule(each["rule"], source=str(each["source"]))
            for each in by_table.get("comms_policy_rules", [])
        ),
        override=overrides[0] if overrides else None,
        changed_at=int(policy["updated_at"]),
    )


def _present(stored: StoredPolicy, now: int) -> PolicySnapshot | None:
    if stored.document is None:
        return None
    override = stored.override if stored.override is not None and stored.override.active(now) else None
    try:
        return _policy(stored.version, document_of(stored.document), stored.rules, override)
    except (HiveError, ValueError):
        return None


def _policy(
    version: int, document: PolicyDocument, rules: tuple[Rule, ...], override: Override | None
) -> PolicySnapshot:
    # All rules as the operator's own: a sibling's that a restore takes away is missed as much.
    return PolicySnapshot(version, document.preset, document, rules, override)


def _fate(
    tx: Tx, store: PolicyTables, stored: StoredPolicy, said: _Said, *, replace: bool, now: int
) -> Verdict:
    known = None if said.override is None else store.override_state(tx, said.override.id)
    ended = None if known == "active" else known
    return verdict(stored.override, said.override, ended_here=ended, replace=replace, now=now)


def _write(tx: Tx, store: PolicyTables, stored: StoredPolicy, after: PolicySnapshot, now: int) -> None:
    for source in {rule.source for rule in (*stored.rules, *after.rules)}:
        store.clear_rules(tx, source)
    for rule in after.rules:
        store.add_rule(tx, rule, now)
    store.save(tx, canonical_text(after.document), now)
    if after.override == stored.override:
        return
    ran_out = stored.override is not None and not stored.override.active(now)
    store.end_override(tx, "expired" if ran_out else "replaced", now)
    if after.override is not None:
        store.begin_override(tx, after.override, now)
