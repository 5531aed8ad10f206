"""The part of the kit that keeps the record: receipts, evidence, alerts
(docs/protocol/11-advisor-kit.md §5.3, §5.4). Composed here, used by `advisor.Advisor`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from hive_shared.store import Db

from hive_advisor.domain.keyring import Keyring
from hive_advisor.domain.rows import Client
from hive_advisor.services.alerts import AlertService
from hive_advisor.services.answers import AnswerService
from hive_advisor.services.clients import ClientService
from hive_advisor.services.commands import CommandService
from hive_advisor.services.forks import ForkService
from hive_advisor.services.ports import ClientRows, Control, ReceiptedRows, RecordRows
from hive_advisor.services.push_gaps import PushGaps
from hive_advisor.services.receipt_standing import StandingService
from hive_advisor.services.receipt_sync import ReceiptSync
from hive_advisor.services.receipts import ReceiptService
from hive_advisor.storage.alert_store import AlertStore
from hive_advisor.storage.sync_store import SyncStore


class Record:
    """Services of the record, made in the order in which they need each other."""

    def __init__(
        self,
        db: Db,
        clients: ClientRows,
        records: RecordRows,
        commands: ReceiptedRows,
        now: Callable[[], int],
    ) -> None:
        self._db, self._clients, self._records, self._commands = db, clients, records, commands
        self._sync, self._now = SyncStore(), now
        self.alerts = AlertService(db, AlertStore(), clients, records, now)
        self.forks = ForkService(db, self._sync, clients, commands, records, self.alerts, now)
        self.receipts = ReceiptService(db, records, clients, self.forks)

    def answers(self, clients: ClientService, commands: CommandService) -> AnswerService:
        """What takes answers in."""
        return AnswerService(
            self._db,
            self._clients,
            self._sync,
            clients,
            commands,
            self.receipts,
            self.forks,
            self._records,
            self._now,
        )

    def standing(self, keyring: Keyring, ask: Control) -> StandingService:
        """What compares and acknowledges receipts; `ask` sends to nodes."""
        return StandingService(
            self._db,
            self._records,
            self._commands,
            self._clients,
            self.forks,
            self.alerts,
            keyring,
            ask,
            self._now,
        )

    def sync(self, clients: ClientService, standing: StandingService, ask: Control) -> ReceiptSync:
        """What fetches receipts."""
        return ReceiptSync(
            self._db,
            self._sync,
            clients,
            self._commands,
            self._records,
            self.receipts,
            standing,
            self.forks,
            ask,
            self._now,
        )

    def gaps(
        self,
        clients: ClientService,
        control: Control,
        receive: Callable[[Client, dict[str, Any], str], Awaitable[None]],
    ) -> PushGaps:
        """What asks for pushes that did not come."""
        return PushGaps(self._db, self._sync, clients, control, receive, self._now)

    async def note_restored(self, made_at: int) -> None:
        """Record that this is a copy of the profile as it was at ``made_at``."""
        await self._note("restored", str(made_at), "from a backup")

    async def note_rotation(self, replaced: str, npub: str) -> None:
        """Record that the next key is in use from the next start on."""
        await self._note("key_rotated", npub, f"replaces {replaced}")

    async def _note(self, kind: str, ref: str, text: str) -> None:
        await self._db.write(lambda tx: self._records.add_event(tx, kind, ref, text, self._now()))
