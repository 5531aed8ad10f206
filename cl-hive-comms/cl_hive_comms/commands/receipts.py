"""hive-client-receipts and hive-client-receipts-verify (docs/protocol/08-client-and-plugins.md §5.2)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from hive_shared.errors import InvalidParams
from hive_shared.runtime_spec import MethodSpec, Param
from hive_shared.store import StoreError
from msgspec.structs import asdict

from ..domain.receipt_record import ReceiptQuery
from ..services.alert_service import AlertService
from ..services.legacy_receipts import LegacyReceipts
from ..services.receipt_service import ReceiptService


class ReceiptCommands:
    """Reading and proving the chain. `advisor_id` resolves a name and raises NotFound or Ambiguous;
    `name_of_agent` names the advisor behind an agent id, `legacy` reads what the earlier plugin left."""

    def __init__(
        self,
        service: Callable[[], ReceiptService],
        advisor_id: Callable[[str], str],
        name_of_agent: Callable[[str], str],
        legacy: Callable[[], LegacyReceipts],
        alerts: Callable[[], AlertService],
    ) -> None:
        self._service, self._advisor_id, self._name_of_agent = service, advisor_id, name_of_agent
        self._legacy, self._alerts = legacy, alerts

    def specs(self) -> list[MethodSpec]:
        """The methods of this family."""
        return [
            MethodSpec(
                "hive-client-receipts",
                "R",
                (
                    Param("advisor", "str", default=""),
                    Param("since", "int", minimum=0),
                    Param("until", "int", minimum=0),
                    Param("schema", "str", default=""),
                    Param("limit", "int", default=100, minimum=1, maximum=500),
                    Param("cursor", "str", default=""),
                    Param("format", "str", default="json", choices=("json", "text")),
                    Param("legacy", "bool", default=False),
                ),
                self._list,
                "Receipts of what advisors asked and what you decided, newest first.",
            ),
            MethodSpec(
                "hive-client-receipts-verify",
                "R",
                (
                    Param("from_id", "int", default=1, minimum=1),
                    Param("to_id", "int", minimum=1),
                ),
                self._verify,
                "Check ids, hashes, signatures and order of the receipts; names the first bad one.",
            ),
        ]

    async def _list(self, params: dict[str, Any]) -> dict[str, Any]:
        if params["legacy"]:
            return await self._legacy_list(params)
        query = ReceiptQuery(
            advisor_id=self._advisor_id(params["advisor"]) if params["advisor"] else None,
            schema=params["schema"] or None,
            since=params["since"],
            until=params["until"],
            before_id=_cursor(params["cursor"]),
            limit=params["limit"],
        )
        result = await self._service().list(query)
        return self._as_text(result) if params["format"] == "text" else result

    async def _legacy_list(self, params: dict[str, Any]) -> dict[str, Any]:
        if params["advisor"]:
            raise InvalidParams("legacy receipts name no advisor of this plugin; leave advisor out")
        page = await self._legacy().list(
            schema=params["schema"] or None,
            since=params["since"],
            until=params["until"],
            before=_legacy_cursor(params["cursor"]),
            limit=params["limit"],
        )
        if params["format"] == "json":
            return page
        lines = [_legacy_line(receipt) for receipt in page["items"]] or ["no legacy receipts"]
        if "next_cursor" in page:
            lines.append(f"older ones: legacy=true cursor={page['next_cursor']}")
        return {"format-hint": "simple", "text": "\n".join(lines)}

    def _as_text(self, page: Mapping[str, Any]) -> dict[str, Any]:
        """One line each for people; the documents with their keys and hashes are for programs (08 §4)."""
        lines = [self._line(receipt) for receipt in page["items"]] or ["no receipts"]
        if "next_cursor" in page:
            lines.append(f"older ones: cursor={page['next_cursor']}")
        return {"format-hint": "simple", "text": "\n".join(lines)}

    def _line(self, receipt: Mapping[str, Any]) -> str:
        at = datetime.fromtimestamp(receipt["created_at"], UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        who = self._name_of_agent(receipt["agent_id"]) if "agent_id" in receipt else "-"
        error = receipt.get("error")
        why = f"  {error['slug']}: {error['message']}" if error else ""
        what = f"{receipt['schema']} {receipt['action']}"
        return f"{receipt['receipt_id']:>6}  {at}  {who:<16}  {receipt['status']:<9}  {what}{why}"

    async def _verify(self, params: dict[str, Any]) -> dict[str, Any]:
        report = await self._service().verify(params["from_id"], params["to_id"])
        result: dict[str, Any] = {
            "ok": report.ok,
            "checked": report.checked,
            "first_bad": report.first_bad,
            "reason": report.reason,
            "last_id": report.last_id,
            "last_hash": report.last_hash,
        }
        if params["from_id"] == 1:
            # Segments stand beside the chain; whoever asks for a part of it asks for just that.
            legacy = await self._legacy().verify()
            bad = legacy.first_bad is not None
            result["ok"] = report.ok and not bad
            result["legacy"] = {"ok": not bad, **asdict(legacy)}
        if not result["ok"]:
            where = f"receipt {report.first_bad}: {report.reason}"
            if report.ok:
                where = f"receipts of the earlier plugin, number {result['legacy']['first_bad']}"
            with suppress(StoreError):
                # A database that takes nothing more must still be found out.
                await self._alerts().alert_critical(
                    "receipt_chain_broken",
                    f"the record of what was done here does not verify ({where}); keep the database as it is"
                    " and compare it with a backup or export",
                )
        return result


def _cursor(text: str) -> int | None:
    if not text:
        return None
    if not text.isdecimal() or len(text) > 15:
        raise InvalidParams("cursor is none that this method gave out; start again without it")
    return int(text)


def _legacy_cursor(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    at, dot, seq = text.partition(".")
    if not (dot and at.isdecimal() and seq.isdecimal()) or len(text) > 32:
        raise InvalidParams("cursor is none that this method gave out for legacy=true; start without it")
    return int(at), int(seq)


def _legacy_line(receipt: Mapping[str, Any]) -> str:
    # Values are as the earlier plugin left them: of any type, so they are shown as JSON.
    shown = [
        json.dumps(receipt.get(name))[:40] for name in ("executed_at", "receipt_id", "schema_id", "action")
    ]
    return f"{receipt['seq']:>6}  " + "  ".join(shown)
