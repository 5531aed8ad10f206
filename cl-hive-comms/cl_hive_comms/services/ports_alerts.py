"""What the delivery of alerts needs from the outside."""

from collections.abc import Mapping
from typing import Protocol

from hive_shared.store import Tx

from cl_hive_comms.domain.alert import Alert


class WebhookFailed(Exception):
    """The alert was not taken; the text says why, without the address (its path may be a secret)."""


class Webhook(Protocol):
    """One HTTP POST (transport.webhook)."""

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Returns when the server said 2xx within five seconds, raises WebhookFailed else."""
        ...


class DeliveryStore(Protocol):
    """How far alerts are on their way (comms_alerts)."""

    def alert(self, tx: Tx, alert_id: int) -> Alert | None: ...
    def recent_alerts(self, tx: Tx, limit: int) -> list[Alert]: ...
    def ack_alert(self, tx: Tx, alert_id: int, now: int) -> None: ...
    def webhook_due(self, tx: Tx, now: int, limit: int) -> list[Alert]: ...
    def webhook_sent(self, tx: Tx, alert_id: int) -> None: ...
    def webhook_failed(self, tx: Tx, alert_id: int, error: str, next_at: int | None) -> None: ...
    def dm_due(self, tx: Tx, limit: int) -> list[Alert]: ...
    def set_dm(self, tx: Tx, alert_id: int, state: str) -> None: ...
