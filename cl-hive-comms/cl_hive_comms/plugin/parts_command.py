"""Advisors, the command pipeline, and what tells about them.

Part of the composition root: concrete adapters are joined here, nothing is decided.
"""

import os
from functools import partial

from hive_shared.cashu.derive import EscrowKeys

from cl_hive_comms.domain.cashu_lock import LockRow
from cl_hive_comms.plugin.bearer import compose_bearer_pay
from cl_hive_comms.plugin.contracts import compose_contracts, compose_reports, compose_verdicts
from cl_hive_comms.plugin.engagements import compose_engagements
from cl_hive_comms.plugin.escrow import compose_escrow
from cl_hive_comms.plugin.health import compose_selfcheck, compose_spending
from cl_hive_comms.plugin.judges import Judging
from cl_hive_comms.plugin.locks import (
    LockTables,
    compose_lock_restore,
    compose_locks,
    compose_sibling_locks,
    lock_tables,
)
from cl_hive_comms.plugin.parts import Parts
from cl_hive_comms.plugin.payee import compose_received
from cl_hive_comms.plugin.payments import compose_limits, compose_payments, public_web
from cl_hive_comms.plugin.pipeline import pipeline_parts, unix_now
from cl_hive_comms.plugin.rest import compose_rest
from cl_hive_comms.plugin.setup import compose_setup
from cl_hive_comms.plugin.subscriptions import monthly_fees
from cl_hive_comms.plugin.ticket_work import compose_ticket_work
from cl_hive_comms.plugin.wallet import compose_wallet, levels_of
from cl_hive_comms.services.advisor_offers import AdvisorOffers
from cl_hive_comms.services.advisor_runes import AdvisorRunes
from cl_hive_comms.services.advisor_service import AdvisorService, Ports
from cl_hive_comms.services.command_pipeline import build_pipeline
from cl_hive_comms.services.command_push import CommandPush
from cl_hive_comms.services.ecash_requests import EcashRequests
from cl_hive_comms.services.gossip_credentials import GossipCredentials
from cl_hive_comms.services.handoff_service import HandoffService
from cl_hive_comms.services.lock_service import LockService
from cl_hive_comms.services.payer_book import PayerBook
from cl_hive_comms.services.status_sections import StatusSections
from cl_hive_comms.services.vc_verifier import VcVerifier
from cl_hive_comms.storage.advisor_store import AdvisorStore
from cl_hive_comms.storage.gossip_store import GossipStore
from cl_hive_comms.storage.payment_store import PaymentStore
from cl_hive_comms.storage.push_store import PushStore
from cl_hive_comms.storage.state_store import StateStore
from cl_hive_comms.storage.telemetry_store import TelemetryStore


class CommandParts(Parts):
    """Builders; `app` calls them in its order."""

    def _build_offers(self) -> None:
        """What advisors are told and given."""
        facts = StateStore()
        self.push = CommandPush(PushStore(self.at_rest.sealer), self.identity, self.messenger, unix_now)
        self.runes, self.rest_door = compose_rest(self.cln, lambda: self.config, self.log)
        self.offers = AdvisorOffers(
            self.db,
            facts,
            identity=self.identity,
            credentials=self.credentials,
            push=self.push,
            messenger=self.messenger,
            receipts=self.receipts,
            alerts=self.alerts,
            signer=self.cln,
            node=self.node,
            relays=lambda: self.config.relay_sets.inbox,
            max_skew_s=lambda: self.config.max_skew_s,
            now=unix_now,
        )
        self.identity.announce = self.offers.announce_rotation
        self.identity.on_change(self.identity_changed)
        self.advisor_runes = AdvisorRunes(
            self.db,
            facts,
            AdvisorStore(),
            self.runes,
            credentials=self.credentials,
            offers=self.offers,
            messenger=self.messenger,
            now=unix_now,
            log=self.log,
        )

    def build_advisors(self) -> None:
        self._build_offers()
        self.contracts = compose_contracts(
            db=self.db,
            cln=self.cln,
            node=self.node,
            credentials=self.credentials,
            aliases=self.aliases,
            receipts=self.receipts,
            alerts=self.alerts,
            offers=self.offers,
            advisors=lambda: self.advisors,
            log=self.log,
        )
        self.identity.import_guards += [self.contracts.none_live_in, self.credentials.not_known_in]
        ports = Ports(
            db=self.db,
            store=AdvisorStore(),
            credentials=self.credentials,
            aliases=self.aliases,
            offers=self.offers,
            trials=self.contracts,
            receipts=self.receipts,
            alerts=self.alerts,
            messenger=self.messenger,
            runes=self.advisor_runes,
            signer=self.cln,
            kill_switch=self.kill_switch,
            commands=lambda: self.pipeline.commands,
            telemetry=TelemetryStore(),
            node_id=self.node["node_id"],
            now=unix_now,
            random_bytes=os.urandom,
            log=self.log,
        )
        self.advisors = AdvisorService(ports)
        self.gossip = GossipCredentials(
            ports, self.advisors, GossipStore(), trusted=lambda: self.config.trusted_issuers
        )
        self.advisors.on_revoked = self.credentials_revoked
        self._build_handoffs()
        self._build_verifier()
        self._build_engagements()
        self.setup = compose_setup(
            db=self.db,
            cln=self.cln,
            network=self.info.network,
            config=lambda: self.config,
            policy=self.policy,
            advisors=self.advisors,
            aliases=self.aliases,
            receipts=self.receipts,
            alerts=self.alerts,
            selfcheck=lambda: self.selfcheck,
            log=self.log,
        )

    def _build_engagements(self) -> None:
        self.engagements = compose_engagements(
            db=self.db,
            letters=self.signed_messages,
            identity=self.identity,
            node_id=self.node["node_id"],
            credentials=self.credentials,
            advisors=lambda: self.advisors,
            aliases=self.aliases,
            offers=self.offers,
            receipts=self.receipts,
            alerts=self.alerts,
            kill_switch=self.kill_switch,
            config=lambda: self.config,
            log=self.log,
        )

    def _build_verifier(self) -> None:
        self.verifier = VcVerifier(
            self.db,
            AdvisorStore(),
            lambda: self.siblings,
            rows=self.credentials.rows,
            find=self.credentials.row,
            revoke=self.advisors.revoke_credential,
            now=unix_now,
            log=self.log,
        )

    def _build_handoffs(self) -> None:
        self.verdicts = compose_verdicts(
            db=self.db,
            credentials=self.credentials,
            receipts=self.receipts,
            identity=self.identity,
            publisher=lambda: self.for_siblings.publisher,
            private=lambda: bool(self.config.get("private-relationships")),
            log=self.log,
        )
        self.handoffs = HandoffService(
            self.db,
            StateStore(),
            credentials=self.credentials,
            receipts=self.receipts,
            alerts=self.alerts,
            revoke=self.advisors.revoke,
            name_of=self.advisors.name_of,
            now=unix_now,
            log=self.log,
        )

    def build_pipeline(self) -> None:
        """The command pipeline."""
        limits = compose_limits(self.db, self.at_rest, lambda: self.config, self.credentials, self.alerts)
        parts = pipeline_parts(
            db=self.db,
            cln=self.cln,
            at_rest=self.at_rest,
            node=self.node,
            config=lambda: self.config,
            identity=self.identity,
            credentials=self.credentials,
            advisors=self.advisors,
            backups=self.node_backups,
            verifier=self.verifier,
            policy=self.policy,
            kill_switch=self.kill_switch,
            alerts=self.alerts,
            messenger=self.messenger,
            receipts=self.receipts,
            push=self.push,
            offers=self.offers,
            trust=self.trust,
            handoffs=self.handoffs,
            payment_limits=limits,
            registered=lambda: [row.name for row in self.sibling_registry.usable()],
            on_receipt=self.receipt_written,
            log=self.log,
        )
        self.pipeline = build_pipeline(parts)
        self.payments = compose_payments(
            db=self.db,
            cln=self.cln,
            at_rest=self.at_rest,
            network=self.node["network"],
            node_id=self.node["node_id"],
            config=lambda: self.config,
            credentials=self.credentials,
            aliases=self.aliases,
            web=public_web(self.info),
            limits=limits,
            pipeline=self.pipeline,
            letters=self.signed_messages,
            push=self.push,
            kill_switch=self.kill_switch,
            alerts=self.alerts,
            log=self.log,
        )
        monthly_fees(self.engagements.contracts, self.credentials, self.payments.subscriptions)
        self._build_wallet()
        self.reports = compose_reports(
            db=self.db,
            cln=self.cln,
            node=self.node,
            credentials=self.credentials,
            identity=self.identity,
            kill_switch=self.kill_switch,
            told=self.pipeline.telemetry.something_to_tell,
            log=self.log,
        )

    def _build_wallet(self) -> None:
        self.wallet = self.locks = self.sibling_locks = self.lock_restore = self.escrow = None
        if self.ecash_keys is not None:
            tables = lock_tables(self.at_rest.sealer)
            self.wallet = compose_wallet(
                db=self.db,
                sealer=self.at_rest.sealer,
                keys=self.ecash_keys,
                mints=self.mints.book,
                cln=self.cln,
                payments=self.payments.pay,
                alerts=self.alerts,
                limits=self.payments.limits,
                levels=lambda: levels_of(self.config),
                stopped=self.kill_switch.engaged,
                locks=tables.books,
                access=self.pipeline.access,
                income=PaymentStore(self.at_rest.sealer),
                log=self.log,
            )
            self.locks = compose_locks(
                db=self.db,
                tables=tables,
                ecash=self.wallet,
                keys=self.ecash_keys,
                mints=self.mints.book,
                limits=self.payments.limits,
                alerts=self.alerts,
                config=lambda: self.config,
                stopped=self.kill_switch.engaged,
                tell=self.lock_changed,
                log=self.log,
            )
            self.lock_restore = compose_lock_restore(
                db=self.db,
                tables=tables,
                mints=self.mints.book,
                keys=self.ecash_keys,
                sealer=self.at_rest.sealer,
                config=lambda: self.config,
            )
            self.sibling_locks = compose_sibling_locks(
                db=self.db,
                tables=tables,
                locks=self.locks,
                mints=self.mints.book,
                keys=self.ecash_keys,
                nostr_key=self.identity.secret,
                sealer=self.at_rest.sealer,
            )
            self._build_escrow(tables, self.ecash_keys, self.locks)

    async def _tickets_in_short(self) -> dict[str, object]:
        if self.escrow is None:
            return {"state": "off", "reason": "this node has no key for ecash (hive-client-selfcheck)"}
        return await self.escrow.service.in_short()

    def _build_escrow(self, tables: LockTables, keys: EscrowKeys, locks: LockService) -> None:
        self.escrow = compose_escrow(
            db=self.db,
            sealer=self.at_rest.sealer,
            keys=keys,
            tables=tables,
            locks=locks,
            mints=self.mints.book,
            identity=self.identity,
            node_id=self.node["node_id"],
            messages=self.signed_messages,
            credentials=self.credentials,
            receipts=self.receipts,
            alerts=self.alerts,
            kill_switch=self.kill_switch,
            judging=Judging(
                self.cln,
                self.credentials,
                self.contracts,
                lambda: self.reports,
                self.kill_switch,
                lambda: self.config.get("escrow-verify-methods"),
                self.log,
            ),
            config=lambda: self.config,
            received=partial(
                compose_received,
                db=self.db,
                sealer=self.at_rest.sealer,
                keys=keys,
                tables=tables,
                locks=locks,
                mints=self.mints.book,
                identity=self.identity,
                alerts=self.alerts,
                advisor=self.aliases.find,
                kick=self._look_at_received,
                log=self.log,
            ),
            tell=self.lock_changed,
        )
        self.escrow.service.check_contract = self.engagements.reading.check_pay
        self._let_payers_in(keys, self.escrow.received.payers)
        self.pipeline.rewards.tickets = compose_ticket_work(
            self.db, self.at_rest.sealer, self.escrow, self.credentials, self.node["node_id"]
        )
        compose_bearer_pay(
            db=self.db,
            sealer=self.at_rest.sealer,
            keys=keys,
            tables=tables,
            locks=locks,
            mints=self.mints.book,
            escrow=self.escrow,
            payments=self.payments,
            pipeline=self.pipeline,
            push=self.push,
            alerts=self.alerts,
            config=lambda: self.config,
        )

    def _let_payers_in(self, keys: EscrowKeys, payers: PayerBook) -> None:
        """Whoever pays this node by tickets or ecash is known by what it was told."""
        self.credentials.also_known(lambda: self.policy.approver_keys() | payers.known)
        assert self.wallet is not None
        self.payments.requests.ecash = EcashRequests(
            self.db,
            PaymentStore(self.at_rest.sealer),
            self.wallet.service,
            keys,
            self.identity,
            payers,
            mints=self.mints.book.accepted,
            most_sat=lambda: levels_of(self.config).most,
            now=unix_now,
        )

    def _look_at_received(self) -> None:
        if self.escrow is not None:
            self.app.spawn("tickets-received", self.escrow.received.tick)

    def lock_changed(self, row: LockRow) -> None:
        """Tell the node's other plugins."""
        payload = {"lock_id": row.lock_id, "state": row.state.value, "preimage_available": bool(row.preimage)}
        self.app.notify("hive_comms_escrow", payload)

    def build_status(self) -> None:
        spending = compose_spending(self.db, self.policy)
        self.sections = StatusSections(
            config=lambda: self.config,
            node=self.node,
            identity=self.identity,
            credentials=self.credentials,
            aliases=self.aliases,
            messenger=self.messenger,
            nostr=self.nostr.status,
            inbound=lambda: dict(self.inbound.counters + self.part_resend.counters),
            rest=self.rest_door.status,
            rune_warnings=self.advisor_runes.warnings,
            registered=self.for_siblings.transport_rows,
            siblings=self.siblings,
            policy=self.policy,
            pending=self.pipeline.approvals.pending,
            emergency=self.emergency.overview,
            alerts=self.alerts,
            tallies=self.contracts.tallies,
            trials=self.contracts.trials,
            handoff_of=self.handoffs.of,
            telemetry_of=self.pipeline.telemetry.of,
            spending=spending,
            paid=self.payments.budget.in_short,
            tickets=self._tickets_in_short,
            now=unix_now,
        )
        self.sections.register(self.status)
        self.selfcheck = compose_selfcheck(
            db=self.db,
            db_path=self.db_path,
            kept=self.info.net_dir / "hive",
            cln=self.cln,
            config=lambda: self.config,
            identity=self.identity,
            credentials=self.credentials,
            policy=self.policy,
            receipts=self.receipts,
            alerts=self.alerts,
            messenger=self.messenger,
            nostr=self.nostr,
            runes=self.runes,
            advisor_runes=self.advisor_runes,
            siblings=self.siblings,
            kill_switch=self.kill_switch,
            emergency=self.emergency,
            spending=spending,
            payments=self.payments.history,
            mints=self.mints.book,
            ecash=lambda: None if self.wallet is None else self.wallet.service,
            republish=self.republish,
            log=self.log,
        )
