"""What a mint, an operator or a lost disk can do to the wallet beside losing answers
(docs/protocol/03-escrow-and-payments.md §4.2, §5, §9)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from cashu_mint import PaperMint
from ecash_world import EcashWorld
from hive_devnet.mint_faults import MintFaultFront
from hive_shared.cashu.journal import OpState
from hive_shared.cashu.ports import MintRefused, MintUnavailable
from hive_shared.cashu.settling import Paid
from hive_shared.cashu.token import decode_token
from hive_shared.cashu.wire import QuoteState
from hive_shared.errors import Conflict, EmergencyStop, PaymentFailed
from mint_releases import each_release

pytestmark = pytest.mark.asyncio(loop_scope="module")
mint_url = each_release


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def payer(mint_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EcashWorld]:
    """A wallet with ecash at the mint."""
    world = EcashWorld(tmp_path_factory.mktemp("payer"), mint_url)
    await world.service.fund(2_000, None, None, 30)
    yield world
    await world.close()


def put(world: EcashWorld, **methods: Callable[..., Awaitable[Any]]) -> None:
    """What this mint does instead."""
    for name, method in methods.items():
        setattr(world.mints.client, name, method)


def failing(world: EcashWorld, name: str, times: int, error: Exception) -> None:
    """The next calls of this method of the mint end so, and never reach it."""
    call: Callable[..., Awaitable[Any]] = getattr(world.mints.client, name)
    left = times

    async def instead(*args: Any, **named: Any) -> Any:
        nonlocal left
        if left:
            left -= 1
            raise error
        return await call(*args, **named)

    setattr(world.mints.client, name, instead)


async def test_a_token_that_no_mint_was_there_for_is_received_later(
    mint_url: str, payer: EcashWorld, tmp_path: Path
) -> None:
    world = EcashWorld(tmp_path, mint_url)
    token = (await payer.service.send(64, None, None, None, 30)).body.token
    failing(world, "swap", 1, MintUnavailable(mint_url, "no connection", sent=False))
    with pytest.raises(PaymentFailed, match="no connection"):
        await world.service.receive(token, 30)
    op = await world.service.receive(token, 30)
    assert (op.state, await world.sats()) == (OpState.DONE, op.amount_sats)
    assert (await world.service.receive(token, 30)).op_id == op.op_id
    await world.close()


async def test_what_was_paid_for_is_asked_for_until_the_mint_gives_it(mint_url: str, tmp_path: Path) -> None:
    world = EcashWorld(tmp_path, mint_url)
    failing(world, "mint", 9, MintUnavailable(mint_url, "HTTP 503", sent=True))
    op = await world.service.fund(100, None, None, 1)
    for _ in range(12):
        await world.sweep()
    (op,) = await world.ops()
    assert (op.state, await world.sats()) == (OpState.DONE, 100)
    assert len(world.alerts) == 1
    await world.close()


async def test_a_new_database_with_a_used_seed_makes_ecash_of_its_own(mint_url: str, tmp_path: Path) -> None:
    old = EcashWorld(tmp_path / "old", mint_url)
    await old.service.fund(100, None, None, 30)
    await old.service.fund(100, None, None, 30)
    await old.close()
    world = EcashWorld(tmp_path / "new", mint_url, seed=old.seed, looks_ahead=True)
    await world.service.fund(100, None, None, 30)
    assert await world.sats() == 100
    found = await world.restore_from_seed().run(None, dry_run=False)
    assert (found["unspent_sats"], await world.sats()) == (300, 300)
    assert (await world.service.withdraw(250, None, None, 30)).state is OpState.DONE
    await world.close()


async def test_an_old_copy_looks_beyond_counters_that_nothing_was_signed_for(
    mint_url: str, tmp_path: Path
) -> None:
    old = EcashWorld(tmp_path / "old", mint_url)
    (keyset,) = (await old.mints.keysets(mint_url)).values()
    # As many as operations take that a mint refuses for a while, right after the copy was made.
    await old.db.write(lambda tx: old.store.take_counters(tx, mint_url, keyset.id, 210))
    await old.service.fund(100, None, None, 30)
    await old.close()
    copy = EcashWorld(tmp_path / "new", mint_url, seed=old.seed, looks_ahead=True)
    await copy.service.fund(100, None, None, 30)
    own = [each.counter for op in await copy.ops() for each in op.body.outputs if each.counter is not None]
    assert min(own) >= 210 + len(own) and await copy.sats() == 100
    await copy.close()


async def test_a_mint_that_is_named_by_two_addresses_signs_nothing_twice(
    mint_url: str, tmp_path: Path
) -> None:
    async with MintFaultFront.before(mint_url) as front:
        world = EcashWorld(tmp_path, mint_url, looks_ahead=True, others=[front.url])
        for number in range(3):
            for url in (mint_url, front.url):
                await world.service.fund(64, url, None, 30)
            assert await world.sats() == 128 * (number + 1)
        told = await world.service.balance()
        assert [told[url]["unspent"] for url in (mint_url, front.url)] == [192, 192]
        names = [each.output.secret for op in await world.ops() for each in op.body.outputs]
        assert len(set(names)) == len(names)
        await world.close()


async def test_a_restore_looks_beyond_counters_that_nothing_was_signed_for(
    mint_url: str, tmp_path: Path
) -> None:
    world = EcashWorld(tmp_path, mint_url)
    (keyset,) = (await world.mints.keysets(mint_url)).values()
    # As many as operations take that a mint refuses for a while.
    await world.db.write(lambda tx: world.store.take_counters(tx, mint_url, keyset.id, 310))
    await world.service.fund(100, None, None, 30)
    await world.db.write(lambda tx: tx.execute("DELETE FROM comms_cashu_proofs"))
    found = await world.restore_from_seed().run(None, dry_run=False)
    assert (found["unspent_sats"], await world.sats()) == (100, 100)
    await world.close()


async def test_an_operation_of_an_old_backup_brings_nothing_that_was_spent(
    mint_url: str, payer: EcashWorld, tmp_path: Path
) -> None:
    world = EcashWorld(tmp_path / "old", mint_url)
    token = (await payer.service.send(128, None, None, None, 30)).body.token
    failing(world, "swap", 1, MintUnavailable(mint_url, "HTTP 503", sent=True))
    failing(world, "restore", 2, MintUnavailable(mint_url, "HTTP 503", sent=True))
    assert (await world.service.receive(token, 1)).open
    rows = await world.db.read(lambda tx: list(world.store.raw_ops(tx)))
    for _ in range(3):
        await world.sweep()
    have = await world.sats()
    gone = await world.service.send(have, None, None, None, 30)
    await payer.service.receive(gone.body.token, 30)
    await world.close()
    fresh = EcashWorld(tmp_path / "new", mint_url, seed=world.seed)
    assert await fresh.db.write(lambda tx: fresh.store.put_raw_op(tx, rows[0]))
    for _ in range(3):
        await fresh.sweep()
    (op,) = await fresh.ops()
    assert (op.state, await fresh.sats(), await fresh.held()) == (OpState.DONE, 0, 0)
    await fresh.close()


async def test_a_restore_in_the_middle_of_a_send_does_not_count_what_is_given_away(
    mint_url: str, tmp_path: Path
) -> None:
    world = EcashWorld(tmp_path, mint_url)
    await world.service.fund(64, None, None, 30)
    swap, restore = world.mints.client.swap, world.mints.client.restore

    async def lost(*request: Any) -> Any:
        await swap(*request)
        raise MintUnavailable(mint_url, "no answer", sent=True)

    put(world, swap=lost)
    failing(world, "restore", 2, MintUnavailable(mint_url, "HTTP 503", sent=True))
    assert (await world.service.send(10, None, None, "gift", 1)).open
    put(world, swap=swap, restore=restore)
    change = 64 - 10 - 1
    assert (await world.restore_from_seed().run(None, dry_run=False))["new_sats"] == change
    assert await world.sats() == change, "the gift could be spent before it is known to be one"
    await world.sweep()
    sent = await world.service.send(10, None, None, "gift", 30)
    assert decode_token(sent.body.token).proofs
    assert (await world.sats(), await world.held()) == (64 - 10 - sent.fee_sats, 0)
    await world.close()


async def test_a_key_stands_for_one_receiver(payer: EcashWorld) -> None:
    own = payer.service.receive_pubkey
    first = await payer.service.send(8, None, own, "to-own", 30)
    for pubkey in (None, "02" + "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"):
        with pytest.raises(Conflict):
            await payer.service.send(8, None, pubkey, "to-own", 30)
    # What was done before the stop is told also during it.
    payer.stopped = True
    assert (await payer.service.send(8, None, own, "to-own", 30)).body.token == first.body.token
    with pytest.raises(EmergencyStop):
        await payer.service.send(8, None, own, "another", 30)
    payer.stopped = False


async def test_a_mint_that_wants_too_much_for_paying_is_not_paid_through(payer: EcashWorld) -> None:
    client, before = payer.mints.client, await payer.sats()
    quote = client.melt_quote

    async def dear(invoice: str) -> Any:
        return msgspec.structs.replace(await quote(invoice), fee_reserve=11)

    put(payer, melt_quote=dear)
    with pytest.raises(PaymentFailed, match="11 sat") as refused:
        await payer.service.withdraw(100, None, None, 30)
    assert (refused.value.reason, await payer.sats(), await payer.held()) == ("fee_too_high", before, 0)
    for asked in (99, 101, 1_000):

        async def other(invoice: str, amount: int = asked) -> Any:
            return msgspec.structs.replace(await quote(invoice), amount=amount)

        put(payer, melt_quote=other)
        with pytest.raises(PaymentFailed, match=f"asks {asked} sat for an invoice of 100 sat") as mismatch:
            await payer.service.withdraw(100, None, None, 30)
        assert mismatch.value.reason == "invoice_mismatch"
    put(payer, melt_quote=quote)
    assert (await payer.sats(), await payer.held()) == (before, 0)


async def test_a_mint_that_keeps_the_change_is_told_of(mint_url: str, tmp_path: Path) -> None:
    world = EcashWorld(tmp_path, mint_url)
    await world.service.fund(1_024, None, None, 30)
    client = world.mints.client
    melt, state, restore = client.melt, client.melt_quote_state, client.restore

    async def without(call: Callable[..., Awaitable[Any]], *args: Any, **empty: Any) -> Any:
        return msgspec.structs.replace(await call(*args), **empty)

    for name, call, empty in (
        ("melt", melt, {"change": None}),
        ("melt_quote_state", state, {"change": None}),
        ("restore", restore, {"outputs": [], "signatures": []}),
    ):
        setattr(client, name, lambda *a, _call=call, _empty=empty: without(_call, *a, **_empty))
    op = await world.service.withdraw(100, None, None, 5)
    assert op.open and await world.held() == 1_024
    await world.sweep()
    (op,) = [each for each in await world.ops() if each.kind == "melt"]
    assert (op.state, op.fee_sats, await world.sats()) == (OpState.DONE, 924, 0)
    assert len(world.alerts) == 1 and "kept 924 sat" in world.alerts[0][2]
    # The seed still finds it should the mint come to its senses.
    put(world, restore=restore)
    assert (await world.restore_from_seed().run(None, dry_run=False))["new_sats"] > 900
    await world.close()


async def test_a_quote_cannot_keep_an_operation_open_for_ever(mint_url: str, tmp_path: Path) -> None:
    world = EcashWorld(tmp_path, mint_url)
    client = world.mints.client
    quote, state = client.mint_quote, client.mint_quote_state

    async def endless(amount: int, *, pubkey: str | None = None) -> Any:
        return msgspec.structs.replace(await quote(amount, pubkey=pubkey), expiry=2**70)

    async def unpaid(quote_id: str) -> Any:
        return msgspec.structs.replace(await state(quote_id), state=QuoteState.UNPAID, paid=None)

    put(world, mint_quote=endless, mint_quote_state=unpaid)
    assert (await world.service.fund(50, None, None, 2)).open
    world.now += 86_400 + 3_601
    await world.sweep()
    (op,) = await world.ops()
    assert (op.state, op.reason) == (OpState.FAILED, "invoice_expired")
    await world.close()


async def test_a_mint_that_hangs_holds_no_caller_beyond_its_timeout(mint_url: str, tmp_path: Path) -> None:
    world = EcashWorld(tmp_path, mint_url)
    never = asyncio.Event()

    async def hang(*_: object, **__: object) -> Sequence[object]:
        await never.wait()
        return []

    put(world, mint_quote=hang)
    with pytest.raises(PaymentFailed, match="nothing was begun"):
        await asyncio.wait_for(world.service.fund(50, None, None, 0.05), 20)
    assert await world.ops() == []
    await world.close()


async def test_a_refusal_hides_what_a_mint_repeats(payer: EcashWorld, mint_url: str) -> None:
    secret = "ab" * 32
    front = MintRefused(mint_url, 400, 11_001, f"Token already spent: {secret}")
    assert secret not in front.detail


def unpaid(world: EcashWorld, **more: Any) -> Callable[[], None]:
    """The mint says of every quote that it is not paid, until the answer is called."""
    state = world.mints.client.mint_quote_state

    async def never(quote_id: str) -> Any:
        return msgspec.structs.replace(await state(quote_id), state=QuoteState.UNPAID, paid=None, **more)

    put(world, mint_quote_state=never)
    return lambda: put(world, mint_quote_state=state)


async def test_a_fund_waits_for_a_payment_that_hangs_however_long(mint_url: str, tmp_path: Path) -> None:
    world = EcashWorld(tmp_path, mint_url)
    world.now = int(time.time())
    seen = unpaid(world)
    world.payer.end = Paid.OPEN
    assert (await world.service.fund(50, None, None, 2)).open
    for _ in range(5):
        world.now += 86_400
        await world.sweep()
    (op,) = await world.ops()
    assert op.open and op.payment_id and "no end yet" in op.error
    seen()
    await world.sweep()
    assert (await world.sats(), world.alerts) == (50, [])
    await world.close()


@pytest.mark.parametrize("end", [Paid.SETTLED, None])
async def test_a_quote_that_is_paid_after_its_end_is_minted_within_a_day(
    mint_url: str, tmp_path: Path, end: Paid | None
) -> None:
    world = EcashWorld(tmp_path, mint_url)
    world.now = int(time.time())
    seen = unpaid(world)
    world.payer.end = end
    assert (await world.service.fund(50, None, None, 2)).open
    world.now += 86_400 + 3_601
    await world.sweep()
    (op,) = await world.ops()
    assert (op.state, op.reason) == (OpState.FAILED, "invoice_expired")
    told = [text for _, _, text in world.alerts]
    assert told == (["50 sat were paid to the mint, and it does not say so"] if end else [])
    seen()
    await world.sweep()
    (op,) = await world.ops()
    assert (op.state, await world.sats()) == (OpState.DONE, 50)
    await world.close()


@pytest.mark.parametrize("end", [Paid.FAILED, None])
async def test_an_invoice_that_can_be_paid_for_months_is_remembered_until_its_end(
    mint_url: str, tmp_path: Path, end: Paid | None
) -> None:
    world, day = EcashWorld(tmp_path, mint_url), 86_400
    begun = world.now = int(time.time())
    seen = unpaid(world, expiry=begun + 60 * day)
    world.payer.end = end
    for number in range(2):
        with suppress(PaymentFailed):
            assert (await world.service.fund(50 + number, None, None, 2)).open
    for days in (2, 33, 59):
        world.now = begun + days * day
        await world.sweep()
        await world.service.tidy()
    assert [op.state for op in await world.ops()] == [OpState.FAILED] * 2
    never = world.mints.client.mint_quote_state
    seen()
    paid, (late, _) = world.mints.client.mint_quote_state, await world.ops()
    put(world, mint_quote_state=lambda quote: (paid if quote == late.quote_id else never)(quote))
    await world.sweep()
    assert await world.sats() == late.amount_sats
    # Past the end of the invoice nobody asks, and what was not paid is forgotten like all that ended.
    put(world, mint_quote_state=paid)
    world.now = begun + 61 * day
    await world.sweep()
    assert (await world.sats(), len(await world.ops())) == (late.amount_sats, 2)
    world.now = begun + 92 * day
    await world.service.tidy()
    assert await world.ops() == []
    await world.close()


async def test_a_fund_whose_payment_failed_ends_at_once(mint_url: str, tmp_path: Path) -> None:
    world = EcashWorld(tmp_path, mint_url)
    unpaid(world)
    world.payer.end = Paid.FAILED
    with pytest.raises(PaymentFailed, match="not paid"):
        await world.service.fund(50, None, None, 5)
    (op,) = await world.ops()
    assert (op.state, op.reason, await world.sats()) == (OpState.FAILED, "payment_failed", 0)
    await world.close()


@pytest.mark.parametrize(
    ("amounts", "asked", "words"),
    [
        ((3, 5, 1_024), 10, "no active keyset in sat"),
        ((2, 4), 10, "no active keyset in sat"),
        ((1, 3, 7), 1_001, "1001 would take more than 1000 proofs"),
        ((1, 2), 5_000, "5000 would take more than 1000 proofs"),
    ],
)
async def test_a_keyset_that_no_amount_can_be_made_of_is_refused_in_a_sentence(
    mint_url: str, tmp_path: Path, amounts: tuple[int, ...], asked: int, words: str
) -> None:
    world = EcashWorld(tmp_path, mint_url)
    paper = PaperMint(seed="odd", amounts=amounts)

    async def odd(url: str) -> Any:
        return paper.keysets

    world.mints.keysets = odd
    with pytest.raises(PaymentFailed, match=words):
        await world.service.fund(asked, None, None, 30)
    assert await world.ops() == []
    await world.close()


async def test_a_mint_that_signs_only_a_part_is_told_of_and_holds_nothing_up(
    mint_url: str, tmp_path: Path
) -> None:
    world = EcashWorld(tmp_path, mint_url)
    await world.service.fund(64, None, None, 30)
    swap, restore = world.mints.client.swap, world.mints.client.restore

    async def part(*request: Any) -> Any:
        return (await swap(*request))[1:]

    async def part_again(*request: Any) -> Any:
        answer = await restore(*request)
        return msgspec.structs.replace(answer, outputs=answer.outputs[1:], signatures=answer.signatures[1:])

    put(world, swap=part, restore=part_again)
    assert (await world.service.send(10, None, None, "gift", 1)).open
    assert await world.held() == 64
    await world.sweep()
    (op,) = [each for each in await world.ops() if each.kind == "send"]
    assert (op.state, op.reason, await world.held()) == (OpState.FAILED, "mint_nonconformant", 0)
    kept = sum(each.output.amount for each in op.body.outputs[1:] if each.use == "keep")
    ((_, _, text),) = world.alerts
    missing = sum(each.output.amount for each in op.body.outputs) - kept
    assert await world.sats() == kept and f"{missing} sat are missing" in text
    await world.close()
