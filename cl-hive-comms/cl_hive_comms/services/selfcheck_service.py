"""What an operator would want to know before trusting the node with an advisor.

docs/protocol/08-client-and-plugins.md §8.6: `{ok, checks[{id, status ok|warn|fail, detail, fix}]}` in at
most 5 s, at start and daily. A check that fails raises an alert once, until it is well again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from hive_shared.alerts import Level
from hive_shared.store import Db, StoreError, Tx

from cl_hive_comms.domain.selfcheck import Check, fail, news, warn
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.services.ports_identity import Clock, FactStore, Log

TOTAL_S: Final = 4.8
"""Seconds after which the answer is given, whatever hangs."""
_REPAIR_S: Final = 1.5
_REMEMBER_S: Final = 0.3
_FACT: Final = "selfcheck"

Checks = Mapping[str, Callable[[], Awaitable[Check]]]
Repairs = Mapping[str, Callable[[], Awaitable[str]]]


class SelfcheckService:
    """Runs all checks side by side; a check that fails to run is a finding, not an error."""

    def __init__(
        self,
        checks: Checks,
        repairs: Repairs,
        *,
        db: Db,
        facts: FactStore,
        alerts: AlertService,
        now: Clock,
        log: Log,
    ) -> None:
        self._checks, self._repairs = checks, repairs
        self._db, self._facts, self._alerts, self._now, self._log = db, facts, alerts, now, log

    async def run(self, fix: bool = False) -> dict[str, Any]:
        """All findings; with `fix` what can be repaired without asking is repaired first, and `repaired`
        says what that was."""
        end = asyncio.get_running_loop().time() + TOTAL_S
        repaired = await self._repair() if fix else []
        until = end - _REMEMBER_S
        checks = await asyncio.gather(*(self._guarded(name, until) for name in self._checks))
        try:
            async with asyncio.timeout_at(end):
                await self._remember(checks)
        except (TimeoutError, StoreError):
            self._log("warning", "selfcheck_not_remembered")
        result: dict[str, Any] = {
            "ok": all(check.status != "fail" for check in checks),
            "checks": [check.to_doc() for check in checks],
        }
        return {**result, "repaired": repaired} if fix else result

    async def report(self) -> None:
        """Runs all checks and logs what is not well; run at start and daily."""
        for check in (await self.run())["checks"]:
            if check["status"] != "ok":
                self._log(
                    "warning", "selfcheck", id=check["id"], status=check["status"], note=check["detail"]
                )

    async def _guarded(self, name: str, until: float) -> Check:
        try:
            async with asyncio.timeout_at(until):
                return await self._checks[name]()
        except TimeoutError:
            return warn(name, "no result in time", "try again when the node is idle")
        except Exception as error:
            self._log("error", "selfcheck_failed", id=name, kind=type(error).__name__)
            return fail(name, f"the check itself failed: {type(error).__name__}", "see the node's log")

    async def _repair(self) -> list[dict[str, str]]:
        names = list(self._repairs)
        did = await asyncio.gather(*(self._repaired(name) for name in names))
        return [{"id": name, "did": text} for name, text in zip(names, did, strict=True) if text]

    async def _repaired(self, name: str) -> str:
        try:
            async with asyncio.timeout(_REPAIR_S):
                text = await self._repairs[name]()
        except TimeoutError:
            return "not finished in time; it may still go on"
        except Exception as error:
            return f"failed: {type(error).__name__}: {error}"[:200]
        if text:
            self._log("info", "selfcheck_repaired", id=name, did=text)
        return text

    async def _remember(self, checks: Sequence[Check]) -> None:
        statuses = json.dumps({check.id: check.status for check in checks}, sort_keys=True)
        if self._db.peek(lambda tx: self._facts.get(tx, _FACT)) == statuses:
            return

        def body(tx: Tx) -> None:
            before = json.loads(self._facts.get(tx, _FACT) or "{}")
            for item in news(before, checks):
                code = "selfcheck_well" if item.level is Level.INFO else "selfcheck_failed"
                how = f"; {item.check.fix}" if item.check.fix else ""
                state = "no longer fails" if item.level is Level.INFO else "fails"
                text = f"self-check {item.check.id} {state}: {item.check.detail}{how}"
                self._alerts.raise_in(tx, item.level, code, text, f"{code}:{item.check.id}:{self._now()}")
            self._facts.put(tx, _FACT, statuses, self._now())

        await self._db.write(body)
