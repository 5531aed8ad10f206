"""The development network: nodes, relay and mint on loopback. Never imported by a plugin."""
