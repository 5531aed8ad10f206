"""hive:wallet/v1 and hive:peer/v1 in the pipeline: what is refused and why, what a spend scores, what became
of a transaction that the node lost sight of (02 §3, §4 items 8 and 10, §7.1)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cl_hive_comms.domain.spend import DAY_S, ONCHAIN
from cl_hive_comms.storage.spend_store import SpendStore
from hive_shared.canonical import JsonValue
from hive_shared.errors import HiveError
from hive_shared.registry import PEER, WALLET, DangerFacts, Tier, find
from hive_shared.store import StoreError
from node_with_wallet import COINS, FOREIGN, OWN, STRANGER, UNCONFIRMED, NodeWithWallet, raw_tx
from pipeline_world import NOW, View, issue, slug
from wallet_world import Richer, ask, trusted

SEND: dict[str, JsonValue] = {"destination": FOREIGN, "amount_sats": 60_000}


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[Richer]:
    made = trusted(tmp_path)
    yield made
    made.close()


async def answer(world: Richer, action: str, params: Mapping[str, JsonValue], schema: str = WALLET) -> Any:
    world.pass_time(20)
    return await world.ask(schema, action, dict(params))


def spent(world: Richer) -> tuple[int, int]:
    """Sats of the credential's class and of the node with fees, in the last 24 h."""
    credential = next(iter(world.credentials.views))
    since = world.now - DAY_S
    return world.db.peek(
        lambda tx: (
            SpendStore().of_credential(tx, credential, ONCHAIN, since),
            SpendStore().of_node(tx, since),
        )
    )


# -- amounts ----------------------------------------------------------------------------------------------


async def test_acceptance_02_08_on_chain_spends_of_a_day_add_up_in_the_danger(world: Richer) -> None:
    first = await answer(world, "send_onchain", SEND)
    assert (first["status"], first["receipt"]["danger"]["total"]) == (0, 6), first
    assert spent(world) == (60_000, 60_300)
    second = await answer(world, "send_onchain", {**SEND, "amount_sats": 40_000})
    assert (second["status"], second["error"]["data"]["workflow"]) == (3, "confirm"), second
    assert second["error"]["data"]["danger"]["total"] == 8
    # What only waits is not spent, and a day later the first one is forgotten.
    assert spent(world) == (60_000, 60_300)
    world.pass_time(DAY_S)
    third = await answer(world, "send_onchain", {**SEND, "amount_sats": 40_000})
    assert (third["status"], third["receipt"]["danger"]["total"]) == (0, 6), third


async def test_to_the_wallets_own_address_nothing_is_spent_but_the_fee(world: Richer) -> None:
    done = await answer(world, "send_onchain", {**SEND, "destination": OWN})
    assert (done["status"], done["receipt"]["danger"]["total"]) == (0, 4), done
    assert spent(world) == (0, 300)
    own = find(WALLET, "send_onchain").required_tier({}, DangerFacts(foreign_destination=False))
    assert own is Tier.ADVANCED


async def test_the_credentials_limit_and_the_operators_budget_hold(world: Richer) -> None:
    limited = issue(
        template="complete_management", tier=Tier.ADMIN, constraints={"max_onchain_sats_24h": 100_000}
    )
    world.credentials.add(View(limited, "adv-1"))
    assert (await answer(world, "send_onchain", SEND))["status"] == 0
    refused = await answer(world, "send_onchain", {**SEND, "amount_sats": 40_001})
    assert (
        slug(refused) == "constraint_violated" and "100001 sat is above 100000" in refused["error"]["message"]
    )
    world.policies.override(
        "aggressive", daily_budget_sats=100_299, approval_overrides={"wallet_*": "auto_execute"}
    )
    refused = await answer(world, "send_onchain", {**SEND, "amount_sats": 39_900})
    assert slug(refused) == "budget_exhausted", refused
    assert "60300 of 100299 sat" in refused["error"]["message"]
    assert len(world.node.published) == 1 and spent(world) == (60_000, 60_300)


async def test_the_nodes_own_choice_of_a_rate_is_bound_by_the_policy_too(world: Richer) -> None:
    world.policies.override(
        "aggressive", max_feerate_perkw=499, approval_overrides={"wallet_*": "auto_execute"}
    )
    refused = await answer(world, "send_onchain", SEND)
    assert slug(refused) == "policy_blocked" and "499 sat per kw" in refused["error"]["message"]
    assert (await answer(world, "send_onchain", {**SEND, "feerate_perkw": 400}))["status"] == 0


async def test_what_miners_get_scores_like_a_payment_once_it_is_notable(world: Richer) -> None:
    """Three inputs and an output weigh 1,032 at most, which is 9,990 sat at a rate of 9,680."""
    many: dict[str, JsonValue] = {"utxos": list(COINS)}
    cheap = await answer(world, "consolidate_utxos", {**many, "feerate_perkw": 9_680})
    assert (cheap["status"], cheap["receipt"]["danger"]["total"]) == (0, 4), cheap
    world.node.reserved.clear()
    # What was really paid, 300 sat each time, counts for the next one: 9,691 and 300; 10,001 and 600.
    for rate, danger in ((9_390, 4), (9_690, 6)):
        world.node.reserved.clear()
        done = await answer(world, "consolidate_utxos", {**many, "feerate_perkw": rate})
        assert (done["status"], done["receipt"]["danger"]["total"]) == (0, danger), done
    world.node.reserved.clear()
    burnt = await answer(world, "consolidate_utxos", {**many, "feerate_perkw": 99_000})
    assert burnt["error"]["data"]["danger"]["total"] == 8, burnt


@pytest.mark.parametrize(
    ("action", "params", "said"),
    [
        (
            "send_onchain",
            {**SEND, "destination": "bcrt1qnoaddressatall"},
            "no address of this node's network",
        ),
        ("send_onchain", {**SEND, "amount_sats": 545}, "from 546"),
        ("send_onchain", {**SEND, "amount_sats": 300_000}, "more than the 300000 sat of coins"),
        ("send_onchain", {**SEND, "utxos": ["00" * 32 + ":0"]}, "is no unspent output of this wallet"),
        ("send_onchain", {**SEND, "utxos": [UNCONFIRMED]}, "has 0 confirmations, 1 are asked for"),
        ("send_onchain", {**SEND, "min_confirmations": 100}, "more than the 0 sat of coins"),
        ("send_onchain", {**SEND, "utxos": [COINS[0], COINS[0]]}, "different from the items before it"),
        ("consolidate_utxos", {"utxos": [COINS[0]]}, "a list of 2 to 100 items"),
        ("consolidate_utxos", {"utxos": list(COINS), "max_count": 2}, "at most one of utxos, max_count"),
        (
            "bump_fee",
            {"txid": COINS[0][:64], "vout": 0, "feerate_perkw": 500, "max_fee_sats": 900},
            "is confirmed",
        ),
        (
            "bump_fee",
            {"txid": UNCONFIRMED[:64], "vout": 0, "feerate_perkw": 5_000, "max_fee_sats": 900},
            "more than max_fee_sats",
        ),
        ("unfreeze_utxos", {"utxos": [COINS[0]]}, "is not frozen by a command"),
        ("freeze_utxos", {"utxos": [COINS[0]], "blocks": 5}, "from 6 to 4320"),
    ],
)
async def test_what_cannot_be_is_refused_with_the_reason_and_nothing_changes(
    world: Richer, action: str, params: dict[str, JsonValue], said: str
) -> None:
    before = world.shown()
    refused = await answer(world, action, params)
    assert slug(refused) == "invalid_params" and said in refused["error"]["message"], refused
    assert world.shown() == before and not world.node.reserved
    assert spent(world) == (0, 0)


async def test_frozen_coins_are_not_spent_and_come_free_at_their_block_with_a_receipt(world: Richer) -> None:
    frozen = await answer(world, "freeze_utxos", {"utxos": [COINS[0]], "blocks": 30})
    assert frozen["status"] == 0 and world.node.reserved == {COINS[0]: 230}
    refused = await answer(world, "send_onchain", {**SEND, "utxos": [COINS[0]]})
    assert "is set aside until block 230" in refused["error"]["message"], refused
    # Again and longer: the same freeze goes on.
    assert (await answer(world, "freeze_utxos", {"utxos": [COINS[0]], "blocks": 40}))["status"] == 0
    assert world.node.reserved == {COINS[0]: 240}
    receipts = len(await world.docs())
    world.pass_time(40 * 600)
    world.restart()
    await world.pipeline.timers.tick()
    assert len(await world.docs()) == receipts, "blocks come when they come"
    world.node.height = 240
    world.pass_time(41 * 600)
    for _ in range(2):
        await world.pipeline.timers.tick()
    (ended,) = (await world.docs())[receipts:]
    assert (ended["action"], ended["result"]["utxo"], ended["status"]) == (
        "unfreeze_utxos",
        COINS[0],
        "success",
    )
    assert (await answer(world, "send_onchain", {**SEND, "utxos": [COINS[0]]}))["status"] == 0


async def test_a_coin_that_something_else_uses_is_not_frozen(world: Richer) -> None:
    world.node.reserved[COINS[1]] = 260
    refused = await answer(world, "freeze_utxos", {"utxos": [COINS[0], COINS[1]]})
    assert (
        slug(refused) == "invalid_params"
        and "in use elsewhere until block 260" in refused["error"]["message"]
    )
    assert world.node.reserved == {COINS[1]: 260}


async def test_the_fifty_first_address_of_a_day_waits_for_the_next(world: Richer) -> None:
    world.policies.override(
        "aggressive",
        rate_limits={"total_actions_per_day": 1_000},
        approval_overrides={"wallet_*": "auto_execute"},
    )
    for _ in range(50):
        assert (await answer(world, "generate_address", {}))["status"] == 0
    assert slug(await answer(world, "generate_address", {})) == "daily_cap"
    world.pass_time(DAY_S)
    assert (await answer(world, "generate_address", {}))["status"] == 0


# -- what people have to allow ----------------------------------------------------------------------------


async def test_a_sweep_is_open_only_where_the_operator_named_it_and_several_sign(world: Richer) -> None:
    sweep = {"destination": FOREIGN}
    held = await ask(world, WALLET, "sweep", sweep)
    assert (held["error"]["data"]["workflow"], held["error"]["data"]["needed"]) == ("multisig", 2)
    assert (await world.docs())[-1]["status"] == "success" and len(world.node.published) == 1
    world.node.reserved.clear()
    for words in ({"wallet_*": "multi_sig_2_of_2"}, {"wallet_sweep": "always_confirm"}, {}):
        world.policies.override(
            "aggressive", approvers=["local", "ab" * 32], approval_overrides=dict[str, JsonValue](words)
        )
        refused = await answer(world, "sweep", sweep)
        assert slug(refused) == "policy_blocked" and "preset forbids sweep" in refused["error"]["message"]
    assert len(world.node.published) == 1


async def test_a_lowered_amount_is_what_is_sent(world: Richer) -> None:
    world.policies.override("moderate", require_confirmation_above=3)
    held = await answer(world, "send_onchain", SEND)
    action_id = held["error"]["data"]["action_id"]
    lowered = {**SEND, "amount_sats": 10_000, "min_confirmations": 1}
    done = await world.pipeline.approvals.approve(action_id, params=lowered)
    assert done["state"] == "success", done
    assert (await world.docs())[-1]["result"]["amount_sats"] == 10_000 and spent(world) == (10_000, 10_300)
    held = await answer(world, "send_onchain", SEND)
    with pytest.raises(HiveError, match="only lower numbers"):
        await world.pipeline.approvals.approve(
            held["error"]["data"]["action_id"], params={**lowered, "amount_sats": 60_001}
        )


# -- transactions that the node lost sight of ---------------------------------------------------------------


async def cut_off(world: Richer) -> str:
    """The plugin and then the node end between preparing and sending; the txid."""
    from pipeline_world import Crash

    world.crash_at = "wallet_prepared"
    with pytest.raises(Crash):
        await answer(world, "send_onchain", {**SEND, "utxos": [COINS[0]]})
    (txid,) = world.node.unreleased
    world.node.restart()
    world.restart()
    await world.pipeline.timers.tick()
    return txid


async def row_of(world: Richer) -> tuple[str, str]:
    """Id and state of the newest command."""
    sql = "SELECT command_id, state FROM comms_commands ORDER BY received_at DESC, nonce DESC LIMIT 1"
    row = await world.db.read(lambda tx: tx.execute(sql).fetchone())
    return str(row[0]), str(row[1])


async def test_it_is_watched_and_counts_until_a_block_tells(world: Richer) -> None:
    txid = await cut_off(world)
    assert (await row_of(world))[1] == "pending_external"
    assert await world.docs() == [] and spent(world)[0] == 60_000
    assert [code for _, code, _ in world.out.alerts] == ["command_pending_external"]
    await world.pipeline.timers.tick()
    assert (await row_of(world))[1] == "pending_external"
    # It had gone out in the last moment: the node sees it in a block.
    world.node.published[txid] = raw_tx([COINS[0]], [60_000, 39_700])
    del world.node.coins[COINS[0]]
    for _ in range(2):
        await world.pipeline.timers.tick()
    (receipt,) = await world.docs()
    assert (receipt["status"], receipt["result"]["txid"]) == ("success", txid)
    assert spent(world) == (60_000, 60_300)


async def test_spent_by_another_one_it_was_never_sent(world: Richer) -> None:
    await cut_off(world)
    del world.node.coins[COINS[0]]
    await world.pipeline.timers.tick()
    (receipt,) = await world.docs()
    assert receipt["status"] == "error" and "spent by another one" in receipt["error"]["message"]
    assert spent(world) == (0, 0)


async def test_acceptance_02_12_unprovable_after_six_blocks_is_indeterminate(
    world: Richer,
) -> None:
    txid = await cut_off(world)
    world.node.height += 5
    await world.pipeline.timers.tick()
    assert (await row_of(world))[1] == "pending_external"
    world.node.height += 1
    for _ in range(2):
        await world.pipeline.timers.tick()
    (receipt,) = await world.docs()
    assert receipt["status"] == "indeterminate" and txid in receipt["error"]["message"]
    # What may have been spent counts, and the operator hears of it.
    assert spent(world)[0] == 60_000
    assert any(code == "command_indeterminate" for _, code, _ in world.out.alerts)
    assert world.node.calls.count("txsend") == 0


@pytest.mark.parametrize(("acted", "status"), [(True, "success"), (False, "error")])
async def test_a_lost_answer_is_looked_into_and_never_asked_again(
    tmp_path: Path, acted: bool, status: str
) -> None:
    world = trusted(tmp_path)
    if acted:
        world.node.lose.add("txsend")
    else:
        world.node.fail["txsend"] = -1
    done = await answer(world, "send_onchain", SEND)
    (receipt,) = await world.docs()
    assert (receipt["status"], len(world.node.published)) == (status, int(acted)), done
    assert world.node.calls.count("txsend") == 1
    assert spent(world)[0] == (60_000 if acted else 0)
    # What was not sent is not left prepared either.
    assert not world.node.unreleased and (acted or not world.node.reserved)
    world.close()


async def test_what_cannot_be_noted_is_not_sent(world: Richer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk refuses the txid once: the prepared transaction is discarded, and the receipt says so."""
    write, refusals = world.db.write, [StoreError("the disk is full")]

    async def full(body: Any, **options: Any) -> Any:
        if world.node.unreleased and refusals:
            raise refusals.pop()
        return await write(body, **options)

    monkeypatch.setattr(world.db, "write", full)
    done = await answer(world, "send_onchain", SEND)
    assert slug(done) == "receipt_store_unavailable" and "nothing was sent" in done["error"]["message"], done
    assert not world.node.published and not world.node.unreleased and not world.node.reserved
    (receipt,) = await world.docs()
    assert receipt["status"] == "error" and spent(world) == (0, 0)


async def test_the_emergency_stop_reaches_what_is_prepared(
    world: Richer, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare = world.node._txprepare

    def stopping(params: dict[str, Any]) -> dict[str, Any]:
        world.switch.on = True
        return prepare(params)

    monkeypatch.setattr(world.node, "_txprepare", stopping)
    done = await answer(world, "send_onchain", SEND)
    assert slug(done) == "emergency_stop", done
    assert not world.node.published and not world.node.unreleased and spent(world) == (0, 0)


# -- peers ------------------------------------------------------------------------------------------------


async def test_a_ban_holds_against_commands_and_ends_once_by_the_clock(world: Richer) -> None:
    ban: dict[str, JsonValue] = {"peer_id": STRANGER, "reason": "spam", "hours": 2}
    assert (await answer(world, "ban", ban, PEER))["status"] == 0
    assert world.node.peers[STRANGER] is False
    refused = await answer(world, "connect", {"peer_id": STRANGER, "host": "8.8.8.8"}, PEER)
    assert slug(refused) == "forbidden_peer", refused
    world.restart()
    assert world.pipeline.bans.banned() == {STRANGER}
    receipts = len(await world.docs())
    world.pass_time(7_200)
    # Over at its time, whether or not the clockwork has come by.
    assert world.pipeline.bans.banned() == frozenset()
    world.restart()
    for _ in range(2):
        await world.pipeline.timers.tick()
    (ended,) = (await world.docs())[receipts:]
    assert (ended["action"], ended["result"]["peer_id"]) == ("unban", STRANGER)
    assert (await answer(world, "connect", {"peer_id": STRANGER, "host": "8.8.8.8"}, PEER))["status"] == 0


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "169.254.169.254", "localhost", "127.0.0.1.nip.io", "2130706433", "[::1]", "10.0.0.7"],
)
@pytest.mark.parametrize("name", ["host", "address"])
async def test_acceptance_02_23_the_node_is_never_asked_for_a_private_host(
    world: Richer, host: str, name: str
) -> None:
    refused = await answer(world, "connect", {"peer_id": "02" + "ef" * 32, name: host}, PEER)
    assert slug(refused) == "policy_blocked", refused
    assert "connect" not in world.node.calls


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"peer_id": STRANGER, "port": 9_735}, "port needs host"),
        ({"peer_id": STRANGER, "node_id": STRANGER}, "peer_id is given already"),
        ({"host": "8.8.8.8"}, "peer_id is required"),
    ],
)
async def test_parameters_of_connect_that_do_not_fit(
    world: Richer, params: dict[str, JsonValue], said: str
) -> None:
    refused = await answer(world, "connect", params, PEER)
    assert slug(refused) == "invalid_params" and said in refused["error"]["message"], refused


async def test_the_danger_of_a_disconnect_follows_the_channels(tmp_path: Path) -> None:
    world = trusted(tmp_path)
    assert isinstance(world.node, NodeWithWallet)
    alone = await answer(world, "disconnect", {"peer_id": STRANGER}, PEER)
    assert (alone["status"], alone["receipt"]["danger"]["total"]) == (0, 2)
    world.node.rows = [{**world.node._row(1), "peer_id": STRANGER}]
    world.node.peers[STRANGER] = True
    bound = await answer(world, "disconnect", {"peer_id": STRANGER}, PEER)
    assert (bound["status"], bound["receipt"]["danger"]["total"]) == (0, 4)
    assert bound["result"]["had_channels"] is True
    gone = await answer(world, "disconnect", {"peer_id": STRANGER}, PEER)
    assert slug(gone) == "invalid_params" and "is not connected" in gone["error"]["message"]
    assert world.now > NOW
    world.close()


async def test_a_peer_with_a_protected_channel_is_left_alone(world: Richer) -> None:
    world.node.rows = [{**world.node._row(1), "peer_id": STRANGER}]
    words: dict[str, JsonValue] = {"peer_*": "auto_execute"}
    world.policies.override("aggressive", protected_channels=["101x1x0"], approval_overrides=words)
    for action, params in (("disconnect", {}), ("ban", {"reason": "spam"})):
        refused = await answer(world, action, {"peer_id": STRANGER, **params}, PEER)
        assert slug(refused) == "protected_channel", refused
    assert world.node.peers[STRANGER] is True and world.pipeline.bans.banned() == frozenset()
