"""What is wrong with one ticket, one redemption or one mint holds up no other
(docs/protocol/03-escrow-and-payments.md §6.6, §6.7; 11-advisor-kit.md §8)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hive_shared.cashu.keysets import Keyset
from hive_shared.cashu.ticket_messages import TicketAck
from hive_shared.errors import NotFound
from kit_tickets import PaidKit, sats, states
from kit_world import run_fee
from payee_world import PayeeWorld

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def world(tmp_path: Path, mint_url: str) -> AsyncIterator[PayeeWorld]:
    opened = PayeeWorld(tmp_path, mint_url)
    yield opened
    await opened.close()


async def test_a_keyset_that_the_mint_does_not_name_now_delays_its_redemption(
    world: PayeeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    terms = world.terms(9)
    await world.hand_over(terms)
    await world.release(terms.ticket_id, 0)
    other = replace(await world.keyset(), id="00" + "ab" * 7)

    async def without(_url: str) -> Mapping[str, Keyset]:
        return {other.id: other}

    with monkeypatch.context() as patch:
        patch.setattr(world.mints, "keysets", without)
        assert await world.redeemer.redeem() == 0
    assert [kind for kind, *_ in world.events][-1] == "ticket_redeem_waits"
    world.now += 60
    assert await world.redeemer.redeem() == 1
    assert (await world.states(terms.ticket_id), await world.sats()) == (["redeemed"], 9)


async def test_a_redemption_that_fails_in_an_unknown_way_goes_on_under_its_name_and_alone(
    world: PayeeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = world.terms(9), world.terms(8)
    for terms in (first, second):
        await world.hand_over(terms)
    await world.release(first.ticket_id, 0)
    swap_in, names = world.service.swap_in, list[str]()

    async def breaks(mint_url: str, key: str, *args: Any) -> Any:
        names.append(key)
        if key == names[0]:
            raise ValueError("nobody thought of this")
        return await swap_in(mint_url, key, *args)

    with monkeypatch.context() as patch:
        patch.setattr(world.service, "swap_in", breaks)
        assert await world.redeemer.redeem() == 0
        await world.release(second.ticket_id, 0)
        world.now += 60
        assert await world.redeemer.redeem() == 1
    assert await world.states(second.ticket_id) == ["redeemed"]
    assert [share.batch for share in await world.shares(first.ticket_id)] == names[:1]
    world.now += 60
    assert await world.redeemer.redeem() == 1
    assert await world.sats() == 17


async def test_what_a_forgotten_payer_paid_is_redeemed(
    world: PayeeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    terms = world.terms(7)
    await world.hand_over(terms)
    await world.release(terms.ticket_id, 0)

    def gone(*_: object) -> None:
        raise NotFound("the client of this ticket is gone")

    monkeypatch.setattr(world, "put", gone)
    assert await world.redeemer.redeem() == 1
    assert (await world.states(terms.ticket_id), await world.sats()) == (["redeemed"], 7)


async def test_a_ticket_that_cannot_be_looked_at_holds_up_no_other(
    world: PayeeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = world.terms(3), world.terms(4)
    check = world.engine._check_tokens

    def breaks(ticket: Any, *args: Any) -> Any:
        if ticket.ticket_id == bad.ticket_id:
            raise ValueError("nobody thought of this")
        return check(ticket, *args)

    with monkeypatch.context() as patch:
        patch.setattr(world.engine, "_check_tokens", breaks)
        for terms in (bad, good):
            await world.hand_over(terms)
        assert [each.ticket_id for each in world.sent if isinstance(each, TicketAck)] == [good.ticket_id]
        assert "nobody thought of this" in (await world.ticket(bad.ticket_id)).detail
    world.now += 60
    assert await world.engine.look() == 1
    assert isinstance(world.sent[-1], TicketAck) and world.sent[-1].ticket_id == bad.ticket_id


async def test_the_kit_redeems_whatever_becomes_of_the_rest_and_says_what_failed(
    tmp_path: Path, mint_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = PaidKit(tmp_path, mint_url)
    async with world.open() as kit:
        await world.hired(kit)
        terms = await world.handed(kit, 20)
        assert (await run_fee(kit)).state == "done"

        async def breaks() -> int:
            raise ValueError("nobody thought of this")

        said: list[str] = []
        monkeypatch.setattr(kit.tickets._engine, "look", breaks)
        monkeypatch.setattr(kit, "_say", said.append)
        kit._spawn(kit.tickets.tend())
        await asyncio.wait(tuple(kit._tasks))
        assert states(await kit.tickets.view(terms.ticket_id)) == ["redeemed"] and await sats(kit) == 20
        assert any("nobody thought of this" in line for line in said)
    await world.close()
