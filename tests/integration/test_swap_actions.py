"""Swaps and peer rebalances in the pipeline: which service is asked and what for, what is refused, what it
counts, and what became of one whose end nobody saw (02 §4 item 5, §7.1; docs/decisions/0412, 0413)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cl_hive_comms.storage.spend_store import SpendStore
from crash_points import killed_everywhere
from hive_shared.canonical import JsonValue
from hive_shared.registry import REBALANCE
from node_with_wallet import FOREIGN, OWN
from pipeline_world import Crash, View, World, issue, slug
from swap_world import OUT, OUT_RPC, PEER, QUOTED_SAT, TASK, Swapping, swapping

OWN_RPC = (OUT_RPC, "")


@pytest_asyncio.fixture
async def boltz(tmp_path: Path) -> AsyncIterator[Swapping]:
    made = swapping(tmp_path)
    yield made
    made.close()


@pytest_asyncio.fixture
async def acme(tmp_path: Path) -> AsyncIterator[Swapping]:
    made = swapping(tmp_path, OWN_RPC)
    yield made
    made.close()


async def ask(world: World, action: str, **changes: JsonValue) -> Any:
    world.pass_time(1)
    params = TASK if action == "peer_rebalance" else OUT
    return await world.ask(REBALANCE, action, {**params, **changes})


async def ticks(world: World) -> None:
    for _ in range(2):
        await world.pipeline.timers.tick()


def spent(world: World) -> int:
    return world.db.peek(lambda tx: SpendStore().of_node(tx, 0))


def reason(world: World, action: str) -> str | None:
    rows: Any = world.pipeline.capabilities.of_node()["unsupported_actions"]
    found = [row["reason"] for row in rows if (row["schema"], row["action"]) == (REBALANCE, action)]
    return found[0] if found else None


# -- which service --------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["swap_out", "swap_in"])
async def test_revenue_boltz_is_asked_for_bitcoin_and_to_an_own_address(boltz: Swapping, action: str) -> None:
    done = await ask(boltz, action)
    assert done["status"] == 0 and done["receipt"]["danger"]["total"] == 5, done
    result = done["result"]
    assert (result["amount_sats"], result["fee_sats"], result["swap_id"]) == (60_000, 300, "q1")
    want: dict[str, Any] = {"amount_sats": 60_000, "currency": "BTC"}
    if action == "swap_out":
        want["address"] = result["address"] == boltz.node.swaps["q1"]["address"] and result["address"]
        assert "newaddr" in boltz.node.calls
    assert boltz.node.swaps == {"q1": want}
    # The amount stays ours.
    assert spent(boltz) == 300


async def test_a_configured_method_comes_first_and_is_told_fee_and_label(acme: Swapping) -> None:
    done = await ask(acme, "swap_out", address=OWN)
    assert done["result"] == {
        "amount_sats": 60_000,
        "fee_sats": 350,
        "address": OWN,
        "swap_id": "a1",
        "txid": "ab" * 32,
    }
    label = f"hive:{done['command_id']}"
    asked = {"amount_sats": 60_000, "max_fee_sats": 500, "address": OWN, "label": label}
    assert acme.node.swaps == {label: asked} and spent(acme) == 350


async def test_without_a_service_the_capabilities_say_why(boltz: Swapping, tmp_path: Path) -> None:
    boltz.node.methods -= {"revenue-boltz-quote", "hive-tasks"}
    await boltz.pipeline.executors.probe()
    assert reason(boltz, "swap_in") == (
        "the node has no swap service: revenue-boltz-quote missing, and hive-comms-swap-in-rpc names no"
        " method"
    )
    assert reason(boltz, "peer_rebalance") == "this node lacks the calls for it: hive-tasks"
    for action in ("swap_out", "swap_in", "peer_rebalance"):
        refused = await ask(boltz, action)
        assert slug(refused) == "unsupported_action", refused
        assert str(reason(boltz, action)) in refused["error"]["message"]
    named = swapping(tmp_path / "named", ("nobody-swaps", ""))
    await named.pipeline.executors.probe()
    assert "no method nobody-swaps, which hive-comms-swap-out-rpc names" in str(reason(named, "swap_out"))
    assert reason(named, "swap_in") is None
    named.close()


# -- limits --------------------------------------------------------------------------------------


async def test_a_fee_above_the_limit_is_refused_before_anything_is_asked(boltz: Swapping) -> None:
    refused = await ask(boltz, "swap_in", max_fee_sats=QUOTED_SAT - 1)
    assert slug(refused) == "invalid_params" and "asks for 400 sat" in refused["error"]["message"], refused
    assert (await ask(boltz, "swap_in", max_fee_sats=QUOTED_SAT))["status"] == 0


async def test_a_foreign_address_scores_and_counts_as_a_withdrawal(tmp_path: Path) -> None:
    world = swapping(tmp_path, OWN_RPC)
    first = await ask(world, "swap_out", address=FOREIGN)
    assert (first["status"], first["receipt"]["danger"]["total"]) == (0, 6), first
    assert spent(world) == 60_350
    second = await ask(world, "swap_out", address=FOREIGN)
    assert second["status"] == 3 and second["error"]["data"]["danger"]["total"] == 8, second
    bad = await ask(world, "swap_out", address="notanaddress00")
    assert slug(bad) == "invalid_params" and bad["error"]["data"]["param"] == "address", bad
    world.close()


@pytest.mark.parametrize(
    ("overrides", "address", "want"),
    [
        ({"max_rebalance_sats": 59_999}, OWN, "policy_blocked"),
        ({"daily_budget_sats": 499}, OWN, "budget_exhausted"),
        ({"blocked_schemas": ["hive:wallet/send_onchain"]}, FOREIGN, "policy_blocked"),
        ({"blocked_schemas": ["hive:wallet/send_onchain"]}, OWN, None),
        ({"required_confirmation": {"onchain_send_gte_sats": 60_000}}, FOREIGN, "confirmation_required"),
        ({"required_confirmation": {"onchain_send_gte_sats": 60_001}}, FOREIGN, None),
    ],
)
async def test_the_operators_rules_on_sends_hold_for_a_swap_to_somebody_else(
    tmp_path: Path, overrides: dict[str, Any], address: str, want: str | None
) -> None:
    world = swapping(tmp_path, OWN_RPC, **overrides)
    assert slug(await ask(world, "swap_out", address=address)) == want
    assert len(world.node.swaps) == (want is None)
    world.close()


async def test_a_credentials_limit_holds(acme: Swapping) -> None:
    limited = issue(template="full_routing", constraints={"max_swap_sats": 59_999})
    acme.credentials.add(View(limited, "adv-1"))
    assert slug(await ask(acme, "swap_out")) == "constraint_violated"
    # Within it the danger of 5 is a standard matter.
    assert (await ask(acme, "swap_out", amount_sats=59_999))["status"] == 0


# -- ends --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rpcs", [("", ""), OWN_RPC])
@pytest.mark.parametrize(("ends", "status"), [("done", "success"), ("failed", "error")])
async def test_what_takes_long_is_followed(
    tmp_path: Path, rpcs: tuple[str, str], ends: str, status: str
) -> None:
    world = swapping(tmp_path, rpcs)
    world.node.state = "pending"
    first = await ask(world, "swap_out")
    assert (first["status"], first["result"]["state"]) == (3, "pending_external"), first
    assert spent(world) == 500, "the most it may cost"
    world.pass_time(86_400)
    world.restart()
    await ticks(world)
    assert await world.docs() == []
    world.node.state = ends
    await ticks(world)
    (receipt,) = await world.docs()
    assert receipt["status"] == status, receipt
    # What came of one that was given up only the service knows: it stays counted.
    assert spent(world) == (500 if ends == "failed" else 350 if rpcs[0] else 300)
    assert len(world.node.swaps) == 1
    world.close()


@pytest.mark.parametrize("rpcs", [("", ""), OWN_RPC])
async def test_a_refusal_begins_nothing(tmp_path: Path, rpcs: tuple[str, str]) -> None:
    world = swapping(tmp_path, rpcs)
    world.node.state = "rejected"
    refused = await ask(world, "swap_out")
    assert slug(refused) == "node_error" and "refused the swap" in refused["error"]["message"], refused
    assert spent(world) == 0
    world.close()


async def test_an_error_of_a_configured_method_means_that_nothing_was_begun(acme: Swapping) -> None:
    acme.node.breaks[OUT_RPC] = -32600
    refused = await ask(acme, "swap_out")
    assert slug(refused) == "node_error" and "private-dir" not in str(refused) and spent(acme) == 0, refused


@pytest.mark.parametrize(("code", "status"), [(-32602, "error"), (-32600, "indeterminate")])
async def test_an_error_of_anybody_elses_does_not(boltz: Swapping, code: int, status: str) -> None:
    boltz.node.breaks["revenue-boltz-loop-out"] = code
    answer = await ask(boltz, "swap_out")
    assert "private-dir" not in str(answer)
    (receipt,) = await boltz.docs()
    assert receipt["status"] == status and spent(boltz) == (0 if status == "error" else 500)
    unclear = [code for _, code, _ in boltz.out.alerts if code == "command_indeterminate"]
    assert len(unclear) == (status == "indeterminate")


async def test_dearer_than_allowed_raises_a_critical_alert(acme: Swapping) -> None:
    done = await ask(acme, "swap_out", max_fee_sats=349)
    assert (done["status"], done["result"]["fee_sats"]) == (0, 350), done
    assert ("critical", "command_success") in [(level.value, code) for level, code, _ in acme.out.alerts]


@pytest.mark.parametrize(("rpcs", "followed"), [(("", ""), True), (OWN_RPC, True), (OWN_RPC, False)])
async def test_acceptance_02_12_a_lost_answer_is_looked_into_and_never_asked_again(
    tmp_path: Path, rpcs: tuple[str, str], followed: bool
) -> None:
    world = swapping(tmp_path, rpcs)
    if not followed:
        world.node.methods -= {f"{OUT_RPC}-status"}
    await world.pipeline.executors.probe()
    world.node.loses |= {OUT_RPC, "revenue-boltz-loop-out"}
    await ask(world, "swap_out")
    await ticks(world)
    (receipt,) = await world.docs()
    found = rpcs == OWN_RPC and followed
    assert receipt["status"] == ("success" if found else "indeterminate"), receipt
    assert spent(world) == (350 if found else 500) and len(world.node.swaps) == 1
    world.close()


@pytest.mark.parametrize("late", [True, False])
async def test_acceptance_02_12_nothing_is_called_unbegun_while_the_call_may_still_run(
    acme: Swapping, late: bool
) -> None:
    acme.crash_at = "swap_noted"
    with pytest.raises(Crash):
        await ask(acme, "swap_out")
    acme.restart()
    await ticks(acme)
    assert await acme.docs() == []
    if late:
        row = await acme.db.read(lambda tx: tx.execute("SELECT command_id FROM comms_commands").fetchone())
        acme.node._acme({"label": f"hive:{row[0]}"})
    acme.pass_time(301)
    await ticks(acme)
    (receipt,) = await acme.docs()
    assert receipt["status"] == ("success" if late else "error"), receipt
    assert acme.node.calls.count(OUT_RPC) == 0 and spent(acme) == (350 if late else 0)


RUNS = [("swap_in", ("", "")), ("swap_out", OWN_RPC), ("peer_rebalance", ("", ""))]


@pytest.mark.parametrize(("action", "rpcs"), RUNS)
async def test_acceptance_02_12_a_swap_or_task_killed_anywhere_is_asked_for_once(
    tmp_path: Path, action: str, rpcs: tuple[str, str]
) -> None:
    def make(directory: Path) -> World:
        return swapping(directory, rpcs)

    async def order(world: World) -> None:
        await ask(world, action)

    seen: set[str] = set()
    async for at, world, died in killed_everywhere(tmp_path, order, make):
        assert isinstance(world, Swapping)
        world.pass_time(301)
        await ticks(world)
        docs, begun = await world.docs(), sum(world.shown())
        status = docs[0]["status"] if docs else "none"
        seen.add(status)
        assert len(docs) <= 1 and (docs or died) and begun <= 1, (at, docs)
        assert status != "success" or begun == 1, (at, docs)
        assert begun == 0 or status in ("success", "indeterminate"), (at, docs)
        assert bool(spent(world)) == (status in ("success", "indeterminate")), (at, docs)
    assert seen >= {"none", "error", "success"}, seen
    # Only where nobody can be asked is it left open.
    assert ("indeterminate" in seen) == (action != "peer_rebalance" and rpcs != OWN_RPC), seen


# -- peers --------------------------------------------------------------------------------------


async def test_a_peer_rebalance_is_a_task_of_cl_hives(boltz: Swapping) -> None:
    boltz.node.tasks.append({**TASK, "target": PEER, "task_type": "rebalance", "request_id": "old"})
    done = await ask(boltz, "peer_rebalance")
    assert (done["status"], done["receipt"]["danger"]["total"]) == (0, 4), done
    assert done["result"] == {**TASK, "request_id": "r2"}
    made = {name: value for name, value in TASK.items() if name != "peer_id"}
    assert boltz.node.tasks[1] == {
        **made,
        "target": PEER,
        "task_type": "rebalance",
        "request_id": "r2",
        "status": "open",
    }
    assert spent(boltz) == 45, "what the peer's help may cost"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"peer_id": "03" + "cd" * 32}, "no channel with that peer"),
        ({"amount_sats": 99_999}, "from 100000"),
        ({"direction": "both"}, "one of in, out"),
        ({"max_fee_ppm": 1_001}, "from 0 to 1000"),
    ],
)
async def test_a_task_that_cannot_be_is_refused(
    boltz: Swapping, changes: dict[str, JsonValue], said: str
) -> None:
    refused = await ask(boltz, "peer_rebalance", **changes)
    assert slug(refused) == "invalid_params" and said in refused["error"]["message"], refused
    assert boltz.node.tasks == [] and spent(boltz) == 0


@pytest.mark.parametrize("made", [0, 1, 2])
async def test_acceptance_02_12_a_lost_task_is_found_among_those_that_came_since(
    boltz: Swapping, made: int
) -> None:
    ask_for = boltz.node._hive_tasks
    # The operator's own, like it.
    ask_for({**TASK, "target": PEER, "action": "request", "task_type": "rebalance"})

    def lost(params: dict[str, Any]) -> dict[str, Any]:
        if params["action"] == "request":
            for _ in range(made):
                ask_for(params)
            boltz.node.loses.add("hive-tasks")
        return ask_for({"action": "list"})

    boltz.node._hive_tasks = lost  # type: ignore[method-assign]
    await ask(boltz, "peer_rebalance")
    boltz.node.loses.clear()
    boltz.pass_time(61)
    await ticks(boltz)
    (receipt,) = await boltz.docs()
    assert receipt["status"] == ("error", "success", "indeterminate")[made], receipt
    assert boltz.node.calls.count("hive-tasks") >= 3 and len(boltz.node.tasks) == made + 1
