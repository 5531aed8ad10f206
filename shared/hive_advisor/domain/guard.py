"""The guard: the advisor's own last word on a command (docs/protocol/11-advisor-kit.md §6).

Pure: the command, what is known of the node, what was used up, who asks. Missing data holds; of all limits
that apply the strictest decides. The node's policy comes on top.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Any, Final

import msgspec
from hive_shared.registry import (
    CHANNEL,
    CONFIG,
    CONTROL,
    EMERGENCY,
    EXPANSION,
    FEE_POLICY,
    PAYMENT,
    PLUGIN,
    WALLET,
)

from hive_advisor.domain.guard_rules import HUMAN_DANGER, GuardRules, Limits, Origin
from hive_advisor.domain.observed import Observed

HOURS_3: Final = 3 * 3_600
DAY: Final = 86_400

FEE_WRITES: Final = "fee_writes"
REBALANCES: Final = "rebalances"
REBALANCE_FEES: Final = "rebalance_fees_sats"
OUT: Final = "out_sats"
USED_UP: Final = 10**12
"""More than any limit: what counts for a counter whose real state was lost."""

WHILE_HALTED: Final = frozenset(
    {
        *("cancel", "command_status", "receipts_list", "receipt_ack", "push_poll", "ping", "ping_ack"),
        *("alert_ack", "credential_ack", "capabilities", "reject", "telemetry_unsubscribe"),
    }
)
"""Control actions that go on during a halt: they withdraw, ask, acknowledge."""

_REBALANCE: Final = "hive:rebalance/v1"
_SPLICE: Final = "hive:splice/v1"
_KIND_OF_SCHEMA: Final[Mapping[str, str]] = MappingProxyType(
    {
        EXPANSION: "open",
        _SPLICE: "splice",
        WALLET: "wallet",
        PAYMENT: "payment",
        PLUGIN: "plugin",
        EMERGENCY: "emergency",
        "hive:liquidity/v1": "liquidity",
    }
)
_UNCHECKED: Final = frozenset({f"{CONFIG}#fee_schedule", f"{CONFIG}#auto_rebalance_rules"})
"""They write later, by rules that no limit here can follow."""


class Verdict(IntEnum):
    """Compares by strictness."""

    ALLOW = 0
    HOLD = 1
    DENY = 2

    @property
    def word(self) -> str:
        """The lower-case name that stands in plans."""
        return self.name.lower()


class Asked(msgspec.Struct, frozen=True):
    """The command that is judged. `alias_key` is the comparison key of the client's local alias."""

    alias_key: str
    schema: str
    action: str
    params: Mapping[str, Any]
    danger: int
    read_only: bool

    @property
    def name(self) -> str:
        return f"{self.schema}#{self.action}"

    @property
    def kind(self) -> str | None:
        """The group of `hold` that it belongs to."""
        if self.read_only:
            return None
        if self.schema == CHANNEL:
            return "open" if self.action.startswith("open") else "close"
        if self.name == f"{CONFIG}#set_config":
            return "set_config"
        return _KIND_OF_SCHEMA.get(self.schema)


class Counters(msgspec.Struct, frozen=True):
    """What commands to the client used up, by name: within three hours and within a day."""

    hours_3: Mapping[str, int] = msgspec.field(default_factory=lambda: MappingProxyType({}))
    day: Mapping[str, int] = msgspec.field(default_factory=lambda: MappingProxyType({}))


class Reason(msgspec.Struct, frozen=True):
    """Why the guard does not simply allow: the rule, whose it is, a sentence."""

    verdict: Verdict
    rule: str
    level: str
    text: str


class Judgement(msgspec.Struct, frozen=True):
    """The guard's word on a command, and what it uses up if it goes."""

    reasons: tuple[Reason, ...] = ()
    uses: Mapping[str, int] = msgspec.field(default_factory=lambda: MappingProxyType({}))

    @property
    def verdict(self) -> Verdict:
        """The strictest of all reasons."""
        return max((reason.verdict for reason in self.reasons), default=Verdict.ALLOW)

    def to_doc(self) -> dict[str, Any]:
        """The form of plans and approvals."""
        return {
            "verdict": self.verdict.word,
            "reasons": [
                {"rule": r.rule, "level": r.level, "verdict": r.verdict.word, "text": r.text}
                for r in self.reasons
            ],
        }


class Situation(msgspec.Struct, frozen=True):
    """Everything else a judgement rests on. `now` is unix seconds."""

    rules: GuardRules
    origin: Origin
    observed: Observed
    counters: Counters
    now: int
    halted: bool = False


def denied(rule: str, text: str) -> Judgement:
    """A judgement that nobody can confirm away."""
    return Judgement((Reason(Verdict.DENY, rule, "guard", text),))


def halts(schema: str, action: str) -> bool:
    """Whether a halt stops this action."""
    return schema != CONTROL or action not in WHILE_HALTED


def judge(asked: Asked, situation: Situation) -> Judgement:
    """Allow, hold for a human, or deny. Never raises for bad content: what it cannot judge is denied."""
    if situation.halted and halts(asked.schema, asked.action):
        return denied("halt", "the guard is halted; 'hive-advisor guard release' ends that")
    if asked.schema == CONTROL:
        return Judgement()
    reasons: dict[tuple[str, str], Reason] = {}
    try:
        uses = _uses(asked)
        for level, limits in situation.rules.levels(asked.alias_key, situation.origin):
            for verdict, rule, text in _level(asked, limits, uses, situation):
                reasons.setdefault((rule, text), Reason(verdict, rule, level, text))
    except (TypeError, ValueError, KeyError, AttributeError, ArithmeticError) as error:
        return denied("error", f"the guard cannot judge this command ({type(error).__name__})")
    # What is not known is used up in nobody's books; it was held for that.
    known = {name: amount for name, amount in uses.items() if amount is not None}
    return Judgement(tuple(reasons.values()), MappingProxyType(known))


Found = Iterator[tuple[Verdict, str, str]]


def _level(asked: Asked, limits: Limits, uses: Mapping[str, int | None], situation: Situation) -> Found:
    if limits.denied and not limits.denied.isdisjoint((asked.name, f"{asked.schema}#*")):
        yield Verdict.DENY, "denied", f"{asked.name} is on the list of denied actions"
    if limits.clients is not None and asked.alias_key not in limits.clients:
        yield Verdict.DENY, "clients", f"client {asked.alias_key!r} is not on the list of clients"
    if asked.read_only:
        return
    if limits.quiet_hours is not None and _quiet(limits.quiet_hours, situation.now):
        yield Verdict.HOLD, "quiet_hours", "these are quiet hours"
    free = asked.name == f"{EMERGENCY}#disable_forwarding" and situation.origin == "cli"
    if not free:
        yield from _human(asked, limits)
    for rule in _RULES:
        for name, text in rule(asked, limits, uses, situation):
            yield Verdict.HOLD, name, text


def _human(asked: Asked, limits: Limits) -> Found:
    if asked.danger >= HUMAN_DANGER:
        yield Verdict.HOLD, "danger", f"danger {asked.danger} is always a human's decision"
    elif limits.max_danger is not None and asked.danger > limits.max_danger:
        yield Verdict.HOLD, "danger", f"danger {asked.danger} is above {limits.max_danger}"
    if asked.kind is not None and asked.kind in (limits.hold or ()):
        yield Verdict.HOLD, "hold", f"{asked.action} ({asked.kind}) asks a human"
    if asked.name in _UNCHECKED and limits.fee_step_pct is not None:
        yield Verdict.HOLD, "unchecked", f"what {asked.action} will do later cannot be checked now"


def _quiet(hours: tuple[int, int], now: int) -> bool:
    first, last = hours
    minute = now // 60 % 1_440
    return first <= minute < last if first < last else minute >= first or minute < last


# -- what a command uses -------------------------------------------------------------------------------


def _uses(asked: Asked) -> dict[str, int | None]:
    """What it uses up by counter; None: it uses some, and how much cannot be told."""
    if asked.read_only:
        return {}
    uses: dict[str, int | None] = {}
    if asked.schema == FEE_POLICY:
        uses[FEE_WRITES] = len(_channels(asked))
    if asked.schema == _REBALANCE:
        uses[REBALANCES] = 1
        uses[REBALANCE_FEES] = _rebalance_fee(asked.params)
    out = _out(asked)
    if out != 0:
        uses[OUT] = out
    return uses


def _channels(asked: Asked) -> tuple[str, ...]:
    named = asked.params.get("channels")
    if isinstance(named, list):
        return tuple(str(name) for name in named)
    return (str(asked.params["channel_id"]),)


def _rebalance_fee(params: Mapping[str, Any]) -> int | None:
    if "max_fee_sats" in params:
        return int(params["max_fee_sats"])
    if "max_fee_ppm" not in params or "amount_sats" not in params:
        return None
    return -(-int(params["amount_sats"]) * int(params["max_fee_ppm"]) // 1_000_000)


def _out(asked: Asked) -> int | None:
    """Sats that leave the node for others; 0: none, None: some, and how much cannot be told."""
    params = asked.params
    if asked.schema == PAYMENT:
        return 0 if asked.action == "create_invoice" else _sats(params)
    if asked.name == f"{WALLET}#send_onchain":
        return _sats(params)
    if asked.name == f"{WALLET}#bump_fee":
        return int(params["max_fee_sats"])
    if asked.schema == "hive:liquidity/v1" or asked.name == f"{WALLET}#sweep":
        return None
    if asked.schema in (CHANNEL, EXPANSION):
        pushed = -(-int(params.get("push_msat", 0)) // 1_000) + int(params.get("push_sats", 0))
        return None if "destination" in params or "close_to" in params else pushed
    if asked.schema in (_SPLICE, _REBALANCE) and not {"destination", "address"}.isdisjoint(params):
        return _sats(params)
    return None if "destination" in params and asked.schema == EMERGENCY else 0


def _sats(params: Mapping[str, Any]) -> int | None:
    if "amount_sats" in params:
        return int(params["amount_sats"])
    return -(-int(params["amount_msat"]) // 1_000) if "amount_msat" in params else None


# -- rules; each yields (rule, sentence) for what asks a human ------------------------------------------

Texts = Iterator[tuple[str, str]]


def _fee_values(asked: Asked, limits: Limits, uses: Mapping[str, int | None], situation: Situation) -> Texts:
    if asked.schema != FEE_POLICY:
        return
    for channel in _channels(asked):
        wanted = _wanted(asked, channel, situation)
        if wanted is None:
            if limits.fee_step_pct is not None or limits.min_fee_ppm is not None:
                yield "fee_value", f"which fee {channel} will have cannot be told"
            continue
        base, ppm = wanted
        low, high = limits.min_fee_ppm, limits.max_fee_ppm
        if ppm is not None and low is not None and ppm < low:
            yield "fee_range", f"{ppm} ppm on {channel} is below {low}"
        if ppm is not None and high is not None and ppm > high:
            yield "fee_range", f"{ppm} ppm on {channel} is above {high}"
        if limits.fee_step_pct is not None:
            yield from _fee_step(channel, base, ppm, limits.fee_step_pct, situation)


def _wanted(asked: Asked, channel: str, situation: Situation) -> tuple[int | None, int | None] | None:
    """The new (base msat, ppm) of a channel, None for what stays; None alone: it cannot be told."""
    params = asked.params
    if asked.action == "set_zero_fee":
        return 0, 0
    if asked.action == "set_anchor":
        return None, int(params["target_fee_ppm"])
    if asked.action == "clear_anchor":
        return None
    policy = params["policy"] if asked.action == "set_bulk" else params
    base, ppm = policy.get("base_msat"), policy.get("fee_ppm")
    if "fee_delta_pct" in policy:
        seen = situation.observed.fee(channel, situation.now)
        if seen is None:
            return None
        ppm = seen.ppm + seen.ppm * int(policy["fee_delta_pct"]) // 100
    return None if base is None else int(base), None if ppm is None else int(ppm)


def _fee_step(channel: str, base: int | None, ppm: int | None, percent: int, situation: Situation) -> Texts:
    seen = situation.observed.fee(channel, situation.now)
    if seen is None:
        yield "fee_value", f"the fees of {channel} were not read in the last 10 minutes"
        return
    for unit, new, old in (("msat base fee", base, seen.base_msat), ("ppm", ppm, seen.ppm)):
        if new is not None and abs(new - old) * 100 > old * percent:
            yield "fee_step", f"from {old} to {new} {unit} on {channel} is more than {percent} %"


def _rebalance(asked: Asked, limits: Limits, uses: Mapping[str, int | None], situation: Situation) -> Texts:
    if asked.schema != _REBALANCE:
        return
    amount, most = _sats(asked.params), limits.rebalance_max_sats
    if most is not None and amount is None:
        yield "rebalance_amount", "how much is moved cannot be told"
    elif most is not None and amount is not None and amount > most:
        yield "rebalance_amount", f"{amount} sat is above {most}"
    fee, percent = uses[REBALANCE_FEES], limits.rebalance_max_pct
    if percent is not None:
        if fee is None or amount is None:
            yield "rebalance_fee", "what it may cost cannot be told"
        elif fee * 100 > amount * percent:
            yield "rebalance_fee", f"{fee} sat of fees is more than {percent} % of {amount}"


def _windows(asked: Asked, limits: Limits, uses: Mapping[str, int | None], situation: Situation) -> Texts:
    counters = situation.counters
    for rule, name, limit, used, window in (
        ("fee_writes", FEE_WRITES, limits.fee_writes_3h, counters.hours_3, "3 hours"),
        ("fee_writes", FEE_WRITES, limits.fee_writes_24h, counters.day, "24 hours"),
        ("rebalances", REBALANCES, limits.rebalances_3h, counters.hours_3, "3 hours"),
        ("rebalances", REBALANCES, limits.rebalances_24h, counters.day, "24 hours"),
        ("rebalance_fees", REBALANCE_FEES, limits.rebalance_fees_24h_sats, counters.day, "24 hours"),
        ("out_24h", OUT, limits.out_24h_sats, counters.day, "24 hours"),
    ):
        if name not in uses or limit is None:
            continue
        wanted, before = uses[name], used.get(name, 0)
        what = name.replace("_", " ")
        if wanted is None:
            yield rule, f"how much it adds to the {what} of {window} cannot be told"
        elif before + wanted > limit:
            yield rule, f"{what} in {window}: {before} and {wanted} more are above {limit}"


def _money(asked: Asked, limits: Limits, uses: Mapping[str, int | None], situation: Situation) -> Texts:
    if OUT in uses and limits.out_command_sats is not None:
        out = uses[OUT]
        if out is None:
            yield "out_command", "how much leaves the node cannot be told"
        elif out > limits.out_command_sats:
            yield "out_command", f"{out} sat leave the node, above {limits.out_command_sats} per command"
    keep = limits.onchain_reserve_sats
    if keep is None or (asked.kind != "open" and asked.action != "splice_in"):
        return
    have, needs = situation.observed.onchain(situation.now), _onchain(asked.params)
    if have is None:
        yield "onchain_reserve", "the on-chain funds were not read in the last 10 minutes"
    elif needs is None:
        yield "onchain_reserve", "how much it takes from the on-chain funds cannot be told"
    elif have - needs < keep:
        yield "onchain_reserve", f"{needs} of {have} sat on-chain leave less than {keep}"


def _onchain(params: Mapping[str, Any]) -> int | None:
    batch = params.get("destinations")
    if isinstance(batch, list):
        return sum(int(item["amount_sats"]) for item in batch)
    amount = params.get("amount_sats", params.get("capacity_sats"))
    return None if amount is None else int(amount)


Rule = Callable[[Asked, Limits, Mapping[str, "int | None"], Situation], Texts]
_RULES: Final[tuple[Rule, ...]] = (_fee_values, _rebalance, _windows, _money)
