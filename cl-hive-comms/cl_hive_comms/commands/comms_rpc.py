"""hive-comms-rpc: the command channel over clnrest, commando and the RPC socket
(docs/protocol/02-fleet-management.md §6.3, 08 §1.3).

The rune only opens the door. Who asks is proven by the envelope's signature; `sender` must equal it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol

from hive_shared.canonical import encode
from hive_shared.errors import InvalidParams, Unauthorized
from hive_shared.runtime_spec import MethodSpec, Param

from ..services.command_service import CommandService
from ..services.intake import Ingress

_KEY: Final = re.compile(r"[0-9a-f]{64}")
METHOD: Final = "hive-comms-rpc"


class Door(Protocol):
    """Who may call at all (transport.rest_door.RestDoor)."""

    async def admit(self, rune: str, sender: str) -> None:
        """Raises FeatureDisabled while the method is off, Unauthorized (rune_rejected) for a wrong rune."""
        ...

    def under_way(self) -> AbstractContextManager[None]:
        """Around the handling of an admitted call."""
        ...


class CommsRpcCommands:
    """The one method remote senders reach. `parse_key` reads npub and other forms of a key."""

    def __init__(
        self,
        service: Callable[[], CommandService],
        *,
        door: Callable[[], Door],
        parse_key: Callable[[str], str],
        now: Callable[[], int],
    ) -> None:
        self._service, self._door, self._parse_key, self._now = service, door, parse_key, now

    def specs(self) -> list[MethodSpec]:
        """The method of this family."""
        return [
            MethodSpec(
                METHOD,
                "remote",
                (
                    Param("request", "any", required=True),
                    Param("sender", "str", required=True),
                    Param("rune", "str", default=""),
                ),
                self._rpc,
                "Send a signed management command; the signed response comes back.",
            )
        ]

    async def _rpc(self, params: dict[str, Any]) -> dict[str, Any]:
        sender = self._sender(params["sender"])
        door = self._door()
        await door.admit(params["rune"], sender)
        ingress = Ingress("rest", sender, "", self._now())
        with door.under_way():
            response = await self._service().handle(_text(params["request"]), ingress)
            if response is None:
                raise Unauthorized("this node manages nothing for that sender", reason="unauthorized")
        return response

    def _sender(self, text: str) -> str:
        if _KEY.fullmatch(text):
            return text
        try:
            return self._parse_key(text)
        except ValueError as error:
            raise InvalidParams(f"sender is no key: {error}", reason="invalid_params") from None


def _text(request: object) -> bytes | str:
    """The envelope as text: given as text, or as an object as lightning-cli and clnrest hand it over."""
    if isinstance(request, str):
        return request
    if not isinstance(request, dict):
        raise InvalidParams("request must be the envelope: a JSON object or its text", reason="malformed")
    try:
        return encode(request)
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidParams(f"request has no canonical form: {error}", reason="malformed") from None
