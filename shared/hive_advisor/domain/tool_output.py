"""Answers of nodes as a program may read them (docs/protocol/11-advisor-kit.md §11.2).

``data`` keeps numbers, truth values, words of the protocol and strings of a typed form. Every other string
may be somebody else's words (names, reasons, notes, error texts): it moves to ``untrusted``, cleaned. What
could be a secret is in neither.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

import msgspec
from hive_shared.errors import SYMBOLS, HiveError
from hive_shared.registry import actions

from hive_advisor.domain.cleaning import MAX_TEXT, Own, clean_text
from hive_advisor.domain.methods import method_table

MAX_UNTRUSTED: Final = 20
WITHHELD: Final = "[withheld]"
UNTRUSTED: Final = "[untrusted]"
OMITTED: Final = "[omitted]"

_TYPED: Final = re.compile(
    r"[0-9a-f]{8,160}|sha256:[0-9a-f]{64}"
    r"|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    r"|-?[0-9]{1,20}(\.[0-9]{1,9})?(msat|sat|ppm)?"
    r"|[0-9]{1,10}x[0-9]{1,10}x[0-9]{1,6}(/[01])?"
    r"|npub1[02-9ac-hj-np-z]{58}|did:nostr:[0-9a-f]{64}"
    r"|[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9:]{5,8}(\.[0-9]{1,6})?(Z|\+00:00))?|[0-9]{2}:[0-9]{2}"
    r"|v?[0-9]{1,4}(\.[0-9]{1,4}){1,3}"
    r"|hive:[a-z-]{1,32}/v[0-9]{1,2}"
)
_WORD: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.,:*/-]{0,63}")
_WORD_KEYS: Final = frozenset(
    {
        *("state", "status", "code", "id", "source", "origin", "combination", "mode", "level", "access"),
        *("scope", "schemas", "permissions", "capabilities", "workflow", "decision", "forbidden_actions"),
        *("tier", "transport", "plugin"),
    }
)
"""Keys under which a single word is the plugin's own: a state, a code, a name of the registry. Not
``schema``, ``action``, ``param``: what a refused command asked for is its sender's choice."""
OWN_WORDS: Final = frozenset(
    {
        *("hive-schema-list", "hive-client-capabilities", "hive-config", "hive-status", "hive-health"),
        *("hive-siblings", "hive-phase6-plugins", "hive-archon-status"),
    }
)
"""Methods whose answers hold no words of others: constants of the plugins and the operator's own options."""
_KEY: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
_SECRET_KEY: Final = re.compile(
    r"(^|_)(token|secret|preimage|rune|passphrase|password|nsec|privkey|seed|mnemonic|pin)(_|$)"
)
_SECRET_TEXT: Final = re.compile(
    r"nsec1[a-z0-9]{20,}|hivesec1[a-z0-9]{20,}|cashu[AB][A-Za-z0-9_=+/-]{20,}"
    r"|ln(bcrt|bc|tbs|tb)[0-9]*[munp]?1[a-z0-9]{50,}|[tx]prv[A-Za-z0-9]{50,}",
    re.IGNORECASE,
)
_WORDS: Final = """
ok warn fail error rejected success partial pending done executing approved expired cancelled
indeterminate active revoked superseded offered renewed none unknown true false yes no on off set
unset json text engaged released idle up down connected connecting degraded disabled enabled ready
starting stopping stopped present absent open closed running over completed native vc local remote nostr
nostr_dm rest commando dmail cache bitcoin testnet testnet4 signet regtest mainnet conservative
moderate aggressive monitor standard advanced admin monitoring fees routing everything custom read
auto confirm multi multisig deny allow cap single info notice warning critical confirmation preset
base rule override advisor sibling floor default option policy trial initializing probing local_ready
cl-hive cl-hive-comms cl-hive-archon hive archon comms derived random imported hour day prune legacy
always danger local_revocation authorize renew revoke approve reject trial_start trial_end sat msat ppm
percent
"""


class Outside(msgspec.Struct, frozen=True):
    """A part of an answer that came from ``origin``."""

    origin: str
    value: object


def own(value: object) -> Any:
    """``value`` with every text in it marked as ours: for constants of the registry and the kit."""
    if isinstance(value, str):
        return Own(value)
    if isinstance(value, Mapping):
        return {Own(name): own(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [own(item) for item in value]
    return value


@dataclass
class Answer:
    """A node's answer taken apart. ``untrusted`` maps a path in the answer to cleaned text."""

    data: Any = None
    untrusted: dict[str, dict[str, Any]] = field(default_factory=dict)
    omitted: int = 0


def take_apart(value: object, origin: str, *, own_words: bool = False) -> Answer:
    """``value`` as ``data`` and ``untrusted``; ``origin`` names where it came from, unless a part says
    otherwise (``Outside``). With ``own_words`` texts stay where they are, cleaned."""
    split = _Split(origin, own_words)
    split.answer.data = split.part(value, "", "")
    return split.answer


def untrusted_text(text: str, origin: str) -> dict[str, Any]:
    """Somebody's words, cleaned and without secrets, with where they came from."""
    shown = clean_text(_SECRET_TEXT.sub(WITHHELD, text), MAX_TEXT)
    return {"from": origin, "text": shown, "truncated": len(text) > MAX_TEXT}


class _Split:
    """One answer being taken apart."""

    def __init__(self, origin: str, own_words: bool) -> None:
        self.answer = Answer()
        self._origin, self._own_words = origin, own_words

    def part(self, value: object, path: str, key: str, secret: bool = False) -> Any:
        """``value`` as it may be shown; ``key`` is the name it stands under, ``secret`` whether that hides
        it."""
        if isinstance(value, Outside):
            return self._from_elsewhere(value, path, key, secret)
        if isinstance(value, Mapping):
            return dict(
                self._member(name if isinstance(name, str) else str(name), item, path, number, secret)
                for number, (name, item) in enumerate(value.items())
            )
        if isinstance(value, list | tuple):
            return [self.part(item, f"{path}/{at}", key, secret) for at, item in enumerate(value)]
        return self._text(value, path, key, secret) if isinstance(value, str) else value

    def _from_elsewhere(self, given: Outside, path: str, key: str, secret: bool) -> Any:
        before, self._origin = self._origin, given.origin
        try:
            return self.part(given.value, path, key, secret)
        finally:
            self._origin = before

    def _member(self, name: str, item: object, path: str, number: int, secret: bool) -> tuple[str, Any]:
        shown = name
        if self._own_words:
            shown = clean_text(_SECRET_TEXT.sub(WITHHELD, name), 200)
        elif not (
            isinstance(name, Own) or _KEY.fullmatch(name) or _TYPED.fullmatch(name) or name in _vocabulary()
        ):
            self._aside(name, f"{path}/{number}/name")
            shown = str(number)
        hidden = secret or _SECRET_KEY.search(name.lower()) is not None
        return shown, self.part(item, f"{path}/{shown}", name, hidden)

    def _text(self, text: str, path: str, key: str, secret: bool) -> str:
        if secret:
            return WITHHELD
        if isinstance(text, Own):
            return str(_SECRET_TEXT.sub(WITHHELD, text))
        if _TYPED.fullmatch(text) or text in _vocabulary():
            return text
        if key in _WORD_KEYS and _WORD.fullmatch(text) and _SECRET_TEXT.search(text) is None:
            return text
        if self._own_words:
            return clean_text(_SECRET_TEXT.sub(WITHHELD, text), MAX_TEXT)
        return self._aside(text, path)

    def _aside(self, text: str, path: str) -> str:
        if not text:
            return text
        if len(self.answer.untrusted) >= MAX_UNTRUSTED:
            self.answer.omitted += 1
            return OMITTED
        self.answer.untrusted[path or "/"] = untrusted_text(text, self._origin)
        return UNTRUSTED


@cache
def _vocabulary() -> frozenset[str]:
    """Words of the protocol: nobody else chooses them."""
    found = set(_WORDS.split()) | set(SYMBOLS) | {error.slug for error in HiveError.__subclasses__()}
    for method in method_table().values():
        found |= {method.name, *(choice for param in method.spec.params for choice in param.choices)}
    for spec in actions():
        for name in (spec.name, *spec.aliases):
            found |= {name, f"{spec.schema}#{name}", f"{spec.schema}/{name}"}
    return frozenset(found)
