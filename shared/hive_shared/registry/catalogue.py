"""The schemas of which this version serves little or nothing yet: names, permissions, danger, tiers (02 §4).

Their actions are declared whole so that a credential can be issued, a pattern checked and a danger quoted for
them. Asking a node of this version to run one gets `unsupported_action`.
"""

from __future__ import annotations

from . import backup, channel, config, forwarding, htlc, payment, peer, plugin, rebalance, splice, wallet
from .spec import NOT_SERVED, SchemaSpec, SchemaTable


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
        rebalance.rebalance(),
        channel.channel(),
        channel.expansion(),
        splice.splice(),
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
