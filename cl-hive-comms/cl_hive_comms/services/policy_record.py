"""What stays on record of a change of the policy: its receipt, and an alert where it allows more
(docs/protocol/08-client-and-plugins.md §5.4). Both go into the transaction that stores the change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from hive_shared.alerts import Level
from hive_shared.canonical import JsonValue
from hive_shared.store import Tx

from cl_hive_comms.domain.policy import PolicySnapshot
from cl_hive_comms.domain.policy_change import differences, listed, looser, policy_hash
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.services.ports_identity import Clock
from cl_hive_comms.services.receipt_service import ReceiptService, operator_event

Source = Literal["option", "file", "restore"]
"""Where a policy comes from that no call of the operator's named."""
_WORDS: Final[Mapping[Source, str]] = {
    "option": "the option hive-comms-policy-preset",
    "file": "the policy file",
    "restore": "a restored backup",
}
_MOST: Final = 100


class PolicyRecord:
    """Writes receipt and alert of a change."""

    def __init__(self, receipts: ReceiptService, alerts: AlertService, *, now: Clock) -> None:
        self._receipts, self._alerts, self._now = receipts, alerts, now

    def called(
        self,
        tx: Tx,
        action: str,
        params: Mapping[str, Any],
        *,
        before: PolicySnapshot,
        after: PolicySnapshot,
    ) -> None:
        """A change that the operator's call or the clock made."""
        result: dict[str, JsonValue] = {"policy_version": after.version}
        self._receipts.append(tx, operator_event(f"policy_{action}", params=dict(params), result=result))
        if before.locked is None:
            self._warn(tx, looser(before, after, self._now()))

    def followed(
        self, tx: Tx, source: Source, *, before: PolicySnapshot | None, after: PolicySnapshot
    ) -> None:
        """A policy that was found different at start, reload or restore; `before` is None when what was in
        force could not be read any more."""
        params: dict[str, JsonValue] = {
            "source": source,
            "old_hash": None if before is None else policy_hash(before),
            "new_hash": policy_hash(after),
            "differs": ["document"] if before is None else _shown(differences(before, after)),
        }
        result: dict[str, JsonValue] = {"policy_version": after.version}
        self._receipts.append(tx, operator_event("policy_followed", params=params, result=result))
        where = f"; it comes from {_WORDS[source]}"
        if before is None:
            text = f"the policy is another one and what held before cannot be read{where}: look at it"
            self._alerts.raise_in(tx, Level.WARNING, "policy_loosened", text)
        else:
            self._warn(tx, looser(before, after, self._now()), where)

    def _warn(self, tx: Tx, keys: tuple[str, ...], where: str = "") -> None:
        if keys:
            text = f"the policy now allows more: {listed(keys)}{where}"
            self._alerts.raise_in(tx, Level.WARNING, "policy_loosened", text)


def _shown(names: Sequence[str]) -> list[JsonValue]:
    more = len(names) - _MOST
    return [*names[:_MOST], *([f"and {more} more"] if more > 0 else [])]
