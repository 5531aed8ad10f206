"""Signed messages that this plugin itself takes and sends (docs/protocol/04 §6)."""

from __future__ import annotations

from pathlib import Path

import pytest
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.errors import InvalidParams
from hive_shared.signed_message import Draft, parse
from hive_shared.store import StoreError, Tx
from message_world import NOW, World, world

OWN = "hive:marketplace/invoice"


class Desk:
    """A handler that notes what it takes; `raises` is what it answers with."""

    def __init__(self, node: World) -> None:
        self.taken: list[tuple[str, object]] = []
        self.raises: Exception | None = None
        node.inbox.own[OWN] = self.take

    async def take(self, message: Draft, sender: str) -> None:
        if self.raises is not None:
            raise self.raises
        self.taken.append((sender, message.body))


async def test_our_own_handler_takes_a_message_of_a_known_sender_once(tmp_path: Path) -> None:
    async with world(tmp_path) as node:
        desk, message = Desk(node), node.message(schema=OWN, body={"n": 7})
        assert await node.take(message) is None and await node.take(message) == "dropped"
        assert desk.taken == [(xonly_pubkey(node.peer), {"n": 7})]
        assert not node.handed_over and await node.told() == []


async def test_a_stranger_and_a_forged_message_do_not_reach_our_handler(tmp_path: Path) -> None:
    async with world(tmp_path) as node:
        desk, stranger = Desk(node), Secret(b"\x44" * 32)
        assert await node.take(node.message(stranger, schema=OWN), known=False, sender=stranger) == "dropped"
        assert await node.take({**node.message(schema=OWN), "body": {"n": 2}}) == "dropped"
        assert await node.take(node.message(schema=OWN, expires_at=NOW)) == "refused"
        assert desk.taken == []


async def test_what_our_handler_refused_is_over_and_what_the_disk_kept_it_from_comes_again(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as node:
        desk, message = Desk(node), node.message(schema=OWN)
        desk.raises = StoreError("the disk takes nothing")
        with pytest.raises(StoreError):
            await node.take(message)
        desk.raises = None
        assert await node.take(message) is None and len(desk.taken) == 1
        desk.raises = InvalidParams("not so")
        refused = node.message(schema=OWN)
        assert await node.take(refused) is None
        desk.raises = None
        assert await node.take(refused) == "dropped" and len(desk.taken) == 1


async def test_a_message_goes_with_the_transaction_it_belongs_to_and_once_for_its_key(tmp_path: Path) -> None:
    async with world(tmp_path) as node:
        peer = xonly_pubkey(node.peer)

        def send(tx: Tx) -> None:
            for amount in (1, 2):
                node.messages.put(
                    tx, peer, {"amount": amount}, schema=OWN, key="invoice:1", expires_at=NOW + 60
                )

        def broken(tx: Tx) -> None:
            send(tx)
            raise InvalidParams("no")

        with pytest.raises(InvalidParams):
            await node.db.write(broken)
        count = "SELECT COUNT(*) FROM comms_outbox"
        assert node.db.peek(lambda tx: tx.execute(count).fetchone()[0]) == 0
        await node.db.write(send)
        assert node.db.peek(lambda tx: tx.execute(count).fetchone()[0]) == 1
        kept = await node.db.read(lambda tx: node.store.find(tx, "dm:invoice:1"))
        assert kept is not None
        read = parse(kept[0].content, node.identity.pubkey, (peer,))
        assert isinstance(read, Draft) and (read.schema, read.body, read.seq) == (OWN, {"amount": 1}, NOW + 1)
