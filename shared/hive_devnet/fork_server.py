"""`python -m hive_devnet.fork_server SOCKET`: starts programs of this repository without their imports.

It has imported what they import and forks for each: the new process has its arguments, environment, directory
and files as if it had been executed, its own process id, and can be killed. It ends when its stdin closes.
One connection per program: a line of JSON with the files beside it; the answer is a line with the process id
and, at its end, one with its exit code.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import io
import json
import os
import pkgutil
import runpy
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

REPOSITORY = Path(__file__).resolve().parents[2]
_PLUGINS = ("cl-hive-comms", "cl-hive-archon", "cl-hive")
_LATER = ("hive_devnet.certificates", "pynostr.bech32", "websockets.asyncio.client")
_READ_SIZE = 1 << 20
_FILES = 3


def _import_all() -> None:
    """What the programs import, also what they import only once they run."""
    before = list(sys.path)
    sys.path.extend(str(REPOSITORY / name) for name in _PLUGINS)
    for name in (*_LATER, "hive_devnet.embedded.__main__", "hive_devnet.relay_main"):
        importlib.import_module(name)
    for package in ("hive_shared", "hive_advisor", *(name.replace("-", "_") for name in _PLUGINS)):
        inside = importlib.import_module(package).__path__
        for module in pkgutil.walk_packages(inside, f"{package}."):
            # What serves tools to programs needs libraries that are heavy and seldom asked for.
            if not module.name.endswith("__main__") and "mcp" not in module.name:
                importlib.import_module(module.name)
    sys.path[:] = before


class _Server:
    """Forks on demand; everything happens in one thread, or a fork would copy locks that nobody opens."""

    def __init__(self, path: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen(128)
        self._ended, self._wakeup = socket.socketpair()
        for end in (self._ended, self._wakeup):
            end.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._clients: dict[int, socket.socket] = {}

    def serve(self) -> dict[str, Any] | None:
        """Returns twice: in every child with its job, in the server, when its stdin has closed, with None."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        for watched in (self._listener, self._ended, sys.stdin.fileno()):
            self._selector.register(watched, selectors.EVENT_READ)
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._listener:
                    if (job := self._start()) is not None:
                        return job
                elif key.fileobj is self._ended:
                    self._ended.recv(_READ_SIZE)
                    self._tell_ends()
                elif not os.read(sys.stdin.fileno(), _READ_SIZE):
                    return None

    def _start(self) -> dict[str, Any] | None:
        client, _ = self._listener.accept()
        text, files, _, _ = socket.recv_fds(client, _READ_SIZE, _FILES)
        while text and not text.endswith(b"\n"):
            text += client.recv(_READ_SIZE)
        if not text or len(files) != _FILES:
            # Who asked was killed at it.
            for file in files:
                os.close(file)
            client.close()
            return None
        pid = os.fork()
        if pid == 0:
            self._forget(client)
            return {**json.loads(text), "files": files}
        for file in files:
            os.close(file)
        self._clients[pid] = client
        _say(client, pid)
        return None

    def _forget(self, client: socket.socket) -> None:
        """In the child: nothing of the server's stays open."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._selector.close()
        for each in (self._listener, self._ended, self._wakeup, client, *self._clients.values()):
            each.close()

    def _tell_ends(self) -> None:
        while self._clients:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            with self._clients.pop(pid) as client:
                _say(client, os.waitstatus_to_exitcode(status))


def _say(client: socket.socket, number: int) -> None:
    # Who asked may be gone.
    with contextlib.suppress(OSError):
        client.sendall(b"%d\n" % number)


def _become(job: dict[str, Any]) -> None:
    """What an executed program finds: its session, files, environment, directory, arguments."""
    if job["new_session"]:
        os.setsid()
    for number, file in enumerate(job["files"]):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(job["env"])
    time.tzset()
    os.chdir(job["cwd"])
    streams = {
        "stdin": io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), encoding="utf-8"),
        "stdout": io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w", closefd=False)), encoding="utf-8"),
        "stderr": io.TextIOWrapper(
            io.BufferedWriter(io.FileIO(2, "w", closefd=False)),
            encoding="utf-8",
            errors="backslashreplace",
            line_buffering=True,
        ),
    }
    for name, stream in streams.items():
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    gc.enable()


def _run(argv: list[str]) -> int:
    """Run it as the interpreter does; its exit code."""
    module = argv[0] == "-m"
    sys.argv = argv[1:] if module else argv
    sys.orig_argv = [sys.executable, *argv]
    sys.path.insert(0, os.getcwd() if module else str(Path(argv[0]).parent))
    try:
        if module:
            runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return (ended.code or 0) & 0xFF
        print(ended.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _end(code: int) -> NoReturn:
    """The end of an interpreter without the taking apart of what it shares with the server."""
    threads: Any = threading
    threads._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def main() -> None:
    """Entry point."""
    server = _Server(sys.argv[1])
    gc.disable()
    _import_all()
    if (threads := os.listdir("/proc/self/task")) != [str(os.getpid())]:
        sys.exit(f"an import started threads: {threads}")
    # The place of `-m`: every program has its own.
    del sys.path[0]
    gc.freeze()
    job = server.serve()
    if job is not None:
        _become(job)
        _end(_run(job["argv"]))


if __name__ == "__main__":
    main()
