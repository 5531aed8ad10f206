"""How the development network starts Python programs: executed, or, once `enable` was said, forked from a
process that has imported what they import. Half of what the tests' processors did were the same imports.

What is forked are plugins, networks, relays and `hive-advisor` of this repository, by their usual paths and
with the usual Python settings; everything else is executed as ever (docs/decisions/0672).
"""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

import msgspec

_REPOSITORY = Path(__file__).resolve().parents[2]
_SHARED = str(_REPOSITORY / "shared")
_MODULES = ("hive_devnet.embedded", "hive_devnet.relay_main", "hive_advisor")
_SCRIPTS = tuple(
    str(_REPOSITORY / name / f"{name}.py") for name in ("cl-hive-comms", "cl-hive-archon", "cl-hive")
)
_START_SECONDS = 180.0
_WHERE, _PARENT, _PYTHON = "HIVE_DEVNET_FORKS", "HIVE_DEVNET_FORKS_PID", "HIVE_DEVNET_FORKS_PYTHON"


class _Server(msgspec.Struct, frozen=True):
    """Its socket, its process id and the Python settings that it runs with."""

    where: str
    pid: int
    python: str

    def environment(self) -> dict[str, str]:
        """What a network that it forked inherits: the plugins come from the same server."""
        return {_WHERE: self.where, _PARENT: str(self.pid), _PYTHON: self.python}


class _Forks:
    """Whether this process lets its programs be forked, and the server once there is one."""

    def __init__(self) -> None:
        self.allowed = True
        self.python: str | None = None
        self.server: _Server | None = None

    def look(self) -> None:
        """A forked network has its starter's server; this module was there before its environment."""
        if self.python is None and _WHERE in os.environ:
            self.server = _Server(os.environ[_WHERE], int(os.environ[_PARENT]), os.environ[_PYTHON])
            self.python = self.server.python


class Forked:
    """A process that was forked, with what `asyncio.subprocess.Process` has."""

    def __init__(self, pid: int, exited: asyncio.Future[int]) -> None:
        self.pid = pid
        self.stdin: asyncio.StreamWriter | None = None
        self.stdout: asyncio.StreamReader | None = None
        self.stderr: asyncio.StreamReader | None = None
        self._exited = exited

    @property
    def returncode(self) -> int | None:
        """Its exit code, minus the signal that ended it; None while it runs."""
        return self._exited.result() if self._exited.done() else None

    async def wait(self) -> int:
        """Returns its exit code at its end."""
        return await asyncio.shield(self._exited)

    async def communicate(self) -> tuple[bytes, bytes]:
        """Its output until its end; nothing is sent."""
        out, err, _ = await asyncio.gather(_all(self.stdout), _all(self.stderr), self.wait())
        return out, err

    def send_signal(self, number: int) -> None:
        """Raises ProcessLookupError after its end. One that is gone but whose end was not told yet is past
        being signalled, which is no error (nor is it one of asyncio's processes)."""
        if self._exited.done():
            raise ProcessLookupError(self.pid)
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


Process = asyncio.subprocess.Process | Forked


async def _all(stream: asyncio.StreamReader | None) -> bytes:
    return await stream.read() if stream is not None else b""


class _Watch(asyncio.Protocol):
    """The server's word: the process id, later the exit code."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.started: asyncio.Future[int] = loop.create_future()
        self.exited: asyncio.Future[int] = loop.create_future()
        self._text = b""

    def data_received(self, data: bytes) -> None:
        self._text += data
        *lines, self._text = self._text.split(b"\n")
        for line in lines:
            said = self.exited if self.started.done() else self.started
            if not said.done():
                said.set_result(int(line))

    def connection_lost(self, exc: Exception | None) -> None:
        # The server itself is gone: who ran for it is nobody's any more.
        if not self.started.done():
            self.started.set_exception(ConnectionError("the fork server ended"))
        elif not self.exited.done():
            with suppress(ProcessLookupError):
                os.kill(self.started.result(), signal.SIGKILL)
            self.exited.set_result(-signal.SIGKILL)


def _settings(environment: Mapping[str, str]) -> str:
    """What an interpreter looks at before it runs anything: another value needs another interpreter."""
    python = {name: value for name, value in environment.items() if name.startswith("PYTHON")}
    places = dict.fromkeys(python.pop("PYTHONPATH", "").split(os.pathsep))
    python["PYTHONPATH"] = os.pathsep.join(place for place in places if place not in ("", _SHARED))
    return json.dumps(sorted(python.items()))


_forks = _Forks()


def enable() -> None:
    """From now on programs are forked. The server starts with the first and ends with this process."""
    _forks.python, _forks.server = _settings(os.environ), None


@contextmanager
def executing() -> Iterator[None]:
    """Within it everything that this process starts is executed."""
    allowed, _forks.allowed = _forks.allowed, False
    try:
        yield
    finally:
        _forks.allowed = allowed


def parent_of(argv: Sequence[str], environment: Mapping[str, str]) -> int:
    """The process id of which a program started now is the child."""
    return _server().pid if _is_forked(argv, environment) else os.getpid()


def _is_forked(argv: Sequence[str], environment: Mapping[str, str]) -> bool:
    _forks.look()
    known = argv[0] in _SCRIPTS or (argv[0] == "-m" and argv[1] in _MODULES)
    return known and _forks.allowed and _forks.python is not None and _settings(environment) == _forks.python


def _server() -> _Server:
    """The server, started if there is none yet."""
    if _forks.server is None:
        assert _forks.python is not None
        directory = tempfile.TemporaryDirectory(prefix="hive-forks-")
        where = str(Path(directory.name) / "socket")
        paths = filter(None, (_SHARED, os.environ.get("PYTHONPATH", "")))
        server = subprocess.Popen(
            [sys.executable, "-m", "hive_devnet.fork_server", where],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        )

        def stop() -> None:
            assert server.stdin is not None
            server.stdin.close()
            server.wait()
            directory.cleanup()

        atexit.register(stop)
        _forks.server = _Server(where, server.pid, _forks.python)
    return _forks.server


async def _connected(where: str) -> socket.socket:
    """A connection to the server, which may be starting."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _START_SECONDS
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(where)
            return connection
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            if loop.time() > deadline:
                raise
        await asyncio.sleep(0.01)


async def spawn(
    *argv: str,
    env: Mapping[str, str],
    stdin: int = asyncio.subprocess.DEVNULL,
    stdout: int | IO[bytes],
    stderr: int | IO[bytes],
    cwd: Path | None = None,
    start_new_session: bool = False,
) -> Process:
    """Starts a Python program: a script that can be executed, or "-m" and a module of this interpreter.

    Raises OSError when it cannot be executed.
    """
    if not _is_forked(argv, env):
        command = (sys.executable, *argv) if argv[0] == "-m" else argv
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=cwd,
            env=env,
            start_new_session=start_new_session,
        )
    server = _server()
    job = {
        "argv": argv,
        "env": {**env, **server.environment()},
        "cwd": str(cwd) if cwd is not None else os.getcwd(),
        "new_session": start_new_session,
    }
    connection = await _connected(server.where)
    with ExitStack() as theirs:
        streams = [_Stream(stdin, theirs, written=True), _Stream(stdout, theirs), _Stream(stderr, theirs)]
        text = json.dumps(job).encode() + b"\n"
        sent = socket.send_fds(connection, [text], [stream.given for stream in streams])
        if sent < len(text):
            # Never of nothing: a program that has ended already has closed its end.
            connection.sendall(text[sent:])
    watch = _Watch()
    loop = asyncio.get_running_loop()
    await loop.create_connection(lambda: watch, sock=connection)
    forked = Forked(await watch.started, watch.exited)
    forked.stdin = await streams[0].writer()
    forked.stdout, forked.stderr = [await stream.reader() for stream in streams[1:]]
    return forked


class _Stream:
    """One of the three files: `given` is the program's end, to be closed here with `theirs`."""

    def __init__(self, which: int | IO[bytes], theirs: ExitStack, *, written: bool = False) -> None:
        self._ours: socket.socket | IO[bytes] | None = None
        if which == asyncio.subprocess.PIPE and written:
            # As asyncio does: of a pipe's writing end not every system tells that nobody reads any more.
            self._ours, given = socket.socketpair()
            self.given = theirs.enter_context(given).fileno()
        elif which == asyncio.subprocess.PIPE:
            ours, self.given = os.pipe()
            self._ours = os.fdopen(ours, "rb", 0)
            theirs.callback(os.close, self.given)
        elif which == asyncio.subprocess.DEVNULL:
            self.given = os.open(os.devnull, os.O_RDWR)
            theirs.callback(os.close, self.given)
        else:
            self.given = which if isinstance(which, int) else which.fileno()

    async def writer(self) -> asyncio.StreamWriter | None:
        if self._ours is None:
            return None
        loop = asyncio.get_running_loop()
        protocol = asyncio.StreamReaderProtocol(reader := asyncio.StreamReader())
        transport, _ = await loop.connect_write_pipe(lambda: protocol, self._ours)
        return asyncio.StreamWriter(transport, protocol, reader, loop)

    async def reader(self) -> asyncio.StreamReader | None:
        if self._ours is None:
            return None
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), self._ours)
        return reader
