"""Proof of work of events (NIP-13; docs/protocol/04-marketplace-and-nostr.md §5.1, §7.3).

Mining happens in a process of its own that gives way to everything else: a publisher's loop answers on.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from hive_shared.errors import InvalidParams
from hive_shared.nostr.event import Event, Tags, to_text

MAX_BITS: Final = 28
"""The most that anybody here works for one event."""
_NONCE: Final = "nonce"
_REPORT_EACH: Final = 1 << 18
_MAX_JOB_BYTES: Final = 131_072
_PIPE: Final = 1
Progress = Callable[[int], None]
"""Told how many hashes were tried so far."""


def zero_bits(digest: bytes) -> int:
    """How many bits a digest begins with that are zero."""
    return len(digest) * 8 - int.from_bytes(digest, "big").bit_length()


def committed_bits(event: Event) -> int:
    """The work in an event: the zero bits of its id, no more than its `nonce` tag set out for; 0 without one.
    The id must have been verified."""
    for tag in event.tags:
        if tag[0] == _NONCE:
            target = tag[2] if len(tag) > 2 else ""
            if not (target.isascii() and target.isdigit() and len(target) <= 3):
                return 0
            return min(zero_bits(bytes.fromhex(event.id)), int(target))
    return 0


def search(
    pubkey: str,
    kind: int,
    tags: Sequence[Sequence[str]],
    content: str,
    created_at: int,
    bits: int,
    progress: Progress | None = None,
) -> Tags:
    """The tags with a `nonce`, last, that gives the event's id so many zero bits. Blocks until it is found.

    Raises InvalidParams for bits beyond 0 to 28 or a nonce tag that is there already.
    """
    _check(tags, bits)
    if bits == 0:
        return tuple(tuple(tag) for tag in tags)
    mark = "\u0000nonce\u0000"
    whole = to_text([0, pubkey, created_at, kind, [*tags, [_NONCE, mark, str(bits)]], content])
    # The mark is the first of its kind after the other tags: what stands before it is hashed once.
    quoted = to_text(mark)
    at = len(to_text([0, pubkey, created_at, kind, [*tags]])) - len("]]")
    cut = whole.index(quoted, at)
    before = hashlib.sha256(whole[:cut].encode())
    after = whole[cut + len(quoted) :].encode()
    shift, number = 256 - bits, 0
    while True:
        digest = before.copy()
        digest.update(b'"%d"' % number + after)
        if int.from_bytes(digest.digest(), "big") >> shift == 0:
            return (*(tuple(tag) for tag in tags), (_NONCE, str(number), str(bits)))
        number += 1
        if progress is not None and number % _REPORT_EACH == 0:
            progress(number)


async def mine(
    pubkey: str,
    kind: int,
    tags: Sequence[Sequence[str]],
    content: str,
    created_at: int,
    bits: int,
    *,
    timeout_s: float,
    progress: Progress | None = None,
) -> Tags:
    """`search` in another process with the lowest priority, which ends with the caller.

    Raises TimeoutError after `timeout_s`, InvalidParams as `search`, and RuntimeError when the process ended
    without a result.
    """
    _check(tags, bits)
    if bits == 0:
        return tuple(tuple(tag) for tag in tags)
    job = json.dumps([pubkey, kind, [list(tag) for tag in tags], content, created_at, bits]).encode()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "hive_shared.nostr.pow",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_MAX_JOB_BYTES,
    )
    try:
        async with asyncio.timeout(timeout_s):
            return await _result(process, job, progress)
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
        await process.wait()


async def _result(process: asyncio.subprocess.Process, job: bytes, progress: Progress | None) -> Tags:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(job + b"\n")
    await process.stdin.drain()
    async for line in process.stdout:
        told: Any = json.loads(line)
        if isinstance(told, list):
            return tuple(tuple(str(value) for value in tag) for tag in told)
        if progress is not None:
            progress(int(told))
    raise RuntimeError("the process that works for an event ended without a result")


def _check(tags: Sequence[Sequence[str]], bits: int) -> None:
    if not 0 <= bits <= MAX_BITS:
        raise InvalidParams(f"proof of work takes 0 to {MAX_BITS} bits, not {bits}")
    if any(tag[0] == _NONCE for tag in tags):
        raise InvalidParams("the event has a nonce already")


def _serve() -> None:
    """One job from standard input: how far it is, then its tags, through the pipe of whoever started this."""
    os.nice(19)
    pubkey, kind, tags, content, created_at, bits = json.loads(sys.stdin.buffer.readline())

    # A caller that is gone ends the work: writing to its closed pipe raises.
    def told(number: int) -> None:
        os.write(_PIPE, b"%d\n" % number)

    found = search(pubkey, kind, tags, content, created_at, bits, told)
    with open(_PIPE, "wb", closefd=False) as pipe:
        pipe.write(json.dumps([list(tag) for tag in found]).encode() + b"\n")


if __name__ == "__main__":
    _serve()
