"""Tickets of a payer on locks, a database of its own and a real mint, and their payee with the kit's engine.

What one side tells the other lies in `letters` until the test carries it over; time is the test's own.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from cashu_tickets import NODE, PAYEE, PAYER
from cl_hive_comms.domain.advisor import CredentialRow
from cl_hive_comms.domain.cashu_lock import LockRow
from cl_hive_comms.domain.receipt_record import ReceiptRow
from cl_hive_comms.domain.report import baseline_digest, baseline_doc
from cl_hive_comms.services.bonus_measure import BonusMeasure
from cl_hive_comms.services.escrow_adapters import NodeLocks
from cl_hive_comms.services.escrow_service import EscrowService
from cl_hive_comms.services.executors.monitor import ReadNode
from cl_hive_comms.services.item_ends import ItemEnds, ItemPorts
from cl_hive_comms.services.item_judge import ItemJudge
from cl_hive_comms.services.receipt_service import ReceiptFields
from cl_hive_comms.services.ticket_mints import EscrowSettings
from cl_hive_comms.services.trial_measure import TrialMeasure
from cl_hive_comms.services.undecided_items import UndecidedItems
from hiring_world import Books
from hive_shared.canonical import JsonValue
from hive_shared.cashu.derive import public_key
from hive_shared.cashu.escrow import EscrowEngine, Ordered
from hive_shared.cashu.escrow_disputes import EscrowDisputes
from hive_shared.cashu.escrow_inbox import EscrowInbox
from hive_shared.cashu.escrow_rows import ItemRow, TicketQuery, TicketRow
from hive_shared.cashu.escrow_terms import ItemPlan, TicketPlan
from hive_shared.cashu.escrow_work import EscrowWork
from hive_shared.cashu.terms import Terms, TicketType, sign_text, terms_hash, terms_text
from hive_shared.cashu.ticket_messages import Message, Release, Ticket, body_of, decode_message, schema_of
from hive_shared.cln import ClnError
from hive_shared.crypto import Sealer, Secret, schnorr_sign, xonly_pubkey
from hive_shared.errors import EmergencyStop
from hive_shared.rate_limit import SlidingWindows
from hive_shared.receipts import Receipt
from hive_shared.storage.escrow_store import EscrowStore
from hive_shared.storage.families import NODE_TICKETS
from hive_shared.store import Tx
from lock_world import ADA, LockWorld
from payee_world import PayeeWorld

AGENT = xonly_pubkey(PAYEE)
NODE_ID = public_key(NODE)


class Payer:
    """Who pays in these tests."""

    payer_id, node_id = xonly_pubkey(PAYER), NODE_ID

    def __init__(self, world: EscrowWorld) -> None:
        self._world = world

    def refund_pubkey(self, ticket_id: str) -> str:
        return public_key(self._world.keys.refund(ticket_id))

    def sign(self, terms: Terms) -> str:
        return sign_text(PAYER, terms_text(terms_hash(terms)))


class Chain:
    """Receipts, by number."""

    def __init__(self) -> None:
        self.rows: list[Receipt] = []
        self.of: dict[str, list[ReceiptRow]] = {}

    def append(self, tx: Tx, what: ReceiptFields) -> Receipt:
        row = Receipt(
            receipt_id=len(self.rows) + 1,
            v=1,
            prev_hash="0" * 64,
            node_id=NODE_ID,
            created_at=0,
            schema=what.schema,
            action=what.action,
            status=what.status,
            receipt_hash="sha256:" + "ab" * 32,
        )
        self.rows.append(row)
        return row

    def receipted(self, ticket_id: str, lock_state: str) -> None:
        """A command's receipt that says so of item 0."""
        said = {"escrow": {"ticket_id": ticket_id, "item": 0, "lock_state": lock_state}}
        command_id = f"command:{ticket_id}:0"
        self.of[command_id] = [ReceiptRow(99, "", json.dumps(said), *("",) * 3, 0, *("",) * 3, command_id)]

    def of_command(self, tx: Tx, command_id: str) -> tuple[ReceiptRow, ...]:
        return tuple(self.of.get(command_id, ()))

    def read(self, tx: Tx, receipt_id: int) -> dict[str, JsonValue] | None:
        found = [row for row in self.rows if row.receipt_id == receipt_id]
        return {"receipt_id": receipt_id, "receipt_hash": found[0].receipt_hash} if found else None


class NoMints:
    """No mint is chosen: tests name theirs."""

    def accepted(self) -> Sequence[str]:
        return ()

    def allowed(self, url: str) -> str:
        return url

    def for_lock(self, *_: Any) -> tuple[str, Any]:
        raise AssertionError("tests name their mints")


class Credentials:
    """Those of a test, the oldest first, and baselines of theirs; nobody has one at first."""

    def __init__(self, node: Books) -> None:
        self._node, self.given, self.trial = node, list[CredentialRow](), False

    def rows(self) -> tuple[CredentialRow, ...]:
        return tuple(self.given)

    def active_of(self, advisor_id: str) -> CredentialRow | None:
        return self.given[-1] if self.given else None

    def known_since(self, advisor_id: str) -> int | None:
        return self.given[0].created_at if self.given else None

    async def on_trial(self, credential_id: str) -> bool:
        return self.trial

    async def taken(self, row: CredentialRow) -> dict[str, JsonValue]:
        """As services.report_service makes and signs it."""
        measure = TrialMeasure(cast(ReadNode, self._node))
        baseline = await measure.baseline(row.credential.valid_from)
        doc = baseline_doc(baseline, NODE_ID, AGENT, row.credential_id)
        return {**doc, "signature": schnorr_sign(PAYER, baseline_digest(doc))}


class JudgingNode(Books):
    """A node with forwards, and with a method `judge` that answers `verdict`, an error or an object."""

    def __init__(self) -> None:
        super().__init__()
        self.verdict: object = {"success": True, "evidence_hash": "sha256:" + "cd" * 32}
        self.asked: list[dict[str, Any]] = []
        self.asking: Callable[[], Awaitable[None]] | None = None

    async def call(
        self, method: str, params: Mapping[str, object] | None = None, *, timeout: float = 30.0
    ) -> dict[str, Any]:
        if method != "judge":
            return await super().call(method, params, timeout=timeout)
        self.asked.append(dict(params or {}))
        if self.asking is not None:
            await self.asking()
        if isinstance(self.verdict, ClnError):
            raise self.verdict
        return cast(dict[str, Any], self.verdict)


class EscrowWorld(LockWorld):
    """The payer's node. `letters` are (key, message) in order, `notices` what its operator was told."""

    may_ask = True

    def __init__(self, directory: Path, mint_url: str, **more: Any) -> None:
        self.letters: dict[str, Message] = {}
        self.read: set[str] = set()
        self.notices: list[str] = []
        self.failing: list[str] = []
        self.chain, self.node = Chain(), JudgingNode()
        self.hired, self.judges = Credentials(self.node), frozenset({"judge"})
        super().__init__(directory, mint_url, **more)
        # Locktimes are the mint's affair, whose clock is real.
        self.now = int(time.time())

    def open(self) -> None:
        super().open()
        clock = lambda: self.now  # noqa: E731
        self.tickets = EscrowStore(Sealer({1: Secret(b"k" * 32)}, 1), NODE_TICKETS)
        locks = NodeLocks(self.locks, self.rows)
        self.engine = EscrowEngine(
            *(self.db, self.tickets, locks, self, Payer(self), self),
            now=clock,
            random_bytes=os.urandom,
            log=self.log,
        )

        def follow(tx: Tx, row: LockRow) -> None:
            self.engine.on_lock(tx, row.terms_hash, row.item, row.lock_id, row.state)

        self.locks.on_change(follow)
        self.work = EscrowWork(self.tickets, locks, clock)
        self.ends = ItemEnds(self.tickets, self.work, self, self.chain, clock)
        self.ports = ItemPorts(self.db, self.tickets, self.work, self.ends, self, self)
        self.judge = ItemJudge(self.ports, self.node, lambda: self.judges, self.log)
        self.bonuses = BonusMeasure(
            self.ports,
            incomes=TrialMeasure(cast(ReadNode, self.node)),
            baselines=lambda: self.hired,
            credentials=self.hired,
            in_trial=self.hired.on_trial,
            stopped=lambda: self.stopped,
            now=clock,
            log=self.log,
        )
        self.disputes = EscrowDisputes(
            self.db, self.tickets, self, self, now=clock, random_bytes=os.urandom, log=self.log
        )
        self.inbox = EscrowInbox(
            self.db,
            self.tickets,
            self.engine,
            self.disputes,
            locks,
            self,
            self,
            windows=SlidingWindows(clock, window_s=3_600),
            may_ask=lambda _: self.may_ask,
            now=clock,
        )

    # -- messages and notices --------------------------------------------------------------------------

    def put(self, tx: Tx, recipient: str, message: Message, *, key: str, expires_at: int) -> None:
        assert recipient == AGENT and expires_at > self.now
        body_of(message)
        self.letters.setdefault(key, message)

    def stored(self, tx: Tx, key: str) -> bool:
        return key in self.letters

    def kick(self) -> None:
        """Nothing is sent by itself."""

    def tell(self, tx: Tx, ticket: TicketRow, what: str, text: str) -> None:
        self.notices.append(what)

    def log(self, level: str, event: str, /, **fields: object) -> None:
        """The plugin's log; `failing` are the rows that were told of."""
        if event == "row_failed":
            self.failing.append(str(fields["row"]))

    async def tell_us(self, message: Message, *, sender: str = AGENT, msg_id: str = "") -> None:
        """A message of the payee, as the node's inbox hands it on."""
        await self.inbox.take(schema_of(message), body_of(message), sender, msg_id or os.urandom(8).hex())

    async def carry(self, payee: PayeeWorld) -> None:
        """Everything that lies there goes to the other side, and its answers come back, until all is read."""
        while True:
            new = {key: each for key, each in self.letters.items() if key not in self.read}
            self.read |= set(new)
            for key, message in new.items():
                again = decode_message(schema_of(message), body_of(message))
                if isinstance(again, Ticket):
                    await payee.engine.ticket(payee.me, again, key)
                elif isinstance(again, Release):
                    await payee.engine.released(payee.me, again)
            await payee.engine.look()
            answers, payee.sent = payee.sent, []
            for answer in answers:
                await self.tell_us(answer)
            if not new and not answers:
                return

    def operator(self) -> EscrowService:
        """What the operator's calls reach; receipts are numbered and kept here."""
        return EscrowService(
            self.db,
            self.tickets,
            self.engine,
            self.work,
            self.ends,
            self.judge,
            self.bonuses,
            self,
            NoMints(),
            self.chain,
            self.hired,
            payee=lambda tx, pubkey, contexts: None,
            locked_sats=self.rows.locked_sats,
            settings=lambda: EscrowSettings(3_600, 25_000, 250_000),
            refund=self.locks.refund,
            check_stop=self.check_stop,
            now=lambda: self.now,
        )

    def undecided(self) -> UndecidedItems:
        """What looks after items that nobody knows the end of."""
        return UndecidedItems(self.ports, self.chain, self.engine, self.log)

    def check_stop(self) -> None:
        if self.stopped:
            raise EmergencyStop("stopped")

    # -- tickets ---------------------------------------------------------------------------------------

    def plan(self, payee: PayeeWorld, amounts: Sequence[int], **changes: Any) -> TicketPlan:
        given: dict[str, Any] = {
            "type": TicketType.SINGLE if len(amounts) == 1 else TicketType.BATCH,
            "items": [ItemPlan(amount) for amount in amounts],
            "schema": "hive:fee-policy/v1",
            "action": "set_base",
            "params": {"channel": "1x1x1"},
            "danger": 5,
            "window_s": 21_600,
            "buffer_s": 3_600,
            **changes,
        }
        return TicketPlan(payee_id=AGENT, lock_pubkey=payee.lock_pubkey, **given)

    async def create(
        self, plan: TicketPlan, key: str = "k", *, mints: Sequence[tuple[str, int]] = (), **more: Any
    ) -> TicketRow:
        order = Ordered(key, mints or [(self.mint_url, 1_000)], ADA, **more)
        return await self.engine.create(plan, order, 30)

    async def items(self, ticket_id: str) -> list[ItemRow]:
        return await self.db.read(lambda tx: self.tickets.items(tx, ticket_id))

    async def item_states(self, ticket_id: str) -> list[str]:
        return [item.state.value for item in await self.items(ticket_id)]

    async def every_ticket(self) -> list[TicketRow]:
        return await self.db.read(lambda tx: self.tickets.tickets(tx, TicketQuery()))

    async def begin(self, ticket: TicketRow, i: int = 0) -> None:
        """A command that the item pays is being executed."""

        def body(tx: Tx) -> None:
            self.work.start(tx, self.work.check_free(tx, ticket, i), f"command:{ticket.ticket_id}:{i}")

        await self.db.write(body)

    async def succeed(self, ticket: TicketRow, i: int = 0) -> str:
        """It succeeded; the preimage that its answer carries."""

        def body(tx: Tx) -> Secret | None:
            item = self.tickets.item(tx, ticket.ticket_id, i)
            assert item is not None
            return self.work.succeed(tx, item, f"{i + 1}")

        given = await self.db.write(body)
        assert given is not None
        return given.reveal().hex()

    async def fail(self, ticket: TicketRow, i: int = 0) -> None:
        def body(tx: Tx) -> None:
            item = self.tickets.item(tx, ticket.ticket_id, i)
            assert item is not None
            self.work.fail(tx, item, f"{i + 1}")

        await self.db.write(body)

    async def sats(self) -> int:
        """What is free to spend."""
        return sum(row["unspent"] for row in (await self.service.balance()).values())
