"""The journal: what was measured at nodes, what was decided and what came of it, what is aimed at
(docs/protocol/11-advisor-kit.md §9). It measures and remembers; it decides nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from hive_shared.errors import HiveError, InvalidParams, NotFound
from hive_shared.store import Db, Tx
from msgspec.structs import replace

from hive_advisor.domain.journal import (
    DAY_S,
    DECISION_KINDS,
    GOAL_METRICS,
    HOUR_S,
    JUDGED_FROM_S,
    MERGED_S,
    VELOCITY_S,
    Decision,
    Goal,
    Judgement,
    Sample,
    Velocity,
    judge,
    trend,
    velocity,
)
from hive_advisor.domain.rows import Client, StoredCommand
from hive_advisor.services.clients import ClientService

_AT_ONCE = 8
_WAIT_S = 20
_MOST_CHANNELS = 5_000
_TOUCHED_S = 72 * HOUR_S
_MAX_MSAT = 21 * 10**17
_MAX_TEXT = 2_000
_ID_CHARS = 64


class JournalRows(Protocol):
    """adv_snapshots, adv_decisions, adv_goals, adv_checkpoints."""

    def add_samples(self, tx: Tx, samples: Sequence[Sample]) -> None: ...
    def drop_old(self, tx: Tx, client_id: str, now: int) -> None: ...
    def channels(self, tx: Tx, client_id: str, since: int) -> dict[str, list[Sample]]: ...
    def totals(self, tx: Tx, client_id: str, since: int) -> list[Sample]: ...
    def last(self, tx: Tx, client_id: str, with_fees: bool = False) -> int: ...
    def add_decision(self, tx: Tx, decision: Decision) -> int: ...
    def merge_decision(self, tx: Tx, decision: Decision) -> None: ...
    def decision(self, tx: Tx, decision_id: int) -> Decision | None: ...
    def decisions(
        self, tx: Tx, client_id: str | None, *, open_only: bool = False, since: int = 0, limit: int = 1_000
    ) -> list[Decision]: ...
    def judged(self, tx: Tx, decision_id: int, judgement: Judgement, now: int) -> None: ...
    def add_goal(self, tx: Tx, goal: Goal) -> int: ...
    def goals(self, tx: Tx, client_id: str | None, open_only: bool = False) -> list[Goal]: ...
    def close_goal(self, tx: Tx, goal_id: int, now: int) -> bool: ...
    def checkpoint(self, tx: Tx, goal_id: int, day: int, value: int) -> None: ...
    def checkpoints(self, tx: Tx, goal_id: int) -> list[tuple[int, int]]: ...


class Writes(Protocol):
    """Commands that were sent (storage.command_store.CommandStore)."""

    def writes_since(self, tx: Tx, client_id: str, since: int) -> list[StoredCommand]: ...


class Read(Protocol):
    """A reading action of a client; None without an answer (services.asking.AskService.read)."""

    async def __call__(
        self, client: Client, action: str, params: Mapping[str, Any], wait_s: int
    ) -> Mapping[str, Any] | None: ...


class JournalService:
    """Snapshots, decisions and goals of all clients."""

    def __init__(
        self,
        db: Db,
        rows: JournalRows,
        writes: Writes,
        clients: ClientService,
        read: Read,
        *,
        now: Callable[[], int],
    ) -> None:
        self._db, self._rows, self._writes, self._clients = db, rows, writes, clients
        self._read, self._now = read, now
        self._tried: dict[str, int] = {}

    # Measuring -----------------------------------------------------------------------------------

    async def measure_due(self) -> int:
        """Take a snapshot of every active client whose last is an hour old, and judge the decisions that are
        due; how many were measured. A node that does not answer is asked again in an hour."""
        turns = asyncio.Semaphore(_AT_ONCE)

        async def one(client: Client) -> bool:
            async with turns:
                self._tried[client.client_id] = self._now()
                try:
                    return bool(await self.measure(client, _WAIT_S))
                except HiveError:
                    # Without the right to read it, or a way to it, now; it may be otherwise in an hour.
                    return False

        due = [client for client in await self._clients.all() if await self._due(client)]
        measured = sum(await asyncio.gather(*(one(client) for client in due)))
        if due:
            await self.judge_due()
        return measured

    async def _due(self, client: Client) -> bool:
        if client.state != "active":
            return False
        if client.client_id not in self._tried:
            # Asked of the disk once a start, not once a round.
            last = await self._db.read(lambda tx: self._rows.last(tx, client.client_id))
            self._tried[client.client_id] = last
        return self._now() - self._tried[client.client_id] >= HOUR_S

    async def measure(self, client: Client, wait_s: int) -> int:
        """Read a client's channels, once a day what they earned, and keep that; how many channels.

        Raises HiveError when the credential does not let us read or nothing takes the question.
        """
        answered = await self._every(client, "channel_list", {}, wait_s)
        if answered is None:
            return 0
        now = self._now()
        client_id = client.client_id
        with_fees = await self._db.read(lambda tx: self._rows.last(tx, client_id, True)) <= now - DAY_S
        fees = await self._fees(client, wait_s) if with_fees else None
        samples = [sample for row in answered if (sample := _sample(client_id, now, row, fees)) is not None]
        total = _total(client_id, now, samples, fees)

        def keep(tx: Tx) -> None:
            self._rows.add_samples(tx, [*samples, total])
            self._rows.drop_old(tx, client_id, now)
            for goal in self._rows.goals(tx, client_id, open_only=True):
                value = GOAL_METRICS[goal.metric](total)
                if value is not None:
                    self._rows.checkpoint(tx, goal.goal_id, now // DAY_S, value)

        await self._db.write(keep)
        return len(samples)

    async def _fees(self, client: Client, wait_s: int) -> dict[str, int] | None:
        """Fees of the last 24 hours by channel id; None where the node has no books."""
        rows = await self._every(client, "earnings", {"hours": 24}, wait_s)
        if rows is None:
            return None
        found: dict[str, int] = {}
        for row in rows:
            # What it took for payments that left by it; `fees_in_msat` is the same of other channels.
            account, earned = row.get("account"), _msat(row.get("fees_out_msat", 0))
            if isinstance(account, str) and len(account) == _ID_CHARS and earned is not None:
                found[account] = earned
        return found

    async def _every(
        self, client: Client, action: str, params: Mapping[str, Any], wait_s: int
    ) -> list[Mapping[str, Any]] | None:
        """All pages of a list; None when one was not answered."""
        rows: list[Mapping[str, Any]] = []
        cursor: str | None = None
        while len(rows) < _MOST_CHANNELS:
            asked = {**params, "limit": 1_000, **({} if cursor is None else {"cursor": cursor})}
            page = await self._read(client, action, asked, wait_s)
            if page is None or not isinstance(page.get("items"), list):
                return None
            rows += [row for row in page["items"] if isinstance(row, dict)]
            following = page.get("next_cursor")
            if not isinstance(following, str) or following == cursor or not page["items"]:
                break
            cursor = following
        return rows

    # What follows from it ------------------------------------------------------------------------

    async def velocities(self, client: Client) -> list[Velocity]:
        """How the channels of a client drain and fill, the most urgent first."""
        since = self._now() - VELOCITY_S
        channels = await self._db.read(lambda tx: self._rows.channels(tx, client.client_id, since))
        found = [fitted for rows in channels.values() if (fitted := velocity(rows)) is not None]
        return sorted(found, key=lambda each: (each.minutes is None, each.minutes or 0, each.channel))

    async def trends(self, client: Client) -> list[dict[str, object]]:
        """A client's sums over 7 and 30 days."""
        now = self._now()
        totals = await self._db.read(lambda tx: self._rows.totals(tx, client.client_id, now - 30 * DAY_S))
        return [trend(totals, days, now) for days in (7, 30)]

    # Decisions -----------------------------------------------------------------------------------

    async def decide(
        self,
        client: Client,
        kind: str,
        target: str,
        reasoning: str,
        *,
        confidence: int | None = None,
        predicted: str = "",
        command_id: str | None = None,
        origin: str = "lib",
    ) -> Decision:
        """Note a decision. The same kind and target, open and not a day old, takes the new words instead.

        ``confidence`` is a percentage. Raises InvalidParams.
        """
        if kind not in DECISION_KINDS:
            raise InvalidParams(f"kind must be one of {', '.join(DECISION_KINDS)}; {kind[:40]!r} is none")
        if confidence is not None and not 0 <= confidence <= 100:
            raise InvalidParams(f"confidence is a percentage from 0 to 100, not {confidence}")
        for name, text in (("target", target), ("reasoning", reasoning)):
            if not text.strip() or len(text) > _MAX_TEXT:
                raise InvalidParams(f"{name} must have 1 to {_MAX_TEXT} characters")
        now = self._now()

        def note(tx: Tx) -> Decision:
            recent = self._rows.decisions(tx, client.client_id, open_only=True, since=now - MERGED_S + 1)
            same = next((each for each in recent if (each.kind, each.target) == (kind, target)), None)
            if same is not None:
                merged = replace(
                    same,
                    reasoning=reasoning,
                    confidence=confidence,
                    predicted=predicted,
                    command_id=command_id or same.command_id,
                    said=same.said + 1,
                    updated=now,
                )
                self._rows.merge_decision(tx, merged)
                return merged
            made = Decision(
                0,
                client.client_id,
                kind,
                target,
                reasoning,
                confidence,
                predicted,
                command_id,
                origin,
                1,
                now,
                now,
            )
            return replace(made, decision_id=self._rows.add_decision(tx, made))

        return await self._db.write(note)

    async def decisions(self, client: Client | None, open_only: bool, limit: int) -> list[Decision]:
        """Decisions, the newest first."""
        client_id = None if client is None else client.client_id
        return await self._db.read(
            lambda tx: self._rows.decisions(tx, client_id, open_only=open_only, limit=limit)
        )

    async def outcome(self, decision_id: int) -> Decision:
        """A decision with what came of it, if that can be said now. Raises NotFound."""
        await self._judge([await self._decision(decision_id)])
        return await self._decision(decision_id)

    async def _decision(self, decision_id: int) -> Decision:
        found = await self._db.read(lambda tx: self._rows.decision(tx, decision_id))
        if found is None:
            raise NotFound(f"no decision {decision_id}; 'hive-advisor journal list' has them")
        return found

    async def judge_due(self) -> int:
        """Judge what was decided a day ago or earlier and is open; how many got an outcome."""
        return await self._judge(await self.decisions(None, True, 1_000))

    async def _judge(self, decisions: Sequence[Decision]) -> int:
        judged, now = 0, self._now()
        for decision in decisions:
            if decision.outcome is not None or now < decision.created + JUDGED_FROM_S:
                continue
            judged += await self._db.write(partial(self._judge_one, decision=decision, now=now))
        return judged

    def _judge_one(self, tx: Tx, decision: Decision, now: int) -> bool:
        since = decision.created - _TOUCHED_S
        channels = self._rows.channels(tx, decision.client_id, since)
        touched = {each.target for each in self._rows.decisions(tx, decision.client_id, since=since)}
        for command in self._writes.writes_since(tx, decision.client_id, since):
            touched |= _named(command.params)
        found = judge(decision, channels, frozenset(touched), now)
        if found is not None:
            self._rows.judged(tx, decision.decision_id, found, now)
        return found is not None

    # Goals ---------------------------------------------------------------------------------------

    async def aim(self, client: Client, metric: str, target: int, days: int, note: str = "") -> int:
        """Set a goal that is due in so many days; its number. Raises InvalidParams."""
        if metric not in GOAL_METRICS:
            raise InvalidParams(f"metric must be one of {', '.join(GOAL_METRICS)}; {metric[:40]!r} is none")
        if not 1 <= days <= 365:
            raise InvalidParams(f"a goal is due in 1 to 365 days, not {days}")
        if not 0 <= target <= _MAX_MSAT:
            raise InvalidParams(f"{target} is no figure that {metric} can reach")
        now = self._now()

        def put(tx: Tx) -> int:
            totals = self._rows.totals(tx, client.client_id, now - DAY_S)
            value = GOAL_METRICS[metric](totals[-1]) if totals else None
            goal = Goal(0, client.client_id, metric, target, value, now + days * DAY_S, note, now)
            number = self._rows.add_goal(tx, goal)
            if value is not None:
                self._rows.checkpoint(tx, number, now // DAY_S, value)
            return number

        return await self._db.write(put)

    async def goals(self, client: Client | None, open_only: bool) -> list[tuple[Goal, list[tuple[int, int]]]]:
        """Goals with their checkpoints (day since 1970, figure)."""
        client_id = None if client is None else client.client_id

        def read(tx: Tx) -> list[tuple[Goal, list[tuple[int, int]]]]:
            found = self._rows.goals(tx, client_id, open_only)
            return [(goal, self._rows.checkpoints(tx, goal.goal_id)) for goal in found]

        return await self._db.read(read)

    async def close_goal(self, goal_id: int) -> None:
        """Raises NotFound for a goal that is not there or closed already."""
        if not await self._db.write(lambda tx: self._rows.close_goal(tx, goal_id, self._now())):
            raise NotFound(f"no open goal {goal_id}; 'hive-advisor journal goals' has them")

    async def brief(self) -> dict[str, Any]:
        """What a new session should know: what empties within a day, open decisions, goals that are due."""
        urgent: list[dict[str, object]] = []
        names = {}
        for client in await self._clients.all():
            names[client.client_id] = client.alias
            if client.state == "active":
                urgent += [
                    {"client": client.alias, "channel": v.channel, "towards": v.towards, "minutes": v.minutes}
                    for v in await self.velocities(client)
                    if v.level in ("critical", "high")
                ]
        goals = await self.goals(None, True)
        return {
            "channels_moving": urgent,
            "decisions": [
                {
                    "decision_id": each.decision_id,
                    "client": names.get(each.client_id),
                    "kind": each.kind,
                    "target": each.target,
                }
                for each in await self.decisions(None, True, 10)
            ],
            "goals": [
                {
                    "goal_id": goal.goal_id,
                    "client": names.get(goal.client_id),
                    "metric": goal.metric,
                    "target": goal.target,
                    "now": points[-1][1] if points else None,
                    "due": goal.due,
                }
                for goal, points in goals
            ],
        }


def _msat(value: object) -> int | None:
    """An amount that a node named; None for what is none."""
    number = isinstance(value, int) and not isinstance(value, bool)
    return value if number and isinstance(value, int) and 0 <= value <= _MAX_MSAT else None


def _sample(
    client_id: str, now: int, row: Mapping[str, Any], fees: Mapping[str, int] | None
) -> Sample | None:
    """A row of channel_list; None for a channel that carries nothing now and for what is no such row."""
    local, total = _msat(row.get("to_us_msat")), _msat(row.get("total_msat"))
    channel_id, channel = row.get("channel_id"), row.get("channel")
    usable = isinstance(channel_id, str) and isinstance(channel, str) and len(channel_id) == _ID_CHARS
    if row.get("state") != "CHANNELD_NORMAL" or not usable or local is None or total is None or local > total:
        return None
    earned = None if fees is None else fees.get(str(channel_id), 0)
    return Sample(
        client_id,
        str(channel_id),
        now,
        str(channel)[:64],
        1,
        local,
        total,
        _msat(row.get("out_payments_fulfilled")),
        earned,
    )


def _total(client_id: str, now: int, samples: Sequence[Sample], fees: Mapping[str, int] | None) -> Sample:
    sent = [each.sent_out for each in samples if each.sent_out is not None]
    return Sample(
        client_id,
        "",
        now,
        "",
        len(samples),
        sum(each.local_msat for each in samples),
        sum(each.total_msat for each in samples),
        sum(sent) if len(sent) == len(samples) else None,
        None if fees is None else sum(fees.values()),
    )


def _named(params: Mapping[str, Any]) -> set[str]:
    """Channels that a command is about."""
    single = {params[name] for name in ("channel_id", "from_channel", "to_channel") if name in params}
    many = params.get("channels")
    return {str(each) for each in (*single, *(many if isinstance(many, list) else ()))}
