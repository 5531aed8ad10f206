"""utxopsbt, reserveinputs, unreserveinputs: keeping outputs of the wallet from being spent."""

from __future__ import annotations

import re
import sqlite3
from typing import Any

from hive_devnet.embedded.errors import FUND_CANNOT_AFFORD, INVALID_PARAMS, RpcError
from hive_devnet.embedded.feerates import feerate
from hive_devnet.embedded.ledger.wallet import INPUT_WEIGHT, Wallet
from hive_devnet.embedded.params import array, bad_param, boolean, opt, req, sat_or_all, token_text, u32
from hive_devnet.embedded.psbt import transaction_of, unsigned_psbt
from hive_devnet.embedded.registry import Call, Result, command
from hive_devnet.embedded.transactions import Transaction, TxInput

DEFAULT_BLOCKS = 72
"""How long an input stays reserved when nobody says otherwise."""


def outpoint(value: Any) -> tuple[str, int]:
    """One "txid:output". Raises RpcError as CLN words it."""
    match = re.fullmatch("([0-9a-f]{64}):([0-9]{1,9})", token_text(value))
    if match is None:
        text = f'Could not decode the outpoint from "{token_text(value)}" The utxos should be specified as'
        raise RpcError(INVALID_PARAMS, text + " 'txid:output_index'.")
    return match[1], int(match[2])


def available(wallet: Wallet, txid: str, vout: int, *, reserved_ok: bool = False) -> sqlite3.Row:
    """An unspent output that may be used. Raises RpcError when it is unknown or reserved."""
    row = wallet.unspent(txid, vout)
    if row is None:
        raise RpcError(INVALID_PARAMS, f"Unknown UTXO {txid}:{vout}")
    if wallet.reserved_to(row) is not None and not reserved_ok:
        raise RpcError(INVALID_PARAMS, f"UTXO {txid}:{vout} already reserved")
    return row


def _outpoints(name: str, value: Any) -> list[tuple[str, int]]:
    return [outpoint(item) for item in array(name, value)]


def _psbt(name: str, value: Any) -> Transaction:
    try:
        return transaction_of(token_text(value))
    except ValueError as error:
        raise bad_param(name, "Expected a PSBT", value) from error


def reserved(wallet: Wallet, row: sqlite3.Row, blocks: int) -> dict[str, Any]:
    """Reserve an output for so many blocks more (fewer when negative); the entry that tells of it."""
    was = wallet.reserved_to(row) is not None
    until = wallet.reserve(row["txid"], row["vout"], blocks)
    entry = {"txid": row["txid"], "vout": row["vout"], "was_reserved": was, "reserved": until is not None}
    return entry if until is None else {**entry, "reserved_to_block": until}


@command(
    "utxopsbt",
    req("satoshi", sat_or_all),
    req("feerate", feerate),
    req("startweight", u32),
    req("utxos", _outpoints),
    opt("reserve", u32, DEFAULT_BLOCKS),
    opt("reservedok", boolean, False),
    opt("locktime", u32, 0),
    opt("min_witness_weight", u32, 0),
    opt("excess_as_change", boolean, False),
    opt("opening_anchor_channel", boolean, False),
)
async def utxopsbt(call: Call) -> Result:
    """A PSBT that spends the named outputs, which are reserved for it."""
    wallet, rate = call.node.wallet, call["feerate"]
    rows = [available(wallet, *each, reserved_ok=call["reservedok"]) for each in call["utxos"]]
    weight = call["startweight"] + len(rows) * INPUT_WEIGHT
    total, fee = sum(row["amount_sat"] for row in rows), -(-weight * rate // 1000)
    wanted = 0 if call["satoshi"] is None else call["satoshi"]
    if total < wanted + fee:
        raise RpcError(
            FUND_CANNOT_AFFORD,
            f"Could not afford {wanted}sat using UTXOs totalling {total}sat with weight {weight} at"
            f" feerate {rate}",
        )
    inputs = tuple(TxInput(row["txid"], row["vout"], row["amount_sat"]) for row in rows)
    tx = Transaction(inputs, (), locktime=call["locktime"])
    result: Result = {
        "psbt": unsigned_psbt(tx, [bytes.fromhex(row["script"]) for row in rows]),
        "feerate_per_kw": rate,
        "estimated_final_weight": weight,
        "excess_msat": (total - wanted - fee) * 1000,
    }
    if call["reserve"]:
        result["reservations"] = [reserved(wallet, row, call["reserve"]) for row in rows]
    return result


@command(
    "reserveinputs",
    req("psbt", _psbt),
    opt("exclusive", boolean, True),
    opt("reserve", u32, DEFAULT_BLOCKS),
)
async def reserveinputs(call: Call) -> Result:
    """Reserves the inputs of a PSBT, all or none."""
    wallet, rows = call.node.wallet, []
    for item in call["psbt"].inputs:
        row = wallet.unspent(item.txid, item.vout)
        if row is None:
            continue
        if call["exclusive"] and wallet.reserved_to(row) is not None:
            raise RpcError(INVALID_PARAMS, f"{item.txid}:{item.vout} already reserved")
        rows.append(row)
    return {"reservations": [reserved(wallet, row, call["reserve"]) for row in rows]}


@command("unreserveinputs", req("psbt", _psbt), opt("reserve", u32, DEFAULT_BLOCKS))
async def unreserveinputs(call: Call) -> Result:
    """Shortens the reservation of a PSBT's inputs."""
    wallet = call.node.wallet
    found = [wallet.unspent(item.txid, item.vout) for item in call["psbt"].inputs]
    rows = [row for row in found if row is not None and wallet.reserved_to(row) is not None]
    return {"reservations": [reserved(wallet, row, -call["reserve"]) for row in rows]}
