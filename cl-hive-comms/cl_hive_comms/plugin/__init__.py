"""Composition root of cl-hive-comms: the only place that knows concrete adapters.

`app` is the plugin as CLN sees it, `parts` and `pipeline` build and join its objects (DESIGN "The
dependency rule").
"""

from cl_hive_comms.plugin.app import main

__all__ = ["main"]
