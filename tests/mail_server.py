"""A real mail server on this machine: takes letters, or refuses them as a test wants it."""

from __future__ import annotations

import asyncio
import ssl
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from typing import Any, cast

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session


class MailServer:
    """`letters` are those taken, `refusal` is what RCPT gets instead of 250; `logins` counts attempts."""

    def __init__(self) -> None:
        self.port, self.connections, self.logins = 0, 0, 0
        self.letters: list[EmailMessage] = []
        self.envelopes: list[tuple[str, list[str]]] = []
        self.refusal = ""
        self._login: tuple[str, str] | None = None

    @asynccontextmanager
    async def serve(
        self,
        *,
        starttls: ssl.SSLContext | None = None,
        implicit: ssl.SSLContext | None = None,
        login: tuple[str, str] | None = None,
    ) -> AsyncIterator[MailServer]:
        """Listen; with `login` a letter needs that user and password."""
        self._login = login

        def protocol() -> SMTP:
            self.connections += 1
            with warnings.catch_warnings():
                # Logins without TLS are what some of our tests are about.
                warnings.simplefilter("ignore", UserWarning)
                return SMTP(
                    self,
                    hostname="mail.example",
                    tls_context=starttls,
                    require_starttls=starttls is not None,
                    authenticator=self._authenticate if login else None,
                    auth_required=login is not None,
                    auth_require_tls=starttls is not None,
                )

        loop = asyncio.get_running_loop()
        server = await loop.create_server(protocol, "127.0.0.1", self.port, ssl=implicit)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    def _authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
    ) -> AuthResult:
        self.logins += 1
        user, password = self._login or ("", "")
        wanted = LoginPassword(user.encode(), password.encode())
        return AuthResult(success=data == wanted, handled=False)

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if self.refusal:
            return self.refusal
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        content = cast(bytes, envelope.content)
        self.letters.append(cast(EmailMessage, message_from_bytes(content, policy=cast(Any, default))))
        self.envelopes.append((envelope.mail_from or "", list(envelope.rcpt_tos)))
        return "250 taken"
