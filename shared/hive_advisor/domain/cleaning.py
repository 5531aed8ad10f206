"""Remote text made safe to show (docs/protocol/11-advisor-kit.md §11.2)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

MAX_TEXT = 2_000
_ANSI = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[@-_])")
# Not from the beginning of a word: what stands before "http" does not keep others from seeing an address.
# What ends a sentence or a bracket around it is the sentence's.
_URL = re.compile(r"[a-z][a-z0-9+.-]{1,15}://[^\s<>\"']*[^\s<>\"'),.;:!?\]]", re.IGNORECASE)

_EXAMPLE = re.compile(r"(https?|wss?)://[a-z]{1,20}\.example\.com(:[0-9]{1,5})?")
"""What our own sentences show as the form of an address; it is nobody's (RFC 2606)."""


class Own(str):
    """A text that is ours or the human's here (an alias, an id, a sentence of the kit, the address of a mint
    that was named, a token of our making), so no words of others: it is shown as it is."""


def clean_text(text: str, limit: int = MAX_TEXT) -> str:
    """NFC text without control, ANSI, bidi, zero-width or tag characters; URLs become ``[url host]``."""
    text = _ANSI.sub("", unicodedata.normalize("NFC", text))
    kept = "".join(char for char in text if char in "\n\t" or not _hidden(char))
    kept = _URL.sub(_mask, kept)
    return kept if len(kept) <= limit else kept[: limit - 1] + "…"


def clean_value(value: object, limit: int = MAX_TEXT) -> object:
    """``clean_text`` applied to every string inside a JSON value."""
    if isinstance(value, Own):
        return str(value)
    if isinstance(value, str):
        return clean_text(value, limit)
    if isinstance(value, Mapping):
        return {
            str(key) if isinstance(key, Own) else clean_text(str(key), 200): clean_value(item, limit)
            for key, item in value.items()
        }
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [clean_value(item, limit) for item in value]
    return value


def _hidden(char: str) -> bool:
    # Cc control, Cf format (bidi, zero width, tags), Co private use, Cs surrogate, Zl/Zp line separators.
    return unicodedata.category(char) in {"Cc", "Cf", "Co", "Cs", "Zl", "Zp"}


def _mask(match: re.Match[str]) -> str:
    if _EXAMPLE.fullmatch(match.group()):
        return match.group()
    try:
        host = urlsplit(match.group()).hostname or "?"
    except ValueError:
        host = "?"
    return f"[url {host}]"
