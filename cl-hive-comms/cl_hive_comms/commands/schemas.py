"""hive-schema-list, hive-schema-validate, hive-client-capabilities
(docs/protocol/02-fleet-management.md §11, 08 §5.2)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from hive_shared import registry
from hive_shared.runtime_spec import MethodSpec, Param

from ..services.command_capabilities import CommandCapabilities


class SchemaCommands:
    """The registry of actions, and what this node would say to one of them."""

    def __init__(self, service: Callable[[], CommandCapabilities]) -> None:
        self._service = service

    def specs(self) -> list[MethodSpec]:
        """The methods of this family."""
        validate: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]] = self._validate
        return [
            MethodSpec(
                "hive-schema-list",
                "R",
                (Param("schema_id", "str", default=""),),
                self._list,
                "Management schemas with their actions, danger, tiers and parameters.",
            ),
            MethodSpec(
                "hive-schema-validate",
                "R",
                (
                    Param("schema_id", "str", required=True),
                    Param("action", "str", required=True),
                    Param("params", "json", default=None),
                    Param("credential_id", "str", default=""),
                ),
                validate,
                "Whether a command would be valid here, how dangerous it is and whom it would ask.",
            ),
            MethodSpec(
                "hive-client-capabilities",
                "R",
                (),
                self._capabilities,
                "What advisors may ask of this node, and what it does not serve and why.",
            ),
        ]

    async def _list(self, params: dict[str, Any]) -> dict[str, Any]:
        return dict(registry.export(params["schema_id"] or None))

    async def _validate(self, params: dict[str, Any]) -> dict[str, Any]:
        return await self._service().validate(
            params["schema_id"],
            params["action"],
            {} if params["params"] is None else params["params"],
            params["credential_id"],
        )

    async def _capabilities(self, params: dict[str, Any]) -> dict[str, Any]:
        return self._service().of_node()
