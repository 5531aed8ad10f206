"""cl-hive-archon: DIDs, credentials and governance (docs/protocol/09-archon.md)."""

__version__ = "0.1.0"
