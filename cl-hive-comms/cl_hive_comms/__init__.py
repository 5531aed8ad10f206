"""cl-hive-comms: the entry point plugin (docs/protocol/08-client-and-plugins.md §1)."""

__version__ = "0.1.0"
