"""The kit's composition root: every service of a profile, built once and wired to the others."""

from __future__ import annotations

import asyncio
import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

from hive_shared.cashu.derive import EscrowKeys
from hive_shared.crypto import Sealer
from hive_shared.nostr.giftwrap import Message
from hive_shared.nostr.socks import parse_proxy
from hive_shared.row_by_row import RowByRow
from hive_shared.store import Db, Tx

from hive_advisor.background import log_by, say_failure
from hive_advisor.config import AdvisorConfig
from hive_advisor.domain.keyring import Keyring
from hive_advisor.domain.rows import Client, StoredCommand
from hive_advisor.ecash import Ecash, mint_connections
from hive_advisor.guard_files import HaltFile, read_rules
from hive_advisor.identity import Identity
from hive_advisor.marketing import Market, MarketNeighbours
from hive_advisor.money import Money, Rows
from hive_advisor.paths import ProfilePaths
from hive_advisor.record import Record
from hive_advisor.services.approvals import ApprovalService
from hive_advisor.services.asking import AskService
from hive_advisor.services.batch_pay import LinePay
from hive_advisor.services.batches import BatchService
from hive_advisor.services.checkup import CheckupService
from hive_advisor.services.clients import ClientService
from hive_advisor.services.commands import CommandService
from hive_advisor.services.delivery import DeliveryService
from hive_advisor.services.events import EventService
from hive_advisor.services.fees import FeeService
from hive_advisor.services.forgetting import ForgetService
from hive_advisor.services.guard import GuardService
from hive_advisor.services.hooks import HookService
from hive_advisor.services.journal import JournalService
from hive_advisor.services.later import LaterService
from hive_advisor.services.mail import MailService
from hive_advisor.services.pings import PingService
from hive_advisor.services.plans import PlanService
from hive_advisor.services.questions import QuestionService
from hive_advisor.services.retries import RetryService
from hive_advisor.services.rounds import RoundService
from hive_advisor.services.shared_key import SharedKeyService
from hive_advisor.services.signed_mail import SignedMail
from hive_advisor.services.telemetry import TelemetryService
from hive_advisor.storage.action_log_store import ActionLogStore
from hive_advisor.storage.alert_store import AlertStore
from hive_advisor.storage.approval_store import ApprovalStore
from hive_advisor.storage.batch_store import BatchStore
from hive_advisor.storage.client_store import ClientStore
from hive_advisor.storage.command_store import CommandStore
from hive_advisor.storage.counter_store import CounterStore
from hive_advisor.storage.fee_store import FeeStore
from hive_advisor.storage.journal_store import JournalStore
from hive_advisor.storage.outbox_store import OutboxStore
from hive_advisor.storage.question_store import QuestionStore
from hive_advisor.storage.record_store import RecordStore
from hive_advisor.storage.route_store import RouteStore
from hive_advisor.storage.sync_store import SyncStore
from hive_advisor.storage.telemetry_store import TelemetryStore
from hive_advisor.ticketing import TicketNeighbours, purse_of, ticket_service
from hive_advisor.transport.commando import CommandoLink
from hive_advisor.transport.hook_program import HookProgram
from hive_advisor.transport.local import LocalLink
from hive_advisor.transport.nostr_keys import NostrKeys
from hive_advisor.transport.rest import RestLink


class Composition(ABC):
    """What a profile is made of; what comes in and what runs beside it is its face's (`advisor.Advisor`)."""

    def __init__(
        self,
        db: Db,
        paths: ProfilePaths,
        identity: Identity,
        config: AdvisorConfig,
        *,
        now: Callable[[], int],
        now_us: Callable[[], int],
        rng: Callable[[int], bytes],
        say: Callable[[str], None],
    ) -> None:
        self._db, self._config, self._now, self._say = db, config, now, say
        self._flushed, self._tasks, self._acks = False, set[asyncio.Task[Any]](), set[asyncio.Task[Any]]()
        self._alone = RowByRow(log_by(say))
        self.keyring = Keyring(identity.readable_secrets(now()))
        self._sealer = Sealer({1: identity.store_secret()}, 1)
        self._rows, self._records, self._known = ClientStore(), RecordStore(), set[str]()
        self._command_rows = CommandStore(self._sealer)
        self._compose_events(paths.profile)
        self._link = NostrKeys(
            self.keyring,
            received=self._on_message,
            trusted=lambda key: key in self._known,
            own_relays=config.relays,
            proxy=config.proxy,
            now=now,
            rng=rng,
            say=say,
        )
        self.delivery = self._ways()
        self.shared_key = SharedKeyService(db, self._rows, self._records, now)
        self.clients = ClientService(db, self._rows, self._records, self.keyring, now)
        self.record = Record(db, self._rows, self._records, self._command_rows, now)
        self.receipts, self.alerts = self.record.receipts, self.record.alerts
        self.forks = self.record.forks
        self.guard = self._guarding(paths)
        self.commands = CommandService(
            db,
            self._command_rows,
            self._rows,
            self._records,
            self.delivery,
            self.keyring,
            self.shared_key,
            self.guard,
            now=now,
            now_us=now_us,
            relays=config.relays,
        )
        self._compose_ecash(identity, rng)
        self._compose_plans(now_us)
        self._compose_money(paths, rng)
        rows = TicketNeighbours(self._rows, self._command_rows, self._records, self.keyring)
        purse = purse_of(self.ecash)
        self.tickets = ticket_service(
            db, self._sealer, purse, rows, self.signed_mail, now=now, rng=rng, alone=self._alone
        )
        self.approvals, self.pin_verifier = self._voting(now_us), identity.pin_verifier
        self._compose_rounds()

    def _guarding(self, paths: ProfilePaths) -> GuardService:
        return GuardService(
            self._db,
            self._command_rows,
            self._rows,
            CounterStore(),
            rules=lambda: read_rules(paths.guard),
            halt=HaltFile(paths.halt),
            now=self._now,
        )

    def _compose_ecash(self, identity: Identity, rng: Callable[[int], bytes]) -> None:
        self.ecash = Ecash(
            self._db,
            self._sealer,
            EscrowKeys(identity.escrow_secret()),
            self._rows,
            self.alerts,
            mint_connections(self._config.proxy),
            named=self._config.mints,
            halted=lambda: self.guard.halted,
            now=self._now,
            rng=rng,
            say=self._say,
        )

    def _compose_events(self, profile: str) -> None:
        self._events = EventService(self._db, self._records)
        hook = self._config.hook
        program = HookProgram(hook, profile, os.environ) if hook else None
        self.hooks = HookService(self._db, self._rows, self._records, self._events, program, now=self._now)

    def _compose_plans(self, now_us: Callable[[], int]) -> None:
        questions = QuestionStore()
        self.questions = QuestionService(self._db, questions, self._records, self._now, _new_id)
        self._fee_rows = FeeStore(self._sealer)
        self.fees = FeeService(self._db, self._fee_rows, self._command_rows, self._rows, now=self._now)
        self.plans = PlanService(
            self._db,
            self._command_rows,
            self._rows,
            self._records,
            questions,
            self.guard,
            self.keyring,
            self.shared_key,
            self.fees,
            self._claim,
            now=self._now,
            now_us=now_us,
            new_id=_new_id,
            relays=self._config.relays,
        )
        self.retries = RetryService(self._db, self._command_rows, self.clients, self.plans, now=self._now)

    def _claim(self, tx: Tx, command: StoredCommand) -> None:
        self.tickets.claim(tx, command)

    def _compose_asking(self) -> AskService:
        self._answers = self.record.answers(self.clients, self.commands)
        asks = AskService(
            self._db,
            self._rows,
            self.clients,
            self.commands,
            self.plans,
            self.retries,
            self._answers,
            self.keyring,
            now=self._now,
            say=self._say,
        )
        self.follow = asks.follow
        self.execute, self.quote, self.control = asks.execute, asks.quote, asks.control
        self.acknowledge, self.capabilities = asks.acknowledge, asks.capabilities
        self.ask_status, self.confirm, self.cancel = asks.ask_status, asks.confirm, asks.cancel
        self.send_again = asks.send_again
        self.telemetry = TelemetryService(
            self._db,
            TelemetryStore(),
            ActionLogStore(),
            self._records,
            self.clients,
            asks.control,
            now=self._now,
        )
        kept_of_clients = (
            *(QuestionStore(), self._fee_rows, self._outbox, *self.money.kept_of_clients),
            *(self.tickets.hashes, self._route_rows, self._records, TelemetryStore(), ActionLogStore()),
            # What commands used of the guard's limits stays until these are past it.
            *(JournalStore(), SyncStore(), AlertStore(), self._command_rows, self._rows),
        )
        self.forgetting = ForgetService(
            *(self._db, kept_of_clients, self.money.debts, self.tickets, self._rows, self._command_rows),
            *(self._records, self._now),
        )
        self.journal = JournalService(
            self._db, JournalStore(), self._command_rows, self.clients, asks.read, now=self._now
        )
        return asks

    def _compose_money(self, paths: ProfilePaths, rng: Callable[[int], bytes]) -> None:
        self._outbox = OutboxStore()
        self.signed_mail = SignedMail(
            self._db,
            self._outbox,
            self._rows,
            self._records,
            self.keyring,
            self._link,
            relays=self._config.relays,
            shared=self.shared_key.raised,
            now=self._now,
            new_id=_new_id,
            spawn=self._spawn,
        )
        self.market = Market(
            self._db,
            MarketNeighbours(
                self._rows,
                self._records,
                self.keyring,
                self.signed_mail,
                self._link,
                self.shared_key.raised,
            ),
            self._config,
            halted=lambda: self.guard.halted,
            now=self._now,
            new_id=_new_id,
            alone=self._alone,
        )
        self.money = Money(
            self._db,
            self._sealer,
            paths,
            self._config,
            Rows(self._command_rows, self._rows, self._records, self._fee_rows, self.ecash),
            self.signed_mail,
            halted=lambda: self.guard.halted,
            retried=self.retries.pending,
            now=self._now,
            rng=rng,
            new_id=_new_id,
            spawn=self._spawn,
            alone=self._alone,
        )

    def _compose_rounds(self) -> None:
        asks = self._compose_asking()
        self._pings = PingService(self._db, self._command_rows, asks.control, self._now)
        self._mail = MailService(
            self._db,
            self._records,
            self.clients,
            self.commands,
            self._answers,
            self.alerts,
            self.delivery,
            self.approvals,
            self.telemetry,
            self._pings,
            self.signed_mail,
            self.money.earnings,
            self.market.contracts,
            keyring=self.keyring,
            accept_offers=self._config.accept_offers,
            own_relays=self._config.relays,
            now=self._now,
            on_accepted=self._ack_automatically,
        )
        self.standing = self.record.standing(self.keyring, asks.control)
        sync = self.record.sync(self.clients, self.standing, asks.control)
        rounds = RoundService(
            self._db,
            self._rows,
            self.clients,
            self.commands,
            self._mail,
            self.signed_mail,
            self.money,
            self.approvals,
            self.shared_key,
            asks,
            self.telemetry,
            self.journal,
            self.plans,
            self.retries,
            self.guard,
            sync,
            self.standing,
            self.record.gaps(self.clients, asks.control, self._mail.receive_polled),
            self.alerts,
            catch_up=self._link.catch_up,
            now=self._now,
        )
        self._round, self.sync_receipts = rounds.pump, sync.sync
        self._compose_batches(asks)
        self._compose_checkup()

    def _compose_checkup(self) -> None:
        checkup = CheckupService(
            self._db,
            self._records,
            self.clients,
            self.commands,
            self.shared_key,
            self.journal,
            self.guard,
            self.questions,
            self.later,
            self.hooks,
            self.ecash,
            self.market,
            pubkey=self.pubkey,
            relays_answering=self._relays_answering,
            ways=self.money,
            now=self._now,
        )
        self.brief, self.doctor = checkup.brief, checkup.doctor

    def _compose_batches(self, asks: AskService) -> None:
        self.batches = BatchService(
            self._db,
            BatchStore(),
            self._command_rows,
            self.clients,
            self.commands,
            self.plans,
            self.guard,
            asks,
            LinePay(self.tickets, asks.quote, self.money.claim),
            pump=self.pump,
            now=self._now,
        )
        self.later: LaterService = LaterService(
            self._db,
            self._command_rows,
            self.clients,
            self.commands,
            self.retries,
            self.telemetry,
            self.tickets,
            self.ecash,
            now=self._now,
        )

    def _voting(self, now_us: Callable[[], int]) -> ApprovalService:
        return ApprovalService(
            self._db,
            ApprovalStore(),
            self._rows,
            self._records,
            self._link,
            self.keyring,
            self.shared_key,
            inbox_relays=self._link.inbox_relays,
            relays=self._config.relays,
            now=self._now,
            now_us=now_us,
            new_id=_new_id,
        )

    def _ways(self) -> DeliveryService:
        proxy = self._config.proxy
        self._route_rows = RouteStore(self._sealer)
        return DeliveryService(
            self._db,
            self._route_rows,
            order=self._config.transport_order,
            nostr=self._link,
            rest=RestLink(proxy=parse_proxy(proxy) if proxy else None),
            local=LocalLink(),
            commando=CommandoLink(),
            answered=self._on_answer,
            say=self._say,
        )

    @property
    def pubkey(self) -> str:
        """x-only hex of the key in use."""
        return self.keyring.current

    async def _relays_answering(self, timeout: int) -> tuple[int, int]:
        return await self._link.relays_answering(timeout), len(self._config.relays)

    def _spawn(self, coroutine: Any) -> None:
        self._begun(coroutine)

    def _begun(self, coroutine: Any) -> asyncio.Task[Any]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(partial(say_failure, self._say))
        return task

    @abstractmethod
    async def pump(self) -> dict[str, Any]:
        """One round of what a profile does by itself."""

    @abstractmethod
    async def _on_message(self, message: Message, key: str) -> None:
        """A message for one of our keys."""

    @abstractmethod
    async def _on_answer(self, client: Client, content: str) -> None:
        """An answer that came the way the command went."""

    @abstractmethod
    async def _ack_automatically(self, client: Client, credential_id: str) -> None:
        """An offer was accepted by itself."""


def _new_id() -> str:
    return str(uuid.uuid4())
