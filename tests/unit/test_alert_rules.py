"""Which alert goes where, how mail servers are written, when a digest is due and what it says
(Protocol 08 §5.1, §6 "Alerts")."""

from __future__ import annotations

import pytest
from cl_hive_comms.domain.alert import TEST, Alert, Channel, channels_of, level_of_danger, retry_after
from cl_hive_comms.domain.digest import DIGEST, MAX_LINES, digest_text, due, way_of
from cl_hive_comms.domain.mail import parse_address, parse_mail_server
from hive_shared.alerts import Level

NINE = 1_770_022_800 - 1_770_022_800 % 86_400 + 9 * 3_600
HOUR, DAY = 3_600, 86_400


def test_each_level_goes_where_the_sheet_sends_it() -> None:
    assert channels_of(Level.INFO, "x") == frozenset()
    assert channels_of(Level.NOTICE, "x") == {Channel.WEBHOOK}
    assert channels_of(Level.WARNING, "x") == {Channel.WEBHOOK, Channel.DM}
    assert channels_of(Level.CRITICAL, "x") == {Channel.WEBHOOK, Channel.DM, Channel.EMAIL}
    for level in Level:
        assert channels_of(level, "command_waiting") == frozenset(Channel)
    assert [level_of_danger(danger) for danger in (1, 2, 3, 4, 5, 6, 7, 10)] == [
        *[Level.INFO] * 2,
        *[Level.NOTICE] * 2,
        *[Level.WARNING] * 2,
        *[Level.CRITICAL] * 2,
    ]


def test_five_tries_within_a_quarter_of_an_hour() -> None:
    assert [retry_after(tries) for tries in (1, 2, 3, 4, 5)] == [10, 40, 150, 600, None]


@pytest.mark.parametrize(
    ("text", "host", "port", "tls", "user", "sender"),
    [
        ("smtp://mail.example.com", "mail.example.com", 587, "starttls", "", ""),
        ("smtps://u:p@mail.example.com", "mail.example.com", 465, "implicit", "u", ""),
        ("smtp://me%40x.org:p@m.x.org:2525/", "m.x.org", 2525, "starttls", "me@x.org", "me@x.org"),
        ("smtp://me@x.org:p@m.x.org", "m.x.org", 587, "starttls", "me@x.org", "me@x.org"),
        ("smtps://u:p@m.x.org?from=n@x.org", "m.x.org", 465, "implicit", "u", "n@x.org"),
        ("smtp://127.0.0.1?tls=none", "127.0.0.1", 25, "none", "", ""),
        ("smtp://[::1]:2500?tls=none&from=n@x.org", "::1", 2500, "none", "", "n@x.org"),
        ("smtp://abcdef.onion?tls=none", "abcdef.onion", 25, "none", "", ""),
    ],
)
def test_mail_servers_are_read(text: str, host: str, port: int, tls: str, user: str, sender: str) -> None:
    server = parse_mail_server(text)
    assert (server.host, server.port, server.tls, server.user, server.sender) == (
        host,
        port,
        tls,
        user,
        sender,
    )


def test_a_password_may_be_anything_percent_encoded_and_is_not_shown() -> None:
    server = parse_mail_server("smtps://u:p%3A%2F%40%23%3F%25w%20d@m.x.org")
    assert server.password is not None and server.password.reveal() == b"p:/@#?%w d"
    assert "p:/@" not in repr(server) and "p%3A" not in repr(server)


def test_the_password_may_stand_in_a_file() -> None:
    server = parse_mail_server("smtps://u@m.x.org?password_file=/home/me/my%20word&from=n@x.org")
    assert (server.user, server.password, server.password_file) == ("u", None, "/home/me/my word")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("smtps://u:geheim@m.x.org?password_file=/geheim", "or user@ and password_file="),
        ("smtps://m.x.org?password_file=/geheim", "a user with"),
        ("smtps://u@m.x.org?password_file=geheim", "absolute path"),
        ("smtps://u@m.x.org?password_file=/geheim%0A", "absolute path"),
        ("mail.example.com:587", "smtp://"),
        ("https://mail.example.com", "smtp://"),
        ("smtp://", "smtp://"),
        ("smtp://u:geheim@", "smtp://"),
        ("smtp://u:ge heim@m.x.org", "blanks"),
        ("smtp://u:gehéim@m.x.org", "blanks"),
        ("smtp://u:geheim/1@m.x.org", "percent-encoded"),
        ("smtp://u:geheim#1@m.x.org", "percent-encoded"),
        ("smtp://u:geheim?1@m.x.org", "percent-encoded"),
        ("smtp://u:geheim@m.x.org/geheim", "percent-encoded"),
        ("smtp://u:geheim@m.x.org:99999", "percent-encoded"),
        ("smtp://u:geheim@m.x.org:0", "smtp://"),
        ("smtp://u@m.x.org", "a user with"),
        ("smtp://:geheim@m.x.org", "a user with"),
        ("smtp://u:geheim%C3%A9@m.x.org", "ASCII"),
        ("smtp://u:geheim%0Ax@m.x.org", "ASCII"),
        ("smtp://u:geheim@m.x.org?tls=none", "in the clear"),
        ("smtps://u:geheim@127.0.0.1?tls=none", "in the clear"),
        ("smtp://127.0.0.1?tls=no", "in the clear"),
        ("smtp://m.x.org?from=nobody", "mail address"),
        ("smtp://m.x.org?from=a@b&from=c@d", "each once"),
        ("smtp://m.x.org?color=red", "only from="),
        ("smtp://m.x.org?" + "&".join(f"a{n}=1" for n in range(20)), "only from="),
    ],
)
def test_what_is_no_mail_server_is_refused_without_repeating_it(text: str, word: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_mail_server(text)
    assert word in str(caught.value) and "geh" not in str(caught.value)


@pytest.mark.parametrize("text", ["me", "a@b@c", "a b@c.d", "me@x.org,you@x.org", "Me <me@x.org>", "é@x.org"])
def test_one_plain_mail_address_is_asked_for(text: str) -> None:
    assert parse_address("me+node@mail.example.org") == "me+node@mail.example.org"
    with pytest.raises(ValueError, match="one mail address"):
        parse_address(text)


def test_a_digest_is_due_once_a_day_at_its_hour_also_when_the_node_was_down() -> None:
    yesterday = NINE - DAY
    assert not due(NINE - 1, 9, yesterday)
    assert due(NINE, 9, yesterday)
    assert not due(NINE + 1, 9, NINE)
    assert due(NINE + 5 * HOUR, 9, yesterday + 5)
    assert not due(NINE + 20 * HOUR, 9, NINE + 5 * HOUR)
    assert due(NINE + 3 * DAY + HOUR, 9, NINE)
    assert due(NINE + 15 * HOUR, 0, NINE) and not due(NINE + 15 * HOUR - 1, 0, NINE)
    assert due(NINE + 14 * HOUR, 23, NINE)
    # A clock that was far ahead when the last one was made does not silence it for years.
    assert due(NINE, 9, NINE + 400 * DAY)
    assert not due(NINE, 9, NINE + HOUR)


def test_the_digest_goes_the_quietest_way() -> None:
    assert way_of(Channel) is Channel.EMAIL
    assert way_of({Channel.WEBHOOK, Channel.DM}) is Channel.DM
    assert way_of({Channel.WEBHOOK}) is Channel.WEBHOOK
    assert way_of(()) is None


def row(alert_id: int, level: Level, code: str = "x", count: int = 1) -> Alert:
    return Alert(alert_id, level, code, f"text {alert_id}", count, NINE, NINE, None)


def test_the_digest_counts_all_shows_the_loudest_first_and_is_bounded() -> None:
    alerts = [row(1, Level.INFO, count=3), row(2, Level.CRITICAL), row(3, Level.NOTICE), row(4, Level.INFO)]
    text = digest_text([*alerts, row(5, Level.INFO, DIGEST), row(6, Level.NOTICE, TEST)], NINE - DAY)
    assert text is not None
    head, *lines = text.split("\n")
    assert head.endswith("1 critical, 0 warning, 1 notice, 4 info.") and "09:00 UTC" in head
    assert [line.split("]")[0][1:] for line in lines] == ["critical", "notice", "info", "info"]
    assert lines[2].endswith("text 1 (3 times)")
    many = digest_text([row(n, Level.INFO) for n in range(500)], NINE)
    assert many is not None and len(many.split("\n")) == MAX_LINES + 2
    assert many.endswith("and 440 more: hive-client-alerts lists them")
    assert digest_text([row(1, Level.INFO, DIGEST)], NINE) is None
