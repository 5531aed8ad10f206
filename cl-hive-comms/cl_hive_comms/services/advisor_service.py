"""Hiring and dismissing advisors by the operator's own hand.

docs/protocol/08-client-and-plugins.md §7 "Authorize", §6 "Revoke"; docs/protocol/02-fleet-management.md §2.
Order of a hire: everything that may be refused is checked, the node signs, then one transaction stores
advisor, credential, offer and receipt. Order of a dismissal: the database first, because that blocks at
once; the rune and the message follow and are retried.
"""

import asyncio
import uuid
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import msgspec
from hive_shared import credential as credentials
from hive_shared.credential_scope import Template, out_of_reach
from hive_shared.errors import (
    Capacity,
    ConfirmationRequired,
    Conflict,
    InvalidParams,
    NotFound,
    SiblingUnavailable,
)
from hive_shared.nostr.keys import parse_pubkey
from hive_shared.store import Db, Tx
from msgspec.structs import replace

from cl_hive_comms.domain.advisor import DAY_S, MAX_LIVE_CREDENTIALS, Advisor, CredentialRow, days_left
from cl_hive_comms.domain.trial import scope_of, trial_template
from cl_hive_comms.services.advisor_offers import AdvisorOffers
from cl_hive_comms.services.advisor_requests import Dismissed, Hire, Hired
from cl_hive_comms.services.advisor_runes import AdvisorRunes, Rune
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.services.alias_service import AliasService
from cl_hive_comms.services.contract_service import ContractService, Opening
from cl_hive_comms.services.credential_service import CredentialService
from cl_hive_comms.services.kill_switch import KillSwitch
from cl_hive_comms.services.messenger import Messenger
from cl_hive_comms.services.ports_advisors import (
    AdvisorRows,
    CommandsOfAdvisor,
    MessageSigner,
    TelemetryOfCredential,
)
from cl_hive_comms.services.ports_identity import Clock, Log, RandomBytes
from cl_hive_comms.services.receipt_service import ReceiptService, operator_event


class Ports(msgspec.Struct, frozen=True):
    """The collaborators of AdvisorService, bundled because there are many."""

    db: Db
    store: AdvisorRows
    credentials: CredentialService
    aliases: AliasService
    offers: AdvisorOffers
    trials: ContractService
    receipts: ReceiptService
    alerts: AlertService
    messenger: Messenger
    runes: AdvisorRunes
    signer: MessageSigner
    kill_switch: KillSwitch
    commands: Callable[[], CommandsOfAdvisor]
    telemetry: TelemetryOfCredential
    node_id: str
    now: Clock
    random_bytes: RandomBytes
    log: Log


class _Draft(msgspec.Struct, frozen=True):
    """A hire that is ready to be stored."""

    row: CredentialRow
    advisor: Advisor
    is_new: bool
    new_name: str
    binding: str
    rune: Rune | None
    rune_owed: bool
    opening: Opening | None

    @property
    def rest(self) -> dict[str, Any] | None:
        """The `rest` part of the offer."""
        return None if self.rune is None else dict(self.rune[1])


class AdvisorService:
    """Authorises and revokes; one change at a time."""

    def __init__(self, ports: Ports) -> None:
        self._p = ports
        self.changing = asyncio.Lock()
        """Held by whoever reads who works here and then changes it."""
        self.on_revoked: Callable[[Sequence[CredentialRow]], None] = lambda rows: None
        """Set by the composition root: tells the node's other plugins."""

    # -- hire ----------------------------------------------------------------------------------------

    async def authorize(self, hire: Hire, also: Callable[[Tx, CredentialRow], None] | None = None) -> Hired:
        """Give an advisor a credential; a second time renews it, the former one is refused from then on.

        With `trial_days` it is a trial: what may be granted is cut to its scope, and its guards hold.
        `also` is written in the same transaction: both, or neither.
        Raises InvalidParams, NotFound, Ambiguous, Conflict, Capacity, ConfirmationRequired, EmergencyStop,
        Internal, SiblingUnavailable.
        """
        self._p.kill_switch.check()
        template = hire.template()
        if hire.trial_days:
            template = trial_template(template)
        async with self.changing:
            pubkey, known, new_name = self._whom(hire)
            opening = await self._opening(template, pubkey, known) if hire.trial_days else None
            draft = await self._prepare(hire, template, pubkey, known, new_name, opening)
            try:
                trial_id = await self._p.db.write(lambda tx: self._store(tx, hire, draft, also))
            except BaseException:
                await self._p.runes.discard(draft.rune)
                raise
            await self._reload()
        self._p.messenger.kick()
        await self._p.runes.blacklist_pending()
        return self._hired(draft, template, trial_id)

    def whom(self, hire: Hire) -> tuple[str, Advisor | None, str]:
        """The key that is meant, who that is if known, and the name to give (empty: none).

        Raises InvalidParams, NotFound, Ambiguous, Conflict, SiblingUnavailable, as `authorize` would.
        """
        pubkey, known, new_name = self._whom(hire)
        self._refuse_own_key(pubkey)
        return pubkey, known, self._p.aliases.usable(new_name) if new_name else ""

    async def refuse_trial(self, template: Template, pubkey: str, known: Advisor | None) -> None:
        """Raises Conflict, Capacity when no trial of this may begin now."""
        await self._p.trials.refuse(f"did:nostr:{pubkey}", scope_of(trial_template(template))[1])
        self._refuse_hired(known)

    async def _opening(self, template: Template, pubkey: str, known: Advisor | None) -> Opening:
        opening = await self._p.trials.prepare(f"did:nostr:{pubkey}", *scope_of(template))
        self._refuse_hired(known)
        return opening

    def _refuse_hired(self, known: Advisor | None) -> None:
        now = self._p.now()
        row = None if known is None else self._p.credentials.active_of(known.advisor_id)
        if row is not None and row.live(now):
            left = days_left(row.credential.valid_until, now)
            raise Conflict(
                f"{self.name_of(row.advisor_id)!a} works here already, for {left} more days; a trial is how"
                " one begins. Revoke first, or authorize without trial",
                reason="already_hired",
            )

    def _hired(self, draft: _Draft, template: Template, trial_id: str | None) -> Hired:
        advisor = self._p.credentials.advisor(draft.advisor.advisor_id) or draft.advisor
        name = self._p.aliases.name_of(advisor)
        warnings = list(self._p.aliases.warnings(name, advisor.advisor_id))
        if draft.rune_owed:
            warnings.append("the node could not make the rune for REST; it is sent as soon as it can")
        self._p.log("info", "advisor_authorized", advisor=advisor.advisor_id, access=template.name)
        document = draft.row.credential
        beyond = out_of_reach(
            document.tier, document.allowed_schemas, document.permissions, document.constraints
        )
        return Hired(
            advisor,
            name,
            draft.row,
            template.name,
            draft.rune is not None,
            tuple(warnings),
            trial_id,
            tuple(beyond),
        )

    def _whom(self, hire: Hire) -> tuple[str, Advisor | None, str]:
        """Key, known advisor if any, and the name to give it (empty: none)."""
        key_text = hire.npub or hire.did
        text = hire.advisor.strip()
        if not text and not key_text:
            raise InvalidParams("say whom to authorize: advisor=npub1... or a known name")
        if not key_text and self._p.aliases.is_key(text):
            key_text, text = text, ""
        if key_text.startswith("did:") and not key_text.startswith("did:nostr:"):
            raise SiblingUnavailable(
                "only cl-hive-archon can resolve this DID and it is not there; give the advisor's npub",
                data={"sibling": "cl-hive-archon"},
            )
        if not key_text:
            advisor = self._p.aliases.resolve(text)
            if advisor.pubkey is None:
                raise NotFound(f"{text[:80]!a} has no Nostr key; give advisor_npub=npub1...")
            return advisor.pubkey, advisor, ""
        try:
            pubkey = parse_pubkey(key_text)
        except ValueError as error:
            raise InvalidParams(str(error)) from None
        known = self._p.aliases.find(f"did:nostr:{pubkey}")
        named = self._p.aliases.find(text) if text else None
        if named is not None and named.pubkey != pubkey:
            raise Conflict(f"{text[:80]!a} is the name of another advisor with another key")
        return pubkey, known, text if named is None else ""

    def _refuse_own_key(self, pubkey: str) -> None:
        if pubkey in (self._p.node_id[2:], self._p.offers.node_key):
            raise InvalidParams("this is the node's own key; a node cannot be its own advisor")

    async def _prepare(
        self,
        hire: Hire,
        template: Template,
        pubkey: str,
        known: Advisor | None,
        new_name: str,
        opening: Opening | None,
    ) -> _Draft:
        now = self._p.now()
        if known is not None and not known.active and not hire.confirm:
            raise ConfirmationRequired(
                f"{self._p.aliases.name_of(known)!a} was revoked before; hive-client-authorize with"
                " confirm=true hires again"
            )
        self._refuse_own_key(pubkey)
        unsigned = credentials.new(
            credential_id=hire.credential_id or str(uuid.UUID(bytes=self._p.random_bytes(16), version=4)),
            node_id=self._p.node_id,
            agent_key=pubkey,
            template=template,
            constraints=hire.constraints(template),
            permissions=hire.permissions,
            coordination=hire.coordination(),
            access=hire.charge,
            compensation=hire.pay,
            agent_id=hire.agent_id or None,
            trust=Fraction(1) if hire.trust is None else hire.trust,
            valid_from=now,
            valid_until=hire.until or now + (hire.trial_days or hire.days) * DAY_S,
        )
        zbase = await self._p.signer.signmessage(credentials.signing_text(unsigned))
        signed = credentials.with_signature(unsigned, zbase)
        if not credentials.is_signed_by(signed, self._p.node_id):
            raise Conflict("the node's signature does not verify; its key is not the one of getinfo")
        rune, owed = await self._p.runes.make(pubkey)
        advisor = self._advisor(hire, template, pubkey, known, now)
        row = CredentialRow(
            credential=signed,
            advisor_id=advisor.advisor_id,
            format="native",
            status="active",
            source="operator",
            created_at=now,
            rune_id=None if rune is None else rune[0],
            trust_pinned=hire.trust is not None,
        )
        binding = await self._p.offers.prepare()
        return _Draft(row, advisor, known is None, new_name, binding, rune, owed, opening)

    def _advisor(
        self, hire: Hire, template: Template, pubkey: str, known: Advisor | None, now: int
    ) -> Advisor:
        if known is not None:
            return replace(
                known,
                status="active",
                access_template=template.name,
                # A renewal that says nothing of the limit must not lift it.
                daily_limit_sats=(
                    known.daily_limit_sats if hire.daily_limit_sats is None else hire.daily_limit_sats
                ),
                note=hire.note or known.note,
                updated_at=now,
                revoked_at=None,
                reason=None,
            )
        return Advisor(
            advisor_id=self._p.random_bytes(8).hex(),
            number=0,
            pubkey=pubkey,
            did=None,
            display_name="",
            status="active",
            access_template=template.name,
            created_at=now,
            updated_at=now,
            daily_limit_sats=hire.daily_limit_sats,
            note=hire.note,
        )

    def _store(
        self, tx: Tx, hire: Hire, draft: _Draft, also: Callable[[Tx, CredentialRow], None] | None
    ) -> str | None:
        # Again: between the first look and here the node was asked to sign.
        self._p.kill_switch.check()
        row, advisor = draft.row, draft.advisor
        now = self._p.now()
        superseded = self._p.store.supersede(tx, advisor.advisor_id, row.credential_id, now)
        if self._p.store.live_count(tx, now) >= MAX_LIVE_CREDENTIALS:
            raise Capacity(f"{MAX_LIVE_CREDENTIALS} credentials are live; revoke one first")
        if draft.is_new:
            number = self._p.store.next_number(tx)
            self._p.store.add(tx, replace(advisor, number=number, display_name=f"advisor-{number}"))
        else:
            self._p.store.update(tx, advisor)
        if draft.new_name:
            self._p.aliases.put(tx, draft.new_name, advisor.advisor_id)
        self._p.store.add_credential(tx, row)
        for old in superseded:
            self._p.runes.forget(tx, old)
            self._p.trials.stop_in(tx, old.credential_id)
            self._p.telemetry.end_of(tx, old.credential_id)
        opening = draft.opening
        trial = None if opening is None else self._p.trials.begin_in(tx, row, opening)
        if draft.rune_owed:
            self._p.runes.owe(tx, row.credential_id)
        self._p.offers.offer(tx, row, draft.binding, draft.rest)
        self._p.receipts.append(
            tx,
            operator_event(
                "authorize",
                params=hire.terms(),
                result={
                    "valid_until": row.credential.valid_until,
                    "superseded": [old.credential_id for old in superseded],
                },
                advisor_id=advisor.advisor_id,
                agent_id=row.credential.agent_id,
                credential_id=row.credential_id,
            ),
        )
        if also is not None:
            also(tx, row)
        return None if trial is None else trial.trial_id

    # -- dismiss -------------------------------------------------------------------------------------

    async def revoke(self, text: str, reason: str, *, everyone: bool = False) -> Dismissed:
        """End an advisor's credential, or all of them: blocked from the commit on.

        Raises NotFound when the advisor has no active credential, Ambiguous.
        """
        return await self._dismiss(lambda: self._chosen(text, everyone), reason, _nothing_more)

    async def _dismiss(
        self, choose: Callable[[], list[CredentialRow]], reason: str, also: Callable[[Tx, int], None]
    ) -> Dismissed:
        async with self.changing:
            chosen = choose()
            ended, cancelled = await self._p.db.write(lambda tx: self._end(tx, chosen, reason, also))
            await self._reload()
        self._p.messenger.kick()
        blacklisted = await self._p.runes.blacklist_pending()
        self.on_revoked(ended)
        return Dismissed(
            tuple(self.name_of(row.advisor_id) for row in ended),
            cancelled,
            blacklisted and any(row.rune_id for row in ended),
            len(ended),
        )

    def active(self) -> tuple[str, ...]:
        """Ids of the credentials that stand now."""
        rows = self._p.credentials.rows()
        return tuple(row.credential_id for row in rows if row.status == "active")

    async def revoke_all(self, reason: str) -> int:
        """End every credential, in one transaction; how many. None standing is 0."""
        try:
            return (await self.revoke("", reason, everyone=True)).published
        except NotFound:
            return 0

    async def revoke_credential(
        self, credential_id: str, reason: str, also: Callable[[Tx, int], None] | None = None
    ) -> Dismissed:
        """The same for one credential by its id; another one of its advisor is not touched.

        `also` is written in the same transaction, with its time (Unix s). Raises NotFound.
        """

        def chosen() -> list[CredentialRow]:
            row = self._p.credentials.row(credential_id)
            if row is None or row.status != "active":
                raise NotFound(f"there is no active credential {credential_id[:64]!a}")
            return [row]

        return await self._dismiss(chosen, reason, also or _nothing_more)

    # -- inside --------------------------------------------------------------------------------------

    def _chosen(self, text: str, everyone: bool) -> list[CredentialRow]:
        if everyone:
            rows = [row for row in self._p.credentials.rows() if row.status == "active"]
            if not rows:
                raise NotFound("no advisor has an active credential")
            return rows
        advisor = self._p.aliases.resolve(text)
        row = self._p.credentials.active_of(advisor.advisor_id)
        if row is None:
            raise NotFound(f"{self._p.aliases.name_of(advisor)!a} has no active credential")
        return [row]

    def _end(
        self, tx: Tx, rows: list[CredentialRow], reason: str, also: Callable[[Tx, int], None]
    ) -> tuple[list[CredentialRow], int]:
        now, cancelled = self._p.now(), 0
        for row in rows:
            if not self._p.store.revoke(tx, row.credential_id, reason, now):
                continue
            cancelled += self._p.commands().cancel_in(tx, row.advisor_id, "credential_revoked")
            advisor = self._p.credentials.advisor(row.advisor_id)
            if advisor is not None:
                ended = replace(advisor, status="revoked", revoked_at=now, reason=reason, updated_at=now)
                self._p.store.update(tx, ended)
            self._p.runes.forget(tx, row)
            self._p.trials.stop_in(tx, row.credential_id)
            self._p.telemetry.end_of(tx, row.credential_id)
            self._p.offers.revoked(tx, row, reason)
            self._p.receipts.append(
                tx,
                operator_event(
                    "revoke",
                    params={"reason": reason},
                    advisor_id=row.advisor_id,
                    agent_id=row.credential.agent_id,
                    credential_id=row.credential_id,
                ),
            )
            told = f"the credential of {self.name_of(row.advisor_id)} was revoked"
            self._p.alerts.raise_alert(tx, "warning", "advisor_revoked", told)
        also(tx, now)
        return rows, cancelled

    def drop_rune_in(self, tx: Tx, credential_id: str) -> None:
        """Note that the rune of a credential that ended is to be blacklisted."""
        row = self._p.credentials.row(credential_id)
        if row is not None:
            self._p.runes.forget(tx, row)

    def name_of(self, advisor_id: str) -> str:
        """An advisor's name, by its id."""
        advisor = self._p.credentials.advisor(advisor_id)
        return advisor_id if advisor is None else self._p.aliases.name_of(advisor)

    async def _reload(self) -> None:
        await self._p.credentials.load()
        await self._p.aliases.load()


def _nothing_more(tx: Tx, now: int) -> None:
    """A dismissal that is nothing but one."""
