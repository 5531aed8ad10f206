"""Pure rules of the kit: command states, cleaning of remote text, aliases."""

from __future__ import annotations

import pytest
from hive_advisor.domain.answer import read_answer
from hive_advisor.domain.auto_hire import AutoHire, objection
from hive_advisor.domain.cleaning import Own, clean_text, clean_value
from hive_advisor.domain.command_machine import (
    FINAL,
    TABLE,
    CommandEvent,
    CommandState,
    event_of_answer,
    next_state,
)
from hive_advisor.domain.names import check_alias
from hive_advisor.domain.schema_help import split_target
from hive_advisor.paths import profile_paths
from hive_shared.errors import InvalidParams
from hive_shared.market.terms import read_terms
from hypothesis import given
from hypothesis import strategies as st
from market_terms import terms


@given(st.lists(st.sampled_from(list(CommandEvent)), max_size=20))
def test_a_final_command_stays_as_it_is(events: list[CommandEvent]) -> None:
    state = CommandState.READY
    for event in events:
        to = next_state(state, event)
        if state in FINAL:
            assert to is None
        state = to or state


def test_every_state_is_reachable_and_every_open_one_has_an_exit() -> None:
    assert {CommandState.READY, *TABLE.values()} == set(CommandState)
    for state in CommandState:
        exits = {to for (source, _), to in TABLE.items() if source == state and to != state}
        assert bool(exits) == (state not in FINAL)


def test_only_silence_can_end_as_lost() -> None:
    assert {source for (source, event) in TABLE if event is CommandEvent.ON_PROVEN_NOT_RUN} == {
        CommandState.SENT
    }


@pytest.mark.parametrize(
    ("status", "slug", "event"),
    [
        (0, None, CommandEvent.ON_SUCCESS),
        (1, "policy_blocked", CommandEvent.ON_REJECTED),
        (1, "approval_expired", CommandEvent.ON_EXPIRED),
        (2, "indeterminate", CommandEvent.ON_INDETERMINATE),
        (2, "node_error", CommandEvent.ON_ERROR),
        (3, "confirmation_required", CommandEvent.ON_PENDING),
        (4, None, CommandEvent.ON_PARTIAL),
    ],
)
def test_the_meaning_of_an_answer(status: int, slug: str | None, event: CommandEvent) -> None:
    assert event_of_answer(status, slug) is event


@pytest.mark.parametrize("document", [{}, {"status": True}, {"status": 9}, {"status": 0, "error": "no"}])
def test_an_answer_of_another_shape_is_refused(document: dict[str, object]) -> None:
    with pytest.raises(InvalidParams):
        read_answer(document)


@given(st.text(max_size=300))
def test_cleaned_text_cannot_steer_a_terminal(text: str) -> None:
    cleaned = clean_text(text)
    assert "\x1b" not in cleaned
    assert not any(
        0x202A <= ord(c) <= 0x202E or 0x2066 <= ord(c) <= 0x2069 or 0xE0000 <= ord(c) <= 0xE007F
        for c in cleaned
    )
    assert all(c in "\n\t" or c.isprintable() or c == " " or c.isspace() or ord(c) > 0x7F for c in cleaned)


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("see https://evil.example/path?x=1 now", "see [url evil.example] now"),
        ("yours (they are https://a.example:8/b); add one.", "yours (they are [url a.example]); add one."),
        # The form of an address in a sentence of ours, and nothing that looks like it.
        ("must look like https://mint.example.com", "must look like https://mint.example.com"),
        ("https://mint.example.com/a https://b.example.com@evil", "[url mint.example.com] [url evil]"),
        ("https://evil.example/a).b.", "[url evil.example]."),
        ("a\u202eb\u200bc\U000e0041d", "abcd"),
        ("\x1b]0;title\x07text", "text"),
        ("x" * 3_000, "x" * 1_999 + "…"),
    ],
)
def test_remote_text_is_cleaned(raw: str, clean: str) -> None:
    assert clean_text(raw) == clean
    assert clean_value({"k": [raw]}) == {"k": [clean]}


def test_what_the_human_here_named_is_shown_whole_also_as_a_name() -> None:
    """Two mints at one host would otherwise be one line of a ticket."""
    mint, other = "https://a.example/one", "https://a.example/two"
    assert clean_value({Own(mint): "locked", Own(other): Own(mint)}) == {mint: "locked", other: mint}
    assert clean_value({mint: mint}) == {"[url a.example]": "[url a.example]"}


@pytest.mark.parametrize("alias", ["", " ", "12345", "ALL", "npub1abc", "did:x", "a\x00b", "x" * 65])
def test_unusable_aliases_are_refused(alias: str) -> None:
    with pytest.raises(InvalidParams):
        check_alias(alias)


def test_names_that_look_alike_are_one_alias() -> None:
    assert check_alias("Alice")[1] == check_alias("ａｌｉｃｅ")[1]


@pytest.mark.parametrize("name", ["", "..", "a/b", "../x", "x" * 65])
def test_a_profile_name_cannot_leave_its_directory(name: str) -> None:
    with pytest.raises(ValueError, match="profile name"):
        profile_paths(name)


def test_targets_are_read_with_and_without_version() -> None:
    assert split_target("hive:fee-policy/set_single") == ("hive:fee-policy/v1", "set_single")
    assert split_target("fee-policy/v1/set_single") == ("hive:fee-policy/v1", "set_single")
    for bad in ("set_single", "a/b/c/d", "hive:fee-policy/"):
        with pytest.raises(InvalidParams):
            split_target(bad)


@pytest.mark.parametrize(
    ("pay", "why"),
    [
        ({"model": "subscription", "baseMonthlySats": 5_000}, ""),
        ({"model": "subscription", "baseMonthlySats": 4_999}, "4999 sat a month, less than"),
        # Only invoices are asked for by themselves.
        (
            {"model": "subscription", "baseMonthlySats": 5_000, "acceptedMethods": ["bolt12", "cashu"]},
            "the monthly fee is paid by bolt12, cashu only",
        ),
        # A monthly sum that its model does not pay is no pay.
        ({"model": "per_action", "perActionSats": 1, "baseMonthlySats": 9_000}, "0 sat a month by model per"),
        ({"model": "per_action", "perActionSats": 1}, "0 sat a month, less than min_monthly_sats 5000"),
    ],
)
def test_unasked_is_agreed_only_to_what_really_pays_enough_a_month(pay: dict[str, object], why: str) -> None:
    limits = AutoHire(5_000, 1, ("standard",), ("fee-optimization",))
    said = objection(limits, read_terms(terms(compensation={"acceptedMethods": ["bolt11"], **pay})), 0)
    assert said.startswith(why) and bool(said) is bool(why)
