"""What a command may spend is counted where it starts and settled where it ends (02 §2.4, §3, §11)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cl_hive_comms.domain.spend import DAY_S, ONCHAIN, PAYMENT, Spend
from cl_hive_comms.services.spend_limits import SpendCap, SpendLimits
from cl_hive_comms.storage.spend_store import SpendStore
from hive_shared.errors import HiveError
from hive_shared.store import Db
from pipeline_world import MIGRATIONS, Outside

NOW = 1_770_000_000


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Db]:
    opened = Db.open(tmp_path / "x.db", MIGRATIONS)
    yield opened
    opened.close()


def cap(
    amount: int, *, fee: int = 0, budget: int | None = None, limit: int | None = None, top: int = 10**9
) -> SpendCap:
    return SpendCap(Spend(ONCHAIN, amount, fee), "c1", budget, limit, lambda spent: spent + amount < top)


async def test_a_reserved_spend_counts_until_it_is_released_or_a_day_old(db: Db) -> None:
    limits, rows, now = SpendLimits(SpendStore(), Outside()), SpendStore(), NOW
    await db.write(lambda tx: limits.take(tx, cap(60_000, fee=500), "a", now))

    def used(at: int, but: str = "") -> tuple[int, int]:
        return db.peek(
            lambda tx: (limits.used(tx, "c1", ONCHAIN, at, but=but), rows.of_node(tx, at - DAY_S, but=but))
        )

    assert used(now) == (60_000, 60_500)
    assert used(now, but="a") == (0, 0)
    assert used(now + DAY_S - 1) == (60_000, 60_500) and used(now + DAY_S) == (0, 0)
    assert db.peek(lambda tx: limits.used(tx, "c1", PAYMENT, now)) == 0
    assert db.peek(lambda tx: limits.used(tx, "c2", ONCHAIN, now)) == 0
    await db.write(lambda tx: rows.settle(tx, "a", Spend(ONCHAIN, 60_000, 141)))
    assert used(now) == (60_000, 60_141)
    # Settled is spent: nothing gives it back.
    await db.write(lambda tx: rows.release(tx, "a"))
    assert used(now) == (60_000, 60_141)
    await db.write(lambda tx: limits.take(tx, cap(5), "b", now))
    await db.write(lambda tx: rows.release(tx, "b"))
    assert used(now) == (60_000, 60_141)


@pytest.mark.parametrize(
    ("second", "symbol"),
    [
        (cap(40_001, budget=100_000), "budget_exhausted"),
        (cap(40_000, fee=1, budget=100_000), "budget_exhausted"),
        (cap(40_001, limit=100_000), "constraint_violated"),
        (cap(40_000, top=100_000), "busy"),
    ],
)
async def test_what_another_spent_since_the_judgement_is_seen(db: Db, second: SpendCap, symbol: str) -> None:
    limits = SpendLimits(SpendStore(), Outside())
    await db.write(lambda tx: limits.take(tx, cap(60_000), "a", NOW))
    with pytest.raises(HiveError) as refused:
        await db.write(lambda tx: limits.take(tx, second, "b", NOW))
    assert refused.value.symbol == symbol
    assert db.peek(lambda tx: SpendStore().of_node(tx, NOW - DAY_S)) == 60_000


async def test_the_operator_hears_when_the_budget_is_at_four_fifths_and_only_then(db: Db) -> None:
    outside = Outside()
    limits = SpendLimits(SpendStore(), outside)
    for number, (amount, told) in enumerate(((79_000, 0), (1_000, 1), (5_000, 1))):
        await db.write(lambda tx, n=number, a=amount: limits.take(tx, cap(a, budget=100_000), str(n), NOW))  # type: ignore[misc]
        assert len(outside.alerts) == told, amount


@pytest.mark.parametrize(
    ("kind", "name"), [(ONCHAIN, "max_onchain_sats_24h"), (PAYMENT, "max_payment_sats_24h")]
)
async def test_the_operator_hears_when_a_credentials_limit_is_at_four_fifths(
    db: Db, kind: str, name: str
) -> None:
    outside = Outside()
    limits = SpendLimits(SpendStore(), outside)
    for number, (amount, told) in enumerate(((79_999, 0), (1, 1), (20_000, 1))):
        # Of a limit of the credential only amounts count, not fees.
        spend = SpendCap(Spend(kind, amount, 5_000), "c1", None, 100_000, lambda _: True)
        await db.write(lambda tx, n=number, s=spend: limits.take(tx, s, str(n), NOW))  # type: ignore[misc]
        assert len(outside.alerts) == told, amount
    ((level, code, text),) = outside.alerts
    assert (level.value, code) == ("warning", "limit_near")
    assert text.startswith(f"80000 of 100000 sat of {name} of credential c1 are spent")
