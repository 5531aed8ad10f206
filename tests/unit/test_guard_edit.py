"""One key of guard.toml changed in its text, and what that loosens (11 §6)."""

from __future__ import annotations

import tomllib

import pytest
from hive_advisor.domain.guard_edit import changed, loosened, parse_key, value_of
from hive_advisor.domain.guard_rules import DEFAULT_RULES, parse_rules
from hive_shared.errors import InvalidParams

FILE = """# mine
[global]
fee_step_pct = 10   # small steps
denied = ["hive:channel/v1#*"]  # nobody confirms these away

  quiet_hours = "22:00-06:00"

[client."my node"]  # the big one
fee_writes_3h = 5
# the end
"""


def made(text: str, key: str, value: str | None) -> str:
    return changed(text, parse_key(key), None if value is None else value_of(value)).text


@pytest.mark.parametrize(
    ("key", "value", "old", "new"),
    [
        ("global.fee_step_pct", "12", "fee_step_pct = 10   # small", "fee_step_pct = 12  # small"),
        ("global.quiet_hours", "off", '  quiet_hours = "22:00-06:00"', '  quiet_hours = "off"'),
        ("global.denied", "[]", 'denied = ["hive:channel/v1#*"]  # nobody', "denied = []  # nobody"),
        ("client.My Node.fee_writes_3h", "4", "fee_writes_3h = 5\n", "fee_writes_3h = 4\n"),
        ("client.my node.max_danger", "2", "# the end\n", "# the end\nmax_danger = 2\n"),
        ("global.max_fee_ppm", "900", '-06:00"\n', '-06:00"\nmax_fee_ppm = 900\n'),
        ("origin.mcp.max_danger", "2", "# the end\n", "# the end\n\n[origin.mcp]\nmax_danger = 2\n"),
        ("client.a.b.denied", "[]", "# the end\n", '# the end\n\n[client."a.b"]\ndenied = []\n'),
        ("tool.adv_commit.per_day", "9", "# the end\n", "# the end\n\n[tool.adv_commit]\nper_day = 9\n"),
        ("global.fee_step_pct", None, "fee_step_pct = 10   # small steps\n", ""),
        ("global.max_fee_ppm", None, "", ""),
    ],
)
def test_one_key_changes_and_the_rest_stays_as_it_was(
    key: str, value: str | None, old: str, new: str
) -> None:
    assert FILE.count(old) == 1 or not old
    assert made(FILE, key, value) == (FILE.replace(old, new) if old else FILE)


def test_a_file_that_is_not_there_yet_begins_with_the_key() -> None:
    text = made("", "global.hold", '["open", "close"]')
    assert text == '[global]\nhold = ["open", "close"]\n'
    assert tomllib.loads(made(text, 'client.say "hi".denied', "[]")) == {
        "global": {"hold": ["open", "close"]},
        "client": {'say "hi"': {"denied": []}},
    }
    assert (
        made("[global]\r\nfee_step_pct = 1\r\n", "global.fee_step_pct", "2") == "[global]\nfee_step_pct = 2\n"
    )


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("global = {fee_step_pct = 10}\n", "global.max_fee_ppm", "7"),
        ("global.fee_step_pct = 10\n", "global.fee_step_pct", "7"),
        ('[global]\nhold = [\n"open",\n]\n', "global.hold", '["close"]'),
        ("[client]\na.fee_writes_3h = 5\n", "client.a.fee_writes_3h", "7"),
    ],
)
def test_what_cannot_be_changed_surely_is_left_to_an_editor(text: str, key: str, value: str) -> None:
    with pytest.raises(InvalidParams, match="change it in an editor"):
        made(text, key, value)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("fee_step_pct", "10", "is no key of guard.toml"),
        ("global", "10", "is no key of guard.toml"),
        ("globe.fee_step_pct", "10", "is no key of guard.toml"),
        ("client.fee_step_pct", "10", "is no key of guard.toml"),
        ("global.fee_stp", "10", "unknown key 'fee_stp'; known are max_danger"),
        ("global.fee_stp", None, "unknown key 'fee_stp'"),
        ("tool.adv_commit.per_hour", "1", "unknown key 'per_hour'; known are per_minute"),
        ("global.fee_step_pct", "lots", "takes a number from 0 to 10000, not 'lots'"),
        ("global.fee_step_pct", "1.5", "not '1.5'"),
        ("global.fee_step_pct", "true", "not 'true'"),
        ("global.fee_step_pct", "-1", "takes a number from 0"),
        ("global.hold", '["opens"]', "does not know 'opens'"),
        ("global.quiet_hours", "22-6", 'takes "22:00-06:00"'),
        ("origin.root.max_danger", "1", "[origin.root] is no origin"),
        ("origin.cli.max_danger", "7", "takes a number from 1 to 6"),
        ("client.npub1x.denied", "[]", "reserved"),
        ("tool.Adv.per_day", "1", "is not the name of a tool"),
    ],
)
def test_a_bad_key_or_value_is_refused_with_what_it_should_be(key: str, value: str | None, said: str) -> None:
    with pytest.raises(InvalidParams) as refused:
        made(FILE, key, value)
    assert said in refused.value.detail


def test_a_file_that_is_wrong_already_is_mended_first() -> None:
    for text, said in (("[", "not valid TOML"), ("[global]\nx = 1\n", "unknown key 'x'")):
        with pytest.raises(InvalidParams, match=said):
            made(text, "global.fee_step_pct", "1")


@pytest.mark.parametrize(
    ("text", "key", "value", "looser"),
    [
        ("", "global.fee_step_pct", "15", False),
        ("", "global.fee_step_pct", "14", False),
        ("", "global.fee_step_pct", "16", True),
        ("", "global.fee_step_pct", "off", True),
        ("", "global.min_fee_ppm", "26", False),
        ("", "global.min_fee_ppm", "24", True),
        ("", "global.onchain_reserve_sats", "599999", True),
        ("", "global.hold", '["open"]', True),
        ("", "global.denied", '["hive:wallet/v1#*"]', False),
        ("", "global.quiet_hours", "22:00-06:00", False),
        ("", "global.clients", '["alice"]', False),
        ("", "client.alice.fee_writes_3h", "50", False),
        ("", "origin.mcp.max_danger", "4", True),
        ("", "origin.mcp.max_danger", "2", False),
        ("", "tool.adv_commit.per_minute", "5", False),
        ("", "tool.adv_commit.per_minute", "6", True),
        (FILE, "global.fee_step_pct", None, True),
        (FILE, "global.denied", "[]", True),
        (FILE, "global.denied", '["hive:channel/v1#*", "hive:wallet/v1#*"]', False),
        (FILE, "global.quiet_hours", "21:00-07:00", False),
        (FILE, "global.quiet_hours", "23:00-06:00", True),
        (FILE, "global.quiet_hours", "22:00-05:59", True),
        (FILE, "client.my node.fee_writes_3h", None, True),
        (FILE, "client.my node.fee_writes_3h", "4", False),
        ('[global]\nclients = ["alice"]\n', "global.clients", '["alice", "bob"]', True),
        ('[global]\nclients = ["alice", "bob"]\n', "global.clients", '["alice"]', False),
        ("[tool.adv_commit]\nper_day = 9\n", "tool.adv_commit.per_day", "10", True),
        ("[tool.adv_commit]\nper_day = 9\n", "tool.adv_commit.per_day", None, True),
        ("[tool.adv_commit]\nper_day = 9\n", "tool.adv_commit.per_day", "8", False),
    ],
)
def test_what_lets_more_pass_is_known_as_looser(text: str, key: str, value: str | None, looser: bool) -> None:
    change = changed(text, parse_key(key), None if value is None else value_of(value))
    assert bool(change.looser) is looser, change.looser


def test_a_change_says_what_counted_and_what_counts() -> None:
    change = changed(FILE, parse_key("global.fee_step_pct"), None)
    assert (change.before, change.after) == (10, 15)
    assert change.looser == ("global.fee_step_pct: 10 is now 15",)
    change = changed(FILE, parse_key("tool.adv_commit.per_day"), 70)
    assert (change.before, change.after) == (None, 70)
    assert change.looser == ("tool.adv_commit.per_day: the default is now 70",)
    assert loosened(DEFAULT_RULES, DEFAULT_RULES) == ()
    rules = parse_rules({"client": {"alice": {"fee_writes_3h": 5}}})
    assert loosened(rules, DEFAULT_RULES) == ("client.alice.fee_writes_3h: 5 is now off",)
