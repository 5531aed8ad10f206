"""hive:monitor/v1: forwards, invoices, payments, earnings, on-chain balance
(docs/protocol/02-fleet-management.md §4 item 1; paging by created_index, §16)."""

from __future__ import annotations

from typing import Any, Final

from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError

from .action import Caller, Params
from .indexed import indexed_page
from .monitor import ReadNode, limit_of
from .node_errors import node_error
from .pages import clean, page_of_list, pick

_BATCH: Final = 1_000
# A year of a busy node; beyond this the totals say that they are cut.
_MAX_BATCHES: Final = 200


class History:
    """Reads of what was. Each action method is one action's `read`."""

    def __init__(self, node: ReadNode) -> None:
        self._node = node

    async def forward_history(self, params: Params, caller: Caller) -> dict[str, JsonValue]:
        """`forward_history`: forwards in order of creation."""
        filters = {name: params.get(name) for name in ("status", "in_channel", "out_channel")}
        return await indexed_page(
            self._node,
            "listforwards",
            "forwards",
            filters,
            params,
            (
                "created_index",
                "in_channel",
                "out_channel",
                "in_msat",
                "out_msat",
                "fee_msat",
                "status",
                "failreason",
                "received_time",
                "resolved_time",
            ),
        )

    async def invoice_list(self, params: Params, caller: Caller) -> dict[str, JsonValue]:
        """`invoice_list`: invoices in order of creation, without preimages."""
        names = (
            "created_index",
            "label",
            "payment_hash",
            "amount_msat",
            "amount_received_msat",
            "status",
            "description",
            "expires_at",
            "paid_at",
        )
        return await indexed_page(
            self._node, "listinvoices", "invoices", {}, params, names, status=params.get("status")
        )

    async def payment_list(self, params: Params, caller: Caller) -> dict[str, JsonValue]:
        """`payment_list`: our payments, without preimages."""
        filters = {"status": params.get("status")}
        names = (
            "created_index",
            "payment_hash",
            "status",
            "destination",
            "created_at",
            "completed_at",
            "label",
            "amount_msat",
            "amount_sent_msat",
            "number_of_parts",
        )
        return await indexed_page(self._node, "listpays", "pays", filters, params, names)

    async def forward_totals(self, since: int, until: int) -> dict[str, JsonValue]:
        """Count, volume and fees of the forwards received in a span of unix seconds."""
        start = await self.first_forward(since)
        count = settled = failed = volume = fees = 0
        complete = False
        for _ in range(_MAX_BATCHES):
            rows = await self.forwards(start, _BATCH)
            for row in rows:
                if not since <= int(row.get("received_time", 0)) < until:
                    continue
                count += 1
                if row.get("status") == "settled":
                    settled += 1
                    volume += int(row.get("out_msat", 0))
                    fees += int(row.get("fee_msat", 0))
                elif row.get("status") in ("failed", "local_failed"):
                    failed += 1
            if len(rows) < _BATCH:
                complete = True
                break
            start = int(rows[-1]["created_index"]) + 1
        return {
            "count": count,
            "settled": settled,
            "failed": failed,
            "out_msat": clean(volume),
            "fees_msat": clean(fees),
            "complete": complete,
        }

    async def forwards(self, start: int, limit: int) -> list[dict[str, Any]]:
        """Forwards from a created_index on, in order of creation. Raises ClnError."""
        asked = {"index": "created", "start": start, "limit": limit}
        return list((await self._node.call("listforwards", asked))["forwards"])

    async def first_forward(self, since: int) -> int:
        """Smallest created_index received at or after `since`: doubling, then halving."""
        low, high = 1, 1
        while (rows := await self.forwards(high, 1)) and int(rows[0].get("received_time", 0)) < since:
            low, high = high, high * 2
        while low + 1 < high:
            middle = (low + high) // 2
            rows = await self.forwards(middle, 1)
            if rows and int(rows[0].get("received_time", 0)) < since:
                low = middle
            else:
                high = middle
        return low

    async def earnings(self, params: Params, caller: Caller) -> dict[str, JsonValue]:
        """`earnings`: income by kind and yield by channel, from the node's bookkeeper."""
        hours = params.get("hours")
        start = caller.now - (hours if isinstance(hours, int) else 168) * 3600
        income = await self._node.call("bkpr-listincome", {"start_time": start, "end_time": caller.now})
        kinds: dict[str, tuple[int, int]] = {}
        for event in income.get("income_events", ()):
            credit, debit = kinds.get(str(event.get("tag")), (0, 0))
            kinds[str(event.get("tag"))] = (
                credit + int(event.get("credit_msat", 0)),
                debit + int(event.get("debit_msat", 0)),
            )
        totals: list[JsonValue] = [
            {"tag": tag, "credit_msat": clean(credit), "debit_msat": clean(debit)}
            for tag, (credit, debit) in sorted(kinds.items())
        ]
        yields = await self._node.call("bkpr-channelsapy", {"start_time": start, "end_time": caller.now})
        names = (
            "account",
            "routed_out_msat",
            "routed_in_msat",
            "fees_out_msat",
            "fees_in_msat",
            "utilization_out",
            "utilization_in",
            "apy_out",
            "apy_in",
        )
        rows = [pick(row, names) for row in yields.get("channels_apy", ())]
        result = page_of_list(rows, limit_of(params), params.get("cursor"))
        return {"since": start, "income": totals, **result}

    async def onchain_balance(self, params: Params, caller: Caller) -> dict[str, JsonValue]:
        """`onchain_balance`: wallet outputs by status, and the bookkeeper's view where there is one."""
        funds = await self._node.call("listfunds")
        totals: dict[str, int] = {}
        reserved = 0
        for output in funds.get("outputs", ()):
            amount = int(output.get("amount_msat", 0))
            totals[str(output.get("status"))] = totals.get(str(output.get("status")), 0) + amount
            reserved += amount if output.get("reserved") else 0
        result: dict[str, JsonValue] = {
            "outputs": len(funds.get("outputs", ())),
            "by_status": {status: clean(amount) for status, amount in sorted(totals.items())},
            "reserved_msat": clean(reserved),
        }
        try:
            balances = await self._node.call("bkpr-listbalances")
        except ClnError as error:
            result["accounts"] = {"available": False, "reason": node_error(error).symbol}
            return result
        wallet = [row for row in balances.get("accounts", ()) if row.get("account") == "wallet"]
        result["accounts"] = [
            {
                "account": "wallet",
                "balances": [clean(balance) for balance in row.get("balances", ())],
            }
            for row in wallet
        ]
        return result
