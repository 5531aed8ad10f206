"""hive-client-emergency-stop (docs/protocol/08-client-and-plugins.md §5.2, §6)."""

from collections.abc import Callable
from typing import Any

from hive_shared.errors import InvalidParams
from hive_shared.runtime_spec import ClassBy, MethodSpec, Param

from cl_hive_comms.services.emergency_service import EmergencyService

ACTIONS = ("engage", "status", "release")
_ENGAGES = ("reason", "revoke_all", "freeze_forwarding")


class EmergencyCommands:
    """Stops everything remote, shows the stop, ends it."""

    def __init__(self, service: Callable[[], EmergencyService]) -> None:
        self._service = service

    def specs(self) -> list[MethodSpec]:
        """The method of this family."""
        return [
            MethodSpec(
                "hive-client-emergency-stop",
                "X",
                (
                    Param("action", "str", default="engage", choices=ACTIONS),
                    Param("reason", "str"),
                    Param("revoke_all", "bool"),
                    Param("freeze_forwarding", "bool"),
                    Param("token", "str"),
                ),
                self._emergency,
                "Stop every remote command at once (engage), show the stop (status), end it (release).",
                by=ClassBy("action", {"engage": "A", "status": "R", "release": "X"}),
            )
        ]

    async def _emergency(self, params: dict[str, Any]) -> dict[str, Any]:
        action = params["action"]
        takes = {"engage": _ENGAGES, "status": (), "release": ("token",)}[action]
        for name in (*_ENGAGES, "token"):
            if params[name] is not None and name not in takes:
                raise InvalidParams(f"{name} does not belong to action={action}")
        if action == "status":
            return await self._service().status()
        if action == "release":
            return await self._service().release(params["token"] or "")
        return await self._service().engage(
            params["reason"] or "",
            revoke_all=bool(params["revoke_all"]),
            freeze_forwarding=bool(params["freeze_forwarding"]),
        )
