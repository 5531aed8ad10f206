"""What goes over the sockets of an engine (docs/protocol/11-advisor-kit.md §3): a JSON object a frame.

``control.sock`` carries one command of the command line, ``mcp.sock`` the tool calls of a program. The engine
speaks first, so that whoever connects learns its version and profile before it asks for anything.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec
from hive_shared.errors import InvalidParams

PROTOCOL: Final = 1
MAX_FRAME: Final = 1_114_112
"""Bytes of one frame, without the four that say its length: the longest answer of a tool fits."""
MAX_TEXT: Final = 131_072
"""Characters of output in one frame; what is longer goes in several."""


class Frame(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="frame"):
    """Anything that one end says."""


class Welcome(Frame, frozen=True, tag="welcome"):
    """Engine: who it is. ``database`` names the file it holds, ``holder`` the command that runs it."""

    protocol: int
    kit: str
    holder: str
    pid: int
    database: str


class Refused(Frame, frozen=True, tag="refused"):
    """Engine: nothing was begun; an error of the common tree."""

    code: int
    slug: str
    message: str
    data: dict[str, Any]


class Invoke(Frame, frozen=True, tag="invoke"):
    """Client: run this command with parameters that its own command line has read. ``interactive``: a human
    sits at its terminal; ``config`` is its configuration directory, ``relays`` its ``--relays``."""

    command: list[str]
    params: dict[str, Any]
    as_json: bool
    quiet: bool
    verbose: bool
    yes: bool
    wait: int
    timeout: int
    interactive: bool
    config: str
    relays: str | None


class Output(Frame, frozen=True, tag="output"):
    """Engine: a piece of what the command shows; ``stream`` says where."""

    stream: Literal["out", "err"]
    text: str


class Ask(Frame, frozen=True, tag="ask"):
    """Engine: the human's word (``text``, ``hidden``, ``yes``), or a file that the command line named
    (``file``, with its name as the question; ``-`` is standard input)."""

    how: Literal["text", "hidden", "yes", "file"]
    question: str


class Answer(Frame, frozen=True, tag="answer"):
    """Client: the answer, ``y`` or ``n`` to a yes or no."""

    text: str


class Cancel(Frame, frozen=True, tag="cancel"):
    """Client: Ctrl-C."""


class End(Frame, frozen=True, tag="end"):
    """Engine: the command ended with this exit code."""

    code: int


class Open(Frame, frozen=True, tag="open"):
    """Client: the tools of a role; what is None is as the engine's config.toml says."""

    role: Literal["operator", "advisor"] | None
    toolsets: list[str] | None


class ToolRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tool as programs see it."""

    description: str
    acts: bool
    schema: dict[str, Any]


class PromptRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A prompt of the operator's own files."""

    description: str
    text: str
    arguments: list[str]


class Tools(Frame, frozen=True, tag="tools"):
    """Engine: what is open, the operator's own prompts, and what of their lists opens nothing."""

    role: Literal["operator", "advisor"]
    tools: dict[str, ToolRow]
    prompts: dict[str, PromptRow]
    warnings: list[str]


class Call(Frame, frozen=True, tag="call"):
    """Client: one call. Its answer has the same ``number``; ``client`` is what the program calls itself."""

    number: int
    name: str
    arguments: dict[str, Any]
    client: str


class Called(Frame, frozen=True, tag="called"):
    """Engine: the answer of a call."""

    number: int
    body: dict[str, Any]
    failed: bool


AnyFrame = Welcome | Refused | Invoke | Output | Ask | Answer | Cancel | End | Open | Tools | Call | Called
_DECODER: Final[msgspec.json.Decoder[AnyFrame]] = msgspec.json.Decoder(AnyFrame)


def encoded(frame: Frame) -> bytes:
    """The frame's bytes, without the length. Raises InvalidParams when it is longer than a frame may be."""
    try:
        body = msgspec.json.encode(frame)
    except UnicodeEncodeError as error:
        raise InvalidParams("a text holds half a character (a lone surrogate); nothing was sent") from error
    if len(body) > MAX_FRAME:
        raise InvalidParams(
            f"this takes {len(body)} bytes; {MAX_FRAME} go to the engine at once", reason="too_large"
        )
    return body


def decoded(body: bytes) -> AnyFrame:
    """The frame of these bytes. Raises InvalidParams for anything else."""
    try:
        return _DECODER.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidParams(f"this is no frame of protocol {PROTOCOL}: {str(error)[:200]}") from error
