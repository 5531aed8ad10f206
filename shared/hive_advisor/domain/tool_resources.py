"""Resources: addresses of what tools answer (docs/protocol/11-advisor-kit.md §11.2)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote

import msgspec
from hive_shared.errors import NotFound

_PART: Final = re.compile(r"\{([a-z]+)\}")
_MAX_URI: Final = 512


class Resource(msgspec.Struct, frozen=True):
    """``uri`` may hold one part in braces, which becomes the argument ``takes`` of ``tool``."""

    uri: str
    description: str
    tool: str
    takes: str = ""
    arguments: Mapping[str, Any] = msgspec.field(default_factory=dict)

    @property
    def name(self) -> str:
        """The address without its scheme and what varies."""
        return _PART.sub("", self.uri.removeprefix("hive://")).replace("//", "/")


OPERATOR: Final = (
    Resource("hive://fleet/status", "Whether each node answers and is well.", "fleet_health"),
    Resource("hive://fleet/pending-actions", "What waits for the operator, on every node.", "pending"),
    Resource("hive://fleet/summary", "Every node in a dozen numbers.", "fleet_snapshot"),
    Resource("hive://node/{name}/status", "Status of one node.", "hive_client_status", "node"),
    Resource("hive://node/{name}/channels", "Channels of one node.", "channels", "node"),
    Resource("hive://node/{name}/profitability", "Income of one node in 30 days.", "earnings", "node"),
)
ADVISOR: Final = (
    Resource("hive://advisor/status", "What a session needs to know first.", "adv_status"),
    Resource(
        "hive://client/{alias}/status", "One client: credential, limits, state.", "adv_client", "client"
    ),
    Resource(
        "hive://client/{alias}/channels",
        "Channels of a client's node, asked of it now.",
        "adv_read",
        "client",
        {"action": "hive:monitor/channel_list"},
    ),
    Resource("hive://client/{alias}/receipts", "Receipts of a client's node.", "adv_receipts", "client"),
)


def called(resources: Sequence[Resource], uri: str) -> tuple[str, dict[str, Any]]:
    """The tool behind an address and its arguments, which that tool checks. Raises NotFound."""
    for resource in resources:
        pattern = _PART.sub("([^/?#]+)", resource.uri)
        match = re.fullmatch(pattern, uri) if len(uri) <= _MAX_URI else None
        if match is not None:
            given = {resource.takes: unquote(match.group(1))} if resource.takes else {}
            return resource.tool, {**resource.arguments, **given}
    raise NotFound(f"there is no resource {uri[:80]!a}")
