"""hive-client-selfcheck (docs/protocol/08-client-and-plugins.md §5.2, §8.6)."""

from collections.abc import Callable
from typing import Any

from hive_shared.runtime_spec import ClassBy, MethodSpec, Param

from cl_hive_comms.commands.rendering import as_text
from cl_hive_comms.commands.status import FORMAT
from cl_hive_comms.services.selfcheck_service import SelfcheckService


class SelfcheckCommands:
    """The self-check."""

    def __init__(self, service: Callable[[], SelfcheckService]) -> None:
        self._service = service

    def specs(self) -> list[MethodSpec]:
        """The method of this family."""
        return [
            MethodSpec(
                "hive-client-selfcheck",
                "X",
                (Param("fix", "bool", default=False), FORMAT),
                self._selfcheck,
                "Looks at node, database, key, relays, policy and receipts; fix=true repairs what is safe.",
                by=ClassBy("fix", {"false": "R", "true": "X"}),
            )
        ]

    async def _selfcheck(self, params: dict[str, Any]) -> dict[str, Any]:
        result = await self._service().run(params["fix"])
        return as_text(result) if params["format"] == "text" else result
