"""Bodies of MGMT_CREDENTIAL_PRESENT and _REVOKE as another node signs them (Protocol 01 §7)."""

from __future__ import annotations

import uuid
from typing import Any

from cl_hive_comms.domain.gossip import revocation_text
from hive_shared import credential as credentials
from hive_shared.credential import TEMPLATES
from hive_shared.crypto import Secret, cln_recover_message, cln_sign_message, xonly_pubkey


class Issuer:
    """A Lightning node with a key of the test's own."""

    def __init__(self, number: int) -> None:
        self.secret = Secret(number.to_bytes(32, "big"))
        node_id = cln_recover_message("x", cln_sign_message(self.secret, "x"))
        assert node_id is not None
        self.node_id = node_id

    def present(
        self,
        node_id: str,
        agent: str,
        at: int,
        *,
        days: int = 30,
        template: str = "fee_optimization",
        **more: Any,
    ) -> dict[str, Any]:
        """A credential for a node, issued by this one; `agent` is an x-only key."""
        bare = credentials.new(
            credential_id=more.pop("credential_id", None) or str(uuid.uuid4()),
            node_id=node_id,
            issuer_id=self.node_id,
            agent_key=agent,
            template=TEMPLATES[template],
            valid_from=at,
            valid_until=at + days * 86_400,
            **more,
        )
        zbase = cln_sign_message(self.secret, credentials.signing_text(bare))
        return {
            "event_id": str(uuid.uuid4()),
            "credential": credentials.to_doc(credentials.with_signature(bare, zbase)),
        }

    def revoke(self, credential_id: str, reason: str = "enough") -> dict[str, Any]:
        """The end of a credential in this issuer's word."""
        return {
            "event_id": str(uuid.uuid4()),
            "credential_id": credential_id,
            "issuer_id": self.node_id,
            "reason": reason,
            "signature": cln_sign_message(self.secret, revocation_text(credential_id, reason)),
        }


def agent_key(number: int) -> str:
    """An agent's x-only key."""
    return xonly_pubkey(Secret(number.to_bytes(32, "big")))
