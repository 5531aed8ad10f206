"""Locks of tickets at a real mint on this machine, the mint's own work included (docs/protocol/03 §15)."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

from cashu_tickets import preimage
from figures import Figure, percentile
from hive_devnet.mint import MintProcess, mint_installed
from hive_shared.cashu.curve import y_of
from hive_shared.cashu.lock_machine import LockState
from hive_shared.cashu.ports import request_seconds
from hive_shared.cashu.token import decode_token
from lock_world import LockWorld, taken_in
from msgspec.structs import replace

T = TypeVar("T")
_AT_ONCE = 30
GOAL_TICKET_MS = 150
GOAL_ASK_MS = 400


def main(smoke: bool) -> list[Figure]:
    """Milliseconds of wall time; none where no mint is installed."""
    return asyncio.run(_measured(smoke)) if mint_installed() else []


async def _timed(work: Awaitable[T]) -> tuple[float, T]:
    start = time.perf_counter()
    result = await work
    return (time.perf_counter() - start) * 1_000, result


async def _measured(smoke: bool) -> list[Figure]:
    singles, batch = (2, 30) if smoke else (20, 500)
    with tempfile.TemporaryDirectory() as directory:
        mint = await MintProcess.start(Path(directory) / "mint")
        payer, payee = (LockWorld(Path(directory) / name, mint.url) for name in ("payer", "payee"))
        try:
            payer.limits_now = replace(
                payer.limits_now, daily=1_000_000, weekly=1_000_000, per_advisor_daily=1_000_000
            )
            payer.now = payee.now = int(time.time())
            await payer.service.fund(10_000, None, None, 60)
            return await _figures(payer, payee, singles, batch)
        finally:
            await payer.close()
            await payee.close()
            await mint.stop()


async def _figures(payer: LockWorld, payee: LockWorld, singles: int, batch: int) -> list[Figure]:
    lock_ms, redeem_ms = [], []
    for number in range(singles):
        terms = payer.terms(payee, (50,))
        spent, rows = await _timed(payer.locked(terms, f"single{number}"))
        lock_ms.append(spent)
        mine = await taken_in(terms, rows, payee)
        spent, _ = await _timed(payee.locks.redeem({mine[0].lock_id: preimage(0).hex()}, 60))
        redeem_ms.append(spent)
    figures = [
        Figure("escrow: lock one ticket", percentile(lock_ms, 0.5), "ms"),
        Figure("escrow: redeem one ticket", percentile(redeem_ms, 0.5), "ms", GOAL_TICKET_MS),
        *await _refunds(payer, payee, singles),
        *await _at_once(payer, payee, singles),
        *await _most_outputs(payer, payee, batch * 9 // 10),
    ]
    lock_all = redeem_all = check_all = 0.0
    # A ticket has 512 items at most: two make the batch of a thousand.
    for half in range(2):
        terms = payer.terms(payee, (1,) * batch)
        spent, rows = await _timed(payer.locked(terms, f"batch{half}"))
        lock_all += spent
        ys = [y_of(proof.secret) for row in rows for proof in decode_token(row.token).proofs]
        spent, _ = await _timed(payer.mints.client.checkstate(ys))
        check_all += spent
        mine = await taken_in(terms, rows, payee)
        preimages = {row.lock_id: preimage(row.item).hex() for row in mine}
        spent, _ = await _timed(payee.locks.redeem(preimages, 120))
        redeem_all += spent
    count = 2 * batch
    return [
        *figures,
        Figure(f"escrow: lock a batch of {count} items", count / lock_all * 1_000, "/s", at_least=True),
        Figure(f"escrow: redeem a batch of {count} items", count / redeem_all * 1_000, "/s", at_least=True),
        Figure(f"escrow: ask after {count} proofs", count / check_all * 1_000, "/s", at_least=True),
    ]


async def _refunds(payer: LockWorld, payee: LockWorld, times: int) -> list[Figure]:
    took = []
    for number in range(times):
        # The mint's clock is real, so the locktime has passed already; by the payer's it is still to come.
        real = int(time.time())
        payer.now = real - 3_600
        terms = payer.terms(payee, (50,), locktime=real - 70)
        (row,) = await payer.locked(terms, f"idle{number}")
        payer.now = int(time.time())
        spent, (back,) = await _timed(payer.locks.refund([row.lock_id], 60))
        assert back.state is LockState.REFUNDED, back.state
        took.append(spent)
    return [Figure("escrow: take one ticket back", percentile(took, 0.5), "ms", GOAL_TICKET_MS)]


async def _at_once(payer: LockWorld, payee: LockWorld, times: int) -> list[Figure]:
    """Thirty proofs redeemed by one call."""
    took, own = [], []
    for number in range(times):
        terms = payer.terms(payee, (1,) * _AT_ONCE)
        mine = await taken_in(terms, await payer.locked(terms, f"thirty{number}"), payee)
        began = time.process_time()
        spent, done = await _timed(
            payee.locks.redeem({row.lock_id: preimage(row.item).hex() for row in mine}, 60)
        )
        own.append((time.process_time() - began) * 1_000)
        assert all(row.state is LockState.REDEEMED for row in done)
        took.append(spent)
    title = f"escrow: redeem {_AT_ONCE} proofs at once"
    return [
        Figure(title, percentile(took, 0.5), "ms", GOAL_TICKET_MS),
        Figure("  our processor time of it", percentile(own, 0.5), "ms"),
    ]


async def _most_outputs(payer: LockWorld, payee: LockWorld, items: int) -> list[Figure]:
    """A swap as large as one may be, items of two proofs each, beside what we would wait for its answer."""
    terms = payer.terms(payee, (5,) * items)
    spent, rows = await _timed(payer.locked(terms, "large"))
    ys = [y_of(proof.secret) for row in rows for proof in decode_token(row.token).proofs]
    asked, states = await _timed(payer.mints.client.checkstate(ys))
    assert len(states) == len(ys)
    most = request_seconds(len(ys))
    return [
        Figure(f"escrow: lock with {len(ys)} outputs", spent / 1_000, "s", most, note="goal: our patience"),
        Figure(f"escrow: ask after {len(ys)} proofs, all", asked, "ms", GOAL_ASK_MS),
    ]
