"""Receipts fetched from nodes: page by page, checked against all we have, linked and anchored
(docs/protocol/11-advisor-kit.md §5.4, §15.7).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hive_shared.errors import HiveError, InvalidParams
from hive_shared.store import Db, Tx

from hive_advisor.domain import evidence
from hive_advisor.domain.evidence import Fork
from hive_advisor.domain.rows import Client, HeadWord, StoredCommand
from hive_advisor.services.clients import ClientService
from hive_advisor.services.forks import ForkService, proven
from hive_advisor.services.ports import CommandRows, Control, RecordRows, SyncRows
from hive_advisor.services.receipt_standing import StandingService
from hive_advisor.services.receipts import ReceiptService, VerificationFailed

SYNC_S = 3_600
_RETRY_S = 900
_PAGE = 50
_WAIT_S = 10


class ReceiptSync:
    """Keeps our copy of each client's chain up to its head."""

    def __init__(
        self,
        db: Db,
        rows: SyncRows,
        clients: ClientService,
        commands: CommandRows,
        records: RecordRows,
        receipts: ReceiptService,
        standing: StandingService,
        forks: ForkService,
        ask: Control,
        now: Callable[[], int],
    ) -> None:
        self._db, self._rows, self._clients = db, rows, clients
        self._commands, self._records, self._receipts = commands, records, receipts
        self._standing, self._forks, self._ask, self._now = standing, forks, ask, now

    async def sync(self, client: Client, wait_s: int) -> dict[str, Any]:
        """Fetch receipts after our head, page by page; check, link and anchor them, and acknowledge ours.

        Raises VerificationFailed when the node contradicts itself; the client is suspect then.
        """
        taken = 0
        try:
            while True:
                before = (await self._clients.named(client.alias)).head_id
                # From the head on, not after it: its hash vouches for everything before.
                page = await self._page(client, max(0, before - 1), wait_s)
                if isinstance(page, dict):
                    return {**page, "taken": taken, "head": before}
                taken += await self._take(client, page, before)
                current = await self._clients.named(client.alias)
                last = evidence.head_of(page.response or {})
                if current.head_id == before or last is None or current.head_id >= last[0]:
                    break
        except Fork as fork:
            raise VerificationFailed(await self._forks.found(client, fork)) from fork
        await self._standing.compare(client)
        anchored = await self._anchor(client, wait_s)
        acked = await self._standing.acknowledge_due(client, wait_s)
        await self._db.write(lambda tx: self._rows.set_due(tx, client.client_id, self._now() + SYNC_S))
        current = await self._clients.named(client.alias)
        return {
            "state": "done",
            "taken": taken,
            "anchored": anchored,
            "acknowledged": acked,
            "head": current.head_id,
            "client_state": current.state,
        }

    async def when_due(self, client: Client) -> bool:
        """Compare and acknowledge what came, and sync a client whose time it is; whether it was synced."""
        await self._standing.compare(client)
        if client.state != "active":
            return False
        due = await self._db.read(lambda tx: self._rows.due_at(tx, client.client_id))
        now = self._now()
        if (client.created + SYNC_S if due is None else due) > now:
            await self._standing.acknowledge_due(client, _WAIT_S)
            return False
        # Noted first: a node that does not answer is asked every quarter of an hour.
        await self._db.write(lambda tx: self._rows.set_due(tx, client.client_id, now + _RETRY_S))
        try:
            return bool((await self.sync(client, _WAIT_S))["state"] == "done")
        except HiveError:
            # A contradiction is on record now; without a credential or a way there is nothing to ask.
            return False

    async def _page(self, client: Client, since: int, wait_s: int) -> StoredCommand | dict[str, Any]:
        """One answered question for receipts; or how far it got. Raises Fork for a list that has a hole or
        contradicts what the node signed before."""
        page = await self._asked(client, since, wait_s)
        if isinstance(page, dict):
            return page
        assert page.response is not None
        items = evidence.items_of(page.response)
        first = items[0].get("receipt_id") if items else None
        if evidence.missing_in(page.envelope, page.response, client.node_id) and isinstance(first, int):
            # Perhaps archived: the checkpoint that ends right before it is among the first roots then.
            page = await self._asked(client, max(0, first - 2), wait_s)
            if isinstance(page, dict):
                return page
        await self._db.read(lambda tx: self._check(tx, client, page))
        return page

    async def _asked(self, client: Client, since: int, wait_s: int) -> StoredCommand | dict[str, Any]:
        answer = await self._ask(
            client.client_id, "receipts_list", {"since_id": since, "limit": _PAGE}, wait_s
        )
        asked = await self._db.read(lambda tx: self._commands.get(tx, answer["command_id"]))
        if not isinstance(answer["result"], dict) or asked is None or asked.response is None:
            return {"state": answer["state"], "slug": answer["slug"]}
        if evidence.head_of(asked.response) is None:
            raise InvalidParams("receipts_list answered something that is no list of receipts")
        return asked

    def _check(self, tx: Tx, client: Client, page: StoredCommand) -> None:
        """Hold a page against what the node said before. Raises Fork."""
        claims = self._forks.answered(page)
        newest = self._records.newest(tx, client.client_id)
        if newest is not None:
            claims += self._forks.claim(tx, newest)
        word = self._rows.head(tx, client.client_id)
        said = None if word is None else self._commands.get(tx, word.asked_by)
        if said is not None and said.command_id != page.command_id:
            claims += self._forks.answered(said)
        proven(client, claims)

    async def _take(self, client: Client, page: StoredCommand, before: int) -> int:
        """Store what a page brought; how many receipts were new to us. Raises Fork."""
        assert page.response is not None
        claims = self._forks.answered(page)
        items = evidence.items_of(page.response)
        archived = evidence.archived_to(page.response, client.node_id)
        if items and before < archived == int(items[0]["receipt_id"]) - 1:
            await self._receipts.begin_behind(client, archived, str(items[0].get("prev_hash")))
        taken = 0
        for item in items:
            if evidence.is_whole(item):
                await self._receipts.take(client, self._receipts.check(client, item))
            else:
                await self._receipts.take_stub(client, item, page.command_id, claims)
            taken += int(item["receipt_id"]) > before
        await self._db.write(lambda tx: self._note_head(tx, client, page.response or {}, page.command_id))
        return taken

    def _note_head(self, tx: Tx, client: Client, answer: Mapping[str, Any], asked_by: str) -> None:
        head, at = evidence.head_of(answer), evidence.when(answer)
        known = self._rows.head(tx, client.client_id)
        if head is not None and (known is None or (known.at, known.seq) < at):
            self._rows.set_head(tx, client.client_id, HeadWord(head[0], *at, asked_by))

    async def _anchor(self, client: Client, wait_s: int) -> int:
        """Ask for the signed roots over what is not anchored yet, until they bring nothing new."""
        total = 0
        while True:
            first = await self._receipts.first_unanchored(client)
            answer = await self._ask(
                client.client_id, "receipts_list", {"since_id": first - 1, "limit": 1}, wait_s
            )
            result = answer["result"]
            done = await self._receipts.anchor(client, result.get("roots")) if isinstance(result, dict) else 0
            if not done:
                return total
            total += done
