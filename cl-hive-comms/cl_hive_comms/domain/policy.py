"""The policy decision: a pure function of a policy snapshot and a request.

docs/protocol/08-client-and-plugins.md §5.4, docs/protocol/02-fleet-management.md §7.3 and §7.4. The
strictest voice wins: preset and document, timed override, rules, sibling rules, approval level, floors.
Anything unknown, missing or failing is a denial.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from fractions import Fraction
from functools import cached_property
from typing import Final, Literal

import msgspec
from hive_shared.canonical import JsonValue
from hive_shared.errors import HiveError, Unsupported, from_symbol
from hive_shared.registry import MONITOR, REBALANCE, WALLET, contained, find
from msgspec.structs import replace

from . import approval
from .approval import Workflow
from .policy_document import PolicyDocument, preset_document
from .policy_limits import READ_LIMITS, WRITE_LIMITS, Denial
from .policy_rules import Conflict, Override, Rule, conflicts
from .policy_settings import Settings
from .spend import ONCHAIN, Spend

_MULTI: Final = re.compile(r"multi_sig_([1-9])_of_([1-9])")
_PEER_PARAMS: Final = ("peer_id", "node_id", "destination", "provider_id")


class PolicySnapshot(msgspec.Struct, frozen=True, dict=True):
    """Everything a decision rests on, at one version.

    `locked` says why nothing but monitor reads may run: the policy could not be read at start. The
    confirmation hours are the options `hive-comms-confirm-hours-low` and `-high`. `banned` peers count as
    forbidden ones.
    """

    version: int
    preset: str
    document: PolicyDocument
    rules: tuple[Rule, ...] = ()
    override: Override | None = None
    sibling_rules: tuple[Rule, ...] = ()
    locked: str | None = None
    confirm_hours_low: int = 24
    confirm_hours_high: int = 4
    banned: frozenset[str] = frozenset()

    def active_override(self, now: int) -> Override | None:
        """The timed override in force at `now`, if any."""
        return self.override if self.override is not None and self.override.active(now) else None

    def settings(self, now: int) -> Settings:
        """The effective settings at `now`. Raises InvalidParams for an override that does not parse."""
        found = self.document.settings if self.active_override(now) is None else self._overridden
        if not self.banned:
            return found
        return replace(found, forbidden_peers=found.forbidden_peers | self.banned)

    @cached_property
    def _overridden(self) -> Settings:
        """The document's settings with the override applied: read once, asked for with every command."""
        base = self.document.settings
        return base if self.override is None else self.override.apply_to(base)


def locked_snapshot(reason: str) -> PolicySnapshot:
    """The policy of a node whose own could not be read: nothing but monitor."""
    return PolicySnapshot(0, "conservative", preset_document("conservative"), locked=reason)


class ChannelFact(msgspec.Struct, frozen=True):
    """What is known of a channel a command touches; rates 24 h ago are None when they were the same."""

    scid: str
    channel_id: str
    peer_id: str
    fee_base_msat: int
    fee_ppm: int
    htlc_min_msat: int
    htlc_max_msat: int
    state: str
    ppm_24h_ago: int | None = None
    base_24h_ago: int | None = None
    former: frozenset[str] = frozenset()

    @property
    def names(self) -> frozenset[str]:
        """Whatever a list may name it by, also the short ids it had before splices (docs/decisions/0417)."""
        return self.former | {self.scid, self.channel_id}


class ActionRequest(msgspec.Struct, frozen=True, dict=True):
    """A command as policy sees it: canonical action, parsed parameters, computed danger, touched channels.

    `channels` are all channels the action changes, also those an `all` or peer-wide action reaches.
    `new_fees` maps each scid to its new (base msat, ppm), None for what stays. `also_actions` are further
    names in its schema (aliases, `registry.scored_as`); `counts` the policy counters used so far; `spend` is
    what leaves the node's hands, `feerate_perkw` the on-chain rate of the plan, `option` the node's option
    that it sets without naming it.
    """

    schema: str
    action: str
    params: Mapping[str, JsonValue]
    danger: int
    read_only: bool
    advisor_id: str
    trust: Fraction
    channels: tuple[ChannelFact, ...] = ()
    new_fees: Mapping[str, tuple[int | None, int | None]] = msgspec.field(default_factory=dict)
    amount_sat: int = 0
    now: int = 0
    counts: Mapping[str, int] = msgspec.field(default_factory=dict)
    also_actions: tuple[str, ...] = ()
    spend: Spend | None = None
    feerate_perkw: int = 0
    peers: frozenset[str] = frozenset()
    option: str = ""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Every action name this command goes by."""
        return (self.action, *self.also_actions)

    @cached_property
    def category(self) -> str:
        """`fee-policy` of `hive:fee-policy/v1`."""
        return _category(self.schema)

    @cached_property
    def override_keys(self) -> tuple[str, ...]:
        """`<category with _>_<action>`, what approval overrides match (02 §7.3)."""
        prefix = self.category.replace("-", "_")
        return tuple(f"{prefix}_{name}" for name in self.names)

    @cached_property
    def identities(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Schema and names of the command, then of every action it amounts to: what a denial or a stricter
        workflow may name (02 §2.3). Nothing is loosened by them."""
        others = {
            (spec.schema, spec.name): (spec.schema, (spec.name, *spec.aliases))
            for name in self.names
            for spec in contained(self.schema, name)
        }
        if self.sends_out:
            others[WALLET, "send_onchain"] = (WALLET, ("send_onchain", "withdraw"))
        return ((self.schema, self.names), *others.values())

    @cached_property
    def sends_out(self) -> bool:
        """Whether it pays a foreign address on the chain by a name that does not say so: a swap."""
        return self.schema == REBALANCE and self.spend is not None and self.spend.kind == ONCHAIN

    @cached_property
    def denial_keys(self) -> tuple[str, ...]:
        """`override_keys` of the command and of all it amounts to."""
        return tuple(
            f"{_category(schema).replace('-', '_')}_{name}"
            for schema, names in self.identities
            for name in names
        )

    @cached_property
    def denial_paths(self) -> tuple[str, ...]:
        """Schema ids and `hive:<category>/<action>` of the command and of all it amounts to."""
        return tuple(
            path
            for schema, names in self.identities
            for path in (schema, *(f"hive:{_category(schema)}/{name}" for name in names))
        )

    @cached_property
    def channel_ids(self) -> frozenset[str]:
        """Short and long ids of the touched channels."""
        return frozenset(name for each in self.channels for name in (each.scid, each.channel_id))

    @cached_property
    def peer_ids(self) -> frozenset[str]:
        """Peers of the touched channels, those named in the parameters, nested ones too, and the plan's."""
        named = set(_peers_in(self.params))
        return self.peers | named | {channel.peer_id for channel in self.channels}


def _category(schema: str) -> str:
    return schema.removeprefix("hive:").partition("/")[0]


def _peers_in(params: Mapping[str, JsonValue]) -> Iterator[str]:
    for name, value in params.items():
        if name in _PEER_PARAMS and isinstance(value, str):
            yield value
        elif isinstance(value, list):
            for item in value:
                if isinstance(item, dict):
                    yield from _peers_in(item)


class Decision(msgspec.Struct, frozen=True):
    """What policy says. `approvals_needed` votes within `expires_in` seconds turn a wait into a run.

    `symbol` is the symbol of 02 §7.2 when denied, `rule_ids` name every rule that spoke.
    """

    decision: Literal["allow", "confirm", "multi", "deny"]
    workflow: Workflow
    reasons: tuple[str, ...]
    rule_ids: tuple[str, ...]
    danger: int
    approvals_needed: int
    expires_in: int
    symbol: str | None = None
    level: str = "0"

    def error(self) -> HiveError:
        """The refusal of a denied command. Raises ValueError when it is not denied."""
        if self.symbol is None:
            raise ValueError("the command is not denied")
        rule = self.rule_ids[0] if self.rule_ids else "policy"
        return from_symbol(self.symbol, "; ".join(self.reasons), rule=rule, rules=list(self.rule_ids))


@dataclass(slots=True)
class _Votes:
    """Everything said about one request so far."""

    denials: list[Denial] = field(default_factory=list)
    asks: list[tuple[Workflow, str, str]] = field(default_factory=list)
    named_approvals: int | None = None

    def ask(self, workflow: Workflow, rule_id: str, sentence: str) -> None:
        self.asks.append((workflow, rule_id, sentence))


def decide(snapshot: PolicySnapshot, request: ActionRequest) -> Decision:
    """The decision about a request. Never raises: what cannot be judged is denied."""
    try:
        return _decide(snapshot, request)
    except Exception as err:
        # A pure function on checked values has no business failing; if it does, nothing may run.
        return _denied(
            request,
            [Denial("policy_blocked", "error", f"the policy could not be evaluated ({type(err).__name__})")],
        )


def _decide(snapshot: PolicySnapshot, request: ActionRequest) -> Decision:
    try:
        spec = find(request.schema, request.action)
    except Unsupported:
        return _denied(request, [Denial("policy_blocked", "unknown", "the action is unknown to this policy")])
    if snapshot.locked is not None and not (request.read_only and request.schema == MONITOR):
        sentence = "the operator's policy could not be read; only hive:monitor/v1 is open"
        return _denied(request, [Denial("policy_blocked", "locked", sentence)])
    settings = snapshot.settings(request.now)
    votes = _Votes()
    for limit in READ_LIMITS if request.read_only else WRITE_LIMITS:
        votes.denials += limit(settings, request)
    _apply_rules((*snapshot.rules, *snapshot.sibling_rules), settings, request, votes)
    if request.read_only:
        return (
            _denied(request, votes.denials) if votes.denials else _allowed(request, "a read is always auto")
        )
    if request.danger >= 9:
        _check_critical(snapshot, settings, request, votes)
    level = approval.level(request.danger, request.trust)
    _ask_by_document(settings, request, level, votes)
    floor = approval.floor_of(request.danger, proposal=spec.queue_floor)
    votes.ask(floor, "floor", f"danger {request.danger} needs at least {floor.value}")
    workflow = approval.strictest(*(each[0] for each in votes.asks))
    if workflow is Workflow.MULTISIG and len(settings.approvers) < 2:
        votes.denials.append(
            Denial(
                "multisig_not_configured",
                "approvers",
                "several signatures are needed and fewer than 2 approvers set",
            )
        )
    if votes.denials:
        return _denied(request, votes.denials, level)
    return _granted(snapshot, settings, request, workflow, votes, level)


def _apply_rules(rules: Iterable[Rule], settings: Settings, request: ActionRequest, votes: _Votes) -> None:
    for rule in rules:
        if not rule.hits(request, settings):
            continue
        note = f"rule {rule.id}" + (f" ({rule.note})" if rule.note else "")
        if rule.effect == "deny":
            votes.denials.append(Denial("policy_blocked", rule.id, f"{note} denies it"))
        elif rule.effect == "multi":
            votes.ask(Workflow.MULTISIG, rule.id, f"{note} demands several signatures")
        elif rule.effect == "confirm":
            votes.ask(Workflow.QUEUE, rule.id, f"{note} asks the operator")
        elif rule.cap is not None:
            over = [value for value in _values(request, rule.cap.field) if value > rule.cap.max]
            if over:
                sentence = f"{note} caps {rule.cap.field} at {rule.cap.max}, asked {max(over)}"
                votes.denials.append(Denial("policy_blocked", rule.id, sentence))


def _values(request: ActionRequest, name: str) -> Iterator[int | float]:
    """Every number the command would set under a parameter name, computed fees included."""
    yield from _numbers(request.params, name)
    position = {"base_msat": 0, "fee_ppm": 1}.get(name)
    if position is not None:
        for pair in request.new_fees.values():
            new = pair[position]
            if new is not None:
                yield new


def _numbers(params: Mapping[str, JsonValue], name: str) -> Iterator[int | float]:
    for key, value in params.items():
        items = value if isinstance(value, list) else [value]
        for item in items:
            if isinstance(item, dict):
                yield from _numbers(item, name)
            elif key == name and isinstance(item, int | float) and not isinstance(item, bool):
                yield item


def _check_critical(
    snapshot: PolicySnapshot, settings: Settings, request: ActionRequest, votes: _Votes
) -> None:
    """Danger 9 and 10: only under a timed raise of max_danger, whatever the document says (08 §5.4)."""
    override = snapshot.active_override(request.now)
    if override is None or not override.raises_danger_to(request.danger):
        votes.denials.append(
            Denial(
                "policy_blocked",
                "floor",
                f"danger {request.danger} needs a timed override of max_danger and several signatures",
            )
        )


def _ask_by_document(settings: Settings, request: ActionRequest, level: Fraction, votes: _Votes) -> None:
    """Level and preset band, unless an approval override says otherwise; then fixed confirmations."""
    asks: list[tuple[Workflow, str, str]] = []
    by_level = approval.workflow_of(level)
    asks.append((by_level, "level", f"approval level {approval.level_text(level)} means {by_level.value}"))
    if request.danger > settings.require_confirmation_above:
        sentence = f"the operator is asked above danger {settings.require_confirmation_above}"
        asks.append((Workflow.QUEUE, "require_confirmation_above", sentence))
    strict, loosens = _overrides(settings, request, votes)
    if not (loosens and request.danger <= 6):
        votes.asks += asks
    votes.asks += strict
    confirmation = settings.required_confirmation
    if confirmation.danger_gte is not None and request.danger >= confirmation.danger_gte:
        votes.ask(
            Workflow.QUEUE,
            "required_confirmation.danger_gte",
            f"danger {confirmation.danger_gte} and up is asked",
        )
    if confirmation.channel_close == "always" and any(
        key.startswith("channel_close") for key in request.denial_keys
    ):
        votes.ask(Workflow.QUEUE, "required_confirmation.channel_close", "every channel close is asked")
    named = request.override_keys[0] in ("wallet_send_onchain", "wallet_sweep")
    splices = (
        request.override_keys[0] == "splice_splice_out"
        and request.spend is not None
        and request.spend.amount_sat > 0
    )
    sends = named or splices or request.sends_out
    threshold = confirmation.onchain_send_gte_sats
    if sends and threshold is not None and (request.amount_sat >= threshold or request.action == "sweep"):
        votes.ask(
            Workflow.QUEUE,
            "required_confirmation.onchain_send_gte_sats",
            f"on-chain sends from {threshold} sat are asked",
        )


def _overrides(
    settings: Settings, request: ActionRequest, votes: _Votes
) -> tuple[list[tuple[Workflow, str, str]], bool]:
    """What approval overrides ask for, and whether one lets the command run by itself.

    Where several match, a strict one silences every auto_execute. A strict one also speaks by the name of
    what the command amounts to; auto_execute only by its own.
    """
    strict: list[tuple[Workflow, str, str]] = []
    loosens = False
    for pattern, word in settings.approval_overrides.items():
        keys = request.override_keys if word == "auto_execute" else request.denial_keys
        if not any(fnmatchcase(key, pattern) for key in keys):
            continue
        rule_id, sentence = f"approval_overrides.{pattern}", f"override {pattern}: {word}"
        match = _MULTI.fullmatch(word)
        if match is not None:
            needed = int(match[1])
            votes.named_approvals = max(votes.named_approvals or 0, needed)
            strict.append((Workflow.MULTISIG, rule_id, sentence))
        elif word == "always_confirm":
            strict.append((Workflow.QUEUE, rule_id, sentence))
        else:
            loosens = True
    return strict, loosens and not strict


def _granted(
    snapshot: PolicySnapshot,
    settings: Settings,
    request: ActionRequest,
    workflow: Workflow,
    votes: _Votes,
    level: Fraction,
) -> Decision:
    if workflow is Workflow.AUTO:
        return _allowed(request, f"approval level {approval.level_text(level)}", level)
    spoke = [(rule_id, sentence) for asked, rule_id, sentence in votes.asks if asked is workflow]
    return Decision(
        decision="multi" if workflow is Workflow.MULTISIG else "confirm",
        workflow=workflow,
        reasons=tuple(dict.fromkeys(sentence for _, sentence in spoke)),
        rule_ids=tuple(dict.fromkeys(rule_id for rule_id, _ in spoke)),
        danger=request.danger,
        approvals_needed=approval.approvals_needed(workflow, len(settings.approvers), votes.named_approvals),
        expires_in=approval.expires_in(workflow, snapshot.confirm_hours_low, snapshot.confirm_hours_high),
        level=approval.level_text(level),
    )


def _allowed(request: ActionRequest, reason: str, level: Fraction = Fraction(0)) -> Decision:
    return Decision(
        "allow", Workflow.AUTO, (reason,), (), request.danger, 0, 0, None, approval.level_text(level)
    )


def _denied(request: ActionRequest, denials: list[Denial], level: Fraction = Fraction(0)) -> Decision:
    # The most telling symbol first: protections and limits before the general "policy_blocked".
    first = min(denials, key=lambda denial: _SYMBOL_ORDER.get(denial.symbol, len(_SYMBOL_ORDER)))
    ordered = [first, *(denial for denial in denials if denial is not first)]
    return Decision(
        "deny",
        Workflow.AUTO,
        tuple(dict.fromkeys(denial.sentence for denial in ordered))[:20],
        tuple(dict.fromkeys(denial.rule_id for denial in ordered)),
        request.danger,
        0,
        0,
        first.symbol,
        approval.level_text(level),
    )


_SYMBOL_ORDER: Final = {
    symbol: index
    for index, symbol in enumerate(
        ("protected_channel", "forbidden_peer", "policy_blocked", "multisig_not_configured", "quiet_hours")
    )
}


class Explanation(msgspec.Struct, frozen=True):
    """`hive-client-policy action=explain`: the decision, the rules that speak, oddities of the rules."""

    decision: Decision
    hits: tuple[Rule, ...]
    conflicts: tuple[Conflict, ...]


def explain(snapshot: PolicySnapshot, request: ActionRequest) -> Explanation:
    """Why a request would be decided as it would be."""
    settings = snapshot.settings(request.now)
    rules = (*snapshot.rules, *snapshot.sibling_rules)
    hits = tuple(rule for rule in rules if rule.hits(request, settings))
    return Explanation(decide(snapshot, request), hits, tuple(conflicts(rules, settings)))
