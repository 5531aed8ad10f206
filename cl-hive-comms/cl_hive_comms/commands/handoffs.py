"""hive-marketplace-handoff (docs/protocol/04-marketplace-and-nostr.md §10, §12)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hive_shared.runtime_spec import MethodSpec, Param

from ..domain.handoff import DEFAULT_DAYS, MAX_DAYS, MIN_DAYS
from ..services.alias_service import AliasService
from ..services.handoff_service import HandoffService


class HandoffCommands:
    """One advisor hands over to another."""

    def __init__(self, service: Callable[[], HandoffService], aliases: Callable[[], AliasService]) -> None:
        self._service, self._aliases = service, aliases

    def specs(self) -> list[MethodSpec]:
        """The method of this family."""
        return [
            MethodSpec(
                "hive-marketplace-handoff",
                "X",
                (
                    Param("from_contract", "str", required=True),
                    Param("to_contract", "str", required=True),
                    Param("days", "int", default=DEFAULT_DAYS, minimum=MIN_DAYS, maximum=MAX_DAYS),
                ),
                self._handoff,
                "Hand over from one hired advisor to another (names or npubs): at half time the second one"
                " takes over the work, at the end the first one's credential is revoked.",
            )
        ]

    async def _handoff(self, params: dict[str, Any]) -> dict[str, Any]:
        aliases = self._aliases()
        outgoing, incoming = (aliases.resolve(params[name]) for name in ("from_contract", "to_contract"))
        handoff = await self._service().start(outgoing, incoming, params["days"])
        return {
            "from": aliases.name_of(outgoing),
            "to": aliases.name_of(incoming),
            "half_at": handoff.half_at,
            "ends_at": handoff.ends_at,
        }
