"""The operator's mail server and address, as options write them (docs/protocol/08-client-and-plugins.md §5.1
`alert-email`, `alert-smtp`; docs/decisions/0251-mail-for-alerts.md)."""

import re
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
from hive_shared.crypto import Secret
from hive_shared.nostr.relay_url import is_loopback

FORM: Final = "smtp://user:password@mail.example.com:587 (STARTTLS) or smtps://..:465 (TLS)"
_ADDRESS: Final = re.compile(
    r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*\Z"
)
_PORT: Final = {"smtps": 465, "smtp": 587}


class MailServer(msgspec.Struct, frozen=True):
    """Where mail is handed in. `tls` is "implicit", "starttls" (demanded, never just offered) or "none"."""

    host: str
    port: int
    tls: str
    user: str = ""
    password: Secret | None = None
    password_file: str = ""
    """Absolute path of a file with the password, read at every letter; empty: `password` is it."""
    sender: str = ""
    """The From address; empty: that of the recipient."""


def parse_address(text: str) -> str:
    """One plain address. Raises ValueError with a sentence."""
    if len(text) > 254 or not _ADDRESS.match(text):
        raise ValueError(f"{text[:80]!a} is not one mail address like you@example.com")
    return text


def parse_mail_server(text: str) -> MailServer:
    """Read `smtp[s]://user:password@host:port?from=address`. Raises ValueError with a sentence, which never
    repeats the text: it may hold a password."""
    if not re.fullmatch(r"[!-~]{1,1000}", text):
        raise ValueError(
            f"the mail server has blanks or other letters that do not belong; write it as {FORM}"
        )
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError(
            "the mail server's port is not a number; / ? # : in a password have to be percent-encoded"
        ) from None
    host = parts.hostname or ""
    if parts.scheme not in _PORT or not host or port == 0:
        raise ValueError(f"that is no mail server; write it as {FORM}")
    if parts.fragment or parts.path not in ("", "/"):
        raise ValueError(
            "nothing may follow the mail server's port but ?from=..; / and # in a password have to be"
            " percent-encoded (%2F, %23)"
        )
    more = _settings(parts.query)
    tls = "implicit" if parts.scheme == "smtps" else "starttls"
    if more.get("tls") is not None:
        if more["tls"] != "none" or parts.scheme != "smtp" or not (is_loopback(host) or _is_onion(host)):
            raise ValueError(
                "tls=none is for smtp:// to this machine or an onion address only: elsewhere the password"
                " would travel in the clear"
            )
        tls = "none"
    file = more.get("password_file", "")
    user, password = _login(parts.username, parts.password, file)
    sender = more.get("from", "")
    if not sender and "@" in user:
        sender = user
    return MailServer(
        host=host,
        port=port or (25 if tls == "none" else _PORT[parts.scheme]),
        tls=tls,
        user=user,
        password=password,
        password_file=file,
        sender=parse_address(sender) if sender else "",
    )


def _is_onion(host: str) -> bool:
    return host.endswith(".onion")


def _settings(query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), max_num_fields=8)
    except ValueError:
        pairs = [("", "")]
    found = dict(pairs)
    if len(found) != len(pairs) or not found.keys() <= {"from", "tls", "password_file"}:
        raise ValueError(
            "behind the mail server's ? only from=, password_file= and tls=none may stand, each once; a ? in"
            " a password has to be percent-encoded (%3F)"
        )
    return found


def _login(user: str | None, password: str | None, file: str) -> tuple[str, Secret | None]:
    if file and (not file.startswith("/") or not file.isprintable()):
        raise ValueError("password_file needs an absolute path, like password_file=/etc/hive/smtp-password")
    if not user and not password and not file:
        return "", None
    if not user or bool(password) == bool(file):
        raise ValueError(
            "the mail server needs a user with a password (user:password@, or user@ and password_file=), or"
            " neither"
        )
    user, password = unquote(user), unquote(password or "")
    if not all(re.fullmatch(r"[ -~]*", part) for part in (user, password)):
        raise ValueError("user and password of the mail server must be plain ASCII characters")
    return user, Secret(password.encode()) if password else None
