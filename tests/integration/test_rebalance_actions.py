"""circular_rebalance in the pipeline: what is refused and why, which way it goes, what it counts, and what
became of one whose end nobody saw (02 §4 item 5, §5.2, §7.1)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cl_hive_comms.domain.spend import DAY_S
from cl_hive_comms.domain.spend import REBALANCE as KIND
from cl_hive_comms.storage.spend_store import SpendStore
from crash_points import killed_everywhere
from hive_shared.canonical import JsonValue
from hive_shared.registry import REBALANCE, Tier
from pipeline_world import NODE_ID, Crash, View, World, issue, slug
from rebalance_world import ASKED, FAR, FEE_MSAT, HASH, HOME, OUT, THIRD, Ring, ring

ACTION = "circular_rebalance"


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[Ring]:
    made = ring(tmp_path)
    yield made
    made.close()


async def ask(world: World, **changes: JsonValue) -> Any:
    world.pass_time(1)
    return await world.ask(REBALANCE, ACTION, {**ASKED, **changes})


def counted(world: World) -> tuple[int, int]:
    """Fees of the credential's rebalances and all spends of the node, sat in the last 24 h."""
    credential, since = next(iter(world.credentials.views)), world.now - DAY_S
    return world.db.peek(
        lambda tx: (
            SpendStore().fees_of(tx, credential, KIND, since),
            SpendStore().of_node(tx, since),
        )
    )


def told(world: Ring, method: str) -> list[dict[str, Any]]:
    return [params for name, params in world.node.asked if name == method]


async def test_acceptance_02_18_it_goes_out_by_one_channel_and_comes_home_by_the_other(world: Ring) -> None:
    done = await ask(world, prefer_hive_route=True)
    assert done["status"] == 0, done
    assert done["result"] == {
        "payment_hash": HASH,
        "from_channel": OUT,
        "to_channel": HOME,
        "amount_sats": 50_000,
        "fee_msat": FEE_MSAT,
        "fee_ppm": 430,
        "attempts": 1,
        "hive_route": False,
    }
    (sent,) = told(world, "sendpay")
    peers = [world.node.row(scid)["peer_id"] for scid in (OUT, HOME)]
    ours = 0 if peers[0] > NODE_ID else 1
    assert sent["route"][0] == {
        "short_channel_id_dir": f"{OUT}/{ours}",
        "node_id_out": peers[0],
        "amount_out_msat": 50_000_000 + FEE_MSAT,
        "cltv_out": 36,
    }
    assert [hop["node_id_out"] for hop in sent["route"]] == [*peers, NODE_ID]
    assert (sent["label"], sent["payment_hash"]) == (f"hive:{done['command_id']}", HASH)
    (way,) = told(world, "getroutes")
    assert (way["source"], way["destination"], way["maxfee_msat"]) == (peers[0], NODE_ID, 25_000)
    assert (way["maxparts"], way["layers"]) == (1, ["auto.localchans", f"hive:{done['command_id']}"])
    # Layer and invoice are gone or paid, the fee is booked as what it was, the balances are another state.
    assert world.node.left() == ([], []) and counted(world) == (22, 22)
    receipt = done["receipt"]
    assert (receipt["status"], receipt["danger"]["total"]) == ("success", 3)
    assert receipt["state_hash_before"] != receipt["state_hash_after"]
    (asked,) = told(world, "invoice")
    assert (asked["amount_msat"], asked["expiry"]) == (50_000_000, 600)
    rows = await world.db.read(lambda tx: list(map(str, tx.execute("SELECT * FROM comms_commands"))))
    assert "5e" * 32 not in str(rows) + str(done)


async def test_only_to_channel_leads_home_and_no_forbidden_node_lies_on_the_way(tmp_path: Path) -> None:
    bad = "03" + "ab" * 32
    world = ring(tmp_path, forbidden_peers=[bad])
    closed: list[Any] = []
    world.node.ends = ["failed", "complete"]
    look = world.node._askrene_remove_layer

    def removed(params: dict[str, Any]) -> dict[str, Any]:
        closed.append(world.node.layers[params["layer"]])
        return look(params)

    world.node._askrene_remove_layer = removed  # type: ignore[method-assign]
    # A channel that is not confirmed yet carries payments under its alias.
    third = world.node.row(THIRD)
    third |= {"alias": {"local": "7000x1x0"}, "short_channel_id": None}
    done = await ask(world)
    assert (done["status"], done["result"]["attempts"]) == (0, 2), done
    ((layer),) = closed
    peers = [world.node.row(OUT)["peer_id"], third["peer_id"]]
    home = [0 if peer < NODE_ID else 1 for peer in peers]
    assert layer["closed"] == [f"{OUT}/{home[0]}", f"7000x1x0/{home[1]}"] and layer["nodes"] == [bad]
    ((hop, amount),) = layer["informed"]
    assert hop.startswith(FAR) and amount == 50_000_500
    world.close()


async def test_a_peer_with_several_channels_may_have_chosen_another_one_and_the_result_says_so(
    world: Ring,
) -> None:
    world.node.row(THIRD)["peer_id"] = world.node.row(HOME)["peer_id"]
    done = await ask(world)
    assert (done["status"], done["result"]["or_by_channels"]) == (0, [THIRD]), done


async def test_an_older_node_is_asked_in_its_own_words(world: Ring) -> None:
    world.node.version = "v25.05"
    done = await ask(world)
    assert done["status"] == 0 and done["result"]["fee_msat"] == FEE_MSAT, done
    (way,) = told(world, "getroutes")
    assert "maxparts" not in way and way["layers"][-1] == "auto.no_mpp_support"
    (sent,) = told(world, "sendpay")
    peers = [world.node.row(scid)["peer_id"] for scid in (OUT, HOME)]
    assert sent["route"] == [
        {"channel": OUT, "id": peers[0], "amount_msat": 50_021_500, "delay": 36},
        {"channel": FAR, "id": peers[1], "amount_msat": 50_000_500, "delay": 30},
        {"channel": HOME, "id": NODE_ID, "amount_msat": 50_000_000, "delay": 24},
    ]


# -- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "rows", "said"),
    [
        ({"from_channel": "999x1x0"}, {}, "from_channel 999x1x0 is no channel of this node"),
        ({"to_channel": OUT}, {}, "are the same"),
        ({"amount_sats": 999}, {}, "from 1000"),
        ({"max_fee_ppm": 1_001}, {}, "from 0 to 1000"),
        ({"retry_for": 9}, {}, "from 10 to 600"),
        ({"retry_for": 601}, {}, "from 10 to 600"),
        ({"amount_sats": 490_000}, {}, "can send 490000 sat, amount_sats with its fee needs 490245"),
        ({}, {HOME: {"receivable_msat": 49_999_999}}, "can receive 49999 sat, amount_sats needs 50000"),
        ({}, {OUT: {"peer_connected": False}}, "peer of from_channel 101x1x0 is not connected"),
        ({}, {HOME: {"state": "CHANNELD_SHUTTING_DOWN"}}, "is in state CHANNELD_SHUTTING_DOWN"),
        ({}, {HOME: {"peer_id": "02" + f"{1:064x}"}}, "with the same peer, who chooses"),
    ],
)
async def test_what_cannot_be_is_refused_with_the_reason_and_nothing_changes(
    world: Ring, params: dict[str, JsonValue], rows: dict[str, dict[str, Any]], said: str
) -> None:
    for scid, change in rows.items():
        world.node.row(scid).update(change)
    refused = await ask(world, **params)
    assert slug(refused) == "invalid_params" and said in refused["error"]["message"], refused
    assert not told(world, "invoice") and counted(world) == (0, 0)


@pytest.mark.parametrize(
    ("overrides", "params", "want"),
    [
        ({"max_rebalance_sats": 49_999}, {}, ("policy_blocked", "max_rebalance_sats")),
        ({"max_rebalance_fee_ppm": 499}, {}, ("policy_blocked", "max_rebalance_fee_ppm")),
        ({"protected_channels": [HOME]}, {}, ("protected_channel", "protected_channels")),
        ({"forbidden_peers": ["02" + f"{2:064x}"]}, {}, ("forbidden_peer", "forbidden_peers")),
        ({"daily_budget_sats": 24}, {}, ("budget_exhausted", "daily_budget_sats")),
        ({"rate_limits": {"rebalances_per_day": 0}}, {}, ("rate_limited", "rate_limits.rebalances")),
    ],
)
async def test_the_operators_policy_holds(
    tmp_path: Path, overrides: dict[str, Any], params: dict[str, JsonValue], want: tuple[str, str]
) -> None:
    world = ring(tmp_path, **overrides)
    refused = await ask(world, **params)
    assert (slug(refused), refused["error"]["data"]["rule"]) == want, refused
    assert not told(world, "invoice")
    world.close()


async def test_a_credentials_limits_hold_and_make_a_large_one_a_standard_matter(world: Ring) -> None:
    large: dict[str, JsonValue] = {"amount_sats": 100_000}
    limits: dict[str, JsonValue] = {"max_rebalance_sats": 100_000, "max_rebalance_fee_ppm": 500}
    plain = issue(template="full_routing", constraints={"max_daily_actions": 9})
    world.credentials.add(View(plain, "adv-1"))
    refused = await ask(world, **large)
    assert slug(refused) == "tier_insufficient", refused
    world.credentials.add(View(issue(template="full_routing", constraints=limits), "adv-1"))
    assert slug(await ask(world, amount_sats=100_001)) == "constraint_violated"
    assert slug(await ask(world, max_fee_ppm=501)) == "constraint_violated"
    done = await ask(world, **large)
    assert (done["status"], done["receipt"]["danger"]["total"]) == (0, 5), done


async def test_a_days_rebalances_are_counted_and_those_that_moved_nothing_are_not(tmp_path: Path) -> None:
    world = ring(tmp_path, rate_limits={"rebalances_per_day": 1})
    world.node.no_route = 205
    assert slug(await ask(world)) == "node_error"
    world.node.no_route = None
    assert (await ask(world))["status"] == 0
    refused = await ask(world)
    assert slug(refused) == "rate_limited" and refused["error"]["data"]["rule"] == "rate_limits.rebalances"
    world.close()


@pytest_asyncio.fixture
async def both(world: Ring) -> AsyncIterator[Ring]:
    """A second advisor, with the credential 2, may do as much as the first."""
    other = issue(template="complete_management", tier=Tier.ADVANCED, number=2)
    world.credentials.add(View(other, "adv-2"))
    yield world


async def test_another_advisor_waits_on_both_channels(both: Ring) -> None:
    assert (await ask(both))["status"] == 0
    for channel in (OUT, HOME):
        refused = await both.set_fee(110, channel, credential=2)
        assert slug(refused) == "cooldown", refused
    assert (await both.set_fee(110, THIRD, credential=2))["status"] == 0


async def test_acceptance_02_20_another_advisors_rebalance_of_a_channel_waits_an_hour(both: Ring) -> None:
    assert (await ask(both))["status"] == 0
    both.pass_time(300)
    # Another field of the channel is free after the cooldown, its balance is not.
    assert (await both.set_fee(110, OUT, credential=2))["status"] == 0
    limits = {"channel_id": HOME, "htlc_maximum_msat": 400_000_000}
    written = await both.ask("hive:htlc-policy/v1", "set_htlc_limits", limits, credential=2)
    assert written["status"] == 0, written
    refused = await both.ask(REBALANCE, ACTION, ASKED, credential=2)
    assert slug(refused) == "cooldown" and refused["error"]["retry_after"] == 3_300, refused
    # One end is enough, whichever way round.
    turned = {**ASKED, "from_channel": HOME, "to_channel": THIRD}
    assert slug(await both.ask(REBALANCE, ACTION, turned, credential=2)) == "cooldown"
    # The first one waits for the change of limits, not for itself.
    assert slug(await ask(both)) == "cooldown"
    both.pass_time(3_299)
    # This node has one payment hash for all its invoices.
    both.node.parts.clear()
    last = await both.ask(REBALANCE, ACTION, ASKED, credential=2)
    assert last["status"] == 0, last


async def test_other_channels_can_be_changed_while_a_rebalance_has_no_end(
    both: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = both.node.call

    async def dies(method: str, *rest: Any, **named: Any) -> Any:
        if method == "getroutes":
            raise Crash
        return await call(method, *rest, **named)

    with monkeypatch.context() as patched:
        patched.setattr(both.node, "call", dies)
        with pytest.raises(Crash):
            await ask(both)
    both.restart()
    for credential in (1, 2):
        both.pass_time(1)
        assert slug(await both.set_fee(110, OUT, credential=credential)) == "busy"
    assert (await both.set_fee(110, THIRD, credential=2))["status"] == 0


# -- failures -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "said"), [(205, "no route from"), (206, "costs more than max_fee_ppm"), (-1, "code -1")]
)
async def test_acceptance_02_18_no_route_is_an_error_and_invoice_and_layer_are_gone(
    world: Ring, code: int, said: str
) -> None:
    world.node.no_route = code
    refused = await ask(world)
    assert slug(refused) == "node_error" and said in refused["error"]["message"], refused
    assert "private-dir" not in str(refused)
    assert world.node.left() == ([], []) and world.node.own == {} and counted(world) == (0, 0)
    assert not told(world, "sendpay")


@pytest.mark.parametrize(
    ("ends", "attempts", "said"),
    [
        (["failed"], 10, "all attempts failed, the last one at channel 901x1x0"),
        (["refused"], 1, "WIRE_INCORRECT_OR_UNKNOWN_PAYMENT_DETAILS"),
        (["local"], 1, "from_channel does not take the payment now"),
        (["gone"], 0, "from_channel does not take the payment now"),
    ],
)
async def test_attempts_end_with_the_last_ones_reason_and_nothing_is_left(
    world: Ring, ends: list[str], attempts: int, said: str
) -> None:
    world.node.ends = ends
    failed = await ask(world)
    assert slug(failed) == "node_error" and said in failed["error"]["message"], failed
    assert len(world.node.parts) == attempts
    (receipt,) = await world.docs()
    assert receipt["result"] == {"payment_hash": HASH, "attempts": attempts}
    assert world.node.left() == ([], []) and world.node.own == {} and counted(world) == (0, 0)


async def test_no_attempt_begins_after_retry_for(world: Ring) -> None:
    world.node.ends = ["failed"]
    wait = world.node._waitsendpay

    def slow(params: dict[str, Any]) -> dict[str, Any]:
        assert params["timeout"] <= 10
        world.pass_time(4)
        return wait(params)

    world.node._waitsendpay = slow  # type: ignore[method-assign]
    failed = await ask(world, retry_for=10)
    assert slug(failed) == "node_error" and len(world.node.parts) == 3, failed


async def test_the_emergency_stop_is_asked_before_each_attempt(world: Ring) -> None:
    world.node.ends = ["failed"]
    wait = world.node._waitsendpay

    def stopping(params: dict[str, Any]) -> dict[str, Any]:
        world.switch.on = True
        return wait(params)

    world.node._waitsendpay = stopping  # type: ignore[method-assign]
    stopped = await ask(world)
    assert slug(stopped) == "emergency_stop" and len(world.node.parts) == 1, stopped
    assert world.node.left() == ([], [])


@pytest.mark.parametrize(
    "spoil",
    [
        {"routes": 2},
        {"short_channel_id_dir": f"{THIRD}/0"},
        {"node_id_out": "02" + "77" * 32},
        {"amount_in_msat": 50_025_001, "routes": 0},
    ],
)
async def test_a_way_that_was_not_asked_for_is_not_gone(world: Ring, spoil: dict[str, Any]) -> None:
    world.node.spoil = spoil
    refused = await ask(world)
    assert slug(refused) == "node_error" and "not asked for" in refused["error"]["message"], refused
    assert not world.node.parts and world.node.left() == ([], [])


async def test_a_dearer_way_than_allowed_is_not_gone(world: Ring) -> None:
    refused = await ask(world, max_fee_ppm=429)
    assert slug(refused) == "node_error" and "21500 msat" in refused["error"]["message"], refused
    assert not world.node.parts


# -- ends that nobody saw -----------------------------------------------------------------------------------


async def ticks(world: World) -> None:
    for _ in range(2):
        await world.pipeline.timers.tick()


@pytest.mark.parametrize("ends", ["complete", "failed"])
async def test_what_does_not_end_in_time_is_watched_and_no_second_invoice_is_made(
    world: Ring, ends: str
) -> None:
    world.node.ends = ["pending"]
    first = await ask(world)
    assert (first["status"], first["result"]["state"]) == (3, "pending_external"), first
    assert counted(world) == (25, 25), "reserved with the most it may cost"
    world.restart()
    world.pass_time(3 * 86_400)
    await ticks(world)
    assert await world.docs() == [] and len(told(world, "invoice")) == 1
    world.node.end(ends)
    await ticks(world)
    (receipt,) = await world.docs()
    assert receipt["status"] == ("success" if ends == "complete" else "error"), receipt
    assert world.node.left() == ([], []) and len(world.node.parts) == 1
    booked = world.db.peek(lambda tx: SpendStore().of_node(tx, 0))
    assert booked == (22 if ends == "complete" else 0)


@pytest.mark.parametrize("method", ["invoice", "askrene_create_layer", "getroutes", "sendpay", "waitsendpay"])
async def test_a_lost_answer_is_looked_into_and_never_asked_again(world: Ring, method: str) -> None:
    world.node.lose.add(method)
    answer = await ask(world)
    world.node.lose.clear()
    await ticks(world)
    (receipt,) = await world.docs()
    moved = method in ("sendpay", "waitsendpay")
    assert receipt["status"] == ("success" if moved else "error"), (answer, receipt)
    assert len(world.node.moved()) == len(world.node.parts) == moved
    assert counted(world) == ((22, 22) if moved else (0, 0)) and world.node.left() == ([], [])


async def test_acceptance_02_12_a_rebalance_killed_anywhere_is_made_once_or_not_at_all(
    tmp_path: Path,
) -> None:
    async def order(world: World) -> None:
        await world.ask(REBALANCE, ACTION, dict(ASKED))

    def make(directory: Path) -> World:
        world = ring(directory)
        world.node.ends = ["failed", "complete"]
        return world

    seen: set[str] = set()
    async for at, world, died in killed_everywhere(tmp_path, order, make):
        assert isinstance(world, Ring)
        docs, moved = await world.docs(), world.node.moved()
        status = docs[0]["status"] if docs else "none"
        seen.add(status)
        assert len(docs) <= 1 and (docs or died) and len(moved) == (status == "success"), (at, docs)
        assert len(told(world, "invoice")) <= 1 and len(world.node.parts) <= 2
        assert counted(world) == ((22, 22) if moved else (0, 0)), (at, docs)
        assert world.node.left() == ([], []), (at, docs)
    assert seen >= {"none", "error", "success"}, seen


@pytest.mark.parametrize("gone", ["parts", "both"])
async def test_acceptance_02_12_deleted_rows_prove_nothing_alone(world: Ring, gone: str) -> None:
    world.node.ends = ["pending"]
    await ask(world)
    world.node.end("complete")
    world.node.parts.clear()
    if gone == "both":
        world.node.own.clear()
    await ticks(world)
    (receipt,) = await world.docs()
    if gone == "parts":
        # The paid invoice tells that it went through, not what it cost.
        assert (receipt["status"], receipt["result"]["fee_msat"]) == ("success", None), receipt
    else:
        assert receipt["status"] == "indeterminate" and "were deleted" in receipt["error"]["message"]
    assert counted(world) == (25, 25), "what nobody knows stays counted in full"


async def test_acceptance_02_12_an_attempt_that_arrives_late_finds_no_invoice(world: Ring) -> None:
    """Killed when the node was told to pay: the invoice is deleted before anything is called unsent."""
    world.crash_at = "rebalance_noted"
    with pytest.raises(Crash):
        await ask(world)
    world.restart()
    await ticks(world)
    (receipt,) = await world.docs()
    assert receipt["status"] == "error" and "nothing was sent" in receipt["error"]["message"]
    hop = {"amount_out_msat": 50_000_000}
    late = {"payment_hash": HASH, "label": f"hive:{receipt['command_id']}", "route": [hop]}
    world.node._sendpay(late)
    assert world.node.moved() == [] and counted(world) == (0, 0)
