"""The advisor kit: the other end of the command channel (docs/protocol/11-advisor-kit.md)."""
