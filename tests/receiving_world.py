"""A node that is paid by tickets: its wallet, its locks and its books of tickets on a database of its own, at
a real mint; time is the test's own.

What it tells its payers lies in `letters` until `carry` brings it over.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cashu_tickets import PAYEE, PAYER
from cl_hive_comms.services.payer_book import PayerBook
from cl_hive_comms.services.received_rows import OperatorHashes, ReceivedTickets
from cl_hive_comms.services.received_tickets import PayeeMail, ReceivedTicketService
from cl_hive_comms.storage.state_store import StateStore
from escrow_world import EscrowWorld
from hive_shared.cashu.derive import public_key
from hive_shared.cashu.escrow_disputes import EscrowDisputes
from hive_shared.cashu.escrow_rows import ItemRow, Side, TicketRow
from hive_shared.cashu.payee import PayeeEngine
from hive_shared.cashu.ticket_messages import Message, TicketRequest, body_of, schema_of
from hive_shared.crypto import Sealer, Secret, xonly_pubkey
from hive_shared.rate_limit import SlidingWindows
from hive_shared.storage.escrow_store import EscrowStore
from hive_shared.storage.families import NODE_INTAKE, NODE_TICKETS
from hive_shared.storage.intake_store import IntakeStore
from hive_shared.store import Tx
from lock_world import LockWorld
from payee_world import ProbedMint

CONTEXT = "contract-1"
US, THEM = xonly_pubkey(PAYEE), xonly_pubkey(PAYER)
_SEALER = Sealer({1: Secret(b"k" * 32)}, 1)


class Ourselves:
    """The payee's Nostr identity."""

    pubkey = US

    def secret(self) -> Secret:
        return PAYEE

    def all_pubkeys(self) -> tuple[str, ...]:
        return (US,)


class ReceivingWorld(LockWorld):
    """The payee's node. `told` is what its operator heard."""

    def __init__(self, directory: Path, mint_url: str, **more: Any) -> None:
        self.letters: dict[str, Message] = {}
        self.read: set[str] = set()
        self.heard: list[tuple[str, str]] = []
        self.full = False
        super().__init__(directory, mint_url, **more)
        self.now = int(time.time())

    def open(self) -> None:
        super().open()
        clock = lambda: self.now  # noqa: E731
        self.probed = ProbedMint(self.mint_url, self.others)
        self.tickets = EscrowStore(_SEALER, NODE_TICKETS)
        self.received = ReceivedTickets(
            IntakeStore(_SEALER, NODE_INTAKE),
            self.tickets,
            self.rows,
            self.books,
            self.locks.take_in,
            advisor_of=lambda _: None,
            now=clock,
        )
        self.payers = PayerBook(
            self.db,
            StateStore(),
            self.keys,
            Ourselves(),
            self,
            of_tickets=lambda tx: self.tickets.others(tx, Side.PAYEE),
            name_of=lambda key: key[:8],
            now=clock,
        )
        out = PayeeMail(self, clock)
        self.engine = PayeeEngine(
            *(self.db, self.received, self.probed, self.keys, self.payers, out),
            OperatorHashes(self.tickets, clock),
            told=self._told,
            now=clock,
        )
        self.desk = ReceivedTicketService(
            self.db,
            self.received,
            self.engine,
            self.payers,
            self.locks,
            out,
            self,
            self._told,
            windows=SlidingWindows(clock, window_s=3_600),
            kick=lambda: None,
            now=clock,
            random_bytes=os.urandom,
            log=lambda *_, **__: None,
        )
        self.disputes = EscrowDisputes(
            *(self.db, self.tickets, self, self),
            now=clock,
            random_bytes=os.urandom,
            log=lambda *_, **__: None,
        )
        self.locks.on_change(self.desk.on_lock)

    async def close(self) -> None:
        await self.probed.reached.close()
        await super().close()

    @property
    def lock_pubkey(self) -> str:
        return public_key(self.keys.lock(CONTEXT))

    async def announce(self, days: int = 30) -> None:
        """The payer is told our key; it is known who it is."""
        await self.desk.announce(THEM, CONTEXT, self.probed.accepted(), days)

    # -- messages and notices --------------------------------------------------------------------------

    def put(self, tx: Tx, recipient: str, message: Message, *, key: str, expires_at: int) -> None:
        assert recipient == THEM and expires_at > self.now
        body_of(message)
        self.letters.setdefault(key, message)

    def stored(self, tx: Tx, key: str) -> bool:
        return key in self.letters

    def kick(self) -> None:
        """Nothing is sent by itself."""

    def tell(self, tx: Tx, ticket: TicketRow, what: str, text: str) -> None:
        self.heard.append((what, ticket.ticket_id))

    def _told(self, tx: Tx, kind: str, ticket_id: str, text: str) -> None:
        self.heard.append((kind, ticket_id))

    async def told_by(self, message: Message, *, sender: str = THEM, msg_id: str = "") -> None:
        """A message of a payer, as the node's inbox hands it on."""
        await self.desk.take(schema_of(message), body_of(message), sender, msg_id or os.urandom(8).hex())

    async def sweep(self) -> None:
        """The loops of a plugin that is up: the wallet's, that of locks, that of tickets."""
        await super().sweep()
        await self.desk.tick()

    # -- books -----------------------------------------------------------------------------------------

    async def items(self, ticket_id: str) -> Sequence[ItemRow]:
        return await self.db.read(lambda tx: self.tickets.items(tx, ticket_id))

    async def item_states(self, ticket_id: str) -> list[str]:
        return [item.state.value for item in await self.items(ticket_id)]

    async def sats(self) -> int:
        """What is free to spend."""
        return sum(row["unspent"] for row in (await self.service.balance()).values())


async def carry(payer: EscrowWorld, payee: ReceivingWorld) -> None:
    """Everything that lies there goes to the other side, and its answers come back, until all is read."""
    while True:
        new = {key: each for key, each in payer.letters.items() if key not in payer.read}
        payer.read |= set(new)
        for key, message in new.items():
            await payee.told_by(message, msg_id=key)
        await payee.desk.tick()
        answers = {key: each for key, each in payee.letters.items() if key not in payee.read}
        payee.read |= set(answers)
        for answer in answers.values():
            if not isinstance(answer, TicketRequest):
                await payer.tell_us(answer)
        if not new and not answers:
            return
