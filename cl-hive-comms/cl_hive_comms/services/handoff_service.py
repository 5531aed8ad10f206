"""Handoffs between hired advisors (docs/decisions/0254-handoff-between-hired-advisors.md).

Credentials stay as they are: who of both may change things follows from the time, so nothing has to run at
half time, and a node that was down is right afterwards. Only the end revokes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from hive_shared.alerts import Level
from hive_shared.canonical import JsonValue
from hive_shared.errors import Conflict, InvalidParams, NotFound, from_symbol
from hive_shared.row_by_row import RowByRow
from hive_shared.store import Db, Tx

from cl_hive_comms.domain.advisor import Advisor
from cl_hive_comms.domain.handoff import FACT, Handoff
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.services.credential_service import CredentialService
from cl_hive_comms.services.ports_identity import Clock, FactStore, Log
from cl_hive_comms.services.receipt_service import ReceiptService, operator_event

_DAY_S: Final = 86_400


class HandoffService:
    """Starts handoffs, ends them, answers who may write. `revoke` ends an advisor's credential by its id and
    raises NotFound without one; `name_of` gives an advisor's name."""

    def __init__(
        self,
        db: Db,
        facts: FactStore,
        *,
        credentials: CredentialService,
        receipts: ReceiptService,
        alerts: AlertService,
        revoke: Callable[[str, str], Awaitable[object]],
        name_of: Callable[[str], str],
        now: Clock,
        log: Log,
    ) -> None:
        self._alone = RowByRow(log)
        self._db, self._facts, self._credentials = db, facts, credentials
        self._receipts, self._alerts, self._revoke = receipts, alerts, revoke
        self._name_of, self._now = name_of, now
        self._running: tuple[Handoff, ...] = ()
        self._lock = asyncio.Lock()

    async def load(self) -> None:
        """Read what runs; call once at start."""
        self._running = await self._db.read(self._stored)

    @asynccontextmanager
    async def restoring(self) -> AsyncIterator[None]:
        """Held around a restore: none starts or ends meanwhile, and memory follows."""
        async with self._lock:
            try:
                yield
            finally:
                await self.load()

    def _stored(self, tx: Tx) -> tuple[Handoff, ...]:
        return tuple(Handoff.from_text(text) for text in self._facts.with_prefix(tx, FACT).values())

    # -- asked by the pipeline -------------------------------------------------------------------------

    def check_write(self, advisor_id: str) -> None:
        """Raises PermissionDenied for the one of both who may only look on at present."""
        for handoff in self._running:
            if why := handoff.refusal(advisor_id, self._now()):
                raise from_symbol("permission_denied", why, handoff_half_at=handoff.half_at)

    def gives_way(self, advisor_id: str, other: str) -> bool:
        """Whether `other` is handing over to this advisor: what it does or did holds this one up no more."""
        return any(each.outgoing == other and each.incoming == advisor_id for each in self._running)

    def of(self, advisor_id: str) -> dict[str, JsonValue] | None:
        """What an advisor's part in a handoff is, for people; None without one."""
        for each in self._running:
            part = {each.outgoing: ("to", each.incoming), each.incoming: ("from", each.outgoing)}
            if advisor_id in part:
                way, other = part[advisor_id]
                writes = each.worker(self._now()) == advisor_id
                return {
                    way: self._name_of(other),
                    "half_at": each.half_at,
                    "ends_at": each.ends_at,
                    "writes": writes,
                }
        return None

    # -- life --------------------------------------------------------------------------------------------

    async def start(self, outgoing: Advisor, incoming: Advisor, days: int) -> Handoff:
        """Begin a handoff. Raises InvalidParams, NotFound, Conflict (handoff_running, credential_ends)."""
        async with self._lock:
            now = self._now()
            handoff = Handoff(outgoing.advisor_id, incoming.advisor_id, now, now + days * _DAY_S)
            self._check(handoff)

            def body(tx: Tx) -> tuple[Handoff, ...]:
                self._facts.put(tx, FACT + handoff.outgoing, handoff.to_text(), now)
                terms: dict[str, JsonValue] = {
                    "from": outgoing.advisor_id,
                    "to": incoming.advisor_id,
                    "days": days,
                }
                times: dict[str, JsonValue] = {"half_at": handoff.half_at, "ends_at": handoff.ends_at}
                self._receipts.append(
                    tx,
                    operator_event("handoff_start", params=terms, result=times, advisor_id=handoff.outgoing),
                )
                return self._stored(tx)

            self._running = await self._db.write(body)
            return handoff

    def _check(self, wanted: Handoff) -> None:
        if wanted.outgoing == wanted.incoming:
            raise InvalidParams("from_contract and to_contract are the same advisor; name two")
        for advisor_id in (wanted.outgoing, wanted.incoming):
            if self.of(advisor_id) is not None:
                raise Conflict(
                    f"{self._name_of(advisor_id)!a} is part of a handoff already; it ends by itself, or when"
                    " one of both is revoked",
                    reason="handoff_running",
                )
            if not self._live(advisor_id):
                raise NotFound(
                    f"{self._name_of(advisor_id)!a} has no credential that is valid now;"
                    " hive-client-authorize gives one"
                )
        row = self._credentials.active_of(wanted.incoming)
        if row is not None and row.credential.valid_until < wanted.ends_at:
            raise Conflict(
                f"the credential of {self._name_of(wanted.incoming)!a} ends before the handoff does; renew it"
                " with hive-client-authorize first",
                reason="credential_ends",
            )

    def _live(self, advisor_id: str) -> bool:
        row = self._credentials.active_of(advisor_id)
        return row is not None and row.live(self._now())

    async def settle(self) -> None:
        """End what is over: the outgoing advisor is revoked. Run every minute."""
        async with self._lock:
            with self._alone.round("handoffs") as alone:
                for handoff in self._running:
                    with alone(handoff.outgoing):
                        await self._settle(handoff)

    async def _settle(self, handoff: Handoff) -> None:
        if not self._live(handoff.outgoing):
            await self._end(handoff, "outgoing_gone")
        elif not self._live(handoff.incoming):
            await self._end(handoff, "incoming_gone")
        elif self._now() >= handoff.ends_at:
            # Revoked first: a crash in between leaves a handoff whose outgoing advisor is gone.
            await self._revoke(handoff.outgoing, f"handed over to {self._name_of(handoff.incoming)}")
            await self._end(handoff, "completed")

    async def _end(self, handoff: Handoff, state: str) -> None:
        def body(tx: Tx) -> tuple[Handoff, ...]:
            self._facts.delete(tx, FACT + handoff.outgoing)
            terms: dict[str, JsonValue] = {"from": handoff.outgoing, "to": handoff.incoming}
            self._receipts.append(
                tx,
                operator_event(
                    "handoff_end", params=terms, result={"state": state}, advisor_id=handoff.outgoing
                ),
            )
            if state == "incoming_gone":
                self._alerts.raise_in(
                    tx,
                    Level.WARNING,
                    "handoff_broken",
                    f"{self._name_of(handoff.incoming)!a} took over from {self._name_of(handoff.outgoing)!a}"
                    " and has no credential any more: the handoff is off, the latter works on as before",
                )
            return self._stored(tx)

        self._running = await self._db.write(body)
