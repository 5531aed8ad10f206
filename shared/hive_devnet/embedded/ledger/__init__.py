"""The ledger of an embedded network: chain, wallets, channels and payments of all nodes in one SQLite file.

No sat appears or vanishes: `Database.transaction` checks it before every commit.
"""
