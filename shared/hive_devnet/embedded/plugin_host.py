"""All plugins of one node: start, stop, options, methods, notifications."""

from __future__ import annotations

import asyncio
import itertools
import os
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from hive_devnet.embedded.errors import INVALID_PARAMS, PLUGIN_ERROR, NodeStartError, RpcError
from hive_devnet.embedded.hooks import HookChains, path_matches
from hive_devnet.embedded.logbook import LogBook
from hive_devnet.embedded.mailroom import Mailroom
from hive_devnet.embedded.manifest import NATIVE_TOPICS, Manifest, ManifestError, Method, parse_manifest
from hive_devnet.embedded.options import PLUGIN_START, OptionError, OptionTable, Setting
from hive_devnet.embedded.params import token_text
from hive_devnet.embedded.plugin import Plugin, PluginState

START_TIMEOUT = 60.0
STOP_TIMEOUT = 30.0
_PUNCTUATION_ALLOWED = "-_."


class PluginHost:
    """Owns the node's plugins.

    `configuration(startup)` makes init's object; `is_builtin(name)` knows the node's own commands.
    """

    def __init__(
        self,
        *,
        directory: Path,
        net_dir: Path,
        log: LogBook,
        options: OptionTable,
        configuration: Callable[[bool], dict[str, Any]],
        is_builtin: Callable[[str], bool],
    ) -> None:
        self._directory = directory
        self._net_dir = net_dir
        self._log = log
        self._options = options
        self._configuration = configuration
        self._is_builtin = is_builtin
        self._indices = itertools.count()
        self._checksums: dict[Path, int] = {}
        self._closing = False
        self._startup = True
        self._disabled: list[str] = []
        self.hooks = HookChains(log)
        self.plugins: list[Plugin] = []
        self._mailroom = Mailroom(log, self.plugins)
        self.on_important_death: Callable[[Plugin], None] | None = None

    # -- start of the node -------------------------------------------------------------------------

    async def load(self, paths: Iterable[Path], important: Iterable[Path], disabled: Iterable[str]) -> None:
        """Starts the plugins of a starting node up to their manifests. Raises NodeStartError."""
        self._disabled = list(disabled)
        for path in (*paths, *self._default_directory()):
            self._register(path)
        for path in important:
            plugin = self._register(path) or self.find(str(path))
            if plugin is not None:
                plugin.important = True
        await asyncio.gather(*(self._introduce(plugin) for plugin in list(self.plugins)))
        self._settle_hooks()

    async def initialize(self) -> None:
        """Sends init to every plugin that waits for it. Plugins that fail are logged and gone."""
        waiting = [p for p in self.plugins if p.state is PluginState.NEEDS_INIT]
        await asyncio.gather(*(self._initialize(plugin) for plugin in waiting))
        self._startup = False

    def _default_directory(self) -> list[Path]:
        base = self._directory / "plugins"
        if not base.is_dir():
            return []
        folders = [base, *sorted(item for item in base.iterdir() if item.is_dir())]
        return [path for folder in folders for path in plugins_in(folder)]

    def _register(self, path: Path) -> Plugin | None:
        if any(path_matches(path.resolve(), name) for name in self._disabled):
            self._log.write("info", "plugin-manager", f"{path}: disabled via disable-plugin")
            return None
        resolved = path.resolve()
        checksum = zlib.crc32(resolved.read_bytes()) if resolved.is_file() else 0
        for other in self.plugins:
            if other.path == resolved:
                if other.important or self._checksums.get(resolved) == checksum:
                    return None
                other.kill("Plugin changed, needs restart.")
                break
        self._checksums[resolved] = checksum
        plugin = Plugin(resolved, next(self._indices), self._mailroom.take, self._on_exit)
        self.plugins.append(plugin)
        return plugin

    async def _introduce(self, plugin: Plugin) -> None:
        """Spawns a plugin and takes in its manifest; on failure it is killed with the reason."""
        try:
            await plugin.spawn(self._net_dir, self._directory / "stderr")
        except OSError as error:
            if self._startup:
                raise NodeStartError(f"error starting plugin '{plugin.path}': {error.strerror}") from error
            plugin.kill(f"opening pipe: {error.strerror}")
            return
        self._log.write("debug", "plugin-manager", f"started({plugin.pid}) {plugin.path}")
        plugin.state = PluginState.AWAITING_MANIFEST
        try:
            allowed = bool(self._options.get("allow-deprecated-apis"))
            asked = plugin.request("getmanifest", {"allow-deprecated-apis": allowed})
            reply = await asyncio.wait_for(asked, START_TIMEOUT)
        except TimeoutError:
            plugin.kill(f"timed out {plugin.state.value}")
            if self._startup:
                raise NodeStartError("Can't recover from plugin failure, terminating.") from None
            return
        except RpcError:
            return
        self._take_manifest(plugin, reply)

    def _take_manifest(self, plugin: Plugin, reply: dict[str, Any]) -> None:
        try:
            manifest = parse_manifest(reply.get("result"), str(plugin.path))
            if manifest.disable is not None:
                plugin.important = False
                plugin.kill(f"disabled itself: {manifest.disable}")
                return
            plugin.manifest = Manifest(dynamic=manifest.dynamic, can_check=manifest.can_check)
            self._apply(plugin, manifest)
        except (ManifestError, OptionError) as error:
            plugin.kill(str(error))
            return
        plugin.state = PluginState.NEEDS_INIT
        if not self._startup and not manifest.dynamic:
            plugin.kill("Not a dynamic plugin")

    def _apply(self, plugin: Plugin, manifest: Manifest) -> None:
        for position, option in enumerate(manifest.options):
            if self._startup and option.name in self._options.options:
                raise NodeStartError(
                    f"error starting plugin '{plugin.path}': option name '{option.name}' is already taken"
                )
            self._options.declare(option)
            plugin.manifest = _with(plugin.manifest, options=manifest.options[: position + 1])
        for position, method in enumerate(manifest.methods):
            self._check_free(method)
            plugin.manifest = _with(plugin.manifest, methods=manifest.methods[: position + 1])
        for registration in manifest.hooks:
            self.hooks.register(plugin, registration)
        plugin.manifest = manifest

    def _check_free(self, method: Method) -> None:
        owner = self.owner_of(method.name)
        if owner is not None or self._is_builtin(method.name):
            by = owner.path if owner is not None else "lightningd"
            raise ManifestError(
                f'Could not register method "{method.name}", a method with that name is already'
                f" registered by plugin {by}"
            )

    def _settle_hooks(self) -> None:
        for plugin in self.hooks.order():
            if plugin.state is PluginState.NEEDS_INIT:
                plugin.kill("Cannot meet required hook dependencies")
        known = {topic for plugin in self.plugins for topic in plugin.manifest.notifications}
        for plugin in self.plugins:
            for topic in plugin.manifest.subscriptions:
                if topic != "*" and topic not in known | NATIVE_TOPICS:
                    text = f"topic '{topic}' is not a known notification topic"
                    self._log.write("unusual", plugin.log_source, text)

    async def _initialize(self, plugin: Plugin) -> None:
        plugin.state = PluginState.AWAITING_INIT
        names = [option.name for option in plugin.manifest.options]
        params = {
            "options": self._options.for_plugin(names),
            "configuration": self._configuration(self._startup),
        }
        try:
            reply = await asyncio.wait_for(plugin.request("init", params), START_TIMEOUT)
        except TimeoutError:
            plugin.kill(f"timed out {plugin.state.value}")
            return
        except RpcError:
            return
        result = reply.get("result")
        if isinstance(result, dict) and "disable" in result:
            plugin.important = False
            plugin.kill(f"disabled itself at init: {result['disable']}")
            return
        plugin.state = PluginState.RUNNING
        self.notify("plugin_started", _describe(plugin))

    # -- while the node runs -----------------------------------------------------------------------

    async def start(self, path: str, given: dict[str, Any]) -> None:
        """`plugin start`. Raises RpcError as the command fails."""
        plugin = self._register(self._executable(path))
        if plugin is None:
            raise RpcError(INVALID_PARAMS, f"{path}: already registered")
        await self._introduce(plugin)
        if not plugin.ended.is_set():
            try:
                self._set_start_options(plugin, given)
            except OptionError as error:
                plugin.kill(str(error))
        if not plugin.ended.is_set():
            self._settle_hooks()
        if not plugin.ended.is_set():
            await self._initialize(plugin)
        if plugin.ended.is_set():
            raise RpcError(PLUGIN_ERROR, f"{plugin.path}: {plugin.end_reason}")

    def _executable(self, path: str) -> Path:
        for candidate in (Path(path), self._directory / "plugins" / path):
            absolute = self._net_dir / candidate
            if os.access(absolute, os.X_OK) and absolute.is_file():
                return absolute
        exists = (self._net_dir / path).exists()
        problem = "Permission denied" if exists else "No such file or directory"
        raise RpcError(INVALID_PARAMS, f"{path} is not executable: {problem}")

    def _set_start_options(self, plugin: Plugin, given: dict[str, Any]) -> None:
        own = {option.name: option for option in plugin.manifest.options}
        for name, value in given.items():
            if name not in own:
                raise OptionError(f"unknown parameter {name}")
            argument = None if own[name].kind == "flag" else token_text(value)
            try:
                own[name].check(argument)
            except OptionError as error:
                raise OptionError(f"--{name}={argument}: {error}") from error
            self._options.settings.append(Setting(name, argument, PLUGIN_START))

    async def start_directory(self, directory: Path) -> None:
        """`plugin startdir`: every executable in it. Raises RpcError when it is not a directory."""
        await self._start_found(_listed(directory))

    async def rescan(self) -> None:
        """`plugin rescan`: whatever is new in the node's own plugin directory."""
        await self._start_found(self._default_directory())

    async def _start_found(self, paths: list[Path]) -> None:
        fresh = [plugin for path in paths if (plugin := self._register(path)) is not None]
        await asyncio.gather(*(self._introduce(plugin) for plugin in fresh))
        self._settle_hooks()
        ready = [p for p in fresh if p.state is PluginState.NEEDS_INIT and not p.ended.is_set()]
        await asyncio.gather(*(self._initialize(plugin) for plugin in ready))

    async def stop(self, name: str) -> str:
        """`plugin stop`: returns the sentence of the result. Raises RpcError."""
        plugin = self.find(name)
        if plugin is None:
            raise RpcError(INVALID_PARAMS, f"Could not find plugin {name}")
        if not plugin.manifest.dynamic:
            raise RpcError(INVALID_PARAMS, f"{name} cannot be managed when lightningd is up")
        plugin.important = False
        if plugin.interested_in("shutdown"):
            plugin.send({"jsonrpc": "2.0", "method": "shutdown", "params": {"shutdown": {}}})
            try:
                await asyncio.wait_for(plugin.ended.wait(), STOP_TIMEOUT)
            except TimeoutError:
                self._log.write("unusual", plugin.log_source, "Timeout on shutdown: killing anyway")
        plugin.kill("stopped by lightningd via RPC")
        await plugin.gone()
        return f"Successfully stopped {plugin.name}."

    def find(self, name: str) -> Plugin | None:
        """The plugin a path or basename means."""
        return next((plugin for plugin in self.plugins if path_matches(plugin.path, name)), None)

    def owner_of(self, method: str) -> Plugin | None:
        """The plugin that registered an RPC method."""
        for plugin in self.plugins:
            if any(known.name == method for known in plugin.manifest.methods):
                return plugin
        return None

    def listing(self) -> list[dict[str, Any]]:
        """What `plugin list` shows."""
        return [
            {
                "name": str(plugin.path),
                "active": plugin.state is PluginState.RUNNING,
                "dynamic": plugin.manifest.dynamic,
            }
            for plugin in self.plugins
        ]

    def notify(self, topic: str, payload: dict[str, Any]) -> None:
        """Sends a notification of the node to every subscriber, wrapped in an object of its own name."""
        message = {"jsonrpc": "2.0", "method": topic, "params": {topic: payload}}
        for plugin in self.plugins:
            if plugin.interested_in(topic):
                plugin.send(message)

    def _on_exit(self, plugin: Plugin, reason: str) -> None:
        quiet = ("disabled itself", "exited", "stopped by", "Plugin changed", "Not a dynamic")
        level = "info" if reason.startswith(quiet) else "unusual"
        self._log.write("debug" if self._closing else level, plugin.log_source, f"Killing plugin: {reason}")
        if plugin in self.plugins:
            self.plugins.remove(plugin)
        self.hooks.remove(plugin)
        self._options.forget(option.name for option in plugin.manifest.options)
        if self._closing:
            return
        if plugin.important and self.on_important_death is not None:
            text = "Plugin marked as important, shutting down lightningd!"
            self._log.write("broken", plugin.log_source, text)
            self.on_important_death(plugin)
            return
        self.notify("plugin_stopped", _describe(plugin))

    # -- end of the node ---------------------------------------------------------------------------

    async def shut_down(self) -> None:
        """Orderly end: `shutdown` to those that asked for it, 30 seconds, then SIGKILL."""
        self._closing = True
        waiting = []
        everyone = list(self.plugins)
        for plugin in everyone:
            if plugin.interested_in("shutdown"):
                plugin.send({"jsonrpc": "2.0", "method": "shutdown", "params": {"shutdown": {}}})
                waiting.append(asyncio.create_task(plugin.ended.wait()))
            else:
                plugin.kill("shutting down")
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=STOP_TIMEOUT)
            for task in late:
                task.cancel()
        for plugin in everyone:
            if not plugin.ended.is_set():
                self._log.write("debug", plugin.log_source, "failed to self-terminate in time, killing.")
                plugin.kill("shutting down")
        await asyncio.gather(*(plugin.gone() for plugin in everyone))

    async def crash(self, patience: float = 5.0) -> None:
        """What SIGKILL of the node does to its plugins: pipes close; who stays on is killed too."""
        self._closing = True
        everyone = list(self.plugins)
        self.plugins.clear()
        for plugin in everyone:
            plugin.abandon()
        if everyone:
            endings = [asyncio.create_task(plugin.gone()) for plugin in everyone]
            await asyncio.wait(endings, timeout=patience)
            for plugin in everyone:
                plugin.kill("node was killed")
            await asyncio.gather(*endings)


def _listed(directory: Path) -> list[Path]:
    if not directory.is_dir():
        raise RpcError(INVALID_PARAMS, f"Could not open {directory}")
    return plugins_in(directory)


def plugins_in(directory: Path) -> list[Path]:
    """Executables of a plugin directory that lightningd would load, by name."""
    return [
        path
        for path in sorted(directory.iterdir())
        if path.is_file()
        and os.access(path, os.X_OK)
        and path.name != "README.md"
        and all(c.isalnum() or c in _PUNCTUATION_ALLOWED or ord(c) > 127 for c in path.name)
    ]


def _describe(plugin: Plugin) -> dict[str, Any]:
    return {
        "plugin_name": plugin.name,
        "plugin_path": str(plugin.path),
        "methods": [method.name for method in plugin.manifest.methods],
    }


def _with(manifest: Manifest, **changes: Any) -> Manifest:
    return Manifest(**(vars(manifest) | changes))
