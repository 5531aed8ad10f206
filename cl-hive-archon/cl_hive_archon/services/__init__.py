"""Use cases: they own the transactions and the order of effects; adapters reach them through ports."""
