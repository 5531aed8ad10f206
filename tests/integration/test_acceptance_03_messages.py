"""Tickets by direct message: a long one of which a part was lost, and what is said twice or otherwise than
before (docs/protocol/03-escrow-and-payments.md §14.25; 04 §6 "Larger")."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cashu_tickets import PAYEE, item, preimage
from cl_hive_comms.services.inbound_errors import MessageErrors
from cl_hive_comms.services.inbound_signed import SignedInbox
from cl_hive_comms.services.sibling_delivery import SiblingDelivery
from cl_hive_comms.services.sibling_registry import SiblingRegistry
from cl_hive_comms.storage.sibling_store import SiblingStore
from escrow_world import EscrowWorld
from hive_devnet.relay import RelayProcess
from hive_shared import signed_message
from hive_shared.cashu.terms import terms_hash
from hive_shared.cashu.ticket_messages import (
    Message,
    Redeemed,
    Release,
    Ticket,
    TicketAck,
    TicketReject,
    body_of,
    decode_message,
    schema_of,
)
from hive_shared.crypto import Secret
from hive_shared.errors import Conflict
from hive_shared.nostr.giftwrap import long_id, split_chunks
from hive_shared.signed_message import Draft
from kit_tickets import HOUR, PaidKit, sats, states
from kit_world import run_fee
from lossy_relay import LossyRelay, lossy
from message_ends import World, ends, until
from payee_world import PayeeWorld

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def relay() -> AsyncIterator[LossyRelay]:
    process = await RelayProcess.start()
    async with lossy(process.url) as door:
        yield door
    await process.stop()


class Node:
    """What a node says to `listpeerchannels` and its like: nothing is asked of it here."""

    async def call(self, method: str, params: dict[str, Any], *, timeout: float) -> object:
        raise AssertionError(method)


def inbox_of(ends: World, payer: EscrowWorld) -> SignedInbox:
    """Signed messages to the node's end go to the payer of tickets."""

    async def told(*_: object) -> bool:
        return True

    async def nobody(*_: object, **__: object) -> dict[str, Any]:
        raise AssertionError("no sibling is there")

    async def taken(message: Draft, sender: str) -> None:
        await payer.inbox.take(message.schema, message.body, sender, message.msg_id)

    node = ends.node
    inbox = SignedInbox(
        SiblingRegistry(node.db, SiblingStore(), Node(), now=ends.clock, log=node._quiet),
        SiblingDelivery(nobody, present=lambda who: False, log=node._quiet),
        node.identity,
        errors=MessageErrors(told, now=ends.clock),
        now=ends.clock,
        log=node._quiet,
    )
    inbox.own["hive:escrow/ticket_ack"] = taken
    node.inbound.on_schema(inbox)
    return inbox


def signed(message: Message, secret: Secret, recipient: str, now: int) -> str:
    draft = Draft(schema_of(message), str(uuid.uuid4()), "escrow", 1, now, now + HOUR, body_of(message))
    return signed_message.sign(draft, secret, recipient)


async def test_acceptance_03_25_a_ticket_of_300_kb_loses_a_part_and_arrives_and_its_ack_counts_once(
    tmp_path: Path, mint_url: str, relay: LossyRelay
) -> None:
    payer = EscrowWorld(tmp_path / "payer", mint_url)
    payee = PayeeWorld(tmp_path / "payee", mint_url)
    payee.now = payer.now
    await payer.service.fund(2_000, None, None, 30)
    ticket = await payer.create(payer.plan(payee, [6] * 145))
    (letter,) = payer.letters.values()
    async with ends(tmp_path / "ends", relay, kit_secret=PAYEE) as world:
        node, kit = world.node, world.kit
        inbox = inbox_of(world, payer)
        text = signed(letter, node.identity.readable_secrets()[node.identity.pubkey], kit.key, world.clock())
        parts = len(split_chunks(text))
        assert len(text) >= 300_000 and long_id(text) is not None
        relay.loses = lambda number: number == 4
        await node.send(text)
        await until(lambda: kit.parts == parts - 1)
        assert not kit.got
        kit.pauses.let_one_pass()
        await until(lambda: kit.got)
        # The one that was lost was asked for, and nothing else went twice.
        assert (len(relay.seen), len(relay.lost), relay.short) == (parts + 1, 1, 1)
        (came,) = kit.got
        assert came.sender == node.identity.pubkey
        read = signed_message.parse(came.content, came.sender, (kit.key,))
        assert isinstance(read, Draft)
        arrived = decode_message(read.schema, read.body)
        assert isinstance(arrived, Ticket) and arrived == letter
        await payee.engine.ticket(payee.me, arrived, read.msg_id)
        await payee.engine.look()
        ack = TicketAck(ticket.ticket_id, ticket.terms_hash)
        assert payee.sent == [ack]

        async def say(message: str) -> None:
            # The same words in the same second would be the same message of the transport.
            world.clock.ahead += 1
            await kit.link.deliver(
                node.identity.pubkey, message, [relay.url], expires_at=world.clock() + HOUR
            )

        first = signed(ack, PAYEE, node.identity.pubkey, world.clock())
        await say(first)
        await until(lambda: inbox.counters["delivered"] == 1)
        assert set(await payer.item_states(ticket.ticket_id)) == {"accepted"}
        acked = await payer.engine.ticket(ticket.ticket_id)
        await say(first)
        await until(lambda: inbox.counters["repeated"] == 1)
        # Said anew, but of other terms: refused, and nothing is changed by it.
        other = TicketAck(ticket.ticket_id, "00" * 32)
        await say(signed(other, PAYEE, node.identity.pubkey, world.clock()))
        await until(lambda: inbox.counters["refused"] == 1)
        assert inbox.counters["delivered"] == 1
        assert await payer.engine.ticket(ticket.ticket_id) == acked
    # The ticket again is answered as before; with other terms it is refused, whoever signed them.
    payee.sent.clear()
    await payee.engine.ticket(payee.me, letter, "again")
    altered = payee.terms(7, ticket_id=ticket.ticket_id)
    for message in (payee.message(altered, ()), Ticket(**{**vars_of(letter), "terms": {}})):
        with pytest.raises(Conflict, match="with other terms"):
            await payee.engine.ticket(payee.me, message, "altered")
    assert payee.sent == [ack]
    assert (await payee.ticket(ticket.ticket_id)).terms_hash == ticket.terms_hash
    assert set(await payee.states(ticket.ticket_id)) == {"accepted"}
    await payer.close()
    await payee.close()


def vars_of(message: Ticket) -> dict[str, Any]:
    """The parts of a message."""
    return {name: getattr(message, name) for name in message.__struct_fields__}


async def test_acceptance_03_25_old_releases_and_altered_terms_are_refused_by_the_kit(
    tmp_path: Path, mint_url: str
) -> None:
    world = PaidKit(tmp_path, mint_url)
    world.reveals = False
    async with world.open() as kit:
        await world.hired(kit)
        terms = await world.handed(kit, 30, 20)
        assert (await run_fee(kit)).state == "done"
        await kit.tickets.tend()
        release, msg_id = Release(terms.ticket_id, 0, preimage(0).hex()), str(uuid.uuid4())
        await world.say(kit, release, msg_id)
        await kit.tickets.tend()
        before = await kit.tickets.view(terms.ticket_id)
        assert states(before) == ["redeemed", "accepted"] and await sats(kit) == 30
        # The same message once more, the same words under a new name, and old words about another item.
        for message, name in (
            (release, msg_id),
            (release, None),
            (Release(terms.ticket_id, 1, preimage(0).hex()), None),
        ):
            await world.say(kit, message, name)
            await kit.tickets.tend()
            assert await kit.tickets.view(terms.ticket_id) == before and await sats(kit) == 30
        assert (await world.told(kit)).count(Redeemed(terms.ticket_id, 0)) == 1
        # Other terms under the name of a ticket that is here, and terms that its payer did not sign.
        now = world.now()
        cheaper = [item(number, 5, deadline=now + HOUR, locktime=now + 2 * HOUR) for number in (0, 1)]
        altered = await world.terms(kit, items=cheaper, ticket_id=terms.ticket_id)
        await world.say(kit, world.ticket(altered, ()))
        await kit.tickets.tend()
        assert await kit.tickets.view(terms.ticket_id) == before
        asked = await world.terms(kit, 8)
        proofs = await world.lock(await world.outputs(asked))
        signature = world.ticket(asked, proofs).sig
        changed = await world.terms(kit, 9, ticket_id=asked.ticket_id, salt=asked.salt)
        assert terms_hash(changed) != terms_hash(asked)
        await world.say(kit, world.ticket(changed, proofs, sig=signature))
        await kit.tickets.tend()
        answer = (await world.decided(kit))[-1]
        assert isinstance(answer, TicketReject)
        assert (answer.ticket_id, answer.reason) == (asked.ticket_id, "token_invalid(signature)")
    await world.close()
