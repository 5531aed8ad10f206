"""The embedded node: a stand-in for lightningd that speaks its plugin protocol and RPC for real.

One process hosts a whole network over one ledger (`ledger/`), so sats are conserved. Behaviour follows
Core Lightning v26.06; `tests/contract/test_cln_conformance_*.py` holds both kinds of node to it.
"""

CLN_VERSION = "v26.06.6"
NETWORK_NAME = "regtest"
