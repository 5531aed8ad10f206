"""The emergency stop, engaged during each wait of a command: what has not been asked of the node is not asked
any more, and the receipt says why (08 §6 "Kill switch"; docs/decisions/0397)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import payment_world
import pytest
import wallet_world
from channel_node import PEER, SECOND, agree, channel_world
from hive_shared.canonical import JsonValue
from hive_shared.registry import CHANNEL, PAYMENT, WALLET
from hive_shared.registry import PEER as PEERS
from hive_shared.store import Tx
from node_with_wallet import COINS
from payment_world import BILL, FRIEND, Paying
from pipeline_world import Crash, World, slug
from wallet_world import FROZEN, Richer

_MOST_WAITS = 30
# After it nothing of the node can still be under way.
_SETTLED_S = 3_600


def _with_offer(directory: Path) -> World:
    world = payment_world.trusted(directory)
    assert world.node.offer_of("offer", 5_000_000, 5_000_000) == OFFER
    return world


OFFER = payment_world.bolt11("offer").replace("lnbcrt", "lno")


@dataclass(frozen=True)
class Case:
    """A command, its world, the call that is its effect, and how many such calls do it whole."""

    make: Callable[[Path], World]
    schema: str
    action: str
    params: Mapping[str, JsonValue]
    effect: str
    calls: int = 1


_BATCH: JsonValue = [{"peer_id": PEER, "amount_sats": 100_000}, {"peer_id": SECOND, "amount_sats": 120_000}]
_ONCHAIN = wallet_world.CASES[WALLET, "send_onchain"].params
CASES = {
    "bolt11": Case(payment_world.trusted, PAYMENT, "pay_invoice", {"bolt11": BILL}, "xpay"),
    "offer": Case(_with_offer, PAYMENT, "pay_invoice", {"bolt11": OFFER}, "xpay"),
    "keysend": Case(
        payment_world.trusted,
        PAYMENT,
        "keysend",
        {"destination": FRIEND, "amount_msat": 9_000_000},
        "xkeysend",
    ),
    "open": Case(channel_world, CHANNEL, "open", {"peer_id": PEER, "amount_sats": 250_000}, "fundchannel"),
    "open_batch": Case(channel_world, CHANNEL, "open_batch", {"destinations": _BATCH}, "multifundchannel"),
    "close": Case(
        channel_world, CHANNEL, "close_cooperative", {"channel_id": "101x1x0", "reason": "idle"}, "close"
    ),
    "send_onchain": Case(wallet_world.trusted, WALLET, "send_onchain", _ONCHAIN, "txsend"),
    "consolidate": Case(wallet_world.trusted, WALLET, "consolidate_utxos", {"max_count": 3}, "txsend"),
    "freeze": Case(
        wallet_world.trusted,
        WALLET,
        "freeze_utxos",
        {"utxos": [COINS[0], COINS[1]], "blocks": 30},
        "utxopsbt",
        2,
    ),
    "unfreeze": Case(
        wallet_world.trusted, WALLET, "unfreeze_utxos", {"utxos": [COINS[0]]}, "unreserveinputs"
    ),
    "ban": Case(wallet_world.trusted, PEERS, "ban", wallet_world.BANNED[2], "disconnect"),
}


class Stopping:
    """Engages the stop while the n-th wait of a started command for disk or node lasts, the first being the
    one that starts it; counts what the node is asked, and what it is asked afterwards."""

    def __init__(self, world: World, at: int, effect: str) -> None:
        self.left, self.asked, self.too_late = at, 0, 0
        self._world, self._effect = world, effect
        world.db.write = self._waited(world.db.write)  # type: ignore[method-assign]
        world.db.read = self._waited(world.db.read)  # type: ignore[method-assign]
        call = world.node.call

        async def counted(method: str, *args: Any, **named: Any) -> Any:
            if method == effect:
                self.asked += 1
                self.too_late += world.switch.on
            return await call(method, *args, **named)

        for name in ("getinfo", "listpeerchannels"):
            setattr(world.node, name, self._waited(getattr(world.node, name)))
        world.node.call = self._waited(counted)  # type: ignore[method-assign]

    def _waited(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def waited(*args: Any, **named: Any) -> Any:
            answer = await call(*args, **named)
            if self._world.db.peek(_executing):
                self._world.switch.on = self._world.switch.on or self.left == 0
                self.left -= 1
            return answer

        return waited


def _executing(tx: Tx) -> bool:
    return tx.execute("SELECT 1 FROM comms_commands WHERE state = 'executing'").fetchone() is not None


async def _order(world: World, case: Case) -> None:
    """Ask; operator and agent agree if they are asked."""
    answer = await world.ask(case.schema, case.action, dict(case.params))
    if slug(answer) == "confirmation_required":
        await agree(world, answer)


async def _made(case: Case, directory: Path) -> World:
    world = case.make(directory)
    if case.action == "unfreeze_utxos":
        assert (await world.ask(*FROZEN[:2], dict(FROZEN[2])))["status"] == 0
        world.pass_time(3_600)
    return world


def _counted(world: World) -> list[int]:
    """Rows of spends, and uses of limits, that this left."""
    tables = ("comms_spend", "comms_action_counters")
    return [
        world.db.peek(lambda tx, table=table: tx.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])  # type: ignore[misc]
        for table in tables
    ]


def _left(world: World) -> Any:
    """What the node shows of it."""
    node = world.node
    if isinstance(world, Richer):
        return world.shown(), world.node.unreleased, dict(world.node.reserved)
    if isinstance(world, Paying):
        return world.shown()
    return [dict(row) for row in node.rows]


@pytest.mark.parametrize("name", list(CASES))
async def test_the_stop_engaged_during_any_wait_reaches_what_was_not_asked(tmp_path: Path, name: str) -> None:
    case, seen = CASES[name], set()
    for at in range(_MOST_WAITS):
        world = await _made(case, tmp_path / str(at))
        before, counted = _left(world), _counted(world)
        stopping = Stopping(world, at, case.effect)
        await _order(world, case)
        assert not stopping.too_late, (at, "the node was asked under the stop")
        receipt, error = (await world.docs())[-1], None
        seen.add(receipt["status"])
        if stopping.asked < case.calls:
            error = "emergency_stop"
        assert receipt.get("error", {}).get("slug") == error, (at, receipt)
        if not stopping.asked:
            assert receipt["status"] == "error" and _left(world) == before, (at, receipt)
            assert _counted(world) == counted, at
        assert (await world.receipts.verify()).ok
        ended = not world.switch.on
        world.close()
        if ended:
            break
    else:
        pytest.fail(f"{name} waits more than {_MOST_WAITS} times")
    assert {"error", "success"} <= seen, seen


@pytest.mark.parametrize("name", list(CASES))
async def test_what_was_killed_before_its_effect_has_none_after_a_start_under_the_stop(
    tmp_path: Path, name: str
) -> None:
    case = CASES[name]
    for point in ("after_executing", "payment_noted", "wallet_prepared"):
        world = await _made(case, tmp_path / point)
        before, counted = _left(world), _counted(world)
        world.crash_at = point
        try:
            await _order(world, case)
        except Crash:
            world.switch.on = True
            asked = world.node.calls.count(case.effect)
            world.restart()
            for _ in range(3):
                await world.pipeline.timers.tick()
                world.pass_time(_SETTLED_S)
            assert world.node.calls.count(case.effect) == asked
            assert _left(world) == before and _counted(world) == counted
            receipt = (await world.docs())[-1]
            assert receipt["status"] == "error", receipt
        world.close()


async def test_a_payment_has_its_grace_from_the_call_on(tmp_path: Path) -> None:
    """An offer's payee takes half a minute; killed right before the call, it is watched as long as any."""
    world = _with_offer(tmp_path)
    assert isinstance(world, Paying)
    fetch = world.node._fetchinvoice

    def slow(params: dict[str, Any]) -> dict[str, Any]:
        world.pass_time(30)
        return fetch(params)

    world.node._fetchinvoice = slow  # type: ignore[method-assign]
    world.crash_at = "payment_noted"
    with pytest.raises(Crash):
        await world.ask(PAYMENT, "pay_invoice", {"bolt11": OFFER, "timeout_seconds": 60})
    world.restart()
    world.pass_time(payment_world.OVER_S - 1)
    await world.pipeline.timers.tick()
    assert not await world.docs()
    world.pass_time(1)
    await world.pipeline.timers.tick()
    (receipt,) = await world.docs()
    assert receipt["status"] == "error" and "nothing was sent" in receipt["error"]["message"]
    world.close()
