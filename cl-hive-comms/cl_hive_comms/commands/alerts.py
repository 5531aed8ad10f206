"""hive-client-alerts (docs/protocol/08-client-and-plugins.md §5.2, §6 "Alerts")."""

from collections.abc import Callable
from typing import Any

from hive_shared.errors import InvalidParams
from hive_shared.runtime_spec import ClassBy, MethodSpec, Param

from cl_hive_comms.domain.alert import Alert, Delivery
from cl_hive_comms.services.alert_delivery import AlertDelivery


class AlertCommands:
    """list, test, ack."""

    def __init__(self, service: Callable[[], AlertDelivery]) -> None:
        self._service = service

    def specs(self) -> list[MethodSpec]:
        """The method of this family."""
        return [
            MethodSpec(
                "hive-client-alerts",
                "A",
                (
                    Param("action", "str", default="list", choices=("list", "test", "ack")),
                    Param("id", "int", minimum=1, maximum=(1 << 63) - 1),
                    Param("limit", "int", default=100, minimum=1, maximum=500),
                ),
                self._alerts,
                "What you should notice: list, test (send one by every channel that is set), ack (id).",
                by=ClassBy("action", {"list": "R", "test": "A", "ack": "A"}),
            )
        ]

    async def _alerts(self, params: dict[str, Any]) -> dict[str, Any]:
        action, alert_id = params["action"], params["id"]
        if action == "ack":
            if alert_id is None:
                raise InvalidParams("ack needs id=: the number of an alert in the list")
            return _row(await self._service().acknowledge(alert_id))
        if alert_id is not None:
            raise InvalidParams(f"id does not belong to action={action}")
        if action == "test":
            return _row(await self._service().test())
        items = [_row(alert) for alert in await self._service().list_all(params["limit"])]
        return {"count": len(items), "items": items}


def _way(delivery: Delivery) -> dict[str, Any]:
    row: dict[str, Any] = {"state": delivery.state, "attempts": delivery.attempts}
    return row if delivery.error is None else {**row, "error": delivery.error}


def _row(alert: Alert) -> dict[str, Any]:
    return {
        "id": alert.alert_id,
        "level": alert.level.value,
        "code": alert.code,
        "text": alert.text,
        "count": alert.count,
        "first_at": alert.first_at,
        "last_at": alert.last_at,
        "acked_at": alert.acked_at,
        "webhook": _way(alert.webhook),
        "email": _way(alert.email),
        "dm": {"state": alert.dm},
    }
