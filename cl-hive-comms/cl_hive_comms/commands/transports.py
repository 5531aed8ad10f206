"""hive-comms-transports (docs/protocol/08-client-and-plugins.md §5.2)."""

from collections.abc import Awaitable, Callable
from typing import Any

from hive_shared.runtime_spec import MethodSpec

Rows = Callable[[], Awaitable[list[dict[str, Any]]]]


class TransportCommands:
    """Lists the ways commands come in and answers go out."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def specs(self) -> list[MethodSpec]:
        """The method of this family."""
        return [
            MethodSpec(
                "hive-comms-transports",
                "R",
                (),
                self._transports,
                "The ways commands reach this node: state, last success, messages waiting.",
            )
        ]

    async def _transports(self, params: dict[str, Any]) -> dict[str, Any]:
        rows = await self._rows()
        return {"count": len(rows), "items": rows}
