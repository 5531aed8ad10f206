"""What may be answered in a setup session, and the order of its steps (Protocol 08 §7 "Setup")."""

from __future__ import annotations

from typing import Any

import pytest
from cl_hive_comms.domain import setup
from cl_hive_comms.domain.setup import Answers, Candidate, Session, State, Step
from hive_shared.errors import InvalidParams, Unsupported
from hypothesis import given
from hypothesis import strategies as st

SOMEBODY = Answers(advisor=Candidate("ab" * 32, "x"))


def test_the_steps_are_those_of_the_sheet_and_back_is_the_way_back() -> None:
    order = list(Step)
    assert [step.value for step in order] == [
        *("self-check", "need", "preset", "limits", "payment", "alerts", "advisor", "trial", "confirm")
    ]
    for step in order[:-1]:
        assert setup.before(setup.after(step, SOMEBODY), SOMEBODY) is step
    assert setup.after(Step.ADVISOR, Answers()) is Step.CONFIRM, "without an advisor no trial is asked about"
    assert setup.before(Step.CONFIRM, Answers()) is Step.ADVISOR
    with pytest.raises(InvalidParams, match="first step"):
        setup.before(Step.SELFCHECK, Answers())


@pytest.mark.parametrize("value", [None, 1.5, ["x"], "", "   ", "x" * 4_001])
def test_what_is_no_answer_is_refused(value: Any) -> None:
    with pytest.raises(InvalidParams):
        setup.answer_text(value)


@pytest.mark.parametrize("text", ["nsec1verysecret", "npub1x nsec1verysecret", "NOSTR:NSEC1verysecret"])
def test_a_secret_key_is_no_answer_and_is_not_repeated(text: str) -> None:
    with pytest.raises(InvalidParams, match="secret key") as caught:
        setup.answer_text(text)
    assert "verysecret" not in str(caught.value)


def test_answers_come_as_lightning_cli_hands_them_over() -> None:
    assert setup.answer_text(" fees ") == "fees"
    assert setup.answer_text(14) == "14"
    assert (setup.answer_text(True), setup.answer_text(False)) == ("yes", "no")
    assert setup.limits_of(setup.answer_text({"max_fee_ppm": 2_500})) == {"max_fee_ppm": 2_500}
    assert setup.one_of(Step.NEED, "  FEES ", setup.NEEDS) == "fees"


def test_limits_in_every_spelling() -> None:
    assert setup.limits_of("keep") == {}
    wanted = {"max_fee_ppm": 2_500, "min_fee_ppm": 1}
    assert setup.limits_of("max_fee_ppm=2500, min_fee_ppm = 1") == wanted
    assert setup.limits_of('{"max_fee_ppm": 2500, "min_fee_ppm": 1}') == wanted


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("max_fee_ppm", "name=number"),
        ("max_fee_ppm=2,5", "name=number"),
        ("max_fee_ppm=-5", "name=number"),
        ("max_fee_ppm=1,max_fee_ppm=2", "once"),
        ("max_fee_pmm=1", "max_fee_pmm"),
        ("max_danger=10", "hive-client-policy"),
        ('{"max_fee_ppm": 1, "max_fee_ppm": 2}', "once"),
        ('{"max_fee_ppm": "1"}', "whole number"),
        ('{"max_fee_ppm": true}', "whole number"),
        ("{", "JSON"),
        ("{}", "keep"),
    ],
)
def test_limits_that_cannot_be_read_are_refused_with_the_reason(text: str, word: str) -> None:
    with pytest.raises(InvalidParams, match=word):
        setup.limits_of(text)


def test_nothing_is_paid() -> None:
    setup.no_payment("None")
    for text in ("cashu", "Mint", "bolt12", "https://mint.example"):
        with pytest.raises(Unsupported, match="pays nobody"):
            setup.no_payment(text)
    with pytest.raises(InvalidParams, match="none"):
        setup.no_payment("later")


def test_alert_targets_are_one_key_and_one_address() -> None:
    assert setup.alert_targets("keep") == (None, None)
    assert setup.alert_targets("OFF") == ("", "")
    assert setup.alert_targets("npub1x") == ("npub1x", None)
    assert setup.alert_targets("https://a.example/x,npub1x") == ("npub1x", "https://a.example/x")
    for text in ("npub1x npub1y", "https://a.example https://b.example", "ftp://a.example"):
        with pytest.raises(InvalidParams, match="one key and one web address"):
            setup.alert_targets(text)


def test_what_is_kept_of_an_ended_session_holds_no_address() -> None:
    answers = Answers(alert_dm="ab" * 32, alert_webhook="https://a.example/secret?token=1")
    ended = Session("s-1", State.OPEN, Step.CONFIRM, answers, 0, 0, 0).ended(State.DONE, 5)
    assert "secret" not in ended.answers.to_text() and ended.updated_at == 5
    assert setup.address_shown("https://a.example:1/secret?x") == "https://a.example:1/..."
    assert setup.address_shown("https://a.example?secret") == "https://a.example/..."


@given(st.text(max_size=200))
def test_no_text_breaks_the_readers(text: str) -> None:
    for read in (setup.limits_of, setup.alert_targets, setup.no_payment):
        try:
            read(text)
        except (InvalidParams, Unsupported):
            continue


def test_answers_survive_storing() -> None:
    answers = Answers("fees", "moderate", {"max_fee_ppm": 1}, "", None, SOMEBODY.advisor, 7)
    assert Answers.from_text(answers.to_text()) == answers
