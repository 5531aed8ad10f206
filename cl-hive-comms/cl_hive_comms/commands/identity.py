"""hive-client-identity (docs/protocol/08-client-and-plugins.md §5.2, §6 "Identity")."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from hive_shared.errors import ConfirmationRequired, InvalidParams
from hive_shared.runtime_spec import ClassBy, MethodSpec, Param

from cl_hive_comms import option_parsers
from cl_hive_comms.services.identity_service import IdentityService

SetRelays = Callable[[Sequence[str]], Awaitable[None]]


class IdentityCommands:
    """get, rotate, set-relays."""

    def __init__(
        self,
        service: Callable[[], IdentityService],
        *,
        set_relays: SetRelays,
        describe: Callable[[bool], Awaitable[dict[str, Any]]],
    ) -> None:
        self._service, self._set_relays, self._describe = service, set_relays, describe

    def specs(self) -> list[MethodSpec]:
        """The methods of this family."""
        return [
            MethodSpec(
                name="hive-client-identity",
                klass="X",
                params=(
                    Param("action", "str", default="get", choices=("get", "rotate", "set-relays")),
                    Param("relays", "any"),
                    Param("confirm", "bool", default=False),
                ),
                handler=self._identity,
                description="Identity of this node: get, rotate (confirm=true), set-relays (relays=..).",
                by=ClassBy("action", {"get": "R", "rotate": "X", "set-relays": "X"}),
            )
        ]

    async def _identity(self, params: dict[str, Any]) -> dict[str, Any]:
        action = params["action"]
        if params["relays"] is not None and action != "set-relays":
            raise InvalidParams(f"relays belongs to action=set-relays, not to {action}")
        if action == "rotate":
            return await self._rotate(params["confirm"])
        if action == "set-relays":
            await self._set_relays(_relays(params["relays"]))
        return await self._describe(False)

    async def _rotate(self, confirm: bool) -> dict[str, Any]:
        service = self._service()
        previous = service.npub
        if not confirm:
            raise ConfirmationRequired(
                "rotation gives this node a new npub, tells every advisor and re-issues their credentials;"
                " repeat with confirm=true"
            )
        await service.rotate()
        return {**await self._describe(False), "previous": previous}


def _relays(value: Any) -> tuple[str, ...]:
    if value is None:
        raise InvalidParams("set-relays needs relays=wss://... (comma separated, or a JSON list)")
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = ",".join(value)
    try:
        return option_parsers.relays(value)
    except ValueError as error:
        raise InvalidParams(f"relays: {error}") from None
