"""hive-client-pending and hive-client-approve (docs/protocol/08-client-and-plugins.md §5.2; 02 §7.3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hive_shared.errors import InvalidParams
from hive_shared.nostr.keys import parse_pubkey
from hive_shared.runtime_spec import MethodSpec, Param

from ..domain.approval import LOCAL
from ..services.approval_service import ApprovalService


class ApprovalCommands:
    """What waits for people, and their word on it. `name_of` gives an advisor's name."""

    def __init__(self, service: Callable[[], ApprovalService], name_of: Callable[[str], str]) -> None:
        self._service, self._name_of = service, name_of

    def specs(self) -> list[MethodSpec]:
        """The methods of this family."""
        return [
            MethodSpec(
                "hive-client-pending",
                "R",
                (Param("limit", "int", default=100, minimum=1, maximum=500),),
                self._pending,
                "Actions of advisors that wait for your decision, the most urgent first.",
            ),
            MethodSpec(
                "hive-client-approve",
                "X",
                (
                    Param("action_id", "str", required=True),
                    Param("reject", "bool", default=False),
                    Param("reason", "str", default=""),
                    Param("params_json", "json", default=None),
                    Param("approver", "str", default=""),
                    Param("signature", "str", default=""),
                ),
                self._approve,
                "Approve a waiting action, reject it (reject=true), or approve less of it (params_json).",
            ),
        ]

    async def _pending(self, params: dict[str, Any]) -> dict[str, Any]:
        result: dict[str, Any] = await self._service().pending(params["limit"])
        for item in result["items"]:
            item["advisor"] = self._name_of(item["advisor_id"])
        return result

    async def _approve(self, params: dict[str, Any]) -> dict[str, Any]:
        edited = params["params_json"]
        if edited is not None and not isinstance(edited, dict):
            raise InvalidParams("params_json must be an object: the parameters as they shall run")
        return await self._service().approve(
            params["action_id"],
            reject=params["reject"],
            reason=params["reason"],
            params=edited,
            approver=_approver(params["approver"]),
            signature=params["signature"],
        )


def _approver(text: str) -> str:
    if not text or text == LOCAL or (text.startswith("did:") and not text.startswith("did:nostr:")):
        return text
    try:
        return parse_pubkey(text)
    except ValueError as error:
        raise InvalidParams(f"approver is neither a key nor `{LOCAL}`: {error}") from None
