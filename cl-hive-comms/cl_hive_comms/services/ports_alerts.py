"""What the delivery of alerts needs from the outside."""

from collections.abc import Mapping
from typing import Protocol

import msgspec
from hive_shared.store import Tx

from cl_hive_comms.domain.alert import Alert, Channel
from cl_hive_comms.domain.mail import MailServer
from cl_hive_comms.services.ports_identity import NewAlerts


class DeliveryFailed(Exception):
    """The alert was not taken; the text says why, without addresses or passwords."""


class WebhookFailed(DeliveryFailed):
    """The webhook did not take it; its path may be a secret and is not in the text."""


class MailFailed(DeliveryFailed):
    """The mail server did not take it; the text holds nothing the server said."""


class Webhook(Protocol):
    """One HTTP POST (transport.webhook)."""

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Returns when the server said 2xx within five seconds, raises WebhookFailed else."""
        ...


class Letter(msgspec.Struct, frozen=True):
    """One mail. `at` is Unix seconds; a repeat of the same alert bears the same `message_id`."""

    recipient: str
    subject: str
    body: str
    message_id: str
    at: int


class Mail(Protocol):
    """One mail handed to a server (transport.mail)."""

    async def send(self, server: MailServer, letter: Letter) -> None:
        """Returns when the server took it, raises MailFailed else."""
        ...


class DeliveryStore(Protocol):
    """How far alerts are on their way (comms_alerts). `way` is webhook or email."""

    def alert(self, tx: Tx, alert_id: int) -> Alert | None: ...
    def recent_alerts(self, tx: Tx, limit: int) -> list[Alert]: ...
    def ack_alert(self, tx: Tx, alert_id: int, now: int) -> None: ...
    def due(self, tx: Tx, way: Channel, now: int, limit: int) -> list[Alert]: ...
    def sent(self, tx: Tx, way: Channel, alert_id: int) -> None: ...
    def failed(self, tx: Tx, way: Channel, alert_id: int, error: str, next_at: int | None) -> None: ...
    def dm_due(self, tx: Tx, limit: int) -> list[Alert]: ...
    def set_dm(self, tx: Tx, alert_id: int, state: str) -> None: ...


class DigestStore(NewAlerts, Protocol):
    """What a digest is made of, and where it is put (comms_alerts, comms_state)."""

    def get(self, tx: Tx, key: str) -> str | None: ...
    def put(self, tx: Tx, key: str, value: str, now: int) -> None: ...
    def alerts_between(self, tx: Tx, since: int, until: int) -> list[Alert]: ...
