"""What plugins send unasked: log lines, progress, notifications for other plugins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hive_devnet.embedded.logbook import LogBook
from hive_devnet.embedded.plugin import Plugin


class Mailroom:
    """Sorts the notifications of one node's plugins; `plugins` is the host's own, living list."""

    def __init__(self, log: LogBook, plugins: Sequence[Plugin]) -> None:
        self._log = log
        self._plugins = plugins

    def take(self, plugin: Plugin, message: dict[str, Any]) -> str | None:
        """Handles one notification of a plugin; returns why the plugin must be killed, if it must."""
        method, params = message.get("method"), message.get("params")
        if not isinstance(method, str) or params is None:
            return f'Malformed JSON-RPC notification missing "method" or "params": {message}'
        if method == "log":
            return self._log_line(plugin, params)
        if method in ("message", "progress"):
            if not isinstance(params, dict) or "id" not in params:
                return 'JSON-RPC notify "id"-field is not present'
            plugin.pass_notification(method, params)
            return None
        if method not in plugin.manifest.notifications:
            text = (
                f'Plugin attempted to send a notification to topic "{method}" it hasn\'t declared in its'
                " manifest, not forwarding to subscribers."
            )
            self._log.write("unusual", plugin.log_source, text)
            return None
        forwarded = {"jsonrpc": "2.0", "method": method, "origin": plugin.name, "params": params}
        for other in self._plugins:
            if other.interested_in(method):
                other.send(forwarded)
        return None

    def _log_line(self, plugin: Plugin, params: Any) -> str | None:
        text = params.get("message") if isinstance(params, dict) else None
        if not isinstance(text, str):
            return 'Log notification from plugin doesn\'t have a string "message" field'
        level = params.get("level", "info")
        if level not in ("trace", "debug", "info", "unusual", "warn", "broken", "error"):
            return (
                f'Unknown log-level "{level}", valid values are "trace", "debug", "info", "warn", or "error".'
            )
        self._log.write(level, plugin.log_source, text)
        return None
