"""Engaging, watching and releasing the emergency stop (docs/protocol/08-client-and-plugins.md §6
"Kill switch").

The stop and what it was ordered to do are stored first, in one transaction with its receipt and alert. The
effects follow and each is marked when done, so that a restart in the middle goes on: cancel what waits, end
all credentials (`revoke_all`), freeze forwarding (services.forwarding_freeze). One that fails holds up none
of the others and is tried again every 5 s.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from hive_shared.alerts import Level
from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError
from hive_shared.errors import Busy, ConfirmationRequired, Conflict, HiveError, Internal
from hive_shared.store import Db, StoreError, Tx
from msgspec.structs import replace

from cl_hive_comms.domain.emergency import MAX_REASON, TOKEN_S, Stop
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.services.emergency_record import EmergencyRecord
from cl_hive_comms.services.forwarding_freeze import ForwardingFreeze
from cl_hive_comms.services.kill_switch import KillSwitch
from cl_hive_comms.services.ports_emergency import WaitingCommands
from cl_hive_comms.services.ports_identity import Clock, Log
from cl_hive_comms.services.receipt_service import ReceiptFields, ReceiptService, operator_event

_ANSWER_S: Final = 20.0
# How long a call waits for channels; the sweep itself goes on.

RevokeAll = Callable[[str], Awaitable[int]]
"""Ends every credential with this reason and returns how many."""
Announce = Callable[[Stop | None], None]
"""Tells the node's other plugins."""


class EmergencyService:
    """The operator's side of the stop."""

    def __init__(
        self,
        db: Db,
        switch: KillSwitch,
        freeze: ForwardingFreeze,
        *,
        record: EmergencyRecord,
        receipts: ReceiptService,
        alerts: AlertService,
        waiting: Callable[[], WaitingCommands],
        revoke_all: RevokeAll,
        announce: Announce,
        token_key: bytes,
        now: Clock,
        log: Log,
    ) -> None:
        self._db, self._switch, self._freeze = db, switch, freeze
        self._record, self._receipts, self._alerts = record, receipts, alerts
        self._waiting = waiting
        self._revoke_all, self._announce = revoke_all, announce
        self._key, self._now, self._log = token_key, now, log
        self._lock = asyncio.Lock()
        self._announced: Stop | None = None
        self._unwritten: Stop | None = None
        self._draining = False
        self._sweep: asyncio.Task[None] | None = None

    # -- engage ----------------------------------------------------------------------------------------

    async def engage(
        self, reason: str = "", *, revoke_all: bool = False, freeze_forwarding: bool = False
    ) -> dict[str, Any]:
        """Stop everything remote, now and after restarts. A second call may add effects, never take any away.

        Raises Internal when the stop cannot be written; it is on all the same until the plugin ends, and is
        written, with its effects, as soon as that works.
        """
        self._switch.latch()
        async with self._lock:
            before = self._switch.stop or self._unwritten
            stop = before or Stop(since=self._now(), by="operator")
            stop = replace(
                stop,
                reason=reason[:MAX_REASON] or stop.reason,
                freeze=stop.freeze or freeze_forwarding,
                cancel_due=True,
                revoke_due=stop.revoke_due or revoke_all,
            )
            params: dict[str, JsonValue] = {
                "reason": stop.reason,
                "revoke_all": revoke_all,
                "freeze_forwarding": freeze_forwarding,
            }
            try:
                await self._store_engaged(stop, params)
            except (StoreError, Busy) as error:
                self._unwritten = stop
                raise Internal(
                    "the emergency stop is on, but it could not be written down and would end with the"
                    f" plugin; create the file NET/hive/{self._switch.file.name}, which holds over restarts,"
                    " and make room on the disk: the stop is then written by itself within 5 s",
                    reason="emergency_not_stored",
                ) from error
            await self._run_effects()
        await self._settle_channels()
        return await self.status()

    @asynccontextmanager
    async def restoring(self) -> AsyncIterator[None]:
        """Held around a restore: nothing engages, releases or thaws meanwhile. At its end memory follows, and
        a stop that was taken in has its effects."""
        async with self._lock:
            async with self._freeze.paused():
                try:
                    yield
                finally:
                    await self._switch.load()
            if self._switch.engaged():
                await self._run_effects()
        if self._switch.engaged():
            await self._settle_channels()

    async def watch(self) -> None:
        """Adopt the file, go on with effects that are due; run every 5 s."""
        draining = self._switch.draining()
        if draining != self._draining:
            self._draining = draining
            self._log("warning", "drain", draining=draining)
        if not self._switch.engaged():
            return
        async with self._lock:
            if not self._switch.engaged():
                return
            if self._switch.stop is None:
                by_file = self._switch.file_present()
                fresh = Stop(since=self._now(), by="file" if by_file else "operator")
                await self._store_engaged(self._unwritten or fresh, {"file": by_file})
            await self._run_effects()

    async def _store_engaged(self, stop: Stop, params: dict[str, JsonValue]) -> None:
        try:
            await self._db.write(lambda tx: self._record.engaged(tx, stop, params))
        except StoreError:
            self._log("error", "emergency_not_stored", effect="the stop is on until the plugin ends")
            raise
        self._switch.adopt(stop)
        self._unwritten = None
        self._log("warning", "emergency_stop", engaged=True, by=stop.by)

    async def _run_effects(self) -> None:
        """What is due of the stored stop."""
        stop = self._switch.stop
        if stop is not None and self._announced is None:
            self._announce(stop)
            self._announced = stop
        for effect in (self._cancel, self._revoke):
            try:
                await effect()
            except (StoreError, HiveError, ClnError) as error:
                # The stop stands all the same: the next look tries again, and the status says what is due.
                self._log("error", "emergency_effect_failed", effect=effect.__name__, why=str(error)[:200])

    async def _cancel(self) -> None:
        stop = self._switch.stop
        if stop is not None and stop.cancel_due:
            count = await self._waiting().cancel_all("emergency_stop", "the emergency stop was engaged")
            await self._store(replace(stop, cancel_due=False, cancelled=stop.cancelled + count))

    async def _revoke(self) -> None:
        stop = self._switch.stop
        if stop is not None and stop.revoke_due:
            count = await self._revoke_all(stop.reason or "emergency stop")
            await self._store(replace(stop, revoke_due=False, revoked=stop.revoked + count))

    async def _store(self, stop: Stop) -> None:
        await self._db.write(lambda tx: self._switch.put(tx, stop))
        self._switch.adopt(stop)

    # -- release ---------------------------------------------------------------------------------------

    async def release(self, token: str) -> dict[str, Any]:
        """End the stop and give channels their limits back. Revoked credentials stay revoked.

        Raises Conflict when nothing is engaged or the file is still there, ConfirmationRequired without a
        fresh token of `status`, Internal when it cannot be written: then the stop stays.
        """
        async with self._lock:
            stop = self._switch.stop
            if stop is None and not self._switch.engaged():
                raise Conflict("the emergency stop is not engaged; there is nothing to release")
            if self._switch.file_present():
                raise Conflict(
                    f"the file NET/hive/{self._switch.file.name} is still there; remove it, then release",
                    reason="emergency_stop",
                )
            self._check_token(token)
            await self._end()
            self._switch.adopt(None)
            # A token releases once: one that was shown for this stop is none for the next.
            self._key = hmac.digest(self._key, b"released", "sha256")
            self._announced = self._unwritten = None
            self._announce(None)
            self._log("warning", "emergency_stop", engaged=False)
        await self._settle_channels()
        return await self.status()

    async def _end(self) -> None:
        """Cancel what came since, finish revoking, and write the end; all that or the stop stays."""
        try:
            # What came between the first cancelling and now must not wake up with the release.
            count = await self._waiting().cancel_all("emergency_stop", "the emergency stop was engaged")
            await self._revoke()
            await self._db.write(lambda tx: self._store_released(tx, count))
        except (StoreError, Busy) as error:
            raise Internal(
                "the release could not be written, so the emergency stop stays; make room on the disk and"
                " release again"
            ) from error

    def _store_released(self, tx: Tx, cancelled: int) -> None:
        self._switch.put(tx, None)
        released: ReceiptFields = operator_event("emergency_release", result={"cancelled": cancelled})
        self._receipts.append(tx, released)
        text = "the emergency stop was released; commands of advisors run again"
        # A second stop and release within ten minutes is news of its own.
        self._alerts.raise_in(
            tx, Level.WARNING, "emergency_released", text, f"emergency_released:{self._now()}"
        )

    def _token(self, issued: int) -> str:
        since = 0 if self._switch.stop is None else self._switch.stop.since
        digest = hmac.digest(self._key, f"release:{since}:{issued}".encode(), "sha256")
        return f"{issued}-{digest[:12].hex()}"

    def _check_token(self, token: str) -> None:
        how = "call hive-client-emergency-stop action=status and give its release.token"
        if not token:
            raise ConfirmationRequired(f"releasing needs a token: {how}")
        issued, _, _ = token.partition("-")
        known = issued.isascii() and issued.isdecimal() and len(issued) < 12
        if not known or not hmac.compare_digest(self._token(int(issued)), token):
            raise ConfirmationRequired(f"this token is not one for the stop that is engaged: {how}")
        age = self._now() - int(issued)
        # A token from the future is one from before the clock was put back: its age is not known.
        if not 0 <= age <= TOKEN_S:
            raise ConfirmationRequired(f"this token is older than {TOKEN_S // 60} minutes: {how}")

    # -- show ------------------------------------------------------------------------------------------

    async def overview(self) -> dict[str, Any]:
        """For hive-client-status: the state and the effects, without a token."""
        stop, engaged = self._switch.stop, self._switch.engaged()
        result: dict[str, Any] = {
            "engaged": engaged,
            "by": None,
            "since": None,
            "draining": self._switch.draining(),
            "forwarding": await self._freeze.status(),
        }
        if engaged:
            by_file = self._switch.file_present()
            result |= {
                "by": stop.by if stop is not None else ("file" if by_file else "operator"),
                "since": None if stop is None else stop.since,
                "reason": "" if stop is None else stop.reason,
                "cancelled": 0 if stop is None else stop.cancelled,
                "revoked": 0 if stop is None else stop.revoked,
                "due": self._due(),
                "file_present": by_file,
            }
        return result

    def effects_due(self) -> int:
        """How many effects of the stop that is engaged are still to come; 0 without a stop."""
        return len(self._due()) if self._switch.engaged() else 0

    def _due(self) -> list[str]:
        stop = self._switch.stop or self._unwritten
        steps = {
            "write": self._switch.stop is None,
            "cancel": stop is None or stop.cancel_due,
            "revoke": stop is not None and stop.revoke_due,
        }
        return [name for name, due in steps.items() if due]

    async def status(self) -> dict[str, Any]:
        """The overview and, while engaged, a token that releases within ten minutes."""
        # A file that nobody adopted yet gets its stored stop first: the token belongs to that.
        try:
            await self.watch()
        except (StoreError, Busy) as error:
            # Showing must work when writing does not; the loop that watches tries again.
            self._log("warning", "emergency_effects_due", kind=type(error).__name__)
        result = await self.overview()
        if result["engaged"]:
            issued = self._now()
            result["release"] = {"token": self._token(issued), "expires_at": issued + TOKEN_S}
        return result

    async def _settle_channels(self) -> None:
        """Sweep now, and wait for it as long as a caller can wait."""
        self._sweep = asyncio.get_running_loop().create_task(self._freeze.settle())
        done, _ = await asyncio.wait({self._sweep}, timeout=_ANSWER_S)
        for task in done:
            if (error := task.exception()) is not None:
                # The stop stands whatever became of the channels; the next sweep tries again.
                self._log("error", "emergency_sweep_failed", kind=type(error).__name__)
