"""The policy service over a real database, with a clock of the test's own."""

from pathlib import Path
from typing import Any

from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.services.policy_in_force import Limits
from cl_hive_comms.services.policy_record import PolicyRecord
from cl_hive_comms.services.policy_service import PolicyService
from cl_hive_comms.services.receipt_service import ReceiptService
from cl_hive_comms.storage import policy_store
from cl_hive_comms.storage.policy_store import PolicyStore
from cl_hive_comms.storage.receipt_store import ReceiptStore
from cl_hive_comms.storage.state_store import StateStore
from hive_shared import crypto
from hive_shared.canonical import decode_object
from hive_shared.store import Db
from pipeline_world import HSM_KEY, NODE_ID, NOW, Keys

MIGRATIONS = Path(policy_store.__file__).parent / "migrations"


async def zbase(text: str) -> str:
    return crypto.cln_sign_message(HSM_KEY, text)


class Operator:
    """The policy of one node and its clock."""

    def __init__(self, path: Path) -> None:
        self.now = NOW
        self.db = Db.open(path / "comms.db", MIGRATIONS)
        self.receipts = receipts = ReceiptService(
            self.db,
            ReceiptStore(),
            Keys(),
            node_id=lambda: NODE_ID,
            node_keys=lambda: (Keys.pubkey,),
            signmessage=zbase,
            now=lambda: self.now,
        )
        alerts = AlertService(self.db, StateStore(), now=lambda: self.now, log=lambda *_, **__: None)
        self.alerts = alerts
        self.record = PolicyRecord(receipts, alerts, now=lambda: self.now)
        ids = iter(range(1, 1_000))
        self.policy = PolicyService(
            self.db,
            PolicyStore(),
            StateStore(),
            record=self.record,
            alerts=alerts,
            limits=lambda: Limits(24, 4),
            now=lambda: self.now,
            random_bytes=lambda n: next(ids).to_bytes(n, "big"),
            log=lambda *_, **__: None,
        )

    @property
    def protected(self) -> frozenset[str]:
        return self.policy.snapshot().settings(self.now).protected_channels

    async def told(self) -> list[str]:
        """Texts of the alerts, newest first."""
        return [alert.text for alert in await self.alerts.recent()]

    async def recorded(self, action: str) -> list[dict[str, Any]]:
        """Parameters of the receipts of an action, oldest first."""
        rows = await self.db.read(
            lambda tx: tx.execute(
                "SELECT document FROM management_receipts WHERE action = ? ORDER BY receipt_id", (action,)
            ).fetchall()
        )
        return [decode_object(row["document"])["params"] for row in rows]
