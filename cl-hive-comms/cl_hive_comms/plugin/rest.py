"""Composition of the way through clnrest, commando and the RPC socket."""

from __future__ import annotations

from collections.abc import Callable

from hive_shared.cln import ClnClient

from cl_hive_comms.options import Config
from cl_hive_comms.plugin.pipeline import unix_now
from cl_hive_comms.services.ports_identity import Log
from cl_hive_comms.transport.rest import ClnrestRunes
from cl_hive_comms.transport.rest_door import RestDoor


def compose_rest(cln: ClnClient, config: Callable[[], Config], log: Log) -> tuple[ClnrestRunes, RestDoor]:
    """What makes runes, and what admits calls; both follow the options as they are at the moment."""

    def enabled() -> bool:
        return bool(config().get("rest-enabled"))

    runes = ClnrestRunes(cln, enabled=enabled, static=lambda: str(config().get("rest-rune-static")))
    door = RestDoor(
        cln,
        runes,
        enabled=enabled,
        required=lambda: bool(config().get("rest-rune-required")),
        now=unix_now,
        log=log,
    )
    return runes, door
