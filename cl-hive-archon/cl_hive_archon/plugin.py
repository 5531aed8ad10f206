"""Composition root of cl-hive-archon: builds every object once, wires ports, starts and stops loops."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any, Final

from hive_shared.cln import ClnClient, version_problem
from hive_shared.runtime import InitInfo, PluginApp
from hive_shared.runtime_config import Config
from hive_shared.siblings import PROBES_AT, Sibling, SiblingHub, load_sibling_key
from hive_shared.store import Db

from cl_hive_archon.commands.status import methods
from cl_hive_archon.domain.audit import AuditEntry, AuditEvent
from cl_hive_archon.options import PREFIX, TABLE
from cl_hive_archon.services.status_service import StatusService
from cl_hive_archon.storage.audit_store import MIGRATIONS, AuditStore

VERSION: Final = "0.1.0"
# Nothing is offered to siblings yet: names such as vc.v1 appear with what they stand for.
CAPABILITIES: Final[tuple[str, ...]] = ()


class ArchonPlugin:
    """The plugin's objects. Everything below ``app`` exists from ``init`` on."""

    cln: ClnClient
    db: Db
    config: Config
    hub: SiblingHub
    status: StatusService

    def __init__(self) -> None:
        self.audit = AuditStore()
        self.node_id = ""
        self.app = PluginApp(
            name="cl-hive-archon",
            version=VERSION,
            options=TABLE.specs,
            methods=methods(self._hello, lambda: self.status),
            subscriptions={
                "plugin_started": self._plugin_started,
                "plugin_stopped": self._plugin_stopped,
                "hive_emergency": self._emergency,
            },
            notifications=["hive_archon_ready"],
            on_init=self.start,
            on_setconfig=self.set_option,
            on_stop=self.stop,
            invalid_options="report",
        )

    async def start(self, info: InitInfo) -> str | None:
        """Open the database, derive the sibling key, wire the services; probing begins afterwards."""
        self.config = TABLE.snapshot(info)
        self.cln = ClnClient(info.rpc_path, id_prefix="hive-archon")
        node, key = await asyncio.gather(self.cln.getinfo(), load_sibling_key(self.cln, info.net_dir))
        if problem := version_problem(str(node.get("version", ""))):
            return problem
        self.node_id = str(node["id"])
        path = _db_path(info.net_dir, self.config[PREFIX + "db-path"])
        self.db = await asyncio.to_thread(Db.open, path, MIGRATIONS)
        db_schema = await self.db.read(self.audit.schema_version)
        self.hub = SiblingHub(
            me="archon",
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
        self.status = StatusService(VERSION, db_schema, self.hub, lambda: TABLE.warnings(self.config))
        self.app.authenticate = self.hub.verify
        self.hub.on_change(self._sibling_changed)
        self.app.spawn("siblings", self.hub.run)
        self.app.spawn("ready", self._announce)
        # By then every probe of the first round is over: who is absent is not merely late.
        self.app.spawn("degraded", self._warn_if_degraded, first=PROBES_AT[-1] + 1)
        return None

    async def set_option(self, name: str, value: Any) -> None:
        """Put a changed option in force. Raises ``ValueError`` when it contradicts another one."""
        changed = TABLE.changed(self.config, name, value)
        await self._write_audit(AuditEvent.OPTION_CHANGED, {"name": name})
        self.config = changed

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
        await self._write_audit(AuditEvent.STARTED, {"version": VERSION})
        self.app.notify("hive_archon_ready", {"version": VERSION, "capabilities": list(CAPABILITIES)})
        for warning in TABLE.warnings(self.config):
            self.app.log("warning", "option_warning", text=warning)

    async def _write_audit(self, event: AuditEvent, detail: dict[str, str]) -> None:
        entry = AuditEntry(
            event, "operator" if event is AuditEvent.OPTION_CHANGED else "node", detail, _now()
        )
        await self.db.write(lambda tx: self.audit.append(tx, entry))

    async def _warn_if_degraded(self) -> None:
        if (why := self.status.degraded()) is not None:
            self.app.log("warning", "degraded", why=why)

    def _sibling_changed(self, who: Sibling, present: bool) -> None:
        if who == "comms" and not present:
            self.app.spawn("degraded", self._warn_if_degraded)


def _db_path(net_dir: Path, chosen: str | None) -> Path:
    return net_dir / os.path.expanduser(chosen or "cl_hive_archon.db")


def _now() -> int:
    return int(time.time())


def main() -> None:
    """Run the plugin until lightningd ends it."""
    ArchonPlugin().app.run()
