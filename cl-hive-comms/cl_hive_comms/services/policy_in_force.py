"""The policy in force: read at start, followed over its file and a restore, handed out as a snapshot.

docs/protocol/08-client-and-plugins.md §5.4. What is stored is always what was last in force: a start, a
reload or a restore that finds something else leaves a receipt, and an alert where it allows more
(docs/decisions/0310-what-was-in-force-is-remembered.md).
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
from hive_shared.errors import InvalidParams
from hive_shared.store import Db, Tx
from msgspec.structs import replace

from cl_hive_comms.domain.policy import PolicySnapshot, locked_snapshot
from cl_hive_comms.domain.policy_document import PolicyDocument, canonical_text, merged, preset_document
from cl_hive_comms.domain.policy_rules import Override, Rule
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.services.policy_file import PolicyFile, document_of, read_document, why
from cl_hive_comms.services.policy_record import PolicyRecord, Source
from cl_hive_comms.services.ports_identity import Clock, FactStore, Log
from cl_hive_comms.services.ports_policy import PolicyRows, StoredPolicy

OPTION_FACT = "policy_preset_option"
"""Fact: the value of the option policy-preset that was last looked at."""
OPERATOR = "operator"
"""Source of the operator's own rules."""


class Limits(msgspec.Struct, frozen=True):
    """Options that every decision needs besides the document."""

    confirm_hours_low: int
    confirm_hours_high: int


class PolicyInForce:
    """Knows the policy. `snapshot` is what decisions rest on; it never touches disk."""

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
        log: Log,
    ) -> None:
        self._db, self._store, self._facts = db, store, facts
        self._record, self._alerts, self._limits = record, alerts, limits
        self._now, self._log = now, log
        self._current = locked_snapshot("the policy is not loaded yet")
        self._preset = self._current.preset
        self._file = PolicyFile()
        self._lock = asyncio.Lock()
        self._listeners: list[Callable[[], None]] = []
        self.file_problem: str | None = None
        """Why the policy file does not count, for status and self-check."""

    # -- reads ---------------------------------------------------------------------------------------

    def snapshot(self) -> PolicySnapshot:
        """The policy in force now."""
        limits = self._limits()
        if (self._current.confirm_hours_low, self._current.confirm_hours_high) != (
            limits.confirm_hours_low,
            limits.confirm_hours_high,
        ):
            self._current = replace(
                self._current,
                confirm_hours_low=limits.confirm_hours_low,
                confirm_hours_high=limits.confirm_hours_high,
            )
        return self._current

    def approver_keys(self) -> frozenset[str]:
        """X-only keys of the approvers, as they may send votes."""
        approvers = self._current.document.settings.approvers
        return frozenset(name.removeprefix("did:nostr:") for name in approvers if name != "local")

    @property
    def source(self) -> str:
        """Where the document comes from: `file` or `stored`."""
        return "file" if self._file.path else "stored"

    def on_change(self, listener: Callable[[], None]) -> None:
        """`listener` runs after each change; it must return at once."""
        self._listeners.append(listener)

    # -- life ----------------------------------------------------------------------------------------

    async def load(self, preset: str, file: str) -> None:
        """Reads the stored policy and the file, if any; call once at start.

        A document that cannot be read leaves monitor reads only, with an alert, until it is repaired.
        """
        async with self._lock:
            await self._load(preset, file)

    @asynccontextmanager
    async def restoring(self) -> AsyncIterator[None]:
        """Nothing else changes the policy meanwhile; afterwards memory follows what was committed."""
        async with self._lock:
            try:
                yield
            finally:
                await self._reload()

    async def watch_file(self) -> None:
        """Notices a changed policy file; run every few seconds. A bad one keeps the last good document."""
        if self._file.changed():
            await self.reload_file(self._file.path)

    async def reload_file(self, path: str) -> None:
        """Follow the option policy-file. An empty path leaves the document as it is, for calls to change.

        Raises InvalidParams when a newly named file cannot be read: the former policy stays.
        """
        async with self._lock:
            previous, self._file.path = self._file.path, path
            stamp = self._file.stamp()
            try:
                stored = await self._db.read(self._store.load)
                document = read_document(path) if path else _stored_document(stored, self._preset)
                await self._take_up(stored, document, "file")
            except (InvalidParams, OSError, ValueError) as error:
                self._file.path = previous
                problem = f"the policy file {path or previous} is not used: {why(error)}"
                if path != previous:
                    # Whoever named it is told; the file in use is as good as it was.
                    raise InvalidParams(problem) from None
                self._file.seen(stamp)
                self.file_problem = problem
                await self._alerts.alert_critical("policy_file_refused", problem)
            except BaseException:
                # Not written: what was in force stays, and the file is looked at again.
                self._file.path = previous
                raise
            else:
                self._file.seen(stamp)

    # -- inside --------------------------------------------------------------------------------------

    async def _reload(self) -> None:
        problem = self.file_problem
        if problem is None or self._current.locked is not None:
            await self._load(self._preset, self._file.path)
            return
        # The file went bad while we ran: the last good document, which is the stored one, stays in force.
        stored = await self._db.read(self._store.load)
        self._adopt(stored.version, _stored_document(stored, self._preset), stored.rules, stored.override)
        self.file_problem = problem

    async def _load(self, preset: str, file: str) -> None:
        self._preset, self._file.path = preset, file
        rules: tuple[Rule, ...] = ()
        override: Override | None = None
        stamp = self._file.stamp()
        try:
            stored = await self._db.read(self._store.load)
            rules, override = stored.rules, stored.override
            told = await self._db.read(lambda tx: self._facts.get(tx, OPTION_FACT))
            document = read_document(file) if file else _stored_document(stored, preset)
            # The option speaks when it was changed since we last saw it, or when nothing is stored.
            if not file and told is not None and told != preset:
                document = merged(replace(preset_document(preset), overrides=document.overrides), {})
            source: Source = "file" if file else "option"
            await self._take_up(stored, document, source, option=None if told == preset else preset)
        except (InvalidParams, OSError, ValueError) as error:
            self.file_problem = f"the policy cannot be read: {why(error)}"
            # Rules and override are whole: a document repaired while we run is used together with them.
            self._current = replace(
                locked_snapshot(self.file_problem),
                rules=tuple(rule for rule in rules if rule.source == OPERATOR),
                sibling_rules=tuple(rule for rule in rules if rule.source != OPERATOR),
                override=override,
            )
            await self._alerts.alert_critical("policy_unreadable", self.file_problem)
        self._file.seen(stamp)

    async def _take_up(
        self, stored: StoredPolicy, document: PolicyDocument, source: Source, *, option: str | None = None
    ) -> None:
        """Put this document in force; what differs from what was is stored with its receipt. `option` is a
        preset to remember as seen."""
        text, version = canonical_text(document), stored.version
        before = _remembered(stored)
        changed = before is None or canonical_text(before.document) != text
        if changed or option is not None:

            def body(tx: Tx) -> int:
                if option is not None:
                    self._facts.put(tx, OPTION_FACT, option, self._now())
                if not changed:
                    return version
                saved = self._store.save(tx, text, self._now())
                # The very first policy of a node follows no other.
                if stored.document is not None:
                    after = policy_of(saved, document, stored.rules, stored.override)
                    self._record.followed(tx, source, before=before, after=after)
                return saved

            version = await self._db.write(body)
        self._adopt(version, document, stored.rules, stored.override)

    def _adopt(
        self, version: int, document: PolicyDocument, rules: tuple[Rule, ...], override: Override | None
    ) -> None:
        limits, before = self._limits(), self._current
        self._current = replace(
            policy_of(version, document, rules, override),
            confirm_hours_low=limits.confirm_hours_low,
            confirm_hours_high=limits.confirm_hours_high,
        )
        self.file_problem = None
        if self._current == before:
            return
        self._log("info", "policy", version=version, preset=document.preset, source=self.source)
        for listener in self._listeners:
            listener()


def policy_of(
    version: int, document: PolicyDocument, rules: tuple[Rule, ...], override: Override | None
) -> PolicySnapshot:
    """A policy from what is stored of it."""
    return PolicySnapshot(
        version=version,
        preset=document.preset,
        document=document,
        rules=tuple(rule for rule in rules if rule.source == OPERATOR),
        override=override,
        sibling_rules=tuple(rule for rule in rules if rule.source != OPERATOR),
    )


def _stored_document(stored: StoredPolicy, preset: str) -> PolicyDocument:
    return preset_document(preset) if stored.document is None else document_of(stored.document)


def _remembered(stored: StoredPolicy) -> PolicySnapshot | None:
    """What was in force last; None when nothing was, or it cannot be read any more."""
    if stored.document is None:
        return None
    try:
        return policy_of(stored.version, document_of(stored.document), stored.rules, stored.override)
    except (InvalidParams, ValueError):
        return None
