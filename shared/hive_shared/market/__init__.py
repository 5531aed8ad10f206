"""The public marketplace (docs/protocol/04-marketplace-and-nostr.md)."""
