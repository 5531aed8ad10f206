"""What the htlc_accepted hook shows of an HTLC: its onion payload and its place in the channel."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from hive_devnet.embedded.ledger.payments import Part

if TYPE_CHECKING:
    from hive_devnet.embedded.world import World

_KEYSEND_TYPE = 5482373484
_NEXT_ONION = "00" * 1366


def bigsize(number: int) -> bytes:
    """BOLT 1's BigSize."""
    if number < 0xFD:
        return bytes([number])
    for mark, size in ((b"\xfd", 2), (b"\xfe", 4), (b"\xff", 8)):
        if number < 1 << 8 * size:
            return mark + number.to_bytes(size, "big")
    raise ValueError(f"{number} is too large for a BigSize")


def truncated(number: int) -> bytes:
    """An integer without leading zero bytes (tu64)."""
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def tlv_stream(records: dict[int, bytes]) -> bytes:
    """TLV records in ascending order."""
    return b"".join(bigsize(kind) + bigsize(len(value)) + value for kind, value in sorted(records.items()))


def describe_htlc(world: World, part: Part, index: int) -> dict[str, Any]:
    """The hook's payload for the HTLC of hop `index` of a part."""
    hop = part.route[index]
    final = index == len(part.route) - 1
    height = world.chain.height
    row = world.courier.payments.htlcs_of(part)[index]
    onion: dict[str, Any] = {"type": "tlv"}
    records: dict[int, bytes] = {}
    if final:
        onion |= {"forward_msat": hop.amount_msat, "outgoing_cltv_value": row["expiry"]}
        records = {2: truncated(hop.amount_msat), 4: truncated(row["expiry"])}
        if part.payment_secret is not None:
            onion |= {"total_msat": part.total_msat, "payment_secret": part.payment_secret}
            records[8] = bytes.fromhex(part.payment_secret) + truncated(part.total_msat)
        if part.keysend_preimage is not None:
            records[_KEYSEND_TYPE] = bytes.fromhex(part.keysend_preimage)
        records |= extra_records(part)
    else:
        following = part.route[index + 1]
        outgoing = height + following.delay
        onion |= {
            "short_channel_id": following.scid,
            "forward_msat": following.amount_msat,
            "outgoing_cltv_value": outgoing,
        }
        block, position, output = (int(number) for number in following.scid.split("x"))
        scid = (block << 40 | position << 16 | output).to_bytes(8, "big")
        records = {2: truncated(following.amount_msat), 4: truncated(outgoing), 6: scid}
    stream = tlv_stream(records)
    onion["payload"] = (bigsize(len(stream)) + stream).hex()
    onion["next_onion"] = _NEXT_ONION
    secret = f"{part.id} {index} {part.payment_hash}"
    onion["shared_secret"] = hashlib.sha256(secret.encode()).hexdigest()
    return {
        "peer_id": hop.source,
        "onion": onion,
        "htlc": {
            "short_channel_id": hop.scid,
            "id": row["number"],
            "amount_msat": hop.amount_msat,
            "cltv_expiry": row["expiry"],
            "cltv_expiry_relative": row["expiry"] - height,
            "payment_hash": part.payment_hash,
        },
    }


def extra_records(part: Part) -> dict[int, bytes]:
    """The sender's own TLV records, from their stored form "type=hex ..."."""
    pairs = (item.partition("=") for item in (part.extra or "").split())
    return {int(kind): bytes.fromhex(value) for kind, _, value in pairs}
