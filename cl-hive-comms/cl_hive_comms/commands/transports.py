"""hive-comms-transports (docs/protocol/08-client-and-plugins.md §5.2)."""

from collections.abc import Awaitable, Callable
from typing import Any

from hive_shared.runtime_spec import MethodSpec

Rows = Callable[[], Awaitable[list[dict[str, Any]]]]


class TransportCommands:
    """Lists the ways commands come in and answers go out."""

    def __init__(self, rows: Rows, handlers: Callable[[], dict[str, Any]]) -> None:
        self._rows, self._handlers = rows, handlers

    def specs(self) -> list[MethodSpec]:
        """The method of this family."""
        return [
            MethodSpec(
                "hive-comms-transports",
                "R",
                (),
                self._transports,
                "The ways messages reach this node, and which plugin takes which of them.",
            )
        ]

    async def _transports(self, params: dict[str, Any]) -> dict[str, Any]:
        rows = await self._rows()
        return {"count": len(rows), "items": rows, **self._handlers()}
