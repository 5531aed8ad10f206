"""The part of the kit that is hired on the market (docs/protocol/11-advisor-kit.md §7). Composed here, used
by `advisor.Advisor`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
from hive_shared.market.contract_machine import ContractState
from hive_shared.nostr.pow import mine
from hive_shared.row_by_row import RowByRow
from hive_shared.store import Db, Tx

from hive_advisor.config import AdvisorConfig
from hive_advisor.domain.cleaning import Own
from hive_advisor.domain.keyring import Keyring
from hive_advisor.services.adverts import AdvertService
from hive_advisor.services.contracts import ContractService
from hive_advisor.services.negotiating import NegotiationService
from hive_advisor.services.ports import ClientRows, RecordRows
from hive_advisor.services.publishing import EventRelays, PublishingService
from hive_advisor.services.signed_mail import SignedMail
from hive_advisor.storage.advert_store import AdvertStore
from hive_advisor.storage.engagement_store import EngagementStore


class MarketNeighbours(msgspec.Struct, frozen=True):
    """What the market reads of the rest of a profile."""

    clients: ClientRows
    records: RecordRows
    keyring: Keyring
    mail: SignedMail
    relays: EventRelays
    shared: Callable[[Tx], bool]


class Market:
    """Adverts, negotiations and contracts of a profile."""

    def __init__(
        self,
        db: Db,
        beside: MarketNeighbours,
        config: AdvisorConfig,
        *,
        halted: Callable[[], bool],
        now: Callable[[], int],
        new_id: Callable[[], str],
        alone: RowByRow,
    ) -> None:
        self.now, self._refreshing, self._alone = now, asyncio.Lock(), alone
        rows = EngagementStore()
        self.contracts = ContractService(
            db,
            rows,
            beside.clients,
            beside.records,
            beside.keyring,
            beside.mail,
            halted=halted,
            now=now,
            alone=alone,
        )
        self.negotiations = NegotiationService(
            db,
            rows,
            beside.clients,
            beside.records,
            beside.mail,
            self.contracts,
            auto=config.auto_hire,
            halted=halted,
            now=now,
            alone=alone,
        )
        adverts = AdvertStore()
        self.publishing = PublishingService(
            db,
            adverts,
            beside.keyring,
            beside.relays,
            mine,
            own=config.relays,
            bits=config.market.pow_bits,
            halted=halted,
            shared=beside.shared,
            now=now,
            alone=alone,
        )
        self.adverts = AdvertService(
            db,
            adverts,
            beside.records,
            beside.keyring,
            self.publishing,
            load=self.contracts.load,
            now=now,
            new_id=new_id,
        )

    async def tick(self) -> None:
        """What is done in every round."""
        await self._alone.steps(
            "market", ("negotiations", self.negotiations.tick), ("contracts", self.contracts.tick)
        )

    async def waiting(self) -> list[dict[str, str]]:
        """Negotiations whose turn is ours, and contracts that wait for our signature."""
        found: list[dict[str, str]] = []
        now = self.now()
        for thread, engagement in await self.negotiations.listed(100):
            if thread.ours_to_answer(now):
                found.append({"contract_id": Own(thread.contract_id), "waits_for": Own("your answer")})
            elif engagement is not None and engagement.state is ContractState.SIGNING:
                found.append({"contract_id": Own(thread.contract_id), "waits_for": Own("your signature")})
        return found

    async def refresh(self) -> None:
        """What takes long and is done beside the rounds, one after the other: events that relays have not
        taken, the profile signed again with its work."""
        if not self._refreshing.locked():
            async with self._refreshing:
                await self._alone.steps(
                    "adverts", ("events", self.publishing.tick), ("profile", self.adverts.tick)
                )
