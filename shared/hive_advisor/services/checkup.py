"""How the kit stands: the brief of a new session, and what is broken (docs/protocol/11-advisor-kit.md §9)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from hive_shared.errors import HiveError
from hive_shared.nostr.keys import npub_encode
from hive_shared.registry import CONTROL
from hive_shared.store import Db

from hive_advisor.domain.command_machine import CommandState
from hive_advisor.domain.rows import Client
from hive_advisor.services.clients import ClientService
from hive_advisor.services.commands import CommandService
from hive_advisor.services.guard import GuardService
from hive_advisor.services.hooks import HookService
from hive_advisor.services.journal import JournalService
from hive_advisor.services.later import LaterService
from hive_advisor.services.ports import RecordRows
from hive_advisor.services.questions import QuestionService
from hive_advisor.services.shared_key import SharedKeyService


class Holdings(Protocol):
    """The wallet (ecash.Ecash)."""

    async def balances(self) -> list[dict[str, Any]]:
        """Sats by mint."""
        ...

    async def checks(self, timeout: int) -> list[dict[str, str]]:
        """How its mints are, and what has had no end for long."""
        ...


class Ways(Protocol):
    """How money comes and goes (money.Money)."""

    async def checks(self) -> list[dict[str, str]]:
        """Whether they are set up and answer."""
        ...

    async def silent(self) -> list[dict[str, Any]]:
        """Wallets that did not answer, and are not asked for a while."""
        ...


class Hires(Protocol):
    """Negotiations and contracts (marketing.Market)."""

    async def waiting(self) -> list[dict[str, str]]:
        """What a human has to answer or sign."""
        ...


class CheckupService:
    """Reads only. `relays_answering` waits up to so many seconds for a relay and says (answering, all);
    `ways` are how money comes and goes."""

    def __init__(
        self,
        db: Db,
        records: RecordRows,
        clients: ClientService,
        commands: CommandService,
        shared_key: SharedKeyService,
        journal: JournalService,
        guard: GuardService,
        questions: QuestionService,
        later: LaterService,
        hooks: HookService,
        ecash: Holdings,
        hires: Hires,
        *,
        pubkey: str,
        relays_answering: Callable[[int], Awaitable[tuple[int, int]]],
        ways: Ways,
        now: Callable[[], int],
    ) -> None:
        self._db, self._records, self._clients, self._commands = db, records, clients, commands
        self._shared, self._journal = shared_key, journal
        self._guard, self._questions = guard, questions
        self._later, self._hooks, self._ecash = later, hooks, ecash
        self._npub, self._relays_answering, self._now = npub_encode(pubkey), relays_answering, now
        self._ways, self._hires = ways, hires

    async def brief(self) -> dict[str, Any]:
        """What a new session needs to know."""
        clients = await self._clients.all()
        names = {client.client_id: client.alias for client in clients}
        quarantined = await self._db.read(lambda tx: self._records.quarantined(tx, 10))
        shared = await self._shared.found()
        held, silent = await self._ecash.balances(), await self._ways.silent()
        waiting = await self._questions.listed(expired=False, limit=100)
        hires = await self._hires.waiting()
        return {
            "npub": self._npub,
            **({} if shared is None else {"identity_shared": shared}),
            **({"halted": True} if self._guard.halted else {}),
            "waiting_for_you": [question.approval_id for question in waiting],
            **({"hires_waiting": hires} if hires else {}),
            "clients": {client.alias: client.state for client in clients},
            "open_commands": [
                {
                    "command_id": c.command_id,
                    "client": names.get(c.client_id),
                    "action": c.action,
                    "state": str(c.state),
                }
                for c in await self._commands.open()
                if c.schema != CONTROL or c.state == CommandState.PENDING
            ],
            "due_later": [
                {"what": due.what, "client": due.client, "ref": due.ref, "at": due.at, "by_you": due.by}
                for due in await self._later.due()
            ],
            **({"ecash_sats": sum(row["free_sats"] for row in held)} if held else {}),
            **({"wallets_silent": silent} if silent else {}),
            **await self._journal.brief(),
            "quarantined": [{"from": q.peer, "why": q.why} for q in quarantined],
        }

    async def _guard_check(self) -> dict[str, str]:
        try:
            await self._guard.check()
        except HiveError as error:
            return {"id": "guard", "status": "fail", "detail": f"everything is refused: {error.detail}"}
        halted = self._guard.halted
        detail = "halted; 'hive-advisor guard release' ends that" if halted else "guard.toml is read"
        return {"id": "guard", "status": "warn" if halted else "ok", "detail": detail}

    async def _hook_check(self) -> list[dict[str, str]]:
        standing = await self._hooks.standing()
        if standing is None:
            return []
        detail = f"{standing['waiting']} events wait, {standing['failures']} failures in all"
        why = standing.get("why")
        said = detail if why is None else f"{why}; {detail}"
        return [{"id": "hook", "status": "ok" if why is None else "warn", "detail": said}]

    async def doctor(self, timeout: int) -> list[dict[str, str]]:
        """Checks {id, status ok|warn|fail, detail}."""
        checks = [await self._key_check()]
        damage = await self._db.damage()
        checks.append(
            {"id": "database", "status": "fail" if damage else "ok", "detail": "; ".join(damage) or "intact"}
        )
        checks.append(await self._guard_check())
        checks += await self._hook_check()
        checks += await self._ecash.checks(timeout)
        answering, known = await self._relays_answering(timeout)
        detail = f"{answering} of {known} relays answer"
        checks.append({"id": "relays", "status": "ok" if answering else "fail", "detail": detail})
        checks += await self._ways.checks()
        for client in await self._clients.all():
            if client.offset_s:
                checks.append(
                    {
                        "id": f"clock {client.alias}",
                        "status": "warn",
                        "detail": f"its clock is {client.offset_s} s off",
                    }
                )
            checks += await self._credential_checks(client)
        return checks

    async def _key_check(self) -> dict[str, str]:
        shared = await self._shared.found()
        if shared is None:
            return {"id": "key", "status": "ok", "detail": self._npub}
        return {
            "id": "key",
            "status": "fail",
            "detail": f"used on another machine too ({shared['node']} answered {shared['slug']}): nothing is"
            " sent; see 'hive-advisor identity shared'",
        }

    async def _credential_checks(self, client: Client) -> list[dict[str, str]]:
        if client.state == "suspect":
            return [{"id": f"client {client.alias}", "status": "fail", "detail": client.suspect_why}]
        try:
            credential = await self._clients.usable_credential(client)
        except HiveError as error:
            return [{"id": f"client {client.alias}", "status": "warn", "detail": error.detail}]
        days = (credential.valid_until - self._now()) // 86_400
        status = "warn" if days < 7 else "ok"
        if client.alias in await self._clients.unmoved():
            detail = f"for a key you replaced: ask its operator to authorise {self._npub}"
            return [{"id": f"credential {client.alias}", "status": "warn", "detail": detail}]
        return [
            {"id": f"credential {client.alias}", "status": status, "detail": f"valid for {days} more days"}
        ]
