"""Credentials as the node knows them: one table in memory, the truth in the database.

docs/protocol/02-fleet-management.md §2.5 "Authority": the node's table decides, commands only name a
credential. Reads come from memory, because they stand before every database access of the pipeline.
"""

import asyncio
from collections.abc import Callable, Iterable

from hive_shared.errors import Conflict
from hive_shared.store import Db, Tx

from cl_hive_comms.domain.advisor import Advisor, CredentialRow
from cl_hive_comms.services.ports_advisors import AdvisorRows
from cl_hive_comms.services.ports_identity import Clock


class CredentialService:
    """Advisors and credentials in memory. Whoever changes the tables calls `load` after the commit."""

    def __init__(self, db: Db, store: AdvisorRows, *, now: Clock) -> None:
        self._db, self._store, self._now = db, store, now
        self._rows: dict[str, CredentialRow] = {}
        self._advisors: dict[str, Advisor] = {}
        self._keys: frozenset[str] = frozenset()
        self._also_known: Callable[[], Iterable[str]] = tuple
        self._listeners: list[Callable[[], None]] = []
        self._loading = asyncio.Lock()

    async def load(self) -> None:
        """Reads both tables; call once at start and after every change."""

        def body(tx: Tx) -> tuple[list[Advisor], list[CredentialRow]]:
            return self._store.advisors(tx), self._store.credentials(tx)

        # One after the other: of two at once the one that read first must not be the one that is kept.
        async with self._loading:
            advisors, rows = await self._db.read(body)
            self._advisors = {advisor.advisor_id: advisor for advisor in advisors}
            self._rows = {row.credential_id: row for row in rows}
            self._keys = frozenset(row.agent_key for row in rows)
        for listener in self._listeners:
            listener()

    def on_change(self, listener: Callable[[], None]) -> None:
        """`listener` runs after each `load`; it must return at once."""
        self._listeners.append(listener)

    def also_known(self, keys: Callable[[], Iterable[str]]) -> None:
        """Further keys that `knows` must answer for: the approvers of the policy."""
        self._also_known = keys

    def knows(self, sender_key: str) -> bool:
        """Whether the key is, or was, an agent's, or is an approver's. Memory only: decides before any I/O.

        Former agents count: they are told that their credential ended (docs/protocol/02 §15.11).
        """
        return sender_key in self._keys or sender_key in self._also_known()

    def not_known_in(self, tx: Tx, pubkey: str) -> None:
        """Raises Conflict for the key of somebody who commands or approves here: it must not be ours too."""
        if self.knows(pubkey):
            raise Conflict(
                "this key belongs to an advisor or approver of this node, who would then be the node itself;"
                " take another one",
                reason="key_in_use",
            )

    async def current(self, credential_id: str) -> CredentialRow | None:
        """The credential of that id, in whatever state."""
        return self.row(credential_id)

    def row(self, credential_id: str) -> CredentialRow | None:
        """As `current`, without waiting."""
        return self._rows.get(credential_id)

    async def by_key(self, sender_key: str) -> tuple[CredentialRow, ...]:
        """All credentials of an agent key, oldest first."""
        return tuple(row for row in self._rows.values() if row.agent_key == sender_key)

    def advisor(self, advisor_id: str) -> Advisor | None:
        """The advisor of that id."""
        return self._advisors.get(advisor_id)

    def advisors(self) -> tuple[Advisor, ...]:
        """All advisors, oldest first."""
        return tuple(self._advisors.values())

    def rows(self) -> tuple[CredentialRow, ...]:
        """All credentials, oldest first."""
        return tuple(self._rows.values())

    def active_of(self, advisor_id: str) -> CredentialRow | None:
        """The credential an advisor works under, expired or not; None when it has none."""
        own = [row for row in self._rows.values() if row.advisor_id == advisor_id and row.status == "active"]
        return own[-1] if own else None

    def engagement(self, advisor_id: str) -> tuple[CredentialRow, ...]:
        """The credentials of an advisor since it was last hired, oldest first: renewals, not what was
        revoked before."""
        rows: list[CredentialRow] = []
        for row in self._rows.values():
            if row.advisor_id == advisor_id:
                rows = [] if row.status == "revoked" else [*rows, row]
        return tuple(rows)

    def known_since(self, advisor_id: str) -> int | None:
        """When the engagement of an advisor began (Unix s); None for nobody."""
        terms = self.engagement(advisor_id)
        return terms[0].created_at if terms else None

    def live_rows(self) -> tuple[CredentialRow, ...]:
        """Credentials under which commands may come now."""
        now = self._now()
        return tuple(row for row in self._rows.values() if row.live(now))

    def live_keys(self) -> tuple[str, ...]:
        """Agent keys with a live credential, each once."""
        return tuple(dict.fromkeys(row.agent_key for row in self.live_rows()))

    def standing(self, tx: Tx, credential_id: str) -> str | None:
        """Status of a credential in the caller's transaction, not from memory; None when there is none.

        Memory follows a revocation's commit a moment later; what must not run after it asks here.
        """
        return self._store.status_of(tx, credential_id)

    def acknowledge(self, tx: Tx, credential_id: str) -> None:
        """The agent says that it holds the credential (`credential_ack`, 11 §15.2)."""
        self._store.acknowledge(tx, credential_id, self._now())
