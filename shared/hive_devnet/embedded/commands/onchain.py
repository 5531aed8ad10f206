"""withdraw, listtransactions, feerates, parsefeerate, waitblockheight."""

from __future__ import annotations

import asyncio
from typing import Any

from hive_devnet.embedded import bech32
from hive_devnet.embedded.errors import INVALID_PARAMS, LIGHTNINGD, WAIT_TIMEOUT, RpcError
from hive_devnet.embedded.feerates import describe, feerate
from hive_devnet.embedded.ledger.wallet import FEERATE_PERKW
from hive_devnet.embedded.params import array, opt, req, sat_or_all, token_text, u16, u32
from hive_devnet.embedded.psbt import finished_psbt
from hive_devnet.embedded.registry import Call, Result, command
from hive_devnet.embedded.transactions import parse_transaction

_ONCHAIN_ESTIMATES = {
    "opening_channel_satoshis": 351,
    "mutual_close_satoshis": 170,
    "unilateral_close_satoshis": 1390,
    "unilateral_close_nonanchor_satoshis": 448,
    "htlc_timeout_satoshis": 497,
    "htlc_success_satoshis": 527,
}


def script_of_address(name: str, value: Any) -> bytes:
    """The scriptPubKey of an address parameter. Raises RpcError -1 as CLN does."""
    try:
        return bech32.address_script(token_text(value))
    except ValueError as error:
        text = f"Could not parse destination address, {name} should be a valid address"
        raise RpcError(LIGHTNINGD, text) from error


def outpoints(name: str, value: Any) -> list[tuple[str, int]]:
    """A list of "txid:output"."""
    found = []
    for item in array(name, value):
        txid, colon, output = str(item).partition(":")
        if not colon or len(txid) != 64 or not output.isdigit():
            text = f'Could not decode outpoint "{item}", expected format: txid:output'
            raise RpcError(INVALID_PARAMS, text)
        found.append((txid, int(output)))
    return found


@command(
    "withdraw",
    req("destination", script_of_address),
    req("satoshi", sat_or_all),
    opt("feerate", feerate, FEERATE_PERKW),
    opt("minconf", u16, 1),
    opt("utxos", outpoints),
)
async def withdraw(call: Call) -> Result:
    """Pays from the wallet to an address."""
    node, world, script = call.node, call.node.world, call["destination"]
    with world.database.transaction():
        coins = node.wallet.coins(call["minconf"], call["utxos"])
        payment = node.wallet.pay(call["satoshi"], lambda: script, coins, call["feerate"])
        world.chain.publish(payment.tx, payment.fee_sat)
    spent = {(coin.txid, coin.vout): coin.key_index for coin in coins}
    scripts = [node.wallet.script_of(spent[item.txid, item.vout]) for item in payment.tx.inputs]
    return {
        "tx": payment.tx.serialize().hex(),
        "txid": payment.tx.txid,
        "psbt": finished_psbt(payment.tx, scripts),
    }


@command("listtransactions")
async def listtransactions(call: Call) -> Result:
    """Transactions of the wallet: confirmed ones, and those it sent."""
    shown = []
    for row in call.node.wallet.transactions():
        tx = parse_transaction(row["raw"])
        shown.append(
            {
                "hash": row["txid"],
                "rawtx": row["raw"].hex(),
                "blockheight": row["height"] or 0,
                "txindex": row["position"] or 0,
                "locktime": tx.locktime,
                "version": 2,
                "inputs": [
                    {"txid": item.txid, "index": item.vout, "sequence": item.sequence} for item in tx.inputs
                ],
                "outputs": [
                    {
                        "index": index,
                        "amount_msat": output.amount_sat * 1000,
                        "scriptPubKey": output.script.hex(),
                    }
                    for index, output in enumerate(tx.outputs)
                ],
            }
        )
    return {"transactions": shown}


def _style(name: str, value: Any) -> str:
    if value not in ("perkw", "perkb"):
        text = f"'{name}' should be 'perkw' or 'perkb', not '\"{value}\"'"
        raise RpcError(INVALID_PARAMS, text)
    return str(value)


@command("feerates", req("style", _style))
async def feerates(call: Call) -> Result:
    """The feerates the node would use."""
    style = call["style"]
    return {style: describe(style), "onchain_fee_estimates": _ONCHAIN_ESTIMATES}


@command("parsefeerate", req("feerate", feerate))
async def parsefeerate(call: Call) -> Result:
    """A feerate in sat per kiloweight."""
    return {"perkw": call["feerate"]}


@command("waitblockheight", req("blockheight", u32), opt("timeout", u32, 60))
async def waitblockheight(call: Call) -> Result:
    """Returns when the chain has that height."""
    world = call.node.world
    try:
        async with asyncio.timeout(call["timeout"]):
            while world.chain.height < call["blockheight"]:
                await world.block_arrived.wait()
    except TimeoutError as error:
        raise RpcError(WAIT_TIMEOUT, "Timed out.") from error
    return {"blockheight": world.chain.height}
