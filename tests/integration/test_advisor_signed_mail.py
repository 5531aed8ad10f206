"""Signed messages between the kit and a node: who may write, what is taken once, what goes out again
(docs/protocol/04-marketplace-and-nostr.md §6)."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hive_advisor.advisor import Advisor
from hive_advisor.domain.mail import Stranger
from hive_advisor.domain.rows import Client
from hive_shared.errors import InvalidParams
from hive_shared.nostr.giftwrap import Message
from hive_shared.signed_message import Draft, parse, sign
from kit_world import KitWorld
from msgspec.structs import replace
from scripted_node import ScriptedNode

ASK = "hive:marketplace/test_question"


class Carried:
    """Where messages of the kit go: a relay that takes them, or not."""

    def __init__(self) -> None:
        self.took: list[str] = []
        self.topics: list[str] = []
        self.works = True
        self.ways: list[tuple[str, ...]] = []

    async def inbox_relays(self, key: str) -> tuple[str, ...]:
        return (f"wss://reads.{key[:4]}.example",)

    async def deliver(
        self, recipient: str, content: str, relays: Sequence[str], *, topic: str, **_: Any
    ) -> int:
        self.topics.append(topic)
        self.ways.append(tuple(relays))
        if self.works:
            self.took.append(content)
        return int(self.works)


@pytest.fixture
def world(tmp_path: Path) -> KitWorld:
    return KitWorld(tmp_path)


@pytest.fixture
def carried() -> Carried:
    return Carried()


@pytest_asyncio.fixture
async def kit(world: KitWorld, carried: Carried) -> AsyncIterator[Advisor]:
    async with world.open() as opened:
        await world.hired(opened)
        opened.signed_mail._link = carried
        yield opened


class Asked:
    """A handler that answers, and counts."""

    def __init__(self, kit: Advisor) -> None:
        self.kit = kit
        self.bodies: list[Any] = []
        self.refuses = False
        kit.signed_mail.handle(ASK, self)

    async def __call__(self, client: Client, message: Draft, agent_key: str) -> None:
        self.bodies.append(message.body)
        if self.refuses:
            raise InvalidParams("not this")
        answer = {"heard": message.msg_id}
        await self.kit._db.write(
            lambda tx: self.kit.signed_mail.put(
                tx,
                client,
                "hive:marketplace/answer",
                answer,
                name=f"answer:{message.msg_id}",
                sender=agent_key,
                answers=message.msg_id,
            )
        )


async def arrive(
    world: KitWorld, kit: Advisor, *, by: ScriptedNode | None = None, msg_id: str = "", **changes: Any
) -> str:
    """A message of the node reaches the kit; `changes` replace parts of it after it was signed."""
    node, now = by or world.node, world.now()
    draft = Draft(ASK, msg_id or str(uuid.uuid4()), "marketplace", 1, now, now + 600, {"n": 1})
    before = {name: value for name, value in changes.items() if name in Draft.__struct_fields__}
    draft = Draft(**{**{name: getattr(draft, name) for name in Draft.__struct_fields__}, **before})
    text = sign(draft, node.secret, changes.get("recipient", kit.pubkey))
    for old, new in changes.get("altered", ()):
        assert old in text
        text = text.replace(old, new)
    rumor = uuid.uuid4().hex * 2
    await kit._mail.receive(Message(node.key, rumor, text, now, (), ""), kit.pubkey)
    for task in tuple(kit._tasks):
        await asyncio.wait_for(task, 60)
    return draft.msg_id


def said(carried: Carried, world: KitWorld, kit: Advisor) -> list[tuple[str, Any]]:
    """What the node reads of it: verb and body, each signed by the kit's key for the node."""
    found = []
    for text in carried.took:
        draft = parse(text, kit.pubkey, (world.node.key,))
        assert isinstance(draft, Draft)
        found.append((draft.schema.rpartition("/")[2], draft.body))
    return found


async def test_a_message_is_taken_once_and_its_answer_repeated(
    world: KitWorld, kit: Advisor, carried: Carried
) -> None:
    asked = Asked(kit)
    name = await arrive(world, kit)
    assert said(carried, world, kit) == [("answer", {"heard": name})] and carried.topics == ["hive-mkt"]
    await arrive(world, kit, msg_id=name)
    assert asked.bodies == [{"n": 1}]
    assert carried.took[0] == carried.took[1] and len(carried.took) == 2


HOSTILE: dict[str, Callable[[ScriptedNode], dict[str, Any]]] = {
    "a stranger": lambda _: {"by": ScriptedNode("ws://127.0.0.1:1")},
    "for another key": lambda node: {"recipient": node.key},
    "altered after it was signed": lambda _: {"altered": [('"n":1', '"n":2')]},
    "a field too many": lambda _: {"altered": [('"v":1', '"v":1,"w":1')]},
    "no uuid": lambda _: {"msg_id": "x"},
}


@pytest.mark.parametrize("what", HOSTILE)
async def test_what_does_not_verify_reaches_no_handler_and_gets_no_word(
    world: KitWorld, kit: Advisor, carried: Carried, what: str
) -> None:
    asked = Asked(kit)
    await arrive(world, kit, **HOSTILE[what](world.node))
    assert not asked.bodies and not carried.took
    assert len(await kit._db.read(lambda tx: kit._records.quarantined(tx, 10))) == 1


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"schema": "hive:marketplace/unheard_of"}, "unsupported"),
        ({"expires_at": 1}, "expired"),
        ({"altered": [('"v":1', '"v":2')]}, None),
    ],
)
async def test_a_known_sender_is_told_why(
    world: KitWorld, kit: Advisor, carried: Carried, changes: dict[str, Any], code: str | None
) -> None:
    Asked(kit)
    name = await arrive(world, kit, **changes)
    told = [("error", {"code": code, "msg_id": name})] if code else []
    assert said(carried, world, kit) == told


async def test_a_refusal_of_the_handler_is_told_once_per_message(
    world: KitWorld, kit: Advisor, carried: Carried
) -> None:
    asked = Asked(kit)
    asked.refuses = True
    name = await arrive(world, kit)
    await arrive(world, kit, msg_id=name)
    assert said(carried, world, kit) == [("error", {"code": "invalid_params", "msg_id": name})]
    assert len(asked.bodies) == 2


async def test_an_error_is_never_answered(world: KitWorld, kit: Advisor, carried: Carried) -> None:
    await arrive(world, kit, schema="hive:marketplace/error")
    assert not carried.took


async def test_what_no_relay_took_goes_out_later_until_one_did(
    world: KitWorld, kit: Advisor, carried: Carried
) -> None:
    Asked(kit)
    carried.works = False
    name = await arrive(world, kit)
    carried.works = True
    assert await kit.signed_mail.flush() == 0
    world.ahead += 5
    assert await kit.signed_mail.flush() == 1
    world.ahead += 600
    assert await kit.signed_mail.flush() == 0
    assert said(carried, world, kit) == [("answer", {"heard": name})]


async def test_a_client_whose_relays_are_dead_holds_up_no_other(kit: Advisor) -> None:
    (alice,) = await kit.clients.all()
    bob = replace(alice, client_id="b" * 32, alias="bob", node_key="ab" * 32, node_id="02" + "cd" * 32)
    await kit._db.write(lambda tx: kit._rows.add(tx, bob, "bob"))
    go_on, tried, bobs = asyncio.Event(), asyncio.Event(), asyncio.Event()
    sent: list[str] = []

    class OneDead:
        async def deliver(self, recipient: str, *_: Any, **__: Any) -> int:
            sent.append(recipient)
            if recipient == alice.node_key:
                tried.set()
                await go_on.wait()
            else:
                bobs.set()
            return 1

    kit.signed_mail._link = OneDead()

    async def put(client: Client, name: str) -> None:
        await kit._db.write(lambda tx: kit.signed_mail.put(tx, client, ASK, {}, name=name))

    await put(alice, "a1")
    first = asyncio.create_task(kit.signed_mail.flush())
    await tried.wait()
    await put(alice, "a2")
    await put(bob, "b1")
    second = asyncio.create_task(kit.signed_mail.flush())
    async with asyncio.timeout(60):
        await bobs.wait()
    assert sent.count(alice.node_key) == 1
    go_on.set()
    # None leaves twice.
    assert (await first, await second) == (1, 2)
    assert sorted(sent) == sorted([alice.node_key, alice.node_key, bob.node_key])


async def test_numbers_rise_in_an_area_also_after_old_messages_are_forgotten(
    world: KitWorld, kit: Advisor, carried: Carried
) -> None:
    (client,) = await kit.clients.all()
    numbers = []
    for number in range(4):
        await kit._db.write(
            lambda tx, number=number: kit.signed_mail.put(tx, client, ASK, {}, name=f"n{number // 2}")
        )
        rows = await kit._db.read(lambda tx: [row["seq"] for row in tx.execute("SELECT * FROM adv_outbox")])
        numbers += rows
        world.ahead += 10 * 86_400 if number == 1 else 0
    assert len(numbers) == 4 and numbers[0] == numbers[1] < numbers[2] == numbers[3]
    await kit.signed_mail.flush()
    assert [verb for verb, _ in said(carried, world, kit)] == ["test_question"]


async def test_a_kill_between_taking_and_noting_answers_once(world: KitWorld, tmp_path: Path) -> None:
    async with world.open() as kit:
        await world.hired(kit)
    for at in range(12):
        there = world.copy(tmp_path / str(at))
        carried, name = Carried(), str(uuid.uuid4())

        async def ask(
            kit: Advisor, there: KitWorld = there, name: str = name, carried: Carried = carried
        ) -> None:
            Asked(kit)
            kit.signed_mail._link = carried
            await arrive(there, kit, msg_id=name)

        died = await there.killed(at, ask)
        async with there.open() as kit:
            await ask(kit)
            bodies = {str(body) for _, body in said(carried, there, kit)}
            assert bodies == {str({"heard": name})}, at
            assert len(set(carried.took)) == 1, at
        if not died:
            assert at > 2
            return
    pytest.fail("taking a message writes more than 12 times")


class Heard:
    """A handler that takes messages of anybody and answers in their thread."""

    def __init__(self, kit: Advisor) -> None:
        self.kit, self.heard, self.refuses = kit, list[tuple[Any, str, str]](), False
        kit.signed_mail.handle_any(ASK, self)

    async def __call__(self, message: Draft, content: str, sender: str, agent_key: str) -> None:
        self.heard.append((message.body, content, sender))
        if self.refuses:
            raise InvalidParams("not this")
        for number in (1, 2):
            await self.kit._db.write(
                lambda tx, number=number: self.kit.signed_mail.put(
                    tx,
                    Stranger(sender),
                    "hive:marketplace/answer",
                    {"n": number},
                    name=f"answer:{message.msg_id}:{number}",
                    sender=agent_key,
                    answers=message.msg_id,
                    thread_id=message.thread_id,
                )
            )


async def test_a_stranger_is_heard_where_anybody_is_and_answered_in_its_thread(
    world: KitWorld, kit: Advisor, carried: Carried
) -> None:
    heard, stranger, thread = Heard(kit), ScriptedNode("ws://127.0.0.1:1"), str(uuid.uuid4())
    name = await arrive(world, kit, by=stranger, thread_id=thread)
    assert [(body, sender) for body, _, sender in heard.heard] == [({"n": 1}, stranger.key)]
    answers = [parse(text, kit.pubkey, (stranger.key,)) for text in carried.took]
    assert [(each.thread_id, each.seq, each.body) for each in answers if isinstance(each, Draft)] == [
        (thread, 1, {"n": 1}),
        (thread, 2, {"n": 2}),
    ]
    assert carried.ways[0][0] == f"wss://reads.{stranger.key[:4]}.example"
    await arrive(world, kit, by=stranger, thread_id=thread, msg_id=name)
    assert len(heard.heard) == 1 and carried.took[2:] == carried.took[:2]


@pytest.mark.parametrize("known", [True, False])
async def test_only_a_known_stranger_is_told_why(
    world: KitWorld, kit: Advisor, carried: Carried, known: bool
) -> None:
    heard, stranger = Heard(kit), ScriptedNode("ws://127.0.0.1:1")
    heard.refuses = True
    kit.signed_mail.also_known(lambda _tx, key: known and key == stranger.key)
    await arrive(world, kit, by=stranger)
    assert len(carried.took) == known


async def test_strangers_have_thirty_messages_a_minute_together_and_clients_are_not_counted(
    world: KitWorld, kit: Advisor
) -> None:
    heard = Heard(kit)
    for _ in range(32):
        await arrive(world, kit, by=ScriptedNode("ws://127.0.0.1:1"))
    assert len(heard.heard) == 30
    await arrive(world, kit)
    assert len(heard.heard) == 31
    world.ahead += 60
    await arrive(world, kit, by=ScriptedNode("ws://127.0.0.1:1"))
    assert len(heard.heard) == 32
