"""What money must not slow down: the start with ten thousand open locks, reads while a mint hangs
(docs/protocol/03 §15).

The mint of the start answers at once from memory, since its own time is no recovery of ours. Reads are
measured a hundred at a time, in turns with the same hundred while the mint holds the ecash of a funding.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from comms_world import call, world
from figures import Figure, percentile, rss_mb
from hive_devnet.mint import MintProcess, mint_installed
from hive_devnet.mint_faults import MintFault, MintFaultFront, MintFaultKind
from hive_devnet.node import DevnetRpcError, NodeHandle
from hive_shared.cashu.lock_machine import LockState
from hive_shared.cashu.wire import ProofState, SpendState
from hive_shared.store import Tx
from lock_world import LockWorld
from msgspec.structs import replace

GOAL_START_S = 2.0
GOAL_RATIO = 1.3
GOAL_GROWTH_MB = 10
_READS = 100
# A mint is asked for no more than twenty things of money in a minute, four for each funding.
_HANGS = 3


def main(smoke: bool) -> list[Figure]:
    """See the module's first line; none where no mint is installed."""
    return asyncio.run(_measured(smoke)) if mint_installed() else []


async def _measured(smoke: bool) -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="hive-") as directory:
        mint = await MintProcess.start(Path(directory) / "mint")
        try:
            figures = await _start(Path(directory) / "locks", mint.url, 500 if smoke else 10_000)
            return figures + await _reads(Path(directory) / "node", mint.url, 1 if smoke else 4)
        finally:
            await mint.stop()


async def _start(directory: Path, mint_url: str, count: int) -> list[Figure]:
    """A database with so many locks that others may have redeemed while the plugin was away."""
    payer, payee = (LockWorld(directory / name, mint_url) for name in ("payer", "payee"))
    payer.now = payee.now = int(time.time())
    try:
        await payer.service.fund(64, None, None, 60)
        (row,) = await payer.locked(payer.terms(payee, (5,)))

        def fill(tx: Tx) -> None:
            for number in range(count - 1):
                name = f"{number:064x}"
                each = replace(row, lock_id=name, terms_hash=name, request_key=name, next_at=payer.now)
                payer.rows.insert(tx, replace(each, state=LockState.DELIVERED))

        await payer.db.write(fill)
        payer.now += 3_600
        started = time.perf_counter()
        await payer.restart()
        opened = time.perf_counter() - started

        async def unspent(ys: Sequence[str]) -> list[ProofState]:
            return [ProofState(Y=y, state=SpendState.UNSPENT) for y in ys]

        payer.mints.client.checkstate = unspent
        rounds = 0
        while await payer.db.read(lambda tx: payer.rows.due(tx, payer.now, 1)):
            await payer.locks.tick()
            rounds += 1
        asked = time.perf_counter() - started
    finally:
        await payer.close()
        await payee.close()
    return [
        Figure(f"money: database with {count} open locks opened", opened, "s", GOAL_START_S),
        Figure(f"money: {count} locks asked after and put in order", asked, "s", note=f"{rounds} rounds"),
    ]


async def _reads(directory: Path, mint_url: str, times: int) -> list[Figure]:
    directory.mkdir()
    async with (
        MintFaultFront.before(mint_url) as front,
        world(directory, **{"hive-comms-escrow-mint": front.url}) as (_, node, _relay),
    ):
        pid = await node.plugin_pid("cl-hive-comms.py")
        await call(node, "hive-client-status")
        before = rss_mb(pid)
        await call(node, "hive-client-wallet", action="fund", amount_sats=256)
        await call(node, "hive-client-wallet", action="balance")
        grown = rss_mb(pid) - before
        await _hundred(node)
        alone, beside = [], []
        for number in range(_HANGS):
            alone += [await _hundred(node) for _ in range(times)]
            front.set(MintFault(MintFaultKind.HOLD_AFTER, path="/v1/mint/bolt11"))
            hanging = asyncio.create_task(_fund(node, number))
            await front.until_held()
            beside += [await _hundred(node) for _ in range(times)]
            if hanging.done():
                raise RuntimeError("the mint did not hang while reads were measured")
            front.clear()
            await hanging
    ratio = percentile(beside, 0.5) / percentile(alone, 0.5)
    return [
        Figure("money: memory of cl-hive-comms, grown by the wallet", grown, "MB", GOAL_GROWTH_MB),
        Figure(f"money: {_READS} reads at once", percentile(alone, 0.5) * 1_000, "ms"),
        Figure(f"money: {_READS} reads while a mint hangs", percentile(beside, 0.5) * 1_000, "ms"),
        Figure("money: those beside the others", ratio, "x", GOAL_RATIO),
    ]


async def _hundred(node: NodeHandle) -> float:
    """Seconds for a hundred reads of tickets and balance at once."""
    started = time.perf_counter()
    reads = [("hive-client-escrow", "list"), ("hive-client-wallet", "balance")]
    await asyncio.gather(*(call(node, m, action=a) for m, a in reads * (_READS // 2)))
    return time.perf_counter() - started


async def _fund(node: NodeHandle, number: int) -> None:
    # What is sent may be there in proofs of the right size, and then no mint is asked.
    with suppress(DevnetRpcError):
        given = {"action": "fund", "amount_sats": 2, "idempotency_key": f"hung{number}", "timeout": 120}
        await call(node, "hive-client-wallet", **given)
