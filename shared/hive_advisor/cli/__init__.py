"""The ``hive-advisor`` command line (docs/protocol/11-advisor-kit.md §10)."""
