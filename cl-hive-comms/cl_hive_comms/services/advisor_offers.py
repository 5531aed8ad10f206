"""How an agent learns of its credential, and of a changed node key.

`credential_offer` and `credential_revoked`: docs/protocol/11-advisor-kit.md §15.2. The notice of a key
change: docs/decisions/0081-notice-of-a-key-change.md.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hive_shared import credential as credentials
from hive_shared.canonical import encode
from hive_shared.crypto import Secret, schnorr_sign, sha256, tagged
from hive_shared.signed_message import Draft, sign
from hive_shared.store import Db, Tx

from cl_hive_comms.domain.advisor import CredentialRow
from cl_hive_comms.domain.identity import KeyRecord
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.services.command_push import CommandPush
from cl_hive_comms.services.credential_service import CredentialService
from cl_hive_comms.services.identity_service import IdentityService
from cl_hive_comms.services.messenger import Messenger
from cl_hive_comms.services.ports_advisors import MessageSigner
from cl_hive_comms.services.ports_identity import Clock, FactStore
from cl_hive_comms.services.receipt_service import ReceiptService, operator_event

OFFER_TTL_S = 86_400
"""Delivery is tried for 24 h (docs/protocol/08 §7 Authorize)."""
REVOKED_TTL_S = 7 * 86_400
NOTICE_SCHEMA = "hive:identity/rotated"
_REISSUE = "reissue_offers"


class AdvisorOffers:
    """Builds and enqueues what advisors are told about credentials and about our key."""

    def __init__(
        self,
        db: Db,
        facts: FactStore,
        *,
        identity: IdentityService,
        credentials: CredentialService,
        push: CommandPush,
        messenger: Messenger,
        receipts: ReceiptService,
        alerts: AlertService,
        signer: MessageSigner,
        node: Mapping[str, str],
        relays: Callable[[], Sequence[str]],
        max_skew_s: Callable[[], int],
        now: Clock,
    ) -> None:
        self._db, self._facts, self._identity, self._credentials = db, facts, identity, credentials
        self._push, self._messenger = push, messenger
        self._receipts, self._alerts = receipts, alerts
        self._signer, self._node = signer, node
        self._relays, self._max_skew_s, self._now = relays, max_skew_s, now
        self._bindings: dict[str, str] = {}
        self.trial_of: Callable[[Tx, str], str | None] = lambda tx, credential_id: None
        """Set by the composition root: the trial that a credential was issued for, by id."""
        self.contract_of: Callable[[Tx, str], str | None] = lambda tx, credential_id: None
        """Set by the composition root: the contract that a credential was issued for, by id."""

    @property
    def node_key(self) -> str:
        """The node's own Nostr key, x-only hex."""
        return self._identity.pubkey

    async def prepare(self) -> str:
        """The node key's statement that our Nostr key is ours; ask before the transaction of an offer."""
        pubkey = self._identity.pubkey
        if pubkey not in self._bindings:
            text = f"hive-mkt/v1/bind:{pubkey}:{self._node['node_id']}"
            self._bindings[pubkey] = await self._signer.signmessage(text)
        return self._bindings[pubkey]

    def offer(self, tx: Tx, row: CredentialRow, binding: str, rest: Mapping[str, Any] | None) -> None:
        """Enqueues the credential for its agent, inside the caller's transaction."""
        payload: dict[str, Any] = {
            "credential": credentials.to_doc(row.credential),
            "node": {
                "node_key": self._identity.pubkey,
                "node_id": self._node["node_id"],
                "network": self._node["network"],
            },
            "binding": binding,
            "relays": list(self._relays())[:3],
            "max_skew_s": self._max_skew_s(),
        }
        if self._node.get("alias"):
            payload["node"]["alias"] = self._node["alias"]
        if (trial_id := self.trial_of(tx, row.credential_id)) is not None:
            payload["trial_id"] = trial_id
        if (contract_id := self.contract_of(tx, row.credential_id)) is not None:
            payload["contract_id"] = contract_id
        if rest is not None:
            payload["rest"] = dict(rest)
        self._push.push(tx, row.agent_key, "credential_offer", payload, ttl=OFFER_TTL_S)

    def revoked(self, tx: Tx, row: CredentialRow, reason: str) -> None:
        """Enqueues the news of a revocation."""
        payload = {"credential_id": row.credential_id, "reason": reason}
        self._push.push(tx, row.agent_key, "credential_revoked", payload, ttl=REVOKED_TTL_S)

    async def credential_ack(self, credential_id: str, sender_key: str, accepted: bool) -> bool:
        """Note whether the agent took its credential; False for one that is not this agent's."""
        row = await self._credentials.current(credential_id)
        if row is None or row.agent_key != sender_key:
            return False
        if accepted:
            await self._db.write(lambda tx: self._credentials.acknowledge(tx, credential_id))
            await self._credentials.load()
        else:
            text = f"the advisor declined credential {credential_id}"
            self._alerts.raise_alert(None, "notice", "credential_declined", text)
        return True

    async def resend_credential(self, credential_id: str) -> None:
        """Send the credential offer again, for an agent that lost it; the rune is not repeated."""
        row = await self._credentials.current(credential_id)
        if row is None or not row.live(self._now()):
            return
        binding = await self.prepare()
        await self._db.write(lambda tx: self.offer(tx, row, binding, None))
        self._messenger.kick()

    # -- a new node key ------------------------------------------------------------------------------

    async def announce_rotation(self, old: KeyRecord, new: KeyRecord, secret: Secret) -> Callable[[Tx], None]:
        """What the transaction of a rotation also stores: a notice per advisor, signed by both keys, a
        receipt, and the wish to offer all credentials again under the new key."""
        now = self._now()
        body = {
            "node_id": self._node["node_id"],
            "old_key": old.pubkey,
            "new_key": new.pubkey,
            "at": now,
        }
        body["new_sig"] = schnorr_sign(secret, tagged("hive-key-change:v1:", encode(body)))
        keys = self._credentials.live_keys()

        def also(tx: Tx) -> None:
            for key in keys:
                self._messenger.enqueue(
                    tx,
                    recipient=key,
                    content=self._notice(body, key, now),
                    kind="message",
                    idempotency_key=f"rotated:{new.pubkey}:{key}",
                    expires_at=now + REVOKED_TTL_S,
                    sender=old.pubkey,
                )
            self._facts.put(tx, _REISSUE, new.pubkey, now)
            self._receipts.append(
                tx, operator_event("rotate_key", params={"old_key": old.pubkey, "new_key": new.pubkey})
            )

        return also

    async def reissue(self) -> int:
        """Offers every live credential again after a rotation; run at start too, in case it was cut short."""
        if await self._db.read(lambda tx: self._facts.get(tx, _REISSUE)) is None:
            return 0
        binding = await self.prepare()
        rows = self._credentials.live_rows()

        def body(tx: Tx) -> None:
            for row in rows:
                self.offer(tx, row, binding, None)
            self._facts.delete(tx, _REISSUE)

        await self._db.write(body)
        self._messenger.kick()
        return len(rows)

    def _notice(self, body: Mapping[str, Any], recipient: str, now: int) -> str:
        # The signed message of docs/protocol/04 §6, under the key that is being replaced.
        # Its id follows from both keys, so that a repeat is the same message.
        unique = sha256(f"{body['new_key']}:{recipient}".encode())[:16]
        draft = Draft(
            schema=NOTICE_SCHEMA,
            msg_id=str(uuid.UUID(bytes=unique, version=4)),
            thread_id="identity",
            seq=now,
            sent_at=now,
            expires_at=now + REVOKED_TTL_S,
            body=dict(body),
        )
        return sign(draft, self._identity.secret(), recipient)
