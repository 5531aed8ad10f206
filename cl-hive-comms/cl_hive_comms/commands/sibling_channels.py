"""hive-comms-register-handler, -register-transport, -ingest, -subscribe, -unsubscribe, -publish-event
(docs/protocol/08-client-and-plugins.md §3.4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from hive_shared.runtime_spec import MethodSpec, Param

from ..services.event_publisher import EventPublisher
from ..services.inbound_ingest import MAX_PAYLOAD_BYTES, IngestService
from ..services.messenger import Messenger
from ..services.sibling_registry import SiblingRegistry
from ..services.sibling_subscriptions import SiblingSubscriptions


class Channels(Protocol):
    """The services behind these calls."""

    @property
    def registry(self) -> SiblingRegistry: ...
    @property
    def ingest(self) -> IngestService: ...
    @property
    def subscriptions(self) -> SiblingSubscriptions: ...
    @property
    def publisher(self) -> EventPublisher: ...
    @property
    def outbox(self) -> Messenger: ...


class SiblingChannelCommands:
    """How siblings take part in what comes in and goes out. The runtime has checked the caller's `auth`."""

    def __init__(self, services: Callable[[], Channels]) -> None:
        self._services = services

    def specs(self) -> list[MethodSpec]:
        """The methods of this family."""
        return [*self._registering(), *self._events()]

    def _registering(self) -> list[MethodSpec]:
        return [
            MethodSpec(
                "hive-comms-register-handler",
                "S",
                (Param("pattern", "str", required=True), Param("method", "str", required=True)),
                self._register_handler,
                "Have messages of a schema handed to a method of a sibling plugin.",
            ),
            MethodSpec(
                "hive-comms-register-transport",
                "S",
                (
                    Param("name", "str", required=True),
                    Param("send_method", "str", required=True),
                    Param("enabled", "bool", default=True),
                    Param("max_bytes", "int", default=MAX_PAYLOAD_BYTES, minimum=1_024, maximum=1_048_576),
                    Param("priority", "int", default=100, minimum=1, maximum=1_000),
                    Param("metadata_json", "json"),
                ),
                self._register_transport,
                "Make a way for commands and answers known that a sibling plugin serves.",
            ),
            MethodSpec(
                "hive-comms-ingest",
                "S",
                (
                    Param("transport", "str", required=True),
                    Param("message_id", "str", required=True),
                    Param("payload", "any", required=True),
                    Param("sender_npub", "str", default=""),
                    Param("sender_did", "str", default=""),
                ),
                self._ingest,
                "Hand in a message that came over a registered transport.",
            ),
        ]

    def _events(self) -> list[MethodSpec]:
        return [
            MethodSpec(
                "hive-comms-subscribe",
                "S",
                (Param("filters", "json", required=True), Param("method", "str", required=True)),
                self._subscribe,
                "Have events of the relays handed to a method of a sibling plugin.",
            ),
            MethodSpec(
                "hive-comms-unsubscribe",
                "S",
                (Param("sub_id", "str", required=True),),
                self._unsubscribe,
                "End a subscription of a sibling plugin.",
            ),
            MethodSpec(
                "hive-comms-publish-event",
                "S",
                (Param("event_json", "json", required=True),),
                self._publish,
                "Sign an event with the node's Nostr key and publish it.",
            ),
        ]

    async def _register_handler(self, params: dict[str, Any]) -> dict[str, Any]:
        handler = await self._services().registry.register_handler(params["pattern"], params["method"])
        return {"handler_id": handler.handler_id}

    async def _register_transport(self, params: dict[str, Any]) -> dict[str, Any]:
        metadata = {} if params["metadata_json"] is None else params["metadata_json"]
        row = await self._services().registry.register_transport(
            params["name"],
            params["send_method"],
            enabled=params["enabled"],
            max_bytes=params["max_bytes"],
            priority=params["priority"],
            metadata=metadata,
        )
        await self._services().outbox.retry_over(row.name)
        return {
            "name": row.name,
            "enabled": row.enabled,
            "max_bytes": row.max_bytes,
            "priority": row.priority,
        }

    async def _ingest(self, params: dict[str, Any]) -> dict[str, Any]:
        await self._services().ingest.ingest(
            params["transport"],
            params["message_id"],
            params["sender_npub"],
            params["sender_did"],
            params["payload"],
        )
        return {"result": "queued"}

    async def _subscribe(self, params: dict[str, Any]) -> dict[str, Any]:
        return {"sub_id": await self._services().subscriptions.subscribe(params["filters"], params["method"])}

    async def _unsubscribe(self, params: dict[str, Any]) -> dict[str, Any]:
        self._services().subscriptions.unsubscribe(params["sub_id"])
        return {"sub_id": params["sub_id"], "removed": True}

    async def _publish(self, params: dict[str, Any]) -> dict[str, Any]:
        published = await self._services().publisher.publish(params["event_json"])
        answer = {"id": published.id, "pubkey": published.pubkey, "state": published.state}
        return answer if published.warning is None else {**answer, "warning": published.warning}
