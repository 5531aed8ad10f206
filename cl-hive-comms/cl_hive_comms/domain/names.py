"""Names that people give and see (docs/protocol/08-client-and-plugins.md §6 "Identity").

A name is chosen by people and partly by strangers, so it never decides who somebody is: an advisor is its
key. Rules keep names from looking like keys, indexes or keywords, and look-alikes are pointed out
(docs/decisions/0261-names-that-look-like-others.md).
"""

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

from hive_shared.errors import InvalidParams

MAX_LENGTH = 64
MAX_PER_ADVISOR = 10
_RESERVED = frozenset({"all", "node", "my-node"})
_KEY_PREFIXES = ("did:", "npub", "nsec", "nostr:")
_HEX_ID = re.compile(r"[0-9a-f]{16}|[0-9a-f]{64,66}")
_NUMBERED = re.compile(r"advisor-\d+")
_SECRET = re.compile(r"\s*(nostr:)?nsec1", re.IGNORECASE)
# They choose how the character before them is drawn, as of emoji; the name is the same without.
_SELECTORS = re.compile("[\ufe00-\ufe0f]")
# Letters and marks that are drawn as nothing, or as a blank that is none.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\uffa0\U000e0100-\U000e01ef]"
)
# Letters that most fonts draw like a Latin one, or near enough to warn; capitals as capitals.
_LETTERS = {
    ord(theirs): latin
    for script in (
        ("АВЕЅІЈКМНОРСТУХԌԚԜҮӀ", "ABESIJKMHOPCTYXGQWYI"),
        ("авеѕіјкмнорстухԁԛԝһүӏг", "abesijkmhopctyxdqwhylr"),
        ("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "ABEZHIKMNOPTYX"),
        ("αβεζηικμνορτυχγω", "abeznikuvoptuxyw"),
        ("ՍՕԼօոսհցզյք", "UOLonuhgqjp"),
        ("ᎠᎡᎢᎪᎫᎬᎳᎷᎻᎽᏀᏃᏒᏔᏙᏚᏞᏟᏢᏦᏴ", "DRTAJEWMHYGZRWVSLCPKB"),
        ("ŁØĐĦŦłøđħŧıɑɡɩʟɪ", "LODHTlodhtiagili"),
    )
    for theirs, latin in zip(*script, strict=True)
}
_DIGITS = str.maketrans("01|5", "olls")
_PAIRS = (("rn", "m"), ("vv", "w"), ("cl", "d"))
_MIXABLE = frozenset({"LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE"})


def clean(name: str) -> str:
    """The name in its stored form: NFKC, single blanks. Raises InvalidParams with the rule it breaks."""
    refuse_secret(name)
    # Plain blanks only: a line break or tab inside a name is not a blank but a control character.
    text = " ".join(part for part in _plain(name).split(" ") if part)
    if not 1 <= len(text) <= MAX_LENGTH:
        raise InvalidParams(f"a name has 1 to {MAX_LENGTH} characters, this one has {len(text)}")
    hidden = _INVISIBLE.search(text) or any(unicodedata.category(char) in ("Cf", "Co", "Cn") for char in text)
    if hidden or not text.isprintable():
        raise InvalidParams("a name holds printable characters only")
    if unicodedata.category(text[0]).startswith("M"):
        raise InvalidParams("a name starts with a character of its own, not with an accent for another one")
    folded = text.casefold()
    if folded.isdigit():
        raise InvalidParams(f"{text!a} is only digits; those are indexes of a search result")
    # Also in letters of another script: whoever reads the name reads the keyword.
    for form in {folded, _latin(text)}:
        if form in _RESERVED or _NUMBERED.fullmatch(form):
            raise InvalidParams(f"{text!a} has a meaning of its own; choose another name")
        if form.startswith(_KEY_PREFIXES) or _HEX_ID.fullmatch(form):
            raise InvalidParams(f"{text!a} looks like a key; a name must not")
    return text


def refuse_secret(text: str) -> None:
    """Raises InvalidParams for a secret key in a name's place; the sentence does not repeat it."""
    if _SECRET.match(text):
        raise InvalidParams(
            "that is a secret key (nsec…), it stays with its owner; an advisor is named by npub, or by name"
        )


def is_index(text: str) -> bool:
    """Whether it is the number of a search result: no name is only digits."""
    return _plain(text).strip().isdigit()


def key_of(name: str) -> str:
    """What makes two names the same: NFKC, case and surplus blanks do not count."""
    return " ".join(unicodedata.normalize("NFKC", _plain(name).casefold()).split())


@lru_cache(maxsize=16_384)
def drawn_form(name: str) -> str:
    """Names with the same drawn form are easily taken for each other."""
    latin = "".join(str(unicodedata.decimal(char, char)) for char in _latin(name))
    plain = "".join(char for char in latin.translate(_DIGITS).replace("i", "l") if char.isalnum())
    for pair, single in _PAIRS:
        plain = plain.replace(pair, single)
    # Of a name without letters nothing would be left, and all of them would look alike.
    return plain or key_of(name)


def look_alikes(name: str, others: Iterable[str]) -> list[str]:
    """Names among `others` that are not the same but look alike."""
    wanted, key = drawn_form(name), key_of(name)
    return sorted({other for other in others if key_of(other) != key and drawn_form(other) == wanted})


def mixed_scripts(name: str) -> tuple[str, ...]:
    """The scripts of a word that draws letters from several which look alike; empty for any other name."""
    for word in _plain(name).split():
        found = {unicodedata.name(char, "").split(" ")[0] for char in word if char.isalpha()} & _MIXABLE
        if len(found) > 1:
            return tuple(sorted(script.capitalize() for script in found))
    return ()


def unused(name: str, taken: Iterable[str]) -> str:
    """The name itself, or with ` (2)`, ` (3)` .. when it is taken."""
    keys = {key_of(other) for other in taken}
    if key_of(name) not in keys:
        return name
    number = 2
    while key_of(f"{name} ({number})") in keys:
        number += 1
    return f"{name} ({number})"


def _plain(name: str) -> str:
    return _SELECTORS.sub("", unicodedata.normalize("NFKC", name))


def _latin(name: str) -> str:
    """Small Latin letters, as far as the name looks like them; without accents."""
    decomposed = unicodedata.normalize("NFKD", _plain(name))
    bare = "".join(char for char in decomposed if not unicodedata.combining(char))
    # Again after folding: small Cherokee letters become capitals by it.
    return bare.translate(_LETTERS).casefold().translate(_LETTERS).casefold()
