"""Freezing coins: the node sets them aside for some blocks (02 §4 item 10; docs/decisions/0363).

The reservation is the node's own and ends at its block by itself, also while this plugin is down. What we
keep is that it was a command that made it: a timer for each coin.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError
from hive_shared.errors import HiveError, from_symbol

from ...domain.coins import Coin
from ...domain.command_record import TimerRow
from .action import Caller, Outcome, Params, Plan
from .node_errors import node_error
from .wallet_send import LOCK, Wallet

FREEZE: Final = "freeze"
"""Kind of the timer that says of a coin that a command froze it."""
BLOCK_S: Final = 600

FrozenCoins = Callable[[], Awaitable[tuple[TimerRow, ...]]]
"""Armed timers of frozen coins."""


class _Reserving:
    """Coins by name, and a PSBT that names one of them. `engaged` is the kill switch: it stops midway."""

    def __init__(self, wallet: Wallet, frozen: FrozenCoins, engaged: Callable[[], bool]) -> None:
        self._wallet, self._node, self._frozen = wallet, wallet.node, frozen
        self._engaged = engaged

    async def _named(self, params: Params) -> tuple[list[Coin], int, dict[str, int]]:
        """The coins, the height, and until which block each is frozen by command."""
        coins, height = await self._wallet.coins()
        known = {coin.outpoint: coin for coin in coins}
        asked = params["utxos"]
        assert isinstance(asked, list)
        for outpoint in asked:
            if outpoint not in known:
                raise _refused(str(outpoint), "is no unspent output of this wallet; list_funds shows them")
        timers = {
            timer.subject: int(json.loads(timer.payload_json)["until"]) for timer in await self._frozen()
        }
        return [known[str(outpoint)] for outpoint in asked], height, timers

    async def _psbt(self, outpoint: str, blocks: int) -> str:
        """A PSBT with that input, which is reserved for so many blocks more."""
        asked = {
            "satoshi": "0sat",
            "feerate": "253perkw",
            "startweight": 0,
            "utxos": [outpoint],
            "reserve": blocks,
            "reservedok": True,
        }
        return str((await self._node.call("utxopsbt", asked))["psbt"])

    async def _ends(self) -> dict[str, int]:
        """Until which block each unspent coin is set aside now, 0 for not."""
        coins, _ = await self._wallet.coins()
        return {coin.outpoint: coin.reserved_to for coin in coins}


def _refused(outpoint: str, why: str) -> HiveError:
    return from_symbol(
        "invalid_params",
        f"utxo {outpoint} {why}",
        param="utxos",
        expected="unspent outputs of this wallet",
    )


def _parts(undo: Mapping[str, JsonValue]) -> list[tuple[str, int, int]]:
    stored = undo["coins"]
    assert isinstance(stored, list)
    found = []
    for part in stored:
        assert isinstance(part, list)
        name, old, new = part
        found.append((str(name), int(str(old)), int(str(new))))
    return found


class Freeze(_Reserving):
    """`freeze_utxos`: coins that no transaction takes for some blocks; freezing again prolongs it."""

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Plan it. Raises InvalidParams for a coin that is gone or that something else uses."""
        coins, height, timers = await self._named(params)
        blocks = params["blocks"]
        assert isinstance(blocks, int)
        parts: list[JsonValue] = []
        for coin in coins:
            if coin.reserved_to and coin.outpoint not in timers:
                raise _refused(coin.outpoint, f"is in use elsewhere until block {coin.reserved_to}")
            parts.append([coin.outpoint, coin.reserved_to, max(coin.reserved_to, height + blocks)])
        undo: dict[str, JsonValue] = {"coins": parts, "height": height, "at": caller.now}
        return Plan(undo=undo, basis=[coin.outpoint for coin in coins], locks=LOCK)

    async def run(self, plan: Plan, caller: Caller) -> Outcome:
        """Set each aside, read again, compare."""
        height, error = int(str(plan.undo["height"])), None
        for outpoint, old, new in _parts(plan.undo):
            if new <= (old or height):
                continue
            if self._engaged():
                error = error or _halted()
                break
            try:
                await self._psbt(outpoint, new - (old or height))
            except ClnError as refused:
                error = error or node_error(refused)
        return await self._compared(plan.undo, caller, error)

    async def probe(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome | None:
        """Compare only; what was reached is frozen."""
        outcome = await self._compared(undo, caller, _stopped("frozen"))
        return None if outcome.state == "indeterminate" else outcome

    async def _compared(
        self, undo: Mapping[str, JsonValue], caller: Caller, error: HiveError | None
    ) -> Outcome:
        try:
            ends = await self._ends()
        except ClnError:
            return _unseen()
        parts = _parts(undo)
        held = [(name, new) for name, _, new in parts if ends.get(name, 0) >= new]
        arm = tuple(_timer(caller, n, name, until, undo) for n, (name, until) in enumerate(held))
        shown: list[JsonValue] = [{"utxo": name, "until_block": until} for name, until in held]
        return _outcome({"frozen": shown, "count": len(parts)}, len(held), len(parts), error, arm=arm)


def _timer(caller: Caller, n: int, outpoint: str, until: int, undo: Mapping[str, JsonValue]) -> TimerRow:
    blocks = until - int(str(undo["height"]))
    payload = {"until": until, "credential_id": caller.credential_id, "advisor_id": caller.advisor_id}
    return TimerRow(
        timer_id=f"{caller.command_id}:{n}",
        kind=FREEZE,
        subject=outpoint,
        due=int(str(undo["at"])) + blocks * BLOCK_S,
        payload_json=json.dumps(payload),
    )


class Unfreeze(_Reserving):
    """`unfreeze_utxos`: coins that a command froze may be spent again."""

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Plan it. Raises InvalidParams for a coin that no command froze."""
        coins, height, timers = await self._named(params)
        parts: list[JsonValue] = []
        for coin in coins:
            if coin.outpoint not in timers:
                raise _refused(coin.outpoint, "is not frozen by a command; whatever uses it has to let it go")
            # Only what the freeze took: another reservation on top of it stays.
            ours = max(0, min(timers[coin.outpoint], coin.reserved_to) - height) if coin.reserved_to else 0
            end = coin.reserved_to - ours
            parts.append([coin.outpoint, coin.reserved_to, end if end > height else 0])
        undo: dict[str, JsonValue] = {"coins": parts, "height": height}
        return Plan(undo=undo, basis=[coin.outpoint for coin in coins], locks=LOCK)

    async def run(self, plan: Plan, caller: Caller) -> Outcome:
        """Let each go, read again, compare."""
        error, height = None, int(str(plan.undo["height"]))
        for outpoint, old, new in _parts(plan.undo):
            if old == new:
                continue
            try:
                psbt = await self._psbt(outpoint, 0)
                fewer = old - (new or height)
                if self._engaged():
                    error = error or _halted()
                    break
                await self._node.call("unreserveinputs", {"psbt": psbt, "reserve": fewer})
            except ClnError as refused:
                error = error or node_error(refused)
        return await self._compared(plan.undo, error)

    async def probe(self, undo: Mapping[str, JsonValue], caller: Caller) -> Outcome | None:
        """Compare only; what was reached is free."""
        outcome = await self._compared(undo, _stopped("let go"))
        return None if outcome.state == "indeterminate" else outcome

    async def _compared(self, undo: Mapping[str, JsonValue], error: HiveError | None) -> Outcome:
        try:
            ends = await self._ends()
        except ClnError:
            return _unseen()
        parts = _parts(undo)
        free = [name for name, _, new in parts if ends.get(name, 0) <= new]
        shown: list[JsonValue] = [*free]
        disarm = tuple((FREEZE, name) for name in free)
        return _outcome({"unfrozen": shown, "count": len(parts)}, len(free), len(parts), error, disarm=disarm)


def _halted() -> HiveError:
    return from_symbol("emergency_stop", "the emergency stop was engaged before this coin was reached")


def _stopped(done: str) -> HiveError:
    return from_symbol("shutting_down", f"the plugin stopped before all coins were {done}")


def _unseen() -> Outcome:
    text = "the coins could not be read again; whether they are set aside is not known"
    return Outcome("indeterminate", {}, from_symbol("indeterminate", text))


def _outcome(
    result: dict[str, JsonValue],
    done: int,
    wanted: int,
    error: HiveError | None,
    *,
    arm: tuple[TimerRow, ...] = (),
    disarm: tuple[tuple[str, str], ...] = (),
) -> Outcome:
    if done == wanted:
        return Outcome("success", result, arm=arm, disarm=disarm)
    why = error or from_symbol("node_error", "the node shows other reservations than asked for", code=0)
    if not done:
        return Outcome("error", result, why, acted=False)
    return Outcome("partial", result, why, arm=arm, disarm=disarm)
