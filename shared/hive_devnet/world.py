"""A small world to tell stories in: nodes with a channel, a relay, the plugins, an advisor.

Used by `make demo`, `make devnet` and the end-to-end tests, so that all three mean the same set-up.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hive_devnet import forks
from hive_devnet.network import open_network
from hive_devnet.node import Network, NodeHandle
from hive_devnet.ports import free_port
from hive_devnet.relay import RelayProcess

_WITNESS = Path(__file__).resolve().parent / "witness_plugin.py"
_CLNREST = Path(__file__).resolve().parent / "clnrest.py"
REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE_S = 150.0
"""How long a test waits for what it expects. Much of what plugins do comes once a minute, a relay that was
down for half a minute is dialled a minute later, and the machine may be three times slower than ours."""
START_PPM = 500
"""Fee of alice's channels when a story starts, set by her operator's own hand."""
PLUGINS = {name: REPOSITORY / name / f"{name}.py" for name in ("cl-hive-comms", "cl-hive-archon", "cl-hive")}


class AdvisorFailed(Exception):
    """hive-advisor exited with a code other than 0. ``error`` is its JSON error object."""

    def __init__(self, code: int, error: dict[str, Any], stderr: str) -> None:
        self.code, self.error, self.stderr = code, error, stderr
        super().__init__(
            f"exit {code}: {error.get('slug')}: {error.get('message')}{stderr and ' | ' + stderr}"
        )


async def until(
    condition: Callable[[], Awaitable[Any]], what: str, timeout: float = PATIENCE_S, pause: float = 0.05
) -> Any:
    """Poll ``condition`` until it returns something true; TimeoutError naming ``what`` in the end."""
    deadline = asyncio.get_running_loop().time() + timeout
    while True:
        value = await condition()
        if value:
            return value
        if asyncio.get_running_loop().time() > deadline:
            raise TimeoutError(f"waited {timeout:g} s for {what}")
        await asyncio.sleep(pause)


@dataclass
class AdvisorShell:
    """The command line of an advisor as its user types it, with files of its own."""

    directory: Path
    relays: Sequence[str]
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        passphrase = self.directory / "passphrase"
        if not passphrase.exists():
            passphrase.write_text("correct horse battery staple\n")
            passphrase.chmod(0o600)
        self.env = {
            **os.environ,
            "XDG_CONFIG_HOME": str(self.directory / "config"),
            "XDG_DATA_HOME": str(self.directory / "data"),
            "HIVE_ADVISOR_PASSPHRASE_FILE": str(passphrase),
            "HIVE_ADVISOR_RELAYS": ",".join(self.relays),
            **self.env,
        }

    async def run(self, *arguments: str) -> Any:
        """Run ``hive-advisor --json ARGUMENTS`` and return its ``data``. Raises AdvisorFailed."""
        process = await forks.spawn(
            "-m",
            "hive_advisor",
            "--json",
            *arguments,
            env=self.env,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        try:
            answer = json.loads(out)
        except ValueError:
            answer = {
                "ok": False,
                "error": {"slug": "no_json", "message": out.decode(errors="replace")[-500:]},
            }
        if process.returncode != 0 or not answer.get("ok"):
            raise AdvisorFailed(
                process.returncode or 1, answer.get("error", answer.get("data", {})), err.decode()
            )
        return answer["data"]


def only_relay(url: str) -> dict[str, object]:
    """Options of comms for this relay alone: nothing of a development network leaves the machine."""
    unused = dict.fromkeys(("hive-comms-nostr-profile-relays", "hive-comms-nostr-search-relays"), "")
    return {"hive-comms-nostr-relays": url, **unused}


@dataclass
class World:
    """Everything that runs. ``alice`` is the managed node, ``bob`` her channel peer."""

    directory: Path
    network: Network
    relay: RelayProcess
    alice: NodeHandle
    bob: NodeHandle
    scid: str
    advisor: AdvisorShell
    fault_dir: Path
    rest_url: str | None = None
    """Where alice's clnrest listens; its authority is `rest_ca`."""

    @property
    def rest_ca(self) -> Path:
        """The certificate of the authority that signed clnrest's."""
        return self.directory / "certs" / "ca.pem"

    @classmethod
    async def start(
        cls,
        directory: Path,
        *,
        plugins: Sequence[str] = ("cl-hive-comms",),
        options: Mapping[str, object] | None = None,
        kind: str | None = None,
        with_witness: bool = False,
        with_rest: bool = False,
        with_faults: bool = True,
        say: Callable[[str], None] = lambda _text: None,
    ) -> World:
        """Bring up relay, two funded nodes with a 1,000,000 sat channel, and ``plugins`` on alice.

        ``with_witness`` also starts the plugin behind ``witnessed``, ``with_rest`` a clnrest with TLS.
        Without ``with_faults`` the plugins do not look for fault points, as on an operator's node.
        """
        directory.mkdir(parents=True, exist_ok=True)
        fault_dir = _prepare_environment(directory, with_faults)
        relay = await RelayProcess.start()
        say(f"relay {relay.url}")
        network = await open_network(directory / "net", kind)
        try:
            local = only_relay(relay.url)
            rest: dict[str, object] = {}
            if with_rest:
                rest = {"clnrest-port": free_port(), "clnrest-certs": str(directory / "certs")}
            extra = [*([_WITNESS] if with_witness else []), *([_CLNREST] if with_rest else [])]
            alice = await network.add_node(
                "alice",
                {**(local if "cl-hive-comms" in plugins else {}), **rest, **(options or {})},
                [*(PLUGINS[name] for name in plugins), *extra],
            )
            bob = await network.add_node("bob")
            say(f"two {network.kind} nodes: alice {alice.node_id[:16]}…, bob {bob.node_id[:16]}…")
            await network.fund(alice, 5_000_000)
            scid = await network.open_channel(alice, bob, 1_000_000, 300_000_000)
            await alice.call("setchannel", {"id": scid, "feebase": 1_000, "feeppm": START_PPM})
            say(f"channel {scid}, 1,000,000 sat")
        except BaseException:
            await network.close()
            await relay.stop()
            raise
        return cls(
            directory,
            network,
            relay,
            alice,
            bob,
            scid,
            AdvisorShell(directory / "advisor", [relay.url]),
            fault_dir,
            f"https://127.0.0.1:{rest['clnrest-port']}" if rest else None,
        )

    async def close(self) -> None:
        """Stop everything in the order nodes, relay."""
        await self.network.close()
        await self.relay.stop()

    async def channel_fees(self, scid: str | None = None) -> tuple[int, int]:
        """(base msat, ppm) of alice's side, as listpeerchannels says."""
        answer = await self.alice.call("listpeerchannels")
        for channel in answer["channels"]:
            if channel.get("short_channel_id") == (scid or self.scid):
                local = channel["updates"]["local"]
                return int(local["fee_base_msat"]), int(local["fee_proportional_millionths"])
        raise LookupError(f"alice has no channel {scid or self.scid}")

    async def hire(self, access: str = "fees", **parameters: object) -> str:
        """Advisor makes an identity, alice authorises it, the advisor accepts. Returns the advisor's npub."""
        identity = await self.advisor.run("identity", "create")
        npub = str(identity["npub"])
        await self.alice.call("hive-client-authorize", {"advisor": npub, "access": access, **parameters})
        await self.accept_offer("alice")
        return npub

    async def accept_offer(self, alias: str) -> None:
        """Wait for the offer of alice's credential to arrive and accept it under ``alias``."""

        async def offered() -> str | None:
            await self.advisor.run("run", "--once")
            clients = (await self.advisor.run("client", "list"))["items"]
            return next((row["alias"] for row in clients if row["state"] == "offered"), None)

        remote = await until(offered, "the credential offer")
        await self.advisor.run("client", "accept", remote, "--name", alias)

    def witnessed(self, method: str) -> list[dict[str, Any]]:
        """Every call of ``method`` the node was asked since the start (needs ``with_witness``)."""
        # Without the last line: it may be half written just now.
        *lines, _ = (self.directory / "witness.jsonl").read_text().split("\n")
        return [call for call in map(json.loads, lines) if call["method"] == method]

    def arm_fault(self, point: str) -> Path:
        """The plugin stops at ``point`` next time. Returns the file that appears when it got there."""
        (self.fault_dir / point).touch()
        return self.fault_dir / f"{point}.reached"

    def disarm_faults(self) -> None:
        for path in self.fault_dir.iterdir():
            path.unlink()


def _prepare_environment(directory: Path, with_faults: bool) -> Path:
    """Set what the nodes hand on to the plugins; returns the directory of fault points."""
    # Plugins start through `#!/usr/bin/env python3`: it has to be this interpreter's environment.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    witness = directory / "witness.jsonl"
    witness.touch()
    os.environ["HIVE_WITNESS_FILE"] = str(witness)
    fault_dir = directory / "faults"
    fault_dir.mkdir(exist_ok=True)
    os.environ.pop("HIVE_FAULT_DIR", None)
    if with_faults:
        os.environ["HIVE_FAULT_DIR"] = str(fault_dir)
    return fault_dir
