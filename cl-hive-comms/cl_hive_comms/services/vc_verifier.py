"""Verifiable credentials: asks cl-hive-archon whether one still stands
(docs/protocol/08-client-and-plugins.md §1.2, §3.4; 02 §2.5).

A good answer counts for an hour from the moment its revocation was looked up, on disk, so that a restart
neither shortens nor lengthens it. Credentials that this node signed are none of archon's business.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Final, Protocol

from hive_shared.canonical import decode
from hive_shared.errors import CredentialInvalid, CredentialUnverifiable, HiveError, NotFound
from hive_shared.registry import actions
from hive_shared.siblings import Sibling
from hive_shared.store import Db, StoreError, Tx
from msgspec.structs import replace

from ..domain import vc_check
from ..domain.advisor import CredentialRow
from ..domain.vc_check import Check, Expected
from .ports_identity import Clock, Log

METHOD: Final = "hive-archon-verify-credential"
CAPABILITY: Final = "vc"
PERIOD_S: Final = 60.0
_TIMEOUT_S: Final = 30.0


class CheckRows(Protocol):
    """Where findings are kept (storage.advisor_store.AdvisorStore)."""

    def note_check(self, tx: Tx, credential_id: str, at: int, status: str) -> None: ...


class Siblings(Protocol):
    """The sibling contract, as far as it is needed here (hive_shared.siblings.SiblingHub)."""

    def has(self, who: Sibling, capability: str, v: int = 1) -> bool: ...
    def present(self, who: Sibling) -> bool: ...
    def session(self, who: Sibling) -> Mapping[str, Any] | None: ...
    async def call(
        self, who: Sibling, method: str, params: Mapping[str, Any], *, timeout: float = 30.0
    ) -> dict[str, Any]: ...


class VcVerifier:
    """Keeps what archon found, asks again in time, and ends what was revoked elsewhere.

    `rows` gives all credentials, `find` that of an id; `revoke(credential_id, reason)` ends one here.
    """

    def __init__(
        self,
        db: Db,
        store: CheckRows,
        siblings: Callable[[], Siblings],
        *,
        rows: Callable[[], Collection[CredentialRow]],
        find: Callable[[str], CredentialRow | None],
        revoke: Callable[[str, str], Awaitable[object]],
        now: Clock,
        log: Log,
    ) -> None:
        self._db, self._store, self._siblings = db, store, siblings
        self._rows, self._find, self._revoke = rows, find, revoke
        self._now, self._log = now, log
        self._checks: dict[str, Check] = {}
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._wake = asyncio.Event()

    async def check(self, credential_id: str, schema: str, action: str) -> None:
        """Step 6 of the pipeline for a credential of archon's; returns when it stands.

        Raises CredentialInvalid with the symbol of 02 §7.2, CredentialUnverifiable: `credential_unverifiable`
        when it was never found good, `revocation_unverifiable` when that is an hour ago or more.
        """
        row = self._find(credential_id)
        if row is None or row.format != "vc" or self._settled(row):
            return
        async with self._locks[row.credential_id]:
            # Of commands that come together one asks.
            if not self._settled(row):
                await self._ask(row, schema, action)

    def last(self, row: CredentialRow) -> Check | None:
        """The last finding, None when it was never found good or revoked."""
        known = self._checks.get(row.credential_id)
        if known is not None or row.check_at is None or row.check_status is None:
            return known
        return Check(row.check_at, row.check_status)

    def _settled(self, row: CredentialRow) -> bool:
        known = self.last(row)
        if known is not None and known.status == vc_check.REVOKED:
            raise vc_check.revoked()
        return known is not None and known.holds(self._now())

    async def _ask(self, row: CredentialRow, schema: str, action: str) -> None:
        known = self.last(row)
        try:
            answer = await self._answer(row, schema, action)
            found = vc_check.finding(answer, self._expected(row), self._now())
        except CredentialInvalid:
            raise
        except CredentialUnverifiable as error:
            raise error if known is None else vc_check.revocation_unknown(error.detail) from error
        except HiveError as error:
            # Absent, hung, busy, or a refusal that says nothing of the credential.
            why = f"cl-hive-archon cannot be asked about it: {error.detail}"
            unknown = vc_check.never_checked(why) if known is None else vc_check.revocation_unknown(why)
            raise unknown from error
        await self._keep(row, found)
        if found.status == vc_check.REVOKED:
            self._wake.set()
            raise vc_check.revoked()

    async def _answer(self, row: CredentialRow, schema: str, action: str) -> Mapping[str, Any]:
        if row.vc is None:
            raise vc_check.never_checked("the credential's document is not stored here")
        siblings = self._siblings()
        if siblings.present("archon") and not siblings.has("archon", CAPABILITY):
            raise vc_check.never_checked("the cl-hive-archon of this node does not verify credentials")
        params = {
            "credential": decode(row.vc, floats=True),
            "expected_subject": row.credential.agent_id,
            "schema": schema,
            "action": action,
        }
        return await siblings.call("archon", METHOD, params, timeout=_TIMEOUT_S)

    def _expected(self, row: CredentialRow) -> Expected:
        # The operator's own DID; those of others authorise nobody here, as with native credentials.
        own = (self._siblings().session("archon") or {}).get("did")
        return Expected(row.credential.agent_id, row.agent_key, own if isinstance(own, str) else None)

    async def _keep(self, row: CredentialRow, found: Check) -> None:
        self._checks[row.credential_id] = found
        try:
            await self._db.write(
                lambda tx: self._store.note_check(tx, row.credential_id, found.at, found.status)
            )
        except StoreError:
            # Known until the plugin ends; then it has to be asked again.
            self._log("error", "credential_check_not_stored", credential=row.credential_id)

    # -- without being asked --------------------------------------------------------------------------------

    async def doubt(self, credential_id: str) -> None:
        """Somebody says that a credential was revoked: what was found of it no longer counts. When the id is
        none of ours, it may be archon's name for any of them. Only archon's answer ends anything."""
        ours = self._find(credential_id)
        for row in self._theirs():
            known = self.last(row)
            if ours in (None, row) and known is not None and known.status == vc_check.GOOD:
                await self._keep(row, replace(known, at=0))
        self._wake.set()

    def wake(self) -> None:
        """Look through the credentials now, for example because archon came back."""
        self._wake.set()

    async def run(self) -> None:
        """Ask again before findings end, and end here what was revoked; until cancelled."""
        while True:
            self._wake.clear()
            await self.refresh()
            try:
                async with asyncio.timeout(PERIOD_S):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def refresh(self) -> None:
        """One round over the credentials in force."""
        now = self._now()
        for row in self._theirs():
            known = self.last(row)
            if row.credential.valid_at(now) and (known is None or known.due(now)):
                await self._renew(row)
            known = self.last(row)
            if known is not None and known.status == vc_check.REVOKED:
                await self._end(row)

    async def _renew(self, row: CredentialRow) -> None:
        siblings = self._siblings()
        if not siblings.has("archon", CAPABILITY):
            return
        schema, action = _allowed(row)
        try:
            async with self._locks[row.credential_id]:
                await self._ask(row, schema, action)
        except HiveError as error:
            self._log("warning", "credential_not_verified", credential=row.credential_id, slug=error.symbol)

    async def _end(self, row: CredentialRow) -> None:
        try:
            await self._revoke(row.credential_id, "revoked by its issuer")
        except NotFound:
            return
        except (HiveError, StoreError) as error:
            # Refused all the same; the next round tries again.
            self._log("error", "revocation_not_followed", credential=row.credential_id, why=str(error))

    def _theirs(self) -> list[CredentialRow]:
        return [row for row in self._rows() if row.format == "vc" and row.status == "active"]


def _allowed(row: CredentialRow) -> tuple[str, str]:
    """An action the credential allows: what is asked without a command is asked about that."""
    for spec in actions():
        if row.credential.allows(spec.schema, spec.name):
            return spec.schema, spec.name
    return "hive:monitor/v1", "health_summary"
