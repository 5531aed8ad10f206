"""Takes alerts to the operator: webhook and direct message (docs/protocol/08-client-and-plugins.md §6).

What is still to be sent stands in the alert's row, so a restart forgets nothing. A webhook gets five tries
within a quarter of an hour; a message goes through the outbox, which tries for a week. A success that was
recorded is never repeated; a crash between the server's answer and the record repeats one call with the same
`alert_id`.
"""

import asyncio
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final

from hive_shared.canonical import encode
from hive_shared.errors import Capacity, NotFound
from hive_shared.store import Db, Tx

from cl_hive_comms.domain.alert import TEST, Alert, Channel, Level, retry_after
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.services.messenger import Messenger
from cl_hive_comms.services.ports_alerts import DeliveryStore, Webhook, WebhookFailed
from cl_hive_comms.services.ports_identity import Clock, Log, MakeSecret

KEY_LABEL: Final = "hive/alert-webhook/v1"
"""`lightning-cli makesecret string=<label>` gives the operator the key of X-Hive-Signature."""
_MESSAGE_TTL_S: Final = 7 * 86_400
_BATCH: Final = 20


@dataclass(frozen=True)
class Targets:
    """Where the operator wants alerts: an address and an x-only key, empty for none."""

    webhook: str = ""
    dm: str = ""

    @property
    def channels(self) -> frozenset[Channel]:
        """The channels that are set."""
        pairs = ((Channel.WEBHOOK, self.webhook), (Channel.DM, self.dm))
        return frozenset(channel for channel, target in pairs if target)


class AlertDelivery:
    """Sends what waits; lists, tests and acknowledges alerts."""

    def __init__(
        self,
        db: Db,
        store: DeliveryStore,
        alerts: AlertService,
        messenger: Messenger,
        webhook: Webhook,
        *,
        targets: Callable[[], Targets],
        makesecret: MakeSecret,
        node_id: str,
        now: Clock,
        log: Log,
    ) -> None:
        self._db, self._store, self._alerts = db, store, alerts
        self._messenger, self._webhook, self._targets = messenger, webhook, targets
        self._makesecret, self._node_id, self._now, self._log = makesecret, node_id, now, log
        self._busy = asyncio.Lock()

    async def tick(self) -> None:
        """Sends what is due; run every few seconds."""
        async with self._busy:
            await self._messages()
            for alert in self._db.peek(lambda tx: self._store.webhook_due(tx, self._now(), _BATCH)):
                if not await self._post(alert):
                    # The others would run into the same wall: they have their turn at the next tick.
                    return

    async def list_all(self, limit: int) -> list[Alert]:
        """The newest alerts first."""
        return await self._db.read(lambda tx: self._store.recent_alerts(tx, limit))

    async def acknowledge(self, alert_id: int) -> Alert:
        """Marks an alert as seen, and stops what is still to be sent of it. Raises NotFound."""

        def body(tx: Tx) -> Alert:
            if self._store.alert(tx, alert_id) is None:
                raise NotFound(f"there is no alert {alert_id}; hive-client-alerts lists them")
            self._store.ack_alert(tx, alert_id, self._now())
            return self._found(tx, alert_id)

        return await self._db.write(body)

    async def test(self) -> Alert:
        """Sends a test alert by every channel that is set, and tells how the first try went."""
        now = self._now()

        def body(tx: Tx) -> int:
            text = "This is a test: alerts of this node reach you."
            self._alerts.raise_in(tx, Level.NOTICE, TEST, text, f"{TEST}:{now}")
            return self._store.recent_alerts(tx, 1)[0].alert_id

        alert_id = await self._db.write(body)
        async with self._busy:
            await self._messages()
            alert = await self._db.read(lambda tx: self._found(tx, alert_id))
            if alert.webhook == "waiting":
                await self._post(alert)
        return await self._db.read(lambda tx: self._found(tx, alert_id))

    # -- inside --------------------------------------------------------------------------------------

    def _found(self, tx: Tx, alert_id: int) -> Alert:
        alert = self._store.alert(tx, alert_id)
        if alert is None:
            raise NotFound(f"alert {alert_id} made room for newer ones")
        return alert

    async def _messages(self) -> None:
        if not self._db.peek(lambda tx: self._store.dm_due(tx, 1)):
            return
        recipient = self._targets().dm

        def body(tx: Tx) -> None:
            for alert in self._store.dm_due(tx, _BATCH):
                if not recipient:
                    self._store.set_dm(tx, alert.alert_id, "failed")
                    continue
                self._messenger.enqueue(
                    tx,
                    recipient=recipient,
                    content=self._readable(alert),
                    kind="message",
                    idempotency_key=f"alert:{alert.alert_id}",
                    expires_at=self._now() + _MESSAGE_TTL_S,
                )
                self._store.set_dm(tx, alert.alert_id, "queued")

        try:
            await self._db.write(body)
        except Capacity as error:
            self._log("warning", "alert_message_waits", why=str(error))
            return
        self._messenger.kick()

    async def _post(self, alert: Alert) -> bool:
        url = self._targets().webhook
        if not url:
            await self._failed(alert, "hive-comms-alert-webhook was emptied meanwhile", last=True)
            return True
        body = encode(self._document(alert))
        key = await self._makesecret(KEY_LABEL)
        headers = {"X-Hive-Signature": "sha256=" + hmac.new(key, body, sha256).hexdigest()}
        try:
            await self._webhook.post(url, body, headers)
        except WebhookFailed as error:
            await self._failed(alert, str(error))
            return False
        await self._db.write(lambda tx: self._store.webhook_sent(tx, alert.alert_id))
        return True

    async def _failed(self, alert: Alert, why: str, *, last: bool = False) -> None:
        attempts = alert.webhook_attempts + 1
        wait = None if last else retry_after(attempts)
        next_at = None if wait is None else self._now() + wait
        await self._db.write(lambda tx: self._store.webhook_failed(tx, alert.alert_id, why, next_at))
        event = "alert_waits" if next_at is not None else "alert_not_delivered"
        self._log("warning", event, alert_id=alert.alert_id, attempts=attempts, why=why)

    def _document(self, alert: Alert) -> dict[str, Any]:
        return {
            "alert_id": alert.alert_id,
            "level": alert.level.value,
            "code": alert.code,
            "text": alert.text,
            "count": alert.count,
            "at": alert.first_at,
            "node": self._node_id,
        }

    def _readable(self, alert: Alert) -> str:
        at = datetime.fromtimestamp(alert.first_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return (
            f"[{alert.level}] {alert.text}\nNode {self._node_id}, {at}, alert {alert.alert_id} ({alert.code})"
        )
