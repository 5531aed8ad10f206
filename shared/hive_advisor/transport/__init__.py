"""How the kit reaches its clients: encrypted Nostr messages."""
