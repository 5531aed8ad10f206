"""Adapters that pay and are paid: the node's Lightning (docs/protocol/03-escrow-and-payments.md §7)."""
