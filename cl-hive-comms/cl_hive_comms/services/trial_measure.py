"""Figures of a trial, all from this node (docs/protocol/04-marketplace-and-nostr.md §10 "Trial")."""

from __future__ import annotations

from hive_shared.cln import ClnError
from hive_shared.errors import Internal

from cl_hive_comms.domain.trial import BASELINE_S, Baseline, Income
from cl_hive_comms.services.executors.monitor import ReadNode
from cl_hive_comms.services.executors.monitor_history import History


class TrialMeasure:
    """Reads forwards, bookkeeping and channels."""

    def __init__(self, node: ReadNode) -> None:
        self._node, self._history = node, History(node)

    async def baseline(self, now: int) -> Baseline:
        """The seven days before `now`, and the channels there are. Raises Internal without an answer."""
        try:
            income = await self.income(now - BASELINE_S, now)
            rows = await self._node.listpeerchannels()
        except ClnError as error:
            raise Internal(
                f"the node did not answer {error.method}, so there would be nothing to compare a trial with;"
                " try again",
                reason="node_error",
            ) from error
        usable = [row for row in rows if row.get("state") == "CHANNELD_NORMAL"]
        return Baseline(
            income,
            len(usable),
            sum(int(row.get("total_msat", 0)) for row in usable),
            sum(int(row.get("to_us_msat", 0)) for row in usable),
        )

    async def income(self, since: int, until: int) -> Income:
        """Routing income of a span. Raises ClnError when the forwards cannot be read."""
        totals = await self._history.forward_totals(since, until)
        return Income(
            since,
            until,
            int(str(totals["fees_msat"])),
            await self._rebalance_cost(since, until),
            int(str(totals["settled"])),
            totals["complete"] is True,
        )

    async def _rebalance_cost(self, since: int, until: int) -> int | None:
        try:
            span = {"start_time": since, "end_time": until}
            events = (await self._node.call("bkpr-listincome", span)).get("income_events", ())
        except ClnError:
            # The bookkeeper is a plugin that can be switched off.
            return None
        return sum(int(row.get("debit_msat", 0)) for row in events if row.get("tag") == "rebalance_fee")
