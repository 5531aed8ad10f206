"""How messages travel: the Nostr adapter and the registry of transports."""
