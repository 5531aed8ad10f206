"""One advisor hands over to another (Protocol 02 §7.5, 04 §10 "Handoff")."""

from __future__ import annotations

import asyncio
from fractions import Fraction
from pathlib import Path

import pytest
from cl_hive_comms.domain.handoff import Handoff
from cl_hive_comms.services.advisor_requests import Hire
from cl_hive_comms.services.handoff_service import HandoffService
from comms_world import Agent, call, refused, world
from hiring_world import HiringWorld
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.errors import Conflict, HiveError, InvalidParams, NotFound
from pipeline_world import OTHER_KEY, View, World, issue, slug

DAY = 86_400
KEYS = [xonly_pubkey(Secret(bytes([number]) * 32)) for number in (0x22, 0x23, 0x24)]


class Office:
    """Three hired advisors and the handoffs between them."""

    def __init__(self, path: Path) -> None:
        self.world = HiringWorld(path)

    def build(self) -> None:
        hiring = self.world
        self.handoffs = HandoffService(
            hiring.db,
            hiring.facts,
            credentials=hiring.credentials,
            receipts=hiring.receipts,
            alerts=hiring.alerts,
            revoke=hiring.service.revoke,
            name_of=hiring.service.name_of,
            now=lambda: hiring.now,
            log=hiring._note,
        )

    async def open(self) -> Office:
        await self.world.start()
        for key in KEYS:
            await self.world.service.authorize(Hire(key, "fees"))
        self.build()
        await self.handoffs.load()
        self.ids = [advisor.advisor_id for advisor in self.world.credentials.advisors()]
        return self

    async def restart(self, seconds: int = 0) -> None:
        await self.world.restart(seconds=seconds)
        self.build()
        await self.handoffs.load()

    async def start(self, outgoing: int = 0, incoming: int = 1, days: int = 5) -> Handoff:
        found = [self.world.credentials.advisor(self.ids[number]) for number in (outgoing, incoming)]
        assert found[0] is not None and found[1] is not None
        return await self.handoffs.start(found[0], found[1], days)

    def works(self) -> list[bool]:
        """Which of the advisors may change things."""
        return [self.may(advisor_id) for advisor_id in self.ids]

    def may(self, advisor_id: str) -> bool:
        try:
            self.handoffs.check_write(advisor_id)
        except HiveError as error:
            assert error.symbol == "permission_denied"
            return False
        return True

    def live(self) -> list[bool]:
        rows = (self.world.credentials.active_of(advisor_id) for advisor_id in self.ids)
        return [row is not None for row in rows]


@pytest.fixture
async def office(tmp_path: Path) -> Office:
    return await Office(tmp_path).open()


async def test_half_time_swaps_who_works_and_the_end_revokes_also_across_restarts(office: Office) -> None:
    handoff = await office.start()
    assert (handoff.half_at - handoff.began_at, handoff.ends_at - handoff.began_at) == (5 * DAY // 2, 5 * DAY)
    assert office.works() == [True, False, True]
    assert office.handoffs.gives_way(office.ids[1], office.ids[0])
    assert not office.handoffs.gives_way(office.ids[0], office.ids[1])
    await office.restart(5 * DAY // 2 - 1)
    assert office.works() == [True, False, True]
    office.world.now += 1
    # Nothing had to run for this.
    assert office.works() == [False, True, True]
    part = office.handoffs.of(office.ids[1])
    assert part is not None and (part["from"], part["writes"]) == ("advisor-1", True)
    await office.handoffs.settle()
    assert office.live() == [True] * 3
    await office.restart(3 * DAY)
    await office.handoffs.settle()
    await office.handoffs.settle()
    assert office.live() == [False, True, True] and office.works() == [True, True, True]
    assert office.handoffs.of(office.ids[1]) is None
    office.world.db.close()


async def test_what_cannot_be_handed_over_is_refused_and_nothing_begins(office: Office) -> None:
    with pytest.raises(InvalidParams, match="same advisor"):
        await office.start(0, 0)
    with pytest.raises(Conflict, match="ends before the handoff") as caught:
        office.world.now += 26 * DAY
        await office.start()
    assert caught.value.reason == "credential_ends"
    office.world.now -= 26 * DAY
    await office.world.service.revoke(office.ids[2], "gone")
    for pair in ((0, 2), (2, 0)):
        with pytest.raises(NotFound, match="no credential that is valid"):
            await office.start(*pair)
    assert office.works() == [True] * 3
    await office.start()
    for pair in ((0, 1), (1, 0)):
        with pytest.raises(Conflict, match="part of a handoff already"):
            await office.start(*pair)
    office.world.db.close()


async def test_two_starts_at_once_begin_one_handoff(office: Office) -> None:
    done = await asyncio.gather(office.start(0, 1), office.start(1, 2), return_exceptions=True)
    assert sorted(type(each).__name__ for each in done) == ["Conflict", "Handoff"]
    office.world.db.close()


async def test_a_handoff_to_somebody_who_leaves_is_off_and_the_first_works_on(office: Office) -> None:
    await office.start()
    office.world.now += 4 * DAY
    await office.world.service.revoke(office.ids[1], "a mistake")
    await office.handoffs.settle()
    assert office.works() == [True] * 3 and office.live() == [True, False, True]
    (alert,) = [row for row in await office.world.alerts.recent() if row.code == "handoff_broken"]
    assert "advisor-2" in alert.text and "works on" in alert.text
    await office.start(0, 2)
    # Whoever hands over may leave before the time: the other one is free at once.
    await office.world.service.revoke(office.ids[0], "thanks")
    await office.handoffs.settle()
    assert office.works() == [True] * 3 and office.handoffs.of(office.ids[2]) is None
    office.world.db.close()


async def test_a_kill_between_the_revocation_and_the_note_of_it_ends_the_handoff_once(
    office: Office,
) -> None:
    await office.start()
    office.world.now += 5 * DAY
    # The process died after the first of both transactions.
    await office.world.service.revoke(office.ids[0], "handed over to advisor-2")
    await office.restart()
    await office.handoffs.settle()
    assert office.live() == [False, True, True] and office.handoffs.of(office.ids[1]) is None
    assert (await office.world.receipts.verify()).ok
    office.world.db.close()


async def test_during_a_handoff_the_incoming_advisor_wins(tmp_path: Path) -> None:
    world = World(tmp_path)
    # adv-1 hands over to adv-2; the half is over.
    world.credentials.add(View(issue(OTHER_KEY, number=2), "adv-2"))
    assert (await world.set_fee(110))["status"] == 0
    world.policies.override("moderate", approval_overrides={"fee_policy_*": "always_confirm"})
    waiting = await world.set_fee(110, "102x1x0")
    assert waiting["status"] == 3
    world.policies.override("moderate")
    blocked = await world.set_fee(112, agent=OTHER_KEY, credential=2)
    assert slug(blocked) == "cooldown"
    world.handoffs.running.append(Handoff("adv-1", "adv-2", world.now - 3 * DAY, world.now + 2 * DAY))
    # Neither the write of the one before nor its request holds the new one up.
    assert (await world.set_fee(112, agent=OTHER_KEY, credential=2))["status"] == 0
    assert (await world.set_fee(112, "102x1x0", agent=OTHER_KEY, credential=2))["status"] == 0
    denied = await world.set_fee(115, "103x1x0")
    assert slug(denied) == "permission_denied" and "look on" in denied["error"]["message"]
    # What it asked for before half time does not run after it, approved or not; reads go on.
    done = await world.pipeline.approvals.approve(waiting["error"]["data"]["action_id"])
    assert (done["state"], done["slug"]) == ("rejected", "permission_denied")
    assert (await world.ask("hive:monitor/v1", "channel_list", {}))["status"] == 0
    world.close()


async def test_before_half_time_the_incoming_one_looks_on(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.credentials.add(View(issue(OTHER_KEY, number=2, trust=Fraction(1)), "adv-2"))
    world.handoffs.running.append(Handoff("adv-1", "adv-2", world.now, world.now + 4 * DAY))
    denied = await world.set_fee(110, agent=OTHER_KEY, credential=2)
    assert slug(denied) == "permission_denied"
    looked = await world.ask("hive:monitor/v1", "channel_list", {}, agent=OTHER_KEY, credential=2)
    assert looked["status"] == 0
    assert (await world.set_fee(110))["status"] == 0
    world.close()


async def test_the_operator_hands_over_by_name_and_sees_it(tmp_path: Path) -> None:
    async with world(tmp_path) as (_, node, relay), Agent(relay.url) as first, Agent(relay.url) as second:
        await first.hired(node)
        await second.hired(node)
        method = "hive-marketplace-handoff"
        for params, code in (
            ({"from_contract": "advisor-1", "to_contract": "nobody"}, 4001),
            ({"from_contract": "advisor-1", "to_contract": "advisor-1"}, -32602),
            ({"from_contract": "advisor-1", "to_contract": "advisor-2", "days": 2}, -32602),
            ({"from_contract": "advisor-1", "to_contract": "advisor-2", "days": 8}, -32602),
            ({"from_contract": "advisor-1"}, -32602),
        ):
            assert (await refused(node, method, **params)).code == code, params
        started = await call(node, method, from_contract="advisor-1", to_contract=second.npub)
        assert (started["from"], started["to"]) == ("advisor-1", "advisor-2")
        rows = (await call(node, "hive-client-status"))["advisors"]
        parts = {row["name"]: row["handoff"] for row in rows}
        assert (parts["advisor-1"]["to"], parts["advisor-1"]["writes"]) == ("advisor-2", True)
        assert (parts["advisor-2"]["from"], parts["advisor-2"]["writes"]) == ("advisor-1", False)
        again = await refused(node, method, from_contract="advisor-1", to_contract="advisor-2")
        assert again.code == 4015 and "handoff_running" in again.message
        (receipt, *_) = (await call(node, "hive-client-receipts", limit=1))["items"]
        assert receipt["action"] == "handoff_start"
