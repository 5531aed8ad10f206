"""The loop of fleet tickets: what comms says is taken over, what is due is asked back, what waits is sent
(docs/protocol/03-escrow-and-payments.md §1, §10)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

from hive_shared.cashu.escrow import EscrowEngine
from hive_shared.cashu.escrow_disputes import EscrowDisputes
from hive_shared.cashu.escrow_inbox import EscrowInbox
from hive_shared.cashu.escrow_ports import Database
from hive_shared.errors import HiveError
from hive_shared.row_by_row import RowByRow
from hive_shared.store import Tx

from cl_hive.services.fleet_escrow import FleetEscrow
from cl_hive.services.fleet_mail import LATER, FleetMail
from cl_hive.services.fleet_ports import Comms, LockRows, Log, MailRows
from cl_hive.services.fleet_wallet import FleetLocks

KEPT_S: Final = 90 * 86_400
_REMEMBERED: Final = 5_000


class FleetRounds:
    """Everything that happens to fleet tickets by itself."""

    def __init__(
        self,
        db: Database,
        locks: LockRows,
        outbox: MailRows,
        engine: EscrowEngine,
        disputes: EscrowDisputes,
        inbox: EscrowInbox,
        wallet: FleetLocks,
        mail: FleetMail,
        service: FleetEscrow,
        comms: Comms,
        *,
        now: Callable[[], int],
        log: Log,
    ) -> None:
        self._db, self._locks, self._outbox, self._engine = db, locks, outbox, engine
        self._disputes, self._inbox, self._wallet, self._mail = disputes, inbox, wallet, mail
        self._service, self._comms, self._now, self._log = service, comms, now, log
        self._taken: OrderedDict[str, None] = OrderedDict()
        self._alone = RowByRow(log)

    async def tick(self, hints: Iterable[str] = ()) -> None:
        """One round; `hints` are locks of which comms signalled a change. Without comms nothing happens: it
        goes on where it stood when comms is there again."""
        if not self._comms.present():
            return
        if named := list(hints):
            await self._wallet.hinted(named)
        parts: tuple[tuple[str, Callable[[], Awaitable[None]]], ...] = (
            *(("answers", self._refresh), ("swept", self._service.sweep)),
            *(("due", self._engine.tick), ("disputes", self._disputes.tick), ("sent", self._mail.flush)),
        )
        try:
            with self._alone.round("fleet tickets", *LATER) as alone:
                for name, part in parts:
                    with alone(name):
                        await part()
        except LATER as error:
            self._log("debug", "escrow_round_put_off", why=error.detail[:200])
        before = self._now() - KEPT_S

        def forget(tx: Tx) -> None:
            self._locks.prune(tx, before)
            self._outbox.prune(tx, before)

        await self._db.write(forget)

    async def _refresh(self) -> None:
        for answer in await self._wallet.refresh():
            await self._take(answer)

    async def _take(self, answer: Mapping[str, Any]) -> None:
        """What an agent said of a ticket; comms checked who it is."""
        name = f"{answer.get('sender')}:{answer.get('msg_id')}"
        if name in self._taken:
            return
        try:
            await self._inbox.take(
                str(answer["schema"]), answer["body"], str(answer["sender"]), str(answer["msg_id"])
            )
        except LATER:
            raise
        except HiveError as error:
            self._log("info", "escrow_answer_refused", schema=str(answer["schema"])[:64], why=error.symbol)
        self._taken[name] = None
        if len(self._taken) > _REMEMBERED:
            self._taken.popitem(last=False)
