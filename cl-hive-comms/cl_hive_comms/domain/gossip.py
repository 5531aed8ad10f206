"""Management credentials and revocations as other nodes tell them (docs/protocol/02-fleet-management.md §2.5,
docs/protocol/01-reputation.md §7): strict reading and the checks that need nobody's state but the clock.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any, Final

import msgspec
from hive_shared import credential as credentials
from hive_shared.canonical import decode_object, encode
from hive_shared.credential import Credential
from hive_shared.crypto import cln_recover_message
from hive_shared.errors import CredentialInvalid, InvalidParams, Unauthorized, from_symbol
from hive_shared.registry import is_uuid

MAX_ROWS: Final = 1_000
"""Rows of issuers that are not trusted here, unseen credentials' revocations included."""
MAX_ROWS_PER_ISSUER: Final = 100
MAX_ROWS_TRUSTED: Final = 1_000
"""Of one trusted issuer: strangers must not take its place."""
UNSEEN_KEPT_S: Final = (730 + 2) * 86_400
"""How long a revocation of a credential nobody showed us is kept: none lives longer."""

REFUSALS: Final = (InvalidParams, Unauthorized, CredentialInvalid)
"""What a stranger's message can be refused for; anything else is a failure of ours."""

_EARLIEST: Final = 1_700_000_000
_AHEAD_S: Final = 86_400
_MAX_REASON: Final = 500
_NODE_ID: Final = re.compile(r"0[23][0-9a-f]{64}")
_EVENT_ID: Final = re.compile(r"[A-Za-z0-9-]{1,64}")


class Revocation(msgspec.Struct, frozen=True):
    """A credential's end, as its issuer signed it."""

    credential_id: str
    issuer_id: str
    reason: str

    @property
    def shown_reason(self) -> str:
        """The reason in one printable line: it is a stranger's text."""
        return " ".join("".join(c if c.isprintable() else " " for c in self.reason).split())


class GossipRow(msgspec.Struct, frozen=True):
    """One row of comms_gossip_credentials; `credential` is None when only its revocation was seen."""

    issuer_id: str
    credential_id: str
    credential: Credential | None
    first_seen_at: int
    keep_until: int
    revoked_at: int | None = None
    revocation_reason: str | None = None


def read_present(event: Mapping[str, Any]) -> Credential:
    """The credential of a MGMT_CREDENTIAL_PRESENT body. Raises InvalidParams."""
    body = _body(event, ("credential",))
    return credentials.parse(body["credential"])


def check_present(credential: Credential, *, node_id: str, trusted: Collection[str], now: int) -> None:
    """Issuer, times and signature. Raises CredentialInvalid, InvalidParams, Unauthorized.

    A node's credentials are its own to issue. Who else may issue for this node is the operator's word
    (`hive-comms-trusted-issuers`); of other nodes we do not know it.
    """
    if credential.issuer_id != credential.node_id:
        if credential.node_id != node_id:
            raise from_symbol("issuer_untrusted", "the issuer is not the node that the credential is for")
        if credential.issuer_id not in trusted:
            raise from_symbol("issuer_untrusted", "the issuer is not in hive-comms-trusted-issuers")
    if credential.valid_from <= _EARLIEST:
        raise _malformed(f"credential valid_from {credential.valid_from} lies before such credentials")
    if now >= credential.valid_until:
        raise from_symbol("credential_expired", f"the credential expired at {credential.valid_until}")
    if credential.valid_from > now + _AHEAD_S:
        raise from_symbol("credential_not_yet_valid", "the credential begins more than a day from now")
    if not credentials.is_signed_by(credential, credential.issuer_id):
        raise from_symbol("bad_signature", "the signature is not that of issuer_id")


def read_revoke(event: Mapping[str, Any]) -> Revocation:
    """A MGMT_CREDENTIAL_REVOKE body whose signature is its issuer's. Raises InvalidParams, Unauthorized."""
    names = ("credential_id", "issuer_id", "reason", "signature")
    body = _body(event, names)
    said = [value for name in names if isinstance(value := body[name], str)]
    if len(said) != len(names):
        raise _malformed(f"{', '.join(names)} must be strings")
    credential_id, issuer_id, reason, signature = said
    if not is_uuid(credential_id):
        raise _malformed("credential_id must be a lower-case UUID")
    if not _NODE_ID.fullmatch(issuer_id):
        raise _malformed("issuer_id must be a 66-hex node id")
    if not 1 <= len(reason) <= _MAX_REASON:
        raise _malformed(f"reason must have 1 to {_MAX_REASON} characters")
    if cln_recover_message(revocation_text(credential_id, reason), signature) != issuer_id:
        raise from_symbol("bad_signature", "the signature is not that of issuer_id")
    return Revocation(credential_id, issuer_id, reason)


def revocation_text(credential_id: str, reason: str) -> str:
    """What the issuer's node signs with `signmessage` to revoke (02 §2.5)."""
    return encode({"action": "mgmt_revoke", "credential_id": credential_id, "reason": reason}).decode()


def _body(event: Mapping[str, Any], wanted: tuple[str, ...]) -> dict[str, Any]:
    # The RPC's JSON is laxer than what may be signed: NaN, lone surrogates, any depth.
    body: dict[str, Any] = decode_object(json.dumps(event), floats=True)
    unknown = sorted(set(body) - {*wanted, "event_id"})
    missing = [name for name in wanted if name not in body]
    if unknown or missing:
        names = ", ".join(unknown or missing)[:200]
        raise _malformed(f"event has unknown fields: {names!a}" if unknown else f"event lacks {names}")
    event_id = body.get("event_id", "x")
    if not isinstance(event_id, str) or not _EVENT_ID.fullmatch(event_id):
        raise _malformed("event_id must be 1 to 64 letters, digits and -")
    return body


def _malformed(what: str) -> InvalidParams:
    return InvalidParams(what, reason="malformed")
