"""hive-comms-mgmt-credential-ingest: credentials and revocations that other nodes told
(docs/protocol/02-fleet-management.md §2.5, docs/protocol/01-reputation.md §7, docs/decisions/0340).

cl-hive checked who sent the message (steps 1 to 5 of its chain); here the issuer's own signature counts.
What is kept authorises nobody. Only a credential for this node by an issuer the operator trusts also enters
the table that commands are judged by, and never against what the operator decided here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, Protocol

import msgspec
from hive_shared.canonical import JsonValue
from hive_shared.credential import Credential, doc_hash
from hive_shared.errors import EmergencyStop, NotFound
from hive_shared.store import Tx
from msgspec.structs import replace

from ..domain.advisor import GOSSIP, MAX_LIVE_CREDENTIALS, Advisor, CredentialRow, days_left
from ..domain.gossip import (
    MAX_ROWS,
    MAX_ROWS_PER_ISSUER,
    MAX_ROWS_TRUSTED,
    REFUSALS,
    UNSEEN_KEPT_S,
    GossipRow,
    Revocation,
    check_present,
    read_present,
    read_revoke,
)
from .advisor_service import AdvisorService, Ports
from .receipt_service import operator_event

PRESENT: Final = "present"
REVOKE: Final = "revoke"
_ENDED: Final = "revoked"


class GossipRows(Protocol):
    """comms_gossip_credentials (storage.gossip_store.GossipStore)."""

    def get(self, tx: Tx, issuer_id: str, credential_id: str) -> GossipRow | None: ...
    def add(self, tx: Tx, row: GossipRow) -> None: ...
    def revoke(self, tx: Tx, issuer_id: str, credential_id: str, reason: str, now: int) -> None: ...
    def forget(self, tx: Tx, now: int) -> None: ...
    def counts(self, tx: Tx, issuer_id: str, apart_from: Collection[str]) -> tuple[int, int]: ...
    def rows(self, tx: Tx) -> list[GossipRow]: ...


class Verdict(msgspec.Struct, frozen=True):
    """What became of a message. `status` is stored, duplicate, rejected or deferred; `relay`: pass it on, a
    duplicate only to members first seen less than 24 h ago. `reason` says why it was not stored, or why a
    credential for this node is not in force."""

    status: str
    relay: bool = False
    reason: str = ""

    def to_doc(self) -> dict[str, JsonValue]:
        """The answer to the sibling."""
        doc: dict[str, JsonValue] = {"status": self.status, "relay": self.relay}
        return {**doc, "reason": self.reason} if self.reason else doc


class GossipCredentials:
    """Takes what cl-hive hands over. `trusted` are the node ids of hive-comms-trusted-issuers."""

    def __init__(
        self,
        ports: Ports,
        advisors: AdvisorService,
        rows: GossipRows,
        *,
        trusted: Callable[[], Collection[str]],
    ) -> None:
        self._p, self._advisors, self._rows, self._trusted = ports, advisors, rows, trusted

    async def ingest(self, kind: str, event: Mapping[str, Any]) -> Verdict:
        """Take one message body; a repeat changes nothing."""
        try:
            if kind == PRESENT:
                verdict = await self._present(read_present(event))
            else:
                verdict = await self._revoke(read_revoke(event))
        except REFUSALS as error:
            self._p.log("info", "gossip_refused", kind=kind, why=str(error)[:300])
            return Verdict("rejected", reason=error.symbol)
        self._p.log("debug", "gossip_taken", kind=kind, status=verdict.status, why=verdict.reason)
        return verdict

    async def known(self) -> list[GossipRow]:
        """What is kept, but for what authorises here and stands in the node's own table."""
        rows = await self._p.db.read(self._rows.rows)
        return [row for row in rows if not self._holds(row.issuer_id, row.credential_id)]

    def _holds(self, issuer_id: str, credential_id: str) -> bool:
        row = self._p.credentials.row(credential_id)
        return row is not None and row.credential.issuer_id == issuer_id

    # -- present -------------------------------------------------------------------------------------

    async def _present(self, credential: Credential) -> Verdict:
        check_present(credential, node_id=self._p.node_id, trusted=self._trusted(), now=self._p.now())
        own = self._p.credentials.row(credential.credential_id)
        if own is not None and doc_hash(own.credential) != doc_hash(credential):
            # Under the id of a credential that stands here nothing else is taken.
            return Verdict("rejected", reason="id_conflict")
        if credential.issuer_id == self._p.node_id:
            # Our own come into force by the operator's hand alone: what this node does not know any more it
            # may have revoked.
            return Verdict("duplicate") if own is not None else Verdict("rejected", reason="unknown_here")
        if credential.node_id != self._p.node_id:
            return await self._p.db.write(lambda tx: self._keep(tx, credential))
        if credential.agent_key in (self._p.node_id[2:], self._p.offers.node_key):
            return Verdict("rejected", reason="own_key")
        return await self._present_for_us(credential)

    async def _present_for_us(self, credential: Credential) -> Verdict:
        async with self._advisors.changing:
            try:
                verdict, advisor_id = await self._p.db.write(lambda tx: self._take(tx, credential))
            except EmergencyStop as error:
                return Verdict("deferred", reason=error.symbol)
            if advisor_id:
                await self._p.credentials.load()
                await self._p.aliases.load()
                self._p.log("info", "advisor_imported", advisor=advisor_id, issuer=credential.issuer_id)
        return verdict

    def _keep(self, tx: Tx, credential: Credential) -> Verdict:
        now = self._p.now()
        self._rows.forget(tx, now)
        held = self._rows.get(tx, credential.issuer_id, credential.credential_id)
        if held is None:
            if self._full(tx, credential.issuer_id):
                return Verdict("rejected", reason="store_full")
            issuer, number = credential.issuer_id, credential.credential_id
            self._rows.add(tx, GossipRow(issuer, number, credential, now, credential.valid_until))
            return Verdict("stored", relay=True)
        if held.revoked_at is not None:
            return Verdict("rejected", reason="credential_revoked")
        if held.credential is None or doc_hash(held.credential) != doc_hash(credential):
            return Verdict("rejected", reason="id_conflict")
        return Verdict("duplicate", relay=True)

    def _full(self, tx: Tx, issuer_id: str) -> bool:
        trusted = {*self._trusted(), self._p.node_id}
        own, others = self._rows.counts(tx, issuer_id, trusted)
        if issuer_id in trusted:
            return own >= MAX_ROWS_TRUSTED
        return own >= MAX_ROWS_PER_ISSUER or others >= MAX_ROWS

    # -- into force ----------------------------------------------------------------------------------

    def _take(self, tx: Tx, credential: Credential) -> tuple[Verdict, str]:
        """The verdict, and the advisor who may act from now on (empty: nobody new)."""
        self._p.kill_switch.check()
        verdict = self._keep(tx, credential)
        if verdict.status == "rejected" or self._p.credentials.row(credential.credential_id) is not None:
            return verdict, ""
        key = credential.agent_key
        advisor = next((each for each in self._p.credentials.advisors() if each.pubkey == key), None)
        rows = [row for row in self._p.credentials.rows() if row.agent_key == key]
        if why := self._why_not(tx, credential, advisor, rows):
            return replace(verdict, reason=why), ""
        return verdict, self._put_in_force(tx, credential, advisor)

    def _why_not(
        self, tx: Tx, credential: Credential, advisor: Advisor | None, rows: list[CredentialRow]
    ) -> str:
        """Why a credential for this node is kept without force; empty when nothing stands against it."""
        now = self._p.now()
        standing = [row for row in rows if row.live(now)]
        if any(row.source != GOSSIP for row in rows) or (advisor is not None and advisor.source != GOSSIP):
            return "hired_here"
        if advisor is not None and not advisor.active and not (rows and _ended_by_issuer(rows[-1])):
            return "dismissed_here"
        if any(row.credential.issuer_id != credential.issuer_id for row in standing):
            return "other_issuer"
        if any(
            row.credential.issuer_id == credential.issuer_id
            and row.credential.valid_from >= credential.valid_from
            for row in rows
        ):
            # Whoever shows an old one again must not bring back what a newer one replaced.
            return "older"
        if self._p.store.live_count(tx, now) - len(standing) >= MAX_LIVE_CREDENTIALS:
            return "capacity"
        return ""

    def _put_in_force(self, tx: Tx, credential: Credential, known: Advisor | None) -> str:
        now = self._p.now()
        row = CredentialRow(
            credential=credential,
            advisor_id=self._p.random_bytes(8).hex() if known is None else known.advisor_id,
            format="native",
            status="active",
            source=GOSSIP,
            created_at=now,
        )
        superseded = self._p.store.supersede(tx, row.advisor_id, row.credential_id, now)
        name = self._put_advisor(tx, row, known)
        self._p.store.add_credential(tx, row)
        for old in superseded:
            self._p.runes.forget(tx, old)
            self._p.trials.stop_in(tx, old.credential_id)
        self._p.receipts.append(
            tx,
            operator_event(
                "import_credential",
                params={
                    "source": GOSSIP,
                    "issuer_id": credential.issuer_id,
                    "tier": credential.tier.word,
                    "allowed_schemas": list(credential.allowed_schemas),
                    "constraints": dict(credential.constraints),
                },
                result={
                    "valid_until": credential.valid_until,
                    "superseded": [old.credential_id for old in superseded],
                },
                advisor_id=row.advisor_id,
                agent_id=credential.agent_id,
                credential_id=row.credential_id,
            ),
        )
        days = days_left(credential.valid_until, now)
        self._p.alerts.raise_alert(
            tx,
            "warning",
            "advisor_imported",
            f"{name} may act on this node for {days} days (tier {credential.tier.word}): gossip brought a"
            f" credential of trusted issuer {credential.issuer_id}."
            f" hive-client-revoke advisor={name} ends it",
        )
        return row.advisor_id

    def _put_advisor(self, tx: Tx, row: CredentialRow, known: Advisor | None) -> str:
        """Store whose credential it is; the name people see."""
        now = row.created_at
        if known is not None:
            self._p.store.update(
                tx, replace(known, status="active", updated_at=now, revoked_at=None, reason=None)
            )
            return self._p.aliases.name_of(known)
        number = self._p.store.next_number(tx)
        self._p.store.add(
            tx,
            Advisor(
                advisor_id=row.advisor_id,
                number=number,
                pubkey=row.agent_key,
                did=None,
                display_name=f"advisor-{number}",
                status="active",
                access_template="custom",
                created_at=now,
                updated_at=now,
                source=GOSSIP,
            ),
        )
        return f"advisor-{number}"

    # -- revoke --------------------------------------------------------------------------------------

    async def _revoke(self, told: Revocation) -> Verdict:
        row = self._p.credentials.row(told.credential_id)
        if row is not None and row.credential.issuer_id != told.issuer_id:
            return Verdict("rejected", reason="not_issuer")
        if row is not None and row.status == "active":
            try:
                await self._advisors.revoke_credential(
                    told.credential_id,
                    told.shown_reason,
                    also=lambda tx, now: self._end(tx, told, row.credential, now),
                )
                return Verdict("stored", relay=True)
            except NotFound:
                pass  # it ended meanwhile
        return await self._p.db.write(lambda tx: self._bury(tx, told))

    def _end(self, tx: Tx, told: Revocation, credential: Credential, now: int) -> None:
        self._note_end(tx, told, credential, now)
        self._p.store.note_check(tx, told.credential_id, now, _ENDED)

    def _note_end(self, tx: Tx, told: Revocation, credential: Credential | None, now: int) -> None:
        held = self._rows.get(tx, told.issuer_id, told.credential_id)
        if held is not None:
            self._rows.revoke(tx, told.issuer_id, told.credential_id, told.shown_reason, now)
            return
        keep_until = now + UNSEEN_KEPT_S if credential is None else credential.valid_until
        self._rows.add(
            tx,
            GossipRow(
                told.issuer_id, told.credential_id, credential, now, keep_until, now, told.shown_reason
            ),
        )

    def _bury(self, tx: Tx, told: Revocation) -> Verdict:
        """Note the end of what is not in force here, also of what nobody showed us yet."""
        now = self._p.now()
        self._rows.forget(tx, now)
        held = self._rows.get(tx, told.issuer_id, told.credential_id)
        if held is not None and held.revoked_at is not None:
            return Verdict("duplicate", relay=True)
        if held is None and self._full(tx, told.issuer_id):
            return Verdict("rejected", reason="store_full")
        self._note_end(tx, told, None, now)
        return Verdict("stored", relay=True)


def _ended_by_issuer(row: CredentialRow) -> bool:
    # Noted with the end itself: word of the issuer that came later found it ended by the operator.
    return row.check_status == _ENDED
