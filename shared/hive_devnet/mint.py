"""The mint of the development network: nutshell with its FakeWallet, in a process and environment apart."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Mapping
from pathlib import Path

import httpx

from hive_devnet.ports import free_port

_REPOSITORY = Path(__file__).resolve().parents[2]
_START_SECONDS = 180.0
_STOP_SECONDS = 10.0


def paid_through(url: str, rune: str) -> dict[str, str]:
    """The environment of a mint that receives and pays with a node of its own, by that node's clnrest."""
    return {
        "MINT_BACKEND_BOLT11_SAT": "CLNRestWallet",
        "MINT_CLNREST_URL": url,
        "MINT_CLNREST_RUNE": rune,
    }


class MintError(Exception):
    """The mint is not installed or did not start; the text says which, and what it wrote last."""


def mint_environment(release: str = "") -> Path:
    """The virtual environment that holds nutshell: HIVE_MINT_VENV, else `.venv-mint` of the repository.

    Another `release` than the usual one (`0.16`) is in `.venv-mint-<release>` beside it.
    """
    usual = Path(os.environ.get("HIVE_MINT_VENV") or _REPOSITORY / ".venv-mint")
    return usual.with_name(f"{usual.name}-{release}") if release else usual


def mint_installed(release: str = "") -> bool:
    """Whether that environment has the `mint` command."""
    return (mint_environment(release) / "bin" / "mint").is_file()


class MintProcess:
    """One mint on a loopback port, its keys and tokens under `directory`.

    Unless its environment says otherwise (`paid_through`), its FakeWallet pays and is paid at once and holds
    no money, so a mint quote is paid by itself.
    """

    def __init__(
        self,
        directory: Path,
        port: int,
        input_fee_ppk: int,
        release: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._input_fee_ppk = input_fee_ppk
        self._release, self._environment = release, dict(environment or {})
        self._process: asyncio.subprocess.Process | None = None

    @classmethod
    async def start(
        cls,
        directory: Path,
        port: int = 0,
        *,
        input_fee_ppk: int = 100,
        release: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> MintProcess:
        """Starts a mint and returns when it answers `GET /v1/info`; port 0 means any free one.

        `input_fee_ppk` is what it takes per thousand inputs, in sat; `release` is another version of nutshell
        than the usual one, see `mint_environment`; `environment` is added to the mint's (a clock's:
        `hive_devnet.clock`). The seed is made once per
        directory, so a mint started there again has the same keysets. Raises MintError.
        """
        mint = cls(directory.resolve(), port or free_port(), input_fee_ppk, release, environment)
        await mint._launch()
        return mint

    async def healthy(self) -> bool:
        """Whether `GET /v1/info` answers as a nutshell mint."""
        try:
            # Plain HTTP: to load the system's certificates costs more than the question, ten times a second.
            async with httpx.AsyncClient(timeout=2, trust_env=False, verify=False) as client:
                reply = await client.get(f"{self.url}/v1/info")
            return reply.status_code == 200 and reply.json()["version"].startswith("Nutshell/")
        except (httpx.HTTPError, ValueError, KeyError):
            return False

    async def stop(self) -> None:
        """Shuts down in order, by force after ten seconds."""
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()

    async def kill(self) -> None:
        """SIGKILL, as when the mint's machine loses power."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()

    async def restart(self) -> None:
        """Starts again on the same port with the same keys and tokens, stopping it first if it runs."""
        await self.stop()
        await self._launch()

    async def _launch(self) -> None:
        program = mint_environment(self._release) / "bin" / "mint"
        if not program.is_file():
            target = "setup-mints" if self._release else "setup"
            raise MintError(f"no mint at {program}: run `make {target}` or set HIVE_MINT_VENV")
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "mint.log").open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                str(program),
                "--host",
                "127.0.0.1",
                "--port",
                str(self.port),
                cwd=self.directory,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._variables(),
            )
        await self._until_healthy()

    def _variables(self) -> dict[str, str]:
        seed = self.directory / "seed"
        if not seed.exists():
            seed.touch(mode=0o600)
            seed.write_text(secrets.token_hex(32))
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.directory),
            "CASHU_DIR": str(self.directory),
            "MINT_DATABASE": str(self.directory / "data"),
            "MINT_PRIVATE_KEY": seed.read_text(),
            "MINT_LISTEN_HOST": "127.0.0.1",
            "MINT_LISTEN_PORT": str(self.port),
            "MINT_BACKEND_BOLT11_SAT": "FakeWallet",
            "MINT_INPUT_FEE_PPK": str(self._input_fee_ppk),
            "MINT_INFO_NAME": "Lightning Hive development mint",
            "FAKEWALLET_BRR": "TRUE",
            "FAKEWALLET_DELAY_INCOMING_PAYMENT": "0",
            "FAKEWALLET_DELAY_OUTGOING_PAYMENT": "0",
            "TOR": "FALSE",
            **self._environment,
        }

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    async def _until_healthy(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self._process.returncode is None:
            # It starts for seconds: who asks meanwhile whether anybody listens takes no processor from it.
            if self._listens() and await self.healthy():
                return
            await asyncio.sleep(0.1)
        await self.kill()
        tail = (self.directory / "mint.log").read_text(errors="replace")[-1500:]
        raise MintError(f"the mint on {self.url} did not come up:\n{tail}")
