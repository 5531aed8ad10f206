"""Tools with figures of the operator's own nodes, and the calls behind them
(docs/protocol/11-advisor-kit.md §11.3, set core)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from hive_shared.runtime_spec import MethodSpec, Param

from hive_advisor.domain.methods import method_table


class FigureTool(msgspec.Struct, frozen=True):
    """One tool. ``asks`` are the methods it calls on a node; ``fleet``: of all nodes unless one is named."""

    name: str
    description: str
    asks: tuple[str, ...]
    params: tuple[Param, ...] = ()
    fleet: bool = True


_CHANNELS: Final = ("getinfo", "listpeerchannels")
_FORWARDS: Final = ("wait", "listforwards")
_LIMIT: Final = Param("limit", "int", default=50, minimum=1, maximum=100)
PENDING: Final = ("hive-client-pending", "hive-pending-actions")
"""The two queues; a plugin of this version may not have the second."""

FIGURE_TOOLS: Final[Mapping[str, FigureTool]] = {
    tool.name: tool
    for tool in (
        FigureTool(
            "fleet_snapshot",
            "Every node in a dozen numbers: channels, balance, wallet, forwards of 24 hours; and the sums.",
            (*_CHANNELS, "listfunds", *_FORWARDS),
        ),
        FigureTool(
            "fleet_health",
            "Whether each node answers, is in sync, has its channels online, and what its self-check found.",
            (*_CHANNELS, "hive-client-selfcheck"),
        ),
        FigureTool(
            "anomalies",
            "What is out of the ordinary: node away or out of sync, channels offline or one-sided, HTLCs"
            " about to expire, revenue below half its mean, actions waiting long, self-checks failed.",
            (*_CHANNELS, *_FORWARDS, "hive-client-pending", "hive-client-selfcheck"),
        ),
        FigureTool(
            "compare_periods",
            "Forwards, amounts and fees of the last days against as many before.",
            ("getinfo", *_FORWARDS),
            (Param("days", "int", default=7, minimum=1, maximum=30),),
        ),
        FigureTool(
            "critical_velocity",
            "Channels that run empty or full within a day at the rate of the last hours.",
            (*_CHANNELS, *_FORWARDS),
            (Param("hours", "int", default=24, minimum=1, maximum=168),),
        ),
        FigureTool(
            "stagnant_channels",
            "Open channels that forwarded nothing in so many days.",
            (*_CHANNELS, *_FORWARDS),
            (Param("days", "int", default=30, minimum=1, maximum=90), _LIMIT),
        ),
        FigureTool(
            "earnings",
            "Income and expense by kind, from the node's bookkeeper.",
            ("getinfo", "bkpr-listincome"),
            (Param("days", "int", default=30, minimum=1, maximum=365),),
        ),
        FigureTool(
            "pending",
            "What waits for the operator's decision, of both queues.",
            ("getinfo", *PENDING),
            (_LIMIT,),
        ),
        FigureTool(
            "channel_deep_dive",
            "One channel: balance, fees, HTLCs, and what went through in 1, 7 and 30 days.",
            (*_CHANNELS, *_FORWARDS),
            (Param("channel", "str", required=True, maximum=64),),
            fleet=False,
        ),
        FigureTool(
            "forwards",
            "The newest forwards; older ones with before=next_before.",
            ("getinfo", *_FORWARDS),
            (_LIMIT, Param("before", "int", minimum=1, maximum=(1 << 53))),
            fleet=False,
        ),
        FigureTool(
            "payments",
            "The newest payments of the node's own, without preimages and invoices.",
            ("getinfo", "wait", "listpays"),
            (_LIMIT,),
            fleet=False,
        ),
        FigureTool(
            "graph_peer",
            "What gossip says of one node: when it was last heard, its channels, capacity and fee rates.",
            ("getinfo", "listnodes", "listchannels"),
            (Param("peer_id", "str", required=True, maximum=66),),
            fleet=False,
        ),
    )
}


def rune_reads() -> list[MethodSpec]:
    """The methods of CLN that these tools call and that are no tool of their own."""
    names = (
        {name for tool in FIGURE_TOOLS.values() for name in tool.asks} - method_table().keys() - {*PENDING}
    )
    return [MethodSpec(name, "R", (), _elsewhere, "") for name in sorted(names)]


async def _elsewhere(params: dict[str, Any]) -> dict[str, Any]:
    """Stands for CLN's own handler; never reached."""
    raise AssertionError("a declaration of the kit is not called")
