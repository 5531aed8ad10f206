"""The mail client against real servers, kind and hostile (Protocol 08 §5.1 `alert-smtp`, §6 "Alerts")."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from traceback import walk_stack
from urllib.parse import quote

import pytest
from cl_hive_comms.domain.mail import MailServer as Address
from cl_hive_comms.domain.mail import parse_mail_server
from cl_hive_comms.services.ports_alerts import Letter, MailFailed
from cl_hive_comms.transport.mail import SmtpMail, _hand_over
from hive_devnet.ports import free_port
from local_tls import LocalTls
from mail_server import MailServer
from socks_proxy import SocksServer

USER, PASSWORD = "operator@example.com", "pass word:/?#%"

LETTER = Letter(
    recipient="me@example.org",
    subject="[critical] Größe 5 ⚡",
    body="Zeile eins\n.\nline three, with a lone dot above\n" + "long " * 400 + "\n",
    message_id="<hive-alert-7-1770000000@02aa.invalid>",
    at=1_770_000_000,
)
LOGIN = f"{quote(USER, safe='')}:{quote(PASSWORD, safe='')}@"


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> LocalTls:
    return LocalTls.made(tmp_path_factory.mktemp("mail"))


def at(port: int, scheme: str = "smtp", login: str = "", more: str = "", host: str = "localhost") -> Address:
    return parse_mail_server(f"{scheme}://{login}{host}:{port}{more}")


async def why(mail: SmtpMail, server: Address) -> str:
    with pytest.raises(MailFailed) as caught:
        await mail.send(server, LETTER)
    text = str(caught.value)
    assert PASSWORD not in text and quote(PASSWORD, safe="") not in text
    return text


async def test_a_letter_arrives_whole_by_starttls_with_login(tls: LocalTls) -> None:
    async with MailServer().serve(starttls=tls.server(), login=(USER, PASSWORD)) as server:
        await SmtpMail(trust=tls.trust()).send(at(server.port, login=LOGIN), LETTER)
    (letter,) = server.letters
    assert server.envelopes == [(USER, [LETTER.recipient])]
    assert (letter["Subject"], letter["From"], letter["To"]) == (LETTER.subject, USER, LETTER.recipient)
    assert letter["Message-ID"] == LETTER.message_id and letter["Auto-Submitted"] == "auto-generated"
    assert letter.get_content().replace("\r\n", "\n") == LETTER.body
    assert server.logins == 1


async def test_implicit_tls_and_plain_to_this_machine_work_too(tls: LocalTls) -> None:
    async with MailServer().serve(implicit=tls.server(), login=(USER, PASSWORD)) as server:
        to = at(server.port, "smtps", LOGIN, "?from=node@example.net")
        await SmtpMail(trust=tls.trust()).send(to, LETTER)
    assert server.envelopes == [("node@example.net", [LETTER.recipient])]
    async with MailServer().serve() as server:
        await SmtpMail().send(at(server.port, more="?tls=none", host="127.0.0.1"), LETTER)
    # Nobody said who sends it: the operator writes to the operator.
    assert server.envelopes == [(LETTER.recipient, [LETTER.recipient])]


async def test_the_password_is_read_from_its_file_at_every_letter(tls: LocalTls, tmp_path: Path) -> None:
    file = tmp_path / "word"
    to = f"{quote(USER)}@"
    mail = SmtpMail(trust=tls.trust())
    async with MailServer().serve(starttls=tls.server(), login=(USER, PASSWORD)) as server:
        address = at(server.port, login=to, more=f"?password_file={quote(str(file))}")
        assert "cannot be read" in await why(mail, address)
        file.write_text("old word\n")
        file.chmod(0o644)
        assert "chmod 600" in await why(mail, address)
        file.chmod(0o600)
        assert "(535)" in await why(mail, address)
        file.write_text(PASSWORD + "\nnot this\n")
        await mail.send(address, LETTER)
    assert len(server.letters) == 1


async def test_a_wrong_password_and_refused_addresses_are_told_by_code_alone(tls: LocalTls) -> None:
    server = MailServer()
    async with server.serve(starttls=tls.server(), login=(USER, PASSWORD)):
        mail = SmtpMail(trust=tls.trust())
        wrong = at(server.port, login=f"{quote(USER)}:{'x' * 8}@")
        assert await why(mail, wrong) == "the server refused user or password (535)"
        assert "(530)" in await why(mail, at(server.port))
        server.refusal = f"550 no such user, but {PASSWORD} is nice"
        assert await why(mail, at(server.port, login=LOGIN)) == "the server refused the recipient (550)"
    assert server.letters == []


async def test_a_certificate_nobody_vouches_for_or_of_another_name_sees_no_password(tls: LocalTls) -> None:
    for modes in ({"starttls": tls.server()}, {"implicit": tls.server()}):
        scheme = "smtp" if "starttls" in modes else "smtps"
        async with MailServer().serve(login=(USER, PASSWORD), **modes) as server:
            assert (await why(SmtpMail(), at(server.port, scheme, LOGIN))).startswith("TLS: ")
            other = at(server.port, scheme, LOGIN, host="127.0.0.1")
            assert (await why(SmtpMail(trust=tls.trust()), other)).startswith("TLS: ")
        assert (server.logins, server.letters) == (0, [])


async def test_without_starttls_nothing_is_sent(tls: LocalTls) -> None:
    async with MailServer().serve(login=(USER, PASSWORD)) as server:
        assert "no STARTTLS" in await why(SmtpMail(trust=tls.trust()), at(server.port, login=LOGIN))
    assert (server.logins, server.letters) == (0, [])


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def talking(talk: Talk) -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def test_a_server_that_takes_no_login_is_told_apart() -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example\r\n")
        assert (await reader.readline()).startswith(b"ehlo [127.0.0.1]")
        writer.write(b"250 mail.example\r\n")
        await reader.read()

    async with talking(plain) as port:
        text = await why(SmtpMail(), at(port, login=LOGIN, more="?tls=none", host="127.0.0.1"))
    assert "takes no password" in text


async def test_a_server_that_is_down_silent_or_endless_is_a_failure_with_a_reason() -> None:
    assert "cannot be reached" in await why(SmtpMail(), at(free_port(), host="127.0.0.1"))

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with talking(silent) as port:
        text = await why(SmtpMail(seconds=0.3), at(port, host="127.0.0.1"))
        assert text == "not handed over within 0.3 seconds"

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"220-and another thing\r\n" * 1_000)
            await writer.drain()

    async with talking(endless) as port:
        assert await why(SmtpMail(), at(port, host="127.0.0.1")) == "the server hung up"

    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    async with talking(other) as port:
        assert await why(SmtpMail(), at(port, host="127.0.0.1"))


async def test_a_dialogue_that_was_given_up_leaves_no_thread_at_work() -> None:
    opened = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened.set()
        await reader.read()

    def at_work() -> bool:
        stacks = (walk_stack(top) for top in sys._current_frames().values())
        return any(frame.f_code is _hand_over.__code__ for stack in stacks for frame, _ in stack)

    async with talking(silent) as port:
        sending = asyncio.create_task(SmtpMail(seconds=60).send(at(port, host="127.0.0.1"), LETTER))
        async with asyncio.timeout(60):
            await opened.wait()
            while not at_work():
                await asyncio.sleep(0.01)
            sending.cancel()
            while at_work():
                await asyncio.sleep(0.01)
    assert sending.cancelled()


async def test_through_a_proxy_the_name_is_resolved_there_and_every_socket_goes_there(tls: LocalTls) -> None:
    async with (
        MailServer().serve(starttls=tls.server(), login=(USER, PASSWORD)) as server,
        SocksServer({"localhost": server.port, "mail.onion": server.port}).running() as socks,
    ):
        always = SmtpMail(proxy=f"127.0.0.1:{socks.port}", trust=tls.trust())
        await always.send(at(587, login=LOGIN), LETTER)
        # The port is the proxy's business too: nothing listens on 587 here.
        assert socks.asked == [("localhost", 587)] and len(server.letters) == 1
        assert "proxy could not reach mail.example" in await why(always, at(587, host="mail.example"))
        assert socks.asked[1:] == [("mail.example", 587)]

        onion_only = SmtpMail(proxy=f"127.0.0.1:{socks.port}", only_onion=True, trust=tls.trust())
        await onion_only.send(at(server.port, login=LOGIN), LETTER)
        assert len(socks.asked) == 2 and len(server.letters) == 2
        # The certificate is asked for by the name, which it does not carry.
        assert "TLS" in await why(onion_only, at(587, host="mail.onion"))
        assert socks.asked[2:] == [("mail.onion", 587)] and len(server.letters) == 2
    assert "cannot be reached" in await why(always, at(587))


async def test_an_onion_server_needs_the_proxy() -> None:
    assert "proxy" in await why(SmtpMail(), at(25, more="?tls=none", host="abc.onion"))
