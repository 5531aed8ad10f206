"""A probe of real mints: what each release does, whatever it says; killed at every disk and mint call it
loses nothing (docs/protocol/03 §4.2, §14.12, §14.15)."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from crash_points import Countdown
from ecash_world import EcashWorld
from hive_devnet.mint import MintProcess, mint_environment, mint_installed
from hive_devnet.mint_faults import MintFault, MintFaultFront, MintFaultKind
from hive_shared.cashu.mint_caps import Caps
from hive_shared.cashu.mint_health import examine
from hive_shared.cashu.ports import MintRefused, MintUnavailable
from hive_shared.cashu.probe import Probed
from hive_shared.cashu.reasons import MintNonconformant
from hive_shared.cashu.secrets import parse_secret
from hive_shared.cashu.wallet import MintKeys
from hive_shared.cashu.wire import BlindedMessage, Proof
from hive_shared.errors import PaymentFailed
from pipeline_world import Crash

START = 64
ABLE = Caps(htlc=True, multisig=True, sigall=False, late_redeem=True, restore=True, n_sigs_refund=True)
FEES = 4
"""What a probe of the usual mint takes: one sat each for the swap that locks and for three that open."""


@asynccontextmanager
async def wallet(directory: Path, mint_url: str, sats: int = START) -> AsyncIterator[EcashWorld]:
    """A wallet with some ecash at the mint."""
    world = EcashWorld(directory, mint_url)
    await world.service.fund(sats, None, None, 30)
    yield world
    await world.close()


async def keys_of(world: EcashWorld) -> MintKeys:
    return await world.service.ready(world.mint_url)


async def probed(world: EcashWorld) -> Probed:
    return await world.prober().run(await keys_of(world))


async def swept(world: EcashWorld) -> None:
    """What the loops do after a crash, until nothing is left for them to do."""
    for _ in range(30):
        probes = await world.db.read(world.store.unopened_probes)
        again = [await world.prober().open_again(op, await keys_of(world)) for op in probes]
        if not any(again) and not any(op.open for op in await world.ops()):
            return
        await world.sweep()
    pytest.fail("the loops came to no end")


async def settled(world: EcashWorld) -> int:
    """The sats that are free; nothing is open, and the mint calls every proof unspent."""
    ops = await world.ops()
    assert not [op for op in ops if op.open], ops
    ys = await world.unspent()
    assert {entry.state for entry in await world.mints.client.checkstate(ys)} == {"UNSPENT"}
    assert await world.held() == 0 and world.alerts == []
    return await world.sats()


async def test_acceptance_03_15_the_usual_mint_passes_and_takes_only_its_fees(
    mint_url: str, tmp_path: Path
) -> None:
    async with MintFaultFront.before(mint_url) as front, wallet(tmp_path, front.url) as world:
        assert (await examine(world.mints.client, {}, lambda: world.now)).info.nuts
        swaps = len(front.seen("/v1/swap"))
        assert await probed(world) == Probed(ABLE, FEES)
        assert await settled(world) == START - FEES
        tried = front.seen("/v1/swap")[swaps:]
        # Locks, the plain one, the rest together, the one under SIG_ALL as this release wants it signed.
        assert [request.status for request in tried].count(200) == 4
        # With the quote and the minting before, it stays inside the money calls of a minute.
        assert len(tried) == 15


@pytest.mark.parametrize(
    ("release", "problems", "caps"),
    [
        (
            "0.16",
            ("does not say that it does NUT-14", "shows no time"),
            {"htlc": False, "multisig": False},
        ),
        ("0.21", (), {"htlc": True, "multisig": True, "sigall": True, "restore": True, "late_redeem": True}),
    ],
)
async def test_acceptance_03_15_other_releases_are_judged_by_what_they_do(
    tmp_path: Path, release: str, problems: tuple[str, ...], caps: dict[str, bool]
) -> None:
    if not mint_installed(release):
        pytest.skip(f"no mint in {mint_environment(release)}: `make setup-mints` puts it there")
    process = await MintProcess.start(tmp_path / "mint", release=release)
    try:
        async with wallet(tmp_path / "own", process.url) as world:
            health = await examine(world.mints.client, {}, lambda: world.now)
            assert health.version.startswith(f"Nutshell/{release}.")
            found_bad = [each for each in health.problems if not each.startswith("its clock is")]
            assert set(found_bad) <= set(problems) and bool(found_bad) == bool(problems)
            found = await probed(world)
            assert {name: getattr(found.caps, name) for name in caps} == caps
            assert await settled(world) == START - found.cost_sats
    finally:
        await process.stop()


async def test_a_probe_killed_at_every_disk_and_mint_call_loses_only_fees(
    mint_url: str, tmp_path: Path
) -> None:
    for at in range(0, 60, 3):
        async with wallet(tmp_path / str(at), mint_url) as world:
            countdown = Countdown(at)
            countdown.watch(world.db, "write")
            countdown.watch(world.mints.client, "swap", "restore")
            died = True
            try:
                assert (await probed(world)).caps == ABLE
                died = False
            except Crash:
                pass
            countdown.left = -1
            await world.restart()
            await swept(world)
            kept = await settled(world)
            # A lock under SIG_ALL of a form that is not this release's comes back in the old one:
            # nothing is lost beyond the fees.
            assert START - FEES <= kept <= START, (at, kept)
        if not died:
            return
    pytest.fail("more than 60 points")


async def test_a_killed_probe_of_a_mint_that_opens_one_lock_to_nobody_loses_that_lock_alone(
    mint_url: str, tmp_path: Path
) -> None:
    lost = set[int]()
    # Before the five are offered together, after the mint refused that, amid them one by one.
    for at in (20, 26, 29, 34):
        async with wallet(tmp_path / str(at), mint_url) as world:

            def unwilling(client: object) -> object:
                async def refuse(inputs: Sequence[Proof], outputs: Sequence[BlindedMessage]) -> object:
                    if any('"n_sigs_refund","2"' in each.secret for each in inputs):
                        raise MintRefused(mint_url, 400, 11_000, "no")
                    return await type(client).swap(client, inputs, outputs)

                return refuse

            world.mints.client.swap = unwilling(world.mints.client)
            countdown = Countdown(at)
            countdown.watch(world.db, "write")
            countdown.watch(world.mints.client, "swap", "restore")
            with pytest.raises(Crash):
                await probed(world)
            countdown.left = -1
            await world.restart()
            world.mints.client.swap = unwilling(world.mints.client)
            await swept(world)
            lost.add(START - await settled(world))
    # One sat of fee each for the locks and for six that are opened alone at most, and the lock of 2 sat.
    assert lost and max(lost) <= 1 + 6 + 2, lost


async def test_what_opens_the_locks_of_a_killed_probe_waits_for_a_mint_that_is_away(
    mint_url: str, tmp_path: Path
) -> None:
    async with wallet(tmp_path, mint_url) as world:
        countdown = Countdown(20)
        countdown.watch(world.db, "write")
        countdown.watch(world.mints.client, "swap", "restore")
        with pytest.raises(Crash):
            await probed(world)
        countdown.left = -1
        await world.restart()

        async def away(*_: object) -> None:
            raise MintUnavailable(mint_url, "no turn within 30 seconds", sent=False)

        with pytest.MonkeyPatch.context() as patch:
            for call in ("swap", "restore", "checkstate"):
                patch.setattr(world.mints.client, call, away, raising=False)
            for _ in range(3):
                await world.sweep()
        await swept(world)
        assert await settled(world) == START - FEES


@pytest.mark.parametrize("strict", [False, True])
async def test_a_probe_broken_off_for_longer_than_its_locks_last_loses_only_fees(
    mint_url: str, tmp_path: Path, strict: bool
) -> None:
    """`strict`: a mint that opens what is past its locktime for the refund keys alone."""

    def unwilling(client: object) -> object:
        async def refuse(inputs: Sequence[Proof], outputs: Sequence[BlindedMessage]) -> object:
            for each in inputs:
                lock = parse_secret(each.secret).lock if each.witness else None
                shown = msgspec.json.decode(each.witness or "{}")
                several = len(shown.get("signatures", ())) > 1 and lock is not None and not lock.n_sigs_refund
                if (
                    lock is not None
                    and (lock.locktime or 0) < time.time()
                    and ("preimage" in shown or several)
                ):
                    raise MintRefused(mint_url, 400, 11_000, "no")
            return await type(client).swap(client, inputs, outputs)

        return refuse

    # Before the locks are opened, amid it.
    for at in (5, 20):
        async with wallet(tmp_path / str(at), mint_url) as world:
            countdown = Countdown(at)
            countdown.watch(world.db, "write")
            countdown.watch(world.mints.client, "swap", "restore")
            begun = world.prober(now=lambda: int(time.time()) - 2 * 86_400)
            with pytest.raises(Crash):
                await begun.run(await keys_of(world))
            countdown.left = -1
            await world.restart()
            if strict:
                world.mints.client.swap = unwilling(world.mints.client)
            await swept(world)
            # A fee for the locks and for each swap that opens: of all but two together, or of each alone.
            assert START - await settled(world) == (1 + 7 if strict else FEES)


@pytest.mark.parametrize("fault", [MintFaultKind.LOSE_BEFORE, MintFaultKind.LOSE_AFTER])
async def test_an_answer_lost_in_a_probe_costs_only_fees(
    mint_url: str, tmp_path: Path, fault: MintFaultKind
) -> None:
    async with MintFaultFront.before(mint_url) as front:
        for at in (0, 1, 6, 12, 13, 14):
            async with wallet(tmp_path / str(at), front.url) as world:
                front.set(MintFault(fault, path="/v1/swap", skip=at, times=1))
                if at == 0:
                    # The locks are found again, and the probe goes on.
                    assert (await probed(world)).caps == ABLE
                else:
                    with pytest.raises(MintUnavailable):
                        await probed(world)
                assert front.clear() == 1
                await swept(world)
                assert START - FEES <= await settled(world) <= START


async def test_a_false_signature_ends_the_probe(mint_url: str, tmp_path: Path) -> None:
    async with MintFaultFront.before(mint_url) as front, wallet(tmp_path, front.url) as world:
        front.set(MintFault(MintFaultKind.BAD_DLEQ, path="/v1/swap", skip=10))
        with pytest.raises(MintNonconformant, match="DLEQ does not hold"):
            await probed(world)
        front.clear()
        await swept(world)
        assert START - FEES <= await settled(world) <= START


async def test_a_probe_that_nobody_waits_for_asks_before_each_call_whether_others_need_the_mint(
    mint_url: str, tmp_path: Path
) -> None:
    async with MintFaultFront.before(mint_url) as front, wallet(tmp_path, front.url) as world:
        waited: list[int] = []
        begun = len(front.seen("/v1/swap"))

        def leisure(url: str) -> float:
            sent = len(front.seen("/v1/swap")) - begun
            return 0.0 if sent in waited else 7.0

        async def sleep(seconds: float) -> None:
            assert seconds == 7.0
            waited.append(len(front.seen("/v1/swap")) - begun)

        prober = world.prober(leisure=leisure, sleep=sleep)
        assert (await prober.run(await keys_of(world), leisurely=True)).caps == ABLE
        assert waited == list(range(15)) and len(front.seen("/v1/swap")) - begun == 15
        waited.clear()
        assert (await prober.run(await keys_of(world))).caps == ABLE and waited == []


async def test_a_mint_that_restores_nothing_is_seen(mint_url: str, tmp_path: Path) -> None:
    async with MintFaultFront.before(mint_url) as front, wallet(tmp_path, front.url) as world:
        front.set(MintFault(MintFaultKind.STATUS_BEFORE, path="/v1/restore", status=404))
        caps = (await probed(world)).caps
        assert caps.htlc and not caps.restore and not caps.tickets


@pytest.mark.parametrize(
    ("call", "name", "lost"),
    [(4, "plain", {"htlc"}), (7, "back", {"htlc"}), (8, "two", {"multisig"}), (13, "bound", set[str]())],
)
async def test_a_mint_that_opens_a_lock_for_the_wrong_one_is_seen_and_the_rest_comes_back(
    mint_url: str, tmp_path: Path, call: int, name: str, lost: set[str]
) -> None:
    async with wallet(tmp_path, mint_url) as world:
        swap, calls = world.mints.client.swap, 0

        async def lax(inputs: Sequence[Proof], outputs: Sequence[BlindedMessage]) -> object:
            """One wrong offer is made right on its way: as if the mint had looked at nothing."""
            nonlocal calls
            calls += 1
            if calls == call:
                (made,) = [op for op in await world.ops() if op.kind == "probe"]
                right = world.prober().keys_of(made).right(name)
                inputs = [msgspec.structs.replace(each, witness=right(each, outputs)) for each in inputs]
            return await swap(inputs, outputs)

        world.mints.client.swap = lax
        found = await probed(world)
        assert {each for each in ("htlc", "multisig") if not getattr(found.caps, each)} == lost
        assert found.caps.late_redeem and found.caps.n_sigs_refund and not found.caps.sigall
        assert await settled(world) == START - found.cost_sats


async def test_a_mint_that_ends_the_hash_path_at_the_locktime_gives_the_refund(
    mint_url: str, tmp_path: Path
) -> None:
    async with wallet(tmp_path, mint_url) as world:
        swap = world.mints.client.swap

        async def strict(inputs: Sequence[Proof], outputs: Sequence[BlindedMessage]) -> object:
            for each in inputs:
                if each.secret.startswith('["HTLC"') and each.witness and "preimage" in each.witness:
                    locktime = parse_secret(each.secret).lock.locktime
                    if locktime is not None and locktime < time.time():
                        raise MintRefused(mint_url, 400, None, "locktime passed")
            return await swap(inputs, outputs)

        world.mints.client.swap = strict
        found = await probed(world)
        assert found.caps == msgspec.structs.replace(ABLE, late_redeem=False)
        assert await settled(world) == START - found.cost_sats


async def test_too_few_sats_are_refused_before_anything_is_asked(mint_url: str, tmp_path: Path) -> None:
    async with MintFaultFront.before(mint_url) as front, wallet(tmp_path, front.url, 8) as world:
        swaps = len(front.seen("/v1/swap"))
        with pytest.raises(PaymentFailed) as refused:
            await probed(world)
        assert refused.value.reason == "insufficient_ecash" and len(front.seen("/v1/swap")) == swaps
        assert await settled(world) == 8
