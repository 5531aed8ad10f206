"""Composition root: everything is built here once, and nothing else builds an adapter."""

from cl_hive.plugin.app import main

__all__ = ["main"]
