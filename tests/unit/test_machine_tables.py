"""Checks of a table by itself, and its diagram."""

from __future__ import annotations

from enum import StrEnum, auto

from hive_shared.machine import Step, Table, mermaid, problems


class S(StrEnum):
    NEW = auto()
    SENDING = auto()
    SENT = auto()
    FAILED = auto()


class E(StrEnum):
    SEND = auto()
    OK = auto()
    BAD = auto()
    CANCEL = auto()


class Fx(StrEnum):
    POST = auto()


SOUND: Table[S, E, Fx] = {
    (S.NEW, E.SEND): Step(S.SENDING, Fx.POST),
    (S.SENDING, E.OK): Step(S.SENT),
    (S.SENDING, E.BAD): Step(S.FAILED),
}


def check(table: Table[S, E, Fx]) -> list[str]:
    return problems(table, initial={S.NEW}, final={S.SENT, S.FAILED}, outcomes={Fx.POST: (E.OK, E.BAD)})


def test_a_sound_table_has_no_problems() -> None:
    assert check(SOUND) == []


def test_an_unreachable_state_is_named() -> None:
    table = {key: step for key, step in SOUND.items() if key[1] is not E.BAD}
    assert check(table) == ["FAILED is never reached", "SENDING does not take BAD of POST"]


def test_a_dead_end_is_named() -> None:
    assert check({(S.NEW, E.SEND): Step(S.SENDING)}) == [
        "SENT is never reached",
        "FAILED is never reached",
        "SENDING is not final and has no exit",
    ]


def test_a_final_state_with_an_exit_is_named() -> None:
    assert check({**SOUND, (S.SENT, E.CANCEL): Step(S.FAILED)}) == ["SENT is final and has an exit"]


def test_leaving_an_effect_by_anything_but_its_outcome_is_named() -> None:
    assert check({**SOUND, (S.SENDING, E.CANCEL): Step(S.FAILED)}) == [
        "SENDING has an effect under way and is left by CANCEL"
    ]


def test_a_state_entered_with_and_without_an_effect_is_named() -> None:
    assert check({**SOUND, (S.NEW, E.CANCEL): Step(S.SENDING)}) == [
        "SENDING is entered with an effect and without one"
    ]


def test_a_retry_with_the_same_effect_is_sound() -> None:
    retried = {**SOUND, (S.SENDING, E.BAD): Step(S.SENDING, Fx.POST), (S.NEW, E.BAD): Step(S.FAILED)}
    assert check(retried) == []


def test_the_diagram_shows_start_edges_effects_and_ends() -> None:
    assert mermaid(SOUND) == (
        "stateDiagram-v2\n"
        "    [*] --> NEW\n"
        "    NEW --> SENDING: SEND / POST\n"
        "    SENDING --> SENT: OK\n"
        "    SENDING --> FAILED: BAD\n"
        "    SENT --> [*]\n"
        "    FAILED --> [*]\n"
    )
