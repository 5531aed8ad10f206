"""A node that pays the kit for its work by invoices, and reads what the kit says."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from hive_advisor.advisor import Advisor
from hive_advisor.domain.earning import Earning
from hive_shared import envelope
from hive_shared.errors import from_symbol
from hive_shared.invoice_messages import INVOICE_REQUEST
from hive_shared.nostr.giftwrap import Message
from hive_shared.signed_message import Draft, parse, sign
from kit_world import KitWorld
from pocket_wallet import PocketWallet

PRICE = 25


class Payer:
    """What a node answers that pays for commands by bolt11, and what it reads of the kit's messages."""

    def __init__(self, world: KitWorld) -> None:
        self.world = world
        self.quote: dict[str, Any] = {
            "price_sats": PRICE,
            "direction": "compensation",
            "methods": ["cashu_escrow", "bolt11"],
        }
        self.refuses: str | None = None
        self.claims: list[str] = []
        self.heard: list[str] = []

    def answer(self, command: envelope.Command) -> dict[str, Any]:
        """Quotes, runs, or refuses."""
        node = self.world.node
        if command.action == "quote":
            return node.response(command, 0, result=self.quote)
        if command.schema_type == "hive:control/v1":
            return node.honest(command)
        self.claims.append(str(dict(command.payment_proof).get("invoice", "")))
        if self.refuses is not None:
            doc = envelope.error_doc(from_symbol(self.refuses, "no"))
            receipt = node.receipt(command, status="rejected", error=doc)
            return node.response(command, 1, error=doc, receipt=receipt)
        return node.honest(command)

    async def deliver(self, recipient: str, content: str, relays: Sequence[str], **_: Any) -> int:
        """The relay between the kit and the node."""
        self.heard.append(content)
        return 1

    def said(self, kit: Advisor) -> list[tuple[str, dict[str, Any]]]:
        """Verb and body of what the kit sent."""
        found = []
        for text in self.heard:
            draft = parse(text, kit.pubkey, (self.world.node.key,))
            assert isinstance(draft, Draft) and isinstance(draft.body, dict)
            found.append((draft.schema.rpartition("/")[2], dict(draft.body)))
        return found

    async def ask(self, kit: Advisor, about: str, **changes: Any) -> str:
        """The node asks for an invoice; the id of its message."""
        now = self.world.now()
        body = {
            "purpose": "action",
            "amount_sats": PRICE,
            "due_at": now + 600,
            "idempotency_key": "key-1",
            "command_id": about,
            **changes,
        }
        body = {name: value for name, value in body.items() if value is not None}
        draft = Draft(INVOICE_REQUEST, str(uuid.uuid4()), "marketplace", 1, now, now + 600, body)
        text = sign(draft, self.world.node.secret, kit.pubkey)
        await kit._mail.receive(
            Message(self.world.node.key, uuid.uuid4().hex * 2, text, now, (), ""), kit.pubkey
        )
        await settled(kit)
        return draft.msg_id

    async def notice(self, kit: Advisor, earning: Earning, **changes: Any) -> None:
        """The node says that it paid."""
        body = {
            "payment_id": uuid.uuid4().hex,
            "purpose": "action",
            "command_id": earning.command_id,
            "method": "bolt11",
            "amount_sats": earning.amount_sats,
            "payment_hash": earning.payment_hash,
            "state": "settled",
            **changes,
        }
        await self.world.push(kit, self.world.node.push(kit.pubkey, "payment_notice", body))


async def settled(kit: Advisor) -> None:
    """What the kit does beside is done."""
    while tasks := [task for task in kit._tasks if not task.done()]:
        await asyncio.wait_for(asyncio.gather(*tasks), 60)


@asynccontextmanager
async def opened(world: KitWorld, payer: Payer, pocket: PocketWallet) -> AsyncIterator[Advisor]:
    """The kit with its wallet and the way to the node."""
    async with world.open() as kit:
        kit.money._nodes = pocket
        kit.signed_mail._link = payer
        yield kit
