"""How the kit reaches its clients: encrypted Nostr messages, clnrest, the RPC socket of an own node."""
