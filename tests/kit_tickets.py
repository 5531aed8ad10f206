"""The kit beside a scripted node that pays it by escrow tickets at a real mint (docs/protocol/11 §8)."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cashu_tickets import LOCK_SEED, REFUND_KEY, document, item, preimage
from hive_advisor.advisor import Advisor
from hive_advisor.services.tickets import TicketView
from hive_shared import envelope, signed_message
from hive_shared.cashu.derive import public_key
from hive_shared.cashu.keysets import fee_sats, split
from hive_shared.cashu.outputs import Output
from hive_shared.cashu.terms import (
    Terms,
    decode_terms,
    sign_text,
    task_params_hash,
    terms_hash,
    terms_json,
    terms_text,
)
from hive_shared.cashu.ticket import lock_outputs
from hive_shared.cashu.ticket_messages import (
    Message,
    Ticket,
    TicketAck,
    TicketReject,
    TicketRequest,
    body_of,
    decode_message,
    schema_of,
)
from hive_shared.cashu.token import Token, encode_token
from hive_shared.cashu.wire import Proof
from hive_shared.mint_http import MintHttp, Mints
from hive_shared.nostr.giftwrap import Message as Mail
from hive_shared.registry import find, parse_params
from hive_shared.signed_message import Draft
from kit_world import FEE, PARAMS, KitWorld
from locked_at_mint import locked, plain

HOUR = 3_600
TASK = task_params_hash(*FEE, parse_params(find(*FEE), dict(PARAMS)))
"""What KitWorld's commands ask for, as their envelopes say it."""


class PaidKit(KitWorld):
    """`reveals` is whether the node's answer to paid work brings the preimage, `probing` whether the kit
    tries its mint out."""

    def __init__(self, directory: Path, mint_url: str) -> None:
        super().__init__(directory)
        self.mints, self.reveals, self.probing = (mint_url,), True, False
        self.settings = {"mints": self.mints}
        self.reached = Mints(jitter=lambda: 0.0)
        self.node.answer = self.work
        self._mails = 0

    @asynccontextmanager
    async def open(self, *, order: tuple[str, ...] = ("local",)) -> AsyncIterator[Advisor]:
        """The kit; it probes mints only where the test is about that."""
        async with super().open(order=order) as kit:
            kit.ecash.probing = self.probing
            yield kit

    @property
    def mint(self) -> MintHttp:
        return self.reached.at(self.mints[0])

    def work(self, command: envelope.Command) -> dict[str, Any]:
        """Do what is asked; what is paid by a ticket is answered with the preimage of its item."""
        proof = command.payment_proof
        if not isinstance(proof, dict) or proof.get("method") != "cashu_escrow" or not self.reveals:
            return self.node.honest(command)
        shown = preimage(int(str(proof["item"]))).hex()
        return self.node.response(command, 0, receipt=self.node.receipt(command), preimage=shown)

    # -- the payer -----------------------------------------------------------------------------------

    async def asked(self, kit: Advisor) -> TicketRequest:
        """What the kit told the node to make tickets with."""
        await kit.tickets.tend()
        (request,) = [each for each in await self.told(kit) if isinstance(each, TicketRequest)]
        return request

    async def terms(self, kit: Advisor, *amounts: int, **changes: Any) -> Terms:
        """Terms for the fee change that KitWorld's commands ask for."""
        now = self.now()
        items = [
            item(number, amount, deadline=now + HOUR, locktime=now + 2 * HOUR)
            for number, amount in enumerate(amounts)
        ]
        given = {
            "ticket_id": secrets.token_hex(16),
            "salt": secrets.token_hex(16),
            "issued_at": now,
            "node_id": self.node.node_id,
            "verifier": {"id": self.node.key, "node_id": self.node.node_id},
            "payer": {"id": self.node.key, "refund_pubkey": public_key(REFUND_KEY)},
            "payee": {"id": kit.pubkey, "lock_pubkey": (await self.asked(kit)).lock_pubkey},
            "mints": [{"url": self.mints[0], "permille": 1_000}],
            "task_params_hash": TASK,
            **changes,
        }
        return decode_terms(document(given.pop("items", items), **given))

    async def outputs(self, terms: Terms) -> list[Output]:
        (listed,) = [each for each in await self.mint.keysets() if each.active]
        keyset = await self.mint.keyset(listed)
        return [each for part in terms.items for each in lock_outputs(terms, part.i, 0, keyset, LOCK_SEED)]

    async def lock(self, outputs: Sequence[Output]) -> list[Proof]:
        (listed,) = [each for each in await self.mint.keysets() if each.active]
        return await locked(self.mint, await self.mint.keyset(listed), outputs)

    async def swapped(self, proofs: Sequence[Proof]) -> None:
        """Spend proofs with their witnesses."""
        (listed,) = [each for each in await self.mint.keysets() if each.active]
        keyset = await self.mint.keyset(listed)
        worth = sum(each.amount for each in proofs) - fee_sats([keyset.input_fee_ppk] * len(proofs))
        await self.mint.swap(proofs, [e.message for e in plain(split(worth, keyset.denominations), keyset)])

    def ticket(self, terms: Terms, proofs: Sequence[Proof], **changes: Any) -> Ticket:
        token = encode_token(Token(self.mints[0], tuple(proofs)))
        signature = sign_text(self.node.secret, terms_text(terms_hash(terms)))
        given = {
            "ticket_id": terms.ticket_id,
            "tokens": [token],
            "terms": terms_json(terms),
            "sig": signature,
            **changes,
        }
        return Ticket(**given)

    async def say(self, kit: Advisor, message: Message, msg_id: str | None = None) -> None:
        """A message of the node to the kit."""
        self._mails += 1
        now = self.now()
        draft = Draft(
            schema_of(message),
            msg_id or str(uuid.uuid4()),
            "escrow",
            self._mails,
            now,
            now + HOUR,
            body_of(message),
        )
        text = signed_message.sign(draft, self.node.secret, kit.pubkey)
        await kit._mail.receive(Mail(self.node.key, secrets.token_hex(32), text, now, (), ""), kit.pubkey)

    async def handed(self, kit: Advisor, *amounts: int, **changes: Any) -> Terms:
        """A good ticket, locked, sent and looked at."""
        terms = await self.terms(kit, *amounts, **changes)
        await self.say(kit, self.ticket(terms, await self.lock(await self.outputs(terms))))
        await kit.tickets.tend()
        return terms

    # -- what the test looks at ----------------------------------------------------------------------

    async def told(self, kit: Advisor) -> list[Message]:
        """What the kit sent the node about tickets, in order."""
        texts = await kit._db.read(
            lambda tx: [row[0] for row in tx.execute("SELECT content FROM adv_outbox ORDER BY seq")]
        )
        drafts = [signed_message.parse(text, kit.pubkey, (self.node.key,)) for text in texts]
        return [
            decode_message(each.schema, each.body)
            for each in drafts
            if isinstance(each, Draft) and not each.schema.endswith("/error")
        ]

    async def decided(self, kit: Advisor) -> list[TicketAck | TicketReject]:
        return [each for each in await self.told(kit) if isinstance(each, TicketAck | TicketReject)]

    async def close(self) -> None:
        await self.reached.close()


def states(view: TicketView) -> list[str]:
    """Where its items are."""
    return [str(each.state) for each in view.items]


async def sats(kit: Advisor) -> int:
    """What the kit's wallet is free to spend."""
    return sum(row["unspent"] for row in (await kit.ecash.service.balance()).values())
