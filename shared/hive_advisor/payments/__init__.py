"""Ways by which money reaches and leaves the advisor (docs/protocol/11-advisor-kit.md §8)."""
