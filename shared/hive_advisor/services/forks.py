"""A node that contradicts what it signed: evidence kept, client suspect, a human told
(docs/protocol/11-advisor-kit.md §5.4).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from hive_shared.store import Db, Tx

from hive_advisor.domain import evidence
from hive_advisor.domain.evidence import Fork
from hive_advisor.domain.rows import Client, StoredCommand, StoredEvidence, StoredReceipt
from hive_advisor.services.alerts import AlertService
from hive_advisor.services.ports import ClientRows, CommandRows, RecordRows


class EvidenceRows(Protocol):
    """adv_evidence."""

    def add_evidence(self, tx: Tx, client_id: str, why: str, document: dict[str, Any], now: int) -> int: ...
    def evidence(self, tx: Tx, client_id: str) -> list[StoredEvidence]: ...


class ForkService:
    """Turns a contradiction into evidence that anybody can check."""

    def __init__(
        self,
        db: Db,
        rows: EvidenceRows,
        clients: ClientRows,
        commands: CommandRows,
        records: RecordRows,
        alerts: AlertService,
        now: Callable[[], int],
    ) -> None:
        self._db, self._rows, self._clients, self._commands = db, rows, clients, commands
        self._records, self._alerts, self._now = records, alerts, now

    def claim(self, tx: Tx, stored: StoredReceipt) -> list[dict[str, Any]]:
        """What shows that the node had this receipt: the receipt, or the answer that listed it."""
        if stored.level != "stub":
            return [evidence.receipt_claim(stored.document)]
        asked = None if stored.carried_by is None else self._commands.get(tx, stored.carried_by)
        return [] if asked is None else self.answered(asked)

    @staticmethod
    def answered(command: StoredCommand) -> list[dict[str, Any]]:
        """Our question with the node's answer."""
        if command.response is None:
            return []
        return [evidence.answer_claim(command.envelope, command.response)]

    async def found(self, client: Client, fork: Fork) -> str:
        """Keep the evidence, suspect the client, tell a human; the sentence that says why."""
        why = str(fork)
        document = evidence.build(client.node_key, client.node_id, why, fork.claims, self._now())

        def body(tx: Tx) -> None:
            now = self._now()
            known = self._rows.evidence(tx, client.client_id)
            if any(one.document["claims"] == document["claims"] for one in known):
                return
            self._rows.add_evidence(tx, client.client_id, why, document, now)
            self._clients.set_state(tx, client.client_id, "suspect", now, why)
            self._records.add_event(tx, "fork", client.alias, why, now)
            self._alerts.raise_in(tx, client, "critical", "fork", why, why)

        await self._db.write(body)
        return why

    async def kept(self, client: Client) -> list[StoredEvidence]:
        """What was found at a client, newest first."""
        return await self._db.read(lambda tx: self._rows.evidence(tx, client.client_id))


def proven(client: Client, claims: list[Mapping[str, Any]] | list[dict[str, Any]]) -> None:
    """Raise Fork if these signed claims contradict each other or themselves."""
    found = evidence.contradictions(evidence.build(client.node_key, client.node_id, "", claims, 0))
    if found:
        raise Fork(found[0], claims)
