"""Mail and the daily digest: on a running plugin, and as services with a clock (Protocol 08 §6 "Alerts")."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cl_hive_comms.domain.alert import Channel
from cl_hive_comms.services.alert_delivery import AlertDelivery, Targets
from cl_hive_comms.services.alert_digest import AlertDigest
from cl_hive_comms.services.alert_service import AlertService
from cl_hive_comms.services.ports_alerts import Letter, MailFailed
from cl_hive_comms.storage.state_store import StateStore
from comms_world import PLUGIN, call, refused, until, world
from hiring_world import MIGRATIONS
from hive_devnet.node import NodeHandle
from hive_shared.alerts import Level
from hive_shared.store import Db
from mail_server import MailServer

WORD = "s3cret-word"
DAY = 86_400
NINE = 1_770_022_800 - 1_770_022_800 % DAY + 9 * 3_600


async def alerts(node: NodeHandle) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = (await call(node, "hive-client-alerts"))["items"]
    return items


async def test_a_critical_alert_is_mailed_again_after_a_failure_and_a_restart(tmp_path: Path) -> None:
    mail = MailServer()
    async with world(tmp_path, **{"hive-comms-alert-email": "me@example.org"}) as (_, node, _relay):
        assert "alert-smtp" in await warning(node)
        for value, word in (
            (f"smtp://u:{WORD}@mail.example.com?tls=none", "in the clear"),
            (f"smtp://u:{WORD}/x@mail.example.com", "percent-encoded"),
            (f"smtps://u:{WORD}@mail.example.com", "password_file=/path"),
        ):
            error = await refused(
                node, "setconfig", config="hive-comms-alert-smtp", val=value, transient=True
            )
            assert word in error.message and WORD not in error.message
        error = await refused(node, "setconfig", config="hive-comms-alert-email", val="me", transient=True)
        assert "mail address" in error.message
        async with mail.serve():
            pass  # a port where nobody listens now
        server = f"smtp://127.0.0.1:{mail.port}?tls=none&from=node@example.org"
        await call(node, "setconfig", config="hive-comms-alert-smtp", val=server, transient=True)
        assert await warning(node) == ""
        tested = await call(node, "hive-client-alerts", action="test")
        assert (tested["email"]["state"], tested["email"]["attempts"]) == ("waiting", 1)
        assert "cannot be reached" in tested["email"]["error"]
        # A server that takes the connection and says nothing holds up nobody but the mail.
        held = asyncio.Event()

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            held.set()
            await reader.read()
            writer.close()

        hole = await asyncio.start_server(silent, "127.0.0.1", mail.port)
        async with asyncio.timeout(60):
            await held.wait()
        (row,) = await alerts(node)
        assert row["email"]["state"] == "waiting"
        await node.kill_plugin("cl-hive-comms.py")
        hole.close()
        async with mail.serve(login=("u", WORD)):
            await node.call(
                "plugin",
                {
                    "subcommand": "start",
                    "plugin": str(PLUGIN),
                    "hive-comms-alert-email": "me@example.org",
                    "hive-comms-alert-smtp": server.replace("//", f"//u:{WORD}@"),
                },
            )
            await until(lambda: _mailed(node, row["id"]), "the letter is mailed after all")
            await call(node, "hive-client-emergency-stop", action="engage", reason="fire")
            await until(lambda: _told(mail, "[critical]"), "the stop is mailed")
        first, *_ = mail.letters
        assert first["To"] == "me@example.org" and first["From"] == "node@example.org"
        assert f"alert {row['id']}" in first.get_content()
        shown = (
            node.log_text()
            + json.dumps(await call(node, "listconfigs"))
            + json.dumps(await alerts(node))
            + json.dumps(await call(node, "hive-client-status", verbose=True))
        )
        assert WORD not in shown


async def warning(node: NodeHandle) -> str:
    """What status says about mail, empty for nothing."""
    found = (await call(node, "hive-client-status"))["warnings"]
    return "".join(sentence for sentence in found if "mail" in sentence)


async def _mailed(node: NodeHandle, alert_id: int) -> bool:
    return any(row["id"] == alert_id and row["email"]["state"] == "sent" for row in await alerts(node))


async def _told(mail: MailServer, word: str) -> bool:
    return any(word in str(letter["Subject"]) for letter in mail.letters)


class World:
    """Alerts, delivery and digest over one database, with a clock; mail is taken or refused by `refuses`."""

    def __init__(self, path: Path) -> None:
        self.path, self.now = path, NINE - 3_600
        self.letters: list[Letter] = []
        self.refuses, self.hour = "", 9
        self.targets = Targets(email="me@example.org", mail_server=_server())
        self.build()

    def build(self) -> None:
        self.db = Db.open(self.path / "comms.db", MIGRATIONS)
        store = StateStore()
        now = lambda: self.now  # noqa: E731
        channels = lambda: self.targets.channels  # noqa: E731
        self.alerts = AlertService(self.db, store, now=now, log=_quiet, channels=channels)
        self.delivery = AlertDelivery(
            self.db,
            store,
            self.alerts,
            self,  # type: ignore[arg-type]
            self,  # type: ignore[arg-type]
            self,
            targets=lambda: self.targets,
            makesecret=_no_secret,
            node_id="02" + "aa" * 32,
            now=now,
            log=_quiet,
        )
        self.digest = AlertDigest(self.db, store, channels=channels, hour=lambda: self.hour, now=now)

    def restart(self) -> None:
        self.db.close()
        self.build()

    async def send(self, server: object, letter: Letter) -> None:
        if self.refuses:
            raise MailFailed(self.refuses)
        self.letters.append(letter)


def _server() -> Any:
    from cl_hive_comms.domain.mail import parse_mail_server

    return parse_mail_server("smtp://mail.example.org")


def _quiet(level: str, event: str, /, **fields: object) -> None:
    return None


async def _no_secret(text: str) -> bytes:
    raise AssertionError(text)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    yield made
    made.db.close()


async def test_the_digest_is_sent_once_a_day_and_once_only_across_restarts(desk: World) -> None:
    assert not await desk.digest.tick()
    await desk.alerts.alert(Level.INFO, "command_success", "set_single of fees (danger 1): success")
    await desk.alerts.alert(Level.NOTICE, "other", "a notice")
    await desk.delivery.mail_tick()
    assert desk.letters == []  # neither is for mail by itself
    assert not await desk.digest.tick()
    desk.now = NINE
    assert await desk.digest.tick()
    desk.restart()
    assert not await desk.digest.tick()
    await desk.delivery.mail_tick()
    desk.restart()
    await desk.delivery.mail_tick()
    (letter,) = desk.letters
    assert "0 critical, 0 warning, 1 notice, 1 info" in letter.body and "\n" not in letter.subject
    assert "set_single" in letter.body
    # A day without anything has no digest; one with a repeat has, and a digest is not told of.
    desk.now += DAY
    assert not await desk.digest.tick()
    await desk.alerts.alert(Level.INFO, "command_success", "set_single of fees (danger 1): success")
    desk.now += DAY
    assert await desk.digest.tick()
    await desk.delivery.mail_tick()
    assert "1 info" in desk.letters[1].body and desk.letters[1].body.count("[info]") == 2


async def test_without_a_way_no_digest_is_made_and_nothing_piles_up(desk: World) -> None:
    desk.targets = Targets()
    await desk.digest.tick()
    await desk.alerts.alert(Level.INFO, "old", "an old one")
    desk.now = NINE + 1
    assert not await desk.digest.tick()
    desk.targets = Targets(email="me@example.org", mail_server=_server())
    assert not await desk.digest.tick()
    await desk.alerts.alert(Level.INFO, "new", "a new one")
    desk.now += DAY
    assert await desk.digest.tick()
    await desk.delivery.mail_tick()
    assert "a new one" in desk.letters[0].body and "an old one" not in desk.letters[0].body


async def test_a_letter_gets_five_tries_and_the_same_id(desk: World) -> None:
    desk.refuses = "the server hung up"
    await desk.alerts.alert(Level.CRITICAL, "emergency_stop", "stopped\r\nBcc: x@example.org")
    waits = []
    for _ in range(6):
        began = desk.now
        await desk.delivery.mail_tick()
        (alert,) = await desk.alerts.recent()
        while alert.email.state == "waiting" and alert.email.attempts == len(waits) + 1:
            if desk.db.peek(lambda tx: StateStore().due(tx, Channel.EMAIL, desk.now, 1)):
                waits.append(desk.now - began)
                break
            desk.now += 1
    assert waits == [10, 40, 150, 600]
    assert (alert.email.state, alert.email.attempts) == ("failed", 5)
    assert alert.email.error == "the server hung up"
    desk.refuses = ""
    await desk.alerts.alert(Level.CRITICAL, "emergency_stop", "stopped\r\nBcc: y@example.org")
    await desk.delivery.mail_tick()
    (letter,) = desk.letters
    assert letter.subject == "[critical] stopped" and "Bcc: y@" in letter.body


async def test_a_full_line_of_letters_does_not_hold_up_one_another_for_ever(desk: World) -> None:
    for number in range(25):
        await desk.alerts.alert(Level.CRITICAL, "c", f"number {number}")
    desk.refuses = "cannot be reached"
    await desk.delivery.mail_tick()
    rows = await desk.alerts.recent(50)
    # One wall, one try: the rest waits for the next tick.
    assert sum(row.email.attempts for row in rows) == 1
    desk.refuses, desk.now = "", desk.now + 10
    await desk.delivery.mail_tick()
    await desk.delivery.mail_tick()
    assert len(desk.letters) == 25 == len({letter.message_id for letter in desk.letters})


async def test_a_mail_server_taken_away_ends_the_tries(desk: World) -> None:
    await desk.alerts.alert(Level.CRITICAL, "c", "text")
    desk.targets = Targets(email="me@example.org")
    await desk.delivery.mail_tick()
    (row,) = await desk.alerts.recent()
    assert row.email.state == "failed" and "emptied" in (row.email.error or "")
