"""Tickets on this node's adapters; part of the composition root."""

import os
from collections.abc import Callable, Sequence

import msgspec
from hive_shared.cashu.derive import EscrowKeys
from hive_shared.cashu.escrow import EscrowEngine
from hive_shared.cashu.escrow_disputes import EscrowDisputes
from hive_shared.cashu.escrow_inbox import VERBS, EscrowInbox
from hive_shared.cashu.escrow_work import EscrowWork
from hive_shared.cashu.mint_book import MintBookService
from hive_shared.cashu.ticket_messages import AREA
from hive_shared.crypto import Sealer
from hive_shared.errors import FeatureDisabled
from hive_shared.rate_limit import SlidingWindows
from hive_shared.row_by_row import RowByRow
from hive_shared.runtime import MethodSpec
from hive_shared.signed_message import Draft
from hive_shared.storage.escrow_store import EscrowStore
from hive_shared.storage.families import NODE_TICKETS
from hive_shared.store import Db, Tx

from cl_hive_comms.commands.escrow import EscrowCommands
from cl_hive_comms.domain.cashu_lock import LockRow, Role
from cl_hive_comms.options import Config
from cl_hive_comms.plugin.judges import JudgeParts, Judging, compose_judges
from cl_hive_comms.plugin.locks import LockTables
from cl_hive_comms.plugin.pipeline import unix_now
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.services.alias_service import AliasService
from cl_hive_comms.services.credential_service import CredentialService
from cl_hive_comms.services.escrow_adapters import EscrowMail, EscrowNotices, NodeLocks, NodePayer
from cl_hive_comms.services.escrow_service import EscrowService, PayeeTold
from cl_hive_comms.services.identity_service import IdentityService
from cl_hive_comms.services.inbound_signed import OwnHandler
from cl_hive_comms.services.kill_switch import KillSwitch
from cl_hive_comms.services.lock_service import LockService
from cl_hive_comms.services.messenger_signed import SignedMessages
from cl_hive_comms.services.payee_keys import PayeeKeys
from cl_hive_comms.services.receipt_service import ReceiptService
from cl_hive_comms.services.received_tickets import VERBS as RECEIVED
from cl_hive_comms.services.received_tickets import ReceivedTicketService
from cl_hive_comms.services.sibling_answers import SiblingAnswers
from cl_hive_comms.services.sibling_payees import SiblingPayees
from cl_hive_comms.services.ticket_mints import EscrowSettings, TicketMints
from cl_hive_comms.services.undecided_items import UndecidedItems
from cl_hive_comms.storage.advisor_store import AdvisorStore
from cl_hive_comms.storage.receipt_store import ReceiptStore
from cl_hive_comms.storage.state_store import StateStore


class EscrowParts(msgspec.Struct, frozen=True):
    """The services of tickets."""

    service: EscrowService
    work: EscrowWork
    inbox: EscrowInbox
    disputes: EscrowDisputes
    rows: EscrowStore
    payee_keys: PayeeKeys
    judges: JudgeParts
    received: ReceivedTicketService
    answers: SiblingAnswers
    payees: SiblingPayees
    undecided: UndecidedItems
    alone: RowByRow

    async def tick(self) -> None:
        """What is to be handed over, told, rejected by silence, forgotten; what was handed to us."""
        await self.alone.steps(
            "escrow",
            ("judges", self.judges.judge.settle),
            ("tickets", self.service.engine.tick),
            ("undecided", self.undecided.tick),
            ("disputes", self.disputes.tick),
            ("received", self.received.tick),
        )

    def handlers(self) -> dict[str, OwnHandler]:
        """Who takes which message of a payee."""

        async def take(message: Draft, sender: str) -> None:
            if await self.answers.take(message, sender):
                return
            await self.inbox.take(message.schema, message.body, sender, message.msg_id)

        async def receive(message: Draft, sender: str) -> None:
            await self.received.take(message.schema, message.body, sender, message.msg_id)

        found = dict.fromkeys((f"hive:{AREA}/{verb}" for verb in VERBS), take)
        found |= dict.fromkeys((f"hive:{AREA}/{verb}" for verb in RECEIVED), receive)
        return {**found, f"hive:{AREA}/ticket_request": self.payee_keys.take}


def escrow_methods(
    escrow: Callable[[], EscrowParts | None],
    aliases: Callable[[], AliasService],
    credentials: Callable[[], CredentialService],
    config: Callable[[], Config],
) -> list[MethodSpec]:
    """The method of tickets; it exists before the services do."""

    def there() -> EscrowParts:
        if (parts := escrow()) is None:
            raise FeatureDisabled("this node has no `makesecret`, from which the keys of ecash are derived")
        return parts

    def name_of(advisor_id: str) -> str:
        advisor = credentials().advisor(advisor_id)
        return advisor_id if advisor is None else aliases().name_of(advisor)

    return EscrowCommands(
        lambda: there().service,
        lambda: there().disputes,
        lambda: there().received,
        aliases,
        name_of,
        lambda: int(config().get("escrow-min-danger")),
    ).specs()


def compose_escrow(
    *,
    db: Db,
    sealer: Sealer,
    keys: EscrowKeys,
    tables: LockTables,
    locks: LockService,
    mints: MintBookService,
    identity: IdentityService,
    node_id: str,
    messages: SignedMessages,
    credentials: CredentialService,
    receipts: ReceiptService,
    alerts: AlertService,
    kill_switch: KillSwitch,
    judging: Judging,
    config: Callable[[], Config],
    received: Callable[[EscrowStore, EscrowMail], ReceivedTicketService],
    tell: Callable[[LockRow], None],
) -> EscrowParts:
    """All of them over the same tables; items follow the locks of the wallet. `received` composes what pays
    this node, `tell` signals a lock of a sibling."""
    rows, mail = EscrowStore(sealer, NODE_TICKETS), EscrowMail(messages)
    wallet, notices = NodeLocks(locks, tables.rows), EscrowNotices(alerts)
    payer = NodePayer(identity, keys, node_id)
    log = judging.log
    engine = EscrowEngine(
        *(db, rows, wallet, mail, payer, notices), now=unix_now, random_bytes=os.urandom, log=log
    )
    locks.on_change(_follower(engine))
    work = EscrowWork(rows, wallet, unix_now)
    disputes = EscrowDisputes(db, rows, mail, notices, now=unix_now, random_bytes=os.urandom, log=log)
    inbox = _inbox(db, rows, engine, disputes, wallet, mail, notices, credentials)
    judges = compose_judges(judging, db, rows, work, mail, receipts, notices)
    payee_keys = PayeeKeys(db, StateStore(), AdvisorStore(), now=unix_now)
    service = EscrowService(
        db,
        rows,
        engine,
        work,
        judges.items.ends,
        judges.judge,
        judges.bonuses,
        mail,
        mints,
        receipts,
        credentials,
        payee=_told(payee_keys),
        locked_sats=tables.rows.locked_sats,
        settings=lambda: _settings(config()),
        refund=wallet.refund,
        check_stop=kill_switch.check,
        now=unix_now,
    )
    answers = SiblingAnswers(db, tables.rows, SlidingWindows(unix_now, window_s=3_600), tell=tell)
    return EscrowParts(
        *(service, work, inbox, disputes, rows, payee_keys, judges, received(rows, mail), answers),
        _payees(db, payee_keys, mints, tables, credentials, lambda: _settings(config())),
        *(UndecidedItems(judges.items, ReceiptStore(), engine, log), RowByRow(log)),
    )


def _inbox(
    db: Db,
    rows: EscrowStore,
    engine: EscrowEngine,
    disputes: EscrowDisputes,
    locks: NodeLocks,
    mail: EscrowMail,
    notices: EscrowNotices,
    credentials: CredentialService,
) -> EscrowInbox:
    return EscrowInbox(
        db,
        rows,
        engine,
        disputes,
        locks,
        mail,
        notices,
        windows=SlidingWindows(unix_now, window_s=3_600),
        may_ask=lambda sender: _may_ask(credentials, sender),
        now=unix_now,
    )


def _payees(
    db: Db,
    keys: PayeeKeys,
    mints: MintBookService,
    tables: LockTables,
    credentials: CredentialService,
    settings: Callable[[], EscrowSettings],
) -> SiblingPayees:
    chosen = TicketMints(db, mints, tables.rows.locked_sats, settings)
    return SiblingPayees(db, keys, chosen, credentials=credentials.live_rows, settings=settings, now=unix_now)


def _follower(engine: EscrowEngine) -> Callable[[Tx, LockRow], None]:
    """Items of our own tickets follow their locks; what siblings lock is theirs."""

    def follow(tx: Tx, row: LockRow) -> None:
        if row.owner == "comms" and row.role is Role.PAYER:
            engine.on_lock(tx, row.terms_hash, row.item, row.lock_id, row.state)

    return follow


def _told(keys: PayeeKeys) -> Callable[[Tx, str, Sequence[str]], PayeeTold | None]:
    def told(tx: Tx, pubkey: str, contexts: Sequence[str]) -> PayeeTold | None:
        key = keys.of(tx, pubkey, contexts) or keys.newest(tx, pubkey)
        return None if key is None else PayeeTold(key.lock_pubkey, key.mints)

    return told


def _settings(config: Config) -> EscrowSettings:
    return EscrowSettings(
        buffer_s=config.get("escrow-redemption-buffer"),
        most_ticket_sats=config.get("mint-max-ticket"),
        most_locked_sats=config.get("mint-max-locked"),
    )


def _may_ask(credentials: CredentialService, sender: str) -> bool:
    return any(
        row.agent_key == sender and row.credential.constraints.get("escrow_secret_generation") is True
        for row in credentials.live_rows()
    )
