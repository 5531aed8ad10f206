"""The schemas of which this version serves little or nothing yet: names, permissions, danger, tiers (02 §4).

Their actions are declared whole so that a credential can be issued, a pattern checked and a danger quoted for
them. Asking a node of this version to run one gets `unsupported_action`.
"""

from __future__ import annotations

from . import backup, channel, config, forwarding, htlc, payment, peer, plugin, wallet
from .danger import (
    by_amount,
    plus_withdrawal,
)
from .spec import NO_CALL, NOT_SERVED, SchemaSpec, SchemaTable


def _rebalance() -> SchemaSpec:
    table = SchemaTable("hive:rebalance/v1", "rebalance")
    circular = by_amount((100_000, "3/3/3/3/2"), (None, "4/5/3/3/3"))
    table.write("circular_rebalance", circular, s5="max_rebalance_sats")
    table.write("peer_rebalance", "3/4/3/3/2")
    # `submarine_swap` with a direction is the older name of both; the direction decides, so it is no alias.
    table.write("swap_out", plus_withdrawal("5/5/4/3/4", "address"), s5="max_swap_sats")
    table.write("swap_in", "4/5/3/2/3", s5="max_swap_sats")
    table.write("liquidity_market", "4/5/4/3/4")
    return table.done()


def _splice() -> SchemaSpec:
    table = SchemaTable("hive:splice/v1", "splice")
    table.write("splice_in", "5/5/4/3/4")
    table.write("splice_out", plus_withdrawal("6/6/4/3/5", "destination"))
    table.write("splice_open", "7/7/5/5/6", why=NO_CALL)
    return table.done()


def _liquidity() -> SchemaSpec:
    table = SchemaTable("hive:liquidity/v1", "liquidity")
    for name in (
        "lease_request",
        "lease_renew",
        "jit_request",
        "swap_request",
        "insurance_purchase",
        "portfolio_rebalance",
    ):
        table.write(name, "4/5/4/3/4")
    table.write("lease_terminate", "6/6/4/3/5")
    table.write("insurance_claim", "3/3/3/2/2")
    table.read("heartbeat_verify")
    return table.done()


def schemas() -> tuple[SchemaSpec, ...]:
    """Every schema of this module in the order of the sheet."""
    return (
        htlc.htlc_policy(),
        forwarding.forwarding(),
        _rebalance(),
        channel.channel(),
        channel.expansion(),
        _splice(),
        peer.peer(),
        payment.payments(),
        wallet.wallet(),
        plugin.plugin(),
        config.config(),
        backup.backup(),
        forwarding.emergency(),
        htlc.htlc_mgmt(),
        _liquidity(),
    )


__all__ = ["NOT_SERVED", "schemas"]
