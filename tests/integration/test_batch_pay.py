"""Lines of a batch that are paid: each by its own item of a ticket or by its own claim, over kills too
(docs/protocol/11-advisor-kit.md §8, §10; docs/decisions/0642)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hive_advisor.advisor import Advisor
from hive_advisor.cli.batch import send_batch
from hive_advisor.config import ReceiveConfig
from hive_advisor.domain.batch import BatchLine, digest_of, parse_batch
from hive_advisor.services.batch_pay import PayFor
from hive_advisor.services.batches import BatchOutcome
from hive_shared import envelope
from hive_shared.bolt11 import read_invoice
from hive_shared.errors import Conflict, InvalidParams, NotFound
from kit_tickets import PaidKit
from kit_world import FEE, PARAMS, KitWorld
from msgspec.structs import replace
from payer_world import PRICE, Payer, opened
from pocket_wallet import PocketWallet

_MOST_POINTS = 120
TICKET = "ab" * 16


def lines(count: int = 3, ppm: int = 0, **more: Any) -> tuple[BatchLine, ...]:
    """The same command, `count` times; with `ppm` every one another."""
    return tuple(
        BatchLine(n, "alice", *FEE, {**PARAMS, "fee_ppm": ppm + n} if ppm else dict(PARAMS), **more)
        for n in range(1, count + 1)
    )


async def _yes(_line: BatchLine, judged: Any) -> tuple[bool, int]:
    return True, judged.plan.danger.total


async def ran(kit: Advisor, batch: tuple[BatchLine, ...], said: PayFor) -> list[BatchOutcome]:
    """What each line came to, up to the one that stopped the batch."""
    name = f"b-{digest_of(batch)[:24]}"
    steps = await kit.batches.check(name, batch, "cli", said)
    return [each async for each in kit.batches.run(name, steps, _yes, said, origin="cli", wait_s=60)]


def proofs(world: KitWorld) -> list[dict[str, Any]]:
    """How the commands that the node got are paid, each id once."""
    paid = {c.command_id: dict(c.payment_proof or {}) for c in world.node.commands if c.schema_type == FEE[0]}
    return list(paid.values())


async def items_of(kit: Advisor, ticket_id: str) -> list[str | None]:
    return [each.command_id for each in (await kit.tickets.view(ticket_id)).items]


async def test_each_line_takes_an_item_and_one_that_fails_gives_back_its_own_alone(
    tmp_path: Path, mint_url: str
) -> None:
    world = PaidKit(tmp_path, mint_url)
    async with world.open() as kit:
        await world.hired(kit)
        terms = await world.handed(kit, 5, 5, 5)
        said, seen = PayFor(ticket=terms.ticket_id), 0

        def second_fails(command: envelope.Command) -> dict[str, Any]:
            nonlocal seen
            seen += command.schema_type == FEE[0]
            if command.schema_type == FEE[0] and seen == 2:
                error = {"code": 4001, "slug": "policy_denied", "message": "no"}
                return world.node.response(command, 1, error=error)
            return world.work(command)

        world.node.answer = second_fails
        first = await ran(kit, lines(), said)
        assert [(each.line.number, each.ran) for each in first] == [(1, True), (2, False)]
        held = await items_of(kit, terms.ticket_id)
        view = await kit.tickets.view(terms.ticket_id)
        assert held[0] is not None and held[2] is None and view.items[1].state == "accepted"
        again = await ran(kit, lines(), said)
        assert [each.ran for each in again] == [True, True, True] and again[0].before
        assert sorted(int(str(proof["item"])) for proof in proofs(world)) == [0, 1, 1, 2]
        assert len(set(await items_of(kit, terms.ticket_id))) == 3
        # A fourth line finds no item: nothing of it is sent.
        four = await ran(kit, lines(4), said)
        assert [each.ran for each in four] == [False] and isinstance(four[0].error, Conflict)
    await world.close()


async def test_a_batch_by_ticket_killed_anywhere_and_carried_on_uses_each_item_once(
    tmp_path: Path, mint_url: str
) -> None:
    for at in range(0, _MOST_POINTS, 7):
        world = PaidKit(tmp_path / str(at), mint_url)
        async with world.open() as kit:
            await world.hired(kit)
            terms = await world.handed(kit, 5, 5)
        said = PayFor(ticket=terms.ticket_id)

        async def work(kit: Advisor, said: PayFor = said) -> None:
            await ran(kit, lines(2), said)

        died = await world.killed(at, work)
        async with world.open() as kit:
            world.ahead += 60
            outcomes = await ran(kit, lines(2), said)
            assert [each.ran for each in outcomes] == [True, True], at
            assert None not in await items_of(kit, terms.ticket_id), at
        used = [int(str(proof["item"])) for proof in proofs(world)]
        assert sorted(used) == [0, 1], at
        await world.close()
        if not died:
            return
    pytest.fail(f"more than {_MOST_POINTS} points")


def paid_world(path: Path) -> tuple[KitWorld, Payer, PocketWallet]:
    world = KitWorld(path)
    world.settings = {"receive": ReceiveConfig("cln", cln="pocket")}
    payer = Payer(world)
    world.node.answer = payer.answer
    return world, payer, PocketWallet(world.now, world.point)


async def test_claims_of_a_batch_killed_anywhere_hand_out_one_invoice_a_line(tmp_path: Path) -> None:
    for at in range(0, _MOST_POINTS, 5):
        world, payer, pocket = paid_world(tmp_path / str(at))
        async with opened(world, payer, pocket) as kit:
            await world.hired(kit)
        batch, said = lines(2, 200), PayFor(pay=True)

        async def work(kit: Advisor, pocket: PocketWallet = pocket, payer: Payer = payer) -> None:
            kit.money._nodes = pocket
            kit.signed_mail._link = payer
            await ran(kit, lines(2, 200), PayFor(pay=True))

        died = await world.killed(at, work)
        async with opened(world, payer, pocket) as kit:
            # Where nothing is under way: long enough for a claim of what never left to be taken for void.
            world.ahead += 60 if await kit.commands.open() else 2 * 3_600
            await kit.money.tick()
            outcomes = await ran(kit, batch, said)
            assert [each.ran for each in outcomes] == [True, True], at
            owed = await kit.money.earnings.listed(10)
            assert [(each.amount_sats, each.state) for each in owed] == [(PRICE, "invoiced")] * 2, at
        claimed = [str(proof["invoice"]) for proof in proofs(world)]
        assert len(claimed) == len(set(claimed)) == 2, at
        assert {each.payment_hash for each in owed} == {read_invoice(text).payment_hash for text in claimed}
        if not died:
            return
    pytest.fail(f"more than {_MOST_POINTS} points")


@pytest.mark.parametrize("said", [PayFor(pay=True), PayFor(ticket=TICKET)])
async def test_what_is_said_for_all_is_not_said_for_reads_which_earn_nothing(
    tmp_path: Path, said: PayFor
) -> None:
    world, payer, pocket = paid_world(tmp_path)
    async with opened(world, payer, pocket) as kit:
        await world.hired(kit)
        read = BatchLine(1, "alice", "hive:monitor/v1", "health_summary", {})
        if said.ticket:
            with pytest.raises(NotFound, match=f"line 2: no ticket '{TICKET}'"):
                await ran(kit, (read, replace(lines(1)[0], number=2)), said)
            return
        outcomes = await ran(kit, (read, replace(lines(1)[0], number=2)), said)
        assert [each.ran for each in outcomes] == [True, True]
        assert [each.amount_sats for each in await kit.money.earnings.listed(10)] == [PRICE]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('"pay":1', '"pay" takes true or false'),
        ('"ticket":"short"', "give a ticket's id of 32 characters"),
        (f'"ticket":"{TICKET}:x"', "or id:item"),
        (f'"ticket":"{TICKET}","pay":true', "not by both"),
    ],
)
def test_what_a_line_says_of_its_pay_is_read_strictly(text: str, said: str) -> None:
    body = '{"client":"alice","schema":"hive:fee-policy/v1","action":"set_single",' + text + "}"
    with pytest.raises(InvalidParams, match=f"line 1: .*{said}"):
        parse_batch(body)


async def test_the_options_of_a_batch_fit_together(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text('{"client":"alice","schema":"hive:fee-policy/v1","action":"set_single"}')
    desk: Any = None
    given: dict[str, Any] = {"dry_run": False, "again": False, "retry_until": None}
    with pytest.raises(InvalidParams, match="not by both"):
        await send_batch(desk, str(file), None, None, pay=True, ticket=TICKET, **given)
    with pytest.raises(InvalidParams, match="names no item"):
        await send_batch(desk, str(file), None, None, ticket=f"{TICKET}:1", **given)


def test_what_a_line_says_comes_before_what_is_said_for_all_and_names_the_batch() -> None:
    plain, own = lines(1), lines(1, ticket=TICKET)
    assert PayFor(pay=True).of(own[0], read=False) == PayFor(ticket=TICKET)
    assert PayFor(pay=True).of(plain[0], read=False) == PayFor(pay=True)
    assert digest_of(plain) != digest_of(own) != digest_of(lines(1, pay=True))
