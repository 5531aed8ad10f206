"""Negotiations and contracts on this node's adapters; part of the composition root."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from hive_shared.errors import FeatureDisabled, HiveError, NotFound
from hive_shared.market.messages import AREA, VERBS
from hive_shared.nostr.keys import npub_encode, parse_pubkey
from hive_shared.runtime import MethodSpec
from hive_shared.store import Db

from cl_hive_comms.commands.negotiations import NegotiationCommands
from cl_hive_comms.domain.market_match import Found
from cl_hive_comms.domain.terms_draft import drafted
from cl_hive_comms.options import Config
from cl_hive_comms.plugin.pipeline import unix_now
from cl_hive_comms.services.advisor_offers import AdvisorOffers
from cl_hive_comms.services.advisor_service import AdvisorService
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.services.alias_service import AliasService
from cl_hive_comms.services.credential_service import CredentialService
from cl_hive_comms.services.engagement_reading import EngagementReading
from cl_hive_comms.services.engagement_service import EngagementService
from cl_hive_comms.services.identity_service import IdentityService
from cl_hive_comms.services.inbound_signed import OwnHandler
from cl_hive_comms.services.kill_switch import KillSwitch
from cl_hive_comms.services.market_mail import MarketMail
from cl_hive_comms.services.messenger_signed import SignedMessages
from cl_hive_comms.services.negotiation_service import NegotiationService, Whom
from cl_hive_comms.services.ports_identity import Log
from cl_hive_comms.services.receipt_service import ReceiptService
from cl_hive_comms.storage.contract_store import ContractStore

if TYPE_CHECKING:
    from cl_hive_comms.plugin.parts import Parts


class EngagementParts(msgspec.Struct, frozen=True):
    """The services of engagements."""

    mail: MarketMail
    negotiations: NegotiationService
    contracts: EngagementService
    reading: EngagementReading

    def handlers(self) -> dict[str, OwnHandler]:
        """Who takes which message of an advisor."""
        return dict.fromkeys((f"hive:{AREA}/{verb}" for verb in VERBS), self.mail.take)


def compose_engagements(
    *,
    db: Db,
    letters: SignedMessages,
    identity: IdentityService,
    node_id: str,
    credentials: CredentialService,
    advisors: Callable[[], AdvisorService],
    aliases: AliasService,
    offers: AdvisorOffers,
    receipts: ReceiptService,
    alerts: AlertService,
    kill_switch: KillSwitch,
    config: Callable[[], Config],
    log: Log,
) -> EngagementParts:
    """All of them over the same tables; what both agreed to is signed at once."""
    rows = ContractStore()
    mail = MarketMail(db, rows, letters, now=unix_now, log=log)
    negotiations = NegotiationService(
        db,
        rows,
        mail,
        receipts=receipts,
        alerts=alerts,
        kill_switch=kill_switch,
        own_key=lambda: identity.pubkey,
        node_id=node_id,
        rehire_days=lambda: int(config().get("marketplace-rehire-days")),
        now=unix_now,
        random_bytes=os.urandom,
        log=log,
    )

    def name_for(name: str) -> str:
        try:
            return "" if aliases.find(name) is not None else aliases.usable(name)
        except HiveError:
            return ""

    contracts = EngagementService(
        db,
        rows,
        mail,
        advisors=advisors,
        credentials=credentials,
        receipts=receipts,
        alerts=alerts,
        keys=identity,
        name_for=name_for,
        now=unix_now,
        random_bytes=os.urandom,
        log=log,
    )
    negotiations.agreed = contracts.sign
    contracts.changed = negotiations.load
    mail.committed = contracts.wake
    offers.contract_of = rows.of_credential
    return EngagementParts(mail, negotiations, contracts, EngagementReading(db, rows))


def engagement_methods(parts: Parts) -> list[MethodSpec]:
    """The methods of the market for a client; they exist before the services do."""

    async def draft(params: Mapping[str, Any]) -> tuple[Whom, dict[str, Any]]:
        if not parts.config.get("marketplace-enabled"):
            raise FeatureDisabled("the market is off (hive-comms-marketplace-enabled=false)")
        found = await _advertised(parts, params["advisor"])
        # Of several offers the newest is what the advisor asks today.
        newest = max(found.offers, key=lambda one: one.created_at, default=None) if found else None
        terms = drafted(
            None if found is None else found.row.profile,
            None if newest is None else newest.offer,
            said=params["terms"] or {},
            scope=params["scope"] or {},
            tier=params["tier"] or "",
            pricing=params["pricing"] or {},
            methods=[str(name) for name in parts.config.get("payment-methods")],
        )
        return _whom(parts.aliases, params["advisor"], found), terms

    return NegotiationCommands(
        lambda: parts.engagements.negotiations,
        lambda: parts.engagements.contracts,
        lambda: parts.engagements.reading,
        draft,
        lambda: parts.node["node_id"],
        unix_now,
    ).specs()


async def _advertised(parts: Parts, text: str) -> Found | None:
    """What the market has of an advisor; None for one that is only known by its key or a local name."""
    try:
        return await parts.market.discovery.resolve(text)
    except (NotFound, FeatureDisabled):
        return None


def _whom(aliases: AliasService, text: str, found: Found | None) -> Whom:
    known = aliases.find(text if found is None else found.row.advisor_id)
    if known is not None and known.pubkey is not None:
        return Whom(known.pubkey, f"did:nostr:{known.pubkey}", aliases.name_of(known))
    if found is not None:
        return Whom(found.row.pubkey, found.row.advisor_id, found.row.profile.name)
    try:
        pubkey = parse_pubkey(text)
    except ValueError:
        aliases.resolve(text)
        raise NotFound(f"{text[:80]!a} has no Nostr key; give the advisor's npub") from None
    return Whom(pubkey, f"did:nostr:{pubkey}", npub_encode(pubkey)[:16])
