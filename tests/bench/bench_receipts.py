"""The receipt chain at 100,000 receipts: append, list, seal, verify, memory, and how late the event loop gets
meanwhile (docs/protocol/02-fleet-management.md §16, docs/protocol/08-client-and-plugins.md §14).

An append is given beside a small durable commit to the same database: that is the disk's share. Verify is
given sealed, as the hourly loop leaves a chain, and with every signature checked again beside bare
libsecp256k1 (docs/decisions/0290-seals-over-checked-signatures.md).
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from cl_hive_comms.domain.receipt_record import ReceiptQuery
from cl_hive_comms.services.receipt_service import ReceiptFields, ReceiptService
from cl_hive_comms.storage import receipt_store
from cl_hive_comms.storage.receipt_store import ReceiptStore
from figures import Figure, percentile, rss_mb
from hive_shared import crypto
from hive_shared.crypto import Secret
from hive_shared.store import Db, Tx

SIZE: Final = 100_000
_NODE: Final = Secret(b"\x05" * 32)
_MIGRATIONS: Final = Path(receipt_store.__file__).parent / "migrations"
_WHAT: Final = ReceiptFields(
    schema="hive:fee-policy/v1",
    action="set_single",
    status="success",
    advisor_id="advisor",
    agent_id="did:nostr:" + "ab" * 32,
    credential_id="6f1c0f6e-7a57-4c39-9d30-6b1a2f0c9e11",
    command_id="6f1c0f6e-7a57-4c39-9d30-6b1a2f0c9e12",
    command_hash="cd" * 32,
    nonce=1_770_000_000_000_000,
    params={"channel_id": "800000x1200x1", "fee_ppm": 150, "base_msat": 1_000},
    danger={"R": 2, "F": 3, "T": 3, "B": 3, "D": 2, "total": 3},
    approval={"level": "3", "workflow": "auto", "approvers": []},
    result={"old": {"base_msat": 1_000, "fee_ppm": 100}, "new": {"base_msat": 1_000, "fee_ppm": 150}},
    state_hash_before="ee" * 32,
    state_hash_after="ff" * 32,
    agent_signature="aa" * 64,
)


class _Keys:
    pubkey = crypto.xonly_pubkey(_NODE)

    def secret(self) -> Secret:
        return _NODE


async def _no_rpc(text: str) -> str:
    raise AssertionError("no root is signed here")


def main(smoke: bool) -> list[Figure]:
    """See the module's first lines."""
    return asyncio.run(_measure(2_000 if smoke else SIZE, 20 if smoke else 300))


async def _measure(size: int, samples: int) -> list[Figure]:
    with tempfile.TemporaryDirectory() as directory:
        db = Db.open(Path(directory) / "comms.db", _MIGRATIONS)
        try:
            service = ReceiptService(
                db,
                ReceiptStore(),
                _Keys(),
                node_id=lambda: "02" + "ab" * 32,
                node_keys=lambda: (_Keys.pubkey,),
                signmessage=_no_rpc,
                now=lambda: int(time.time()),
            )
            started = time.perf_counter()
            for _ in range(size // 1_000):
                await db.write(lambda tx: _fill(tx, service, 1_000))
            filled = size / (time.perf_counter() - started)
            return [
                Figure("receipts appended in bulk", filled, "/s", note=f"{size:,} of them"),
                *await _appends(db, service, samples),
                *await _lists(service, samples),
                *await _verifies(service),
            ]
        finally:
            db.close()


def _fill(tx: Tx, service: ReceiptService, count: int) -> None:
    for _ in range(count):
        service.append(tx, _WHAT)


async def _appends(db: Db, service: ReceiptService, samples: int) -> list[Figure]:
    bare, ours = [], []
    for number in range(samples):
        bare.append(await _timed(lambda n=number: db.write(lambda tx: tx.execute(_TOUCH, (str(n),)))))
        ours.append(await _timed(lambda: db.write(lambda tx: service.append(tx, _WHAT))))
    disk = percentile(bare, 0.5) * 1_000
    return [
        Figure("append of one receipt, p50", percentile(ours, 0.5) * 1_000, "ms", 5, note="commit included"),
        Figure("append of one receipt, p99", percentile(ours, 0.99) * 1_000, "ms"),
        Figure("  a durable commit of one small row alone, p50", disk, "ms"),
        Figure("  append less that commit, p50", percentile(ours, 0.5) * 1_000 - disk, "ms"),
    ]


_TOUCH: Final = "INSERT OR REPLACE INTO comms_state (key, value, updated_at) VALUES ('bench', ?, 0)"


async def _lists(service: ReceiptService, samples: int) -> list[Figure]:
    end = (await service.verify(1, 1)).last_id
    deep = ReceiptQuery(advisor_id="advisor", before_id=end + 150, limit=100)
    head = ReceiptQuery(advisor_id="advisor", limit=100)
    nobody = ReceiptQuery(advisor_id="nobody", limit=100)
    return [
        Figure(f"list 100: {name}, p50", await _p50(service, query, samples), "ms")
        for name, query in (("newest", head), ("behind a cursor at the far end", deep), ("no match", nobody))
    ]


async def _p50(service: ReceiptService, query: ReceiptQuery, samples: int) -> float:
    return percentile([await _timed(lambda: service.list(query)) for _ in range(samples)], 0.5) * 1_000


async def _verifies(service: ReceiptService) -> list[Figure]:
    plain_s, _, _, count = await _verify(service)
    started = time.perf_counter()
    seals = await service.seal_checked()
    sealing_s = time.perf_counter() - started
    sealed_s, late, grown, _ = await _verify(service)
    return [
        Figure("bare BIP-340 checks on one core", _bare(), "/s"),
        Figure("verify, every signature anew", count / plain_s, "/s"),
        Figure("seals made", seals, "", note=f"once, in {sealing_s:.1f} s"),
        Figure("verify, sealed", count / sealed_s, "/s", 50_000, at_least=True),
        Figure(f"verify, sealed: all {count:,}", sealed_s, "s", 5),
        Figure("  event loop late meanwhile, p99", late, "ms"),
        Figure("  memory grown meanwhile", grown, "MB", 50),
    ]


async def _verify(service: ReceiptService) -> tuple[float, float, float, int]:
    """Seconds, how late the loop got (ms, p99), memory grown (MB), receipts checked."""
    late: list[float] = []

    async def watch() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.005)
            late.append(time.perf_counter() - before - 0.005)

    watcher = asyncio.create_task(watch())
    await asyncio.sleep(0)
    held = rss_mb(os.getpid())
    started = time.perf_counter()
    report = await service.verify()
    took = time.perf_counter() - started
    grown = rss_mb(os.getpid()) - held
    watcher.cancel()
    if not report.ok:
        raise AssertionError(report.reason)
    return took, percentile(late or [0.0], 0.99) * 1_000, grown, report.checked


def _bare(count: int = 2_000) -> float:
    digest = crypto.sha256(b"bench")
    signature = bytes.fromhex(crypto.schnorr_sign(_NODE, digest))
    from coincurve import PublicKeyXOnly

    key = PublicKeyXOnly(bytes.fromhex(_Keys.pubkey))
    started = time.perf_counter()
    if not all(key.verify(signature, digest) for _ in range(count)):
        raise AssertionError("an authentic signature was refused")
    return count / (time.perf_counter() - started)


async def _timed(call: Callable[[], Awaitable[Any]]) -> float:
    started = time.perf_counter()
    await call()
    return time.perf_counter() - started
