"""hive-client-identity and hive-comms-import-key
(docs/protocol/08-client-and-plugins.md §5.2, §6 "Identity")."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from hive_shared.crypto import Secret
from hive_shared.errors import ConfirmationRequired, InvalidParams
from hive_shared.runtime_spec import ClassBy, MethodSpec, Param
from hive_shared.sealed_file import file_path

from cl_hive_comms import option_parsers
from cl_hive_comms.services.identity_service import IdentityService, parse_key, read_key_file

SetRelays = Callable[[Sequence[str]], Awaitable[None]]


class IdentityCommands:
    """get, rotate, set-relays; a key of the operator's own."""

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
            ),
            MethodSpec(
                "hive-comms-import-key",
                "X",
                (Param("file", "str"), Param("nsec", "str"), Param("confirm", "bool", default=False)),
                self._import_key,
                "Use a Nostr key of yours (nsec1 or hex): file= (mode 0600) or nsec=; confirm=true does it.",
            ),
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

    async def _import_key(self, params: dict[str, Any]) -> dict[str, Any]:
        key = await _given_key(params["file"], params["nsec"])
        service = self._service()
        await service.check_import(key)
        if not params["confirm"]:
            raise ConfirmationRequired(
                "this node takes the npub of that key, tells every advisor by both keys and re-issues their"
                " credentials; hsm_secret will not bring the key back; repeat with confirm=true"
            )
        previous = service.npub
        await service.import_key(key)
        return {"npub": service.npub, "previous": previous}


async def _given_key(file: str | None, nsec: str | None) -> Secret:
    if (file is None) == (nsec is None):
        raise InvalidParams(
            "give either file= (a file of mode 0600 with the key, which stays out of the shell's history) or"
            " nsec=, not " + ("both" if file is not None else "neither")
        )
    if nsec is not None:
        return parse_key(Secret(nsec.encode("utf-8", "replace")))
    return await asyncio.to_thread(read_key_file, file_path(file or ""))


def _relays(value: Any) -> tuple[str, ...]:
    if value is None:
        raise InvalidParams("set-relays needs relays=wss://... (comma separated, or a JSON list)")
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = ",".join(value)
    try:
        return option_parsers.relays(value)
    except ValueError as error:
        raise InvalidParams(f"relays: {error}") from None
