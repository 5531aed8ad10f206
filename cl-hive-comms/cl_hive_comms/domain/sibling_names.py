"""What sibling plugins may name: RPC methods, message schemas, receipts, DIDs
(docs/protocol/08-client-and-plugins.md §3.4, docs/protocol/00-index.md §5).
"""

from __future__ import annotations

import re
from typing import Final, Literal

from hive_shared.errors import InvalidParams, Unauthorized
from hive_shared.registry import SCHEMAS

Owner = Literal["archon", "hive"]

AREAS: Final[dict[str, Owner]] = {"gossip": "hive", "provision": "hive", "archon": "archon"}
"""Areas of message schemas (`hive:<area>/..`) that a sibling handles, and which one it is."""
_METHOD: Final = re.compile(r"hive-[a-z0-9]+(?:-[a-z0-9]+)*")
_OF_ARCHON: Final = ("hive-archon-", "hive-did-")
_OF_COMMS: Final = (
    "hive-comms-",
    "hive-client-",
    "hive-marketplace-",
    "hive-schema-",
    "hive-mgmt-credential-",
)
_SCHEMA: Final = re.compile(r"hive:([a-z][a-z0-9-]{0,30})/([a-z][a-z0-9_-]{0,60})(?:/v[1-9][0-9]{0,2})?")
_PATTERN: Final = re.compile(
    r"hive:([a-z][a-z0-9-]{0,30})/(?:\*|[a-z][a-z0-9_-]{0,60}(?:/v[1-9][0-9]{0,2})?)"
)
_MANAGED: Final = frozenset(name.removeprefix("hive:").partition("/")[0] for name in SCHEMAS)
# Their messages are parts of the transport and of the pipeline; nobody else speaks or hears them.
_INTERNAL: Final = frozenset({"chunk", "chunk-resend", "identity", "operator"})


def owner_of(method: str) -> Owner:
    """The sibling that serves a method, by its prefix. Raises InvalidParams when none of them does."""
    if not _METHOD.fullmatch(method) or len(method) > 64 or method.startswith(_OF_COMMS):
        raise InvalidParams(
            f"method {method[:64]!a} is not one of cl-hive or cl-hive-archon; it looks like"
            " hive-inject-packet or hive-archon-inbound"
        )
    return "archon" if method.startswith(_OF_ARCHON) else "hive"


def check_pattern(pattern: str, owner: Owner) -> None:
    """Whether a sibling may claim these schemas. Raises InvalidParams, or Unauthorized when not this one."""
    match = _PATTERN.fullmatch(pattern)
    if match is None:
        raise InvalidParams(
            f"pattern {pattern[:80]!a} is neither a schema like hive:gossip/hello nor a wildcard like"
            " hive:gossip/*"
        )
    if AREAS.get(match[1]) != owner:
        mine = ", ".join(f"hive:{area}/*" for area, whose in AREAS.items() if whose == owner)
        raise Unauthorized(f"{pattern} cannot be claimed by this plugin; it may claim {mine}")


def area_to_send(schema: str) -> str:
    """The area of a schema that a sibling may send. Raises InvalidParams for any other text."""
    match = _SCHEMA.fullmatch(schema)
    # `hive:liquidity/v1` is a command, `hive:liquidity/quote` a message.
    if (
        match is None
        or schema in SCHEMAS
        or match[1] in _INTERNAL
        or (match[1] in _MANAGED and match[1] != "liquidity")
    ):
        raise InvalidParams(
            f"schema {schema[:80]!a} is not one a sibling may send; it looks like hive:gossip/hello"
        )
    return match[1]


def check_receipt_schema(schema: str) -> None:
    """Whether a sibling may write receipts of this schema: never what proves a command of an advisor or an
    act of the operator. Raises InvalidParams."""
    match = _SCHEMA.fullmatch(schema)
    if match is None or match[1] in _INTERNAL or match[1] in _MANAGED:
        raise InvalidParams(
            f"schema {schema[:80]!a} is not one a sibling may write receipts of; it looks like"
            " hive:settlement/v1"
        )
