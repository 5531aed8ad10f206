"""Which actions are another action too, or contain it (docs/protocol/02-fleet-management.md §2.3).

What is denied by one name must not be had by another. So an action says here what else it amounts to; a
denial or a stricter workflow of any of these holds for it as well. Nothing is allowed through this table:
an allowance is by the action's own name.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

AMOUNTS_TO: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        # Rates of a channel. An anchor and a spike end by themselves, and set rates all the same.
        "hive:fee-policy/v1#set_anchor": ("hive:fee-policy/v1#set_single",),
        "hive:fee-policy/v1#set_zero_fee": ("hive:fee-policy/v1#set_single",),
        "hive:fee-policy/v1#set_bulk": ("hive:fee-policy/v1#set_single",),
        # What its rules do.
        "hive:config/v1#fee_schedule": ("hive:fee-policy/v1#set_anchor",),
        "hive:config/v1#auto_rebalance_rules": ("hive:rebalance/v1#circular_rebalance",),
        "hive:emergency/v1#fee_spike": ("hive:fee-policy/v1#set_bulk",),
        "hive:htlc-policy/v1#set_htlc_limits_bulk": ("hive:htlc-policy/v1#set_htlc_limits",),
        # Forwarding.
        "hive:forwarding/v1#disable_all": ("hive:forwarding/v1#disable_channel",),
        "hive:forwarding/v1#enable_all": ("hive:forwarding/v1#enable_channel",),
        "hive:config/v1#disable_forwarding": ("hive:forwarding/v1#disable_all",),
        "hive:config/v1#enable_forwarding": ("hive:forwarding/v1#enable_all",),
        "hive:emergency/v1#disable_forwarding": ("hive:forwarding/v1#disable_all",),
        # Opening. Once confirmed, a proposal opens by the same call.
        "hive:channel/v1#open_batch": ("hive:channel/v1#open",),
        "hive:expansion/v1#propose_channel_open": ("hive:channel/v1#open",),
        "hive:expansion/v1#propose_open_batch": ("hive:channel/v1#open_batch",),
        "hive:splice/v1#splice_open": ("hive:channel/v1#open",),
        # Closing. A unilateral close tries a cooperative one first.
        "hive:channel/v1#close_unilateral": ("hive:channel/v1#close_cooperative",),
        "hive:channel/v1#close_punitive": ("hive:channel/v1#close_unilateral",),
        "hive:channel/v1#close_all": ("hive:channel/v1#close_unilateral",),
        "hive:emergency/v1#force_close": ("hive:channel/v1#close_unilateral",),
        "hive:emergency/v1#force_close_all": (
            "hive:emergency/v1#force_close",
            "hive:channel/v1#close_all",
        ),
        "hive:htlc-mgmt/v1#force_resolve_expired": ("hive:channel/v1#close_unilateral",),
        # A restart is a stop that a supervisor ends.
        "hive:config/v1#restart_node": ("hive:emergency/v1#stop_node",),
        # Peers, money, plugins.
        "hive:peer/v1#ban": ("hive:peer/v1#disconnect",),
        "hive:payment/v1#pay_multipath": ("hive:payment/v1#pay_invoice",),
        "hive:wallet/v1#sweep": ("hive:wallet/v1#send_onchain",),
        # What leaves a channel by a splice is sent on-chain.
        "hive:splice/v1#splice_out": ("hive:wallet/v1#send_onchain",),
        "hive:plugin/v1#start_arbitrary": ("hive:plugin/v1#start_approved",),
        # Reads that show what another one shows.
        "hive:plugin/v1#list": ("hive:monitor/v1#plugin_status",),
        "hive:wallet/v1#list_funds": ("hive:monitor/v1#onchain_balance",),
        "hive:htlc-mgmt/v1#list_htlcs": ("hive:monitor/v1#htlc_snapshot",),
        "hive:htlc-mgmt/v1#list_stuck": ("hive:htlc-mgmt/v1#list_htlcs",),
    }
)
"""`schema#action` -> what it amounts to, one step; `registry.contained` follows the steps."""
