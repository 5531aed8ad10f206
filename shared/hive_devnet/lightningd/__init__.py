"""Real Core Lightning nodes on a regtest chain of our own, without bitcoind.

`chain` keeps the chain in one SQLite file that all nodes share, `bitcoin_backend` is the CLN plugin that
serves it to a node, `driver` starts and steers the nodes.
"""
