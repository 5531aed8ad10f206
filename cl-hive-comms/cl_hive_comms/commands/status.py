"""hive-client-status (docs/protocol/08-client-and-plugins.md §5.2)."""

from collections.abc import Callable
from typing import Any

from hive_shared.runtime_spec import MethodSpec, Param

from cl_hive_comms.commands.rendering import as_text
from cl_hive_comms.services.status_service import StatusService

FORMAT = Param("format", "str", default="json", choices=("json", "text"))


class StatusCommands:
    """The status family; `service` is asked per call because it exists only after init."""

    def __init__(self, service: Callable[[], StatusService]) -> None:
        self._service = service

    def specs(self) -> list[MethodSpec]:
        """The methods of this family."""
        return [
            MethodSpec(
                name="hive-client-status",
                klass="R",
                params=(
                    Param("pending", "bool", default=False),
                    Param("verbose", "bool", default=False),
                    FORMAT,
                ),
                handler=self._status,
                description="Who this node is, who may manage it, and what waits for you.",
            )
        ]

    async def _status(self, params: dict[str, Any]) -> dict[str, Any]:
        result = dict(await self._service().collect(params["verbose"]))
        if params["pending"]:
            result = {"pending": result["pending"]}
        return as_text(result) if params["format"] == "text" else result
