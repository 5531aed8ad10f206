"""pyln and asyncio bound together: one loop, nothing blocks.

Reading stdin only hands over. Every method, hook and notification is a task on the plugin's single asyncio
loop and answers when it is done. So a sibling may call us while we wait for it, and a slow call delays no
other. docs/protocol/08-client-and-plugins.md sections 2 and 4;
docs/decisions/0041-one-thread-reads-and-serves.md.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from hive_shared.errors import Busy, HiveError, Internal, InvalidParams
from hive_shared.runtime_loops import LoopWatchdog, Supervisor, where_raised
from hive_shared.runtime_output import Output, render_log, without_secrets
from hive_shared.runtime_pyln import HandOverPlugin
from hive_shared.runtime_spec import (
    Handler,
    InitInfo,
    MethodSpec,
    OptionSpec,
    Param,
    option_from_node,
    parse_params,
)

__all__ = ["Handler", "InitInfo", "MethodSpec", "OptionSpec", "Param", "PluginApp"]

DRAIN_SECONDS: Final = 5.0
# More calls than this at once is a flood; each holds a task and its parameters in memory.
IN_FLIGHT_MAX: Final = 1_000
_READ_SIZE: Final = 1 << 18
_CONTINUE: Final = {"result": "continue"}

Event = Callable[[dict[str, Any]], Awaitable[None]]
Hook = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class PluginApp:
    """One CLN plugin: its declarations, its loop, its life from ``getmanifest`` to exit.

    ``on_init`` opens what the plugin needs and returns None, or the reason to be disabled; it must be quick,
    slow work goes to ``spawn``. ``on_setconfig`` gets the parsed value of a dynamic option and refuses by
    raising ``ValueError`` or ``HiveError``; the text reaches whoever called ``setconfig``. ``on_stop``
    closes. Until ``on_init`` has returned every method answers ``busy``. ``hook_filters`` are the custommsg
    types of a hook.

    ``invalid_options``: "disable" (default) ends the plugin with the sentence of the first refused value at
    start, "report" starts with the default instead and lists the refusals in ``InitInfo.invalid_options``.

    ``authenticate`` must be set before methods of class S can be served: it gets the method and the
    parameters as they came, and returns them without ``auth`` or raises (``SiblingHub.verify``). What it
    leaves of ``nonce`` and ``ts`` is dropped unless the method declares parameters of these names.
    """

    def __init__(
        self,
        *,
        name: str,
        version: str,
        options: Sequence[OptionSpec],
        methods: Sequence[MethodSpec],
        subscriptions: Mapping[str, Event],
        on_init: Callable[[InitInfo], Awaitable[str | None]],
        on_setconfig: Callable[[str, Any], Awaitable[None]],
        on_stop: Callable[[], Awaitable[None]],
        hooks: Mapping[str, Hook] | None = None,
        hook_filters: Mapping[str, list[int]] | None = None,
        notifications: Sequence[str] = (),
        invalid_options: Literal["disable", "report"] = "disable",
    ) -> None:
        self.name = name
        self.version = version
        self.authenticate: Callable[[str, dict[str, Any]], dict[str, Any]] | None = None
        self._options = {option.name: option for option in options}
        self._methods = {method.name: method for method in methods}
        self._subscriptions = dict(subscriptions)
        self._hooks = dict(hooks or {})
        self._notifications = frozenset(notifications)
        self._on_init = on_init
        self._on_setconfig = on_setconfig
        self._on_stop = on_stop
        self._report_invalid = invalid_options == "report"
        self._output: Output | None = None
        self._loop = asyncio.new_event_loop()
        self._ready = asyncio.Event()
        self._ended = asyncio.Event()
        self._started = False
        self._stopping = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._supervisor = Supervisor(self._loop, self.log)
        self._plugin = HandOverPlugin(output=None, on_request=self._take_request, on_event=self._take_event)
        filters = hook_filters or {}
        self._plugin.declare(
            options,
            methods,
            list(dict.fromkeys(("shutdown", *subscriptions))),
            {hook: filters.get(hook) for hook in self._hooks},
            notifications,
        )

    # -- the life of the process -----------------------------------------------------------------------

    def run(self) -> None:
        """Serve until lightningd closes stdin, says ``shutdown`` or sends SIGTERM; then drain for 5 s at
        most.

        Without lightningd around it, prints the usage and returns.
        """
        if os.environ.get("LIGHTNINGD_PLUGIN") != "1":
            self._plugin.print_usage()
            return
        self._output = self._plugin.output = Output(_take_stdout())
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve(sys.stdin.fileno()))
        self._output.close(0.2)
        if any(t is not threading.current_thread() and not t.daemon for t in threading.enumerate()):
            # A pool thread is stuck in a call without deadline; the interpreter would wait for it for ever.
            os._exit(0)

    async def _serve(self, stdin: int) -> None:
        if os.environ.get("HIVE_DEV_WATCHDOG") == "1":
            LoopWatchdog(self._loop, self.log).start()
        self._loop.add_signal_handler(signal.SIGTERM, self._ended.set)
        self._loop.add_reader(stdin, self._read, stdin)
        await self._ended.wait()
        self._loop.remove_reader(stdin)
        # Code that blocks the loop cannot be cancelled from within it.
        guard = threading.Timer(DRAIN_SECONDS + 1.0, os._exit, (0,))
        guard.daemon = True
        guard.start()
        try:
            async with asyncio.timeout(DRAIN_SECONDS + 0.5):
                await self._stop()
        except TimeoutError:
            self.log("warning", "drain_expired", seconds=DRAIN_SECONDS)
        guard.cancel()

    def _read(self, stdin: int) -> None:
        data = os.read(stdin, _READ_SIZE)
        try:
            if not data or not self._plugin.feed(data):
                self._ended.set()
        except (ValueError, KeyError, TypeError) as error:
            self.log("error", "unreadable_message", error=type(error).__name__)
            self._ended.set()

    async def _stop(self) -> None:
        self._stopping = True
        deadline = self._loop.time() + DRAIN_SECONDS
        await self._supervisor.stop()
        if self._tasks:
            # Half of the time is for calls in flight, so that on_stop always has some left.
            await asyncio.wait(set(self._tasks), timeout=DRAIN_SECONDS / 2)
        try:
            async with asyncio.timeout_at(deadline):
                await self._on_stop()
        except Exception as error:
            self.log("error", "stop_failed", error=type(error).__name__, where=where_raised(error))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- what the plugin says on its own ---------------------------------------------------------------

    def notify(self, topic: str, payload: Mapping[str, Any]) -> None:
        """Emit a custom notification. Raises ``ValueError`` if it was not declared: lightningd would drop
        it."""
        if topic not in self._notifications:
            raise ValueError(f"notification {topic} is not declared in the manifest")
        if self._output is not None:
            self._output.send({"jsonrpc": "2.0", "method": topic, "params": {topic: dict(payload)}})

    def log(self, level: str, event: str, /, **fields: Any) -> None:
        """Write one structured line to the node's log. Levels: debug, info, warning, error."""
        if self._output is not None:
            self._output.log(level, render_log(event, fields))

    def spawn(
        self,
        name: str,
        coro_factory: Callable[[], Awaitable[object]],
        *,
        every: float | None = None,
        jitter: float = 0.1,
        first: float | None = None,
    ) -> None:
        """Run background work under supervision until the plugin stops.

        With ``every`` (seconds, plus or minus ``jitter``) it is repeated, without it is run until it returns.
        ``first`` delays the first run. An exception is logged and the work tried again after 1, 2, 4 .. 300
        s.
        """
        self._supervisor.spawn(name, coro_factory, every=every, jitter=jitter, first=first)

    def loops(self) -> list[dict[str, Any]]:
        """State of the background loops, for status methods."""
        return self._supervisor.status()

    # -- hand-over -----------------------------------------------------------------------

    def _take_request(self, request_id: Any, method: str, params: Any) -> None:
        self._begin(self._answer(request_id, method, params))

    def _take_event(self, topic: str, payload: dict[str, Any]) -> None:
        handler = self._subscriptions.get(topic) or self._subscriptions.get("*")
        if handler is not None:
            self._begin(self._deliver(topic, handler, payload))

    def _begin(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, topic: str, handler: Event, payload: dict[str, Any]) -> None:
        # Events that overtake init wait for it: they concern a plugin that is about to be there.
        await self._ready.wait()
        try:
            await handler(payload)
        except Exception as error:
            self.log(
                "error", "event_failed", topic=topic, error=type(error).__name__, where=where_raised(error)
            )

    async def _answer(self, request_id: Any, method: str, params: Any) -> None:
        reply: dict[str, Any] = {"jsonrpc": "2.0", "id": request_id}
        try:
            if method == "init":
                reply["result"] = await self._initialise(params)
            elif method == "setconfig":
                reply["result"] = await self._configure(params)
            elif method in self._hooks:
                reply["result"] = await self._call_hook(method, params)
            else:
                reply["result"] = await self._call_method(method, params)
        except HiveError as error:
            reply["error"] = _error(error)
        except asyncio.CancelledError:
            reply["error"] = _error(Busy("the plugin is stopping"))
        except Exception as error:
            reply["error"] = _error(self._unexpected(method, error))
        self._send(method, reply)

    def _send(self, method: str, reply: dict[str, Any]) -> None:
        assert self._output is not None
        try:
            self._output.send(reply)
        except (TypeError, ValueError) as error:
            reply.pop("result", None)
            reply["error"] = _error(self._unexpected(method, error))
            self._output.send(reply)

    def _unexpected(self, method: str, error: Exception) -> Internal:
        kind, where = type(error).__name__, where_raised(error)
        self.log("error", "method_failed", method=method, error=kind, where=where)
        return Internal(f"{method} failed unexpectedly ({kind} at {where}); see the node's log")

    async def _call_method(self, name: str, raw: Any) -> dict[str, Any]:
        spec = self._methods[name]
        if not self._started or self._stopping:
            raise Busy(
                f"{self.name} is {'stopping' if self._stopping else 'starting'}; try again in a moment"
            )
        if len(self._tasks) > IN_FLIGHT_MAX:
            raise Busy(f"{IN_FLIGHT_MAX} calls are in progress; try again in a moment")
        if spec.klass == "S":
            raw = self._authenticated(spec, raw)
        return await spec.handler(parse_params(spec, raw))

    def _authenticated(self, spec: MethodSpec, raw: Any) -> dict[str, Any]:
        if self.authenticate is None:
            raise Busy(f"{self.name} cannot authenticate siblings yet; try again in a moment")
        if not isinstance(raw, dict):
            raise InvalidParams(f"{spec.name} takes named parameters only: it is called by a sibling plugin")
        params = self.authenticate(spec.name, raw)
        declared = {param.name for param in spec.params}
        return {k: v for k, v in params.items() if k in declared or k not in ("nonce", "ts")}

    async def _call_hook(self, name: str, params: Any) -> dict[str, Any]:
        if not self._started or self._stopping:
            return dict(_CONTINUE)
        try:
            return await self._hooks[name](params if isinstance(params, dict) else {})
        except Exception as error:
            # An error answer to a hook makes lightningd abort; "continue" leaves the node as if we were
            # absent.
            self.log("error", "hook_failed", hook=name, error=type(error).__name__, where=where_raised(error))
            return dict(_CONTINUE)

    async def _initialise(self, params: Any) -> dict[str, Any]:
        try:
            info = self._init_info(params)
            reason = await self._on_init(info)
        except HiveError as error:
            reason = str(error)
        except ValueError as error:
            reason = str(error)
        except Exception as error:
            kind, where = type(error).__name__, where_raised(error)
            self.log("error", "init_failed", error=kind, where=where)
            # Our own and the system's errors say which file and what to do; others may quote anything.
            told = isinstance(error, OSError) or type(error).__module__.startswith("hive_shared.")
            reason = f"cannot start: {error}" if told else f"cannot start: {kind} at {where}"
        if reason is not None:
            return {"disable": without_secrets(reason)}
        self._started = True
        self._ready.set()
        return {}

    def _init_info(self, params: Any) -> InitInfo:
        given, node = params["options"], params["configuration"]
        invalid: dict[str, str] = {}
        options: dict[str, Any] = {}
        for name, spec in self._options.items():
            try:
                options[name] = option_from_node(spec, given.get(name))
            except ValueError as error:
                if not self._report_invalid:
                    raise ValueError(f"option {name}: {error}") from error
                invalid[name] = str(error)
                options[name] = option_from_node(spec, None)
                self.log("warning", "option_refused", option=name, why=str(error))
        net_dir = Path(node["lightning-dir"])
        proxy = node.get("proxy")
        return InitInfo(
            net_dir=net_dir,
            rpc_path=net_dir / node["rpc-file"],
            network=str(node.get("network", "")),
            startup=bool(node["startup"]),
            proxy=f"{proxy['address']}:{proxy['port']}" if isinstance(proxy, dict) else None,
            always_use_proxy=bool(node.get("always_use_proxy", False)),
            options=options,
            invalid_options=invalid,
        )

    async def _configure(self, params: Any) -> dict[str, Any]:
        name, value = _setconfig_params(params)
        spec = self._options.get(name)
        if spec is None or not spec.dynamic:
            raise InvalidParams(f"option {name} cannot be changed while the plugin runs")
        if value is None and spec.kind == "flag":
            value = True
        try:
            await self._on_setconfig(name, option_from_node(spec, value))
        except ValueError as error:
            raise InvalidParams(f"{name}: {error}", data={"option": name}) from error
        return {}


def _setconfig_params(params: Any) -> tuple[str, Any]:
    if isinstance(params, dict):
        return str(params.get("config")), params.get("val")
    if isinstance(params, list) and params:
        return str(params[0]), params[1] if len(params) > 1 else None
    raise InvalidParams("setconfig needs config and val")


def _error(error: HiveError) -> dict[str, Any]:
    body: dict[str, Any] = {"code": error.code, "message": without_secrets(str(error))}
    if error.data:
        body["data"] = json.loads(without_secrets(json.dumps(error.data)))
    return body


def _take_stdout() -> int:
    """Keep the pipe to lightningd for ourselves and send stray output of any library to stderr."""
    fd = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return fd
