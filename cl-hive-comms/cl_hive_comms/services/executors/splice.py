"""Splices: `splice_in` and `splice_out` (docs/protocol/02-fleet-management.md §4 item 7)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from hive_shared.canonical import JsonValue
from hive_shared.cln import ClnError
from hive_shared.registry import TO_WALLET

from ...domain.coins import INPUT_WEIGHT, OUTPUT_WEIGHT, most_inputs, spendable
from ...domain.json_value import whole
from ...domain.psbt import unsigned_of
from ..ports_commands import Fault
from .action import Caller, Params, Plan, WriteAction
from .splice_run import Splicing, invalid
from .wallet_send import Keep, Wallet

SHARED_WEIGHT: Final = 42 + 164 + 224 + OUTPUT_WEIGHT
"""Version, counts and lock time; the old funding output as input with both signatures; the new one."""


class SpliceIn(Splicing):
    """`splice_in`: coins of the wallet go into the channel; their fee is paid on top."""

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Plan it. Raises InvalidParams for a channel or an amount that cannot be, ClnError."""
        amount = whole(params["amount_sats"])
        row = await self.spliceable(params)
        rate = await self.wallet.feerate(params.get("feerate_perkw"))
        free = spendable((await self.wallet.coins())[0], 1)
        available = sum(coin.amount_sat for coin in free)
        least, most = fee_of_splice(rate, 1, 0), fee_of_splice(rate, most_inputs(free, amount), 1)
        if available < amount + least:
            raise invalid(
                "amount_sats",
                f"{amount} sat and a fee of {least} sat are more than the {available} sat of coins that may"
                " be used now",
                f"at most {max(0, available - least)}",
            )
        return self.planned(row, caller, amount_sat=amount, change_sat=amount, rate=rate, fee_sat=most)

    async def begun(self, undo: Mapping[str, JsonValue]) -> str:
        asked = {
            "satoshi": f"{undo['amount_sat']}sat",
            "feerate": f"{undo['feerate_perkw']}perkw",
            "startweight": SHARED_WEIGHT,
            "excess_as_change": True,
        }
        return str((await self.node.call("fundpsbt", asked))["psbt"])

    async def paid_fee(self, undo: Mapping[str, JsonValue], psbt: str) -> int | None:
        made = unsigned_of(psbt).tx
        try:
            worth = {coin.outpoint: coin.amount_sat for coin in (await self.wallet.coins())[0]}
        except ClnError:
            return None
        if not all(name in worth for name in made.inputs):
            return None
        return sum(worth[name] for name in made.inputs) - sum(made.outputs_sat) - whole(undo["amount_sat"])


class SpliceOut(Splicing):
    """`splice_out`: an amount leaves the channel for an address; its fee leaves the channel too."""

    async def prepare(self, params: Params, caller: Caller) -> Plan:
        """Plan it. Raises InvalidParams for a channel, an address or an amount that cannot be, ClnError."""
        amount, destination = whole(params["amount_sats"]), str(params["destination"])
        foreign = destination != TO_WALLET and await self.wallet.is_foreign(destination)
        row = await self.spliceable(params)
        rate = await self.wallet.feerate(params.get("feerate_perkw"))
        fee = fee_of_splice(rate, 0, 1)
        # Above the reserve, and above what the next commitment may cost us.
        available = int(row["spendable_msat"]) // 1_000
        if amount + fee > available:
            raise invalid(
                "amount_sats",
                f"{amount} sat and a fee of {fee} sat are more than the {available} sat that may leave"
                f" channel {params['channel_id']} now",
                f"at most {max(0, available - fee)}",
            )
        return self.planned(
            row,
            caller,
            amount_sat=amount,
            change_sat=-(amount + fee),
            rate=rate,
            fee_sat=fee,
            destination=destination,
            foreign=foreign,
        )

    async def begun(self, undo: Mapping[str, JsonValue]) -> str:
        asked: dict[str, object] = {"satoshi": f"{undo['amount_sat']}sat"}
        if undo["destination"] != TO_WALLET:
            asked["destination"] = undo["destination"]
        made = await self.node.call("addpsbtoutput", asked)
        plain = await self.node.call("setpsbtversion", {"psbt": made["psbt"], "version": 0})
        return str(plain["psbt"])

    async def paid_fee(self, undo: Mapping[str, JsonValue], psbt: str) -> int | None:
        return whole(undo["fee_sat"])


def fee_of_splice(rate: int, inputs: int, outputs: int) -> int:
    """What the splice costs us at a rate, with so many inputs and outputs besides the channel's own."""
    weight = SHARED_WEIGHT + inputs * INPUT_WEIGHT + outputs * OUTPUT_WEIGHT
    return -(-rate * weight // 1_000)


def splice_writes(
    wallet: Wallet, keep: Keep, engaged: Callable[[], bool], fault: Fault
) -> dict[str, WriteAction]:
    """The writes of hive:splice/v1 by action."""
    parts = (wallet, keep, engaged, fault)
    return {"splice_in": SpliceIn(*parts), "splice_out": SpliceOut(*parts)}
