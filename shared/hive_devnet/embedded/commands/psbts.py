"""fundpsbt, addpsbtoutput, setpsbtversion, signpsbt: transactions that are put together step by step."""

from __future__ import annotations

from typing import Any

from hive_devnet.embedded import bech32
from hive_devnet.embedded.commands.onchain import script_of_address
from hive_devnet.embedded.commands.reservations import DEFAULT_BLOCKS, reserved
from hive_devnet.embedded.errors import FUND_CANNOT_AFFORD, FUND_OUTPUT_IS_DUST, LIGHTNINGD, RpcError
from hive_devnet.embedded.feerates import feerate
from hive_devnet.embedded.ledger.wallet import DUST_SAT, INPUT_WEIGHT, OUTPUT_WEIGHT, Coin
from hive_devnet.embedded.params import array, bad_param, boolean, opt, req, sat, sat_or_all, token_text, u32
from hive_devnet.embedded.psbt import Psbt, read_psbt
from hive_devnet.embedded.registry import Call, Result, command
from hive_devnet.embedded.transactions import Transaction, TxInput, TxOutput


def psbt(name: str, value: Any) -> Psbt:
    """A PSBT parameter."""
    try:
        return read_psbt(token_text(value))
    except ValueError as error:
        raise bad_param(name, "Expected a PSBT", value) from error


@command(
    "fundpsbt",
    req("satoshi", sat_or_all),
    req("feerate", feerate),
    req("startweight", u32),
    opt("minconf", u32, 1),
    opt("reserve", u32, DEFAULT_BLOCKS),
    opt("locktime", u32, 0),
    opt("min_witness_weight", u32, 0),
    opt("excess_as_change", boolean, False),
    opt("nonwrapped", boolean, False),
    opt("opening_anchor_channel", boolean, False),
)
async def fundpsbt(call: Call) -> Result:
    """A PSBT that spends coins of the wallet worth an amount and their fee; they are reserved for it."""
    wallet, rate, wanted = call.node.wallet, call["feerate"], call["satoshi"]
    coins, weight = wallet.coins(call["minconf"]), call["startweight"]
    chosen: list[Coin] = []
    total, weighed = 0, weight
    for coin in coins:
        if wanted is not None and chosen and total >= wanted + -(-weighed * rate // 1000):
            break
        chosen.append(coin)
        total, weighed = total + coin.amount_sat, weighed + INPUT_WEIGHT
    missing = (wanted or 0) + -(-weighed * rate // 1000) - total
    if missing > 0 or not chosen:
        text = f"Could not afford {'all' if wanted is None else wanted}sat using all {len(coins)} available"
        raise RpcError(FUND_CANNOT_AFFORD, f"{text} UTXOs: {missing}sat short")
    outputs: tuple[TxOutput, ...] = ()
    excess = -missing
    change = excess - -(-OUTPUT_WEIGHT * rate // 1000)
    if call["excess_as_change"] and change >= DUST_SAT:
        outputs = (TxOutput(change, bech32.address_script(wallet.new_address(taproot=True))),)
        weighed, excess = weighed + OUTPUT_WEIGHT, 0
    inputs = tuple(TxInput(coin.txid, coin.vout, coin.amount_sat) for coin in chosen)
    scripts = tuple(wallet.script_of(coin.key_index) for coin in chosen)
    result: Result = {
        "psbt": Psbt(Transaction(inputs, outputs, locktime=call["locktime"]), scripts).text(),
        "feerate_per_kw": rate,
        "estimated_final_weight": weighed,
        "excess_msat": excess * 1000,
    }
    if outputs:
        result["change_outnum"] = 0
    if call["reserve"]:
        rows = [wallet.unspent(coin.txid, coin.vout) for coin in chosen]
        result["reservations"] = [reserved(wallet, row, call["reserve"]) for row in rows if row is not None]
    return result


@command(
    "addpsbtoutput",
    req("satoshi", sat),
    opt("initialpsbt", psbt),
    opt("locktime", u32, 0),
    opt("destination", script_of_address),
)
async def addpsbtoutput(call: Call) -> Result:
    """A PSBT with one output more: to an address, or to a new one of the wallet."""
    amount, before = call["satoshi"], call["initialpsbt"]
    if amount < DUST_SAT:
        raise RpcError(FUND_OUTPUT_IS_DUST, f"Receive amount is below dust limit ({DUST_SAT}sat)")
    if before is None:
        before = Psbt(Transaction((), (), locktime=call["locktime"]), ())
    script = call["destination"]
    if script is None:
        script = bech32.address_script(call.node.wallet.new_address(taproot=True))
    tx = before.tx
    made = Transaction(tx.inputs, (*tx.outputs, TxOutput(amount, script)), tx.witnesses, tx.locktime)
    return {
        "psbt": Psbt(made, before.spent_scripts).text(),
        "estimated_added_weight": 4 * (8 + 1 + len(script)),
        "outnum": len(tx.outputs),
    }


@command("setpsbtversion", req("psbt", psbt), req("version", u32))
async def setpsbtversion(call: Call) -> Result:
    """The same PSBT in another version; this node knows version 0 alone."""
    if call["version"] != 0:
        raise RpcError(LIGHTNINGD, "Could not set PSBT version")
    return {"psbt": call["psbt"].text()}


@command("signpsbt", req("psbt", psbt), opt("signonly", array))
async def signpsbt(call: Call) -> Result:
    """The PSBT with signatures of this wallet on its inputs."""
    given: Psbt = call["psbt"]
    node = call.node
    stacks, signed = list(given.witnesses), 0
    for index, item in enumerate(given.tx.inputs):
        row = node.wallet.unspent(item.txid, item.vout)
        if row is None or (call["signonly"] is not None and index not in call["signonly"]):
            continue
        if node.wallet.reserved_to(row) is None:
            text = f"Aborting PSBT signing. UTXO {item.txid}:{item.vout} is not reserved"
            raise RpcError(LIGHTNINGD, text)
        key = node.keys.wallet_key(row["key_index"])
        public = key.public_key.format()
        code = b"\x76\xa9\x14" + bech32.hash160(public) + b"\x88\xac"
        stacks[index] = (given.tx.signature(index, code, key), public)
        signed += 1
    if not signed:
        text = "No wallet inputs to sign. Are you sure you added inputs to this PSBT? If not, then there is"
        raise RpcError(LIGHTNINGD, f"{text} no need to sign it.")
    tx = Transaction(given.tx.inputs, given.tx.outputs, tuple(stacks), given.tx.locktime)
    return {"signed_psbt": Psbt(tx, given.spent_scripts).text()}
