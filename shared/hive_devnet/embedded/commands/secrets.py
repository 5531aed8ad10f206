"""makesecret, signmessage, checkmessage."""

from __future__ import annotations

from typing import Any

from hive_shared.crypto import zbase32_decode

from hive_devnet.embedded.errors import INVALID_PARAMS, SIGNMESSAGE_PUBKEY_NOT_FOUND, RpcError
from hive_devnet.embedded.keys import encode_signature, recover_signer
from hive_devnet.embedded.params import bad_param, hex_bytes, is_node_id, opt, raw_text, req, string
from hive_devnet.embedded.registry import Call, Result, command


@command("makesecret", opt("hex", hex_bytes), opt("string", raw_text), checks=True)
async def makesecret(call: Call) -> Result:
    """A secret derived from the node's seed for the given info."""
    raw, text = call["hex"], call["string"]
    if text is not None and raw is not None:
        raise RpcError(INVALID_PARAMS, "Cannot have both hex and string")
    if text is None and raw is None:
        raise RpcError(INVALID_PARAMS, "Must have either hex or string")
    info = text.encode() if text is not None else raw
    return {"secret": call.node.keys.make_secret(info).hex()}


@command("signmessage", req("message", string), checks=True)
async def signmessage(call: Call) -> Result:
    """Signs a text with the node key."""
    message = call["message"]
    if len(message.encode()) > 65535:
        raise RpcError(INVALID_PARAMS, "Message must be < 64k")
    signature, recid = call.node.keys.sign_message(message)
    return {
        "signature": signature.hex(),
        "recid": f"{recid:02x}",
        "zbase": encode_signature(signature, recid),
    }


def _pubkey(name: str, value: Any) -> str:
    if not is_node_id(value):
        raise bad_param(name, "should be a compressed pubkey", value)
    return str(value).lower()


@command("checkmessage", req("message", string), req("zbase", string), opt("pubkey", _pubkey), checks=True)
async def checkmessage(call: Call) -> Result:
    """Whether a signature over a text is by the given key, or by a node of the graph."""
    try:
        raw = zbase32_decode(call["zbase"])
    except ValueError as error:
        raise RpcError(INVALID_PARAMS, "zbase is not valid zbase32") from error
    if len(raw) != 65:
        raise RpcError(INVALID_PARAMS, f"zbase is too {'short' if len(raw) < 65 else 'long'}")
    try:
        signer = recover_signer(call["message"], raw)
    except ValueError as error:
        raise RpcError(INVALID_PARAMS, "cannot parse zbase signature") from error
    if signer is None:
        return {"verified": False}
    if call["pubkey"] is None:
        if not call.node.world.in_graph(signer):
            text = "pubkey not found in the graph"
            raise RpcError(SIGNMESSAGE_PUBKEY_NOT_FOUND, text, {"claimed_key": signer})
        return {"pubkey": signer, "verified": True}
    return {"pubkey": signer, "verified": signer == call["pubkey"]}
