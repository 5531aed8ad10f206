"""Opening and closing channels: `hive:channel/v1` and `hive:expansion/v1` (02 §4 item 6)."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from ..canonical import JsonValue
from .danger import (
    Danger,
    DangerFacts,
    DangerRule,
    Params,
    Tier,
    by_amount,
    plus_withdrawal,
    withdrawal,
)
from .params import (
    MAX_MSAT,
    MAX_SAT,
    Bool,
    Channel,
    Int,
    ListOf,
    NodeKey,
    Opaque,
    Param,
    ParamSchema,
    Text,
    refuse,
)
from .spec import SchemaSpec, SchemaTable

CHANNEL: Final = "hive:channel/v1"
EXPANSION: Final = "hive:expansion/v1"
MIN_OPEN_SAT: Final = 20_000
MIN_PERKW: Final = 253
MAX_PERKW: Final = 100_000
FEERATE_WORDS: Final = ("slow", "normal", "urgent")

_PERKW: Final = re.compile(r"([1-9][0-9]{2,5})perkw")
_OPEN_BANDS: Final = ((1_000_000, "5/5/4/3/4"), (10_000_000, "6/6/4/3/5"), (None, "7/8/5/3/6"))


class Feerate(msgspec.Struct, frozen=True):
    """A feerate: `slow`, `normal`, `urgent`, or sat per 1000 weight as `<n>perkw`, n from 253 to 100000."""

    def parse(self, value: JsonValue, path: str) -> JsonValue:
        """The text."""
        if isinstance(value, str):
            match = _PERKW.fullmatch(value)
            if value in FEERATE_WORDS or (match and MIN_PERKW <= int(match[1]) <= MAX_PERKW):
                return value
        expected = f"slow, normal, urgent or <n>perkw with n from {MIN_PERKW} to {MAX_PERKW}"
        refuse(path, expected, value)

    def describe(self) -> dict[str, JsonValue]:
        """Pattern."""
        return {"type": "string", "pattern": "^(slow|normal|urgent|[1-9][0-9]{2,5}perkw)$"}


def perkw_of(feerate: str) -> int | None:
    """The number of an explicit feerate; None for a word, which only the node can turn into one."""
    match = _PERKW.fullmatch(feerate)
    return int(match[1]) if match else None


_OUTPOINT: Final = Text(70, 66, pattern=r"[0-9a-f]{64}:(0|[1-9][0-9]{0,4})", what="txid:output")
ADDRESS: Final = Text(100, 14, pattern=r"[A-Za-z0-9]+", what="an on-chain address")
"""An on-chain address; whether it is one of the node's network the node says."""
_DESTINATIONS: Final = Param(
    "destinations",
    ListOf(
        ParamSchema(
            (
                Param("peer_id", NodeKey(), required=True),
                Param("amount_sats", Int(MIN_OPEN_SAT, MAX_SAT), required=True),
            )
        ),
        2,
        20,
    ),
    required=True,
)
_REASON: Final = Param("reason", Text(minimum=1), required=True)
_CHANNEL: Final = Param("channel_id", Channel(), required=True)


def _with_push(rule: DangerRule, push: str, msat_per_unit: int) -> DangerRule:
    """push > 0 scores at least 7 and as a payment to a stranger: max(row, 7, W) of 02 §3."""
    seven = Danger.of("7/7/5/1/6")
    pushed = withdrawal()

    def pick(params: Params, facts: DangerFacts) -> Danger:
        row, amount = rule.pick(params, facts), params.get(push, 0)
        if amount == 0:
            return row
        sat = -(-amount * msat_per_unit // 1000) if isinstance(amount, int) else None
        given = DangerFacts(amount_sat=sat, spent_24h_sat=facts.spent_24h_sat)
        return row.raised(seven).raised(pushed.pick({}, given))

    worse = tuple(row.raised(seven).raised(vector) for row in rule.vectors for vector in pushed.vectors)
    return DangerRule((*rule.vectors, *worse), pick)


def _batch() -> DangerRule:
    small, large = Danger.of("7/7/5/5/5"), Danger.of("7/8/5/5/6")

    def pick(params: Params, _facts: DangerFacts) -> Danger:
        destinations = params.get("destinations")
        total = 0
        for item in destinations if isinstance(destinations, list) else ():
            amount = item.get("amount_sats") if isinstance(item, dict) else None
            total += amount if isinstance(amount, int) else 10_000_000
        return small if 0 < total < 10_000_000 else large

    return DangerRule((small, large), pick)


def channel() -> SchemaSpec:
    """What opens and closes channels at once."""
    table = SchemaTable(CHANNEL, "channel_open")
    closing = ("channel_close",)
    table.write(
        "open",
        _with_push(by_amount(*_OPEN_BANDS), "push_msat", 1),
        params=ParamSchema(
            (
                Param("peer_id", NodeKey(), required=True),
                Param("amount_sats", Int(MIN_OPEN_SAT, MAX_SAT), required=True),
                Param("push_msat", Int(0, MAX_MSAT), default=0),
                Param("feerate", Feerate()),
                Param("announce", Bool(), default=True),
                Param("mindepth", Int(0, 144)),
                Param("utxos", ListOf(_OUTPOINT, 1, 50)),
                Param("close_to", ADDRESS),
            )
        ),
    )
    table.write("open_batch", _batch(), params=ParamSchema((_DESTINATIONS,)))
    table.write(
        "close_cooperative",
        plus_withdrawal("6/6/4/3/5", "destination"),
        tier=Tier.ADMIN,
        permissions=closing,
        params=ParamSchema(
            (
                _CHANNEL,
                _REASON,
                Param("destination", ADDRESS),
                Param("feerange", ListOf(Feerate(), 2, 2)),
                Param("wait_s", Int(30, 3_600), default=300),
            )
        ),
    )
    table.write(
        "close_unilateral",
        "7/7/7/3/6",
        "close_force",
        tier=Tier.ADMIN,
        permissions=closing,
        params=ParamSchema((_CHANNEL, _REASON, Param("grace_s", Int(1, 172_800), default=1))),
    )
    table.write(
        "close_punitive",
        "8/8/8/3/8",
        permissions=closing,
        params=ParamSchema((_CHANNEL, Param("evidence", Text(minimum=1), required=True))),
    )
    table.write(
        "close_all",
        "10/10/9/10/9",
        permissions=closing,
        params=ParamSchema((_REASON, Param("destination", ADDRESS))),
    )
    return table.done()


def expansion() -> SchemaSpec:
    """Openings that always wait for the operator."""
    table = SchemaTable(EXPANSION, "channel_open")
    proposal = _with_push(by_amount(*_OPEN_BANDS, param="capacity_sats"), "push_sats", 1000)
    table.write(
        "propose_channel_open",
        proposal,
        tier=Tier.ADVANCED,
        queue_floor=True,
        params=ParamSchema(
            (
                Param("peer_id", NodeKey(), required=True),
                Param("capacity_sats", Int(MIN_OPEN_SAT, MAX_SAT), required=True),
                Param("push_sats", Int(0, MAX_SAT), default=0),
                Param("reasoning", Text(minimum=1), required=True),
                Param("peer_intel", Opaque(8_192)),
            )
        ),
    )
    table.write(
        "propose_open_batch",
        _batch(),
        queue_floor=True,
        params=ParamSchema((_DESTINATIONS, Param("reasoning", Text(minimum=1), required=True))),
    )
    return table.done()
