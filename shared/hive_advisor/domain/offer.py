"""Checking a credential offer before anything believes it (docs/protocol/11-advisor-kit.md §4, §15.2)."""

from __future__ import annotations

from typing import Any

import msgspec
from hive_shared import credential as credentials
from hive_shared import registry
from hive_shared.canonical import encode
from hive_shared.credential import Credential
from hive_shared.crypto import cln_recover_message
from hive_shared.errors import HiveError, InvalidParams
from hive_shared.nostr.relay import normalise_relay_url

from hive_advisor.domain.route import OfferedRest, offered_rest

MAX_OFFER_BYTES = 16_384
_FIELDS = {"credential", "node", "binding", "relays", "rest", "contract_id", "trial_id", "max_skew_s"}
_NODE_FIELDS = {"node_key", "node_id", "network", "alias"}
_MAX_RELAYS = 3


class Offer(msgspec.Struct, frozen=True):
    """A checked offer: the credential, who signed it, and where that node listens."""

    credential: Credential
    document: dict[str, Any]
    node_key: str
    node_id: str
    network: str
    remote_name: str
    relays: tuple[str, ...]
    max_skew_s: int
    rest: OfferedRest | None = None
    contract_id: str = ""


def check_offer(
    params: dict[str, Any], *, seal_key: str, agent_key: str, own_relays: tuple[str, ...], now: int
) -> Offer:
    """Check everything §4 asks; of its relays, private addresses count only if they are ours too.

    Raises InvalidParams naming the first check that failed.
    """
    if len(encode(params)) > MAX_OFFER_BYTES:
        raise InvalidParams(f"the offer has more than {MAX_OFFER_BYTES} bytes")
    unknown = sorted(set(params) - _FIELDS)
    if unknown:
        raise InvalidParams(f"unknown field {unknown[0]!r} in the offer")
    node = params.get("node")
    if not isinstance(node, dict) or set(node) - _NODE_FIELDS:
        raise InvalidParams("the offer's node part is missing or has unknown fields")
    node_key, node_id, network = (str(node.get(key, "")) for key in ("node_key", "node_id", "network"))
    if node_key != seal_key:
        raise InvalidParams("the offer was sealed by another key than the node key it names")
    document = params.get("credential")
    try:
        credential = credentials.parse(document)
    except HiveError as error:
        raise InvalidParams(f"the credential is not well formed: {error.detail}") from error
    if credential.agent_key != agent_key:
        raise InvalidParams("the credential is for another agent key")
    if credential.node_id != node_id or credential.issuer_id != node_id:
        raise InvalidParams("the credential was not issued by the node that offers it")
    if not credentials.is_signed_by(credential, node_id):
        raise InvalidParams("the credential's signature is not the node's")
    text = f"hive-mkt/v1/bind:{node_key}:{node_id}"
    if cln_recover_message(text, str(params.get("binding", ""))) != node_id:
        raise InvalidParams("the binding between node key and node id is not signed by the node")
    if now >= credential.valid_until:
        raise InvalidParams("the credential has expired")
    return Offer(
        credential=credential,
        document=dict(document) if isinstance(document, dict) else {},
        node_key=node_key,
        node_id=node_id,
        network=network[:32],
        remote_name=str(node.get("alias", ""))[:64],
        relays=_relays(params.get("relays", []), own_relays),
        max_skew_s=_skew(params.get("max_skew_s", 300)),
        rest=offered_rest(params.get("rest")),
        contract_id=_contract(params.get("contract_id")),
    )


def _relays(value: object, own: tuple[str, ...]) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > _MAX_RELAYS:
        raise InvalidParams(f"the offer names more than {_MAX_RELAYS} relays")
    found = []
    for given in value:
        try:
            url = normalise_relay_url(str(given))
            found.append(url if url in own else normalise_relay_url(str(given), foreign=True))
        except ValueError:
            # An address we would never connect to is left out; the others still reach the node.
            continue
    return tuple(found)


def _contract(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or not registry.is_uuid(value):
        raise InvalidParams("the offer's contract_id is not a UUID")
    return value


def _skew(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 30 <= value <= 900:
        raise InvalidParams("max_skew_s is not between 30 and 900 seconds")
    return value
