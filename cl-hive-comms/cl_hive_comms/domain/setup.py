"""The setup session: its steps, what may be answered, and what it will do once confirmed.

docs/protocol/08-client-and-plugins.md §7 "Setup", docs/decisions/0260-one-setup-one-transaction.md. Nothing
here changes anything: answers are collected, and only `confirm` makes something of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

import msgspec
from hive_shared.errors import InvalidParams, Unsupported
from hive_shared.nostr.keys import npub_encode
from msgspec.structs import replace

from .names import refuse_secret

SESSION_S: Final = 1_800
"""Seconds a session lives after its last answer."""
KEPT_S: Final = 30 * 86_400
"""Seconds a session that ended can still be asked for."""
HIRE_DAYS: Final = 30
MAX_ANSWER: Final = 4_000
BACK: Final = "back"
CANCEL: Final = "cancel"
CONTINUE: Final = "continue"
AGAIN: Final = "again"
KEEP: Final = "keep"
OFF: Final = "off"
NONE: Final = "none"
SKIP: Final = "skip"
CONFIRM: Final = "confirm"


class Step(StrEnum):
    """The questions, in their order."""

    SELFCHECK = "self-check"
    NEED = "need"
    PRESET = "preset"
    LIMITS = "limits"
    PAYMENT = "payment"
    ALERTS = "alerts"
    ADVISOR = "advisor"
    TRIAL = "trial"
    CONFIRM = "confirm"


class State(StrEnum):
    """Of a session. `applying`: confirmed and stored, but the node has not taken every option yet."""

    OPEN = "open"
    APPLYING = "applying"
    DONE = "done"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


NEEDS: Final[Mapping[str, str]] = {
    "fees": "an advisor who sets your fees",
    "routing": "fees, forwarding and rebalancing",
    "monitoring": "an advisor who looks and reports, and changes nothing",
    "everything": "all of it, channel opens too, but no closes",
}
"""What is wanted; the words are also those of `access` when an advisor is hired."""
PRESETS: Final[Mapping[str, str]] = {
    "conservative": "little runs by itself, you approve the rest; quiet at night",
    "moderate": "ordinary work runs by itself, you approve what is dangerous",
    "aggressive": "much runs by itself",
}
LIMITS: Final[Mapping[str, str]] = {
    "max_fee_change_per_24h_pct": "how far a fee may move in a day, percent",
    "min_fee_ppm": "lowest fee rate, ppm",
    "max_fee_ppm": "highest fee rate, ppm",
    "max_rebalance_sats": "largest rebalance, sats",
    "max_rebalance_fee_ppm": "what a rebalance may cost, ppm",
    "max_channel_open_sats": "largest channel to open, sats",
}
"""The policy keys that setup asks for; all others are set with hive-client-policy."""


class Candidate(msgspec.Struct, frozen=True):
    """Whom the operator named. `new_name` is the name to give them, empty for none."""

    pubkey: str
    shown: str
    new_name: str = ""


class Answers(msgspec.Struct, frozen=True):
    """What was answered so far. None: nothing, or what there is stays; for an alert target '' is off."""

    need: str = "monitoring"
    preset: str | None = None
    limits: dict[str, int] = msgspec.field(default_factory=dict)
    alert_dm: str | None = None
    alert_webhook: str | None = None
    advisor: Candidate | None = None
    trial_days: int = 0

    def to_text(self) -> str:
        """As stored."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_text(cls, text: str) -> Answers:
        """What `to_text` wrote."""
        return msgspec.json.decode(text, type=cls)


DM: Final = "alert-nostr-dm"
WEBHOOK: Final = "alert-webhook"


def options_of(answers: Answers) -> dict[str, str]:
    """Options (without prefix) that a confirmed session has the node set, as people write them."""
    wanted = {DM: answers.alert_dm and npub_encode(answers.alert_dm), WEBHOOK: answers.alert_webhook}
    return {name: value for name, value in wanted.items() if value is not None}


class Part(msgspec.Struct, frozen=True):
    """One part of what a confirmed session did: done, owed (the node is asked again) or failed."""

    name: str
    state: str
    detail: str


class Session(msgspec.Struct, frozen=True):
    """One row of comms_setup. Times are Unix seconds."""

    session_id: str
    state: State
    step: Step
    answers: Answers
    created_at: int
    updated_at: int
    expires_at: int
    report: tuple[Part, ...] = ()

    def at(self, step: Step, answers: Answers, now: int) -> Session:
        """The session at another step; an answer lets it live on."""
        return replace(self, step=step, answers=answers, updated_at=now, expires_at=now + SESSION_S)

    def ended(self, state: State, now: int) -> Session:
        """The session as it is kept: a webhook's address may be a secret, and nobody needs it any more."""
        answers = msgspec.structs.replace(self.answers, alert_webhook=None)
        return replace(self, state=state, answers=answers, updated_at=now)


_ORDER: Final = tuple(Step)


def after(step: Step, answers: Answers) -> Step:
    """The question that follows; without an advisor there is no trial to ask about."""
    following = _ORDER[_ORDER.index(step) + 1]
    return Step.CONFIRM if following is Step.TRIAL and answers.advisor is None else following


def before(step: Step, answers: Answers) -> Step:
    """The question before. Raises InvalidParams at the first."""
    if step is Step.SELFCHECK:
        raise InvalidParams(f"this is the first step; answer={CANCEL} ends the setup")
    previous = _ORDER[_ORDER.index(step) - 1]
    return Step.ADVISOR if previous is Step.TRIAL and answers.advisor is None else previous


# -- answers ------------------------------------------------------------------------------------------


def answer_text(value: object) -> str:
    """An answer as text, however lightning-cli handed it over. Raises InvalidParams."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        value = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, str | int):
        raise InvalidParams("answer is a word, a number, or for the limits a JSON object")
    text = str(value).strip()
    if not 1 <= len(text) <= MAX_ANSWER:
        raise InvalidParams(f"answer has 1 to {MAX_ANSWER} characters, this one has {len(text)}")
    for word in text.split():
        refuse_secret(word)
    return text


def word_of(text: str) -> str:
    """The answer as a word: case and surplus blanks do not count."""
    return " ".join(text.casefold().split())


def one_of(step: Step, text: str, choices: Mapping[str, str]) -> str:
    """The answer if it is one of these words. Raises InvalidParams naming them."""
    word = word_of(text)
    if word not in choices:
        raise InvalidParams(
            f"{text[:60]!a} does not answer the step {step.value}; answer {', '.join(choices)}, or {CANCEL}",
            data={"param": "answer", "step": step.value},
        )
    return word


_PAIR: Final = re.compile(r"\s*([a-z0-9_]+)\s*[=:]\s*([0-9]{1,16})\s*")


def limits_of(text: str) -> dict[str, int]:
    """Limits from `name=number,name=number` or a JSON object, none for `keep`. Raises InvalidParams."""
    if word_of(text) == KEEP:
        return {}
    given = _limits_from_json(text) if text.startswith("{") else _limits_from_pairs(text)
    for name, value in given.items():
        if name not in LIMITS:
            raise InvalidParams(
                f"{name[:60]!a} is no limit that setup asks for; it asks for {', '.join(LIMITS)}."
                " hive-client-policy action=set knows every key"
            )
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidParams(f"{name} must be a whole number, not {str(value)[:40]!a}")
    if not given:
        raise InvalidParams(f"no limit was named; answer {KEEP} to leave them as they are")
    return given


def _limits_from_json(text: str) -> dict[str, Any]:
    try:
        given = json.loads(text, object_pairs_hook=_each_once)
    except ValueError:
        raise InvalidParams("the limits are no JSON object with each name once") from None
    if not isinstance(given, dict):
        raise InvalidParams("the limits are no JSON object")
    return given


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a name stands twice")
    return dict(pairs)


def _limits_from_pairs(text: str) -> dict[str, Any]:
    pairs = [_PAIR.fullmatch(part) for part in text.split(",")]
    found = [(pair[1], int(pair[2])) for pair in pairs if pair is not None]
    if len(found) != len(pairs) or len(dict(found)) != len(found):
        raise InvalidParams(
            f"{text[:60]!a} are no limits; answer {KEEP}, or name=number,name=number with each name once."
            f" The names are {', '.join(LIMITS)}"
        )
    return dict(found)


def no_payment(text: str) -> None:
    """Only `none` is an answer: this version holds no money. Raises Unsupported, InvalidParams."""
    word = word_of(text)
    if "://" in text or word in ("mint", "cashu", "bolt11", "bolt12", "l402", "escrow"):
        raise Unsupported(
            "this version pays nobody and keeps nothing at a mint; answer none, and agree on a fee with the"
            " advisor yourself",
            reason="unsupported_action",
        )
    one_of(Step.PAYMENT, text, {NONE: ""})


def alert_targets(text: str) -> tuple[str | None, str | None]:
    """(key for messages, web address) as written; None stays, '' is off. Raises InvalidParams."""
    word = word_of(text)
    if word == KEEP:
        return None, None
    if word == OFF:
        return "", ""
    dm = webhook = None
    for each in text.replace(",", " ").split():
        if each.startswith(("http://", "https://")) and webhook is None:
            webhook = each
        elif "://" not in each and dm is None:
            dm = each
        else:
            raise InvalidParams(
                f"the alerts go to one key and one web address; answer {KEEP}, {OFF}, an npub, an https"
                " address, or both with a blank between"
            )
    return dm, webhook


def address_shown(url: str) -> str:
    """A web address without what may open it: scheme and host."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{re.split('[/?]', rest, maxsplit=1)[0]}/..."
