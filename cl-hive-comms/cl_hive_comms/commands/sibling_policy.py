"""hive-comms-policy-check, -policy-add-rule, -policy-remove-rule
(docs/protocol/08-client-and-plugins.md §3.4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from hive_shared.runtime_spec import MethodSpec, Param

from ..services.sibling_policy import SiblingPolicy

_ACTORS: Final = ("cl-hive", "cl-hive-archon")


class SiblingPolicyCommands:
    """The operator's policy for siblings. The runtime has checked the caller's `auth`."""

    def __init__(self, service: Callable[[], SiblingPolicy]) -> None:
        self._service = service

    def specs(self) -> list[MethodSpec]:
        """The methods of this family."""
        actor = Param("actor", "str", default=_ACTORS[0], choices=_ACTORS)
        return [
            MethodSpec(
                "hive-comms-policy-check",
                "S",
                (
                    Param("schema", "str", required=True, maximum=100),
                    Param("action", "str", required=True, maximum=100),
                    Param("params", "json"),
                    Param("danger", "int", minimum=1, maximum=10),
                    Param("actor", "str", default=_ACTORS[0], maximum=100),
                ),
                self._check,
                "What the operator's policy says to an action of a sibling plugin.",
            ),
            MethodSpec(
                "hive-comms-policy-add-rule",
                "S",
                (Param("rule", "json", required=True), actor),
                self._add,
                "Add a rule of a sibling plugin; rules only tighten.",
            ),
            MethodSpec(
                "hive-comms-policy-remove-rule",
                "S",
                (Param("rule_id", "str", required=True, maximum=64), actor),
                self._remove,
                "Remove a rule that the same sibling plugin added.",
            ),
        ]

    async def _check(self, params: dict[str, Any]) -> dict[str, Any]:
        given = {} if params["params"] is None else params["params"]
        return await self._service().check(
            params["schema"], params["action"], given, params["danger"], params["actor"]
        )

    async def _add(self, params: dict[str, Any]) -> dict[str, Any]:
        rule = await self._service().add_rule(params["rule"], params["actor"])
        return {"rule_id": rule.id, "rule": rule.to_doc()}

    async def _remove(self, params: dict[str, Any]) -> dict[str, Any]:
        await self._service().remove_rule(params["rule_id"], params["actor"])
        return {"rule_id": params["rule_id"], "removed": True}
