"""Channels as the node lists them: finding one, reading its fees (docs/protocol/08 §5.5)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from hive_shared.errors import HiveError, from_symbol

from ...domain.emergency import Limits
from ...domain.policy import ChannelFact

_SCID: Final = re.compile(r"(\d{1,8})x(\d{1,8})x(\d{1,5})\Z")
_OUTPOINT: Final = re.compile(r"([0-9a-f]{64}):(\d{1,5})\Z")
# Fees and bounds can be set from funding to the start of closing; elsewhere CLN refuses or it has no meaning.
FEE_STATES: Final = frozenset({"CHANNELD_NORMAL", "CHANNELD_AWAITING_SPLICE"})


def channel_key(row: Mapping[str, Any]) -> str:
    """Short channel id, or the channel id where there is no confirmed one."""
    return str(row.get("short_channel_id") or row.get("channel_id"))


def find_channel(
    rows: Iterable[Mapping[str, Any]], text: str, param: str = "channel_id"
) -> Mapping[str, Any]:
    """The row that `text` names: `BxTxO`, the same as one number, 64-hex channel id, or `txid:n`.

    Raises InvalidParams (invalid_params) when this node has no such channel.
    """
    wanted = _normal(text)
    for row in rows:
        if wanted in (row.get("short_channel_id"), row.get("channel_id")):
            return row
        if "funding_txid" in row and wanted == f"{row['funding_txid']}:{row.get('funding_outnum')}":
            return row
    raise missing_channel(text, param)


def missing_channel(text: str, param: str = "channel_id") -> HiveError:
    """The refusal for a channel this node does not have."""
    return from_symbol(
        "invalid_params",
        f"{param} {text[:80]} is no channel of this node; use hive:monitor/v1 channel_list to see them",
        param=param,
        expected="a short channel id (BxTxO) or 64-hex channel id of an existing channel",
    )


def _normal(text: str) -> str:
    if text.isdecimal() and len(text) < 20:
        number = int(text)
        return f"{number >> 40}x{number >> 16 & 0xFFFFFF}x{number & 0xFFFF}"
    lowered = text.lower()
    if match := _SCID.match(lowered):
        return "x".join(str(int(part)) for part in match.groups())
    if match := _OUTPOINT.match(lowered):
        return f"{match[1]}:{int(match[2])}"
    return lowered


def require_settable(row: Mapping[str, Any], text: str) -> None:
    """Raise InvalidParams unless fees and HTLC bounds of this channel can be set now."""
    state = str(row.get("state"))
    if state not in FEE_STATES:
        raise from_symbol(
            "invalid_params",
            f"channel {text} is in state {state}; its settings can be changed in CHANNELD_NORMAL only",
            param="channel_id",
            expected="a channel in state CHANNELD_NORMAL",
        )


def fees_of(row: Mapping[str, Any]) -> tuple[int, int]:
    """Base fee (msat) and rate (ppm) that the node charges on a channel now."""
    return int(row["fee_base_msat"]), int(row["fee_proportional_millionths"])


def limits_of(row: Mapping[str, Any]) -> Limits:
    """Smallest and largest HTLC (msat) that our side of a channel forwards now."""
    return Limits(int(row["minimum_htlc_out_msat"]), int(row["maximum_htlc_out_msat"]))


def fact_of(row: Mapping[str, Any], day_ago: tuple[int, int] | None = None) -> ChannelFact:
    """What policy needs to know of a channel; `day_ago` is (base msat, ppm) 24 h ago."""
    base, ppm = fees_of(row)
    return ChannelFact(
        scid=channel_key(row),
        channel_id=str(row["channel_id"]),
        peer_id=str(row["peer_id"]),
        fee_base_msat=base,
        fee_ppm=ppm,
        htlc_min_msat=int(row.get("minimum_htlc_out_msat", 0)),
        htlc_max_msat=int(row.get("maximum_htlc_out_msat", 0)),
        state=str(row["state"]),
        base_24h_ago=None if day_ago is None else day_ago[0],
        ppm_24h_ago=None if day_ago is None else day_ago[1],
    )


def merged(
    before: Sequence[Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """A channel listing brought up to what was seen of some channels since (keyed by channel id)."""
    return [
        row if (found := after.get(str(row["channel_id"]))) is None else {**row, **found} for row in before
    ]
