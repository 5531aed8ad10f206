"""One plugin: its process and the JSON-RPC conversation on its pipes."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from hive_devnet import forks
from hive_devnet.embedded import CLN_VERSION
from hive_devnet.embedded.errors import PLUGIN_TERMINATED, RpcError
from hive_devnet.embedded.manifest import Manifest
from hive_devnet.rpc import FramingError, ObjectSplitter, encode_message

_request_numbers = itertools.count(1)
_READ_SIZE = 1 << 16
Notify = Callable[[str, dict[str, Any]], None]


class PluginState(Enum):
    """Where a plugin is in its start, with the words lightningd logs for it."""

    UNCONFIGURED = "unconfigured"
    AWAITING_MANIFEST = "before replying to getmanifest"
    NEEDS_INIT = "before we sent init"
    AWAITING_INIT = "before replying to init"
    RUNNING = "during normal operation"


@dataclass(frozen=True)
class _Pending:
    reply: asyncio.Future[dict[str, Any]]
    notify: Notify | None


class Plugin:
    """A plugin of one node. `on_message` gets what it sends unasked, `on_exit` is called once, at its end."""

    def __init__(
        self,
        path: Path,
        index: int,
        on_message: Callable[[Plugin, dict[str, Any]], str | None],
        on_exit: Callable[[Plugin, str], None],
    ) -> None:
        self.path = path
        self.name = path.name
        self.index = index
        self.state = PluginState.UNCONFIGURED
        self.manifest = Manifest()
        self.important = False
        self.ended = asyncio.Event()
        self.end_reason = ""
        self._on_message = on_message
        self._on_exit = on_exit
        self._process: forks.Process | None = None
        self._pending: dict[str, _Pending] = {}
        self._reader: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """Its process id. Raises LookupError before it is spawned."""
        if self._process is None:
            raise LookupError(f"{self.name} has no process")
        return self._process.pid

    @property
    def log_source(self) -> str:
        """The source its lines have in the log."""
        return f"plugin-{self.name}"

    async def spawn(self, directory: Path, stderr: Path) -> None:
        """Starts the process in `directory`. Raises OSError when it cannot be executed."""
        # As with the real node's driver, `#!/usr/bin/env python3` finds the interpreter that runs us.
        search = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        environment = os.environ | {
            "LIGHTNINGD_PLUGIN": "1",
            "LIGHTNINGD_VERSION": CLN_VERSION,
            "PATH": search,
        }
        with stderr.open("ab") as errors:
            self._process = await forks.spawn(
                str(self.path),
                "--developer",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                cwd=directory,
                env=environment,
            )
        self._reader = asyncio.create_task(self._read())

    async def request(
        self,
        method: str,
        params: object,
        prefix: str | None = None,
        notify: Notify | None = None,
    ) -> dict[str, Any]:
        """Sends a request; returns the whole response object, result or error.

        Raises RpcError(-4) when the plugin dies before it answers.
        """
        stem = f"cln:{method}#{next(_request_numbers)}"
        identity = f"{prefix}/{stem}" if prefix is not None else stem
        reply: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        if self.ended.is_set():
            raise _terminated()
        self._pending[identity] = _Pending(reply, notify)
        self.send({"jsonrpc": "2.0", "id": identity, "method": method, "params": params})
        try:
            return await reply
        finally:
            self._pending.pop(identity, None)

    def send(self, message: Mapping[str, object]) -> None:
        """Queues a message; lost silently when the plugin is gone."""
        if self._process is not None and self._process.stdin is not None and not self.ended.is_set():
            self._process.stdin.write(encode_message(message))

    def interested_in(self, topic: str) -> bool:
        """Whether it runs and subscribed to `topic` ("log" is not covered by "*")."""
        subscriptions = self.manifest.subscriptions
        return self.state is PluginState.RUNNING and (
            topic in subscriptions or ("*" in subscriptions and topic != "log")
        )

    async def _read(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        splitter = ObjectSplitter()
        reason = ""
        try:
            while not reason and (data := await self._process.stdout.read(_READ_SIZE)):
                for text in splitter.feed(data):
                    reason = self._handle(json.loads(text)) or reason
        except (FramingError, ValueError) as error:
            reason = str(error)
        except ConnectionError:
            pass
        self.kill(reason or f"exited {self.state.value}")

    def _handle(self, message: dict[str, Any]) -> str | None:
        if not isinstance(message, dict):
            return f"sent something that is no JSON-RPC message: {message!r}"
        identity = message.get("id")
        if identity is None:
            return self._on_message(self, message)
        pending = self._pending.get(str(identity))
        if pending is not None and not pending.reply.done():
            pending.reply.set_result(message)
        return None

    def pass_notification(self, method: str, params: dict[str, Any]) -> None:
        """Hands a `message` or `progress` notification to whoever waits for the request it names."""
        pending = self._pending.get(str(params.get("id")))
        if pending is not None and pending.notify is not None:
            pending.notify(method, params)

    def kill(self, reason: str) -> None:
        """Ends the process at once and fails what waits for it. Later calls do nothing."""
        if self.ended.is_set():
            return
        self.end_reason = reason
        self.ended.set()
        if self._process is not None:
            self._signal_kill(self._process)
        for pending in list(self._pending.values()):
            if not pending.reply.done():
                pending.reply.set_exception(_terminated())
        self._on_exit(self, reason)

    @staticmethod
    def _signal_kill(process: forks.Process) -> None:
        # Process.kill() would reap an ended child behind the event loop's back.
        if process.returncode is None:
            try:
                os.kill(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def abandon(self) -> None:
        """What a plugin sees when its node dies: its pipes close, nobody says a word."""
        self._on_exit = _ignore_exit
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        for pending in self._pending.values():
            if not pending.reply.done():
                pending.reply.cancel()

    async def gone(self) -> None:
        """Returns when the process has been reaped."""
        if self._process is not None:
            await self._process.wait()
        if self._reader is not None:
            await asyncio.gather(self._reader, return_exceptions=True)


def _terminated() -> RpcError:
    return RpcError(PLUGIN_TERMINATED, "Plugin terminated before replying to RPC call.")


def _ignore_exit(_plugin: Plugin, _reason: str) -> None:
    return None
