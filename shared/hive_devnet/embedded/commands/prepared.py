"""txprepare, txsend, txdiscard: a wallet transaction in two steps, the first kept in memory only."""

from __future__ import annotations

import json
import re
from typing import Any

from hive_devnet.embedded import bech32
from hive_devnet.embedded.commands.reservations import DEFAULT_BLOCKS, available, outpoint
from hive_devnet.embedded.errors import INVALID_PARAMS, RpcError
from hive_devnet.embedded.feerates import feerate
from hive_devnet.embedded.ledger.wallet import Coin, Payment
from hive_devnet.embedded.params import bad_param, opt, parse_msat, req, token_text, u32
from hive_devnet.embedded.psbt import finished_psbt, unsigned_psbt
from hive_devnet.embedded.registry import Call, Result, command
from hive_devnet.embedded.transactions import Transaction

_NORMAL = "normal"
Output = tuple[bytes, int | None]


def _outputs(_name: str, value: Any) -> list[Output]:
    if not isinstance(value, list):
        shown = json.dumps(value, separators=(",", ":"))
        text = f'Expected an array of outputs in the format \'[{{"txid":0}}, ...]\', got "{shown}"'
        raise RpcError(INVALID_PARAMS, text)
    found: list[Output] = []
    for item in value:
        if not isinstance(item, dict) or not item:
            raise RpcError(INVALID_PARAMS, "The output format must be {destination: amount}")
        address, amount = next(iter(item.items()))
        found.append((_script(address), _amount(amount)))
    if sum(amount is None for _, amount in found) > 1:
        raise RpcError(INVALID_PARAMS, "Cannot use 'all' in two outputs")
    return found


def _script(address: str) -> bytes:
    try:
        return bech32.address_script(address)
    except ValueError as error:
        # An address of another network and kind: base58, or bech32 with another prefix.
        if re.fullmatch("[13][1-9A-HJ-NP-Za-km-z]{25,34}|(bc|tb)1[a-z0-9]{8,87}", address):
            raise RpcError(INVALID_PARAMS, "Destination address is not on network regtest") from error
        raise RpcError(INVALID_PARAMS, "Could not parse destination address") from error


def _amount(value: Any) -> int | None:
    if value == "all":
        return None
    text = token_text(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    amount = int(text) * 1000 if text.isdigit() else parse_msat(text)
    if amount is None or amount % 1000:
        raise RpcError(INVALID_PARAMS, f"'{text}' is a invalid satoshi amount")
    return amount // 1000


def _outpoints(_name: str, value: Any) -> list[tuple[str, int]]:
    if not isinstance(value, list) or not value:
        shown = json.dumps(value, separators=(",", ":"))
        raise RpcError(INVALID_PARAMS, f"Please specify an array of 'txid:output_index', not \"{shown}\"")
    found = []
    for item in value:
        try:
            found.append(outpoint(item))
        except RpcError as error:
            text = f'Could not decode outpoint "{json.dumps(item)}", expected format: txid:output'
            raise RpcError(INVALID_PARAMS, text) from error
    return found


def _txid(name: str, value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{64}", value):
        raise bad_param(name, "should be a txid", value)
    return value


@command(
    "txprepare",
    req("outputs", _outputs),
    opt("feerate", feerate),
    opt("minconf", u32, 1),
    opt("utxos", _outpoints),
)
async def txprepare(call: Call) -> Result:
    """Builds a transaction and reserves its inputs."""
    node, wallet = call.node, call.node.wallet
    rate = call["feerate"] if call["feerate"] is not None else feerate("feerate", _NORMAL)
    with node.world.database.transaction():
        if call["utxos"] is None:
            coins = wallet.coins(call["minconf"])
        else:
            rows = [available(wallet, *each) for each in call["utxos"]]
            coins = [Coin(row["txid"], row["vout"], row["amount_sat"], row["key_index"]) for row in rows]
        payment = wallet.prepare(call["outputs"], coins, rate, whole=call["utxos"] is not None)
        for item in payment.tx.inputs:
            wallet.reserve(item.txid, item.vout, DEFAULT_BLOCKS)
    node.unreleased[payment.tx.txid] = payment
    return {**_named(payment), "psbt": unsigned_psbt(payment.tx, _scripts(call, payment))}


def _named(payment: Payment) -> Result:
    tx = payment.tx
    bare = Transaction(tx.inputs, tx.outputs, (), tx.locktime).serialize()
    return {"unsigned_tx": bare.hex(), "txid": tx.txid}


def _scripts(call: Call, payment: Payment) -> list[bytes]:
    rows = [call.node.wallet.unspent(item.txid, item.vout) for item in payment.tx.inputs]
    return [bytes.fromhex(row["script"]) for row in rows if row is not None]


def _unreleased(call: Call) -> Payment:
    found = call.node.unreleased.pop(call["txid"], None)
    if found is None:
        raise RpcError(INVALID_PARAMS, f"not an unreleased txid '{call['txid']}'")
    return found


@command("txsend", req("txid", _txid))
async def txsend(call: Call) -> Result:
    """Publishes a prepared transaction."""
    payment = _unreleased(call)
    scripts = _scripts(call, payment)
    call.node.world.chain.publish(payment.tx, payment.fee_sat)
    return {
        "tx": payment.tx.serialize().hex(),
        "txid": payment.tx.txid,
        "psbt": finished_psbt(payment.tx, scripts),
    }


@command("txdiscard", req("txid", _txid))
async def txdiscard(call: Call) -> Result:
    """Gives up a prepared transaction and frees its inputs."""
    payment = _unreleased(call)
    for item in payment.tx.inputs:
        if call.node.wallet.unspent(item.txid, item.vout) is not None:
            call.node.wallet.reserve(item.txid, item.vout, -DEFAULT_BLOCKS)
    return _named(payment)
