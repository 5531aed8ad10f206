"""RPC surface, one module per family: parse, call a service, render. No decision is taken here."""
