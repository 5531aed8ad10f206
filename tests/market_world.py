"""An operator's node that negotiates, over a real database, and an advisor made of shared modules alone."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from cl_hive_comms.domain.engagement import Engagement
from cl_hive_comms.services.engagement_reading import EngagementReading
from cl_hive_comms.services.engagement_service import EngagementService
from cl_hive_comms.services.market_mail import MarketMail
from cl_hive_comms.services.messenger_signed import SignedMessages
from cl_hive_comms.services.negotiation_service import NegotiationService, Whom
from cl_hive_comms.storage.contract_store import ContractStore
from hiring_world import NODE_ID, HiringWorld
from hive_shared import signed_message, vc
from hive_shared.crypto import Secret, xonly_pubkey
from hive_shared.market import contract as contracts
from hive_shared.market.messages import (
    Accept,
    ContractSign,
    ContractSigned,
    CounterOffer,
    Message,
    MessageError,
    body_of,
    decode_message,
    schema_of,
)
from hive_shared.signed_message import Draft
from market_terms import terms

ADVISOR = Secret(b"\x21" * 32)


class MarketWorld(HiringWorld):
    """`advisor` is the other side; what it says comes in by `hears`."""

    rehire_days = 30

    def __init__(self, path: Path) -> None:
        self.advisor = Advisor(ADVISOR)
        super().__init__(path)

    def build(self) -> None:
        super().build()
        self.rows = ContractStore()
        now = lambda: self.now  # noqa: E731
        random_bytes = lambda n: next(self.random).to_bytes(n, "big")  # noqa: E731
        self.letters = SignedMessages(
            self.db, self.facts, self.identity, self.messenger, now=now, random_bytes=random_bytes
        )
        self.mail = MarketMail(self.db, self.rows, self.letters, now=now, log=self._note)
        self.negotiations = NegotiationService(
            self.db,
            self.rows,
            self.mail,
            receipts=self.receipts,
            alerts=self.alerts,
            kill_switch=self.kill_switch,
            own_key=lambda: self.identity.pubkey,
            log=self._note,
            node_id=NODE_ID,
            rehire_days=lambda: self.rehire_days,
            now=now,
            random_bytes=random_bytes,
        )
        self.engagements = EngagementService(
            self.db,
            self.rows,
            self.mail,
            advisors=lambda: self.service,
            credentials=self.credentials,
            receipts=self.receipts,
            alerts=self.alerts,
            keys=self.identity,
            name_for=lambda name: name,
            now=now,
            random_bytes=random_bytes,
            log=self._note,
        )
        self.negotiations.agreed = self.engagements.sign
        self.engagements.changed = self.negotiations.load
        self.offers.contract_of = self.rows.of_credential
        self.reading = EngagementReading(self.db, self.rows)

    async def start(self) -> MarketWorld:
        await super().start()
        await self.negotiations.load()
        return self

    async def propose(self, wanted: dict[str, Any]) -> Engagement:
        """A proposal to the advisor, who reads it."""
        row = await self.negotiations.propose(self.advisor.whom, wanted)
        await self.advisor.reads(self, row.thread_id)
        return row

    async def agreed(self, **parts: Any) -> Engagement:
        """A proposal that the advisor accepted; the node has signed."""
        row = await self.propose(terms(**parts))
        await self.hears(self.advisor.says(self, row, self.advisor.accept(row)))
        return await self.row(row.contract_id)

    async def active(self, **parts: Any) -> Engagement:
        """A contract that both signed, with its credential."""
        row = await self.agreed(**parts)
        sign = await self.advisor.reads(self, row.thread_id)
        answer = self.advisor.signed(sign, terms(**parts), self.now)
        await self.hears(self.advisor.says(self, row, answer))
        await self.engagements.settle()
        return await self.row(row.contract_id)

    async def refused_as(self, row: Engagement) -> str:
        """What the advisor was told of its last message."""
        told = await self.advisor.reads(self, row.thread_id)
        assert isinstance(told, MessageError), told
        return told.code

    async def actions(self) -> list[str]:
        """The action of every receipt."""
        rows = await self.db.read(
            lambda tx: tx.execute("SELECT action FROM management_receipts ORDER BY receipt_id").fetchall()
        )
        return [row["action"] for row in rows]

    async def row(self, contract_id: str) -> Engagement:
        """The engagement as it is stored."""
        return await self.db.read(lambda tx: self.rows.get(tx, contract_id))

    async def hears(self, text: str) -> None:
        """A message of the advisor comes in. Raises as the handler does."""
        draft = signed_message.parse(text, self.advisor.pubkey, [self.identity.pubkey])
        assert isinstance(draft, Draft)
        await self.mail.take(draft, self.advisor.pubkey)

    async def letters_of(self, thread_id: str) -> list[Draft]:
        """What this node said in a conversation, as its recipient reads it."""
        found: list[Draft] = []

        while True:
            name = f"dm:{thread_id}:{len(found) + 1}"
            letter = await self.db.read(lambda tx, name=name: self.messenger.find(tx, name))
            if letter is None:
                return found
            read = signed_message.parse(letter[0].content, self.identity.pubkey, [self.advisor.pubkey])
            assert isinstance(read, Draft)
            found.append(read)

    async def credentials_of_advisor(self) -> list[str]:
        """Ids of every credential that the advisor ever got."""
        await self.credentials.load()
        rows = self.credentials.rows()
        return [row.credential_id for row in rows if row.agent_key == self.advisor.pubkey]


class Advisor:
    """Says what a test has it say; numbers its messages."""

    def __init__(self, secret: Secret) -> None:
        self.secret, self.pubkey = secret, xonly_pubkey(secret)
        self.whom = Whom(self.pubkey, vc.did_of(self.pubkey), "Hex Fleet Advisor")
        self.seq: dict[str, int] = {}
        self.heard: list[Message] = []

    async def reads(self, world: MarketWorld, thread_id: str) -> Message:
        """The newest message of the node."""
        letters = await world.letters_of(thread_id)
        self.heard = [decode_message(letter.schema, letter.body) for letter in letters]
        return self.heard[-1]

    def says(
        self, world: MarketWorld, row: Engagement, message: Message, *, seq: int | None = None, at: int = 0
    ) -> str:
        """The signed text of a message to the node."""
        number = seq or self.seq.get(row.thread_id, 0) + 1
        self.seq[row.thread_id] = max(number, self.seq.get(row.thread_id, 0))
        sent = at or world.now
        draft = Draft(
            schema_of(message),
            str(uuid.uuid4()),
            row.thread_id,
            number,
            sent,
            sent + 86_400,
            body_of(message),
        )
        return signed_message.sign(draft, self.secret, world.identity.pubkey)

    def counter(self, world: MarketWorld, row: Engagement, sats: int, **changes: Any) -> CounterOffer:
        """A counter offer on what stands in the node's row."""
        fields: dict[str, Any] = {
            "type": "HiveCounterOffer",
            "proposalId": row.contract_id,
            "round": row.thread.last.number + 1,
            "base_terms_hash": row.thread.last.terms_hash,
            "modifications": {"compensation.perActionSats": sats},
            "justification": "more work than you think",
            "expiresAt": world.now + 72 * 3_600,
        }
        return CounterOffer(**{**fields, **changes})

    def accept(self, row: Engagement) -> Accept:
        """An acceptance of the newest terms in the node's row."""
        return Accept(row.contract_id, row.thread.last.terms_hash)

    def signed(self, sign: Message, agreed: dict[str, Any], at: int) -> ContractSigned:
        """The answer to a contract that says what was agreed. Raises InvalidParams for another."""
        assert isinstance(sign, ContractSign)
        found = contracts.check_contract(sign.contract, agreed)
        contracts.check_proofs(sign.contract, found.operator_key)
        document = contracts.sign(sign.contract, self.secret, at)
        return ContractSigned(found.contract_id, contracts.contract_hash(document), document["proof"][1])
