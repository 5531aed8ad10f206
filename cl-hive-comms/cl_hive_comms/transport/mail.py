"""One mail to the operator over SMTP (docs/protocol/08-client-and-plugins.md §5.1, §6 "Alerts").

The dialogue runs in a thread over a socket of ours: when the time is up the socket is shut down, which ends
the thread. TLS is verified, and a password is never sent without it, except to this machine.
"""

import asyncio
import io
import smtplib
import socket
import ssl
from collections.abc import Callable
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from email.utils import formatdate
from pathlib import Path
from typing import Any, Final

from hive_shared.errors import InvalidParams
from hive_shared.nostr.socks import connect_through, parse_proxy
from hive_shared.sealed_file import first_line, read_secret_file

from cl_hive_comms.domain.mail import MailServer
from cl_hive_comms.services.ports_alerts import Letter, MailFailed

_MOST_SAID: Final = 65_536
"""Bytes a server may say in one step of the dialogue."""
_OWN_NAME: Final = "[127.0.0.1]"
"""What we call ourselves: a node need not tell its host's name."""


class SmtpMail:
    """Hands letters to a mail server.

    `proxy` is a SOCKS5 `host:port`, for every address or (`only_onion`) for onion ones. `trust` replaces the
    system's certificates. A letter takes at most `seconds`.
    """

    def __init__(
        self,
        *,
        proxy: str | None = None,
        only_onion: bool = False,
        trust: ssl.SSLContext | None = None,
        seconds: float = 30.0,
    ) -> None:
        self._proxy, self._only_onion = parse_proxy(proxy) if proxy else None, only_onion
        self._trust, self._seconds = trust, seconds

    async def send(self, server: MailServer, letter: Letter) -> None:
        """Return when the server took the letter; raise MailFailed with the reason else."""
        try:
            async with asyncio.timeout(self._seconds):
                await self._send(server, letter)
        except TimeoutError:
            raise MailFailed(f"not handed over within {self._seconds:g} seconds") from None
        except ssl.SSLError as error:
            raise MailFailed(f"TLS: {getattr(error, 'verify_message', '') or error.reason}") from None
        except smtplib.SMTPException as error:
            raise MailFailed(_reason(error)) from None
        except (OSError, ValueError) as error:
            raise MailFailed(f"cannot be reached: {error}") from None

    async def _send(self, server: MailServer, letter: Letter) -> None:
        sock = await self._connect(server.host, server.port)
        # The dialogue may wrap the socket in TLS; this handle ends it all the same.
        handle = sock.dup()
        sock.settimeout(self._seconds)
        try:
            await asyncio.to_thread(_hand_over, sock, server, letter, self._context)
        finally:
            try:
                handle.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the server was quicker
            handle.close()

    def _context(self) -> ssl.SSLContext:
        return self._trust or ssl.create_default_context()

    async def _connect(self, host: str, port: int) -> socket.socket:
        onion = host.endswith(".onion")
        if self._proxy is not None and (onion or not self._only_onion):
            return await connect_through(self._proxy, host, port)
        if onion:
            raise MailFailed("an onion address needs the node's proxy option")
        loop = asyncio.get_running_loop()
        problem: OSError = OSError(f"{host} has no address")
        for family, kind, protocol, _, address in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            sock = socket.socket(family, kind, protocol)
            try:
                sock.setblocking(False)
                await loop.sock_connect(sock, address)
                return sock
            except OSError as error:
                problem = error
                sock.close()
            except BaseException:
                sock.close()
                raise
        raise problem


def _password(server: MailServer) -> str:
    try:
        secret = server.password
        if server.password_file:
            secret = first_line(read_secret_file(Path(server.password_file), "mail password"))
        return "" if secret is None else secret.reveal().decode("ascii")
    except UnicodeDecodeError:
        raise MailFailed("the mail password must be plain ASCII characters") from None
    except InvalidParams as error:
        raise MailFailed(error.detail) from None


def _hand_over(
    sock: socket.socket, server: MailServer, letter: Letter, context: Callable[[], ssl.SSLContext]
) -> None:
    password = _password(server)
    if server.tls == "implicit":
        sock = context().wrap_socket(sock, server_hostname=server.host)
    session = _Session(sock, server)
    try:
        session.ehlo_or_helo_if_needed()
        if server.tls == "starttls":
            if not session.has_extn("starttls"):
                raise MailFailed("the server offers no STARTTLS; without it nothing is sent")
            session.starttls(context=context())
            session.ehlo_or_helo_if_needed()
        if server.user:
            session.login(server.user, password)
        sender = server.sender or letter.recipient
        session.sendmail(sender, [letter.recipient], _written(letter, sender))
        session.putcmd("quit")
    finally:
        session.close()


class _Session(smtplib.SMTP):
    """A dialogue over a socket that is connected already, with a server that may not talk for ever."""

    def __init__(self, sock: socket.socket, server: MailServer) -> None:
        self._given = sock
        try:
            super().__init__(server.host, server.port, local_hostname=_OWN_NAME)
        except BaseException:
            sock.close()
            raise

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        return self._given

    def getreply(self) -> tuple[int, bytes]:
        """As the library reads it, from a server of few words."""
        if self.file is None and self.sock is not None:
            self.file = _Bounded(self.sock.makefile("rb"))
        elif isinstance(self.file, _Bounded):
            self.file.left = _MOST_SAID
        return super().getreply()


class _Bounded(io.RawIOBase):
    """Lines of a server's answer, `left` bytes at most."""

    def __init__(self, source: Any) -> None:
        self._source, self.left = source, _MOST_SAID

    def readline(self, size: int | None = -1) -> bytes:
        """One line; OSError when the server said too much."""
        line = bytes(self._source.readline(size))
        self.left -= len(line)
        if self.left < 0:
            raise OSError("the server talks too much")
        return line

    def close(self) -> None:
        """Close what is read from."""
        self._source.close()
        super().close()


def _written(letter: Letter, sender: str) -> bytes:
    message = EmailMessage(policy=SMTP_POLICY)
    message["From"], message["To"] = sender, letter.recipient
    message["Subject"] = letter.subject
    message["Date"] = formatdate(letter.at)
    message["Message-ID"] = letter.message_id
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(letter.body, cte="quoted-printable")
    return message.as_bytes()


def _reason(error: smtplib.SMTPException) -> str:
    """Without the server's own words: a hostile one could repeat what we told it."""
    match error:
        case smtplib.SMTPAuthenticationError():
            return f"the server refused user or password ({error.smtp_code})"
        case smtplib.SMTPNotSupportedError():
            return "the server takes no password, or none in a way we know; leave user and password out"
        case smtplib.SMTPRecipientsRefused():
            codes = ", ".join(str(code) for code, _ in error.recipients.values())
            return f"the server refused the recipient ({codes})"
        case smtplib.SMTPSenderRefused():
            return f"the server refused the sender ({error.smtp_code}); ?from=address sets another one"
        case smtplib.SMTPResponseException():
            return f"the server answered {error.smtp_code}"
        case smtplib.SMTPServerDisconnected():
            return "the server hung up"
        case _:
            return "the server does not speak SMTP, or offers no login, as we know it"
