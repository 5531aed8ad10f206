"""Composition root of cl-hive: builds every object once, wires ports, starts and stops loops."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hive_shared.cln import ClnClient, version_problem
from hive_shared.runtime import InitInfo, PluginApp
from hive_shared.runtime_config import Config
from hive_shared.siblings import PROBES_AT, Sibling, SiblingHub, load_sibling_key
from hive_shared.store import Db

from cl_hive.commands import escrow
from cl_hive.commands.status import methods
from cl_hive.options import PREFIX, TABLE, settlement_mints
from cl_hive.services.run_service import RunService
from cl_hive.services.status_service import StatusService
from cl_hive.storage.fleet_lock_store import FleetLockStore
from cl_hive.storage.meta_store import MIGRATIONS, MetaStore

if TYPE_CHECKING:
    from cl_hive.commands.escrow_calls import EscrowCalls
    from cl_hive.plugin.escrow import FleetParts

VERSION: Final = "0.1.0"
_ROUND_S: Final = 60.0
_MOST_HINTS: Final = 2_000
# Nothing is offered to siblings yet: names such as members.v1 appear with what they stand for.
CAPABILITIES: Final[tuple[str, ...]] = ()


class HivePlugin:
    """The plugin's objects. Everything below ``app`` exists from ``init`` on."""

    cln: ClnClient
    db: Db
    config: Config
    hub: SiblingHub
    status: StatusService

    def __init__(self) -> None:
        self.meta = MetaStore()
        self.node_id = ""
        self._fleet: FleetParts | None = None
        self._fleet_turn = asyncio.Lock()
        self._hints: set[str] = set()
        self._wake = asyncio.Event()
        self.app = PluginApp(
            name="cl-hive",
            version=VERSION,
            options=TABLE.specs,
            methods=[
                *methods(self._hello, lambda: self.status, lambda: TABLE.rows(self.config)),
                *escrow.methods(self._escrow_calls),
            ],
            subscriptions={
                "plugin_started": self._plugin_started,
                "plugin_stopped": self._plugin_stopped,
                "hive_emergency": self._emergency,
                "hive_comms_escrow": self._lock_changed,
            },
            notifications=["hive_ready"],
            on_init=self.start,
            on_setconfig=self.set_option,
            on_stop=self.stop,
            invalid_options="report",
        )

    async def start(self, info: InitInfo) -> str | None:
        """Open the database, derive the sibling key, wire the services; probing begins afterwards."""
        self.config = TABLE.snapshot(info)
        self.cln = ClnClient(info.rpc_path, id_prefix="hive")
        node, key = await asyncio.gather(self.cln.getinfo(), load_sibling_key(self.cln, info.net_dir))
        if problem := version_problem(str(node.get("version", ""))):
            return problem
        self.node_id = str(node["id"])
        path = _db_path(info.net_dir, self.config[PREFIX + "db-path"])
        self.db = await asyncio.to_thread(Db.open, path, MIGRATIONS)
        db_schema = await self.db.read(self.meta.schema_version)
        self.hub = SiblingHub(
            me="hive",
            version=VERSION,
            capabilities=CAPABILITIES,
            cln=self.cln,
            key=key,
            now=_now,
            random_bytes=os.urandom,
            identity=lambda: {"node_id": self.node_id},
            db_schema=db_schema,
            log=self.app.log,
        )
        self.status = StatusService(
            version=VERSION,
            db_schema=db_schema,
            run=await RunService(self.db, self.meta, _now, VERSION).started(),
            siblings=self.hub,
            loops=self.app.loops,
            option=lambda name: self.config[name],
            option_warnings=lambda: TABLE.warnings(self.config),
        )
        self.app.authenticate = self.hub.verify
        self.hub.on_change(self._sibling_changed)
        self.app.spawn("siblings", self.hub.run)
        self.app.spawn("ready", self._announce)
        self.app.spawn("escrow", self._escrow_rounds)
        # By then every probe of the first round is over: who is absent is not merely late.
        self.app.spawn("degraded", self._warn_if_degraded, first=PROBES_AT[-1] + 1)
        return None

    async def set_option(self, name: str, value: Any) -> None:
        """Put a changed option in force. Raises ``ValueError`` when it contradicts another one."""
        self.config = TABLE.changed(self.config, name, value)

    async def stop(self) -> None:
        """Close the node's socket and the database."""
        await self.cln.close()
        await asyncio.to_thread(self.db.close)

    # The hub exists only from init on; these are declared before.
    async def _hello(self, params: dict[str, Any]) -> dict[str, Any]:
        return await self.hub.hello(params)

    async def _plugin_started(self, payload: dict[str, Any]) -> None:
        await self.hub.on_plugin_started(payload)

    async def _plugin_stopped(self, payload: dict[str, Any]) -> None:
        await self.hub.on_plugin_stopped(payload)

    async def _emergency(self, payload: dict[str, Any]) -> None:
        await self.hub.on_emergency(payload)

    async def _announce(self) -> None:
        self.app.notify("hive_ready", {"version": VERSION, "capabilities": list(CAPABILITIES)})
        for warning in TABLE.warnings(self.config):
            self.app.log("warning", "option_warning", text=warning)

    async def _warn_if_degraded(self) -> None:
        if (why := self.status.degraded()) is not None:
            self.app.log("warning", "degraded", why=why)

    # -- fleet tickets ---------------------------------------------------------------------------------

    async def _parts(self) -> FleetParts:
        """The engine of tickets, built with the first call for it."""
        async with self._fleet_turn:
            if self._fleet is None:
                from cl_hive.plugin.escrow import compose_fleet_escrow, open_sealer

                self._fleet = compose_fleet_escrow(
                    db=self.db,
                    sealer=await open_sealer(self.cln),
                    cln=self.cln,
                    hub=self.hub,
                    node_id=self.node_id,
                    settlement_mints=lambda: settlement_mints(self.config),
                    kicked=self._wake.set,
                    log=self.app.log,
                )
            return self._fleet

    async def _escrow_calls(self) -> EscrowCalls:
        return (await self._parts()).calls

    async def _lock_changed(self, payload: dict[str, Any]) -> None:
        """A hint that anybody could send: comms is asked about the lock that it names."""
        told = payload.get("hive_comms_escrow", payload)
        lock_id = told.get("lock_id") if isinstance(told, dict) else None
        if isinstance(lock_id, str) and len(self._hints) < _MOST_HINTS:
            self._hints.add(lock_id)
            self._wake.set()

    async def _escrow_rounds(self) -> None:
        """Go round once a minute, and at once when something happened."""
        while True:
            try:
                async with asyncio.timeout(_ROUND_S):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            hints, self._hints = self._hints, set()
            if self._fleet is not None or await self.db.read(FleetLockStore().anything_open):
                await (await self._parts()).rounds.tick(hints)

    def _sibling_changed(self, who: Sibling, present: bool) -> None:
        if who == "comms" and present:
            self._wake.set()
        if who == "comms" and not present:
            self.app.spawn("degraded", self._warn_if_degraded)


def _db_path(net_dir: Path, chosen: str | None) -> Path:
    return net_dir / os.path.expanduser(chosen or "cl_hive.db")


def _now() -> int:
    return int(time.time())


def main() -> None:
    """Run the plugin until lightningd ends it."""
    HivePlugin().app.run()
