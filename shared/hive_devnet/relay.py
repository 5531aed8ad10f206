"""A real Nostr relay on loopback for the development network: start, stop, kill, freeze, restart."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from hive_devnet import forks
from hive_devnet.ports import free_port

_START_SECONDS = 120.0
_PORTS_TRIED = 5
_STOP_SECONDS = 5.0
_SHARED = Path(__file__).resolve().parents[1]


class RelayError(Exception):
    """The relay process did not start; the text ends with what it wrote to stderr."""


class RelayEnded(RelayError):
    """It ended at its start, as it does when its port was taken meanwhile."""


class RelayProcess:
    """One relay in a process of its own. It keeps events in memory: after `restart` its store is empty."""

    def __init__(self, port: int, *, nip42: bool, min_pow: int) -> None:
        self.port = port
        self.url = f"ws://127.0.0.1:{port}"
        self._nip42 = nip42
        self._min_pow = min_pow
        self._process: forks.Process | None = None

    @classmethod
    async def start(cls, port: int = 0, *, nip42: bool = False, min_pow: int = 0) -> RelayProcess:
        """Start a relay and return when it accepts connections; port 0 means any free one.

        `nip42` demands authentication for reading and writing, `min_pow` refuses events with fewer bits.
        Raises RelayError.
        """
        for left in reversed(range(1 if port else _PORTS_TRIED)):
            relay = cls(port or free_port(), nip42=nip42, min_pow=min_pow)
            try:
                await relay._launch()
                break
            except RelayEnded:
                # Between the look and the relay's own bind others may have taken what was free.
                if not left:
                    raise
        return relay

    @property
    def pid(self) -> int | None:
        """The process id, or None while the relay is down."""
        return self._process.pid if self._process is not None else None

    async def stop(self) -> None:
        """Shut down in order, by force after five seconds; nothing happens if it is down already."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), _STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()

    async def kill(self) -> None:
        """SIGKILL: connections break without a closing handshake, as when a machine loses power."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            await process.wait()

    async def restart(self) -> None:
        """Start again on the same port with an empty store, stopping it first if it runs."""
        await self.stop()
        await self._launch()

    def freeze(self) -> None:
        """Stop the process in its tracks: the sockets stay open and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen relay go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            raise RelayError(f"the relay at {self.url} is not running")
        self._process.send_signal(number)

    async def _launch(self) -> None:
        options = ["--nip42"] if self._nip42 else []
        if self._min_pow:
            options += ["--min-pow", str(self._min_pow)]
        path = os.pathsep.join(filter(None, (str(_SHARED), os.environ.get("PYTHONPATH", ""))))
        process = await forks.spawn(
            "-m",
            "hive_devnet.relay_main",
            str(self.port),
            *options,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path},
        )
        assert process.stdout is not None and process.stderr is not None
        try:
            line = await asyncio.wait_for(process.stdout.readline(), _START_SECONDS)
        except TimeoutError:
            line = b""
        if not line.startswith(b"ws://"):
            # The end of its output is the end of the process, which may be noticed later.
            late = not line and not process.stdout.at_eof()
            if process.returncode is None:
                process.kill()
            trouble = (await process.stderr.read()).decode(errors="replace")[-2_000:]
            await process.wait()
            kind = RelayError if late else RelayEnded
            raise kind(f"no relay on port {self.port}: {trouble.strip() or 'it did not answer in time'}")
        self._process = process
