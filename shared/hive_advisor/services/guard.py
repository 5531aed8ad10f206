"""The guard with what it rests on: rules, halt, counters, what the node said (11 §6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from hive_shared.errors import HiveError, InvalidParams, PolicyDenied
from hive_shared.registry import CONTROL
from hive_shared.store import Db, Tx

from hive_advisor.domain import guard
from hive_advisor.domain.command_machine import CommandState, did_nothing
from hive_advisor.domain.guard import Counters, Judgement, Situation, Verdict
from hive_advisor.domain.guard_rules import ORIGINS, GuardRules, Origin
from hive_advisor.domain.names import check_alias
from hive_advisor.domain.observed import FRESH_S, Observed, observe
from hive_advisor.domain.plan import Judged, Plan, before
from hive_advisor.domain.rows import StoredCommand
from hive_advisor.services.ports import ClientRows, CommandRows

KIT = "kit"
"""Origin of what the kit asks by itself: control commands only, which the guard lets pass unless halted."""


class CounterRows(Protocol):
    """adv_counters."""

    def reserve(self, tx: Tx, command_id: str, client_id: str, uses: Mapping[str, int], now: int) -> None: ...
    def release(self, tx: Tx, command_id: str) -> None: ...
    def settle(self, tx: Tx, command_id: str, name: str, amount: int) -> None: ...
    def used(self, tx: Tx, client_id: str, since: int, without: str) -> dict[str, int]: ...


class Halt(Protocol):
    """The switch that stops everything."""

    def is_on(self) -> bool: ...
    def engage(self, reason: str, now: int) -> bool: ...
    def reason(self) -> str: ...


class GuardService:
    """Judges plans. `rules` reads guard.toml anew for every judgement and raises InvalidParams."""

    def __init__(
        self,
        db: Db,
        commands: CommandRows,
        clients: ClientRows,
        counters: CounterRows,
        *,
        rules: Callable[[], GuardRules],
        halt: Halt,
        now: Callable[[], int],
    ) -> None:
        self._db, self._commands, self._clients, self._counters = db, commands, clients, counters
        self._rules, self._halt, self._now = rules, halt, now

    @property
    def halted(self) -> bool:
        """Whether nothing but withdrawing and asking goes on."""
        return self._halt.is_on()

    def halt(self, reason: str) -> bool:
        """Stop everything at once; whoever may call at all may do this. False when it was stopped before."""
        return self._halt.engage(reason, self._now())

    def rules(self) -> GuardRules:
        """guard.toml as it stands now. Raises InvalidParams."""
        return self._rules()

    async def check(self) -> GuardRules:
        """guard.toml as it would count now. Raises InvalidParams for what makes it deny everything."""

        def body(tx: Tx) -> GuardRules:
            rules = self._rules()
            self._check_names(tx, rules)
            return rules

        return await self._db.read(body)

    async def judged(self, plan: Plan, origin: str) -> Judged:
        """A plan with the guard's word on it as of now; nothing is reserved."""

        def body(tx: Tx) -> Judged:
            observed = self._observed(tx, plan.client.client_id)
            judgement = self.judge_in(tx, plan, origin)
            return Judged(plan, judgement, before(plan, observed, self._now()))

        return await self._db.read(body)

    async def used(self, client_id: str) -> dict[str, dict[str, int]]:
        """What commands to a client used up in three hours and in a day."""
        now = self._now()

        def body(tx: Tx) -> dict[str, dict[str, int]]:
            return {
                "3h": self._counters.used(tx, client_id, now - guard.HOURS_3, ""),
                "24h": self._counters.used(tx, client_id, now - guard.DAY, ""),
            }

        return await self._db.read(body)

    def judge_in(self, tx: Tx, plan: Plan, origin: str, command_id: str = "") -> Judgement:
        """The guard's word within a transaction; `command_id` is the command's own reservation's.

        An error of any kind denies.
        """
        if plan.spec.schema == CONTROL:
            stops = self.halted and guard.halts(plan.spec.schema, plan.spec.name)
            return guard.denied("halt", _HALTED) if stops else Judgement()
        known: Origin | None = next((name for name in ORIGINS if name == origin), None)
        if known is None:
            return guard.denied("error", f"the guard knows no origin {origin!r}")
        try:
            rules, client_id, now = self._rules(), plan.client.client_id, self._now()
            self._check_names(tx, rules)
            counters = Counters(
                self._counters.used(tx, client_id, now - guard.HOURS_3, command_id),
                self._counters.used(tx, client_id, now - guard.DAY, command_id),
            )
            situation = Situation(rules, known, self._observed(tx, client_id), counters, now, self.halted)
        except HiveError as error:
            return guard.denied("error", error.detail)
        return guard.judge(plan.asked, situation)

    async def lose_count(self) -> int:
        """What was used up lately is not known (an old copy of the profile goes on): all that is limited
        counts as used up, so a human is asked for as long as the windows last. How many clients."""
        full = dict.fromkeys(
            (guard.FEE_WRITES, guard.REBALANCES, guard.REBALANCE_FEES, guard.OUT), guard.USED_UP
        )

        def body(tx: Tx) -> int:
            clients = self._clients.all(tx)
            for client in clients:
                name = f"restored:{client.client_id}"
                self._counters.reserve(tx, name, client.client_id, full, self._now())
            return len(clients)

        return await self._db.write(body)

    def stops(self, command: StoredCommand) -> bool:
        """Whether a halt keeps these bytes from leaving."""
        return self.halted and guard.halts(command.schema, command.action)

    def reserve(self, tx: Tx, command_id: str, client_id: str, judgement: Judgement) -> None:
        """Book what a plan uses, in its own transaction."""
        self._counters.reserve(tx, command_id, client_id, judgement.uses, self._now())

    def ended(
        self, tx: Tx, command: StoredCommand, to: CommandState, slug: str | None = None, result: Any = None
    ) -> None:
        """A command moved: what it did not use is free again, what it really used is booked."""
        if did_nothing(to, slug):
            self._counters.release(tx, command.command_id)
        elif to == CommandState.DONE and isinstance(result, dict):
            fee = result.get("fee_msat")
            if isinstance(fee, int) and not isinstance(fee, bool) and fee >= 0:
                self._counters.settle(tx, command.command_id, guard.REBALANCE_FEES, -(-fee // 1_000))

    def _observed(self, tx: Tx, client_id: str) -> Observed:
        return observe(self._commands.lately(tx, client_id, self._now() - FRESH_S))

    def _check_names(self, tx: Tx, rules: GuardRules) -> None:
        """A section for a client that is none limits nobody: whoever renamed it must not lose its limits."""
        if not rules.clients:
            return
        known = {check_alias(client.alias)[1] for client in self._clients.all(tx)}
        if unknown := sorted(set(rules.clients) - known):
            raise InvalidParams(f"guard.toml: [client.{unknown[0]}] names no client; see 'client list'")


_HALTED = "the guard is halted; 'hive-advisor guard release' ends that"


def refuse(judgement: Judgement) -> None:
    """Raises PolicyDenied (guard_denied) when the guard denies."""
    if judgement.verdict is Verdict.DENY:
        raise PolicyDenied(
            "the guard refuses: " + "; ".join(reason.text for reason in judgement.reasons),
            reason="guard_denied",
            data={"guard": judgement.to_doc()},
        )
