"""An operator who hires the kit by messages, in one process and without a relay
(docs/protocol/04-marketplace-and-nostr.md §9, §10). It reads what the kit put for sending from its outbox.
"""

from __future__ import annotations

import secrets
import uuid
from pathlib import Path
from typing import Any

from hive_advisor.advisor import Advisor
from hive_shared import credential as credentials
from hive_shared import signed_message, vc
from hive_shared.credential_scope import Template
from hive_shared.crypto import cln_sign_message
from hive_shared.market import contract as contracts
from hive_shared.market import messages
from hive_shared.market import terms as term_rules
from hive_shared.nostr.giftwrap import Message as Mail
from hive_shared.registry import Tier
from hive_shared.signed_message import Draft
from kit_world import KitWorld
from market_terms import terms

DAY = 86_400


class Operator:
    """One negotiation, from the client's side. `node` is a ScriptedNode."""

    def __init__(self, world: KitWorld, **parts: Any) -> None:
        self.world, self.node = world, world.node
        self.thread_id, self.contract_id = str(uuid.uuid4()), str(uuid.uuid4())
        self.terms: dict[str, Any] = terms(**parts)
        self.seq = 0
        self.contract: dict[str, Any] = {}
        self.sent: list[tuple[str, str]] = []

    @property
    def hash(self) -> str:
        return term_rules.terms_hash(self.terms)

    def signed(self, kit: Advisor, message: messages.Message, **changes: Any) -> tuple[str, str]:
        """(message id, text) of the next message; `changes` replace parts of it."""
        self.seq += 1
        now = self.world.now()
        given: dict[str, Any] = {
            "schema": messages.schema_of(message),
            "msg_id": str(uuid.uuid4()),
            "thread_id": self.thread_id,
            "seq": self.seq,
            "sent_at": now,
            "expires_at": now + DAY,
            "body": messages.body_of(message),
            **changes,
        }
        self.seq = given["seq"]
        return given["msg_id"], signed_message.sign(Draft(**given), self.node.secret, kit.pubkey)

    async def carry(self, kit: Advisor, text: str) -> None:
        """A relay brings it, in a wrap of its own."""
        rumor = secrets.token_hex(32)
        await kit._mail.receive(Mail(self.node.key, rumor, text, self.world.now(), (), ""), kit.pubkey)

    async def say(self, kit: Advisor, message: messages.Message, **changes: Any) -> str:
        """Sign and send; the message's id."""
        msg_id, text = self.signed(kit, message, **changes)
        self.sent.append((msg_id, text))
        await self.carry(kit, text)
        return msg_id

    def proposal(self, kit: Advisor, **changes: Any) -> messages.ContractProposal:
        return messages.ContractProposal(
            **{
                "type": "HiveContractProposal",
                "proposalId": self.contract_id,
                "terms": self.terms,
                "expiresAt": self.world.now() + 7 * DAY,
                "sender": vc.did_of(self.node.key),
                "recipient": vc.did_of(kit.pubkey),
                **changes,
            }
        )

    def counter(self, number: int, **changes: Any) -> messages.CounterOffer:
        """Another offer on what stands; the terms become those."""
        base = self.hash
        self.terms = term_rules.modified(self.terms, changes)
        return messages.CounterOffer(
            type="HiveCounterOffer",
            proposalId=self.contract_id,
            round=number,
            base_terms_hash=base,
            modifications=changes,
            justification="",
            expiresAt=self.world.now() + 3 * DAY,
        )

    def accept(self) -> messages.Accept:
        return messages.Accept(self.contract_id, self.hash)

    def sign(self, kit: Advisor, **changes: Any) -> messages.ContractSign:
        """The contract of the agreed terms, signed by the operator; made once."""
        if not self.contract:
            made = contracts.Contract(
                **{
                    "contract_id": self.contract_id,
                    "operator_key": self.node.key,
                    "advisor_key": kit.pubkey,
                    "credential_ref": str(uuid.uuid4()),
                    "salt": secrets.token_hex(32),
                    "node_ids": (self.node.node_id,),
                    "valid_from": self.world.now(),
                    **changes,
                }
            )
            document = contracts.build(made, self.terms)
            self.contract = contracts.sign(document, self.node.secret, self.world.now())
        return messages.ContractSign(self.contract_id, self.hash, self.contract)

    @property
    def credential_ref(self) -> str:
        return str(self.contract["credentialSubject"]["managementCredentialRef"])

    async def authorise(self, kit: Advisor, **changes: Any) -> str:
        """Offer the credential of the contract; `changes` widen or narrow it."""
        scope = self.terms["scope"]
        tier = Tier.parse(changes.get("tier", scope["permissionTier"]))
        schemas = tuple(changes.get("schemas", scope["schemas"]))
        given = changes.get("constraints", scope["constraints"])
        now = self.world.now()
        made = credentials.new(
            template=Template("contract", (), tier, schemas, given),
            credential_id=changes.get("credential_id", self.credential_ref),
            node_id=self.node.node_id,
            agent_key=kit.pubkey,
            valid_from=now,
            valid_until=now + 30 * DAY,
        )
        text = cln_sign_message(self.node.hsm, credentials.signing_text(made))
        document = dict(credentials.to_doc(credentials.with_signature(made, text)))
        contract_id = changes.get("contract_id", self.contract_id)
        offer = self.node.offer(kit.pubkey, credential=document, contract_id=contract_id)
        await self.world.push(kit, offer)
        return made.credential_id

    async def heard(self, kit: Advisor) -> list[tuple[int, messages.Message]]:
        """(number, message) of everything the kit put for us in this thread, each signed for us."""
        asked = "SELECT content FROM adv_outbox WHERE client_id = ? AND area = ? ORDER BY seq"
        rows = await kit._db.read(
            lambda tx: [row["content"] for row in tx.execute(asked, (self.node.key, self.thread_id))]
        )
        found = []
        for text in rows:
            draft = signed_message.parse(text, kit.pubkey, (self.node.key,))
            assert isinstance(draft, Draft)
            found.append((draft.seq, messages.decode_message(draft.schema, draft.body)))
        return found

    async def told(self, kit: Advisor) -> list[str]:
        """Codes of the errors the kit put for us."""
        asked = "SELECT content FROM adv_outbox WHERE client_id = ? AND name LIKE 'error:%' ORDER BY seq"
        names = (self.node.key,)
        rows = await kit._db.read(lambda tx: [row["content"] for row in tx.execute(asked, names)])
        drafts = [signed_message.parse(text, kit.pubkey, (self.node.key,)) for text in rows]
        return [each.body["code"] for each in drafts if isinstance(each, Draft)]


def hire_world(directory: Path, **settings: Any) -> KitWorld:
    """A profile and a node that know nothing of each other."""
    world = KitWorld(directory)
    world.settings = settings
    return world
