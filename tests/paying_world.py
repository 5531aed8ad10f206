"""Payments of the node itself over a real database and a node that pays and is paid, for tests."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cl_hive_comms.domain.payment import ADVISOR, BOLT11, OPERATOR_SCOPE, Order, Payment, scope_of
from cl_hive_comms.domain.payment_limits import Bound, Limits
from cl_hive_comms.payments.bolt11 import Bolt11
from cl_hive_comms.payments.bolt12 import Bolt12
from cl_hive_comms.services.decoded_invoice import decoded
from cl_hive_comms.services.executors.sent_parts import SentParts
from cl_hive_comms.services.payment_history import PaymentHistory
from cl_hive_comms.services.payment_limits import PaymentLimits
from cl_hive_comms.services.payment_service import PaymentService
from cl_hive_comms.storage.lock_store import LockStore
from cl_hive_comms.storage.payment_store import PaymentStore
from hive_shared.crypto import Sealer, Secret
from hive_shared.store import Db
from msgspec.structs import replace
from payment_world import NodeWithPayments
from pipeline_world import MIGRATIONS, NOW, Outside, Stops

LIMITS = Limits(50_000, 200_000, 25_000, 0, 10_000, {"fleet": (100_000, 500_000), "archon": (1_000, 5_000)})
ADA = "adv-ada"
SEALER = Sealer({1: Secret(b"\x09" * 32)}, 1)


@cache
def _migrated() -> bytes:
    """A database as it is after all migrations: they sync the disk once here, not for each world."""
    with TemporaryDirectory() as directory:
        path = Path(directory) / "template.db"
        Db.open(path, MIGRATIONS).close()
        return path.read_bytes()


class PayingWorld:
    """`engaged` is the stop, `offered` what the node can be asked, `by_command` the hashes that commands of
    agents pay."""

    def __init__(self, directory: Path, node: NodeWithPayments | None = None) -> None:
        self.node = node or NodeWithPayments()
        self.path = directory / "payments.db"
        if not self.path.exists():
            self.path.write_bytes(_migrated())
        self.now = NOW
        self.limits_now = LIMITS
        self.own_limits: dict[str, int] = {}
        self.engaged = False
        self.drained = False
        self.restored = False
        self.methods = ("bolt11", "bolt12")
        self.offered: Callable[[str], bool] = lambda _method: True
        self.by_command: dict[str, str] = {}
        self.outside = Outside()
        self.rows = PaymentStore(SEALER)
        self.open()

    def open(self) -> None:
        """The plugin starts."""
        self.db = Db.open(self.path, MIGRATIONS)
        self.limits = PaymentLimits(
            self.db,
            self.rows,
            LockStore(SEALER),
            self.outside,
            limits=lambda: self.limits_now,
            advisor_daily=self.own_limits.get,
            now=lambda: self.now,
        )

        def offers(name: str) -> bool:
            return self.offered(name)

        lightning = Bolt11(self.node, SentParts(self.node), partial(decoded, self.node), offers, "regtest")
        world = self

        class Switch(Stops):
            def engaged(self) -> bool:
                return world.engaged

            def draining(self) -> bool:
                return world.drained

        async def paying(payment_hash: str) -> str | None:
            return self.by_command.get(payment_hash)

        async def fault(point: str) -> None:
            self.points.append(point)
            self.engaged = self.engaged or point == self.stop_at

        self.points: list[str] = []
        self.stop_at = ""
        self.history = PaymentHistory(self.db, self.rows, name_of=str, now=lambda: self.now)
        self.service = PaymentService(
            db=self.db,
            rows=self.rows,
            limits=self.limits,
            lightning=lightning,
            offers=Bolt12(self.node, lightning.read, offers),
            paying=paying,
            methods=lambda: self.methods,
            kill_switch=Switch(),
            alerts=self.outside,
            restored=lambda _tx: self.restored,
            now=lambda: self.now,
            log=lambda *_args, **_fields: None,
            fault=fault,
        )

    def restart(self) -> None:
        """The process died and is up again; the node lives on."""
        self.db.close()
        self.open()

    def order(self, target: str, sats: int = 50, **fields: Any) -> Order:
        """An order of the operator for an advisor, unless fields say otherwise."""
        made = Order(f"client:{target}", ADVISOR, "fee", BOLT11, target, sats * 1_000, advisor_id=ADA)
        return replace(made, **fields)

    def bill(self, word: str = "bill", sats: int = 50, **fields: Any) -> str:
        """An invoice of somebody else."""
        return self.node.invoice_of(word, sats * 1_000, **fields)

    def stored(self) -> tuple[Payment, ...]:
        """All rows, oldest first."""
        return self.db.peek(
            lambda tx: tuple(map(self.rows._row, tx.execute("SELECT * FROM comms_payments ORDER BY rowid")))
        )

    def used(self, window_s: int = 86_400, scope: str = OPERATOR_SCOPE, advisor: str = "") -> int:
        """Sats that count in a window."""
        return self.db.peek(lambda tx: self.rows.used(tx, Bound("x", window_s, 0, scope, advisor), self.now))

    def check_books(self) -> None:
        """Sums agree with the rows; what is counted is what was paid, or might still be."""
        sums: dict[tuple[str, str, int], int] = {}
        for row in self.stored():
            if row.budget is None:
                continue
            for advisor in {"", row.advisor_id or ""}:
                key = (scope_of(row.budget), advisor, row.created_at // 3_600)
                sums[key] = sums.get(key, 0) + row.counted_sats
        kept = self.db.peek(lambda tx: list(map(tuple, tx.execute("SELECT * FROM comms_payment_sums"))))
        assert {tuple(row[:3]): row[3] for row in kept if row[3]} == {k: n for k, n in sums.items() if n}

    def paid_msat(self) -> int:
        """What left the node, fees included."""
        return sum(row["amount_sent_msat"] for row in self.node.parts if row["status"] == "complete")
