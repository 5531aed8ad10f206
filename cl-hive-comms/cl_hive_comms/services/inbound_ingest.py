"""hive-comms-ingest: a message that a registered transport received
(docs/protocol/08-client-and-plugins.md §3.4, docs/protocol/02-fleet-management.md §6.4).

From here it takes the way of every other message: the pipeline with the same nonces, or the handler of its
schema. Who sent it is proven by the message's own signature, not by what the transport says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from hive_shared.canonical import encode
from hive_shared.errors import InvalidParams, NotFound, TransportUnavailable
from hive_shared.nostr.keys import parse_pubkey

from ..domain.sibling_routes import BUILT_IN
from .sibling_registry import SiblingRegistry

MAX_PAYLOAD_BYTES: Final = 65_535
MAX_MESSAGE_ID: Final = 256
_MAX_DID: Final = 200


class Inbox(Protocol):
    """Takes what came in (services.inbound_service)."""

    async def ingest(
        self, text: str, transport: str, sender: str, did: str | None, message_id: str
    ) -> None: ...


class IngestService:
    """Checks what a transport hands in. `keys_of` gives the keys of agents with a DID."""

    def __init__(
        self, registry: SiblingRegistry, inbox: Inbox, *, keys_of: Callable[[str], Sequence[str]]
    ) -> None:
        self._registry, self._inbox, self._keys_of = registry, inbox, keys_of

    async def ingest(self, transport: str, message_id: str, npub: str, did: str, payload: Any) -> None:
        """Take one message; when this returns it is kept until it was handled. A repeat changes nothing.

        Raises InvalidParams, TransportUnavailable (not registered, disabled), NotFound (no key is known for
        the DID), RateLimited, Busy.
        """
        row = self._registry.transport(transport)
        if transport in BUILT_IN:
            raise InvalidParams(
                f"{transport} is a transport of cl-hive-comms itself; nothing is handed in over it"
            )
        if row is None or not row.usable:
            state = "disabled" if row is not None and not row.enabled else "not registered"
            raise TransportUnavailable(
                f"transport {transport[:64]!a} is {state}; see hive-comms-register-transport"
            )
        if not 1 <= len(message_id) <= MAX_MESSAGE_ID or not message_id.isprintable():
            raise InvalidParams(f"message_id is not 1 to {MAX_MESSAGE_ID} printable characters")
        text = _text(payload)
        limit = min(MAX_PAYLOAD_BYTES, row.max_bytes)
        if len(text.encode("utf-8", "surrogatepass")) > limit:
            raise InvalidParams(f"payload has more than the {limit} bytes of {transport}", reason="too_large")
        sender = self._sender(npub, did)
        await self._inbox.ingest(text, transport, sender, did or None, message_id)

    def _sender(self, npub: str, did: str) -> str:
        if not npub and not did:
            raise InvalidParams("give sender_npub or sender_did: nothing comes from nobody")
        if len(did) > _MAX_DID or (did and not did.startswith("did:")):
            raise InvalidParams(f"sender_did {did[:80]!a} is no DID")
        try:
            key = parse_pubkey(npub) if npub else None
        except ValueError as error:
            raise InvalidParams(f"sender_npub: {error}") from None
        if not did:
            assert key is not None
            return key
        keys = [did.removeprefix("did:nostr:")] if did.startswith("did:nostr:") else self._keys_of(did)
        if key is not None:
            if did.startswith("did:nostr:") and key not in keys:
                raise InvalidParams("sender_npub and sender_did name two different keys")
            return key
        if did.startswith("did:nostr:"):
            return _checked(keys[0])
        if not keys:
            raise NotFound(f"no key is known for {did[:120]}; give sender_npub too")
        return keys[-1]


def _checked(key: str) -> str:
    try:
        return parse_pubkey(key)
    except ValueError as error:
        raise InvalidParams(f"sender_did: {error}") from None


def _text(payload: Any) -> str:
    if isinstance(payload, str):
        try:
            payload.encode()
        except UnicodeEncodeError:
            raise InvalidParams("payload holds half of a surrogate pair") from None
        return payload
    if not isinstance(payload, dict):
        raise InvalidParams("payload must be the message: a JSON object or its text")
    try:
        return encode(payload).decode()
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidParams(f"payload has no canonical form: {error}") from None
