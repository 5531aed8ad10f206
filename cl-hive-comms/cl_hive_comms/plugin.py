"""Composition root of cl-hive-comms: builds every object once, wires ports, starts and stops loops.

Nothing here decides anything (DESIGN "The dependency rule"). `init` opens the database, loads the identity
and answers; everything slow runs in loops afterwards (docs/protocol/08-client-and-plugins.md §2).
"""

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from hive_shared.cln import ClnClient
from hive_shared.crypto import Sealer
from hive_shared.runtime import InitInfo, MethodSpec, PluginApp
from hive_shared.siblings import SiblingHub, hello_spec, load_sibling_key
from hive_shared.store import Db

from cl_hive_comms import __version__
from cl_hive_comms.commands.identity import IdentityCommands
from cl_hive_comms.commands.status import StatusCommands
from cl_hive_comms.options import PREFIX, Config, option_specs
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.services.identity_service import IdentityService
from cl_hive_comms.services.kill_switch import KillSwitch
from cl_hive_comms.services.status_service import StatusService
from cl_hive_comms.storage.at_rest import open_sealer
from cl_hive_comms.storage.identity_store import IdentityStore
from cl_hive_comms.storage.state_store import StateStore

MIGRATIONS = Path(__file__).parent / "storage" / "migrations"
SCHEMA = 4
CAPABILITIES: tuple[str, ...] = ()
"""What sibling plugins may use of us, as `name.vN` (docs/protocol/08 §3.2); only what is served."""
NOTIFICATIONS = (
    "hive_comms_ready",
    "hive_policy_changed",
    "hive_emergency",
    "hive_identity_changed",
    "hive_credential_revoked",
    "hive_receipt",
)


def unix_now() -> int:
    """The clock of this plugin, Unix seconds."""
    return int(time.time())


class Comms:
    """All objects of the running plugin. Attributes below the line exist once `init` has been answered."""

    def __init__(self) -> None:
        self.status = StatusService()
        self.app = PluginApp(
            name="cl-hive-comms",
            version=__version__,
            options=option_specs(),
            methods=self._methods(),
            subscriptions={
                "plugin_started": self._plugin_started,
                "plugin_stopped": self._plugin_stopped,
            },
            notifications=NOTIFICATIONS,
            on_init=self.on_init,
            on_setconfig=self.on_setconfig,
            on_stop=self.on_stop,
        )
        # ---------------------------------------------------------------------------------------------
        self.config: Config
        self.info: InitInfo
        self.cln: ClnClient
        self.node_id: str
        self.db: Db
        self.sealer: Sealer
        self.alerts: AlertService
        self.identity: IdentityService
        self.kill_switch: KillSwitch
        self.siblings: SiblingHub

    def _methods(self) -> list[MethodSpec]:
        return [
            hello_spec("comms", self._hello),
            *StatusCommands(lambda: self.status).specs(),
            *IdentityCommands(
                lambda: self.identity,
                relays=lambda: self.config.relays,
                set_relays=self._set_relays,
                describe=self._identity_section,
            ).specs(),
        ]

    # -- life ----------------------------------------------------------------------------------------

    async def on_init(self, info: InitInfo) -> str | None:
        """Open and load; raising ends the plugin with the reason."""
        self.info, self.config = info, Config.build(info.options)
        self.cln = ClnClient(info.rpc_path, id_prefix="comms")
        path = self.config.get("db-path") or str(info.net_dir / "cl_hive_comms.db")
        node, sibling_key, self.sealer, self.db = await asyncio.gather(
            self.cln.getinfo(),
            load_sibling_key(self.cln, info.net_dir),
            open_sealer(self.cln.makesecret, info.net_dir, os.urandom),
            asyncio.to_thread(Db.open, Path(path), MIGRATIONS),
        )
        self.node_id = str(node["id"])
        await self._build_identity()
        self._build_siblings(sibling_key)
        self._register_status()
        self._start_loops()
        return None

    async def _build_identity(self) -> None:
        facts = StateStore()
        log = self.app.log
        self.alerts = AlertService(self.db, facts, now=unix_now, log=log)
        self.identity = IdentityService(
            self.db,
            IdentityStore(),
            self.sealer,
            makesecret=self.cln.makesecret,
            now=unix_now,
            random_bytes=os.urandom,
            log=log,
        )
        await self.identity.load_or_create(self.config.get("nsec"), self.config.get("nsec-file"))
        self.kill_switch = KillSwitch(self.db, facts, self.info.net_dir / "hive", now=unix_now, log=log)
        await self.kill_switch.load()

    def _build_siblings(self, key: bytes) -> None:
        self.siblings = SiblingHub(
            me="comms",
            version=__version__,
            capabilities=CAPABILITIES,
            cln=self.cln,
            key=key,
            now=unix_now,
            random_bytes=os.urandom,
            identity=lambda: {"npub": self.identity.npub, "node_id": self.node_id},
            db_schema=SCHEMA,
            log=self.app.log,
        )
        self.app.authenticate = self.siblings.verify

    async def _hello(self, params: dict[str, Any]) -> dict[str, Any]:
        return await self.siblings.hello(params)

    async def _plugin_started(self, payload: dict[str, Any]) -> None:
        await self.siblings.on_plugin_started(payload)

    async def _plugin_stopped(self, payload: dict[str, Any]) -> None:
        await self.siblings.on_plugin_stopped(payload)

    def _start_loops(self) -> None:
        self.app.spawn("siblings", self.siblings.run)
        self.app.spawn("emergency", self.kill_switch.watch, every=5.0)
        self.app.spawn("ready", self._announce_ready)

    async def _announce_ready(self) -> None:
        self.app.notify("hive_comms_ready", {"npub": self.identity.npub, "version": __version__})

    async def on_setconfig(self, name: str, value: Any) -> None:
        """Apply a dynamic option."""
        self.config = self.config.changed(name, value)

    async def on_stop(self) -> None:
        """Close in the reverse order of opening."""
        if hasattr(self, "db"):
            await asyncio.to_thread(self.db.close)
        if hasattr(self, "cln"):
            await self.cln.close()

    # -- status --------------------------------------------------------------------------------------

    def _register_status(self) -> None:
        self.status.register("identity", self._identity_section)
        self.status.register("siblings", self._siblings_section)
        self.status.register("emergency", self._emergency_section)

    async def _identity_section(self, verbose: bool) -> dict[str, Any]:
        ring = self.identity.ring
        section: dict[str, Any] = {
            "name": "my-node",
            "npub": self.identity.npub,
            "origin": ring.current.origin,
            "relays": list(self.config.relays),
            "has_did": False,
        }
        if self.identity.warnings:
            section["warnings"] = list(self.identity.warnings)
        if verbose:
            section |= {"pubkey": ring.current.pubkey, "node_id": self.node_id}
        return section

    async def _siblings_section(self, verbose: bool) -> dict[str, Any]:
        rows = self.siblings.status()
        return {"combination": self.siblings.combo(), "plugins": rows}

    async def _emergency_section(self, verbose: bool) -> dict[str, Any]:
        return self.kill_switch.status()

    async def _set_relays(self, relays: Any) -> None:
        # Through CLN, so that listconfigs, the configuration file and we agree.
        await self.cln.setconfig(PREFIX + "nostr-relays", ",".join(relays))


def main() -> None:
    """Entry point of the executable."""
    Comms().app.run()
