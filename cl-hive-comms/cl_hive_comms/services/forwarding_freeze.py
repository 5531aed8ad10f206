"""Freezing all channels for the time of an emergency stop, and giving every one its bounds back
(docs/protocol/08-client-and-plugins.md §6, §11.9; 02-fleet-management.md §4 `disable_all`).

One sweep compares what is wanted with what the node shows and makes the next step of each channel, so that a
sweep after a kill at any point goes on where the last one ended:

    save        the bounds are on disk; the node still has them
    setchannel  the node has the frozen bound; the row says which to put back
    record      the receipt names the channel, in the transaction that marks or drops its row
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from hive_shared.alerts import Level
from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError
from hive_shared.store import Db, Tx
from msgspec.structs import replace

from cl_hive_comms.domain.emergency import (
    Limits,
    SavedChannel,
    Step,
    frozen,
    to_freeze,
    to_restore,
)
from cl_hive_comms.domain.forwarding import Hold, original
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.services.executors.channels import FEE_STATES, channel_key, limits_of
from cl_hive_comms.services.ports_emergency import ChannelNode, Fault, SavedChannels
from cl_hive_comms.services.ports_identity import Clock, Log
from cl_hive_comms.services.receipt_service import ReceiptService, operator_event

REASON: Final = "emergency"
Holds = Mapping[str, Sequence[Hold]]
_PER_RECEIPT: Final = 100
# A receipt's result is bounded; 100 channels take about 9 KB of its 16.


class ForwardingFreeze:
    """Keeps the node's channels frozen while `wanted()` says so, and restores them when it does not."""

    def __init__(
        self,
        db: Db,
        rows: SavedChannels,
        node: ChannelNode,
        *,
        receipts: ReceiptService,
        alerts: AlertService,
        wanted: Callable[[], bool],
        now: Clock,
        log: Log,
        fault: Fault,
    ) -> None:
        self._db, self._rows, self._node = db, rows, node
        self._receipts, self._alerts, self._wanted = receipts, alerts, wanted
        self._now, self._log, self._fault = now, log, fault
        self._lock = asyncio.Lock()
        self._failed: dict[str, str] = {}

    def paused(self) -> AbstractAsyncContextManager[None]:
        """No sweep while it is held; waits for the one under way."""
        return self._lock

    async def settle(self) -> None:
        """One sweep; run every 30 s, as channels open during a stop and calls fail. Does nothing, and asks
        the node nothing, when no freeze is wanted and nothing is saved."""
        async with self._lock:
            saved = await self._saved()
            if not self._wanted() and not saved:
                self._failed.clear()
                return
            # Before the listing: a hold is stored after its channel shows it, so one that is known here and
            # not shown there is over.
            holds = await self._holds()
            try:
                shown = {str(row["channel_id"]): row for row in await self._node.listpeerchannels()}
            except ClnError as error:
                await self._report({"all channels": f"the node does not list its channels: {error}"})
                return
            if self._wanted():
                failed = await self._freeze(saved, holds, shown)
            else:
                failed = await self._restore(saved, holds, shown)
            await self._report(failed)

    async def status(self) -> dict[str, JsonValue]:
        """How far freezing or restoring is, from the database."""
        saved = await self._saved()
        failed: dict[str, JsonValue] = dict(self._failed)
        return {
            "wanted": self._wanted(),
            "frozen": sum(channel.frozen_at is not None for channel in saved),
            "saved": len(saved),
            "failed": failed,
        }

    # -- freeze ----------------------------------------------------------------------------------------

    async def _freeze(
        self, saved: Sequence[SavedChannel], holds: Holds, shown: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, str]:
        known = {channel.channel_id: channel for channel in saved}
        newly: list[SavedChannel] = []
        failed: dict[str, str] = {}
        for channel_id, row in shown.items():
            if not self._wanted():
                break
            if row.get("state") not in FEE_STATES:
                continue
            channel = known.get(channel_id) or await self._save(row, holds.get(channel_id, ()))
            step = to_freeze(channel.limits, limits_of(row))
            if step is Step.SET:
                error = await self._set(channel, frozen(channel.limits))
                if error is not None:
                    failed[channel.scid] = error
                    continue
                await self._fault(f"freeze_set_{channel.scid}")
            if step is not Step.LEAVE and channel.frozen_at is None:
                newly.append(channel)
        await self._record("emergency_freeze", newly, self._mark)
        return failed

    async def _save(self, row: Mapping[str, Any], holds: Sequence[Hold]) -> SavedChannel:
        shown = limits_of(row)
        # Of a channel that an advisor disabled, what it had before that: whichever hold ends last has it.
        limits = original(shown, holds)
        channel = SavedChannel(channel_id=str(row["channel_id"]), scid=channel_key(row), limits=limits)

        def body(tx: Tx) -> None:
            self._rows.save(tx, REASON, channel, self._now())
            for hold in holds:
                if not hold.stands(shown):
                    # Opened by hand since: it must not keep the channel disabled after the release.
                    self._rows.drop(tx, hold.reason, channel.channel_id)

        await self._db.write(body)
        await self._fault(f"freeze_saved_{channel.scid}")
        return channel

    def _mark(self, tx: Tx, channel: SavedChannel) -> None:
        self._rows.mark_frozen(tx, REASON, channel.channel_id, self._now())

    # -- restore ---------------------------------------------------------------------------------------

    async def _restore(
        self, saved: Sequence[SavedChannel], holds: Holds, shown: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, str]:
        back: list[SavedChannel] = []
        left: list[SavedChannel] = []
        failed: dict[str, str] = {}
        for channel in saved:
            if self._wanted():
                break
            row = shown.get(channel.channel_id)
            now = None if row is None or row.get("state") not in FEE_STATES else limits_of(row)
            if channel.channel_id in holds and now == frozen(channel.limits):
                # An advisor disabled it before: it comes back as disabled.
                back.append(replace(channel, limits=now))
                continue
            step = to_restore(channel.limits, now)
            if step is Step.SET:
                error = await self._set(channel, channel.limits)
                if error is not None:
                    failed[channel.scid] = error
                    continue
                await self._fault(f"restore_set_{channel.scid}")
            (left if step is Step.LEAVE else back).append(channel)
        await self._record("emergency_restore", back, self._drop)
        await self._record("emergency_restore_left", left, self._drop)
        return failed

    def _drop(self, tx: Tx, channel: SavedChannel) -> None:
        self._rows.drop(tx, REASON, channel.channel_id)

    # -- both ------------------------------------------------------------------------------------------

    async def _saved(self) -> tuple[SavedChannel, ...]:
        return await self._db.read(lambda tx: self._rows.all(tx, REASON))

    async def _holds(self) -> Holds:
        """What advisors disabled, by channel id."""
        found: dict[str, list[Hold]] = {}
        for hold in await self._db.read(self._rows.holds):
            if hold.reason != REASON:
                found.setdefault(hold.channel.channel_id, []).append(hold)
        return found

    async def _set(self, channel: SavedChannel, wanted: Limits) -> str | None:
        """Set the bounds and look at what the node says it set; the sentence why not, or None."""
        try:
            rows = await self._node.setchannel(
                channel.channel_id,
                htlcmin=wanted.htlc_min_msat,
                htlcmax=wanted.htlc_max_msat,
                enforcedelay=0,
            )
        except ClnError as error:
            return f"setchannel: {error}"
        if [limits_of(row) for row in rows] != [wanted]:
            return "the node shows other bounds than were set"
        return None

    async def _record(
        self, action: str, channels: Sequence[SavedChannel], settle: Callable[[Tx, SavedChannel], None]
    ) -> None:
        for start in range(0, len(channels), _PER_RECEIPT):
            part = channels[start : start + _PER_RECEIPT]
            listed: list[JsonValue] = [
                {
                    "channel": channel.scid,
                    "htlc_min_msat": channel.limits.htlc_min_msat,
                    "htlc_max_msat": channel.limits.htlc_max_msat,
                }
                for channel in part
            ]
            event = operator_event(action, result={"channels": listed, "count": len(part)})

            def body(tx: Tx, part: Sequence[SavedChannel] = part, event: Any = event) -> None:
                for channel in part:
                    settle(tx, channel)
                self._receipts.append(tx, event)

            await self._db.write(body)
            self._log("info", action, channels=len(part))

    async def _report(self, failed: dict[str, str]) -> None:
        self._failed = failed
        if not failed:
            return
        self._log("error", "emergency_channels_failed", channels=len(failed), freeze=self._wanted())
        first, why = next(iter(failed.items()))
        doing = "frozen" if self._wanted() else "given their limits back"
        text = f"{len(failed)} channels could not be {doing}, {first}: {why}; tried again every 30 s"
        await self._alerts.alert(Level.CRITICAL, "emergency_channels", text, "emergency_channels")
