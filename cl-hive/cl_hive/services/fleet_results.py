"""What came of a task, as it is stored: the receipt of the command that did it
(docs/protocol/03-escrow-and-payments.md §6.7 "Never reveal on a caller's bare claim of success")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from hive_shared.canonical import JsonValue
from hive_shared.cashu.terms import task_params_hash
from hive_shared.cln import ClnError
from hive_shared.errors import SiblingUnavailable

from cl_hive.services.fleet_ports import NodeCall

_PAGES: Final = 5
_PAGE: Final = 500
_SUCCESS: Final = "success"


class StoredResult(msgspec.Struct, frozen=True):
    """The receipt of a command: whether it succeeded, what it answered, its id."""

    command_id: str
    success: bool
    params: Mapping[str, JsonValue]
    result: Mapping[str, JsonValue]
    approved: bool


class StoredResults:
    """Looks in the receipts of cl-hive-comms for the command of a task."""

    def __init__(self, node: NodeCall) -> None:
        self._node = node

    async def of_task(
        self, agent: str, schema: str, action: str, params_hash: str, since: int
    ) -> list[StoredResult]:
        """Commands of an agent (x-only hex) that were this very task, the newest first.

        Raises SiblingUnavailable where comms does not show its receipts.
        """
        found: list[StoredResult] = []
        cursor = ""
        for _ in range(_PAGES):
            query = {"schema": schema, "since": since, "limit": _PAGE, "cursor": cursor}
            try:
                answer = await self._node("hive-client-receipts", query)
            except ClnError as error:
                raise SiblingUnavailable(f"cl-hive-comms shows no receipts: {error.message[:200]}") from None
            for row in answer.get("items", ()):
                one = _result(row, agent, action, schema, params_hash)
                found += [] if one is None else [one]
            cursor = str(answer.get("next_cursor") or "")
            if not cursor:
                break
        return found


def _result(
    row: Mapping[str, Any], agent: str, action: str, schema: str, params_hash: str
) -> StoredResult | None:
    params, command_id, result = row.get("params"), row.get("command_id"), row.get("result")
    if row.get("action") != action or not isinstance(command_id, str) or not isinstance(params, dict):
        return None
    if agent not in str(row.get("agent_id", "")):
        return None
    if row.get("escrow") or row.get("payment"):
        return None  # It was paid for by other means.
    if task_params_hash(schema, action, params) != params_hash:
        return None
    shown = result if isinstance(result, dict) else {}
    approval = row.get("approval")
    approved = isinstance(approval, dict) and bool(approval)
    return StoredResult(command_id, row.get("status") == _SUCCESS, params, shown, approved)
