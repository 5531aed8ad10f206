"""Storing an emergency stop with its receipt and its alert (docs/protocol/08-client-and-plugins.md §6
"Kill switch"): for whoever engages it, in the transaction of the engaging."""

from __future__ import annotations

from collections.abc import Mapping

from hive_shared.alerts import Level
from hive_shared.canonical import JsonValue
from hive_shared.store import Tx

from cl_hive_comms.domain.emergency import Stop
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.services.kill_switch import KillSwitch
from cl_hive_comms.services.receipt_service import ReceiptService, operator_event


class EmergencyRecord:
    """Writes a stop that was engaged, or that was ordered to do more."""

    def __init__(self, switch: KillSwitch, receipts: ReceiptService, alerts: AlertService) -> None:
        self._switch, self._receipts, self._alerts = switch, receipts, alerts

    def engaged(self, tx: Tx, stop: Stop, params: Mapping[str, JsonValue]) -> None:
        """The stop, the receipt with these parameters, the alert."""
        self._switch.put(tx, stop)
        by = "the operator" if stop.by == "operator" else f"the file {self._switch.file.name}"
        why = f": {stop.reason}" if stop.reason else ""
        text = f"the emergency stop was engaged by {by}{why}; nothing remote runs until you release it"
        self._receipts.append(tx, operator_event("emergency_engage", params=dict(params)))
        # A second stop within ten minutes is news of its own.
        self._alerts.raise_in(tx, Level.CRITICAL, "emergency_stop", text, f"emergency_stop:{stop.since}")
