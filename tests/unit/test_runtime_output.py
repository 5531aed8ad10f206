"""What a plugin says to lightningd: by whose hand it is written (docs/decisions/0041, 0351)."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hive_shared.runtime_output import Output


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def messages(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(part) for part in data.split(b"\n\n") if part]


def test_an_answer_is_written_here_and_a_log_line_by_another_thread(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    writers: list[int] = []

    def noted(self: Output, data: bytes) -> None:
        writers.append(threading.get_ident())
        os.write(pipe[1], data)

    monkeypatch.setattr(Output, "_write", noted)
    output = Output(pipe[1])
    output.send({"id": 1})
    assert writers == [threading.get_ident()]
    output.log("info", "one")
    output.log("warning", "two")
    output.close(30)
    assert len(writers) == 3 and threading.get_ident() not in writers[1:]
    said = messages(os.read(pipe[0], 1 << 16))
    assert said[0] == {"id": 1}
    assert [line["params"]["message"] for line in said[1:]] == ["one", "two"]


def test_an_answer_never_overtakes_what_was_said_before(pipe: tuple[int, int]) -> None:
    output = Output(pipe[1])
    for number in range(20):
        output.log("info", str(number))
        output.send({"id": number})
    output.close(30)
    order = [
        int(message["id"] if "id" in message else message["params"]["message"])
        for message in messages(os.read(pipe[0], 1 << 16))
    ]
    assert order == sorted(order) and len(order) == 40


def test_log_lines_beyond_the_bound_are_counted_and_answers_are_not_lost(pipe: tuple[int, int]) -> None:
    size = 0
    os.set_blocking(pipe[1], False)
    try:
        while True:
            size += os.write(pipe[1], b"\n" * 4_096)
    except BlockingIOError:
        os.set_blocking(pipe[1], True)
    output = Output(pipe[1], max_log_lines=3)
    for number in range(10):
        output.log("info", str(number))
    output.send({"id": 7})
    read = b""
    while b'"id":7' not in read or b"log_dropped" not in read:
        read += os.read(pipe[0], 1 << 16)
    output.close(30)
    said = messages(read.lstrip(b"\n"))
    assert {"id": 7} in said
    assert said[-1]["params"]["message"].startswith("log_dropped count=")


@pytest.mark.parametrize(
    "said",
    [
        {"text": 'a "quoted"\n\nline\x00 ⚡\x7f\u2028', "n": -1, "big": 2**63, "t": True, "none": None},
        {"half": "\ud800 of a pair", "\udfff": 1},
        {"share": 99.5, "small": 1e-9, "large": 1e22, "whole": 5.0, "pair": (1, 2)},
        {"ключ": {1: "a", None: "b"}},
    ],
)
def test_every_answer_says_what_plain_json_says(pipe: tuple[int, int], said: dict[str, Any]) -> None:
    Output(pipe[1]).send({"id": 1, "result": said})
    sent = os.read(pipe[0], 4_096)
    assert sent.endswith(b"\n\n") and sent.count(b"\n\n") == 1
    assert json.loads(sent) == {"id": 1, "result": json.loads(json.dumps(said))}


@pytest.mark.parametrize("said", [float("nan"), float("inf"), {1, 2}, b"bytes", object()])
def test_what_is_not_json_is_refused_and_nothing_sent(pipe: tuple[int, int], said: Any) -> None:
    output = Output(pipe[1])
    with pytest.raises((TypeError, ValueError)):
        output.send({"result": {"x": said}})
    output.send({"id": 2})
    assert os.read(pipe[0], 4_096) == b'{"id":2}\n\n'
