"""Use cases of the kit: clients, commands, receipts, and the engine that moves messages."""
