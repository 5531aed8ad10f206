"""What sibling plugins call: hive-comms-send-dm (docs/protocol/08-client-and-plugins.md §3.4).

The runtime has checked the caller's `auth` before a handler runs.
"""

from collections.abc import Callable
from typing import Any

from hive_shared.canonical import JsonValue, decode, encode
from hive_shared.errors import HiveError, InvalidParams
from hive_shared.nostr.keys import parse_pubkey
from hive_shared.runtime_spec import MethodSpec, Param

from cl_hive_comms.services.messenger_signed import (
    MAX_MESSAGE_BYTES,
    MAX_TICKET_BYTES,
    TICKET_SCHEMA,
    SignedMessages,
    schema_inside,
)


class SiblingCommands:
    """Methods of class S."""

    def __init__(self, messages: Callable[[], SignedMessages]) -> None:
        self._messages = messages

    def specs(self) -> list[MethodSpec]:
        """The methods of this family."""
        return [
            MethodSpec(
                "hive-comms-send-dm",
                "S",
                (
                    Param("recipient", "str", default=""),
                    Param("message", "any"),
                    Param("schema", "str", default=""),
                    Param("idempotency_key", "str", default="", maximum=200),
                    Param("expires_at", "int", minimum=0),
                    Param("recipient_pubkey", "str", default=""),
                    Param("plaintext", "any"),
                ),
                self._send_dm,
                "Send a signed direct message for a sibling plugin.",
            )
        ]

    async def _send_dm(self, params: dict[str, Any]) -> dict[str, Any]:
        message = params["message"] if params["message"] is not None else params["plaintext"]
        if message is None:
            raise InvalidParams("message is missing")
        body = _body(message, params["schema"])
        sent = await self._messages().send(
            _key(params["recipient"] or params["recipient_pubkey"]),
            body,
            schema=params["schema"] or schema_inside(body),
            key=params["idempotency_key"],
            expires_at=params["expires_at"],
        )
        return {"event_id": sent.event_id, "state": sent.state}


def _key(text: str) -> str:
    try:
        return parse_pubkey(text)
    except ValueError as error:
        raise InvalidParams(f"recipient: {error}") from None


def _body(message: Any, schema: str) -> JsonValue:
    """The message as JSON if it is JSON, else as the text it is."""
    most = MAX_TICKET_BYTES if schema == TICKET_SCHEMA else MAX_MESSAGE_BYTES
    if isinstance(message, str):
        if len(message.encode()) > most:
            raise InvalidParams(f"message has more than {most} bytes", reason="too_large")
        try:
            return decode(message)
        except HiveError:
            return message
    try:
        size = len(encode(message))
    except (ValueError, TypeError) as error:
        raise InvalidParams(f"message has no canonical form: {error}") from None
    if size > most:
        raise InvalidParams(f"message has more than {most} bytes", reason="too_large")
    body: JsonValue = message
    return body
