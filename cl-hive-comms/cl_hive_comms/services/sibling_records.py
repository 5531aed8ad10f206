"""What siblings leave with us: alerts, receipts, and our signature on a binding
(docs/protocol/08-client-and-plugins.md §3.4).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from hive_shared import binding
from hive_shared.alerts import Level
from hive_shared.canonical import JsonValue, encode
from hive_shared.crypto import sha256
from hive_shared.errors import EmergencyStop, InvalidParams, RateLimited
from hive_shared.rate_limit import SlidingWindows
from hive_shared.store import Tx

from ..domain.sibling_names import check_receipt_schema
from .ports_commands import Alerts, Database, Identity, KillSwitch, ReceiptRows
from .receipt_service import ReceiptFields, ReceiptService

ALERTS_PER_HOUR: Final = 60
RECEIPTS_PER_MINUTE: Final = 60
MAX_PARAMS_BYTES: Final = 16_384
"""The chain is never pruned; what is longer stands in it as its hash."""
STATUSES: Final = ("success", "partial", "error", "rejected", "expired", "cancelled", "indeterminate")
_CODE: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_ACTION: Final = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_COMMAND_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")
# These two bring an alert to every channel whatever its level; they speak of our own doings.
_OUR_CODES: Final = ("alert_", "command_")


class Appended(msgspec.Struct, frozen=True):
    """A receipt in the chain."""

    receipt_id: int
    receipt_hash: str


class SiblingRecords:
    """Takes alerts and receipts from siblings and signs their bindings."""

    def __init__(
        self,
        *,
        db: Database,
        alerts: Alerts,
        receipts: ReceiptService,
        rows: ReceiptRows,
        identity: Identity,
        kill_switch: KillSwitch,
        node_id: str,
        now: Callable[[], int],
        on_receipt: Callable[[int, str], None],
    ) -> None:
        self._db, self._alerts, self._receipts, self._rows = db, alerts, receipts, rows
        self._identity, self._kill, self._node_id = identity, kill_switch, node_id
        self._on_receipt = on_receipt
        self._hours = SlidingWindows(now, window_s=3_600)
        self._minutes = SlidingWindows(now)

    async def alert(self, level: str, code: str, text: str, dedup_key: str) -> None:
        """Raise an alert for the operator. Raises InvalidParams, RateLimited beyond 60 an hour."""
        if not _CODE.fullmatch(code) or code.startswith(_OUR_CODES):
            raise InvalidParams(
                f"code {code[:64]!a} is not lower-case words joined by _, or begins like one of comms' own"
                f" ({', '.join(_OUR_CODES)})"
            )
        cleaned = " ".join("".join(c if c.isprintable() else " " for c in text).split())
        if not cleaned:
            raise InvalidParams("text is empty: say in one sentence what happened and what to do")
        if not self._hours.allow("alerts", "siblings", ALERTS_PER_HOUR):
            wait = self._hours.retry_after("alerts", "siblings", ALERTS_PER_HOUR)
            raise RateLimited(f"more than {ALERTS_PER_HOUR} alerts in an hour", data={"retry_after": wait})
        await self._db.write(
            lambda tx: self._alerts.raise_in(tx, Level(level), code, cleaned, dedup_key and f"s:{dedup_key}")
        )

    async def append_receipt(self, given: Mapping[str, Any]) -> Appended:
        """Add a receipt to the chain; the same command_id with the same schema, action and status gives the
        receipt that is there.

        `given` are the parameters of hive-comms-append-receipt. Raises InvalidParams, RateLimited beyond 60
        a minute.
        """
        fields = _fields(given)

        def body(tx: Tx) -> tuple[Appended, bool]:
            found = self._repeated(tx, fields)
            if found is not None:
                return found, False
            if not self._minutes.allow("receipts", "siblings", RECEIPTS_PER_MINUTE):
                wait = self._minutes.retry_after("receipts", "siblings", RECEIPTS_PER_MINUTE)
                text = f"more than {RECEIPTS_PER_MINUTE} receipts in a minute"
                raise RateLimited(text, data={"retry_after": wait})
            receipt = self._receipts.append(tx, fields)
            return Appended(receipt.receipt_id, receipt.receipt_hash), True

        appended, fresh = await self._db.write(body)
        if fresh:
            self._on_receipt(appended.receipt_id, fields.status)
        return appended

    def _repeated(self, tx: Tx, fields: ReceiptFields) -> Appended | None:
        if fields.command_id is None:
            return None
        for row in self._rows.of_command(tx, fields.command_id):
            if (row.schema_id, row.action, row.status) == (fields.schema, fields.action, fields.status):
                return Appended(row.receipt_id, row.receipt_hash)
        return None

    def sign_binding(self, did: str, nonce: str, valid_from: str) -> tuple[str, str]:
        """Our x-only key and its BIP-340 signature over the binding statement, which is built here.

        Raises InvalidParams, Unauthorized (another node's did:key), EmergencyStop.
        """
        binding.check_for_node(did, nonce, valid_from, self._node_id)
        if self._kill.engaged():
            raise EmergencyStop("nothing new is signed until the operator releases the emergency stop")
        return self._identity.pubkey, binding.key_proof(self._identity.secret(), did, nonce, valid_from)


def _fields(given: Mapping[str, Any]) -> ReceiptFields:
    check_receipt_schema(given["schema"])
    if not _ACTION.fullmatch(given["action"]):
        raise InvalidParams(f"action {given['action'][:64]!a} is not lower-case words joined by _ or -")
    command_id = given["command_id"] or None
    if command_id is not None and not _COMMAND_ID.fullmatch(command_id):
        raise InvalidParams("command_id is 1 to 64 letters, digits and . _ : -")
    danger = given["danger"]
    return ReceiptFields(
        schema=given["schema"],
        action=given["action"],
        status=given["status"],
        command_id=command_id,
        params=_short("params", given["params"]),
        result=_canonical("result", given["result"]),
        error=_short("error", given["error"]),
        payment=_short("payment", given["payment"]),
        danger=None if danger is None else {"total": danger},
    )


def _canonical(name: str, value: Any) -> JsonValue:
    try:
        encode(value)
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidParams(f"{name} has no canonical form: {error}") from None
    found: JsonValue = value
    return found


def _short(name: str, value: Any) -> JsonValue:
    found = _canonical(name, value)
    text = encode(found)
    if len(text) <= MAX_PARAMS_BYTES:
        return found
    return {"sha256": sha256(text).hex(), "bytes": len(text)}
