"""Takes alerts to the operator: webhook, mail and direct message (docs/protocol/08-client-and-plugins.md §6).

What is still to be sent stands in the alert's row, so a restart forgets nothing. Webhook and mail server get
five tries within a quarter of an hour; a message goes through the outbox, which tries for a week. A success
that was recorded is never repeated; a crash between the server's answer and the record repeats one call with
the same `alert_id`, or one mail with the same Message-ID.
"""

import asyncio
import hmac
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final

import msgspec
from hive_shared.alerts import Level
from hive_shared.canonical import encode
from hive_shared.errors import Capacity, NotFound
from hive_shared.store import Db, Tx

from cl_hive_comms.domain.alert import TEST, Alert, Channel, retry_after
from cl_hive_comms.domain.mail import MailServer
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.services.messenger import Messenger
from cl_hive_comms.services.ports_alerts import DeliveryFailed, DeliveryStore, Letter, Mail, Webhook
from cl_hive_comms.services.ports_identity import Clock, Log, MakeSecret

KEY_LABEL: Final = "hive/alert-webhook/v1"
"""`lightning-cli makesecret string=<label>` gives the operator the key of X-Hive-Signature."""
_MESSAGE_TTL_S: Final = 7 * 86_400
_BATCH: Final = 20
_SUBJECT_MAX: Final = 120


class _Unset(DeliveryFailed):
    """The operator took the target away: there is nothing to try again."""


class Targets(msgspec.Struct, frozen=True):
    """Where the operator wants alerts: addresses and an x-only key, empty for none. Mail needs a server."""

    webhook: str = ""
    dm: str = ""
    email: str = ""
    mail_server: MailServer | None = None

    @property
    def channels(self) -> frozenset[Channel]:
        """The channels that are set."""
        mail = self.email if self.mail_server is not None else ""
        pairs = ((Channel.WEBHOOK, self.webhook), (Channel.DM, self.dm), (Channel.EMAIL, mail))
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
        mail: Mail,
        *,
        targets: Callable[[], Targets],
        makesecret: MakeSecret,
        node_id: str,
        now: Clock,
        log: Log,
    ) -> None:
        self._db, self._store, self._alerts = db, store, alerts
        self._messenger, self._webhook, self._mail, self._targets = messenger, webhook, mail, targets
        self._makesecret, self._node_id, self._now, self._log = makesecret, node_id, now, log
        # One at a time on each way, so that a slow mail server holds up no webhook.
        self._busy = {way: asyncio.Lock() for way in Channel}
        self._ways: dict[Channel, Callable[[Alert], Awaitable[None]]] = {
            Channel.WEBHOOK: self._post,
            Channel.EMAIL: self._write,
        }

    async def tick(self) -> None:
        """Sends what is due as message and by webhook; run every few seconds."""
        async with self._busy[Channel.DM]:
            await self._messages()
        await self._send_due(Channel.WEBHOOK)

    async def mail_tick(self) -> None:
        """Sends what is due by mail; run every few seconds, beside `tick`."""
        await self._send_due(Channel.EMAIL)

    async def _send_due(self, way: Channel) -> None:
        async with self._busy[way]:
            for alert in self._db.peek(lambda tx: self._store.due(tx, way, self._now(), _BATCH)):
                if not await self._send(way, alert):
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
        async with self._busy[Channel.DM]:
            await self._messages()
        await asyncio.gather(*(self._send_now(way, alert_id) for way in self._ways))
        return await self._db.read(lambda tx: self._found(tx, alert_id))

    # -- inside --------------------------------------------------------------------------------------

    async def _send_now(self, way: Channel, alert_id: int) -> None:
        async with self._busy[way]:
            alert = await self._db.read(lambda tx: self._found(tx, alert_id))
            if alert.delivery(way).state == "waiting":
                await self._send(way, alert)

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

    async def _send(self, way: Channel, alert: Alert) -> bool:
        """One try; False when the next alert would fare no better."""
        try:
            await self._ways[way](alert)
        except _Unset as error:
            await self._failed(way, alert, str(error), last=True)
        except DeliveryFailed as error:
            await self._failed(way, alert, str(error))
            return False
        else:
            await self._db.write(lambda tx: self._store.sent(tx, way, alert.alert_id))
        return True

    async def _failed(self, way: Channel, alert: Alert, why: str, *, last: bool = False) -> None:
        attempts = alert.delivery(way).attempts + 1
        wait = None if last else retry_after(attempts)
        next_at = None if wait is None else self._now() + wait
        await self._db.write(lambda tx: self._store.failed(tx, way, alert.alert_id, why, next_at))
        event = "alert_waits" if next_at is not None else "alert_not_delivered"
        self._log("warning", event, alert_id=alert.alert_id, way=way.value, attempts=attempts, why=why)

    async def _post(self, alert: Alert) -> None:
        url = self._targets().webhook
        if not url:
            raise _Unset("hive-comms-alert-webhook was emptied meanwhile")
        body = encode(self._document(alert))
        key = await self._makesecret(KEY_LABEL)
        headers = {"X-Hive-Signature": "sha256=" + hmac.new(key, body, sha256).hexdigest()}
        await self._webhook.post(url, body, headers)

    async def _write(self, alert: Alert) -> None:
        targets = self._targets()
        if not targets.email or targets.mail_server is None:
            raise _Unset("hive-comms-alert-email or hive-comms-alert-smtp was emptied meanwhile")
        # A header is one line; the whole text stands in the body.
        subject = " ".join(f"[{alert.level}] {alert.text}".splitlines()[0].split())
        letter = Letter(
            recipient=targets.email,
            subject=subject if len(subject) <= _SUBJECT_MAX else subject[: _SUBJECT_MAX - 1] + "\u2026",
            body=self._readable(alert) + "\n",
            message_id=f"<hive-alert-{alert.alert_id}-{alert.first_at}@{self._node_id[:16]}.invalid>",
            at=alert.first_at,
        )
        await self._mail.send(targets.mail_server, letter)

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
