"""The parts of hive-client-status and hive-comms-transports, from memory and the local database."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from hive_shared.siblings import SiblingHub

from cl_hive_comms.domain.advisor import days_left
from cl_hive_comms.domain.trial import Trial
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.services.alias_service import AliasService
from cl_hive_comms.services.credential_service import CredentialService
from cl_hive_comms.services.identity_service import IdentityService
from cl_hive_comms.services.messenger import Messenger
from cl_hive_comms.services.policy_service import PolicyService
from cl_hive_comms.services.ports_identity import Clock
from cl_hive_comms.services.ports_status import Options
from cl_hive_comms.services.ports_trials import Tally
from cl_hive_comms.services.spend_report import SpendReport, spent_by
from cl_hive_comms.services.status_service import StatusService


class StatusSections:
    """Builds each section; says "not served" where a feature is not there yet."""

    def __init__(
        self,
        *,
        config: Callable[[], Options],
        node: Mapping[str, str],
        identity: IdentityService,
        credentials: CredentialService,
        aliases: AliasService,
        messenger: Messenger,
        nostr: Callable[[], dict[str, Any]],
        inbound: Callable[[], dict[str, int]],
        rest: Callable[[], Awaitable[dict[str, Any]]],
        rune_warnings: Callable[[], list[str]],
        registered: Callable[[], list[dict[str, Any]]],
        siblings: SiblingHub,
        policy: PolicyService,
        pending: Callable[[int], Awaitable[Mapping[str, Any]]],
        emergency: Callable[[], Awaitable[dict[str, Any]]],
        alerts: AlertService,
        tallies: Callable[[], Awaitable[Mapping[str, Tally]]],
        trials: Callable[[str | None, int], Awaitable[Sequence[Trial]]],
        handoff_of: Callable[[str], Mapping[str, Any] | None],
        telemetry_of: Callable[[str], Awaitable[Sequence[Mapping[str, Any]]]],
        spending: SpendReport,
        paid: Callable[[], Awaitable[dict[str, Any]]],
        tickets: Callable[[], Awaitable[dict[str, object]]],
        now: Clock,
    ) -> None:
        self._tallies, self._trials = tallies, trials
        self._config, self._node, self._identity = config, node, identity
        self._handoff_of, self._telemetry_of = handoff_of, telemetry_of
        self._credentials, self._aliases, self._messenger = credentials, aliases, messenger
        self._nostr, self._inbound, self._rest, self._rune_warnings = nostr, inbound, rest, rune_warnings
        self._registered = registered
        self._siblings, self._policy, self._emergency = siblings, policy, emergency
        self._spending, self._paid, self._tickets = spending, paid, tickets
        self._pending, self._alerts, self._now = pending, alerts, now

    def register(self, status: StatusService) -> None:
        """Adds the sections in the order in which they are shown."""
        status.register("identity", self.identity)
        status.register("policy", self.policy)
        status.register("advisors", self.advisors)
        status.register("trials", self.trials)
        status.register("liquidity", self.liquidity)
        status.register("escrow", self.escrow)
        status.register("spend", self.spend)
        status.register("transports", self.transports)
        status.register("siblings", self.siblings)
        status.register("pending", self.pending)
        status.register("emergency", self.emergency)
        status.register("alerts", self.alerts)
        status.register("warnings", self.warnings)

    async def identity(self, verbose: bool) -> dict[str, Any]:
        """Who this node is on Nostr."""
        current = self._identity.ring.current
        section: dict[str, Any] = {
            "name": "my-node",
            "npub": self._identity.npub,
            "origin": current.origin,
            "relays": list(self._config().relays),
            "privacy": self._config().relay_sets.privacy,
            "has_did": self._siblings.session("archon") is not None
            and bool((self._siblings.session("archon") or {}).get("did")),
        }
        if verbose:
            section |= {
                "pubkey": current.pubkey,
                "since": current.since,
                "node_id": self._node["node_id"],
                "old_keys": [
                    {"pubkey": key.pubkey, "readable_until": key.readable_until}
                    for key in self._identity.ring.old
                ],
            }
        return section

    async def policy(self, verbose: bool) -> dict[str, Any]:
        """What advisors may do, in short."""
        snapshot, now = self._policy.snapshot(), self._now()
        override = snapshot.active_override(now)
        section: dict[str, Any] = {
            "preset": snapshot.preset,
            "version": snapshot.version,
            "source": self._policy.source,
            "rules": len(snapshot.rules) + len(snapshot.sibling_rules),
            "override_until": None if override is None else override.expires_at,
        }
        if snapshot.locked is not None:
            section["locked"] = snapshot.locked
        return section

    async def advisors(self, verbose: bool) -> list[dict[str, Any]]:
        """Who may manage this node, and what came of it since they were hired."""
        tallies, spent = await self._tallies(), await self._spending.spent()
        rows = []
        for advisor in self._credentials.advisors():
            credential = self._credentials.active_of(advisor.advisor_id)
            if not advisor.active or credential is None:
                continue
            terms = self._credentials.engagement(advisor.advisor_id)
            done = [tallies[each.credential_id] for each in terms if each.credential_id in tallies]
            row: dict[str, Any] = {
                "name": self._aliases.name_of(advisor),
                "access": advisor.access_template,
                "since": terms[0].created_at,
                "days_left": days_left(credential.credential.valid_until, self._now()),
                "received": credential.acked_at is not None,
                "taken": sum(tally.taken for tally in done),
                "rejected": sum(tally.rejected for tally in done),
                "spent_24h_sats": spent_by(spent, {each.credential_id for each in terms}),
            }
            if (handoff := self._handoff_of(advisor.advisor_id)) is not None:
                row["handoff"] = handoff
            if told := await self._telemetry_of(advisor.advisor_id):
                row["telemetry"] = told
            if verbose:
                row |= {
                    "advisor_id": advisor.advisor_id,
                    "agent_key": credential.agent_key,
                    "credential_id": credential.credential_id,
                }
            rows.append(row)
        return rows

    async def trials(self, verbose: bool) -> list[dict[str, Any]]:
        """The trials that run; with `verbose` also the newest that are over."""
        now = self._now()
        rows: list[dict[str, Any]] = []
        for trial in await self._trials(None, 20):
            running = trial.running(now)
            if not running and not verbose:
                continue
            advisor = self._aliases.find(trial.advisor_did)
            row: dict[str, Any] = {
                "name": trial.advisor_did if advisor is None else self._aliases.name_of(advisor),
                "scope": trial.scope,
                "days_left": days_left(trial.end_at, now) if running else 0,
                "outcome": None if trial.outcome is None else trial.outcome.value,
            }
            rows.append(row | ({"trial_id": trial.trial_id} if verbose else {}))
        return rows

    async def liquidity(self, verbose: bool) -> dict[str, Any]:
        """Not a part of this version."""
        return _not_served("the liquidity market comes with a later version")

    async def escrow(self, verbose: bool) -> dict[str, object]:
        """Tickets with something left to earn: those given to advisors and those held for a payer."""
        return await self._tickets()

    async def spend(self, verbose: bool) -> dict[str, Any]:
        """What agents' commands spent in the last 24 hours, and what the node paid by itself."""
        return {**await self._spending.of_node(), "payments": await self._paid()}

    async def transports(self, verbose: bool) -> dict[str, Any]:
        """How messages travel, in short."""
        return {row["name"]: row["state"] for row in await self.transport_rows()}

    async def transport_rows(self) -> list[dict[str, Any]]:
        """One row per transport for hive-comms-transports."""
        outbox = await self._messenger.status()
        nostr = self._nostr()
        return [
            {
                "name": "nostr_dm",
                "enabled": bool(self._config().relay_sets.inbox),
                "state": nostr["state"],
                "privacy": self._config().relay_sets.privacy,
                "last_ok": outbox["last_ok"],
                "queue": outbox["queue"],
                "relays": nostr["relays"],
                "search": nostr["search"],
                "received": self._inbound(),
            },
            await self._rest(),
            *({**row, "queue": outbox["by_transport"].get(row["name"], 0)} for row in self._registered()),
        ]

    async def siblings(self, verbose: bool) -> dict[str, Any]:
        """Which of the other plugins are there."""
        return {"combination": self._siblings.combo(), "plugins": self._siblings.status()}

    async def pending(self, verbose: bool) -> dict[str, Any]:
        """What waits for the operator."""
        return dict(await self._pending(100 if verbose else 20))

    async def emergency(self, verbose: bool) -> dict[str, Any]:
        """The emergency stop."""
        return await self._emergency()

    async def alerts(self, verbose: bool) -> list[dict[str, Any]]:
        """The newest alerts."""
        return [
            {"level": alert.level.value, "code": alert.code, "text": alert.text, "at": alert.last_at}
            for alert in await self._alerts.recent(50 if verbose else 5)
        ]

    async def warnings(self, verbose: bool) -> list[str]:
        """What the operator should look at."""
        found = list(self._identity.warnings)
        if self._policy.file_problem is not None:
            found.append(self._policy.file_problem)
        if (offline := self._nostr().get("reason")) is not None:
            found.append(offline)
        if (problem := self._config().relay_sets.too_many()) is not None:
            found.append(problem)
        found += self._rune_warnings()
        found += _half_set(self._config())
        found += [f"{name} is set and ignored: remove it" for name in self._config().ignored()]
        found += [f"{name} is set but not served by this version" for name in self._config().unserved()]
        return found


def _half_set(config: Options) -> list[str]:
    """Options that do nothing without another one."""
    address, server = bool(config.get("alert-email")), config.get("alert-smtp") is not None
    if address == server:
        return []
    has, needs = ("alert-email", "alert-smtp") if address else ("alert-smtp", "alert-email")
    return [f"hive-comms-{has} is set but hive-comms-{needs} is not: no alert goes out by mail"]


def _not_served(reason: str) -> dict[str, str]:
    return {"state": "not_served", "reason": reason}
