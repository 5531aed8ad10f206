"""Payments of the node itself with 100,000 of them stored (Protocol 03 §15, 08 §14): the check of the limits,
a page of the list, the sums of a week. Judged by the processor time they take."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from cl_hive_comms.domain.payment import Payment, Target
from cl_hive_comms.domain.payment_machine import State
from cl_hive_comms.domain.payment_query import PaymentQuery
from cl_hive_comms.storage.payment_store import PaymentStore
from figures import Figure, cpu_ms, percentile
from hive_shared.store import Db, Tx
from msgspec.structs import replace
from paying_world import LIMITS, SEALER
from pipeline_world import MIGRATIONS, NOW

GOAL_CHECK_MS = 1
_WEEK_S = 7 * 86_400


def main(smoke: bool) -> list[Figure]:
    """See the module's first lines."""
    count = 2_000 if smoke else 100_000
    with tempfile.TemporaryDirectory() as directory:
        db = Db.open(Path(directory) / "x.db", MIGRATIONS)
        store = PaymentStore(SEALER)
        _fill(db, store, count)
        bounds = LIMITS.bounds("advisor", "adv-7", None)
        newest, week = PaymentQuery(limit=50), PaymentQuery(since=NOW - _WEEK_S)
        middle = replace(newest, before=(NOW - _WEEK_S // 2, "f" * 32))
        found = []
        for title, body, goal in (
            ("check of the limits", lambda tx: [store.used(tx, each, NOW) for each in bounds], GOAL_CHECK_MS),
            ("page of 50", lambda tx: store.page(tx, newest), None),
            ("page of 50 in the middle", lambda tx: store.page(tx, middle), None),
            ("sums of a week", lambda tx: store.totals(tx, week), None),
        ):
            took = cpu_ms(lambda body=body: db.peek(body), 10 if smoke else 200)
            figures = (("p50", 0.5, goal), ("p99", 0.99, None))
            for name, share, bound in figures:
                figure = Figure(f"{count:,} payments: {title}, {name}", percentile(took, share), "ms", bound)
                found.append(figure)
        db.close()
    return found


def _fill(db: Db, store: PaymentStore, count: int) -> None:
    base = Payment(
        *("", "", "00" * 32, "", "advisor", "bolt11", "fee", "out", 50_000, 5_000, State.SETTLED),
        *(Target("lnbcrt1" + "q" * 250, "lnbcrt1" + "q" * 250), "", 0, 0),
        fee_msat=100,
        counted_sats=51,
        preimage="ab" * 32,
    )

    def body(tx: Tx) -> None:
        for number in range(count):
            name, at = f"{number:032x}", NOW - _WEEK_S + number * _WEEK_S // count
            fields = {"payment_id": name, "key": name, "label": name, "payment_hash": f"{number:064x}"}
            row = replace(base, **fields, advisor_id=f"adv-{number % 20}", created_at=at, updated_at=at)
            store.insert(tx, row)

    asyncio.run(db.write(body))
