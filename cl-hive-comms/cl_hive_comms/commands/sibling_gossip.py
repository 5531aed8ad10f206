"""hive-comms-mgmt-credential-ingest (docs/protocol/02-fleet-management.md §11, 08 §3.4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hive_shared.errors import InvalidParams
from hive_shared.runtime_spec import MethodSpec, Param

from ..services.gossip_credentials import PRESENT, REVOKE, GossipCredentials


class SiblingGossipCommands:
    """What cl-hive hears about management credentials. The runtime has checked the caller's `auth`."""

    def __init__(self, service: Callable[[], GossipCredentials]) -> None:
        self._service = service

    def specs(self) -> list[MethodSpec]:
        """The method of this family."""
        return [
            MethodSpec(
                "hive-comms-mgmt-credential-ingest",
                "S",
                (
                    Param("event", "json", required=True),
                    Param("kind", "str", required=True, choices=(PRESENT, REVOKE)),
                ),
                self._ingest,
                "Take a management credential, or its revocation, that came by gossip.",
            )
        ]

    async def _ingest(self, params: dict[str, Any]) -> dict[str, Any]:
        event = params["event"]
        if not isinstance(event, dict):
            raise InvalidParams("event must be the body of the message, a JSON object")
        return (await self._service().ingest(params["kind"], event)).to_doc()
