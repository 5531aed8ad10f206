"""Names that people give and see (docs/protocol/08-client-and-plugins.md §6 "Identity").

A name is chosen by people and partly by strangers, so it never decides who somebody is: an advisor is its
key. Rules keep names from looking like keys, indexes or keywords, and look-alikes are pointed out.
"""

import re
import unicodedata
from collections.abc import Iterable

from hive_shared.errors import InvalidParams

MAX_LENGTH = 64
MAX_PER_ADVISOR = 10
_RESERVED = frozenset({"all", "node", "my-node"})
_KEY_PREFIXES = ("did:", "npub", "nsec", "nostr:")
_HEX_KEY = re.compile(r"[0-9a-f]{64,66}")
_NUMBERED = re.compile(r"advisor-\d+")
# Letters of other scripts and digits that most fonts draw like a Latin letter.
_DRAWN_LIKE = str.maketrans(
    "аеорсухіјѕԁԛԝһӏαοριυνκτ01|5",
    "aeopcyxijsdqwhlaopiuvktolls",
)
_PAIRS = (("rn", "m"), ("vv", "w"), ("cl", "d"))


def clean(name: str) -> str:
    """The name in its stored form: NFKC, single blanks. Raises InvalidParams with the rule it breaks."""
    # Plain blanks only: a line break or tab inside a name is not a blank but a control character.
    text = " ".join(part for part in unicodedata.normalize("NFKC", name).split(" ") if part)
    if not 1 <= len(text) <= MAX_LENGTH:
        raise InvalidParams(f"a name has 1 to {MAX_LENGTH} characters, this one has {len(text)}")
    if not text.isprintable() or any(unicodedata.category(char) in ("Cf", "Co", "Cn") for char in text):
        raise InvalidParams("a name holds printable characters only")
    folded = text.casefold()
    if folded.isdigit():
        raise InvalidParams(f"{text!a} is only digits; those are indexes of a search result")
    if folded in _RESERVED or _NUMBERED.fullmatch(folded):
        raise InvalidParams(f"{text!a} has a meaning of its own; choose another name")
    if folded.startswith(_KEY_PREFIXES) or _HEX_KEY.fullmatch(folded):
        raise InvalidParams(f"{text!a} looks like a key; a name must not")
    return text


def key_of(name: str) -> str:
    """What makes two names the same: NFKC, case and surplus blanks do not count."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def drawn_form(name: str) -> str:
    """Names with the same drawn form are easily taken for each other."""
    decomposed = unicodedata.normalize("NFKD", key_of(name))
    latin = decomposed.translate(_DRAWN_LIKE).replace("i", "l")
    plain = "".join(char for char in latin if not unicodedata.combining(char) and char.isalnum())
    for pair, single in _PAIRS:
        plain = plain.replace(pair, single)
    return plain


def look_alikes(name: str, others: Iterable[str]) -> list[str]:
    """Names among `others` that are not the same but look alike."""
    wanted, key = drawn_form(name), key_of(name)
    return sorted({other for other in others if key_of(other) != key and drawn_form(other) == wanted})


def unused(name: str, taken: Iterable[str]) -> str:
    """The name itself, or with ` (2)`, ` (3)` .. when it is taken."""
    keys = {key_of(other) for other in taken}
    if key_of(name) not in keys:
        return name
    number = 2
    while key_of(f"{name} ({number})") in keys:
        number += 1
    return f"{name} ({number})"
