"""Answers of a node are bytes of a stranger's: whatever stands in one that is signed, the kit refuses it with
an error of its own or takes it, and goes on (11 §5.3).
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hive_advisor.advisor import Advisor
from hive_advisor.services.receipts import VerificationFailed
from hive_shared import envelope
from hive_shared.errors import HiveError
from hive_shared.registry import MONITOR
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plan_world import PlanWorld

WORDS = (
    *(
        "items",
        "roots",
        "head",
        "receipt_id",
        "receipt_hash",
        "prev_hash",
        "sub_id",
        "until",
        "state",
        "response",
    ),
    *("server_time", "next_cursor", "by_status", "confirmed", "channels", "channel_id", "channel", "limits"),
    *(
        "fee_base_msat",
        "fee_proportional_millionths",
        "reserved_msat",
        "fees_msat",
        "total_msat",
        "to_us_msat",
    ),
    *("merkle_root", "first_id", "last_id", "kind", "start", "zbase", "schema", "time", "result", "valid"),
    *("schemas", "actions", "danger", "total", "relays", "max_skew_s", "node_signature", "params", "path"),
    *(
        "short_channel_id",
        "out_fulfilled",
        "spendable_msat",
        "local_msat",
        "earned_msat",
        "by_channel",
        "days",
    ),
)
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, 1, -1, 2**53 - 1, -(2**53) + 1, 1.5]),
    st.sampled_from(
        ["", "1", "-1", "\u00b2", "1e9", "103x1x0", "ab" * 32, "not_found", "9" * 18, "9" * 5_000]
    ),
)
ANY = st.recursive(
    ODD,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(WORDS), inner, max_size=5)
    ),
    max_leaves=12,
)
STUB = {
    "receipt_id": 1,
    "prev_hash": "0" * 64,
    "receipt_hash": "ab" * 32,
    "node_signature": "cd" * 64,
    "schema": "hive:peer/v1",
    "time": 1_800_000_000,
    "result": "success",
}
ROOT = {
    "kind": "prune",
    "start": 0,
    "first_id": 1,
    "last_id": 1,
    "merkle_root": "ab" * 32,
    "zbase": "y" * 104,
}
CHANNEL = {
    "channel": "103x1x0",
    "channel_id": "ab" * 32,
    "short_channel_id": "103x1x0",
    "fee_base_msat": 1_000,
    "fee_proportional_millionths": 200,
    "to_us_msat": 1_000,
    "total_msat": 2_000,
    "out_fulfilled": 3,
    "fees_msat": 4,
    "state": "CHANNELD_NORMAL",
}
SUB = "5f1c0000-0000-4000-8000-000000000001"
HONEST: dict[str, Any] = {
    "capabilities": {
        "server_time": 1_800_000_000,
        "schemas": {"hive:fee-policy/v1": ["set_single"]},
        "limits": {"max_skew_s": 300, "per_min": 60, "max_bytes": 65_535},
        "relays": ["wss://relay.invalid"],
    },
    "subscribe": {"sub_id": SUB, "until": 1_900_000_000},
    "quote": {"valid": True, "danger": {"total": 3}, "required_tier": "standard"},
    "sync": {
        "count": 1,
        "items": [STUB],
        "roots": [ROOT],
        "head": {"receipt_id": 1, "receipt_hash": "ab" * 32},
    },
    "status": {
        "state": "success",
        "response": {"status": 0, "request_nonce": 1, "seq": 1, "error": {"data": {}}},
    },
    "measure": {"items": [CHANNEL], "count": 1, "next_cursor": "2", "fees_msat": 4},
    "reads": {"items": [CHANNEL], "by_status": {"confirmed": 5_000}, "reserved_msat": 0, "next_cursor": "2"},
    "round_of_all": {
        **{"items": [{**STUB, **CHANNEL}], "count": 1, "next_cursor": "2", "roots": [ROOT]},
        "head": {"receipt_id": 1, "receipt_hash": "ab" * 32},
    },
}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every part of an answer."""
    yield path
    for name, inner in (
        value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ())
    ):
        yield from places(inner, (*path, name))


@st.composite
def nearly(draw: st.DrawFn, honest: Any) -> Any:
    """An honest answer with one part, or two, replaced or gone."""
    made = copy.deepcopy(honest)
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from([path for path in places(made) if path]))
        part = made
        for name in path[:-1]:
            part = part[name]
        if isinstance(part, dict) and draw(st.booleans()):
            del part[path[-1]]
        else:
            part[path[-1]] = draw(ANY)
        if not made:
            break
    return made


Ask = Callable[[PlanWorld, Advisor, Any], Awaitable[Any]]


async def capabilities(world: PlanWorld, kit: Advisor, client: Any) -> None:
    await kit.capabilities(client, 1)
    # What was kept is what the next plan is held against.
    await world.plan(kit)
    await kit.doctor(0)


async def subscribe(world: PlanWorld, kit: Advisor, client: Any) -> None:
    await kit.telemetry.subscribe(client, ["health"], 300, 3_600, 1)
    await kit.telemetry.renew()


async def unsubscribe(world: PlanWorld, kit: Advisor, client: Any) -> None:
    await kit.telemetry.unsubscribe(client, "ab" * 8, 1)


async def quote(world: PlanWorld, kit: Advisor, client: Any) -> None:
    await kit.quote(await world.plan(kit), 1)


async def sync(world: PlanWorld, kit: Advisor, client: Any) -> None:
    await kit.sync_receipts(client, 1)


async def status(world: PlanWorld, kit: Advisor, client: Any) -> None:
    (command,) = [row for row in await kit.commands.open() if row.action == "set_single"]
    await kit.ask_status(command, 1)


async def cancel(world: PlanWorld, kit: Advisor, client: Any) -> None:
    (command,) = [row for row in await kit.commands.open() if row.action == "set_single"]
    await kit.cancel(command, 1)


async def measure(world: PlanWorld, kit: Advisor, client: Any) -> None:
    await kit.journal.measure(client, 1)
    await kit.journal.judge_due()
    await kit.brief()


async def round_of_all(world: PlanWorld, kit: Advisor, client: Any) -> None:
    world.now += 4_000
    await kit.pump()


async def reads(world: PlanWorld, kit: Advisor, client: Any) -> None:
    for action in ("fee_report", "channel_list", "onchain_balance", "health_summary", "earnings"):
        plan = await kit.plan(client, MONITOR, action, {})
        await kit.execute(plan, wait_s=1, again=True)
    await kit.guard.judged(await world.plan(kit), "lib")


async def status_of_read(world: PlanWorld, kit: Advisor, client: Any) -> None:
    plan = await kit.plan(client, MONITOR, "fee_report", {})
    await kit.execute(plan, wait_s=0, again=True)


ASKS: tuple[Ask, ...] = (
    *(capabilities, subscribe, unsubscribe, quote, sync, status, cancel, measure, reads, round_of_all),
)


class Desk:
    """One open kit; every example is asked of it, one after another."""

    def __init__(self, directory: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.world = PlanWorld(directory)
        self.context = self.world.open()
        self.kit = self.loop.run_until_complete(self.context.__aenter__())
        self.client = self.loop.run_until_complete(self.world.alice(self.kit))
        self.world.down = True
        plan = self.loop.run_until_complete(self.world.plan(self.kit))
        self.loop.run_until_complete(self.kit.execute(plan, wait_s=0, human=True))
        self.world.down = False

    def ask(self, ask: Ask, parts: dict[str, Any]) -> None:
        """Have the node answer with these parts in place of the honest ones."""

        def answer(command: Any) -> dict[str, Any]:
            said = {**self.world._stamped(command, result={}), **copy.deepcopy(parts)}
            return envelope.sign_response(self.world.node.secret, said)

        self.world.refusal = answer
        self.world.now += 61
        try:
            self.loop.run_until_complete(ask(self.world, self.kit, self.client))
        except HiveError:
            pass
        self.loop.run_until_complete(self.mended())

    async def mended(self) -> None:
        """A contradiction makes the client suspect; the next example meets it active again."""
        if (await self.world.alice(self.kit)).state != "active":
            await self.kit.clients.resume(await self.world.alice(self.kit))

    def close(self) -> None:
        self.loop.run_until_complete(self.context.__aexit__(None, None, None))
        self.loop.close()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    made = Desk(tmp_path_factory.mktemp("any"))
    yield made
    made.close()


@pytest.mark.parametrize("ask", ASKS, ids=lambda ask: ask.__name__)
def test_whatever_a_node_answers_is_an_error_of_ours_or_taken(desk: Desk, ask: Ask) -> None:
    honest = HONEST.get(ask.__name__)

    @settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)
    @given(ANY if honest is None else st.one_of(nearly(honest), ANY))
    def every(result: Any) -> None:
        desk.ask(ask, {"result": result})

    every()


def test_whatever_stands_beside_the_result_is_an_error_of_ours_or_taken(desk: Desk) -> None:
    error = st.dictionaries(
        st.sampled_from(["code", "slug", "message", "retry_after", "data", "challenge", "expires"]),
        ANY,
        max_size=4,
    )
    parts = st.dictionaries(
        st.sampled_from(
            [*("status", "seq", "timestamp", "command_id", "request_nonce", "receipt", "v", "state_hash")]
        ),
        ANY,
        max_size=3,
    )

    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)
    @given(parts, st.none() | ANY | error, st.sampled_from([0, 1, 2, 3, 4]))
    def every(said: dict[str, Any], error: Any, status: int) -> None:
        given_error = {} if error is None else {"error": error}
        desk.ask(status_of_read, {"status": status, **given_error, **said})

    every()
    # Digits that are none, and more of them than a number of the database has.
    for number in ("\u00b2", "9" * 18, "9" * 5_000, -1, True):
        for name in ("request_nonce", "seq", "timestamp"):
            desk.ask(status_of_read, {"command_id": "", name: number})
    # What cannot be taken for an answer to anything is kept apart, with the reason.
    quarantined = desk.loop.run_until_complete(
        desk.kit._db.read(lambda tx: desk.kit._records.quarantined(tx, 500))
    )
    assert quarantined and all(item.why for item in quarantined)


@pytest.mark.parametrize(
    ("result", "said"),
    [({}, "sub_id"), ({"sub_id": "x", "until": 1}, "sub_id"), ({"sub_id": SUB, "until": True}, "until")],
)
def test_a_subscription_that_is_none_is_refused_by_name(desk: Desk, result: Any, said: str) -> None:
    desk.world.refusal = lambda command: desk.world._stamped(command, result=result)
    before = desk.loop.run_until_complete(desk.kit.telemetry.followed(desk.client))
    asked = desk.kit.telemetry.subscribe(desk.client, ["health"], 300, 3_600, 1)
    with pytest.raises(VerificationFailed, match=f"'alice' answered telemetry_subscribe.*{said}"):
        desk.loop.run_until_complete(asked)
    assert desk.loop.run_until_complete(desk.kit.telemetry.followed(desk.client)) == before
