"""cl-hive: fleet coordination (docs/protocol/05-coordination.md)."""

__version__ = "0.1.0"
