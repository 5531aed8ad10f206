"""A probe of real mints: what each release does, whatever it says (docs/protocol/03 §4.2, §14.15)."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

import pytest
import pytest_asyncio
from hive_devnet.mint import MintProcess, mint_environment, mint_installed
from hive_devnet.mint_faults import MintFault, MintFaultFront, MintFaultKind
from hive_shared.cashu.curve import y_of
from hive_shared.cashu.keysets import Keyset, split
from hive_shared.cashu.mint_caps import Caps
from hive_shared.cashu.mint_health import examine
from hive_shared.cashu.outputs import finish, output
from hive_shared.cashu.ports import Mint, MintUnavailable
from hive_shared.cashu.probe import Probe, probe_sats
from hive_shared.cashu.reasons import MintNonconformant
from hive_shared.cashu.wire import Proof, SpendState
from hive_shared.mint_http import Mints

pytestmark = pytest.mark.asyncio(loop_scope="module")


def now() -> int:
    """The mint's clock is the machine's."""
    return int(time.time())


async def _at_once(seconds: float) -> None:
    """The request budget is of no interest here."""


@pytest_asyncio.fixture(loop_scope="module")
async def mints() -> AsyncIterator[Mints]:
    ticks = count(step=30)
    opened = Mints(jitter=lambda: 0.0, monotonic=lambda: float(next(ticks)), sleep=_at_once)
    yield opened
    await opened.close()


async def _keyset(mint: Mint) -> Keyset:
    (listed,) = [each for each in await mint.keysets() if each.active]
    return await mint.keyset(listed)


async def _coins(mint: Mint, keyset: Keyset, sats: int) -> list[Proof]:
    quote = await mint.mint_quote(sats)
    parts = split(sats, keyset.denominations)
    outs = [output(each, keyset.id, secrets.token_hex(32), secrets.token_bytes(32)) for each in parts]
    signed = await mint.mint(quote.quote, [each.message for each in outs])
    return list(finish(outs, signed, {keyset.id: keyset}))


async def _probe(mint: Mint, sats: int = 0) -> Probe:
    keyset = await _keyset(mint)
    coins = await _coins(mint, keyset, sats or probe_sats(keyset))
    return Probe(mint, keyset, coins, now=now, sleep=_at_once, random_bytes=secrets.token_bytes)


async def _unspent(mint: Mint, proofs: list[Proof]) -> bool:
    states = await mint.checkstate([y_of(each.secret) for each in proofs])
    return {each.state for each in states} == {SpendState.UNSPENT}


async def test_acceptance_03_15_the_usual_mint_passes_and_takes_only_its_fees(
    mints: Mints, mint_url: str
) -> None:
    async with MintFaultFront.before(mint_url) as front:
        mint = mints.at(front.url)
        health = await examine(mint, {}, now)
        assert health.problems == ()
        probe = await _probe(mint)
        before = sum(each.amount for each in probe.coins)
        fee_of_coins = -(-len(probe.coins) * 100 // 1000)
        caps = await probe.run()
        assert caps == Caps(
            htlc=True, multisig=True, sigall=False, late_redeem=True, restore=True, n_sigs_refund=True
        )
        assert await _unspent(mint, probe.coins)
        kept = sum(each.amount for each in probe.coins)
        # Six locks were opened for a fee of 1 sat each; the seventh, SIG_ALL, waits for its refund.
        assert before - kept == fee_of_coins + 6 * 1 + 2
        accepted = [request for request in front.seen("/v1/swap") if request.status == 200]
        assert len(accepted) == 7 and len(front.seen("/v1/swap")) > 17


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
    mints: Mints, tmp_path: Path, release: str, problems: tuple[str, ...], caps: dict[str, bool]
) -> None:
    if not mint_installed(release):
        pytest.skip(f"no mint in {mint_environment(release)}: `make setup-mints` puts it there")
    process = await MintProcess.start(tmp_path / "mint", release=release)
    try:
        mint = mints.at(process.url)
        health = await examine(mint, {}, now)
        assert health.version.startswith(f"Nutshell/{release}.")
        assert set(health.problems) <= set(problems) and bool(health.problems) == bool(problems)
        probe = await _probe(mint)
        found = await probe.run()
        assert {name: getattr(found, name) for name in caps} == caps
        assert await _unspent(mint, probe.coins)
    finally:
        await process.stop()


async def test_a_probe_that_is_cut_short_keeps_what_it_has(mints: Mints, mint_url: str) -> None:
    async with MintFaultFront.before(mint_url) as front:
        mint = mints.at(front.url)
        probe = await _probe(mint)
        front.set(MintFault(MintFaultKind.LOSE_BEFORE, path="/v1/swap", skip=3))
        with pytest.raises(MintUnavailable):
            await probe.run()
        assert sum(each.amount for each in probe.coins) >= 32 - 7 * 2 - 1
        assert await _unspent(mint, probe.coins)


async def test_a_false_signature_ends_the_probe(mints: Mints, mint_url: str) -> None:
    async with MintFaultFront.before(mint_url) as front:
        mint = mints.at(front.url)
        probe = await _probe(mint)
        front.set(MintFault(MintFaultKind.BAD_DLEQ, path="/v1/swap"))
        with pytest.raises(MintNonconformant, match="DLEQ does not hold"):
            await probe.run()


async def test_a_mint_that_restores_nothing_is_seen(mints: Mints, mint_url: str) -> None:
    async with MintFaultFront.before(mint_url) as front:
        mint = mints.at(front.url)
        probe = await _probe(mint)
        front.set(MintFault(MintFaultKind.STATUS_BEFORE, path="/v1/restore", status=404))
        caps = await probe.run()
        assert caps.htlc and not caps.restore and not caps.tickets


async def test_too_few_sats_are_refused_before_anything_is_asked(mints: Mints, mint_url: str) -> None:
    async with MintFaultFront.before(mint_url) as front:
        probe = await _probe(mints.at(front.url), 8)
        with pytest.raises(ValueError, match="needs 32 sat"):
            await probe.run()
        assert front.seen("/v1/swap") == ()
