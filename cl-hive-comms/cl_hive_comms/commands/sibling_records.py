"""hive-comms-alert, -append-receipt, -sign-binding (docs/protocol/08-client-and-plugins.md §3.4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hive_shared.alerts import Level
from hive_shared.runtime_spec import MethodSpec, Param

from ..services.sibling_records import STATUSES, SiblingRecords


class SiblingRecordCommands:
    """What siblings leave with us. The runtime has checked the caller's `auth`."""

    def __init__(self, service: Callable[[], SiblingRecords]) -> None:
        self._service = service

    def specs(self) -> list[MethodSpec]:
        """The methods of this family."""
        return [
            MethodSpec(
                "hive-comms-alert",
                "S",
                (
                    Param("level", "str", required=True, choices=tuple(level.value for level in Level)),
                    Param("code", "str", required=True, maximum=64),
                    Param("text", "str", required=True, maximum=1_000),
                    Param("dedup_key", "str", default="", maximum=200),
                ),
                self._alert,
                "Raise an alert for the operator on behalf of a sibling plugin.",
            ),
            MethodSpec(
                "hive-comms-append-receipt",
                "S",
                (
                    Param("schema", "str", required=True, maximum=100),
                    Param("action", "str", required=True, maximum=64),
                    Param("status", "str", required=True, choices=STATUSES),
                    Param("params", "json"),
                    Param("result", "json"),
                    Param("error", "json"),
                    Param("payment", "json"),
                    Param("danger", "int", minimum=1, maximum=10),
                    Param("command_id", "str", default="", maximum=64),
                ),
                self._append,
                "Add a receipt of a sibling plugin to the node's chain.",
            ),
            MethodSpec(
                "hive-comms-sign-binding",
                "S",
                (
                    Param("did", "str", required=True, maximum=200),
                    Param("nonce", "str", required=True, maximum=64),
                    Param("valid_from", "str", required=True, maximum=40),
                ),
                self._sign,
                "Sign the statement that this node's Nostr key belongs to a DID.",
            ),
        ]

    async def _alert(self, params: dict[str, Any]) -> dict[str, Any]:
        await self._service().alert(params["level"], params["code"], params["text"], params["dedup_key"])
        return {"result": "raised"}

    async def _append(self, params: dict[str, Any]) -> dict[str, Any]:
        appended = await self._service().append_receipt(params)
        return {"receipt_id": appended.receipt_id, "receipt_hash": appended.receipt_hash}

    async def _sign(self, params: dict[str, Any]) -> dict[str, Any]:
        pubkey, sig = self._service().sign_binding(params["did"], params["nonce"], params["valid_from"])
        return {"pubkey": pubkey, "sig": sig}
